"""How a run notices that it is asked to stop, and how long it has taken over all its restarts."""

import signal
import time

import jax


class Preempted(Exception):
    """The run was asked to stop (SIGTERM) and has saved; the same command goes on."""


class Clock:
    """Wall time of a stage over all its restarts."""

    def __init__(self, before: float):
        self.before, self.start = before, time.monotonic()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start


class StopSignal:
    """Turns SIGTERM into a question the loop asks between steps; all processes agree on the step."""

    def __enter__(self) -> "StopSignal":
        self._asked = False
        self._previous = signal.signal(signal.SIGTERM, self._ask) if jax.process_count() == 1 else None
        return self

    def __exit__(self, *exception) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _ask(self, *_) -> None:
        self._asked = True

    def requested(self, step: int) -> bool:
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)
