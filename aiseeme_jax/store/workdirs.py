"""Workdirs: the config of a run, and the artifacts that it asks for.

WORKDIR/config.json    the config with all its values
        plan.json      the arms, and the artifacts of each
        results.csv, report.html
        requests/       what commands asked for beside the plan, a file for each command
        stages/ …      the store, unless the config names another one
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import artifacts, records
from aiseeme_jax.store.artifacts import MEASUREMENTS, STAGES, Artifact, Store
from aiseeme_jax.store.keys import make_key, shorten

CONFIG = "config.json"
PLAN = "plan.json"
FORMAT = 1
REQUESTS = "requests"
# Folder in a store outside the workdirs, with a file for each workdir that uses the store.
USERS = "workdirs"
# The arm that is meant if none is named.
CURRICULUM = "curriculum"


@dataclasses.dataclass(frozen=True)
class StageEntry:
    """A stage of an arm, with its key.

    Attributes:
      tuning: key of the search that chooses its learning rate and batch size; '' if there is none.
    """

    label: str
    task: str
    steps: int
    key: str
    tuning: str = ""


@dataclasses.dataclass(frozen=True)
class MeasurementEntry:
    """A measurement of an arm, with its key.

    Attributes:
      needed: keys of the measurements that must be made first.
    """

    label: str
    target: str
    fraction: float
    seed: int
    key: str
    needed: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ScoreEntry:
    """A score that a search gives to an arm, with its key."""

    label: str
    proxy: str
    key: str


@dataclasses.dataclass(frozen=True)
class ArmEntry:
    """An arm as the plan of a workdir lists it. The arms of a search have scores and no measurements."""

    name: str
    stages: tuple[StageEntry, ...]
    measurements: tuple[MeasurementEntry, ...]
    scores: tuple[ScoreEntry, ...] = ()


@dataclasses.dataclass(frozen=True)
class WorkdirPlan:
    """The artifacts that the present config of a workdir asks for.

    Attributes:
      store: folder of the artifacts, relative to the workdir if it is inside.
      arms: in the order in which they are shown.
    """

    store: str
    arms: tuple[ArmEntry, ...]


def write_plan(workdir: Path, plan: WorkdirPlan) -> None:
    """Writes the plan of a run into its workdir, and registers the workdir in its store if that lies outside.

    So `store prune` does not delete what another workdir asks for. Only the first process writes.
    """
    records.write_json(workdir / PLAN, {"format": FORMAT, **dataclasses.asdict(plan)})
    store = open_store(workdir, plan)
    if store.root.resolve() != workdir.resolve():
        path = os.path.abspath(workdir)
        records.write_json(store.root / USERS / f"{shorten(make_key({'workdir': path}))}.json", {"workdir": path})


def list_users(store: Store) -> tuple[list[Path], list[Path]]:
    """The workdirs that use a store: those that are there, and the entries of those that cannot be found.

    A store that is itself a workdir is its own user.
    """
    found = [store.root] if (store.root / PLAN).exists() else []
    lost = []
    for entry in sorted((store.root / USERS).glob("*.json")):
        user = Path(records.read_json(entry, remedy="delete it: the next run in its workdir writes it anew")["workdir"])
        if (user / PLAN).exists():
            found.append(user)
        else:
            lost.append(entry)
    return found, lost


def read_plan(workdir: Path) -> WorkdirPlan | None:
    """The plan of a workdir; None for a folder in which no run was started.

    Raises UserError if it is damaged or of another format.
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
            tuple(_read_measurement(measurement) for measurement in arm["measurements"]),
            tuple(ScoreEntry(**score) for score in arm.get("scores", ())),
        )
        for arm in value["arms"]
    )
    return WorkdirPlan(value["store"], arms)


def _read_measurement(entry: dict[str, Any]) -> MeasurementEntry:
    """Older plans name one measurement that is needed, as `baseline`."""
    baseline = entry.pop("baseline", "")
    needed = (baseline,) if baseline else tuple(entry.pop("needed", ()))
    return MeasurementEntry(**entry, needed=needed)


def write_request(workdir: Path, command: str, wanted: Iterable[Artifact]) -> None:
    """Notes which artifacts a command asks for, in place of those that it asked for before.

    So `store prune` keeps what the last use of each command made. Only the first process writes.
    """
    found = sorted({artifact.key for artifact in wanted})
    records.write_json(workdir / REQUESTS / f"{command}.json", {"format": FORMAT, "keys": found})


def read_requests(workdir: Path) -> set[str]:
    """Keys of the artifacts that commands asked for in a workdir, each when it was used last."""
    remedy = "delete it: the command of its name writes it anew"
    files = sorted((workdir / REQUESTS).glob("*.json"))
    return {key for file in files for key in records.read_json(file, remedy=remedy)["keys"]}


def write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Writes the config of a run into its workdir. Only the first process writes."""
    records.write_json(workdir / CONFIG, config)


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of the newest run in a workdir; empty if there was none. Raises UserError if it is damaged."""
    path = workdir / CONFIG
    if not path.exists():
        return {}
    return records.read_json(path, remedy="the next run in this workdir writes it anew, so it can be deleted")


def find_store(workdir: Path, named: str) -> Path:
    """The folder of the store: the one that `config.runtime.store` names, or the workdir if that is empty."""
    return Path(named).expanduser() if named else workdir


def name_store(named: str) -> str:
    """The store as the plan of a workdir names it: '.' for the workdir, which may be moved, else its absolute path."""
    return os.path.abspath(Path(named).expanduser()) if named else "."


def open_store(workdir: Path, plan: WorkdirPlan) -> Store:
    """The store that the plan of a workdir names."""
    return Store(workdir / plan.store)


def find_stage_folder(workdir: Path, arm: str | None = None) -> Path:
    """The folder of the last finished stage of an arm.

    Args:
      arm: its name; by default the curriculum, or the only arm that has stages.

    Raises UserError for an unknown arm, or if there are several and `arm` does not say which; MissingFile if none of
    its stages is finished.
    """
    plan = read_plan(workdir)
    if plan is None:
        raise MissingFile(f"'{workdir}' is not the workdir of a run: it has no {PLAN}")
    store = open_store(workdir, plan)
    entry = _choose_arm(workdir, {entry.name: entry for entry in plan.arms if entry.stages}, arm)
    folders = [store.find(STAGES, shorten(stage.key)) for stage in entry.stages]
    finished = [folder for folder in folders if folder and artifacts.read_record(folder)]
    if not finished:
        raise MissingFile(f"'{workdir}' has no finished stage of the arm '{entry.name}': run the curriculum first")
    return finished[-1]


def _choose_arm(workdir: Path, arms: Mapping[str, ArmEntry], arm: str | None) -> ArmEntry:
    known = ", ".join(arms) or "none"
    if arm is None and CURRICULUM not in arms and len(arms) != 1:
        raise UserError(f"'{workdir}' has several arms: say `arm`, or name a stage's folder. There are {known}")
    name = arm or (CURRICULUM if CURRICULUM in arms else next(iter(arms)))
    if name not in arms:
        raise UserError(f"'{workdir}' has no arm '{name}' with stages: there are {known}")
    return arms[name]


def find_measurement_folder(store: Store, entry: MeasurementEntry) -> Path | None:
    """The folder of a measurement; None if it was not started."""
    return store.find(MEASUREMENTS, shorten(entry.key))


def to_json_config(config: Any) -> dict[str, Any]:
    """A config as JSON values."""
    return json.loads(config.to_json_best_effort())
