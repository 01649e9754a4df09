"""Where figures, pictures and texts go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

A run of one of these is a training, or an arm with its results. It is found by its folder, so a training that is
resumed goes on in the same one. The libraries are imported when they are used, and at no other time.
"""

import contextlib
import contextvars
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from aiseeme_jax.errors import UserError
from aiseeme_jax.store.keys import make_key, shorten
from aiseeme_jax.training import events

# Name of the project or experiment.
PROJECT = "aiseeme_jax"
TENSORBOARD, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"


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


def _open_tensorboard(directory: Path, title: str, group: str, start_step: int) -> Writer | None:
    return events.writer(directory, start_step=start_step)


WRITERS: Mapping[str, Callable[[Path, str, str, int], Writer | None]] = {
    TENSORBOARD: _open_tensorboard,
    WANDB: WandbWriter,
    MLFLOW: MlflowWriter,
}
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
      start_step: what was written of later steps is replaced.
    """
    if jax.process_index() != 0:
        return []
    names, group = _used.get()
    found = [WRITERS[name](directory, title, group, start_step) for name in names]
    return [writer for writer in found if writer is not None]


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
