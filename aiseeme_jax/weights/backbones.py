"""Backbones as files: weights under the names that PyTorch users know, with a header that says what they are."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from aiseeme_jax import models, seeds
from aiseeme_jax.store import records
from aiseeme_jax.weights import timm, torchvision

BACKBONE = "backbone.safetensors"
FISHER = "fisher.safetensors"


def tree_hash(tree: Any) -> str:
    """Hex SHA-256 over names, shapes, types and bytes of all leaves, in the order of the names."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in sorted((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves):
        digest.update(f"{path} {leaf.shape} {leaf.dtype}\n".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def backbone_hash(backbone: nnx.Module) -> str:
    """Hash of a backbone's weights and running statistics."""
    return tree_hash(nnx.to_pure_dict(nnx.state(backbone)))


def save_backbone(directory: Path, backbone: nnx.Module, info: Mapping[str, Any], *, file: str = BACKBONE) -> None:
    """Writes `backbone.safetensors` as `export_backbone` does; `info` (its model config, above all) travels in the
    header.
    """
    if not jax.process_index():
        export_backbone(backbone, directory / file, info=info)


def export_backbone(
    backbone: nnx.Module, path: str | Path, *, info: Mapping[str, Any] | None = None, size: int | None = None
) -> None:
    """Writes a backbone as safetensors, a ResNet with torchvision names, a ViT with timm's: for PyTorch, timm or MONAI.

    Args:
      backbone: a ResNet or ViT of this package.
      path: file to write, ending in .safetensors.
      info: JSON-serialisable facts to keep in the file's header.
      size: side in pixels of the images that another program will show a ViT: timm wants positions in the file, and
        they are those of one size. This package computes them.
    """
    info = {**(info or {}), "model": backbone.config, "backbone_hash": backbone_hash(backbone)}
    torchvision.write_safetensors(path, _tensors(backbone, size), {"aiseeme": json.dumps(info)})


def _tensors(backbone: nnx.Module, size: int | None = None) -> torchvision.Tensors:
    if isinstance(backbone, models.ViT):
        return timm.to_timm(backbone, size=size)
    return torchvision.to_torchvision(backbone)


def _fill(backbone: nnx.Module, tensors: torchvision.Tensors) -> None:
    fill = timm.from_timm if isinstance(backbone, models.ViT) else torchvision.from_torchvision
    fill(backbone, tensors)


def load_backbone(path: str | Path, arm: str | None = None) -> tuple[nnx.Module, dict[str, Any]]:
    """Loads a backbone from a workdir (the last finished stage of an arm), a stage's folder or an exported file.

    Args:
      path: of one of these.
      arm: of a workdir; by default the curriculum, or the only one that has finished a stage of its own.

    Returns the backbone and what its file says of it: `model`, `backbone_hash`, `task`, `views`, …

    Raises FileNotFoundError if there is no backbone at `path`, ValueError if there are several and `arm` does not say
    which, if the file was not written by this package (foreign weights need the model named: use them as `init`) or
    does not hold what its header says.
    """
    file = find_backbone(Path(path), arm)
    with _damage_told(file):
        header, tensors = torchvision.read_metadata(file), torchvision.read_weights(file)
    if "aiseeme" not in header:
        raise ValueError(
            f"{file} was not written by aiseeme_jax, so it does not name its model; use it as `init` of a config"
        )
    info = json.loads(header["aiseeme"])
    backbone = models.make_backbone(**info["model"], rngs=nnx.Rngs(0))
    _fill(backbone, tensors)
    if backbone_hash(backbone) != info["backbone_hash"]:
        raise ValueError(f"{file} is damaged: its weights do not have the hash in its header; {_remedy(file)}")
    return backbone, info


def any_backbone(path: str | Path, model: Mapping[str, Any]) -> nnx.Module:
    """A backbone from wherever it lies: as its file describes itself, or weights of `model` under their common names.

    Raises FileNotFoundError if there is nothing at `path`, ValueError if it is damaged or does not fit the model.
    """
    file = find_backbone(Path(path))
    with _damage_told(file):
        header, tensors = torchvision.read_metadata(file), torchvision.read_weights(file)
    if "aiseeme" in header:
        return load_backbone(file)[0]
    backbone = models.make_backbone(**model, rngs=nnx.Rngs(0))
    try:
        _fill(backbone, tensors)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return backbone


@contextlib.contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    """Adds what to do to what is wrong with a damaged file."""
    try:
        yield
    except torchvision.Damaged as error:
        raise ValueError(f"{error}; {_remedy(file)}") from None


def _remedy(file: Path) -> str:
    if (file.parent / records.DONE).exists():
        return f"delete the folder {file.parent} and run again: its stage is then trained anew"
    return "copy or download it again"


def save_fisher(directory: Path, fisher: nnx.Module, backbone: nnx.Module) -> None:
    """Writes the Fisher information of a backbone beside it, under the names of its weights."""
    save_backbone(directory, fisher, {"fisher_of": backbone_hash(backbone)}, file=FISHER)


def load_fisher(path: Path, backbone: nnx.Module) -> nnx.Module:
    """The Fisher information beside a backbone, given by its file, its stage's folder or its workdir.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or not that of `backbone`.
    """
    file = find_backbone(path).parent / FISHER
    if not file.exists():
        raise FileNotFoundError(
            f"no Fisher information at '{file}', which distillation of kind 'ewc' needs; "
            "train that stage with `fisher_batches` set"
        )
    fisher, info = load_backbone(file)
    if info.get("fisher_of") != backbone_hash(backbone):
        raise ValueError(f"{file} is not the Fisher information of the backbone beside it; train that stage again")
    return fisher


def starting_backbone(model: Mapping[str, Any], init: str, seed: int) -> nnx.Module:
    """The backbone a training starts from.

    Args:
      model: arguments of `models.make_backbone`.
      init: 'scratch', a workdir or stage of this program, or a file of weights as `export_backbone` names them.
      seed: of random weights.

    Raises FileNotFoundError if there is nothing at `init`, ValueError if it does not fit the model.
    """
    backbone = models.make_backbone(**model, rngs=nnx.Rngs(seeds.derive(seed, "backbone")))
    if init == "scratch":
        return backbone
    try:
        file = find_backbone(Path(init))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"init: {error}") from None
    try:
        with _damage_told(file):
            tensors = torchvision.read_weights(file)
        _fill(backbone, tensors)
    except ValueError as error:
        raise ValueError(f"init: {file}: {error}") from None
    return backbone


