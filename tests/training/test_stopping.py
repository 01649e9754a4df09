"""Signals that ask a training to stop."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from aiseeme_jax.errors import Terminated
from aiseeme_jax.training import stopping
from aiseeme_jax.training.stopping import Preempted, StopSignal


def wait_until(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


class Saved(Exception):
    """What a training raises that was asked to stop."""


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_is_noted_and_answered(number, caplog):
    caplog.set_level(logging.INFO, "aiseeme_jax")
    with pytest.raises(Saved), StopSignal() as signals:
        assert not signals.requested(agree=True)
        signal.raise_signal(number)
        wait_until(lambda: caplog.messages)
        assert signals.requested(agree=True) == number
        raise Saved
    again = "; again to stop without saving" if number == signal.SIGINT else ""
    assert caplog.messages == [f"stopping after this step{again}"]


def test_a_second_ctrl_c_interrupts(caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt), StopSignal():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert caplog.messages[-1] == "stopping without saving"


def test_a_second_sigterm_changes_nothing():
    with pytest.raises(Saved), StopSignal() as signals:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert signals.requested(agree=True) == signal.SIGTERM
        raise Saved


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_after_the_last_step_ends_the_run(number, error):
    ended = []
    with pytest.raises(error), stopping.EndSignal():
        with StopSignal():
            signal.raise_signal(number)
            ended.append("the training")
        ended.append("the run")
    assert ended == ["the training"]


def test_a_terminal_that_takes_no_text_holds_up_no_answer(monkeypatch):
    monkeypatch.setattr(stopping, "TELLING_SECONDS", 0.01)
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 1000.0)
    go_on = threading.Event()
    monkeypatch.setattr(stopping.log, "info", lambda *words: go_on.wait())
    with pytest.raises(KeyboardInterrupt), StopSignal() as signals:
        os.write(signals._writing, bytes([signal.SIGINT, signal.SIGINT]))
        wait_until(lambda: signals._timer is not None)
        raise KeyboardInterrupt
    assert signals._timer.finished.is_set(), "the end is called off"
    go_on.set()


def test_a_program_is_left_though_its_output_is_held_up(monkeypatch):
    monkeypatch.setattr(stopping, "TELLING_SECONDS", 0.01)
    go_on, left = threading.Event(), []
    monkeypatch.setattr(stopping.logging, "shutdown", go_on.wait)
    monkeypatch.setattr(stopping.os, "_exit", left.append)
    stopping.leave(143)
    assert left == [143]
    go_on.set()


def test_the_answer_does_not_wait_for_the_present_step(caplog):
    """Python calls the handler only when a compilation is done. This is what the system does at once."""
    caplog.set_level(logging.INFO)
    with StopSignal() as signals:
        os.write(signals._writing, bytes([signal.SIGINT]))
        wait_until(lambda: caplog.messages)
    assert caplog.messages == ["stopping after this step; again to stop without saving"]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_where_nothing_is_trained_a_signal_ends_the_work(number, error, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(error), stopping.EndSignal():
        signal.raise_signal(number)
    assert caplog.messages == ["stopping"]


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with StopSignal():
        assert [signal.getsignal(number) for number in stopping.SIGNALS] != before
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_exit_codes_are_those_of_shells():
    assert [Preempted("", number).exit_code for number in stopping.SIGNALS] == [143, 130]


# A computation that never gives Python the word again: a lock of C that is taken twice.
STUCK = """
import ctypes, logging, sys, threading
from aiseeme_jax.errors import Terminated
from aiseeme_jax.training import stopping

logging.basicConfig(level=logging.INFO, format="%(message)s")
stopping.GRACE_SECONDS = 0.2
with getattr(stopping, sys.argv[1])():
    lock, lib = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    lib.pthread_mutex_lock(lock)
    # From another thread, when this one computes: a signal before that would be handled where Python can.
    threading.Timer(0.3, print, ("computing",), {"file": sys.stderr, "flush": True}).start()
    lib.pthread_mutex_lock(lock)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "answers", "code"),
    [
        ("EndSignal", [(signal.SIGTERM, "stopping\n")], 143),
        (
            "StopSignal",
            [
                (signal.SIGINT, "stopping after this step; again to stop without saving\n"),
                (signal.SIGINT, "stopping without saving\n"),
            ],
            130,
        ),
    ],
)
def test_a_computation_that_lasts_hides_no_signal(kind, answers, code):
    process = subprocess.Popen([sys.executable, "-c", STUCK, kind], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "computing\n"
    for number, answer in answers:
        process.send_signal(number)
        assert process.stderr.readline() == answer
    assert process.wait(60) == code
