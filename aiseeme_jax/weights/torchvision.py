"""ResNet weights under torchvision's names: conversion from PyTorch and to it.

A dictionary maps names like `layer1.0.conv1.weight` to arrays in PyTorch's layout: a convolution is [out, in, h, w], or
[out, in, d, h, w] in a backbone for volumes. Conversion to PyTorch and back gives the same bits.

The scales of blocks with attention have no name in torchvision. Here they are `layer1.0.attention_scale`, [1].
"""

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from aiseeme_jax.models.attention import NONE
from aiseeme_jax.models.resnet import Block, Norm, ResNet
from aiseeme_jax.weights.tensors import Tensors, describe_misfits, explain_dimensions

# Ending of the name of the scale of a block.
ATTENTION_SCALE = ".attention_scale"


def to_torchvision(backbone: ResNet) -> Tensors:
    """Weights and running statistics in float32, without `fc.*`."""
    tensors = {name: _outwards(variable) for name, variable in _variables(backbone)}
    # PyTorch stores a count of batches beside each norm, and requires it when it loads.
    for name in [n for n in tensors if n.endswith(".running_var")]:
        tensors[name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


def from_torchvision(backbone: ResNet, tensors: Mapping[str, np.ndarray]) -> None:
    """Puts weights into a backbone, all or none. `fc.*` and `num_batches_tracked` are ignored.

    The weights of a network without attention leave the scales of blocks with attention as they are.

    Raises:
      ValueError: tensors are missing, unexpected or of another shape. The message counts them, names the first ones,
        and names the known causes.
    """
    variables = dict(_variables(backbone))
    given = {
        name: np.asarray(tensor)
        for name, tensor in tensors.items()
        if not name.startswith("fc.") and not name.endswith(".num_batches_tracked")
    }
    if not any(name.endswith(ATTENTION_SCALE) for name in given):
        variables = {name: variable for name, variable in variables.items() if not name.endswith(ATTENTION_SCALE)}
    expected = {name: _outwards(variable).shape for name, variable in variables.items()}
    problems = describe_misfits(expected, given)
    if problems:
        hint = _hint(backbone, given, expected)
        raise ValueError(f"these weights do not fit {_describe(backbone)}: {problems}.{hint}")
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(_inwards(given[name], variable), jnp.float32))


def _variables(backbone: ResNet) -> Iterator[tuple[str, nnx.Variable]]:
    """torchvision's name of every variable of a backbone."""
    yield "conv1.weight", backbone.stem_convolution.kernel
    yield from _norm_variables("bn1", backbone.stem_norm)
    for number, blocks in enumerate(backbone.stages, start=1):
        for i, block in enumerate(blocks):
            yield from _block_variables(f"layer{number}.{i}", block)


def _block_variables(name: str, block: Block) -> Iterator[tuple[str, nnx.Variable]]:
    for i, (convolution, norm) in enumerate(zip(block.convolutions, block.norms, strict=True), start=1):
        yield f"{name}.conv{i}.weight", convolution.kernel
        yield from _norm_variables(f"{name}.bn{i}", norm)
    if block.projects:
        yield f"{name}.downsample.0.weight", block.projection.kernel
        yield from _norm_variables(f"{name}.downsample.1", block.projection_norm)
    if block.attention != NONE:
        yield f"{name}{ATTENTION_SCALE}", block.attention_scale


def _norm_variables(name: str, norm: Norm) -> Iterator[tuple[str, nnx.Variable]]:
    yield f"{name}.weight", norm.scale
    yield f"{name}.bias", norm.bias
    yield f"{name}.running_mean", norm.mean
    yield f"{name}.running_var", norm.var


def _outwards(variable: nnx.Variable) -> np.ndarray:
    """Turns [h, w, in, out] into [out, in, h, w], and volumes' [d, h, w, in, out] into [out, in, d, h, w]."""
    value = np.asarray(variable[...], np.float32)
    if value.ndim < 4:
        return np.atleast_1d(value).copy()
    *window, inside, out = range(value.ndim)
    return np.ascontiguousarray(value.transpose(out, inside, *window))


def _inwards(tensor: np.ndarray, variable: nnx.Variable) -> np.ndarray:
    if variable.ndim < 4:
        return tensor.reshape(variable.shape)
    out, inside, *window = range(tensor.ndim)
    return tensor.transpose(*window, inside, out)


def _describe(backbone: ResNet) -> str:
    size = f"width {backbone.width:g}, stem {backbone.stem!r}, {backbone.channels} channels"
    volumes = ", 3-D" if backbone.dimensions == 3 else ""
    return f"{backbone.architecture} ({size}{volumes})"


def _hint(backbone: ResNet, given: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Says what the first convolution shows about the network that the weights come from."""
    if "conv1.weight" not in given:
        return " There is no conv1.weight at all: these are not weights of a ResNet under torchvision's names."
    if any(name.endswith(ATTENTION_SCALE) for name in given) and backbone.attention == NONE:
        return " These are weights of a network with attention: set model.attention as there."
    theirs, ours = given["conv1.weight"].shape, expected["conv1.weight"]
    if theirs == ours:
        return " The first convolution fits: is it another ResNet (model.name)?"
    if len(theirs) not in (4, 5):
        return ""
    if len(theirs) != len(ours):
        return explain_dimensions(theirs, ours)
    hints = []
    if theirs[2:] != ours[2:]:
        stem = {7: "standard", 3: "small"}.get(theirs[2], "another")
        hints.append(f"model.stem: theirs is {'x'.join(map(str, theirs[2:]))}, that is {stem!r}")
    if theirs[0] != ours[0]:
        hints.append(f"model.width: their first layer has {theirs[0]} channels, so width {theirs[0] / 64:g}")
    if theirs[1] != ours[1]:
        hints.append(f"channels: theirs takes {theirs[1]}, this one {ours[1]}")
    return f" Make the backbone like the weights ({'; '.join(hints)})."
