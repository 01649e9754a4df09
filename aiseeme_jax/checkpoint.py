"""What lies on disk, and how it gets there whole.

The only module that knows the layout of a workdir. A file a later run relies on is written beside its place, synced and
renamed into it (`files.py`), so a kill or a power cut leaves the old file or the new one. A training checkpoint holds
what is not a function of the step, and nothing that is.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aiseeme_jax import files, models, seeds
from aiseeme_jax.models import timm_format, torch_format

BACKBONE = "backbone.safetensors"
FISHER = "fisher.safetensors"
DONE = "done.json"
DATA = "data.json"
CHECKPOINTS = "checkpoints"


def stages_directory(workdir: Path, arm: str) -> Path:
    """Where the stages of an arm lie: the curriculum's at the top, a baseline's in its own folder."""
    return workdir / "stages" if arm == "curriculum" else workdir / "arms" / file_name(arm) / "stages"


def stage_directory(workdir: Path, arm: str, position: int, task: str) -> Path:
    return stages_directory(workdir, arm) / stage_name(position, task)


def stage_name(position: int, task: str) -> str:
    """A stage as a folder."""
    return f"{position:02d}-{task}"


def targets_directory(workdir: Path, arm: str) -> Path:
    return workdir / "targets" / file_name(arm)


def target_directory(workdir: Path, arm: str, target: str, fraction: float, seed: int) -> Path:
    # Every digit of it, so that the fraction of a folder is that of the config and of results.csv.
    share = repr(float(fraction)).removesuffix(".0")
    return targets_directory(workdir, arm) / target / f"fraction-{share}-seed-{seed}"


def file_name(arm: str) -> str:
    """An arm's name as a folder."""
    return arm.replace(":", "-").replace("/", "-")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all; only the first process writes."""
    if jax.process_index():
        return
    with files.replaced(path) as beside:
        beside.write_text(text)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_done(directory: Path) -> dict[str, Any] | None:
    """The record a finished stage or target leaves, or None if it is not finished."""
    path = directory / DONE
    return read_json(path) if path.exists() else None


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of two records differs, by its last name, for a message; '' if they are equal."""
    found = []
    for name in {**then, **now}:
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.append(differences(old, new))
        elif old != new:
            found.append(f"{name} {short(old)} -> {short(new)}")
    return ", ".join(filter(None, found))


def short(value: Any) -> str:
    """A value, such as a hash, for a message."""
    return "(none)" if value is None else str(value)[:12]


def hold_to_data(workdir: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Notes the images that a run uses, or compares them with those noted before.

    Args:
      found: name of a part of the run -> `Split.fingerprint` of what it uses.

    Raises ValueError that says what differs.
    """
    noted = read_json(workdir / DATA) if (workdir / DATA).exists() else {}
    for part, now in found.items():
        changed = differences(noted.get(part, now), now)
        if changed:
            raise ValueError(
                f"{workdir} was begun with other images for its {part}; then and now: {changed}. "
                "Give it the data set it had (runtime.data_dir), or use another --workdir"
            )
    if not found.keys() <= noted.keys():
        write_json(workdir / DATA, {**noted, **found})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file; ValueError names it if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or delete the folder it lies in") from None


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


class Store:
    """Checkpoints of one training run, written in the background; opening it clears what a kill left half-written."""

    def __init__(self, directory: Path, *, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True, create=True
        )
        self._manager = ocp.CheckpointManager((directory / CHECKPOINTS).absolute(), options=options)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception) -> None:
        self._manager.close()

    def save(self, step: int, state: Any, record: Mapping[str, Any]) -> None:
        """Starts writing `state` and a small JSON `record`; returns once the arrays are safe to donate."""
        if step in self._manager.all_steps():
            return
        args = self._ocp.args
        # On the CPU the writer would read the very buffers that the next step reuses.
        snapshot = jax.tree.map(jnp.copy, state)
        self._manager.save(
            step, args=args.Composite(state=args.StandardSave(snapshot), record=args.JsonSave(dict(record)))
        )

    def wait(self) -> None:
        """Returns when everything asked for is on disk."""
        self._manager.wait_until_finished()

    def restore(self, template: Any, mesh: Mesh) -> tuple[Any, dict[str, Any]] | None:
        """The newest whole checkpoint as (state, record), replicated over `mesh`, or None.

        Raises ValueError if it is damaged, or not one of this state.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        folder = self._manager.directory / str(step)
        try:
            stored = _leaves(self._ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree)
        except Exception as error:
            raise _damaged(folder, error) from error
        # Judged here, since orbax would cast a value of another type without a word.
        wanted = _leaves(template)
        differing = [name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name)]
        if differing:
            raise ValueError(
                f"{folder} does not fit this program: it was written by another version, or for another config. "
                f"Do not delete it: go on with that version, or begin in another --workdir. {len(differing)} arrays "
                f"differ, such as {differing[0]}: "
                f"{stored.get(differing[0], '(absent)')} -> {wanted.get(differing[0], '(absent)')}"
            )
        everywhere = NamedSharding(mesh, PartitionSpec())
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), template)
        args = self._ocp.args
        try:
            found = self._manager.restore(
                step, args=args.Composite(state=args.StandardRestore(abstract), record=args.JsonRestore())
            )
        except Exception as error:
            raise _damaged(folder, error) from error
        return found.state, found.record


