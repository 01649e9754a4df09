"""The energy that a piece of work takes, where the machine tells: RAPL for processors and memory, NVML for GPUs.

RAPL (Linux, Documentation/power/powercap/powercap.rst of the kernel) counts microjoules of a whole processor, and
begins again at 0 after `max_energy_range_uj`. Usually only root may read it. NVML counts millijoules of a whole GPU. It
is read by `pynvml`, if that is installed. Both count what other programs use at the same time. Power supply, fans and
disks are in neither.
"""

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import jax

POWERCAP = Path("/sys/class/powercap")
# 'intel-rapl:0' is a processor of any maker, 'intel-rapl:0:1' a part of it, of which memory alone is not within it.
ZONES = "intel-rapl:*"
PROCESSOR, MEMORY = "package", "dram"
# Names the GPUs that jax sees; it must be empty, or numbers and identifiers as `nvidia-smi -L` has them.
VISIBLE = "CUDA_VISIBLE_DEVICES"
# Seconds. A counter of RAPL begins again after minutes at full power.
READ_EVERY = 30.0


@dataclass(frozen=True)
class Counter:
    """A counter of energy.

    Attributes:
      read: joules since some moment. Raises OSError or ValueError if it cannot be read.
      range: joules after which it begins again at 0.
    """

    read: Callable[[], float]
    range: float = math.inf


class Meter:
    """Joules of the processors, the memory and the GPUs that are in use, from when it was made.

    As a context it also reads the counters now and then, so that it notices each time that one begins again.

    Args:
      before: joules of earlier parts of the same work; None if these were not measured.
      counters: by default those of this machine.
    """

    def __init__(self, before: float | None = 0.0, counters: Sequence[Counter] | None = None):
        self.counters = find_counters() if counters is None else counters
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._last = self._read()
        self._total = None if self._last is None else before

    def __enter__(self) -> Self:
        if self._total is not None:
            threading.Thread(target=self._keep_reading, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._ended.set()

    def joules(self) -> float | None:
        """Joules so far; None if they cannot be read, or could not be for a part of the work."""
        with self._lock:
            now = None if self._total is None else self._read()
            if now is None:
                self._total = None
                return None
            passed = zip(now, self._last, self.counters, strict=True)
            self._total += sum(new - old if new >= old else new - old + counter.range for new, old, counter in passed)
            self._last = now
            return round(self._total, 1) if math.isfinite(self._total) else None

    def _keep_reading(self) -> None:
        while not self._ended.wait(READ_EVERY):
            self.joules()

    def _read(self) -> list[float] | None:
        if not self.counters:
            return None
        try:
            return [counter.read() for counter in self.counters]
        except (OSError, ValueError):
            return None


def add_joules(found: Sequence[float | None]) -> float | None:
    """The sum; None if one of them was not measured."""
    return None if None in found else round(sum(found), 1)


def find_counters(powercap: Path = POWERCAP, environment: Mapping[str, str] = os.environ) -> list[Counter]:
    """The counters of this machine.

    There are none where a part of what does the work cannot be read: with several processes, of which each could see
    its own machine alone, and with GPUs without `pynvml`.
    """
    if jax.process_count() > 1:
        return []
    if jax.default_backend() == "cpu":
        return list_rapl(powercap)
    gpus = list_gpus(environment)
    return [*list_rapl(powercap), *gpus] if gpus else []


def list_rapl(powercap: Path = POWERCAP) -> list[Counter]:
    """The processors and their memory; none of them if one cannot be read."""
    found = []
    for zone in sorted(powercap.glob(ZONES)):
        try:
            name = (zone / "name").read_text().strip()
            if name.startswith(PROCESSOR) or name == MEMORY:
                counter = Counter(
                    functools.partial(_read_joules, zone / "energy_uj"), _read_joules(zone / "max_energy_range_uj")
                )
                counter.read()
                found.append(counter)
        except (OSError, ValueError):
            return []
    return found


def _read_joules(path: Path) -> float:
    return int(path.read_text()) / 1e6


def list_gpus(environment: Mapping[str, str] = os.environ) -> list[Counter]:
    """The NVIDIA GPUs that jax may use; none of them if one cannot be read, as a part of a GPU (MIG) cannot."""
    try:
        import pynvml
    except ImportError:
        return []
    with contextlib.suppress(pynvml.NVMLError, OSError):
        pynvml.nvmlInit()
        counters = [_count_gpu(pynvml, handle) for handle in _find_gpus(pynvml, environment.get(VISIBLE))]
        for counter in counters:
            counter.read()
        return counters
    return []


def _find_gpus(pynvml, visible: str | None) -> list:
    if visible is None:
        return [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
    names = [name.strip() for name in visible.split(",") if name.strip()]
    by_name = pynvml.nvmlDeviceGetHandleByUUID
    return [pynvml.nvmlDeviceGetHandleByIndex(int(one)) if one.isdigit() else by_name(one) for one in names]


def _count_gpu(pynvml, handle) -> Counter:
    def read() -> float:
        try:
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    return Counter(read)
