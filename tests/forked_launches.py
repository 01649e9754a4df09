"""Runs `launch.py` in forks of this process, which has imported once what takes seconds to import.

A line of the standard input is a run: its flags and the file for what it says, as JSON. The answer is its exit code.
No run may need more than this process has: it starts no device itself, since threads do not survive a fork.
"""

import json
import os
import sys

import tiny_config  # noqa: F401

import aiseeme_jax.jobs.curriculum  # noqa: F401
from aiseeme_jax.jobs import launch


def run_in_a_fork(flags: list[str], log: str) -> int:
    """The exit code, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["launch.py", *flags]
    launch.run()
    sys.exit(0)


for line in sys.stdin:
    print(run_in_a_fork(*json.loads(line)), flush=True)
