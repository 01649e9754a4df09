"""What a run says while it runs: metrics.jsonl, TensorBoard events, progress, the health of its features.

Contract: `log(step, …)` is told how many updates are complete and values that are already on the host, so
nothing here waits for the accelerator or holds up training: events are written by a thread, a line of JSON is
appended and flushed. metrics.jsonl holds one object per line, {"step": int, name: number or null, …} or
{"step": int, "warning": text}; null stands for a value that is not finite. Whatever a killed run left is
readable, and a resumed one goes on after what lies up to its `start_step`. Only process 0 writes.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aiseeme_jax.store import files
from aiseeme_jax.training import events

METRICS = "metrics.jsonl"
BAR_SECONDS = 0.1  # a terminal need not be redrawn more often,
LINE_SECONDS = 5.0  # nor a log file filled
HEALTH_ROWS = 512
COLLAPSED_STD = 0.05  # the mean cosine between two images' features is then above .9975
COLLAPSED_RANK = 1.5

Mark = tuple[int, float]  # a step, and the seconds on the clock when it was logged


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
        """Writes into `directory`, which is made if absent; `writers` says whether also TensorBoard events.

        Of the `total_steps` of the stage, `start_step` were complete before this process began. `batch_size`
        counts the images of a step over all devices and processes. `title` stands before the progress.
        """
        self._step = start_step
        self._throughput = _Throughput(start_step, total_steps, batch_size)
        self._warned: set[str] = set()
        self._journal = self._display = self._events = None
        if jax.process_index() != 0:
            return
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._journal = _Journal(directory / METRICS, start_step)
        self._display = _Display(title, total_steps)
        self._events = events.writer(directory, start_step=start_step) if writers else None

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
            self._display.show(step, metrics)
        if self._events:
            self._events.write_scalars(step, metrics)

    def images(self, step: int, images: Mapping[str, Float[np.ndarray, "n h w c"]]) -> None:
        """Sends batches of images with values in 0 … 1 to TensorBoard."""
        if self._events:
            finite = {name: np.nan_to_num(np.asarray(batch, np.float32)) for name, batch in images.items()}
            self._events.write_images(step, {name: np.clip(batch, 0, 1) for name, batch in finite.items()})

    def warn(self, text: str, *, topic: str = "") -> None:
        """Shows and records a warning, at the step of the last log call; of one `topic`, the first only."""
        if topic in self._warned:
            return
        self._warned |= {topic} - {""}
        if self._journal:
            self._journal.write({"step": self._step, "warning": text})
            self._display.print(f"warning: {text}")
        if self._events:
            self._events.write_texts(self._step, {"warning": text})

    def close(self) -> None:
        """Writes what is pending; a second call does nothing."""
        resources = [resource for resource in (self._journal, self._display, self._events) if resource]
        self._journal = self._display = self._events = None
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


class _Journal:
    """metrics.jsonl: appended and flushed line by line; a kill costs at most the line being written."""

    def __init__(self, path: Path, start_step: int):
        if path.exists():
            kept = [line for line in path.read_bytes().splitlines() if _is_before(line, start_step)]
            with files.replaced(path) as shorter:
                shorter.write_bytes(b"".join(line + b"\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Display:
    """One line that redraws itself on a terminal; elsewhere lines now and then, always the first and last."""

    def __init__(self, title: str, total_steps: int):
        self._title, self._total_steps = title, total_steps
        self._stream = sys.stderr
        self._terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._shown_at = -math.inf
        self._drawn = ""  # the bar now on the terminal
        self._pending = ""  # what was last to be shown but came too soon

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        text = progress_line(self._title, step, self._total_steps, metrics, bar=self._terminal)
        wait = BAR_SECONDS if self._terminal else LINE_SECONDS
        if step < self._total_steps and time.perf_counter() - self._shown_at < wait:
            self._pending = text
        else:
            self._draw(text)

    def print(self, text: str) -> None:
        """A line of its own, above the bar."""
        clear, again = ("\r\x1b[K", self._drawn) if self._terminal else ("", "")
        self._write(f"{clear}{text}\n{again}")

    def close(self) -> None:
        if self._pending:
            self._draw(self._pending)
        if self._drawn:
            self._write("\n")

    def _draw(self, text: str) -> None:
        self._shown_at, self._pending = time.perf_counter(), ""
        if self._terminal:
            self._drawn = text[: shutil.get_terminal_size().columns - 1]
            self._write(f"\r\x1b[K{self._drawn}")
        else:
            self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        # A terminal that is gone (closed window, broken pipe) must not end a run of days.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def progress_line(title: str, step: int, total_steps: int, metrics: Mapping[str, float], *, bar: bool) -> str:
    """Title, bar, percent, steps, and of the metrics loss, learning_rate, images_per_second, seconds_left."""
    done = min(step / total_steps, 1.0) if total_steps else 1.0
    parts = [title] + ([f"[{'#' * int(done * 20):-<20}]"] if bar else [])
    parts += [f"{int(100 * done):3d} %", f"{step:{len(str(total_steps))}d}/{total_steps}"]
    known = {"loss": "loss {:.4f}", "learning_rate": "lr {:.3g}", "images_per_second": "{:,.0f} images/s"}
    parts += [pattern.format(metrics[name]) for name, pattern in known.items() if name in metrics]
    if "seconds_left" in metrics and step < total_steps:
        parts.append(f"{duration(metrics['seconds_left'])} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in words, in the two largest units: '45 s', '1 min 20 s', '2 h 5 min', '3 d 4 h'."""
    left = round(seconds)
    for size, name, smaller, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if left >= size:
            rest = left % size // smaller
            return f"{left // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{left} s"


