"""What the tasks that restore damaged images have in common."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment, losses, models
from aiseeme_jax.task import Output, Setting, Task


class Reconstruction(Task):
    """Mean squared error between a view and what a decoder makes of the damaged view. Images and volumes.

    A subclass writes `damage`. Views: 'image', damaged, and 'target', both normalised.

    Class attributes:
      SKIPS: whether the decoder gets the backbone's finer maps too.
    """

    RECIPE = {"crop_scale": (0.2, 1.0), "flip_horizontal": 0.5}
    SKIPS: ClassVar[bool] = False

    def __init__(self, backbone: nnx.Module, spec: augment.AnyViews, setting: Setting, *, rngs: nnx.Rngs):
        super().__init__(backbone, spec)
        options = {"dimensions": spec.dimensions, "skips": self.SKIPS, "dtype": setting.dtype}
        self.decoder = models.Decoder(backbone, spec.size, backbone.channels, **options, rngs=rngs)

    def damage(self, key: PRNGKeyArray, view: Float[Array, "*space c"]) -> Float[Array, "*space c"]:
        """One normalised view as the backbone is shown it."""
        raise TypeError(f"{type(self).__name__} defines no damage")

    def views(self, key: PRNGKeyArray, batch):
        view_key, damage_key = jax.random.split(key)
        target = augment.random_view(view_key, batch["image"], self.spec)
        return {"image": jax.vmap(self.damage)(image_keys(damage_key, target), target), "target": target}

    def loss(self, views, progress) -> Output:
        endpoints = self.backbone(views["image"], train=True)
        errors = losses.squared_errors(self.decoder(endpoints, train=True), views["target"])
        of_images = losses.image_means(errors, errors.shape[0])
        return Output(jnp.mean(errors), {}, views["image"], endpoints["pooled"], image_losses=of_images)


def image_keys(key: PRNGKeyArray, images: Array) -> PRNGKeyArray:
    """A key for each image, which depends on its place in the batch alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
