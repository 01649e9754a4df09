"""Backbones as files: weights under the names that PyTorch users know, with a header that describes them.

A file of this program has the hash of its weights in its header. Every function that loads it compares the two.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from aiseeme_jax import augment, models, seeds
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.models.attention import NONE
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.store.keys import tree_hash
from aiseeme_jax.weights import preprocessing, tensors
from aiseeme_jax.weights.formats import format_of
from aiseeme_jax.weights.headers import BACKBONE, CLASSIFIER, FISHER, HEADER, explain_remedy, read_header

# The name of random weights as a start, in a config.
SCRATCH = "scratch"


def backbone_hash(backbone: nnx.Module) -> str:
    """Hash of a backbone's weights and running statistics."""
    return tree_hash(nnx.to_pure_dict(nnx.state(backbone)))


def save_backbone(directory: Path, backbone: nnx.Module, info: Mapping[str, Any], *, file: str = BACKBONE) -> str:
    """Writes `backbone.safetensors` as `export_backbone` does, and returns the hash of the backbone.

    Only the first process writes. All processes get the hash.
    """
    found = backbone_hash(backbone)
    if not jax.process_index():
        _export(backbone, found, directory / file, info)
    return found


def export_backbone(
    backbone: nnx.Module, path: str | Path, *, info: Mapping[str, Any] | None = None, size: int | None = None
) -> None:
    """Writes a backbone as safetensors, a ResNet with torchvision names, a ViT with timm's: for PyTorch, timm or MONAI.

    Args:
      backbone: a ResNet or ViT of this package.
      path: file to write, ending in .safetensors.
      info: JSON values that are stored in the file's header: what `load_backbone` gave, so that the file says how
        images become the input (`preprocessing`).
      size: side in pixels of the images that another program will give to a ViT. timm expects positions in the file,
        and these depend on the size. This package computes them.
    """
    _export(backbone, backbone_hash(backbone), Path(path), info or {}, size)


def _export(backbone: nnx.Module, found: str, path: Path, info: Mapping[str, Any], size: int | None = None) -> None:
    header = {**info, "model": backbone.config, "backbone_hash": found}
    tensors.write_safetensors(path, format_of(backbone).write(backbone, size), {HEADER: json.dumps(header)})


def load_backbone(path: str | Path, arm: str | None = None) -> tuple[nnx.Module, dict[str, Any]]:
    """Loads a backbone from a workdir (the last finished stage of an arm), a stage's folder or an exported file.

    Args:
      path: of one of these.
      arm: of a workdir; by default the curriculum, or the only one that has stages of its own.

    Returns the backbone and the entries of its file's header: `model`, `backbone_hash`, `task`, … `preprocessing` says
    how images become the input, and `info["preprocessing"].preprocess(images)` makes them so. Files of version 0.1 and
    those exported without `info` lack it.

    Raises MissingFile if there is no backbone at `path`. Raises UserError if there are several and `arm` does not say
    which, if the file was not written by this package, or if its weights do not have the hash in its header. (Weights
    of other programs do not name their model. Use them as `init` of a config.)
    """
    file = find_backbone(Path(path), arm)
    found = _read(file)
    if found.info is None:
        raise UserError(
            f"{file} was not written by aiseeme_jax, so it does not name its model; use it as `init` of a config"
        )
    return found.own_backbone(), _describe_input(file, found.info)


def _describe_input(file: Path, info: dict[str, Any]) -> dict[str, Any]:
    """The header with its entry `preprocessing`, of an older classifier from its views. UserError if it is damaged."""
    if preprocessing.PREPROCESSING in info:
        entry = preprocessing.read(file, info[preprocessing.PREPROCESSING], explain_remedy(file))
    elif "views" in info:
        views = augment.views_of({k: tuple(v) if isinstance(v, list) else v for k, v in info["views"].items()})
        entry = preprocessing.describe(views, info["model"]["channels"], None)
    else:
        return info
    return {**info, preprocessing.PREPROCESSING: entry}


def any_backbone(path: str | Path, model: Mapping[str, Any]) -> nnx.Module:
    """Loads a backbone: with the model that its file names, or, if it names none, as weights of `model`.

    Raises MissingFile if there is nothing at `path`, UserError if it is damaged or does not fit the model.
    """
    found = _read(find_backbone(Path(path)))
    return found.own_backbone() if found.info is not None else found.backbone_of(model)


def starting_backbone(model: Mapping[str, Any], init: str, seed: int) -> nnx.Module:
    """The backbone that a training starts from.

    Args:
      model: arguments of `models.make_backbone`.
      init: 'scratch', a workdir or stage of this program, or a file of weights with the names of `export_backbone`.
      seed: of random weights.

    Raises MissingFile if there is nothing at `init`, UserError if it is damaged or does not fit the model.
    """
    backbone = models.make_backbone(**model, rngs=nnx.Rngs(seeds.derive(seed, "backbone")))
    if init == SCRATCH:
        return backbone
    try:
        return _read(find_backbone(Path(init))).backbone_of(model)
    except UserError as error:
        raise type(error)(f"init: {error}") from None


