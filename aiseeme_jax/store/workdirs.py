"""A workdir: the config of a run, and which artifacts of the store it asks for.

WORKDIR/config.json    the config as it was resolved
        plan.json      arms, and the artifacts of each
        results.csv, report.html
        stages/ …      the store, unless the config names another one
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import artifacts, records
from aiseeme_jax.store.artifacts import MEASUREMENTS, STAGES, Store
from aiseeme_jax.store.keys import make_key, shorten

CONFIG = "config.json"
PLAN = "plan.json"
FORMAT = 1
# In a store outside the workdir: which workdirs use it.
USERS = "workdirs"
# The arm that is meant where none is named.
CURRICULUM = "curriculum"


@dataclasses.dataclass(frozen=True)
class StageEntry:
    """A stage that an arm consists of, and the key by which it is found."""

    label: str
    task: str
    steps: int
    key: str


@dataclasses.dataclass(frozen=True)
class MeasurementEntry:
    """A measurement of an arm, and the key by which it is found."""

    label: str
    target: str
    fraction: float
    seed: int
    key: str


@dataclasses.dataclass(frozen=True)
class ArmEntry:
    """An arm as the plan of a workdir lists it."""

    name: str
    stages: tuple[StageEntry, ...]
    measurements: tuple[MeasurementEntry, ...]


@dataclasses.dataclass(frozen=True)
class WorkdirPlan:
    """What the present config of a workdir asks for.

    Attributes:
      store: the folder of the artifacts; relative to the workdir where it lies within it.
      arms: in the order in which they are shown.
    """

    store: str
    arms: tuple[ArmEntry, ...]


def write_plan(workdir: Path, plan: WorkdirPlan) -> None:
    """Writes what a run in a workdir asks for, and tells a store outside it of the workdir.

    So `store prune` keeps what any workdir asks for, whichever it is called with. Only the first process writes.
    """
    records.write_json(workdir / PLAN, {"format": FORMAT, **dataclasses.asdict(plan)})
    store = open_store(workdir, plan)
    if store.root.resolve() != workdir.resolve():
        path = os.path.abspath(workdir)
        records.write_json(store.root / USERS / f"{shorten(make_key({'workdir': path}))}.json", {"workdir": path})


def list_users(store: Store) -> list[Path]:
    """The workdirs that have told a store of themselves and are still there."""
    remedy = "delete it: the next run in its workdir writes it anew"
    found = [records.read_json(path, remedy=remedy) for path in sorted((store.root / USERS).glob("*.json"))]
    return [Path(user["workdir"]) for user in found if (Path(user["workdir"]) / PLAN).exists()]


def read_plan(workdir: Path) -> WorkdirPlan | None:
    """What the config of a workdir asks for; None for a folder in which no run was begun.

    Raises UserError if it is damaged, or of another format.
    """
    path = workdir / PLAN
    if not path.exists():
        artifacts.check_layout(workdir)
        return None
    value = records.read_json(path, remedy="the next run in this workdir writes it anew, so it can be deleted")
    if value.pop("format", None) != FORMAT:
        raise UserError(f"{path} is of another version of this program; run its config again in this workdir")
    arms = tuple(
        ArmEntry(
            arm["name"],
            tuple(StageEntry(**stage) for stage in arm["stages"]),
            tuple(MeasurementEntry(**measurement) for measurement in arm["measurements"]),
        )
        for arm in value["arms"]
    )
    return WorkdirPlan(value["store"], arms)


def write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Writes the config of a run; only the first process writes."""
    records.write_json(workdir / CONFIG, config)


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of the newest run in a workdir, empty if there was none. Raises UserError if it is damaged."""
    path = workdir / CONFIG
    if not path.exists():
        return {}
    return records.read_json(path, remedy="the next run in this workdir writes it anew, so it can be deleted")


def store_root(workdir: Path, named: str) -> Path:
    """The folder of the store that a config names: the workdir itself, unless it names another one."""
    return Path(named).expanduser() if named else workdir


def store_name(workdir: Path, named: str) -> str:
    """How the plan of a workdir names its store: by '.' within the workdir, which may be moved, else by its path."""
    return os.path.abspath(Path(named).expanduser()) if named else "."


def open_store(workdir: Path, plan: WorkdirPlan) -> Store:
    """The store that the plan of a workdir names."""
    return Store(workdir / plan.store)


def stage_folder(workdir: Path, arm: str | None = None) -> Path:
    """The folder of the last finished stage of an arm.

    Args:
      arm: its name; by default the curriculum, or the only arm that has stages.

    Raises UserError for an arm that is not there, or if there are several and `arm` does not say which; MissingFile if
    none of its stages is finished.
    """
    plan = read_plan(workdir)
    if plan is None:
        raise MissingFile(f"'{workdir}' is no workdir of a run: it has no {PLAN}")
    store = open_store(workdir, plan)
    entry = _choose_arm(workdir, {entry.name: entry for entry in plan.arms if entry.stages}, arm)
    folders = [store.find(STAGES, shorten(stage.key)) for stage in entry.stages]
    finished = [folder for folder in folders if folder and artifacts.read_record(folder)]
    if not finished:
        raise MissingFile(f"'{workdir}' holds no finished stage of the arm '{entry.name}': run the curriculum first")
    return finished[-1]


def _choose_arm(workdir: Path, arms: Mapping[str, ArmEntry], arm: str | None) -> ArmEntry:
    known = ", ".join(arms) or "none"
    if arm is None and CURRICULUM not in arms and len(arms) != 1:
        raise UserError(f"'{workdir}' holds several arms: say `arm`, or name a stage's folder. There are {known}")
    name = arm or (CURRICULUM if CURRICULUM in arms else next(iter(arms)))
    if name not in arms:
        raise UserError(f"'{workdir}' holds no arm '{name}' with stages: there are {known}")
    return arms[name]


def measurement_folder(store: Store, entry: MeasurementEntry) -> Path | None:
    """The folder of a measurement, if it was begun."""
    return store.find(MEASUREMENTS, shorten(entry.key))


def to_json_config(config: Any) -> dict[str, Any]:
    """A config as JSON values."""
    return json.loads(config.to_json_best_effort())
