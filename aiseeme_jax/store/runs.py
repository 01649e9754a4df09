"""run.json: which runs worked in a workdir, with what, where, from when to when, and how each ended.

It is a list, since a run that was stopped is started again, and several runs may use one workdir. No result depends on
it. Only the first process of a run writes.
"""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from aiseeme_jax.store import records

RUNS = "run.json"
# So many of the newest runs are kept.
KEPT = 100


def add_run(workdir: Path, facts: Mapping[str, Any]) -> str:
    """Adds a run with what is known at its beginning, and returns the name by which it is found."""
    name = uuid.uuid4().hex
    with _changed(workdir) as runs:
        runs.append({"name": name, **facts})
    return name


def complete_run(workdir: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Adds to a run what is known at its end."""
    with _changed(workdir) as runs:
        for run in runs:
            if run["name"] == name:
                run |= facts


def read_runs(workdir: Path) -> list[dict[str, Any]]:
    """The runs of a workdir, the oldest first; none if an older version made it. Raises UserError if it is damaged."""
    path = workdir / RUNS
    if not path.exists():
        return []
    return records.read_json(path, remedy="no result depends on it, so it can be deleted")["runs"]


@contextlib.contextmanager
def _changed(workdir: Path) -> Iterator[list[dict[str, Any]]]:
    """Gives the list of runs to be changed, and writes it. Another run waits meanwhile."""
    if jax.process_index():
        yield []
        return
    workdir.mkdir(parents=True, exist_ok=True)
    folder = os.open(workdir, os.O_RDONLY)
    try:
        # Some network disks have no locks. There the entry of a run that starts in the same moment may be lost.
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        runs = read_runs(workdir)
        yield runs
        records.write_json(workdir / RUNS, {"runs": runs[-KEPT:]})
    finally:
        os.close(folder)
