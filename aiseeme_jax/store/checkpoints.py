"""Checkpoints of a training. They contain only what does not follow from the step."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import files

CHECKPOINTS = "checkpoints"


class Checkpoints:
    """Checkpoints of one training, written in the background. To open it deletes half-written ones of a killed run."""

    def __init__(self, directory: Path, *, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True, create=True
        )
        # Of the checkpoint that is being written.
        self._bytes: int | None = None
        self._directory = directory
        with self._explain_disk_errors():
            self._manager = ocp.CheckpointManager((directory / CHECKPOINTS).absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        with self._explain_disk_errors():
            self._manager.close()

    def _explain_disk_errors(self) -> files.explain_disk_errors:
        return files.explain_disk_errors(self._directory, self._bytes)

    def save(self, step: int, state: Any, record: Mapping[str, Any]) -> None:
        """Starts to write `state` and a small JSON `record`. Returns when the arrays may be donated."""
        if step in self._manager.all_steps():
            return
        args = self._ocp.args
        # On the CPU the writer would read the buffers that the next step overwrites.
        snapshot = jax.tree.map(jnp.copy, state)
        self._bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(snapshot))
        with self._explain_disk_errors():
            # If orbax cannot make the folder of a checkpoint, its threads wait for that for minutes.
            if jax.process_index() == 0:
                files.check_writable(self._directory)
            self._manager.save(
                step, args=args.Composite(state=args.StandardSave(snapshot), record=args.JsonSave(dict(record)))
            )

    def wait(self) -> None:
        """Waits until all checkpoints are on disk."""
        with self._explain_disk_errors():
            self._manager.wait_until_finished()

    def restore(self, template: Any, mesh: Mesh) -> tuple[Any, dict[str, Any]] | None:
        """The newest complete checkpoint as (state, record), replicated over `mesh`; None if there is none.

        Raises UserError if it is damaged, or is of another state than `template`.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        folder = self._manager.directory / str(step)
        try:
            stored = _leaves(self._ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree)
        except Exception as error:
            raise _damaged(folder, error) from error
        # Checked here, since orbax casts a value of another type silently.
        wanted = _leaves(template)
        differing = [name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name)]
        if differing:
            raise UserError(
                f"{folder} does not fit this program: it was written by another version, or for another config. "
                f"Do not delete it: continue with that version, or start in another --workdir. {len(differing)} arrays "
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
        if not isinstance(found.record, dict):
            raise _damaged(folder, TypeError(f"its record is a {type(found.record).__name__}"))
        return found.state, found.record


def _leaves(tree: Any) -> dict[str, str]:
    """Shape and type of each array by name, of a state or of the metadata of a stored one."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{tuple(leaf.shape)} {leaf.dtype}"
        for path, leaf in leaves
    }


def _damaged(folder: Path, error: Exception) -> UserError:
    # What a library says may fill a page, and the advice must not be buried.
    said = str(error).strip().split("\n")[0][:200]
    return UserError(f"{folder} is damaged; delete it to continue from an earlier checkpoint. ({said})")


def drop_checkpoints(directory: Path) -> None:
    """Deletes the checkpoints of a finished training."""
    if jax.process_index() == 0:
        shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