class _Found:
    """The content of a file of weights: its tensors, and the entry of this program in its header, if there is one."""

    def __init__(self, file: Path, given: tensors.Tensors, info: dict[str, Any] | None):
        self.file, self.given, self.info = file, given, info

    def own_backbone(self) -> nnx.Module:
        """Makes the backbone that the header describes. Raises UserError if the weights do not have its hash."""
        return self.backbone_of(self.info["model"])

    def backbone_of(self, model: Mapping[str, Any]) -> nnx.Module:
        """Makes a backbone of a model with these weights. One with attention can start from weights of one without."""
        if self.info is None:
            return self._fill(model)
        theirs, ours = (one.get("attention", NONE) for one in (self.info["model"], model))
        if theirs != ours and NONE not in (theirs, ours):
            raise UserError(
                f"{self.file} has weights of a network with attention '{theirs}', and model.attention is '{ours}': "
                "make them the same"
            )
        backbone = self._fill(model)
        if theirs == NONE != ours:
            # The hash in the header is that of the weights without scales.
            self.own_backbone()
        elif backbone_hash(backbone) != self.info["backbone_hash"]:
            raise UserError(
                f"{self.file} is damaged: its weights do not have the hash in its header; {explain_remedy(self.file)}"
            )
        return backbone

    def _fill(self, model: Mapping[str, Any]) -> nnx.Module:
        try:
            backbone = models.make_backbone(**model, rngs=nnx.Rngs(0))
            format_of(backbone).fill(backbone, self.given)
        except ValueError as error:
            raise UserError(f"{self.file}: {error}") from None
        return backbone


def _read(file: Path) -> _Found:
    """Reads a file of weights, its header first. Raises UserError that says what to do if it is damaged."""
    header = read_header(file)
    try:
        return _Found(file, tensors.read_weights(file), header)
    except tensors.Damaged as error:
        raise UserError(f"{error}; {explain_remedy(file)}") from None


def save_fisher(directory: Path, fisher: nnx.Module, backbone: nnx.Module) -> str:
    """Writes the Fisher information of a backbone, under the names of its weights. Returns the hash of its values."""
    return save_backbone(directory, fisher, {"fisher_of": backbone_hash(backbone)}, file=FISHER)


def load_fisher(path: Path, backbone: nnx.Module) -> nnx.Module:
    """Loads the Fisher information of a backbone.

    Args:
      path: as for `find_fisher`.

    Raises MissingFile if there is none, UserError if it is damaged or belongs to another backbone.
    """
    file = find_fisher(path)
    fisher, info = load_backbone(file)
    if info.get("fisher_of") != backbone_hash(backbone):
        raise UserError(f"{file} is not the Fisher information of this backbone; estimate it again")
    return fisher


def find_fisher(path: Path) -> Path:
    """Finds the file with the Fisher information of a backbone: beside the backbone, or in the store of its stage.

    Args:
      path: of the backbone (file, stage's folder or workdir), or of a folder with Fisher information.

    Raises MissingFile if there is none.
    """
    if (path / FISHER).exists():
        return path / FISHER
    folder = find_backbone(path).parent
    record = artifacts.read_record(folder) or {}
    candidates = [folder / FISHER, *sorted((folder.parent.parent / artifacts.FISHER).glob(f"*/{FISHER}"))]
    for file in candidates:
        made_of = artifacts.read_record(file.parent) if file.exists() else None
        if file.exists() and (file.parent == folder or (made_of or {}).get("fisher_of") == record.get("backbone_hash")):
            return file
    raise MissingFile(
        f"no Fisher information of '{path}', which distillation of kind 'ewc' needs; "
        "train that stage with `fisher_batches` set"
    )


def find_backbone(path: Path, arm: str | None = None) -> Path:
    """Finds the file of a backbone.

    Args:
      path: a workdir, a stage's folder, or the file itself.
      arm: of a workdir.

    Raises MissingFile if there is none, UserError for an unknown arm.
    """
    if not path.exists():
        raise MissingFile(f"no file or folder at '{path}'")
    if path.is_file() or (path / BACKBONE).exists():
        if arm is not None:
            raise UserError(f"'{path}' is not a workdir: it has no arm '{arm}'")
        return path if path.is_file() else path / BACKBONE
    if (path / CLASSIFIER).exists():
        return path / CLASSIFIER
    if path.absolute().parent.name == artifacts.MEASUREMENTS:
        raise UserError(f"'{path}' is a measurement without a network of its own: name a stage's folder")
    if (path / artifacts.RECORD).exists():
        raise MissingFile(f"{path} has lost its {BACKBONE}; {artifacts.explain_remedy(path)}")
    file = workdirs.find_stage_folder(path, arm) / BACKBONE
    if not file.exists():
        raise MissingFile(f"{file.parent} has lost its {BACKBONE}; {artifacts.explain_remedy(file.parent)}")
    return file
