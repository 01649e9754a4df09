"""What the three networks have in common: backbones with dense last maps, averages at test time, checks."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from aiseeme_jax import augment, models
from aiseeme_jax.errors import UserError
from aiseeme_jax.models import deeplab, resnet

OUTPUT_STRIDE = 16
# Of the published networks at test time: 224, 256 and 288 pixels, for networks trained at 224.
TEST_SCALES = (1.0, 8 / 7, 9 / 7)


def make_dense(backbone: nnx.Module, *, mask: bool = False) -> nnx.Module:
    """A backbone with the same weights and an output stride of 16.

    Args:
      mask: whether it takes one channel more. The filter of that channel is the mean of the others, as published.
    """
    fields = {**backbone.config, "output_stride": OUTPUT_STRIDE, "channels": backbone.channels + mask}
    made = models.make_backbone(**fields, rngs=nnx.Rngs(0))
    nnx.update(made, nnx.state(backbone))
    if mask:
        kernel = backbone.stem_convolution.kernel.get_value()
        made.stem_convolution.kernel.set_value(jnp.concatenate([kernel, kernel.mean(axis=-2, keepdims=True)], axis=-2))
    return made


class Averaged(nnx.Module):
    """A segmentation network whose logits are means over sizes of the images and turns of them.

    Args:
      network: called with images [B, S, S, C] and `train=False`, gives logits [B, S, S] and features.
      scales: sides of the images over S.
      orientations: whether each image is also shown turned by three right angles, and mirrored in two directions.
    """

    def __init__(self, network: nnx.Module, scales: Sequence[float] = (1.0,), *, orientations: bool):
        self.network, self.scales, self.orientations = network, tuple(scales), orientations

    @property
    def backbone(self) -> nnx.Module:
        return self.network.backbone

    def __call__(
        self, images: Float[Array, "b s s c"], *, train: bool = False
    ) -> tuple[Float[Array, "b s s"], Float[Array, "b d"]]:
        """Mean logits, and the features of the images as they are, in the last size. There is no training of it."""
        whole = images.shape[1]
        turns = TURNS if self.orientations else TURNS[:1]
        total = jnp.zeros(images.shape[:3])
        for scale in self.scales:
            side = round(scale * whole)
            shown = images if side == whole else deeplab.resize(images, side, side)
            # One after another: all of them at once might not fit, and one program does for all.
            logits, features = jax.lax.map(
                lambda view: self.network(view, train=False), jnp.stack([turn(shown) for turn, _ in turns])
            )
            mean = sum(back(one) for (_, back), one in zip(turns, logits, strict=True)) / len(turns)
            total += deeplab.resize(mean[..., None], whole, whole)[..., 0]
        return total / len(self.scales), features[0]


def _turns():
    """The six orientations of the authors' code, each with what undoes it."""
    right_angles = [
        (lambda x, k=k: jnp.rot90(x, k, axes=(1, 2)), lambda x, k=k: jnp.rot90(x, -k, axes=(1, 2))) for k in range(4)
    ]
    mirrors = [(lambda x, axis=axis: jnp.flip(x, axis),) * 2 for axis in (1, 2)]
    return (*right_angles, *mirrors)


TURNS = _turns()


def check_model(target: ConfigDict, model: ConfigDict) -> None:
    """Raises UserError for a network that is no ResNet of images."""
    if model.name not in resnet.ARCHITECTURES or model.dimensions != 2:
        known = ", ".join(resnet.ARCHITECTURES)
        raise UserError(
            f"model.name is '{model.name}' and model.dimensions {model.dimensions}; {target.protocol} takes a ResNet "
            f"of images: {known}"
        )


def check_views(target: ConfigDict) -> None:
    """Raises UserError for views of volumes."""
    if augment.views_of(target.views).dimensions != 2:
        raise UserError(f"{target.protocol} takes images alone; views.dimensions is 3")


def check_scales(scales: Sequence[float]) -> None:
    """Raises UserError unless there is a size, and all are positive."""
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise UserError(f"system.scales are {tuple(scales)}; there must be some, each positive")
