"""A network that segments: a backbone and a decoder on its maps."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax.models import deeplab


class SegmentationNetwork(nnx.Module):
    """A logit for each pixel: above 0 the pixel is inside.

    Args:
      backbone: gives maps and pooled features.
      decoder: of one channel. If its result is smaller than the images, it is resized, bilinear.
    """

    def __init__(self, backbone: nnx.Module, decoder: nnx.Module):
        self.backbone, self.decoder = backbone, decoder

    def __call__(
        self, images: Float[Array, "b s s c"], *, train: bool, train_backbone: bool = True, **given: Any
    ) -> tuple[Float[Array, "b s s"], Float[Array, "b d"]]:
        """Logits, and the pooled features, both float32.

        Args:
          train: whether norms use the statistics of the batch, and gather them.
          train_backbone: whether those of the backbone do too.
          given: what the decoder takes beside.
        """
        endpoints = self.backbone(images, train=train and train_backbone)
        logits = self.decoder(endpoints, train=train, **given)
        if logits.shape[1:3] != images.shape[1:3]:
            logits = deeplab.resize(logits, *images.shape[1:3])
        return logits[..., 0], endpoints["pooled"]


def resize_logits(logits: Float[Array, "b s s"], height: int, width: int) -> Float[Array, "b h w"]:
    """The logits of views of whole images in the size of the images, bilinear."""
    return jax.image.resize(logits, (len(logits), height, width), "bilinear")
