"""Networks: backbones with named endpoints, and heads. A new backbone is one entry of `BACKBONES`."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from flax import nnx

from aiseeme_jax.errors import UserError
from aiseeme_jax.models import resnet, vit
from aiseeme_jax.models.attention import NONE, SCALE
from aiseeme_jax.models.decoder import Decoder
from aiseeme_jax.models.deeplab import DeepLabDecoder
from aiseeme_jax.models.heads import MLP
from aiseeme_jax.models.resnet import ResNet
from aiseeme_jax.models.vit import ViT

BACKBONES: Mapping[str, Callable[..., nnx.Module]] = MappingProxyType(
    {
        **{name: partial(ResNet, name) for name in resnet.ARCHITECTURES},
        **{name: partial(ViT, name) for name in vit.ARCHITECTURES},
    }
)

# What a network that segments may have on the maps of its backbone.
DECODERS: Mapping[str, type[nnx.Module]] = MappingProxyType({"unet": Decoder, "deeplab": DeepLabDecoder})

# Fields of a model that are read only where it has attention.
ATTENTION_FIELDS = ("attention", "attention_scale")
# Gradients and running averages underflow in float16.
DTYPES = ("float32", "bfloat16")

# A file that names more is damaged. To build such a network would take all memory.
WIDEST, MOST_CHANNELS = 32, 4096

__all__ = [
    "BACKBONES",
    "DECODERS",
    "MLP",
    "Decoder",
    "DeepLabDecoder",
    "ResNet",
    "ViT",
    "check_config",
    "check_size",
    "describe_model",
    "make_backbone",
    "make_decoder",
]


def make_backbone(
    name: str,
    *,
    width: float = 1.0,
    stem: str = "standard",
    patch: int = 0,
    dtype: Any = jnp.float32,
    channels: int = 3,
    dimensions: int = 2,
    attention: str = NONE,
    attention_scale: float = SCALE,
    output_stride: int = 32,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Makes a backbone with random weights. `backbone(images, train=...)` gives its endpoints.

    Args: as `ResNet` and `ViT`.

    Raises:
      UserError: an unknown name, stem, width, patch, dtype or number of dimensions; the message names the known ones.
    """
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}: known are {', '.join(BACKBONES)}")
    if dtype not in (*DTYPES, *map(jnp.dtype, DTYPES)):
        raise UserError(f"model.dtype is '{dtype}': known are {', '.join(DTYPES)}")
    fields = {"width": width, "stem": stem, "patch": patch, "channels": channels, "dimensions": dimensions}
    if name not in vit.ARCHITECTURES:
        fields |= {"attention": attention, "attention_scale": attention_scale, "output_stride": output_stride}
    elif attention != NONE or output_stride != 32:
        raise UserError(f"{name} has no residual blocks of convolutions: leave model.attention at '{NONE}'")
    return BACKBONES[name](**fields, dtype=dtype, rngs=rngs)


def describe_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a model as keys have them. Those of attention are there if the model has some.

    Before these fields existed no model had attention, and the keys of such models stay the same.
    """
    fields = dict(model.items())
    unread = ATTENTION_FIELDS if fields.get("attention", NONE) == NONE else ()
    return {name: value for name, value in fields.items() if name not in unread}


def make_decoder(kind: str, *, backbone: nnx.Module, rngs: nnx.Rngs, **arguments: Any) -> nnx.Module:
    """Makes a decoder of `DECODERS` on the maps of a backbone.

    Args:
      arguments: those of its class, as its `config` gives them.

    Raises ValueError for an unknown kind, TypeError for unknown arguments.
    """
    if kind not in DECODERS:
        raise ValueError(f"unknown decoder '{kind}': known are {', '.join(DECODERS)}")
    return DECODERS[kind](backbone, **arguments, rngs=rngs)


def check_config(model: Mapping[str, Any]) -> None:
    """Checks the model that a file's header names, before it is built.

    Raises ValueError, TypeError or KeyError that says what is wrong.
    """
    needed = {"name": str, "width": int | float, "channels": int, "dimensions": int}
    known = {**needed, "stem": str, "patch": int, "dtype": str, "attention": str, "attention_scale": int | float}
    known["output_stride"] = int
    unknown = [field for field in model if field not in known]
    if unknown:
        raise ValueError(f"unknown field model.{unknown[0]}")
    for field, kind in known.items():
        if (field in needed or field in model) and not isinstance(model[field], kind):
            raise TypeError(f"model.{field} is {model[field]!r}")
    if model["name"] not in BACKBONES:
        raise ValueError(f"unknown backbone {model['name']!r}: known are {', '.join(BACKBONES)}")
    for field, most in (("width", WIDEST), ("channels", MOST_CHANNELS)):
        if not 0 < model[field] <= most:
            raise ValueError(f"model.{field} is {model[field]}; it must be above 0 and at most {most}")


def check_size(model: Mapping[str, Any], size: int) -> None:
    """Raises UserError unless a backbone of `model` takes views of `size` pixels: a ViT needs whole patches."""
    if model["name"] in vit.ARCHITECTURES:
        vit.check_side(size, vit.patch_size(model["patch"], model["dimensions"]))
