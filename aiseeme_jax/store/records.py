"""The records of a workdir: where things lie, and JSON files that are whole or not there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from aiseeme_jax.store import files

DONE = "done.json"
DATA = "data.json"


def stages_directory(workdir: Path, arm: str) -> Path:
    """Where the stages of an arm lie: the curriculum's at the top, a baseline's in its own folder."""
    return workdir / "stages" if arm == "curriculum" else workdir / "arms" / file_name(arm) / "stages"


def stage_directory(workdir: Path, arm: str, position: int, task: str) -> Path:
    return stages_directory(workdir, arm) / stage_name(position, task)


def stage_name(position: int, task: str) -> str:
    """A stage as a folder."""
    return f"{position:02d}-{task}"


def targets_directory(workdir: Path, arm: str) -> Path:
    return workdir / "targets" / file_name(arm)


def target_directory(workdir: Path, arm: str, target: str, fraction: float, seed: int) -> Path:
    # Every digit of it, so that the fraction of a folder is that of the config and of results.csv.
    share = repr(float(fraction)).removesuffix(".0")
    return targets_directory(workdir, arm) / target / f"fraction-{share}-seed-{seed}"


def file_name(arm: str) -> str:
    """An arm's name as a folder."""
    return arm.replace(":", "-").replace("/", "-")


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all; only the first process writes."""
    if jax.process_index():
        return
    with files.replaced(path) as beside:
        beside.write_text(text)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_done(directory: Path) -> dict[str, Any] | None:
    """The record a finished stage or target leaves, or None if it is not finished."""
    path = directory / DONE
    return read_json(path) if path.exists() else None


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of two records differs, by its last name, for a message; '' if they are equal."""
    found = []
    for name in {**then, **now}:
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.append(differences(old, new))
        elif old != new:
            found.append(f"{name} {short(old)} -> {short(new)}")
    return ", ".join(filter(None, found))


def short(value: Any) -> str:
    """A value, such as a hash, for a message."""
    return "(none)" if value is None else str(value)[:12]


def hold_to_data(workdir: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Notes the images that a run uses, or compares them with those noted before.

    Args:
      found: name of a part of the run -> `Split.fingerprint` of what it uses.

    Raises ValueError that says what differs.
    """
    noted = read_json(workdir / DATA) if (workdir / DATA).exists() else {}
    for part, now in found.items():
        changed = differences(noted.get(part, now), now)
        if changed:
            raise ValueError(
                f"{workdir} was begun with other images for its {part}; then and now: {changed}. "
                "Give it the data set it had (runtime.data_dir), or use another --workdir"
            )
    if not found.keys() <= noted.keys():
        write_json(workdir / DATA, {**noted, **found})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file; ValueError names it if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or delete the folder it lies in") from None
