"""The processes of one run: how they find each other, what one says when it has lost another, and how one ends."""

import contextlib
import ctypes
import dataclasses
import faulthandler
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import claims
from aiseeme_jax.training.stopping import leave

# Seconds after which jax takes a process to be lost that says nothing. A lost connection is noticed at once on CPUs.
HEARTBEAT_SECONDS = 60
# Seconds for which a process waits for the first one to start.
JOIN_SECONDS = 300
# Words of errors that come from a lost connection: of gloo on CPUs, of NCCL on GPUs, of jax's own service.
LOST = re.compile("gloo|ncclRemoteError|remote process exited|coordination service|CoordinationService", re.IGNORECASE)
# Bytes for the names of a process.
ROOM = 512
# C functions that must outlive their use: Python frees what nothing refers to.
ABORT_HANDLERS = []


class ProcessLost(UserError):
    """Another process of the run has ended, so that this one cannot go on."""


def join_processes(coordinator: str | None, count: int | None, number: int | None) -> list[claims.Holder]:
    """Joins the other processes of the run, and returns all of them by their number.

    Args:
      coordinator: host:port of the first process.
      count: how many there are.
      number: of this one, from 0. Without any of the three, the cluster is asked for them.

    Raises UserError if they do not fit together, or if there is no cluster to ask.
    """
    _check_flags(coordinator, count, number)
    if number:
        _wait_for_first(coordinator)
    # CPU processes communicate through gloo. On accelerators the setting has no effect.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # The service would catch SIGTERM. The training loop handles it, for all processes.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, count, number, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        if coordinator is None:
            raise UserError(
                "--distributed finds no cluster here: start every process with --coordinator=HOST:PORT of the first "
                f"one, --num_processes=N and --process_id=0, 1, … ({_first_line(error)})"
            ) from error
        raise UserError(f"the process {number} cannot join the run at {coordinator}: {_first_line(error)}") from error
    # jax aborts a process that has lost another and waits for it. A dump of threads and modules would bury why.
    faulthandler.disable()
    # Whatever error ends this process, it must not wait for the others: they may be waiting for it.
    sys.excepthook = _print_and_leave
    members = _introduce()
    explain_aborts(members, jax.process_index())
    return members


def _check_flags(coordinator: str | None, count: int | None, number: int | None) -> None:
    flags = {"--coordinator": coordinator, "--num_processes": count, "--process_id": number}
    missing = [name for name, value in flags.items() if value is None]
    if missing and len(missing) < len(flags):
        named = ", ".join(missing)
        raise UserError(f"{named} must be given too: all three, or none of them where a cluster knows them")
    if missing:
        return
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator} is no HOST:PORT")
    if not 0 <= number < count:
        raise UserError(f"--process_id={number} is not one of 0 … {count - 1}, for --num_processes={count}")


def _wait_for_first(coordinator: str) -> None:
    """Waits until somebody listens at an address. If nobody does so in time, jax would abort the process."""
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if isinstance(error, socket.gaierror | OverflowError) or time.monotonic() > until:
                raise UserError(
                    f"--coordinator={coordinator}: no process listens there ({error}). Start the process 0 at that "
                    "address, and see that the port is open"
                ) from error
        time.sleep(0.5)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _introduce() -> list[claims.Holder]:
    """Tells the other processes which one this is, and returns all of them by their number."""
    from jax.experimental import multihost_utils

    row = np.zeros(ROOM, np.uint8)
    text = json.dumps(dataclasses.asdict(claims.identify_process())).encode()
    row[: len(text)] = np.frombuffer(text, np.uint8)
    rows = multihost_utils.process_allgather(row)
    return [claims.Holder(**json.loads(bytes(np.asarray(row)).rstrip(b"\0"))) for row in rows]


class explain_losses(contextlib.AbstractContextManager):  # noqa: N801, used as a function
    """Within it, the error of a library that another process is lost becomes one message that says which.

    Args:
      members: of `join_processes`; empty if the run has one process.
    """

    def __init__(self, members: Sequence[claims.Holder]):
        self.members = members

    def __exit__(self, kind, error, trace) -> None:
        if not self.members or not isinstance(error, ValueError | RuntimeError) or isinstance(error, UserError):
            return
        if LOST.search(str(error)):
            raise ProcessLost(_describe_loss(self.members, jax.process_index())) from error


def explain_aborts(members: Sequence[claims.Holder], mine: int) -> None:
    """From now on, an abort of this process because another one is lost ends with one message that says which.

    jax's service aborts a process from a thread of C++ when it learns of the loss before the training does, as in a
    barrier of a checkpoint. That raises no Python error and runs no signal handler of Python: only a C function can
    answer the signal before the process is gone. An abort stays one while no process is seen to be lost; those of
    other machines cannot be seen.
    """
    elsewhere = any(member.space != members[mine].space for member in members)

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def answer(number: int) -> None:
        if any(member.is_gone() for member in members):
            print(_describe_loss(members, mine), file=sys.stderr, flush=True)
            # 2, as of every UserError. Nothing can be cleaned up in a process whose state is unknown.
            os._exit(2)
        if elsewhere:
            print(
                f"process {mine} of {len(members)} was aborted: the lines above say why. If it has lost a process on "
                "another machine, the same command, for all processes, goes on from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )

    ABORT_HANDLERS.append(answer)
    ctypes.CDLL(None).signal(signal.SIGABRT, answer)


def _describe_loss(members: Sequence[claims.Holder], mine: int) -> str:
    others = {number: member for number, member in enumerate(members) if number != mine}
    gone = {number: member for number, member in others.items() if member.is_gone()} or others
    named = " or ".join(f"{number} ({member})" for number, member in gone.items())
    return (
        f"process {mine} of {len(members)} has lost process {named}, which was killed or has stopped: its last message "
        "says why. The same command, for all processes, goes on from the last checkpoint"
    )


def _print_and_leave(kind, error, trace) -> None:
    sys.__excepthook__(kind, error, trace)
    leave(1)
