"""How a run notices that it is asked to stop, and how long it has taken over all its restarts."""

import signal
import time

import jax
import numpy as np

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C) and has saved its state. The same command goes on."""


class Clock:
    """Wall time of a stage over all its restarts."""

    def __init__(self, before: float):
        self.before, self.start = before, time.monotonic()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start


class StopSignal:
    """Notes SIGTERM and Ctrl-C, so that the loop can stop between two steps. A second Ctrl-C interrupts at once."""

    def __enter__(self) -> "StopSignal":
        self._asked = False
        self._previous = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            # None: a handler that was not set from Python and cannot be put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _ask(self, number: int, frame) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def requested(self, *, agree: bool) -> bool:
        """Whether to stop now.

        Args:
          agree: ask the other processes, which all have to do so at the same step; without it several processes go on.
        """
        if jax.process_count() == 1:
            return self._asked
        if not agree:
            return False
        from jax.experimental import multihost_utils

        return bool(np.any(multihost_utils.process_allgather(np.array(self._asked))))
