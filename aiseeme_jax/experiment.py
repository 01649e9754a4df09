"""The frame of a run: one workdir, one config, begun once and finished once."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from aiseeme_jax import checkpoint

log = logging.getLogger(__name__)

# Parts of a config that may change under an existing workdir.
FREE = ("runtime", "data.exclude")
CONFIG = "config.json"
LOCK = ".lock"


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """Keeps a second run out of a workdir while this one lasts. ValueError if there is one already."""
    if jax.process_index():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOCK, "w") as file:
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


def begin(config: ConfigDict, workdir: Path) -> bool:
    """Records the config in a new workdir, or checks it against the one the workdir was begun with.

    Returns True if the run is complete already. Raises ValueError that names the fields that differ.
    """
    resolved = resolve(config)
    path = workdir / CONFIG
    if is_begun(workdir):
        _compare(checkpoint.read_json(path), resolved, workdir)
    checkpoint.write_json(path, {**resolved, "fingerprint": fingerprint(resolved)})
    if (workdir / checkpoint.DONE).exists():
        log.info("%s is complete: nothing to do. The report is %s", workdir, workdir / "report.html")
        return True
    return False


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
    checkpoint.write_json(workdir / checkpoint.DONE, {"complete": True})
    log.info("done: results in %s, report in %s", workdir / "results.csv", workdir / "report.html")


def fingerprint(resolved: dict[str, Any]) -> str:
    """Hex SHA-256 of what a config fixes of the result."""
    fixed = {path: value for path, value in flatten(resolved).items() if not _is_free(path)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


def _is_free(path: str) -> bool:
    """Whether a field says nothing of the result."""
    return any(path == free or path.startswith(f"{free}.") for free in (*FREE, "fingerprint"))


def _compare(old: dict[str, Any], new: dict[str, Any], workdir: Path) -> None:
    before, now = flatten(old), flatten(new)
    keys = sorted(set(before) | set(now))
    changed = [k for k in keys if not _is_free(k) and before.get(k) != now.get(k)]
    if changed:
        lines = [f"    {k}: {before.get(k, '(absent)')} -> {now.get(k, '(absent)')}" for k in changed[:8]]
        more = [f"    and {len(changed) - 8} more"] if len(changed) > 8 else []
        raise ValueError(
            "\n".join(
                [
                    f"{workdir} was begun with another config:",
                    *lines,
                    *more,
                    "Use another --workdir, or the old config.",
                ]
            )
        )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """{'stages[0].fields.temperature': 0.1, …}"""
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else key, child) for key, child in value.items()]
    elif isinstance(value, list) and any(isinstance(child, dict) for child in value):
        items = [(f"{prefix}[{i}]", child) for i, child in enumerate(value)]
    else:
        return {prefix: value}
    return {path: leaf for name, child in items for path, leaf in flatten(child, name).items()}
