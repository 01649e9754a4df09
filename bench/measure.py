"""How benchmarks measure. Variants take turns, so that a busy moment of the machine affects all of them alike."""

import contextlib
import importlib.metadata
import logging
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator

import jax


def images_per_second(
    variants: dict[str, Callable[[int], None]], *, images_per_step: int, steps: int, rounds: int
) -> dict[str, float]:
    """Median speed of each variant over `rounds` turns of `steps` steps. A first turn, for compilation, is not counted.

    A variant is called with a number of steps. It returns when the device has finished them.
    """
    for run in variants.values():
        run(2)
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run(steps)
            speeds[name].append(images_per_step * steps / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in speeds.items()}


@contextlib.contextmanager
def count_compilations() -> Iterator[list[str]]:
    """Gives the names of the functions that jax compiles inside the block, from its log."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Compiling "):
                names.append(record.getMessage().split()[1])

    names: list[str] = []
    logger, collector = logging.getLogger("jax"), Collector()
    logger.addHandler(collector)
    propagated, logger.propagate = logger.propagate, False
    try:
        with jax.log_compiles():
            yield names
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagated


def peak_memory() -> str:
    """Peak memory of the device, or of the process if the device is the CPU."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return f"{stats['peak_bytes_in_use'] / 2**30:.2f} GiB on the device"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB resident"


def versions(*packages: str) -> str:
    """Hardware and versions in one line, for the head of a table."""
    found = versions_of(packages)
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{device}, {os.cpu_count()} CPU cores ({processor()}), Python {platform.python_version()}, {found}"


def versions_of(packages: Iterable[str]) -> str:
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table. The first row is its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])
