"""Several workers of one search, each started as a user starts it, one of them killed."""

import json
import os
import re
import signal

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


def test_a_search_that_is_done_is_done_at_once(alone, phantom):  # noqa: F811
    before = outcome(alone)
    code, said = running.launch(alone, phantom, **CONFIG)
    assert code == 0 and not re.search(r"\d+ steps of \d+ images", said)
    assert outcome(alone) == before
    code, said = running.launch(alone, phantom, "--plan", **CONFIG)
    assert code == 0 and "all trials exist; the best order so far is" in said
