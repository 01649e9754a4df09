"""TensorBoard events, written by clu. A run that is killed and resumed has one time line.

clu's writer needs tensorflow, which is imported when a writer is made and at no other time. Without it there are no
events, and one message says so. Only process 0 writes.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger(__name__)

FILES = "events.out.tfevents.*"


def writer(directory: Path, *, start_step: int) -> Any | None:
    """clu's writer on its own thread, or None.

    Args:
      directory: holds the event files.
      start_step: what earlier processes wrote of later steps is removed, since those steps are run again.
    """
    # tensorflow would otherwise talk into the progress bar while it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if jax.process_index() != 0:
        return None
    try:
        from clu import metric_writers
    except ImportError as error:
        _warn_once(str(error))
        return None

    import tensorflow

    class PromptWriter(metric_writers.SummaryWriter):
        """Flushes after each write, on the writer's thread: a kill then costs no more than in the JSONL."""

        def write_scalars(self, *args, **kwargs):
            super().write_scalars(*args, **kwargs)
            self.flush()

    with contextlib.suppress(RuntimeError):  # tensorflow is already in use, and has the memory it wants
        tensorflow.config.set_visible_devices([], "GPU")
    _remove_after(tensorflow, directory, start_step)
    return metric_writers.AsyncWriter(PromptWriter(os.fspath(directory)))


@functools.cache
def _warn_once(reason: str) -> None:
    log.warning("No TensorBoard events: %s. `pip install clu tensorboard tensorflow-cpu` adds them.", reason)


def _remove_after(tensorflow: Any, directory: Path, step: int) -> None:
    """Removes the steps after `step` from the event files of a folder; at 0, before any step, the files."""
    for path in sorted(directory.glob(FILES)):
        if not step:
            path.unlink()
            continue
        # Not by the file's name with something added: TensorBoard would read what a kill left of it.
        shorter = directory / ".shorter"
        with tensorflow.io.TFRecordWriter(os.fspath(shorter)) as file:
            for record in _read_records(tensorflow, path):
                if tensorflow.compat.v1.Event.FromString(record).step <= step:
                    file.write(record)
        os.replace(shorter, path)


def _read_records(tensorflow: Any, path: Path) -> Iterator[bytes]:
    """The records of a file, up to one that a kill has cut off."""
    with contextlib.suppress(tensorflow.errors.DataLossError):
        yield from tensorflow.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator()
