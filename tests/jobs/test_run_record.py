"""run.json: what a run was made with, and how it ended."""

import importlib.metadata
import json
import subprocess
import sys
import threading

import jax
import pytest

from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import run_record
from aiseeme_jax.jobs.run_record import find_commit, record_run
from aiseeme_jax.store import runs
from aiseeme_jax.training.stopping import Preempted


def test_a_run_is_recorded_at_its_beginning_and_completed_at_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "aiseeme_jax", "train", "--workdir=my runs"])
    with record_run(tmp_path / "run"):
        (begun,) = runs.read_runs(tmp_path / "run")
        assert "end" not in begun and begun["versions"]["jax"] == importlib.metadata.version("jax")
    (ended,) = runs.read_runs(tmp_path / "run")
    assert begun.items() <= ended.items()
    assert ended["outcome"] == "done" and ended["start"] <= ended["end"] and ended["end"].endswith("+00:00")
    assert ended["command"] == "python -m aiseeme_jax train '--workdir=my runs'"
    assert ended["devices"] == jax.device_count() and ended["seconds"] >= 0 and "joules" in ended
    assert "aiseeme_jax" in ended["versions"] and ended["host"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Preempted("saved", 15), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (UserError("the rate is wrong\nand more"), "UserError: the rate is wrong"),
    ],
)
def test_how_it_ended_is_told(error, outcome, tmp_path):
    with record_run(tmp_path):
        pass
    with pytest.raises(type(error)), record_run(tmp_path):
        raise error
    assert [run["outcome"] for run in runs.read_runs(tmp_path)] == ["done", outcome]


def test_an_error_is_not_hidden_by_a_disk_that_is_full(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no room")

    monkeypatch.setattr(run_record.runs, "complete_run", fail)
    with pytest.raises(UserError, match="the first"), record_run(tmp_path):
        raise UserError("the first")
    with pytest.raises(OSError, match="no room"), record_run(tmp_path):
        pass


def test_runs_that_begin_at_once_lose_no_entry_and_the_oldest_are_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "KEPT", 12)
    threads = [threading.Thread(target=runs.add_run, args=(tmp_path, {"number": number})) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run["number"] for run in runs.read_runs(tmp_path)) == list(range(12))
    runs.add_run(tmp_path, {"number": 12})
    assert len(runs.read_runs(tmp_path)) == 12 and runs.read_runs(tmp_path)[-1]["number"] == 12


def test_a_damaged_file_is_named(tmp_path):
    runs.add_run(tmp_path, {"number": 1})
    path = tmp_path / runs.RUNS
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(UserError, match=r"run\.json is damaged .*it can be deleted"):
        runs.read_runs(tmp_path)
    path.unlink()
    assert runs.read_runs(tmp_path) == []
    json.dumps(run_record.describe_run())


def test_the_commit_is_that_of_the_code(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("1")
    assert find_commit(package) is None

    def git(*arguments):
        person = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", "-C", tmp_path, *person, *arguments], check=True, capture_output=True, text=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD").stdout.strip()
    assert find_commit(package) == head
    (tmp_path / "notes.txt").write_text("of no importance")
    assert find_commit(package) == head
    (package / "code.py").write_text("2")
    assert find_commit(package) == f"{head}-changed"
