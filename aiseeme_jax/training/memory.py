"""Memory: of the host between two pieces of work, and of a step before it runs."""

import ctypes
import gc
from pathlib import Path

import jax
from jaxtyping import Array

from aiseeme_jax.training.step import Program, TrainState, train_step


def give_back_memory() -> None:
    """Gives the system what this process has freed.

    The allocator of glibc keeps what a compilation used: some 30 MB for each small stage, in a process that may train
    hundreds. Other allocators have no such function, and nothing is done.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def find_memory_limit() -> int | None:
    """Bytes that a program may use: of the device, or on CPUs what is free of the host's. None if nobody says."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    # What is called devices here shares one memory.
    return free[0] // jax.local_device_count() if free else None


def measure_step(program: Program, state: TrainState, batch: dict[str, Array]) -> int | None:
    """Bytes that a training step needs on each device, state and batch included, without running it.

    None if the compiler does not say.
    """
    compiled = train_step.of(program).lower(state, batch, jax.random.key(0)).compile()
    found = compiled.memory_analysis()
    if found is None:
        return None
    sizes = (found.argument_size_in_bytes, found.output_size_in_bytes, found.temp_size_in_bytes)
    return sum(sizes) - found.alias_size_in_bytes + found.generated_code_size_in_bytes
