"""Progress in the terminal, or line by line in a log file."""

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping

# Seconds between two drawings of the bar, and between two lines where there is no terminal.
BAR_SECONDS = 0.1
LINE_SECONDS = 5.0


class Display:
    """One line that is redrawn on a terminal; elsewhere a line every few seconds, always the first and the last."""

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
