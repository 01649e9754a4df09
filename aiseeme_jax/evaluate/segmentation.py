"""The task of segmentation: like the pretext tasks, so that the same loop trains it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.data import UNKNOWN
from aiseeme_jax.evaluate.best_weights import BestKeeper
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.models.segmentation import SegmentationNetwork
from aiseeme_jax.task import Batch, Output

# What may be trained: backbone and decoder, or the decoder alone.
TRAINED = ("all", "decoder")


class Segmentation(BestKeeper):
    """A backbone with a decoder on its maps (skips as in a U-Net), trained on masks of one kind of region.

    The loss is the sum of half the mean binary cross-entropy and half the soft Dice loss, over the pixels that are
    known. The equal weights are ours.

    Args:
      backbone: of images, starts from whatever weights it has.
      spec: the training views. What moves pixels moves those of the mask too, and colours change in the image alone.
      trained: 'all', or 'decoder': then the backbone stays as it is, its running statistics too.
    """

    NAME = "segment"
    KEPT = ("backbone", "decoder")
    DIMENSIONS = (2,)
    RECIPE: ClassVar[Mapping[str, Any]] = FineTuning.RECIPE

    def __init__(self, backbone: nnx.Module, spec: augment.Views, *, trained: str = "all", rngs: nnx.Rngs):
        super().__init__(backbone, spec)
        self.trained = trained
        kind = {"dimensions": 2, "skips": True, "dtype": backbone.dtype}
        self.decoder = models.Decoder(backbone, spec.size, 1, **kind, rngs=rngs)
        self.start_keeping()

    @property
    def network(self) -> SegmentationNetwork:
        """Backbone and decoder; shares their weights."""
        return SegmentationNetwork(self.backbone, self.decoder)

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        view, mask = augment.random_view_with_mask(key, batch["image"], batch["segmentation"], self.spec)
        return {"image": view, "mask": mask}

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        logits, features = self.network(views["image"], train=True, train_backbone=self.trained == "all")
        mask = views["mask"][..., 0]
        inside, known = mask == 1, mask != UNKNOWN
        entropy = losses.masked_binary_cross_entropy(logits, inside, known)
        dice = losses.soft_dice(logits, inside, known)
        return Output(
            loss=(entropy + dice) / 2,
            metrics={"cross_entropy": entropy, "soft_dice": dice},
            images=views["image"],
            features=features,
            empty=~jnp.any(known),
        )

    def frozen(self, progress: Float[Array, ""]) -> Mapping[str, Bool[Array, ""]]:
        return {} if self.trained == "all" else {"backbone": jnp.bool_(True)}