@jax.jit
def feature_health(features: Float[Array, "batch dim"]) -> dict[str, Float[Array, ""]]:
    """Two measures of collapse, over the first 512 rows. Rows that are not finite make them NaN.

    feature_std: standard deviation over the batch of the L2-normalised features, mean over dimensions, times
        sqrt(dim): 1 for an isotropic cloud, 0 where all images look alike (Chen & He, arXiv 2011.10566, 4.1).
    effective_rank: exp(entropy) of the singular values, scaled to sum to 1, of the centred features, from 1
        to min(batch - 1, dim); 0 where nothing varies (Roy & Vetterli, EUSIPCO 2007, section 2).
    """
    rows = features[:HEALTH_ROWS].astype(jnp.float32)
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / jnp.where(length == 0, 1, length)
    feature_std = jnp.mean(jnp.std(unit, axis=0)) * jnp.sqrt(rows.shape[1])
    values = jnp.linalg.svd(rows - jnp.mean(rows, axis=0), compute_uv=False)
    # What rounding leaves of constant features is not a direction: below it counts as nothing.
    noise = 10 * jnp.finfo(jnp.float32).eps * jnp.linalg.norm(rows)
    values = jnp.where(values <= noise, 0, values)
    total = jnp.sum(values)
    shares = values / jnp.where(total == 0, 1, total)
    entropy = -jnp.sum(jax.scipy.special.xlogy(shares, shares))
    return {"feature_std": feature_std, "effective_rank": jnp.where(total == 0, 0, jnp.exp(entropy))}


def collapse_warning(health: Mapping[str, float]) -> str | None:
    """What is wrong with features of this health, or None. Waits for values still being computed."""
    std, rank = float(health["feature_std"]), float(health["effective_rank"])
    if not (math.isfinite(std) and math.isfinite(rank)):
        return "the features are not finite"
    if std >= COLLAPSED_STD and rank >= COLLAPSED_RANK:
        return None
    how = "all images get nearly the same" if std < COLLAPSED_STD else "they vary along a single direction"
    return f"the features collapse, {how} (feature_std {std:.2g}, effective_rank {rank:.2g})"


def _is_before(line: bytes, start_step: int) -> bool:
    """Whether a line is whole and from a step that is not run again."""
    try:
        return 0 < start_step and json.loads(line)["step"] <= start_step
    except (ValueError, KeyError, TypeError):
        return False
