"""Records in run.json what a run was made with, and how it ended."""

import contextlib
import datetime
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

import aiseeme_jax
from aiseeme_jax.errors import Terminated
from aiseeme_jax.store import runs
from aiseeme_jax.training.environment import describe_environment
from aiseeme_jax.training.spending import Spending
from aiseeme_jax.training.stopping import Preempted

DONE, STOPPED = "done", "stopped"


@contextlib.contextmanager
def record_run(workdir: Path) -> Iterator[None]:
    """Within it a run works. Its entry in run.json is written at the beginning, and completed at the end.

    A run that is killed leaves an entry without an end.
    """
    name = runs.add_run(workdir, describe_run())
    outcome = DONE
    with Spending() as spending:
        try:
            yield
        except (Preempted, KeyboardInterrupt, Terminated):
            outcome = STOPPED
            raise
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise
        finally:
            # A full disk must not hide the error that it was.
            with contextlib.suppress(*([] if outcome == DONE else [Exception])):
                runs.complete_run(workdir, name, {"end": tell_time(), "outcome": outcome, **spending.figures()})


def describe_run() -> dict[str, Any]:
    """What is known of a run when it begins, as JSON values."""
    environment = describe_environment()
    # sys.argv has lost by which program, or as which command, it was started.
    return {
        "start": tell_time(),
        "command": shlex.join(sys.orig_argv),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "versions": {"aiseeme_jax": aiseeme_jax.__version__, **environment["versions"]},
        "commit": find_commit(Path(aiseeme_jax.__file__).parent),
        "device": environment["device"],
        "processes": jax.process_count(),
    }


def tell_time() -> str:
    """The time now, as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def find_commit(folder: Path) -> str | None:
    """The commit of the code in a folder, with '-changed' behind it if files differ from it; None without git."""
    # A package that is installed within somebody's repository is no part of it.
    if not (folder.parent / ".git").exists():
        return None
    try:
        commit = _ask_git(folder, "rev-parse", "HEAD").strip()
        changed = _ask_git(folder, "status", "--porcelain", "--untracked-files=no", "--", str(folder))
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-changed" if changed else commit


def _ask_git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout
