"""Tasks that compare two views of each image."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment
from aiseeme_jax.task import Batch, Output, Task


def two_views(
    key: PRNGKeyArray, images: Array, spec: augment.AnyViews, second: augment.AnyViews | None = None
) -> tuple[Float[Array, "b *space c"], Float[Array, "b *space c"]]:
    """Two independent random views of each image; the second drawn as `second` says, if given."""
    first_key, second_key = jax.random.split(key)
    return (
        augment.random_view(first_key, images, spec),
        augment.random_view(second_key, images, spec if second is None else second),
    )


def interleave(*views: Float[Array, "b *rest"]) -> Float[Array, "m *rest"]:
    """Stacks views image-major: an image's views stay on its device, where a concatenation would move half of them."""
    stacked = jnp.stack(views, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def scaled(spec: augment.AnyViews, shares: Mapping[str, float]) -> augment.AnyViews:
    """The spec with each named field multiplied by its share; fields that a spec of volumes lacks are passed over."""
    changes = {name: share * getattr(spec, name) for name, share in shares.items() if hasattr(spec, name)}
    return dataclasses.replace(spec, **changes)


class TwoViews(Task):
    """Base of the tasks that compare two views, first and second, of each image.

    Each view passes the network on its own, so that batch normalisation gets one kind of view at a time, as in the
    papers. A subclass writes `loss` and ends it with `output`.

    Class attributes:
      SHARES: what the first and the second view get of fields of the spec. BYOL blurs one view always, the other one
        time in ten: 1 in RECIPE, shares 1 and 0.1. They are taken of the spec as the modality and the user left it:
        where solarisation is capped at 0, neither view is solarised.
    """

    SHARES: ClassVar[tuple[Mapping[str, float], Mapping[str, float]]] = ({}, {})

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        first, second = (scaled(self.spec, shares) for shares in self.SHARES)
        return dict(zip(("first", "second"), two_views(key, batch["image"], first, second), strict=True))

    def shown_images(self, views):
        return interleave(views["first"], views["second"])

    def output(
        self,
        loss: Float[Array, ""],
        views: dict[str, Array],
        first: Float[Array, "b d"],
        second: Float[Array, "b d"],
        image_losses: Float[Array, " b"] | None = None,
    ) -> Output:
        """The output of a loss, given the pooled features of both views."""
        features = interleave(first, second)
        return Output(loss, {}, self.shown_images(views), features, image_losses=image_losses)