def find_backbone(path: Path, arm: str | None = None) -> Path:
    """The backbone file meant by a workdir, and perhaps one of its arms, a stage's folder or a file."""
    if not path.exists():
        raise FileNotFoundError(f"no file or folder at '{path}'")
    if path.is_file() or (path / BACKBONE).exists():
        if arm is not None:
            raise ValueError(f"'{path}' is no workdir: it has no arm '{arm}'")
        return path if path.is_file() else path / BACKBONE
    if path.parent.name == "stages" and (path / records.DONE).exists():
        raise FileNotFoundError(f"{path} has lost its {BACKBONE}; {_remedy(path / BACKBONE)}")
    finished = _finished_stages(path)
    if not finished:
        raise FileNotFoundError(f"'{path}' holds no finished stage: run the curriculum first, or name a stage's folder")
    known = ", ".join(finished)
    if arm is None:
        name = "curriculum" if "curriculum" in finished else next(iter(finished))
        if name != "curriculum" and len(finished) > 1:
            raise ValueError(f"'{path}' holds several arms: say `arm`, or name a stage's folder. There are {known}")
    else:
        name = arm if arm in finished else records.file_name(arm)
    if name not in finished:
        raise ValueError(f"'{path}' holds no finished stage of an arm '{arm}' in its own folder: there are {known}")
    return finished[name] / BACKBONE


def _finished_stages(workdir: Path) -> dict[str, Path]:
    """The last finished stage of each arm that has one, by the name of the arm's folder."""
    places = {"curriculum": records.stages_directory(workdir, "curriculum")}
    places |= {folder.name: folder / "stages" for folder in sorted(workdir.glob("arms/*"))}
    found = {name: sorted(stages.glob(f"*/{records.DONE}")) for name, stages in places.items()}
    return {name: records[-1].parent for name, records in found.items() if records}
