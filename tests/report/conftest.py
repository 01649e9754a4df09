import pytest
from report_runs import TASKS, begin_run, write_stage, write_targets

from aiseeme_jax import report


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
    return workdir


@pytest.fixture(scope="session")
def page(workdir):
    return report.write_report(workdir).read_text()
