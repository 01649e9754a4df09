"""Several workers of one search, each started as a user starts it, one of them killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import optuna
import pytest
import running
from running import phantom  # noqa: F401

from aiseeme_jax.search import findings

pytestmark = pytest.mark.slow
CONFIG = {"config": "tests/search_config.py"}


@pytest.fixture(scope="module")
def alone(phantom, tmp_path_factory):  # noqa: F811
    """The workdir of a search by one worker."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    code, said = running.launch(workdir, phantom, **CONFIG)
    assert code == 0, said
    return workdir


def outcome(workdir):
    """What must not depend on the workers: the tree, the comparison, and the hash of every backbone."""
    found = findings.read_findings(workdir)
    records = {path.parent.name: json.loads(path.read_text()) for path in workdir.glob("stages/*/record.json")}
    hashes = {name: record["backbone_hash"] for name, record in records.items()}
    return found.nodes, found.compared, found.sentences, found.best, hashes


def training(workdir):
    """Folders of stages that were begun and are not finished."""
    return [folder for folder in workdir.glob("stages/*-*") if not (folder / "record.json").exists()]


def test_two_workers_of_which_one_is_killed_find_what_one_finds(alone, phantom, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    first = running.start(workdir, phantom, **CONFIG)
    second = running.start(workdir, phantom, **CONFIG)
    running.wait_for(first, lambda: len(training(workdir)) > 1, "both were at work")
    os.kill(first.pid, signal.SIGKILL)
    assert running.finish(first)[0] == -signal.SIGKILL
    code, said = running.finish(second)
    assert code == 0, said
    assert outcome(workdir) == outcome(alone)
    assert not training(workdir)
    assert list_trials(journal(workdir)) == list_trials(journal(alone)), "each once, also what the other had begun"


def list_trials(storage):
    """The orders that have a score, of the search and of its finalists."""
    names = sorted(optuna.get_all_study_names(storage), key=len)
    studies = [optuna.load_study(study_name=name, storage=storage).get_trials() for name in names]
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trials in studies for trial in trials)
    return [sorted(tuple(trial.user_attrs["order"]) for trial in trials) for trials in studies]


def journal(workdir):
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(workdir / "search.journal")))


ORDERS = [("npid",), ("npid", "rotation"), ("rotation",), ("rotation", "npid")]


def test_what_was_tried_stands_in_the_journal(alone):
    assert list_trials(journal(alone)) == [ORDERS, [findings.read_findings(alone).best]]


@pytest.fixture
def postgresql():
    """The URL of an empty data base, of a server that lasts as long as the test."""
    tools = {name: find_postgresql(name) for name in ("initdb", "pg_ctl", "createdb")}
    if missing := [name for name, path in tools.items() if path is None]:
        pytest.skip(f"PostgreSQL is not installed: no {', '.join(missing)}")
    # Its path must be short, for a socket, and a server does not run as root.
    folder, port = Path(tempfile.mkdtemp(dir="/tmp")), str(running.free_port())
    other = {"user": "nobody"} if os.geteuid() == 0 else {}
    if other:
        shutil.chown(folder, **other)

    def do(tool, *arguments):
        command = [tools[tool], *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, **other)

    made = do("initdb", "-D", folder / "data", "-U", "tester", "--auth=trust")
    if made.returncode:
        pytest.skip(f"PostgreSQL makes no data base here: {made.stderr.strip().splitlines()[-1]}")
    options = f"-p {port} -k {folder} -c listen_addresses=localhost"
    try:
        started = do("pg_ctl", "-D", folder / "data", "-w", "-o", options, "-l", folder / "log", "start")
        assert started.returncode == 0, started.stderr + (folder / "log").read_text()
        assert do("createdb", "-h", "localhost", "-p", port, "-U", "tester", "trials").returncode == 0
        yield f"postgresql://tester@localhost:{port}/trials"
    finally:
        do("pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def find_postgresql(tool):
    """Debian keeps the tools of a server out of the path."""
    return shutil.which(tool) or next(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{tool}")), None)


def test_two_workers_share_the_queue_of_a_real_postgresql(alone, phantom, postgresql, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    shutil.copytree(alone, workdir)
    # What is left to do: the second stages and their scores.
    for folder in [*workdir.glob("*/01-*"), *workdir.glob("scores/knn-01-*")]:
        shutil.rmtree(folder)
    options = f"--config.search.storage={postgresql}"
    workers = [running.start(workdir, phantom, options, **CONFIG) for _ in range(2)]
    for worker in workers:
        code, said = running.finish(worker)
        assert code == 0, said
    assert list_trials(postgresql) == list_trials(journal(alone))
    assert outcome(workdir) == outcome(alone)


def test_a_search_that_is_done_is_done_at_once(alone, phantom):  # noqa: F811
    before = outcome(alone)
    code, said = running.launch(alone, phantom, **CONFIG)
    assert code == 0 and not re.search(r"\d+ steps of \d+ images", said)
    assert outcome(alone) == before
    code, said = running.launch(alone, phantom, "--plan", **CONFIG)
    assert code == 0 and "all trials exist; the best order so far is" in said
