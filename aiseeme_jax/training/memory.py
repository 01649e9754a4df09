"""Memory: of the host between two pieces of work, and of a step before it runs."""

import ctypes
import dataclasses
import gc
import math
import re
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from aiseeme_jax.training.state import Program, TrainState
from aiseeme_jax.training.step import train_step


def give_back_memory() -> None:
    """Gives the system what this process has freed.

    The allocator of glibc keeps what a compilation used: some 30 MB for each small stage, in a process that may train
    hundreds. Other allocators have no such function, and nothing is done.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def find_memory_limit() -> float | None:
    """Bytes that a program may use on one device: the device's own, or on CPUs its part of the host's.

    If there are several processes, it is the least of all. None if nobody says.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        # What is called devices here shares one memory.
        found = _find_host_memory() / jax.local_device_count()
    else:
        found = (device.memory_stats() or {}).get("bytes_limit", math.inf)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        found = float(multihost_utils.process_allgather(np.float32(found)).min())
    return found if math.isfinite(found) else None


def _find_host_memory() -> float:
    """Bytes of memory that this host has, or that the group of this process may use; infinite if nobody says."""
    sizes = [math.inf]
    for file, pattern, unit in (
        ("/proc/meminfo", r"MemTotal:\s+(\d+) kB", 1024),
        ("/sys/fs/cgroup/memory.max", r"(\d+)", 1),
    ):
        try:
            found = re.match(pattern, Path(file).read_text())
        except OSError:
            continue
        sizes += [int(found[1]) * unit] if found else []
    return min(sizes)


def measure_step(program: Program, state: TrainState, batch: dict[str, Array]) -> int | None:
    """Bytes that a training step needs on each device, state and batch included, without running it.

    If a step can go several ways, it is the one that needs most. None if the compiler does not say.
    """
    ways = [dataclasses.replace(program, turn=way) for way in range(program.alternatives)]
    sizes = [_measure_way(way, state, batch) for way in ways]
    return None if None in sizes else max(sizes)


def _measure_way(program: Program, state: TrainState, batch: dict[str, Array]) -> int | None:
    found = train_step.of(program).lower(state, batch, jax.random.key(0)).compile().memory_analysis()
    if found is None:
        return None
    sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
    return sum(sizes) - found.alias_size_in_bytes + found.generated_code_size_in_bytes
