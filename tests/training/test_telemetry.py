"""What a training writes and shows, across kills and resumes."""

import io
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax.training import display, telemetry
from aiseeme_jax.training.display import duration, progress_line
from aiseeme_jax.training.telemetry import Telemetry


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told to."""
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
    monkeypatch.setenv("COLUMNS", "120")
    return stream


on_a_terminal = pytest.mark.parametrize("stream", [True], indirect=True)


def make(directory, **fields):
    defaults = {"total_steps": 100, "batch_size": 32, "title": "rotation", "writers": False}
    return Telemetry(directory, **(defaults | fields))


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
    def test_lines_are_few_and_hold_the_first_and_the_last(self, tmp_path, stream, clock):
        with make(tmp_path) as run:
            for step in range(1, 101):
                run.log(step, {"loss": 100.0 - step, "learning_rate": 0.03})
                clock.now += 0.5
            lines = stream.getvalue().splitlines()  # complete before the end: what follows may take a while
        assert len(lines) == 11  # the first, one every 5 s, the last
        assert lines[0] == "rotation    1 %    1/100  loss 99.0000  lr 0.03"
        assert lines[-1] == "rotation  100 %  100/100  loss 0.0000  lr 0.03  64 images/s"

    def test_the_last_line_before_an_early_end_is_shown(self, tmp_path, stream, clock):
        with make(tmp_path) as run:
            run.log(1, {"loss": 1.0})
            run.log(2, {"loss": 2.0})
        assert stream.getvalue().splitlines()[-1].endswith("2/100  loss 2.0000")

    @on_a_terminal
    def test_a_terminal_gets_one_line_that_redraws_itself(self, tmp_path, stream, clock):
        with make(tmp_path) as run:
            for step in (25, 50, 100):
                clock.now += 10
                run.log(step, {"loss": 1.0})
        drawn = stream.getvalue().split("\r\x1b[K")
        assert drawn[0] == "" and len(drawn) == 4 and stream.getvalue().count("\n") == 1
        assert drawn[2].startswith(
            "rotation  [##########----------]   50 %   50/100  loss 1.0000  80 images/s  20 s left"
        )
        assert drawn[3].startswith("rotation  [####################]  100 %") and drawn[3].endswith("\n")

    @on_a_terminal
    def test_a_narrow_terminal_does_not_wrap(self, tmp_path, stream, clock, monkeypatch):
        monkeypatch.setenv("COLUMNS", "40")
        with make(tmp_path, title="a long title of a long experiment") as run:
            run.log(100, {"loss": 1.0})
        assert len(stream.getvalue().removeprefix("\r\x1b[K").removesuffix("\n")) == 39

    @on_a_terminal
    def test_a_warning_stands_above_the_bar(self, tmp_path, stream, clock):
        with make(tmp_path) as run:
            run.log(1, {})
            run.warn("beware")
        bar = "rotation  [--------------------]    1 %    1/100"
        assert stream.getvalue() == f"\r\x1b[K{bar}\r\x1b[Kwarning: beware\n{bar}\n"

    def test_a_closed_terminal_does_not_end_the_run(self, tmp_path, stream):
        run = make(tmp_path)
        stream.close()
        run.log(1, {"loss": 1.0})
        run.close()
        assert len(records(tmp_path)) == 1

    def test_a_loss_that_is_not_finite_is_shown(self):
        assert "loss nan" in progress_line("npid", 1, 2, {"loss": math.nan}, bar=False)

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
