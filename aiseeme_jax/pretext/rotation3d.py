"""Rotation prediction of volumes (Taleb et al., NeurIPS 2020): which of ten rotations was the volume turned by?

None, or a quarter, a half or three quarters of a turn about one of the three axes.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PRNGKeyArray

from aiseeme_jax import augment, losses
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.task import Output, Setting, Task

# Numbers of `augment.rotate_cube`: none; then 1, 2 and 3 quarter turns, as `numpy.rot90` does them, about z, y and x.
TURNS = (0, 15, 12, 3, 11, 6, 5, 7, 18, 13)


class Rotation3D(Task):
    """Ten-way cross-entropy, one rotation drawn for each volume: all ten would cost ten passes.

    Views: [B, s, s, s, C].
    """

    NAME = "rotation3d"
    IMAGE_LOSSES = True
    DIMENSIONS = (3,)
    RECIPE = {"crop_scale": (0.2, 1.0)}
    # A view that was already turned has no true answer, and two flips are half a turn; one alone is none.
    FIXED = {"right_angles": False, "flip_z": 0.0, "flip_y": 0.0}

    def __init__(self, backbone: nnx.Module, spec: augment.VolumeViews, setting: Setting, *, rngs: nnx.Rngs):
        super().__init__(backbone, spec)
        self.head = nnx.Linear(backbone.features, len(TURNS), rngs=rngs)

    def views(self, key: PRNGKeyArray, batch):
        view_key, turn_key = jax.random.split(key)
        volumes = augment.random_view(view_key, batch["image"], self.spec)
        labels = jax.random.randint(turn_key, volumes.shape[:1], 0, len(TURNS))
        return {"image": augment.rotate_cube(volumes, jnp.array(TURNS)[labels]), "label": labels}

    def loss(self, views, progress) -> Output:
        features = self.backbone(views["image"], train=True)["pooled"]
        logits = self.head(features)
        rows = losses.cross_entropies(logits, views["label"])
        of_images = losses.image_means(rows, views["image"].shape[0])
        metrics = {"accuracy": accuracy(logits, views["label"])}
        return Output(jnp.mean(rows), metrics, views["image"], features, image_losses=of_images)
