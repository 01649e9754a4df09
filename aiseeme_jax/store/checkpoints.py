"""Checkpoints of a training. They contain only what does not follow from the step.

A checkpoint has a record with a checksum: the names, shapes and types of its arrays, their hash, and what the training
says about itself. Whoever restores it compares all of them. The libraries below read changed bytes without a word.
"""

import contextlib
import gc
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import files, records
from aiseeme_jax.store.keys import tree_hash

CHECKPOINTS = "checkpoints"
# How many of a training are kept.
KEPT = 2
# A file of orbax's in the folder of each step.
METADATA = "_CHECKPOINT_METADATA"


class Checkpoints:
    """Checkpoints of one training, written in the background. To open it deletes half-written ones of a killed run."""

    def __init__(self, directory: Path, *, keep: int = KEPT):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True, create=True
        )
        # Of the checkpoint that is being written.
        self._bytes: int | None = None
        self._directory = directory
        with self._explain_disk_errors(), _telling_damaged_metadata(directory):
            self._manager = ocp.CheckpointManager((directory / CHECKPOINTS).absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        with self._explain_disk_errors():
            self._manager.close()

    def _explain_disk_errors(self) -> files.explain_disk_errors:
        return files.explain_disk_errors(self._directory, self._bytes)

    def save(self, step: int, state: Any, record: Mapping[str, Any]) -> None:
        """Starts to write `state`, which is replicated, and a small JSON `record`.

        Returns when the arrays may be donated.
        """
        if step in self._manager.all_steps():
            return
        args = self._ocp.args
        # On the CPU the writer would read the buffers that the next step overwrites.
        snapshot = jax.tree.map(jnp.copy, state)
        # The state is replicated, so every process has all of it. The first one writes the record.
        found = "" if jax.process_index() else tree_hash(snapshot)
        whole = records.add_checksum({"arrays": _describe_arrays(snapshot), "hash": found, "training": dict(record)})
        self._bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(snapshot))
        with self._explain_disk_errors():
            # If orbax cannot make the folder of a checkpoint, its threads wait for that for minutes.
            if jax.process_index() == 0:
                files.check_writable(self._directory)
            self._manager.save(
                step, args=args.Composite(state=args.StandardSave(snapshot), record=args.JsonSave(whole))
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
        args = self._ocp.args
        record = self._read_record(step)
        self._compare_arrays(step, record["arrays"], _describe_arrays(template))
        everywhere = NamedSharding(mesh, PartitionSpec())
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), template)
        state = self._read(step, state=args.StandardRestore(abstract)).state
        if tree_hash(state) != record["hash"]:
            raise self._damaged(step, "its arrays do not have the hash in its record")
        return state, record["training"]

    def _read_record(self, step: int) -> dict[str, Any]:
        found = self._read(step, record=self._ocp.args.JsonRestore()).record
        try:
            return records.check_content(records.require_object(found))
        except ValueError as error:
            raise self._damaged(step, f"its record is not whole: {error}") from None

    def _compare_arrays(self, step: int, then: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Raises UserError if a checkpoint has other arrays than the state of this program."""
        differing = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        if differing:
            raise UserError(
                f"{self._folder(step)} does not fit this program: it was written by another version, or for another "
                f"config. Do not delete it: continue with that version, or start in another --workdir. "
                f"{len(differing)} arrays differ, such as {differing[0]}: "
                f"{then.get(differing[0], '(absent)')} -> {now.get(differing[0], '(absent)')}"
            )

    def _read(self, step: int, **parts: Any) -> Any:
        """Reads parts of a checkpoint. Raises UserError if a library cannot."""
        with _hushing_abandoned_reads():
            try:
                return self._manager.restore(step, args=self._ocp.args.Composite(**parts))
            except (MemoryError, jax.errors.JaxRuntimeError):
                raise
            except Exception as error:
                # Libraries raise errors of many kinds on damaged bytes. What they say may fill a page.
                said = str(error).strip().split("\n")[0][:200]
            # The error holds the reads that were under way: they are dropped here, where nobody tells of them.
            gc.collect()
            raise self._damaged(step, said)

    def _damaged(self, step: int, why: str) -> UserError:
        folder = self._folder(step)
        earlier = max((other for other in self._manager.all_steps() if other < step), default=None)
        place = "anew" if earlier is None else f"from the checkpoint of step {earlier}"
        return UserError(
            f"{folder} is damaged: `rm -r {shlex.quote(str(folder))}` deletes it, and then the same command goes on "
            f"{place}, to the same result. ({why})"
        )

    def _folder(self, step: int) -> Path:
        return Path(self._manager.directory / str(step))


def _describe_arrays(tree: Any) -> dict[str, str]:
    """Shape and type of each array of a state, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{tuple(leaf.shape)} {leaf.dtype}"
        for path, leaf in leaves
    }


@contextlib.contextmanager
def _telling_damaged_metadata(directory: Path) -> Iterator[None]:
    """Makes a UserError of what orbax says if the file that it keeps beside the arrays of a step is damaged."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        damaged = [path for path in sorted((directory / CHECKPOINTS).glob(f"*/{METADATA}")) if not _is_object(path)]
        if not damaged:
            raise
        raise UserError(
            f"{damaged[0]} is damaged: delete this file, and the same command goes on. Nothing else needs it. ({error})"
        ) from error


@contextlib.contextmanager
def _hushing_abandoned_reads() -> Iterator[None]:
    """Keeps orbax and TensorStore from printing pages about reads that they gave up, since another one failed.

    They would bury the message. Some of them end late, so after an error the hook stays.
    """
    before = sys.unraisablehook

    def tell_others(found: Any) -> None:
        abandoned = "orbax" in repr(found.object) or "_read_array_index" in repr(found.object)
        if not abandoned and str(found.exc_value) != "Event loop is closed":
            before(found)

    asyncio = logging.getLogger("asyncio")
    sys.unraisablehook, asyncio.disabled = tell_others, True
    yield
    sys.unraisablehook, asyncio.disabled = before, False


def _is_object(path: Path) -> bool:
    try:
        return bool(records.parse_object(path.read_bytes()))
    except ValueError:
        return False


def drop_checkpoints(directory: Path) -> None:
    """Deletes the checkpoints of a finished training, and of those that have folders of their own in its folder."""
    if jax.process_index() == 0:
        for folder in list(directory.rglob(CHECKPOINTS)):
            shutil.rmtree(folder, ignore_errors=True)
