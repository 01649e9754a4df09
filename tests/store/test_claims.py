"""Claims: one process makes an artifact at a time, and what a dead one was making is taken over."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import claims
from aiseeme_jax.store.claims import claim, find_holder


def ended_process() -> int:
    """The number of a process that is not there any more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_process_that_nobody_has_asked_for_its_exit_code_has_ended():
    """As one that was killed in a container, where nobody does."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    holder = dataclasses.replace(claims.identify_process(), process=process.pid)
    assert holder.is_gone()
    process.wait()
    assert holder.is_gone() and not claims.identify_process().is_gone()


def leave_claim(folder, **changes):
    """The claim of a process that did not clear it away."""
    with claim(folder):
        mine = json.loads((folder / "claim.json").read_text())
    (folder / "claim.json").write_text(json.dumps({**mine, "token": "theirs", **changes}))


def make_silent(folder):
    long_ago = time.time() - 2 * claims.SILENT_SECONDS
    os.utime(folder / "claim.json", (long_ago, long_ago))


def test_a_free_folder_is_claimed_and_released(tmp_path):
    with claim(tmp_path / "new") as holder:
        assert holder is None
        assert find_holder(tmp_path / "new").process == os.getpid()
    assert find_holder(tmp_path / "new") is None and os.listdir(tmp_path / "new") == []


def test_a_claim_is_released_if_the_work_fails(tmp_path):
    with pytest.raises(RuntimeError), claim(tmp_path):
        raise RuntimeError
    assert find_holder(tmp_path) is None


def test_a_second_process_is_told_who_is_at_work(tmp_path):
    with claim(tmp_path), claim(tmp_path) as holder:
        assert str(holder) == f"process {os.getpid()} on {socket.gethostname()}"
    with claim(tmp_path) as holder:
        assert holder is None


def test_the_claim_of_a_process_that_ended_is_taken_over_at_once(tmp_path):
    leave_claim(tmp_path, process=ended_process())
    with claim(tmp_path) as holder:
        assert holder is None


@pytest.mark.parametrize("elsewhere", [{"host": "another", "space": "another"}, {"space": "another container"}])
def test_a_claim_of_another_machine_is_taken_over_if_it_is_silent(tmp_path, elsewhere):
    leave_claim(tmp_path, process=ended_process(), **elsewhere)
    with claim(tmp_path) as holder:
        assert holder is not None
    make_silent(tmp_path)
    with claim(tmp_path) as holder:
        assert holder is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}'])
def test_an_unreadable_claim_is_taken_over_if_it_is_silent(tmp_path, text):
    (tmp_path / "claim.json").write_text(text)
    with claim(tmp_path) as holder:
        assert holder is not None
    make_silent(tmp_path)
    with claim(tmp_path) as holder:
        assert holder is None


def test_a_claim_is_touched_during_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with claim(tmp_path):
        make_silent(tmp_path)
        touched = threading.Event()
        while not touched.wait(0.02):
            if time.time() - (tmp_path / "claim.json").stat().st_mtime < claims.SILENT_SECONDS:
                touched.set()
        with claim(tmp_path) as holder:
            assert holder is not None


def test_a_process_that_lost_its_claim_does_not_remove_the_new_one(tmp_path):
    with claim(tmp_path):
        leave = json.loads((tmp_path / "claim.json").read_text())
        (tmp_path / "claim.json").write_text(json.dumps({**leave, "token": "new"}))
    assert find_holder(tmp_path).token == "new"


def test_a_claim_that_another_one_took_in_the_meantime_stays(tmp_path):
    with claim(tmp_path / "folder"):
        newer = find_holder(tmp_path / "folder")
        claims._clear_silent(tmp_path / "folder" / "claim.json")
        assert find_holder(tmp_path / "folder") == newer


def test_a_run_that_was_held_up_notices_that_it_was_taken_over(tmp_path):
    with claim(tmp_path):
        claims.check_held(tmp_path)
        mine = json.loads((tmp_path / "claim.json").read_text())
        (tmp_path / "claim.json").write_text(json.dumps({**mine, "token": "new"}))
        with pytest.raises(UserError, match=f"{tmp_path} was taken over by process .* Start it again"):
            claims.check_held(tmp_path)
    claims.check_held(tmp_path)


def test_it_does_not_keep_the_claim_of_another_one_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with claim(tmp_path):
        mine = json.loads((tmp_path / "claim.json").read_text())
        (tmp_path / "claim.json").write_text(json.dumps({**mine, "token": "new"}))
        make_silent(tmp_path)
        before = (tmp_path / "claim.json").stat().st_mtime
        time.sleep(0.1)
        assert (tmp_path / "claim.json").stat().st_mtime == before


@pytest.mark.parametrize("changes", [{"process": "x"}, {"host": 1}, {"token": None}])
def test_a_claim_of_odd_values_is_one_that_cannot_be_read(tmp_path, changes):
    leave_claim(tmp_path, **changes)
    assert find_holder(tmp_path) == claims.UNKNOWN


def test_only_one_of_many_processes_takes_a_dead_claim(tmp_path):
    """Whoever took over a claim that was not silent any more would be at work beside its holder."""
    at_work, most = [], []

    def work_once(folder):
        with claim(folder) as holder:
            if holder is None:
                at_work.append(1)
                time.sleep(0.002)
                most.append(len(at_work))
                at_work.pop()

    for attempt in range(20):
        folder = tmp_path / str(attempt)
        leave_claim(folder, process=ended_process())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work_once, [folder] * 8))
    assert len(most) >= 20 and max(most) == 1


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be used: this user has no right"), claim(tmp_path):
        raise AssertionError("claimed")
