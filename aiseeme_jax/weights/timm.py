"""ViT weights under timm's names: conversion from PyTorch and to it."""

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from aiseeme_jax.models.vit import TransformerBlock, ViT, check_side, positions
from aiseeme_jax.weights.tensors import Tensors, describe_misfits, explain_dimensions

EMBEDDING = "patch_embed.proj.weight"
POSITIONS = "pos_embed"
# Names that do not belong to the backbone: classifiers, and the decoder in the published files of MAE.
FOREIGN = ("head.", "decoder_", "mask_token")


def to_timm(backbone: ViT, *, size: int | None = None) -> Tensors:
    """Weights in float32, without `head.*`.

    Args:
      size: side of images or volumes in pixels. If it is given, the fixed positions for that size are written too, as
        `pos_embed` [1, 1 + N, D], which timm expects. They are wrong for any other size, also if interpolated.

    Raises ValueError for a size that is no multiple of the patch.
    """
    tensors = {name: _outwards(backbone, name, variable) for name, variable in _variables(backbone)}
    if size is not None:
        check_side(size, backbone.patch)
        fixed = np.asarray(positions((size // backbone.patch,) * backbone.dimensions, backbone.features))
        # The class token has no position.
        tensors[POSITIONS] = np.pad(fixed, ((1, 0), (0, 0)))[None]
    return tensors


def from_timm(backbone: ViT, tensors: Mapping[str, np.ndarray]) -> None:
    """Puts weights into a backbone, all or none. Classifiers and decoders are ignored. Positions may be missing.

    Weights do not tell how many heads a ViT has. It must have as many as in `vit.ARCHITECTURES`.

    Raises:
      ValueError: tensors are missing, unexpected or of another shape, or the positions are not those of
        `vit.positions` (learnt ones, for instance). The message names the known causes.
    """
    variables = dict(_variables(backbone))
    given = {name: np.asarray(tensor) for name, tensor in tensors.items() if not name.startswith(FOREIGN)}
    theirs = given.pop(POSITIONS, None)
    expected = {name: _outwards(backbone, name, variable).shape for name, variable in variables.items()}
    problems = describe_misfits(expected, given)
    if problems:
        hint = _hint(backbone, given, expected)
        raise ValueError(f"these weights do not fit {_describe(backbone)}: {problems}.{hint}")
    if theirs is not None and not _fixed(backbone, theirs):
        raise ValueError(
            f"these weights do not fit {_describe(backbone)}: its positions are fixed sines and cosines, and their "
            "pos_embed is something else (perhaps learnt). Weights of MAE or MoCo v3 have fixed positions."
        )
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(_inwards(name, given[name]), jnp.float32))


def _variables(backbone: ViT) -> Iterator[tuple[str, nnx.Variable]]:
    """timm's name of every variable of a backbone."""
    yield "cls_token", backbone.class_token
    yield EMBEDDING, backbone.embedding.kernel
    yield "patch_embed.proj.bias", backbone.embedding.bias
    for i, block in enumerate(backbone.blocks):
        yield from _block_variables(f"blocks.{i}", block)
    yield from _scale_and_bias("norm", backbone.norm.scale, backbone.norm.bias)


def _block_variables(name: str, block: TransformerBlock) -> Iterator[tuple[str, nnx.Variable]]:
    for i, norm in enumerate(block.norms, start=1):
        yield from _scale_and_bias(f"{name}.norm{i}", norm.scale, norm.bias)
    layers = {"attn.qkv": block.qkv, "attn.proj": block.projection, "mlp.fc1": block.hidden, "mlp.fc2": block.out}
    for layer, module in layers.items():
        yield from _scale_and_bias(f"{name}.{layer}", module.kernel, module.bias)


def _scale_and_bias(name: str, weight: nnx.Variable, bias: nnx.Variable) -> Iterator[tuple[str, nnx.Variable]]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", bias


def _outwards(backbone: ViT, name: str, variable: nnx.Variable) -> np.ndarray:
    """Turns [in, out] into [out, in], and the embedding of patches into a convolution [out, in, (d,) h, w]."""
    value = np.array(variable[...], np.float32)
    if name == EMBEDDING:
        window = value.reshape(*(backbone.patch,) * backbone.dimensions, backbone.channels, -1)
        return np.ascontiguousarray(np.moveaxis(window, (-1, -2), (0, 1)))
    return value[None, None] if name == "cls_token" else np.ascontiguousarray(value.T)


def _inwards(name: str, tensor: np.ndarray) -> np.ndarray:
    if name == EMBEDDING:
        return np.moveaxis(tensor, (0, 1), (-1, -2)).reshape(-1, tensor.shape[0])
    return tensor[0, 0] if name == "cls_token" else tensor.T


def _fixed(backbone: ViT, theirs: np.ndarray) -> bool:
    """Whether a `pos_embed` is that of `positions` for some size: zeros for the class token, then a square grid."""
    if theirs.ndim != 3:
        return False
    side = round(max(theirs.shape[1] - 1, 1) ** (1 / backbone.dimensions))
    ours = np.pad(np.asarray(positions((side,) * backbone.dimensions, backbone.features)), ((1, 0), (0, 0)))[None]
    # The tolerance admits positions in half precision.
    return theirs.shape == ours.shape and np.allclose(theirs, ours, atol=5e-3)


def _describe(backbone: ViT) -> str:
    size = f"width {backbone.width:g}, patch {backbone.patch}, {backbone.channels} channels"
    volumes = ", 3-D" if backbone.dimensions == 3 else ""
    return f"{backbone.architecture} ({size}{volumes})"


def _hint(backbone: ViT, given: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Says what the embedding of patches shows about the network that the weights come from."""
    if EMBEDDING not in given:
        return f" There is no {EMBEDDING} at all: these are not weights of a ViT under timm's names."
    theirs, ours = given[EMBEDDING].shape, expected[EMBEDDING]
    if theirs == ours or len(theirs) not in (4, 5):
        return ""
    if len(theirs) != len(ours):
        return explain_dimensions(theirs, ours)
    hints = []
    if theirs[2:] != ours[2:]:
        hints.append(f"model.patch: theirs is {theirs[2]}")
    if theirs[0] != ours[0]:
        hints.append(f"model.name or model.width: theirs has {theirs[0]} features, this one {ours[0]}")
    if theirs[1] != ours[1]:
        hints.append(f"channels: theirs takes {theirs[1]}, this one {ours[1]}")
    return f" Make the backbone like the weights ({'; '.join(hints)})."
