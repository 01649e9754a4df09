"""How a run begins, or goes on: what may have changed in its config since.

What is finished, a stage or a measurement, keeps the fields it came from; all others may change: those of stages and
targets to come, such as the learning rate of a stage that diverged. What was begun under the old fields and not
finished, is put aside with the old config, and begins anew.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax import data
from aiseeme_jax.curriculum import plan
from aiseeme_jax.evaluate import recording
from aiseeme_jax.jobs import workdir as workdir_
from aiseeme_jax.store import records

log = logging.getLogger(__name__)

# What every stage and every measurement comes from.
ALWAYS = ("job", "model", "data.name", "seed")
# What says which of them there are.
LISTS = ("stages", "curricula", "baselines", "targets", "single_budget")
# Fields of a target that say which measurements there are, and nothing of any one.
COUNTS = ("fractions", "seeds")
SHOWN = 8

Pairs = dict[str, tuple[Any, Any]]


def begin(config: ConfigDict, workdir: Path, source: Callable[[], data.Split]) -> bool:
    """Begins a run in a workdir, or goes on with the one that is there.

    Everything is judged before anything is written: a config that cannot be run claims no workdir.

    Args:
      source: opens the split that the config is judged against.

    Returns True if the run is complete already. Raises ValueError for a config that cannot be run, or that changes
    what something finished came from; FileNotFoundError for files that are not there.
    """
    plan.check_runtime(config.runtime)
    change = Change({}, ())
    if workdir_.is_begun(workdir):
        change = judge(config, workdir)
    else:
        workdir_.check_unclaimed(workdir)
    if change.fields or not workdir_.is_begun(workdir):
        plan.check(config, source())
    if change.fields:
        _accept(change, workdir)
    return workdir_.begin(config, workdir)


@dataclasses.dataclass(frozen=True)
class Change:
    """What changed in the config of a workdir: fields with their old and new values, and the folders of what was begun
    under the old ones and not finished.
    """

    fields: Pairs
    stale: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """A stage, or a measurement: its folder, and the fields of the config that it comes from."""

    directory: Path
    fields: tuple[str, ...]


def judge(config: ConfigDict, workdir: Path) -> Change:
    """What changed in the config of a workdir. Raises ValueError, with fields, values and reasons, if it must not."""
    old, new = records.read_json(workdir / workdir_.CONFIG), workdir_.resolve(config)
    fields = workdir_.differences(old, new)
    if not fields:
        return Change({}, ())
    # An earlier version may have had fewer fields.
    before = _parts(_as_config({**new, **old}), workdir)
    refused: dict[str, Path] = {}
    stale = []
    for directory, touched in _touched(before, _parts(config, workdir), fields).items():
        if records.read_done(directory):
            refused = dict.fromkeys(touched, directory) | refused
        elif directory.exists():
            stale.append(directory)
    if refused:
        raise ValueError(_refusal(workdir, fields, refused))
    return Change(fields, tuple(stale))


def _as_config(value: Any) -> Any:
    """What JSON gives back of a config as a config."""
    if isinstance(value, dict):
        return ConfigDict({name: _as_config(child) for name, child in value.items()})
    return tuple(map(_as_config, value)) if isinstance(value, list) else value


def _parts(config: ConfigDict, workdir: Path) -> dict[Any, Part]:
    """All stages, by arm and place, and all measurements, by folder."""
    planned = plan.arms(config)
    folders = plan.stage_folders(workdir, planned)
    found: dict[Any, Part] = {}
    for arm in planned:
        for place, directory in enumerate(folders[arm.name]):
            found[arm.name, place] = Part(directory, _stage_fields(arm, place + 1))
        for run in recording.runs(config, workdir, arm.name):
            found[run.directory] = Part(run.directory, _measured_fields(config, arm, run))
    return found


def _stage_fields(arm: plan.Arm, count: int) -> tuple[str, ...]:
    """What the first stages of an arm come from; those that last as long as the whole curriculum, from all of it."""
    own = [arm.listed] if arm.whole else [f"{arm.listed}[{position}]" for position, _ in arm.stages[:count]]
    return (*ALWAYS, arm.start, "data.exclude_sha256", *own, *["single_budget"] * arm.alone)


def _measured_fields(config: ConfigDict, arm: plan.Arm, run: recording.Run) -> tuple[str, ...]:
    position = [target.protocol for target in config.targets].index(run.target.protocol)
    own = tuple(f"targets[{position}].{name}" for name in run.target if name not in COUNTS)
    if not arm.stages:
        return (*ALWAYS, arm.start, *own)
    # A stage more would be a stage later.
    listed = () if arm.alone else (arm.listed,)
    return (*_stage_fields(arm, len(arm.stages)), *listed, *own)


def _touched(before: dict[Any, Part], after: dict[Any, Part], fields: Pairs) -> dict[Path, list[str]]:
    """Folders of which nothing is left as it was, with the changed fields that are why."""
    touched: dict[Path, list[str]] = {}
    untouched = set()
    for key, part in before.items():
        stays = key in after and after[key].directory == part.directory
        why = [path for path in fields if workdir_.is_within(path, part.fields if stays else (*part.fields, *LISTS))]
        if stays and not why:
            untouched.add(part.directory)
        else:
            touched.setdefault(part.directory, why)
    return {directory: why for directory, why in touched.items() if directory not in untouched}


def _refusal(workdir: Path, fields: Pairs, refused: dict[str, Path]) -> str:
    lines = [f"{_line(path, fields)}, but {refused[path].relative_to(workdir)} is finished" for path in refused]
    advice = "Use another --workdir, or the old values. Where a finished folder is deleted, its part is done anew."
    return "\n".join([f"{workdir} was begun with another config:", *_first(lines), advice])


def _line(path: str, fields: Pairs) -> str:
    before, now = fields[path]
    return f"    {path}: {before} -> {now}"


def _first(lines: list[str]) -> list[str]:
    more = [f"    and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return lines[:SHOWN] + more


def _accept(change: Change, workdir: Path) -> None:
    """Says what changed, and puts aside what it overtook."""
    lines = _first([_line(path, change.fields) for path in change.fields])
    log.info("%s goes on with a changed config:\n%s", workdir, "\n".join(lines))
    noted = workdir / records.DATA
    other_images = noted.exists() and any(workdir_.is_within(path, ("data",)) for path in change.fields)
    aside = workdir_.set_aside(workdir, (*change.stale, *[noted] * other_images))
    for directory in change.stale:
        path = directory.relative_to(workdir)
        log.info("%s begins anew: its fields changed. Its checkpoints so far are put aside in %s", path, aside / path)
