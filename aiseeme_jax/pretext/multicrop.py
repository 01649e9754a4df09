"""Multi-crop (Caron et al., 2020): beside two views of an image, several small ones of small parts of it.

A task with multi-crop takes the fields `local_crops`, `local_size` and `local_scale` and does

    self.crops = multi_crop(name, backbone, spec, local_crops=…, local_size=…, local_scale=…)
    views = self.crops.views(key, images)       {"global": [2 B, …], "local": [n B, …]}, both image-major
    logits = by_image(head(views["global"]), B)  [B, 2, K]: row i holds the crops of image i

`Output.images` and `.features` are then those of the global crops. Crops of one size go through the network together,
so that batch normalisation never mixes two sizes.
"""

import dataclasses
from collections.abc import Mapping

import jax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import augment
from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext.two_views import interleave, scaled, two_views
from aiseeme_jax.task import Task

# Published: crops of 96 pixels beside views of 224.
LOCAL_SHARE = 96 / 224
# Sizes are multiples of a ViT's patch, or of this.
MULTIPLE = 8

Shares = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class MultiCrop:
    """What the crops of an image are drawn by. Hashable, so it may be an attribute of a task.

    Attributes:
      first, second: specs of the two global crops.
      local: spec of the local ones.
      count: local crops of each image.
    """

    first: augment.AnyViews
    second: augment.AnyViews
    local: augment.AnyViews
    count: int

    def views(self, key: PRNGKeyArray, images: Array) -> dict[str, Float[Array, "m *space c"]]:
        """'global' crops [2 B, …] and, unless there are none, 'local' ones [count B, …]; image-major."""
        global_key, local_key = jax.random.split(key)
        views = {"global": interleave(*two_views(global_key, images, self.first, self.second))}
        if self.count:
            keys = jax.random.split(local_key, self.count)
            local = jax.vmap(lambda k: augment.random_view(k, images, self.local), out_axes=1)(keys)
            views["local"] = local.reshape(-1, *local.shape[2:])
        return views


def multi_crop(
    task: Task,
    backbone: nnx.Module,
    spec: augment.AnyViews,
    *,
    local_crops: int,
    local_size: int,
    local_scale: tuple[float, float],
    shares: tuple[Shares, Shares, Shares] = ({}, {}, {}),
) -> MultiCrop:
    """The crops of a task around `spec`, which is that of the global ones.

    Args:
      task: for its name in messages.
      backbone: gives the patch size its views must be a multiple of, if it has one.
      spec: as the modality and the user left it.
      local_crops: how many of each image; 0 for none.
      local_size: side in pixels; 0 takes 96/224 of the side of the views, to the nearest multiple of the backbone's
        patch, or of 8.
      local_scale: range of the share of the image a local crop keeps. It is as given: the lower
        limit that a modality sets for `crop_scale` is for views that must show the whole lesion, unlike a local crop.
      shares: what first, second and local crops get of fields of the spec, as in `TwoViews`.

    Raises UserError if the local crops would be larger than the views or cut the patches of a ViT, or for a scale that
    is no range in (0, 1].
    """
    if local_crops < 0:
        raise UserError(f"{task.NAME}: local_crops is {local_crops}; it must be at least 0")
    low, high = local_scale
    if not 0 < low <= high <= 1:
        raise UserError(f"{task.NAME}: local_scale must be (low, high) with 0 < low <= high <= 1, not {(low, high)}")
    multiple = getattr(backbone, "patch", MULTIPLE)
    size = local_size or max(round(spec.size * LOCAL_SHARE / multiple), 1) * multiple
    if local_crops and size % getattr(backbone, "patch", 1):
        raise UserError(
            f"{task.NAME}: local crops of {size} px do not divide into the backbone's patches of {multiple} px "
            "(model.patch); change `local_size`"
        )
    if local_crops and size > spec.size:
        raise UserError(
            f"{task.NAME}: local crops of {size} px are larger than the views of {spec.size} px; "
            "lower `local_size`, or set `local_crops` to 0"
        )
    first, second, local = (scaled(spec, part) for part in shares)
    size = min(size, spec.size)
    # Published in pixels, the same for crops of both sizes; a spec has them in pixels of a view of 224.
    sigma = tuple(s * spec.size / size for s in local.blur_sigma)
    local = dataclasses.replace(local, size=size, crop_scale=(low, high), blur_sigma=sigma)
    return MultiCrop(first, second, local, local_crops)


def by_image(rows: Float[Array, "m *rest"], images: int) -> Float[Array, "b n *rest"]:
    """Image-major rows, those of each image on an axis of their own."""
    return rows.reshape(images, -1, *rows.shape[1:])
