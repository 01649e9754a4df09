"""The frame of a run: one workdir, one run at a time, the config it has."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from aiseeme_jax.store import checkpoints, records

log = logging.getLogger(__name__)

# Parts of a config that say nothing of the result.
NOT_FIXED = ("runtime", "data.exclude", "fingerprint")
CONFIG = "config.json"
LOCK = ".lock"
# What changes of the config left behind, by number.
BEFORE = "before"


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Keeps a second run out of a workdir while this one lasts. ValueError if there is one already, or no folder can be
    made there.
    """
    if jax.process_index():
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / LOCK, "w")
    except OSError as error:
        raise ValueError(f"the workdir {workdir} cannot be made or written to: {error.strerror}") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is at work in {workdir}: wait for it, or use another --workdir") from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): take care not to start two runs in it", workdir, error)
        try:
            yield
        finally:
            # A run that failed before it began leaves nothing behind.
            if not is_begun(workdir) and set(os.listdir(workdir)) == {LOCK}:
                (workdir / LOCK).unlink()
                workdir.rmdir()


def is_begun(workdir: Path) -> bool:
    """Whether a config has claimed the workdir."""
    return (workdir / CONFIG).exists()


def check_unclaimed(workdir: Path) -> None:
    """ValueError if a workdir without a config holds results: nobody could tell what they came from."""
    held = [name for name in ("stages", "arms", "targets", records.DONE) if (workdir / name).exists()]
    if held:
        raise ValueError(
            f"{workdir} holds {', '.join(held)} but no {CONFIG}, so that nothing says what they came from: "
            f"restore {CONFIG}, or use another --workdir"
        )


def begin(config: ConfigDict, workdir: Path) -> bool:
    """Records the config in the workdir. Returns True if the run is complete already."""
    resolved = resolve(config)
    records.write_json(workdir / CONFIG, {**resolved, "fingerprint": fingerprint(resolved)})
    # Before it, the first process may have said that the run is no longer complete.
    checkpoints.barrier("begin")
    if (workdir / records.DONE).exists():
        log.info("%s is complete: nothing to do. The report is %s", workdir, workdir / "report.html")
        return True
    return False


def set_aside(workdir: Path, directories: Iterable[Path]) -> Path:
    """Moves folders of the workdir, and a copy of its config, to a new folder under `before`, whose path it returns;
    the run is no longer complete.
    """
    numbers = [int(path.name) for path in (workdir / BEFORE).glob("*") if path.name.isdigit()]
    aside = workdir / BEFORE / str(max(numbers, default=0) + 1)
    if jax.process_index() == 0:
        aside.mkdir(parents=True)
        shutil.copy(workdir / CONFIG, aside)
        for directory in directories:
            kept = aside / directory.relative_to(workdir)
            kept.parent.mkdir(parents=True, exist_ok=True)
            directory.rename(kept)
        (workdir / records.DONE).unlink(missing_ok=True)
    return aside


def resolve(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON values. Files of excluded images count by their content, so beside their paths stand hashes.

    Raises FileNotFoundError for such a file that is not there.
    """
    resolved = json.loads(config.to_json_best_effort())
    files = [Path(file).expanduser() for file in config.data.exclude]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"data.exclude: no file at '{missing[0]}'")
    resolved["data"]["exclude_sha256"] = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return resolved


def finish(workdir: Path) -> None:
    """Marks the run as complete."""
    records.write_json(workdir / records.DONE, {"complete": True})
    log.info("done: results in %s, report in %s", workdir / "results.csv", workdir / "report.html")


def fingerprint(resolved: dict[str, Any]) -> str:
    """Hex SHA-256 of what a config fixes of the result."""
    fixed = {path: value for path, value in flatten(resolved).items() if not is_within(path, NOT_FIXED)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two configs fix of the result and do not have in common: {'seed': (0, 7), …}, '(absent)' for no value."""
    before, now = flatten(old), flatten(new)
    pairs = {path: (before.get(path, "(absent)"), now.get(path, "(absent)")) for path in sorted({**before, **now})}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1] and not is_within(path, NOT_FIXED)}


def is_within(path: str, fields: Iterable[str]) -> bool:
    """Whether the path of a value is that of one of the fields, or leads through it."""
    return any(path == field or path.startswith((f"{field}.", f"{field}[")) for field in fields)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{'stages[0].fields.temperature': 0.1, …}"""
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else key, child) for key, child in value.items()]
    elif isinstance(value, list) and any(isinstance(child, dict) for child in value):
        items = [(f"{prefix}[{i}]", child) for i, child in enumerate(value)]
    else:
        return {prefix: value}
    return {path: leaf for name, child in items for path, leaf in flatten(child, name).items()}
