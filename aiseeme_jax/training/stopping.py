"""How a run notices that it is asked to stop, and how long it has taken over all its restarts."""

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, Self

import jax
import numpy as np

from aiseeme_jax.errors import Terminated

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What the thread that answers signals reads when it is to end. No signal has this number.
END = 0
# Seconds that a program may take to end by itself after it was asked to end at once.
GRACE_SECONDS = 5.0
# Seconds for which a message, or the end of what is written, is waited for before the program goes on without it.
TELLING_SECONDS = 1.0
# Seconds for which the first process lets the others end.
LINGER_SECONDS = 1


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


class AnsweredSignals:
    """Handles SIGTERM and Ctrl-C, and answers them at once. A context manager.

    Python handles a signal when the present step or compilation gives it back the word, which may take minutes. So a
    thread of its own answers the user, and ends the program if that is asked for and takes longer than GRACE_SECONDS.
    """

    def __enter__(self) -> Self:
        self._answered = 0
        self._timer: threading.Timer | None = None
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._answering = threading.Thread(target=self._read, daemon=True)
        self._answering.start()
        self._previous = {number: signal.signal(number, self.handle) for number in SIGNALS}
        self._previous_writing = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exception) -> None:
        signal.set_wakeup_fd(self._previous_writing)
        for number, handler in self._previous.items():
            # None: a handler that was not set from Python and cannot be put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        os.write(self._writing, bytes([END]))
        os.close(self._writing)
        # A terminal that takes no text holds it up. It closes its end of the pipe itself.
        self._answering.join(TELLING_SECONDS)
        if self._timer is not None:
            self._timer.cancel()

    def handle(self, number: int, frame: Any) -> None:
        """Does what a signal asks for, where Python can."""
        raise NotImplementedError

    def answer(self, number: int) -> None:
        """Answers a signal."""
        raise NotImplementedError

    def end_soon(self, number: int) -> None:
        """Ends the program if it has not ended by itself when GRACE_SECONDS are over."""
        self._timer = threading.Timer(GRACE_SECONDS, leave, (128 + number,))
        self._timer.daemon = True
        self._timer.start()

    def _read(self) -> None:
        with open(self._reading, "rb", buffering=0) as pipe:
            while (number := pipe.read(1)[0]) != END:
                # The first one is answered, and a Ctrl-C after it.
                if number in SIGNALS and (not self._answered or (number == signal.SIGINT and self._timer is None)):
                    self.answer(number)
                    self._answered = self._answered or number


class EndSignal(AnsweredSignals):
    """Ends the program, where nothing is trained. There is nothing to save that is not saved."""

    def handle(self, number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def answer(self, number: int) -> None:
        self.end_soon(number)
        try_briefly(lambda: log.info("stopping"))


class StopSignal(AnsweredSignals):
    """Notes that a training is to stop, so that it can do so between two steps. A second Ctrl-C ends it at once.

    A signal after the training's last look at `requested` is sent again at the end, to whoever handles signals then.
    """

    def __enter__(self) -> Self:
        self._asked = 0
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        if self._asked and exception[0] is None:
            signal.raise_signal(self._asked)

    def handle(self, number: int, frame: Any) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = self._asked or number

    def answer(self, number: int) -> None:
        if not self._answered:
            try_briefly(lambda: log.info("%s", _describe_stop(number)))
            return
        self.end_soon(number)
        try_briefly(lambda: log.info("stopping without saving"))

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


def try_briefly(do: Callable[[], None]) -> bool:
    """Does something that may never return, such as writing to a terminal that Ctrl-S holds or to a disk that hangs.

    It is waited for TELLING_SECONDS. Then it goes on in its own thread, which holds up nothing. Returns whether it is
    done.
    """
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(TELLING_SECONDS)
    return not thread.is_alive()


def leave(code: int, said: str = "") -> NoReturn:
    """Ends this process at once.

    A normal end waits for threads of orbax that a full disk has stopped, and for processes of the run that may never
    answer: for minutes.

    Args:
      said: to the user, as the last line.
    """
    for child in multiprocessing.active_children():
        child.terminate()
    try_briefly(functools.partial(_end_output, said))
    if jax.distributed.is_initialized() and jax.process_index() == 0:
        # jax aborts the others as soon as the first process is gone. They may be about to end with a message too.
        time.sleep(LINGER_SECONDS)
    os._exit(code)


def _end_output(said: str) -> None:
    if said:
        print(said, file=sys.stderr)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _describe_stop(number: int) -> str:
    when = "after this step" if jax.process_count() == 1 else "after the next step that is logged, with all processes"
    again = "; again to stop without saving" if number == signal.SIGINT else ""
    return f"stopping {when}{again}"
