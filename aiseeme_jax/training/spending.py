"""What a piece of work that is not a training alone spends, for its record: devices, seconds, joules."""

import time
from collections.abc import Mapping
from typing import Any, Self

import jax

from aiseeme_jax.training.energy import Meter


class Spending:
    """Measures from when it was made. As a context it notices each time that a counter of energy begins again."""

    def __init__(self):
        self._start, self._meter = time.monotonic(), Meter()

    def __enter__(self) -> Self:
        self._meter.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._meter.__exit__(*exception)

    def figures(self, training: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The figures of a record: devices, wall time in seconds, and joules, None if they were not measured.

        Args:
          training: the record of a training that is a part of the work. If it was interrupted, it knows what was spent
            before, which this does not.
        """
        seconds, joules = round(time.monotonic() - self._start, 1), self._meter.joules()
        if training:
            seconds = max(seconds, training["seconds"])
            inner = training.get("joules")
            joules = None if joules is None or inner is None else max(joules, inner)
        return {"devices": jax.device_count(), "seconds": seconds, "joules": joules}
