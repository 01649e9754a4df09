"""Files of named tensors: reads and writes safetensors, and reads PyTorch checkpoints.

Reading `.pt` and `.pth` needs PyTorch, which this project does not install.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import files

Tensors = dict[str, np.ndarray]

# Prefixes that common trainers put before the names of the backbone. They are removed in this order.
PREFIXES = ("module.", "encoder_q.", "backbone.")
# Entries of a checkpoint that may contain the dictionary of tensors.
CONTAINERS = ("state_dict", "model_state_dict", "model")


class Damaged(UserError):
    """The content of a file does not agree with its header."""


def read_weights(path: str | Path) -> Tensors:
    """Reads the tensors of a `.safetensors`, `.pt` or `.pth` file, and removes the prefixes of common trainers.

    If some names have such a prefix, only those are returned: the others (a momentum encoder, a queue, a head) do not
    belong to the backbone.

    Raises:
      MissingFile: there is no such file.
      UserError: unknown suffix, a damaged file, or one without tensors.
      UserError: `.pt` or `.pth` without PyTorch.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"no weights at {path}: give the path of a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path)
    elif path.suffix in (".pt", ".pth"):
        tensors = _read_torch(path)
    else:
        raise UserError(f"cannot read weights from {path}: the suffix must be .safetensors, .pt or .pth")
    if not tensors:
        raise UserError(f"{path} contains no tensors")
    return _without_prefixes(tensors)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Reads the strings in the header of a `.safetensors` file. Other files have none."""
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
    """Writes tensors to a file, whole or not at all.

    Args:
      metadata: strings for the header of the file.
    """
    from safetensors.numpy import save_file

    files.check_local(path, "the file to write")
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    with files.write_whole(Path(path), sum(tensor.nbytes for tensor in whole.values())) as beside:
        save_file(whole, beside, metadata=dict(metadata) if metadata else None)


def describe_misfits(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, np.ndarray]) -> str:
    """Describes missing, unexpected and misshaped tensors by their number and first names; '' if all fit."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    misshaped = [
        f"{name} is {given[name].shape} instead of {expected[name]}"
        for name in expected
        if name in given and given[name].shape != expected[name]
    ]
    listed = (("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped))
    return "; ".join(f"{len(names)} {kind} ({_first(names)})" for kind, names in listed if names)


def explain_dimensions(theirs: tuple[int, ...], ours: tuple[int, ...]) -> str:
    """Explains that one of two first kernels, [out, in, *space], is for images and the other for volumes."""
    return (
        f" These are weights of a {len(theirs) - 2}-D network, and this one is {len(ours) - 2}-D "
        "(model.dimensions): one cannot be used for the other."
    )


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _without_prefixes(tensors: Tensors) -> Tensors:
    for prefix in PREFIXES:
        inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        tensors = inside or tensors
    return tensors


def read_safetensors(path: Path) -> Tensors:
    """Reads the tensors of a `.safetensors` file under the names that they have in it. Raises Damaged."""
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
        raise UserError(
            f"reading {path} needs PyTorch: install it, or convert the file to .safetensors where PyTorch is"
        ) from error
    try:
        # Tensors only: a pickle from elsewhere must not run code here.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a readable PyTorch checkpoint of tensors ({error})") from error
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} contains a {type(content).__name__}, not a dictionary of tensors")
    return {n: _to_numpy(t) for n, t in content.items() if isinstance(t, torch.Tensor)}


def _to_numpy(tensor) -> np.ndarray:
    """Half precision becomes float32; NumPy has no bfloat16 of its own."""
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
