"""Ends a training early: when a value does not improve any more, or when its time is over."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from aiseeme_jax.task import Task

# Where a training that ended early says so in its record.
ENDED = "ended_early"


@dataclasses.dataclass(frozen=True)
class Watch:
    """What may end a training before its last step.

    Its memory is in the record of each checkpoint. So a training that goes on from a checkpoint ends where it would
    have ended.

    Attributes:
      value: task -> how good it is, higher is better; None if no value is watched. NaN is no improvement.
      keep: called with the task when its value is the best so far.
      every: epochs from one check to the next.
      patience: checks in a row without an improvement after which the training ends.
      least: what the value must rise by to count as an improvement.
      seconds: of training, over all restarts, after which it ends.
    """

    value: Callable[[Task], float] | None = None
    keep: Callable[[Task], None] = lambda task: None
    every: int = 1
    patience: int = 3
    least: float = 0.0
    seconds: float = math.inf

    def is_due(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the value is checked after a step."""
        return self.value is not None and step % (self.every * steps_per_epoch) == 0

    def check(self, task: Task, step: int, record: dict[str, Any]) -> None:
        """Checks the value, and notes in `record` what it was, and that the training ends if it does."""
        value = float(self.value(task))
        checks = [*record.get("checks", []), {"step": step, "value": value if math.isfinite(value) else None}]
        best = record.get("best")
        if math.isfinite(value) and (best is None or value > best["value"] + self.least):
            best = {"step": step, "value": value}
            self.keep(task)
        record |= {"checks": checks, "best": best}
        since = sum(check["step"] > (best["step"] if best else 0) for check in checks)
        if since >= self.patience:
            record[ENDED] = f"no improvement in {since} checks"

    def check_time(self, seconds: float, record: dict[str, Any]) -> None:
        """Notes in `record` that the time is over. All processes ask at the same step, and the slowest one counts."""
        if math.isinf(self.seconds):
            return
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            seconds = float(np.max(multihost_utils.process_allgather(np.array(seconds))))
        if seconds >= self.seconds:
            record[ENDED] = f"{self.seconds:g} seconds are over"
