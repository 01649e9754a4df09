"""What a training writes and shows, across kills and resumes."""

import io
import json
import logging
import math
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax.training import display, telemetry
from aiseeme_jax.training.display import Display, duration
from aiseeme_jax.training.telemetry import Telemetry


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to; no thread draws, but `beat`."""
    monkeypatch.setattr(display, "BEAT_SECONDS", 3600.0)
    clock = SimpleNamespace(now=100.0)
    for module in (telemetry, display):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


@pytest.fixture
def stream(monkeypatch, request):
    """Standard error, no terminal unless the test's parameter says so."""
    stream = Stream(getattr(request, "param", False))
    monkeypatch.setattr(display, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return stream


on_a_terminal = pytest.mark.parametrize("stream", [True], indirect=True)


def make(directory, **fields):
    defaults = {"total_steps": 100, "batch_size": 32, "title": "rotation", "writers": False}
    return Telemetry(directory, **(defaults | fields))


def beat(work):
    """Draws as the thread of a display does, if it is time to."""
    getattr(work, "_display", work).beat()


def records(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


class TestMetricsFile:
    def test_a_line_per_call(self, tmp_path):
        with make(tmp_path / "stages" / "00-rotation") as run:
            run.log(1, {"loss": np.float32(1.5), "learning_rate": jnp.float32(0.25)})
            run.warn("something is odd")
        written = records(tmp_path / "stages" / "00-rotation")
        assert written == [
            {"step": 1, "loss": 1.5, "learning_rate": 0.25},
            {"step": 1, "warning": "something is odd"},
        ]

    def test_each_line_is_on_disk_at_once(self, tmp_path):
        run = make(tmp_path)
        run.log(1, {"loss": 2.0})
        assert records(tmp_path) == [{"step": 1, "loss": 2.0}]
        run.close()

    def test_values_that_are_not_finite_become_null(self, tmp_path):
        with make(tmp_path) as run:
            run.log(1, {"loss": math.nan, "a": math.inf, "b": -math.inf, "c": 0.0})
        assert records(tmp_path) == [{"step": 1, "loss": None, "a": None, "b": None, "c": 0.0}]

    def test_a_resumed_run_drops_what_it_runs_again(self, tmp_path):
        with make(tmp_path) as run:
            for step in (10, 20, 30):
                run.log(step, {"loss": float(step)})
        with make(tmp_path, start_step=20) as run:
            run.log(30, {"loss": 0.5})
        assert [(r["step"], r["loss"]) for r in records(tmp_path)] == [(10, 10.0), (20, 20.0), (30, 0.5)]

    def test_a_run_from_the_start_drops_all(self, tmp_path):
        with make(tmp_path) as run:
            run.log(0, {"loss": 3.0})
        with make(tmp_path) as run:
            run.log(0, {"loss": 4.0})
        assert [r["loss"] for r in records(tmp_path)] == [4.0]

    @pytest.mark.parametrize("torn", [b'{"step": 20, "lo', b"\x00\x00\x00", b"\xff\xfe", b"17", b'{"loss": 1}'])
    def test_what_a_kill_tore_is_dropped(self, tmp_path, torn):
        (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 10, "loss": 1.0}\n' + torn)
        with make(tmp_path, start_step=20) as run:
            run.log(21, {"loss": 2.0})
        assert [r["step"] for r in records(tmp_path)] == [10, 21]

    def test_an_error_inside_closes_and_passes_on(self, tmp_path):
        with pytest.raises(ZeroDivisionError), make(tmp_path) as run:
            run.log(1, {"loss": 2.0})
            raise ZeroDivisionError
        assert len(records(tmp_path)) == 1
        run.close()  # a second time does no harm
        run.log(2, {"loss": 1.0})
        assert len(records(tmp_path)) == 1

    def test_only_process_zero_writes(self, tmp_path, monkeypatch, stream, clock):
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with make(tmp_path / "run", writers=True) as run:
            run.log(1, {"loss": 2.0})
            clock.now += 1
            run.log(2, {"loss": 2.0})
            run.warn("quiet")
            run.images(1, {"views": np.zeros((1, 2, 2, 3))})
            assert run.images_per_second == 32
        assert not (tmp_path / "run").exists() and stream.getvalue() == ""


class TestThroughput:
    def test_the_first_interval_does_not_count(self, tmp_path, clock):
        run = make(tmp_path)
        clock.now += 60  # compilation
        run.log(1, {})
        assert run.images_per_second is None
        clock.now += 9
        run.log(10, {})
        clock.now += 20
        run.log(20, {})
        run.close()
        first, second, third = records(tmp_path)
        assert first == {"step": 1}
        assert second == {"step": 10, "images_per_second": 32.0, "seconds_left": 90.0}
        assert third["images_per_second"] == pytest.approx(16)
        assert third["seconds_left"] == pytest.approx(80 * 29 / 19)
        assert run.images_per_second == pytest.approx(19 * 32 / 29)

    def test_a_resumed_run_counts_its_own_steps(self, tmp_path, clock):
        with make(tmp_path, start_step=50) as run:
            run.log(50, {})  # metrics of what came before say nothing about speed
            clock.now += 60
            run.log(51, {})
            clock.now += 10
            run.log(61, {})
            run.log(61, {"accuracy": 0.5})  # nor does a second call at the same step
            assert run.images_per_second == pytest.approx(32)
        assert "images_per_second" not in records(tmp_path)[-1]


class TestDisplay:
    def test_a_log_file_gets_a_line_every_ten_seconds_whatever_is_logged(self, tmp_path, stream, clock):
        with make(tmp_path, batch_size=30) as run:
            clock.now += 15
            beat(run)  # the first step compiles, or is a long one
            run.log(1, {"loss": 99.0})
            for step in range(2, 101):
                clock.now += 0.5
                run.advance(step, jnp.float32(100 - step))
                beat(run)
            lines = stream.getvalue().splitlines()  # complete before the end: what follows may take a while
        assert lines[:2] == ["rotation  compiling  0 s", "rotation  compiling  15 s"]
        assert lines[2] == "rotation   21 %  40 s left  60 img/s  loss 79  step 21/100"
        assert lines[-1] == "rotation  100 %  in 1 min 4 s  60 img/s  loss 0  step 100/100"
        assert len(lines) == 7  # two of the compilation, at the steps 21, 41, 61, 81, and at the last

    def test_the_last_step_before_an_early_end_is_shown(self, tmp_path, stream, clock):
        with make(tmp_path) as run:
            run.log(1, {"loss": 1.0})
            run.log(2, {"loss": 2.0})
        assert stream.getvalue().splitlines()[-1] == "rotation    2 %  loss 2  step 2/100"

    def test_work_without_steps_is_shown_when_it_lasts(self, stream, clock):
        with Display("knn") as work:
            clock.now += 9
            beat(work)
            assert not stream.getvalue()
            clock.now += 3
            beat(work)
        assert stream.getvalue() == "knn  12 s\n"

    @on_a_terminal
    def test_a_terminal_gets_one_line_that_redraws_itself(self, tmp_path, stream, clock):
        outlook = display.Outlook("arm 2/5 · stage 3/7 simclr", lambda speed: (232.0, speed == 180))
        with display.announce(outlook), make(tmp_path, batch_size=180) as run:
            run.log(74, {"loss": 6.0})
            for step in (75, 76, 100):
                clock.now += 0.5 if step < 100 else 24
                run.advance(step - 1, jnp.float32(6))
                run.log(step, {"loss": 5.88})
                beat(run)
        drawn = stream.getvalue().split("\r\x1b[K")
        assert drawn[0] == "" and stream.getvalue().count("\n") == 1
        assert drawn[1] == "arm 2/5 · stage 3/7 simclr  compiling  0 s"
        assert drawn[3] == "arm 2/5 · stage 3/7 simclr   76 %  12 s left (over 4 min 4 s in all)  360 img/s"
        assert drawn[4] == "arm 2/5 · stage 3/7 simclr  100 %  in 25 s  187 img/s  loss 5.88  step 100/100\n"

    @on_a_terminal
    def test_time_left_counts_down_during_a_long_step(self, tmp_path, stream, clock):
        with make(tmp_path) as run:
            run.log(1, {"loss": 2.0})
            clock.now += 60
            run.log(2, {"loss": 2.0})
            clock.now += 1800
            beat(run)
        assert stream.getvalue().split("\r\x1b[K")[-1].startswith("rotation    2 %  1 h 8 min left  1 img/s")

    @on_a_terminal
    def test_a_closed_work_leaves_no_line_and_a_training_within_it_does(self, tmp_path, stream, clock):
        with Display("measurement 1/2 finetune") as work:
            clock.now += 2
            beat(work)
            with make(tmp_path, total_steps=1) as run:
                run.log(1, {"loss": 1.0})
        assert stream.getvalue().split("\r\x1b[K")[1:] == [
            "measurement 1/2 finetune  2 s",
            "rotation  compiling  0 s",
            "rotation  100 %  in 0 s  loss 1  step 1/1\n",
            "",
        ]

    def test_a_notebook_gets_one_line_without_control_sequences(self, tmp_path, stream, clock, monkeypatch):
        monkeypatch.setattr(Stream, "__module__", "ipykernel.iostream")
        with make(tmp_path, total_steps=1) as run:
            run.log(1, {"loss": 1.0})
        first, erased, last = stream.getvalue().removeprefix("\r\r").split("\r")
        assert first == "rotation  compiling  0 s" and erased == " " * len(first)
        assert last == "rotation  100 %  in 0 s  loss 1  step 1/1\n"

    @pytest.mark.parametrize(
        ("columns", "line"),
        [
            (46, "arm 2/5 · stage 3/7 simclr   76 %  8 s left"),
            (40, "arm 2/5 · stage 3/7 simclr   76 %"),
            (9, "arm 2/5 ·"),
        ],
    )
    def test_what_does_not_fit_is_left_out_from_the_right(self, columns, line):
        assert display.fit(["arm 2/5 · stage 3/7 simclr", " 76 %", "8 s left", "180 img/s"], columns) == line

    @on_a_terminal
    def test_messages_stand_above_the_line(self, tmp_path, stream, clock):
        with make(tmp_path) as run:
            run.log(1, {})
            run.warn("beware")
            message = logging.LogRecord("aiseeme_jax", logging.INFO, "file", 1, "goes on from step %d", (7,), None)
            display.MessageHandler(stream).emit(message)
        line = "rotation  compiling  0 s"
        assert stream.getvalue() == (
            f"\r\x1b[K{line}\r\x1b[Kwarning: beware\n{line}\r\x1b[Kgoes on from step 7\n{line}"
            "\r\x1b[Krotation    1 %  step 1/100\n"
        )

    def test_without_a_display_messages_are_plain(self, stream):
        message = logging.LogRecord("aiseeme_jax", logging.INFO, "file", 1, "done", (), None)
        display.MessageHandler(stream).emit(message)
        assert stream.getvalue() == "done\n"

    def test_a_thread_draws_while_the_program_waits(self, stream, monkeypatch):
        monkeypatch.setattr(display, "BEAT_SECONDS", 0.001)
        monkeypatch.setattr(display, "LINE_SECONDS", 0.001)
        with Display("compiling for minutes"):
            until = time.monotonic() + 60
            while "compiling for minutes" not in stream.getvalue():
                assert time.monotonic() < until
        after = stream.getvalue()
        assert not display._open and stream.getvalue() == after

    def test_an_interrupt_while_it_is_closed_leaves_no_display_open(self, stream, monkeypatch):
        def interrupt():
            raise KeyboardInterrupt

        work = Display("knn")
        monkeypatch.setattr(work, "_thread", SimpleNamespace(join=lambda seconds: interrupt(), is_alive=lambda: False))
        with pytest.raises(KeyboardInterrupt):
            work.close()
        work.close()
        assert not display._open

    def test_a_terminal_that_takes_no_text_holds_up_no_end(self, tmp_path, stream, monkeypatch):
        monkeypatch.setattr(display, "BEAT_SECONDS", 0.001)
        monkeypatch.setattr(display, "LINE_SECONDS", 0.001)
        monkeypatch.setattr(display, "WAITING_SECONDS", 0.01)
        held, go_on = threading.Event(), threading.Event()
        run = make(tmp_path)
        monkeypatch.setattr(stream, "write", lambda text: held.set() or go_on.wait())
        assert held.wait(60)
        run._display._step += 1
        run.close()
        assert not display._open and not go_on.is_set()
        go_on.set()

    def test_a_closed_terminal_does_not_end_the_run(self, tmp_path, stream):
        run = make(tmp_path)
        stream.close()
        run.log(1, {"loss": 1.0})
        run.close()
        assert len(records(tmp_path)) == 1

    def test_a_loss_that_is_not_finite_is_shown(self, tmp_path, stream, clock):
        with make(tmp_path) as run:
            run.log(1, {"loss": math.nan})
        assert "loss nan" in stream.getvalue()

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (0.4, "0 s"),
            (45, "45 s"),
            (59.6, "1 min"),
            (80, "1 min 20 s"),
            (3600, "1 h"),
            (7509, "2 h 5 min"),
            (273600, "3 d 4 h"),
        ],
    )
    def test_duration(self, seconds, words):
        assert duration(seconds) == words
