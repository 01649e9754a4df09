"""NPID, non-parametric instance discrimination (Wu et al., CVPR 2018): every image is a class of its own.

A memory bank keeps one feature per image of the split; an image must be closer to its own entry than to the others'.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from aiseeme_jax import augment, losses
from aiseeme_jax.errors import UserError
from aiseeme_jax.losses.arrays import normalise
from aiseeme_jax.pretext import ranges
from aiseeme_jax.task import Bank, Output, Setting, Task

PUBLISHED_NEGATIVES = 65_536


class NPID(Task):
    """InfoNCE against a memory bank of [images, dimensions].

    Args:
      temperature: of the softmax over similarities.
      negatives: bank entries an image is told apart from; 0 takes all others, at most the published 65,536. Fewer
        than all are drawn anew each step, the same for the whole batch.
      momentum: share of the old entry kept when an image is seen again.
      dimensions: of the embedding.

    Raises UserError if more negatives are asked for than the bank holds.
    """

    NAME = "npid"
    IMAGE_LOSSES = True
    RECIPE = {
        "crop_scale": (0.2, 1.0),
        "jitter_probability": 1.0,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.4,
        "grey_probability": 0.2,
    }
    EMBEDDING_DISTANCE = "contrastive"

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.Views,
        setting: Setting,
        *,
        temperature: float = 0.07,
        negatives: int = 0,
        momentum: float = 0.5,
        dimensions: int = 128,
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        ranges.check_positive(self, temperature=temperature)
        ranges.check_shares(self, momentum=momentum)
        ranges.check_at_least(self, 0, negatives=negatives)
        ranges.check_at_least(self, 1, dimensions=dimensions)
        others = setting.images - 1
        if negatives > others:
            raise UserError(
                f"{self.NAME}: {negatives} negatives, but the split has {others} other images; lower `negatives`"
            )
        self.negatives = negatives or min(PUBLISHED_NEGATIVES, others)
        self.temperature, self.momentum = temperature, momentum
        self.projector = nnx.Linear(backbone.features, dimensions, rngs=rngs)
        self.bank = Bank(normalise(jax.random.normal(rngs.params(), (setting.images, dimensions))))

    def views(self, key: PRNGKeyArray, batch):
        view_key, negative_key = jax.random.split(key)
        image = augment.random_view(view_key, batch["image"], self.spec)
        return {"image": image, "index": batch["index"], "negatives": negative_key}

    def loss(self, views, progress) -> Output:
        index, bank = views["index"], self.bank.get_value()
        features = self.backbone(views["image"], train=True)["pooled"]
        query = normalise(self.projector(features))
        candidates = self._candidates(views["negatives"])
        rows = losses.info_nces(
            query,
            bank[index],
            bank[candidates],
            temperature=self.temperature,
            mask=candidates[None, :] != index[:, None],
        )
        moved = self.momentum * bank[index] + (1 - self.momentum) * jax.lax.stop_gradient(query)
        self.bank.set_value(bank.at[index].set(normalise(moved)))
        return Output(jnp.mean(rows), {}, views["image"], features, image_losses=rows)

    def _candidates(self, key: PRNGKeyArray):
        """Bank rows to contrast with; an image's own row among them is masked in the loss."""
        rows = self.bank.get_value().shape[0]
        if self.negatives >= rows - 1:
            return jnp.arange(rows)
        return jax.random.randint(key, (self.negatives,), 0, rows)
