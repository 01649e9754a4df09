"""What a person sees of a run: one line that is redrawn on a terminal or in a notebook, plain lines in a log file.

A thread draws it, so that a compilation or a step that lasts minutes does not look like a program that hangs.

rich writes nothing to a file before the end, and tqdm control characters. Here a file gets lines, and a line that is
too long loses its last parts.
"""

import contextlib
import contextvars
import dataclasses
import logging
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

# Seconds between two drawings on a terminal, and between two lines where there is none.
BEAT_SECONDS = 0.5
LINE_SECONDS = 10.0
# Seconds for which the end of a display waits for what is being drawn.
WAITING_SECONDS = 2.0
NOTEBOOK_COLUMNS = 100


@dataclasses.dataclass(frozen=True)
class Outlook:
    """Where a piece of work stands in its run, and what comes after it.

    Attributes:
      title: such as 'arm 2/5 · stage 3/7 simclr'.
      seconds_after: speed of this piece in images per second, NaN if it is not known -> seconds that the rest of the
        run takes, as far as that is known, and whether it is known of all of it.
    """

    title: str
    seconds_after: Callable[[float], tuple[float, bool]]


_outlook: contextvars.ContextVar[Outlook | None] = contextvars.ContextVar("outlook", default=None)
# The displays that are open. The last one is drawn.
_open: list["Display"] = []


@contextlib.contextmanager
def announce(outlook: Outlook) -> Iterator[None]:
    """Within it, what is displayed is displayed as part of a run."""
    token = _outlook.set(outlook)
    try:
        yield
    finally:
        _outlook.reset(token)


