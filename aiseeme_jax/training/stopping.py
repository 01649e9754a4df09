"""How a run notices that it is asked to stop, and how long it has taken over all its restarts."""

import logging
import os
import signal
import threading
import time

import jax
import numpy as np

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What the thread that answers signals reads when it is to end. No signal has this number.
END = 0


class Preempted(Exception):
    """The run was asked to stop (SIGTERM, Ctrl-C) and has saved its state. The same command goes on.

    Attributes:
      exit_code: of the program, as shells and schedulers expect it: 128 and the number of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class Clock:
    """Wall time of a stage over all its restarts."""

    def __init__(self, before: float):
        self.before, self.start = before, time.monotonic()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start


class StopSignal:
    """Notes SIGTERM and Ctrl-C, so that the loop can stop between two steps. A second Ctrl-C interrupts at once.

    Python handles a signal when the present step or compilation gives it back the word, which may take a minute. So a
    thread of its own answers the user.
    """

    def __enter__(self) -> "StopSignal":
        self._asked = 0
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._answering = threading.Thread(target=self._answer, daemon=True)
        self._answering.start()
        self._previous = {number: signal.signal(number, self._ask) for number in SIGNALS}
        self._previous_writing = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exception) -> None:
        signal.set_wakeup_fd(self._previous_writing)
        for number, handler in self._previous.items():
            # None: a handler that was not set from Python and cannot be put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        os.write(self._writing, bytes([END]))
        self._answering.join()
        os.close(self._reading)
        os.close(self._writing)

    def _ask(self, number: int, frame) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = self._asked or number

    def _answer(self) -> None:
        """Says at each signal what happens next, until it reads END."""
        answered = False
        while (number := os.read(self._reading, 1)[0]) != END:
            if number not in SIGNALS or (answered and number != signal.SIGINT):
                continue
            log.info("%s", "stopping without saving" if answered else _describe_stop(number))
            answered = True

    def requested(self, *, agree: bool) -> int:
        """The number of the signal that asks to stop now; 0 if none does.

        Args:
          agree: ask the other processes, which all have to do so at the same step; without it several processes go on.
        """
        if jax.process_count() == 1:
            return self._asked
        if not agree:
            return 0
        from jax.experimental import multihost_utils

        return int(np.max(multihost_utils.process_allgather(np.array(self._asked))))


def _describe_stop(number: int) -> str:
    when = "after this step" if jax.process_count() == 1 else "after the next step that is logged, with all processes"
    again = "; again to stop without saving" if number == signal.SIGINT else ""
    return f"stopping {when}{again}"
