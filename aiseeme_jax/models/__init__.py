"""Backbones with named endpoints, by name, and heads. A new backbone is one entry of `BACKBONES`."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import nnx

from aiseeme_jax.models.decoder import Decoder
from aiseeme_jax.models.heads import MLP
from aiseeme_jax.models.resnet import ARCHITECTURES, ResNet

BACKBONES: Mapping[str, Callable[..., nnx.Module]] = MappingProxyType(
    {name: partial(ResNet, name) for name in ARCHITECTURES}
)

__all__ = ["BACKBONES", "MLP", "Decoder", "ResNet", "make_backbone"]


def make_backbone(
    name: str,
    *,
    width: float = 1.0,
    stem: str = "standard",
    dtype: Any = jnp.float32,
    channels: int = 3,
    dimensions: int = 2,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """A backbone with fresh weights: `backbone(images, train=...)` gives its endpoints.

    Args: as `ResNet`.

    Raises:
      ValueError: an unknown name, stem, width or number of dimensions; the message names the known ones.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}: known are {', '.join(BACKBONES)}")
    return BACKBONES[name](width=width, stem=stem, dtype=dtype, channels=channels, dimensions=dimensions, rngs=rngs)
