import pytest
from report_runs import TASKS, begin_run, write_stage, write_targets

from aiseeme_jax import report
from aiseeme_jax.store import runs

MADE = {
    "start": "2030-01-02T03:04:05+00:00",
    "command": "launch.py --config=<own>",
    "host": "node1",
    "versions": {"jax": "1.2.3"},
    "commit": "0123abc-changed",
    "device": "abacus",
    "processes": 1,
}


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """A whole run of three tasks, with five arms and three targets. Tests only read it."""
    workdir = tmp_path_factory.mktemp("run")
    begin_run(workdir)
    for position, task in enumerate(TASKS):
        write_stage(workdir, "curriculum", position, task)
    for task in TASKS[1:]:
        write_stage(workdir, f"single:{task}", 0, task)
    write_targets(workdir)
    name = runs.add_run(workdir, MADE)
    runs.complete_run(workdir, name, {"devices": 2, "seconds": 80.0, "joules": 7200.0, "outcome": "stopped"})
    runs.add_run(workdir, MADE)
    return workdir


@pytest.fixture(scope="session")
def page(workdir):
    return report.write_report(workdir).read_text()
