"""Where figures, pictures and texts go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

A run of one of these is a training, or an arm with its results. It is found by its folder, so a training that is
resumed goes on in the same one. Of the steps that a killed training repeats, TensorBoard has the new figures, Weights &
Biases the old ones, and MLflow both. The libraries are imported when they are used, and at no other time.
"""

import contextlib
import contextvars
import functools
import importlib.util
import logging
import math
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from aiseeme_jax.errors import UserError
from aiseeme_jax.store.keys import make_key, shorten
from aiseeme_jax.training import events

log = logging.getLogger(__name__)

# Name of the project or experiment.
PROJECT = "aiseeme_jax"
TENSORBOARD, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"
# What may wait to be sent to a service, in calls of a writer. Beyond that, it is not sent.
PENDING = 10_000
# Seconds for which the end of a training waits until everything is sent.
CLOSING_SECONDS = 10.0


class Writer(Protocol):
    """What can be written to; `step` counts updates."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes figures."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes batches of images [N, H, W, C] with values in 0 … 1."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts in Markdown."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes what the run was made with: numbers and texts."""

    def close(self) -> None:
        """Writes what is pending."""


class WandbWriter:
    """Writes to Weights & Biases."""

    def __init__(self, directory: Path, title: str, group: str, start_step: int):
        import wandb

        directory.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            project=PROJECT,
            group=group,
            name=title,
            id=name_run(directory),
            dir=os.fspath(directory),
            # Without it, what the run had before is replaced.
            resume="allow" if start_step else None,
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._run.log({name: [self._wandb.Image(one) for one in batch] for name, batch in images.items()}, step=step)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._run.summary.update(dict(texts))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._run.config.update(dict(hparams), allow_val_change=True)

    def close(self) -> None:
        self._run.finish()


class MlflowWriter:
    """Writes to MLflow, where MLFLOW_TRACKING_URI says."""

    def __init__(self, directory: Path, title: str, group: str, start_step: int):
        from mlflow import MlflowClient

        self._client, folder = MlflowClient(), name_run(directory)
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        found = self._client.search_runs([experiment], filter_string=f"tags.folder = '{folder}'")
        tags = {"folder": folder, "group": group}
        run = found[0] if found else self._client.create_run(experiment, run_name=title, tags=tags)
        self._id = run.info.run_id

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            # Its data bases have no place for what is not finite.
            if math.isfinite(value):
                self._client.log_metric(self._id, _allow(name), float(value), step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for name, batch in images.items():
            for place, one in enumerate(batch):
                self._client.log_image(self._id, one, artifact_file=f"{_allow(name)}-{step}-{place}.png")

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self._client.log_text(self._id, text, f"{_allow(name)}-{step}.md")

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        # Not parameters, which can never be changed.
        for name, value in hparams.items():
            self._client.set_tag(self._id, _allow(name), value)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class QueuedWriter:
    """Writes to a service in the network, from a thread of its own, in which the writer is opened too.

    A service that fails, or does not answer, neither ends nor delays what is written about: the first error is logged,
    and what cannot be written is left out.

    Attributes:
      lost: whether something could not be written.

    Args:
      name: of the service and of the run, for the message.
      open_writer: opens the writer.
    """

    def __init__(self, name: str, open_writer: Callable[[], Writer]):
        self.lost, self._name, self._open_writer = False, name, open_writer
        self._calls: queue.Queue[tuple[str, tuple]] = queue.Queue(PENDING)
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._put("write_scalars", step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._put("write_images", step, images)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._put("write_texts", step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._put("write_hparams", hparams)

    def close(self) -> None:
        """Waits until everything is written, for CLOSING_SECONDS at most; what is pending then is written later, or
        lost if the program ends before.
        """
        self._put("close")
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            self._lose("it does not answer")

    def _put(self, method: str, *arguments: Any) -> None:
        if self._thread.is_alive():
            try:
                self._calls.put_nowait((method, arguments))
            except queue.Full:
                self._lose("it does not answer")

    def _write(self) -> None:
        try:
            writer = self._open_writer()
        except Exception as error:
            self._lose(repr(error))
            return
        method = ""
        while method != "close":
            method, arguments = self._calls.get()
            try:
                getattr(writer, method)(*arguments)
            except Exception as error:
                self._lose(repr(error))

    def _lose(self, why: str) -> None:
        if not self.lost:
            log.warning("%s does not get everything: %s. The run goes on; its own files are complete", self._name, why)
        self.lost = True


def _open_tensorboard(directory: Path, title: str, group: str, start_step: int) -> Writer | None:
    return events.writer(directory, start_step=start_step)


WRITERS: Mapping[str, Callable[[Path, str, str, int], Writer | None]] = {
    TENSORBOARD: _open_tensorboard,
    WANDB: WandbWriter,
    MLFLOW: MlflowWriter,
}
# Those that send what they get through a network, to a service that may be slow or away.
SERVICES = (WANDB, MLFLOW)
_used: contextvars.ContextVar[tuple[tuple[str, ...], str]] = contextvars.ContextVar(
    "writers", default=((TENSORBOARD,), "")
)


@contextlib.contextmanager
def use(names: Sequence[str], group: str) -> Iterator[None]:
    """Within it, `open_writers` opens these writers.

    Args:
      group: what the runs belong to, such as the name of the workdir.
    """
    token = _used.set((tuple(names), group))
    try:
        yield
    finally:
        _used.reset(token)


def open_writers(directory: Path, title: str, start_step: int) -> list[Writer]:
    """Opens the writers that are in use, in the first process alone.

    Args:
      directory: of the training or of what else the run is.
      title: for the reader.
      start_step: what TensorBoard has of later steps is replaced.
    """
    if jax.process_index() != 0:
        return []
    names, group = _used.get()
    found = []
    for name in names:
        open_writer = functools.partial(WRITERS[name], directory, title, group, start_step)
        found.append(QueuedWriter(f"{name} of {title}", open_writer) if name in SERVICES else open_writer())
    return [writer for writer in found if writer is not None]


def list_used() -> tuple[str, ...]:
    """The names of the writers that are in use."""
    return _used.get()[0]


def check_writers(names: Sequence[str]) -> None:
    """Raises UserError for a writer that is not known or not installed. Without TensorBoard a run goes on."""
    for name in names:
        if name not in WRITERS:
            raise UserError(f"runtime.writers has '{name}': known are {', '.join(WRITERS)}")
        if name != TENSORBOARD and importlib.util.find_spec(name) is None:
            raise UserError(f"runtime.writers has '{name}', which is not installed: pip install {name}")


def name_run(directory: Path) -> str:
    """Name of the run of a folder, which no other folder has."""
    return f"{directory.name}-{shorten(make_key({'folder': os.path.abspath(directory)}))}"


def _allow(name: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. /]", "_", name)