class Display:
    """The progress of a training, or with no steps of any work that lasts. A context manager. Only process 0 shows it.

    Args:
      title: of the work, unless it is announced as part of a run.
      total_steps: of the training; 0 for other work, which is shown when it has lasted LINE_SECONDS.
      start_step: steps that were done before.
      batch_size: images of a step.
    """

    def __init__(self, title: str, total_steps: int = 0, *, start_step: int = 0, batch_size: int = 0):
        outlook = _outlook.get()
        self._title = outlook.title if outlook else title
        self._seconds_after = outlook.seconds_after if outlook and total_steps else lambda speed: (0.0, True)
        self._total_steps, self._start_step, self._batch_size = total_steps, start_step, batch_size
        self._form = _choose_form(sys.stderr)
        self._began = time.perf_counter()
        self._shown_at = self._began
        self._step, self._stepped_at, self._loss = start_step, self._began, None
        # The first step that this process finished, after the compilation, and when.
        self._first: tuple[int, float] | None = None
        self._shown_step = start_step
        self._ended = threading.Event()
        _open.append(self)
        if start_step < total_steps:
            self.draw()
        self._thread = threading.Thread(target=self._draw_again, daemon=True)
        self._thread.start()

    def advance(self, step: int, loss: Any = None) -> None:
        """Notes that a step is done. A step before the last one that was noted changes nothing.

        Args:
          loss: of the step; a number or an array, which is read when it is drawn.
        """
        if step < self._step:
            return
        now = time.perf_counter()
        self._step, self._stepped_at = step, now
        self._loss = self._loss if loss is None else loss
        if self._first is None and step > self._start_step:
            self._first = step, now
        # At once: what follows the last step may take a while.
        if step >= self._total_steps and self._shown_step < step:
            self.draw()

    def print(self, text: str) -> None:
        """A line of its own, above the progress."""
        self._form.print(text)

    def draw(self) -> None:
        """Draws the progress as it is now."""
        self._shown_at, self._shown_step = time.perf_counter(), self._step
        self._form.draw(self.describe())

    def describe(self) -> list[str]:
        """The parts of the line, the most important one first."""
        now = time.perf_counter()
        elapsed = duration(now - self._began)
        if not self._total_steps:
            return [self._title, elapsed]
        if self._first is None:
            return [self._title, "compiling", elapsed]
        parts = [self._title, f"{math.floor(100 * self._step / self._total_steps):3d} %"]
        speed = self._measure_speed()
        if self._step >= self._total_steps:
            parts.append(f"in {duration(self._stepped_at - self._began)}")
        elif speed:
            parts.append(self._describe_rest(speed, now))
        parts += [f"{speed:,.0f} img/s"] if speed else []
        parts += [] if self._loss is None else [f"loss {float(np.asarray(self._loss)):.4g}"]
        return [*parts, f"step {self._step:,}/{self._total_steps:,}"]

    def _describe_rest(self, speed: float, now: float) -> str:
        left = (self._total_steps - self._step) * self._batch_size / speed
        # It counts down while a step lasts.
        left = max(left - (now - self._stepped_at), 0.0)
        after, complete = self._seconds_after(speed)
        whole = f" ({'' if complete else 'over '}{duration(left + after)} in all)" if after else ""
        return f"{duration(left)} left{whole}"

    def _measure_speed(self) -> float | None:
        """Images per second since the first step of this process was done; None before the second one."""
        step, at = self._first
        if self._step <= step or self._stepped_at <= at:
            return None
        return (self._step - step) * self._batch_size / (self._stepped_at - at)

    def _draw_again(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self.beat()

    def beat(self) -> None:
        """Draws if it is time to. Work without steps that is over in a moment is not shown."""
        now = time.perf_counter()
        lasting = self._form.redraws and (self._total_steps or now - self._began >= 1)
        if _open[-1:] == [self] and (lasting or now - self._shown_at >= LINE_SECONDS):
            self.draw()

    def close(self) -> None:
        """Draws what was not drawn yet, and leaves the line of a training as it is; a second call does nothing.

        If the terminal takes no text, which the drawing thread waits for, it is left as it is.
        """
        if self._ended.is_set():
            return
        # Ctrl-C may come within this: what is not open any more must not be drawn again.
        try:
            self._ended.set()
            self._thread.join(WAITING_SECONDS)
            if self._total_steps and self._shown_step < self._step and not self._thread.is_alive():
                self.draw()
        finally:
            _open.remove(self)
            if not self._thread.is_alive():
                self._form.close(keep=bool(self._total_steps))

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class Lines:
    """Plain lines, for log files and pipes."""

    redraws = False

    def __init__(self, stream: Any):
        self.stream, self.lock = stream, threading.RLock()

    def draw(self, parts: list[str]) -> None:
        self.write("  ".join(parts) + "\n")

    def print(self, text: str) -> None:
        self.write(f"{text}\n")

    def close(self, *, keep: bool) -> None:
        """Nothing is to be done: every line is complete."""

    def write(self, text: str) -> None:
        # A terminal that is gone (closed window, broken pipe) must not end a run of days.
        with self.lock, contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
            self.stream.flush()


class Bar(Lines):
    """One line that is redrawn, on a terminal."""

    redraws = True

    def __init__(self, stream: Any):
        super().__init__(stream)
        self.drawn = ""

    def count_columns(self) -> int:
        return shutil.get_terminal_size().columns

    def erase(self) -> str:
        """What clears the line."""
        return "\r\x1b[K"

    def draw(self, parts: list[str]) -> None:
        with self.lock:
            text = fit(parts, self.count_columns() - 1)
            if text != self.drawn:
                self.write(self.erase() + text)
            self.drawn = text

    def print(self, text: str) -> None:
        with self.lock:
            self.write(f"{self.erase()}{text}\n{self.drawn}")

    def close(self, *, keep: bool) -> None:
        with self.lock:
            if self.drawn:
                self.write("\n" if keep else self.erase())
            self.drawn = ""


class NotebookBar(Bar):
    """One line that is redrawn, below the cell of a notebook, which knows no other control character than the return
    to the beginning of the line.
    """

    def count_columns(self) -> int:
        return NOTEBOOK_COLUMNS

    def erase(self) -> str:
        return "\r" + " " * len(self.drawn) + "\r"


class Messages(Lines):
    """Messages without progress, in all processes but the first."""

    def draw(self, parts: list[str]) -> None:
        pass


def _choose_form(stream: Any) -> Lines:
    if jax.process_index() != 0:
        return Messages(stream)
    if type(stream).__module__.startswith("ipykernel"):
        return NotebookBar(stream)
    return Bar(stream) if stream.isatty() and os.environ.get("TERM") != "dumb" else Lines(stream)


class MessageHandler(logging.StreamHandler):
    """Shows the messages of the program above the progress, if there is any."""

    def emit(self, record: logging.LogRecord) -> None:
        # Taken once, since another thread may close it.
        last = next(iter(_open[-1:]), None)
        if last is not None:
            last.print(self.format(record))
        else:
            super().emit(record)


def fit(parts: list[str], columns: int) -> str:
    """As many parts as have room in a line, from the left; of the first one what has room."""
    text = parts[0][:columns]
    for part in parts[1:]:
        if len(text) + 2 + len(part) > columns:
            break
        text = f"{text}  {part}"
    return text


def duration(seconds: float) -> str:
    """Seconds in words, in the two largest units: '45 s', '1 min 20 s', '2 h 5 min', '3 d 4 h'."""
    left = round(seconds)
    for size, name, smaller, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if left >= size:
            rest = left % size // smaller
            return f"{left // size} {name}" + (f" {rest} {below}" if rest else "")
    return f"{left} s"
