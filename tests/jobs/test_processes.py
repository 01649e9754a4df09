"""What a process says that is aborted by a library."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from aiseeme_jax.store import claims

# A library aborts a process from a thread of its own while the main thread waits.
ABORTED = """
import ctypes, json, sys, threading, time
from aiseeme_jax.jobs import processes
from aiseeme_jax.store.claims import Holder, identify_process
processes.explain_aborts([identify_process(), Holder(**json.loads(sys.argv[1]))], 0)
threading.Timer(0.1, ctypes.CDLL(None).abort).start()
time.sleep(60)
"""


def abort(other: claims.Holder) -> subprocess.CompletedProcess:
    fields = str(dataclasses.asdict(other)).replace("'", '"')
    return subprocess.run([sys.executable, "-c", ABORTED, fields], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_an_abort_after_the_loss_of_another_process_says_which():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lost = dataclasses.replace(claims.identify_process(), process=ended.pid)
    found = abort(lost)
    assert found.returncode == 2 and f"process 0 of 2 has lost process 1 ({lost})" in found.stderr, found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "said"), [({}, ""), ({"space": "another"}, "If it has lost a process on another")])
def test_an_abort_while_no_process_is_seen_to_be_lost_stays_one(changes, said):
    found = abort(dataclasses.replace(claims.identify_process(), process=os.getpid(), **changes))
    assert found.returncode == -signal.SIGABRT and said in found.stderr, found.stderr
    assert ("lost" in found.stderr) == bool(said), found.stderr