def _leaves(tree: Any) -> dict[str, str]:
    """Shape and type of each array of a state, or of what orbax says of a stored one, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{tuple(leaf.shape)} {leaf.dtype}"
        for path, leaf in leaves
    }


def _damaged(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"{folder} is damaged; delete it to go on from an earlier checkpoint. {error}")


def drop_checkpoints(directory: Path) -> None:
    """Deletes the training checkpoints of a finished run."""
    if jax.process_index() == 0:
        shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)


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
    torch_format.write_safetensors(path, _tensors(backbone, size), {"aiseeme": json.dumps(info)})


def _tensors(backbone: nnx.Module, size: int | None = None) -> torch_format.Tensors:
    if isinstance(backbone, models.ViT):
        return timm_format.to_timm(backbone, size=size)
    return torch_format.to_torchvision(backbone)


def _fill(backbone: nnx.Module, tensors: torch_format.Tensors) -> None:
    fill = timm_format.from_timm if isinstance(backbone, models.ViT) else torch_format.from_torchvision
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
        header, tensors = torch_format.read_metadata(file), torch_format.read_weights(file)
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
        header, tensors = torch_format.read_metadata(file), torch_format.read_weights(file)
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
    except torch_format.Damaged as error:
        raise ValueError(f"{error}; {_remedy(file)}") from None


def _remedy(file: Path) -> str:
    if (file.parent / DONE).exists():
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
            tensors = torch_format.read_weights(file)
        _fill(backbone, tensors)
    except ValueError as error:
        raise ValueError(f"init: {file}: {error}") from None
    return backbone


def barrier(name: str) -> None:
    """Waits until all processes are here: what the first one wrote before it, the others see after it."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def find_backbone(path: Path, arm: str | None = None) -> Path:
    """The backbone file meant by a workdir, and perhaps one of its arms, a stage's folder or a file."""
    if not path.exists():
        raise FileNotFoundError(f"no file or folder at '{path}'")
    if path.is_file() or (path / BACKBONE).exists():
        if arm is not None:
            raise ValueError(f"'{path}' is no workdir: it has no arm '{arm}'")
        return path if path.is_file() else path / BACKBONE
    if path.parent.name == "stages" and (path / DONE).exists():
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
        name = arm if arm in finished else file_name(arm)
    if name not in finished:
        raise ValueError(f"'{path}' holds no finished stage of an arm '{arm}' in its own folder: there are {known}")
    return finished[name] / BACKBONE


def _finished_stages(workdir: Path) -> dict[str, Path]:
    """The last finished stage of each arm that has one, by the name of the arm's folder."""
    places = {"curriculum": stages_directory(workdir, "curriculum")}
    places |= {folder.name: folder / "stages" for folder in sorted(workdir.glob("arms/*"))}
    found = {name: sorted(stages.glob(f"*/{DONE}")) for name, stages in places.items()}
    return {name: records[-1].parent for name, records in found.items() if records}
