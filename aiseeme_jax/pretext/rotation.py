"""Rotation prediction (Gidaris et al., ICLR 2018): which of four right angles was the image turned by?

Every image is shown in all four rotations; a linear layer on the pooled features names the angle.
"""

import jax.numpy as jnp
from flax import nnx

from aiseeme_jax import augment, losses
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.pretext.two_views import interleave
from aiseeme_jax.task import Output, Setting, Task

ANGLES = 4


class Rotation(Task):
    """Four-way cross-entropy over all four rotations of each image. Views: [B, s, s, C]."""

    NAME = "rotation"
    IMAGE_LOSSES = True
    DIMENSIONS = (2,)

    RECIPE = {"crop_scale": (0.08, 1.0), "flip_horizontal": 0.5}
    # A view that was already turned, or mirrored top to bottom, has no true answer.
    FIXED = {"flip_vertical": 0.0, "right_angles": False, "rotation": 0.0}

    def __init__(self, backbone: nnx.Module, spec: augment.Views, setting: Setting, *, rngs: nnx.Rngs):
        super().__init__(backbone, spec)
        self.head = nnx.Linear(backbone.features, ANGLES, rngs=rngs)

    def shown_images(self, views):
        return interleave(*(jnp.rot90(views["image"], k, axes=(1, 2)) for k in range(ANGLES)))

    def loss(self, views, progress) -> Output:
        turned = self.shown_images(views)
        labels = jnp.tile(jnp.arange(ANGLES), turned.shape[0] // ANGLES)
        features = self.backbone(turned, train=True)["pooled"]
        logits = self.head(features)
        rows = losses.cross_entropies(logits, labels)
        of_images = losses.image_means(rows, views["image"].shape[0])
        metrics = {"accuracy": accuracy(logits, labels)}
        return Output(jnp.mean(rows), metrics, turned, features, image_losses=of_images)
