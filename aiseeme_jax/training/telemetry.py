"""What a training reports while it runs: metrics.jsonl, TensorBoard or another writer, progress.

`log` gets the number of updates that are complete and values that are already on the host, so nothing here waits for
the accelerator or delays training: a thread writes the events, and a line of JSON is appended and flushed. The files of
a killed training can be read, and a resumed one continues them after its `start_step`. Only process 0 writes.
"""

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float

from aiseeme_jax.training.display import Display
from aiseeme_jax.training.journal import METRICS, Journal
from aiseeme_jax.training.writers import Writer, open_writers

# A step, and the seconds on the clock when it was logged.
Mark = tuple[int, float]


class Telemetry:
    """Writes and shows the metrics of one stage; a context manager, closed when the stage fails, too."""

    def __init__(
        self,
        directory: Path,
        *,
        total_steps: int,
        batch_size: int,
        title: str,
        start_step: int = 0,
        writers: bool = True,
    ):
        """Writes into `directory`, which is made if absent; `writers` says whether also to the writers in use.

        Of the `total_steps` of the stage, `start_step` were complete before this process began. `batch_size`
        counts the images of a step over all devices and processes. `title` stands before the progress.
        """
        self._step = start_step
        self._throughput = _Throughput(start_step, total_steps, batch_size)
        self._warned: set[str] = set()
        self._journal = self._display = None
        self._writers: list[Writer] = []
        if jax.process_index() != 0:
            return
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(directory / METRICS, start_step)
        self._display = Display(title, total_steps, start_step=start_step, batch_size=batch_size)
        self._writers = open_writers(directory, title, start_step) if writers else []

    @property
    def images_per_second(self) -> float | None:
        """Mean speed since the first log call, which ends the compilation; None before the second one."""
        return self._throughput.mean

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records metrics after `step` updates, with images_per_second and seconds_left once known."""
        metrics = {name: float(value) for name, value in metrics.items()} | self._throughput.at(step)
        self._step = step
        if self._journal:
            finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            self._journal.write({"step": step} | finite)
            self._display.advance(step, metrics.get("loss"))
        for writer in self._writers:
            writer.write_scalars(step, metrics)

    def advance(self, step: int, loss: Float[Array, ""]) -> None:
        """Shows that a step is done, between two log calls too."""
        if self._display:
            self._display.advance(step, loss)

    def images(self, step: int, images: Mapping[str, Float[np.ndarray, "n h w c"]]) -> None:
        """Sends batches of images with values in 0 … 1 to the writers."""
        finite = {name: np.nan_to_num(np.asarray(batch, np.float32)) for name, batch in images.items()}
        for writer in self._writers:
            writer.write_images(step, {name: np.clip(batch, 0, 1) for name, batch in finite.items()})

    def warn(self, text: str, *, topic: str = "") -> None:
        """Shows and records a warning, at the step of the last log call; of one `topic`, the first only."""
        if topic in self._warned:
            return
        self._warned |= {topic} - {""}
        if self._journal:
            self._journal.write({"step": self._step, "warning": text})
            self._display.print(f"warning: {text}")
        for writer in self._writers:
            writer.write_texts(self._step, {"warning": text})

    def close(self) -> None:
        """Writes what is pending; a second call does nothing."""
        resources = [resource for resource in (self._journal, self._display, *self._writers) if resource]
        self._journal, self._display, self._writers = None, None, []
        with contextlib.ExitStack() as stack:  # closes the rest, too, if one of them fails
            for resource in resources:
                stack.callback(resource.close)

    def __enter__(self) -> "Telemetry":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class _Throughput:
    """Speed between log calls and time left; the first interval holds the compilation and does not count."""

    def __init__(self, start_step: int, total_steps: int, batch_size: int):
        self._start_step, self._total_steps, self._batch_size = start_step, total_steps, batch_size
        self._first = self._last = None

    @property
    def mean(self) -> float | None:
        return self._images_per_second(self._first, self._last)

    def at(self, step: int) -> dict[str, float]:
        now = (step, time.perf_counter())
        if self._last is None and step > self._start_step:
            self._first = self._last = now
        if self._last is None or step <= self._last[0]:
            return {}
        speed, self._last = self._images_per_second(self._last, now), now
        if speed is None:
            return {}
        left = max(self._total_steps - step, 0) * self._batch_size / self.mean
        return {"images_per_second": speed, "seconds_left": left}

    def _images_per_second(self, begin: Mark | None, end: Mark | None) -> float | None:
        if begin is None or end[1] <= begin[1]:
            return None
        return (end[0] - begin[0]) * self._batch_size / (end[1] - begin[1])
