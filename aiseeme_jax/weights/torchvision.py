"""ResNet weights under torchvision's names, and files of them: the way in from PyTorch and the way out to it.

A tensor dictionary maps names like `layer1.0.conv1.weight` to arrays in PyTorch's layout (a convolution is [out, in,
h, w], of a backbone for volumes [out, in, d, h, w]). Taking weights out and putting them back gives the same bits.
Reading `.pt` and `.pth` needs PyTorch, which this project does not install. Files serve ViTs too (`timm.py`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from aiseeme_jax.models.resnet import Block, Norm, ResNet
from aiseeme_jax.store import files

Tensors = dict[str, np.ndarray]

# Written around the backbone by common trainers; taken off in this order as long as one fits.
PREFIXES = ("module.", "encoder_q.", "backbone.")
# Where a checkpoint that is not a plain dictionary of tensors keeps it.
CONTAINERS = ("state_dict", "model_state_dict", "model")


class Damaged(ValueError):
    """A file that does not hold what its own header says."""


def to_torchvision(backbone: ResNet) -> Tensors:
    """Weights and running statistics in float32, without `fc.*`."""
    tensors = {name: _outwards(variable) for name, variable in _variables(backbone)}
    # PyTorch counts batches beside each norm and wants to find the count.
    for name in [n for n in tensors if n.endswith(".running_var")]:
        tensors[name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


def from_torchvision(backbone: ResNet, tensors: Mapping[str, np.ndarray]) -> None:
    """Puts weights into a backbone, all or nothing. `fc.*` and `num_batches_tracked` are ignored.

    Raises:
      ValueError: tensors are missing, unexpected or of another shape; the message names the first of each and
        how many, and says what is known to cause it.
    """
    variables = dict(_variables(backbone))
    given = {
        name: np.asarray(tensor)
        for name, tensor in tensors.items()
        if not name.startswith("fc.") and not name.endswith(".num_batches_tracked")
    }
    expected = {name: _outwards(variable).shape for name, variable in variables.items()}
    problems = misfits(expected, given)
    if problems:
        hint = _hint(backbone, given, expected)
        raise ValueError(f"these weights do not fit {_describe(backbone)}: {problems}.{hint}")
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(_inwards(given[name], variable), jnp.float32))


def misfits(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, np.ndarray]) -> str:
    """Tensors that are missing, unexpected or of another shape, counted and the first of each named; '' if none is."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    misshaped = [
        f"{name} is {given[name].shape} instead of {expected[name]}"
        for name in expected
        if name in given and given[name].shape != expected[name]
    ]
    listed = (("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped))
    return "; ".join(f"{len(names)} {kind} ({_first(names)})" for kind, names in listed if names)


def other_dimensions(theirs: tuple[int, ...], ours: tuple[int, ...]) -> str:
    """What there is to say where the first kernels, [out, in, *space], are of images here and of volumes there."""
    return (
        f" These are weights of a {len(theirs) - 2}-D network, and this one is {len(ours) - 2}-D "
        "(model.dimensions): nothing carries over from one to the other."
    )


def read_weights(path: str | Path) -> Tensors:
    """Tensors of a `.safetensors`, `.pt` or `.pth` file, with the prefixes of common trainers taken off.

    Where some names carry such a prefix, only those are kept: the rest (a momentum encoder, a queue, a head)
    is not the backbone.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: unknown suffix, a damaged file, or one without tensors.
      ImportError: `.pt` or `.pth` without PyTorch.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give the path of a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path)
    elif path.suffix in (".pt", ".pth"):
        tensors = _read_torch(path)
    else:
        raise ValueError(f"cannot read weights from {path}: the suffix must be .safetensors, .pt or .pth")
    if not tensors:
        raise ValueError(f"{path} holds no tensors")
    return _without_prefixes(tensors)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The strings in the header of a `.safetensors` file; none for other files."""
    from safetensors import SafetensorError, safe_open

    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise _damaged(path, error) from error


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors so that the file is either whole or not there.

    Args:
      metadata: strings kept in the header of the file.
    """
    from safetensors.numpy import save_file

    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with files.replaced(Path(path)) as beside:
        save_file(whole, beside, metadata=dict(metadata) if metadata else None)


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


def _norm_variables(name: str, norm: Norm) -> Iterator[tuple[str, nnx.Variable]]:
    yield f"{name}.weight", norm.scale
    yield f"{name}.bias", norm.bias
    yield f"{name}.running_mean", norm.mean
    yield f"{name}.running_var", norm.var


def _outwards(variable: nnx.Variable) -> np.ndarray:
    """[h, w, in, out] to [out, in, h, w], and with a depth before h alike."""
    value = np.asarray(variable[...], np.float32)
    if value.ndim < 4:
        return value.copy()
    *window, inside, out = range(value.ndim)
    return np.ascontiguousarray(value.transpose(out, inside, *window))


def _inwards(tensor: np.ndarray, variable: nnx.Variable) -> np.ndarray:
    if variable.ndim < 4:
        return tensor
    out, inside, *window = range(tensor.ndim)
    return tensor.transpose(*window, inside, out)


def _describe(backbone: ResNet) -> str:
    size = f"width {backbone.width:g}, stem {backbone.stem!r}, {backbone.channels} channels"
    volumes = ", 3-D" if backbone.dimensions == 3 else ""
    return f"{backbone.architecture} ({size}{volumes})"


def _hint(backbone: ResNet, given: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> str:
    """What the first convolution tells about the network the weights come from."""
    if "conv1.weight" not in given:
        return " There is no conv1.weight at all: these are not weights of a ResNet under torchvision's names."
    theirs, ours = given["conv1.weight"].shape, expected["conv1.weight"]
    if theirs == ours:
        return " The first convolution fits: is it another ResNet (model.name)?"
    if len(theirs) not in (4, 5):
        return ""
    if len(theirs) != len(ours):
        return other_dimensions(theirs, ours)
    hints = []
    if theirs[2:] != ours[2:]:
        stem = {7: "standard", 3: "small"}.get(theirs[2], "another")
        hints.append(f"model.stem: theirs is {'x'.join(map(str, theirs[2:]))}, that is {stem!r}")
    if theirs[0] != ours[0]:
        hints.append(f"model.width: their first layer has {theirs[0]} channels, so width {theirs[0] / 64:g}")
    if theirs[1] != ours[1]:
        hints.append(f"channels: theirs takes {theirs[1]}, this one {ours[1]}")
    return f" Make the backbone like the weights ({'; '.join(hints)})."


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _without_prefixes(tensors: Tensors) -> Tensors:
    for prefix in PREFIXES:
        inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        tensors = inside or tensors
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> Damaged:
    return Damaged(f"{path} is not a whole safetensors file ({error})")


def _read_torch(path: Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs PyTorch: install it, or convert the file to .safetensors where PyTorch is"
        ) from error
    try:
        # Tensors only: a pickle from elsewhere must not run code here.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a readable PyTorch checkpoint of tensors ({error})") from error
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return {n: _to_numpy(t) for n, t in content.items() if isinstance(t, torch.Tensor)}


def _to_numpy(tensor) -> np.ndarray:
    """Half precision becomes float32; NumPy has no bfloat16 of its own."""
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
