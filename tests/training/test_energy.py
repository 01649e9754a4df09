"""Counters of energy on folders as Linux has them, and a made-up driver of GPUs."""

import sys
from types import SimpleNamespace

import jax
import pytest

from aiseeme_jax.training import energy
from aiseeme_jax.training.energy import Counter, Meter
from aiseeme_jax.training.spending import Spending


def write_zone(folder, name, joules, most=1000):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{joules * 10**6}\n")
    (folder / "max_energy_range_uj").write_text(f"{most * 10**6}\n")


@pytest.fixture
def machine(tmp_path):
    """Two processors, one with memory and cores, and zones that count the same once more."""
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram"}
    zones |= {"intel-rapl:1": "package-1", "intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0"}
    for folder, name in zones.items():
        write_zone(tmp_path / folder, name, 100)
    return tmp_path


def test_processors_and_memory_are_added_and_begin_again_at_zero(machine):
    meter = Meter(5.0, energy.list_rapl(machine))
    assert meter.joules() == 5
    write_zone(machine / "intel-rapl:0", "package-0", 130)
    write_zone(machine / "intel-rapl:0:0", "core", 900)
    write_zone(machine / "intel-rapl:0:1", "dram", 107)
    # 900 up to the end of its range, and 40 after it.
    write_zone(machine / "intel-rapl:1", "package-1", 40)
    assert meter.joules() == 5 + 30 + 7 + 940
    assert meter.joules() == 5 + 30 + 7 + 940


def test_nothing_is_measured_if_a_part_cannot_be_read(machine, tmp_path):
    meter = Meter(0.0, energy.list_rapl(machine))
    (machine / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.joules() is None
    write_zone(machine / "intel-rapl:1", "package-1", 200)
    assert meter.joules() is None, "what passed in between is not known"
    (machine / "intel-rapl:0" / "energy_uj").write_text("no number")
    assert energy.list_rapl(machine) == [] and energy.list_rapl(tmp_path / "none") == []
    assert Meter(0.0, []).joules() is None and Meter(None, [Counter(lambda: 1.0)]).joules() is None


def test_a_counter_that_comes_round_between_two_readings_of_the_user_is_noticed(monkeypatch):
    import time

    monkeypatch.setattr(energy, "READ_EVERY", 0.001)
    values = iter([0.0, 60.0, 10.0, 70.0, *[70.0] * 100_000])
    with Meter(0.0, [Counter(lambda: next(values), 100.0)]) as meter:
        deadline = time.monotonic() + 20
        while meter._total < 170 and time.monotonic() < deadline:
            time.sleep(0.001)
    # 60, 50 over the end of the range, 60.
    assert meter._total == 170


class NVMLError(Exception):
    pass


def make_driver(millijoules):
    """`pynvml` with GPUs named GPU-0, GPU-1, … of which None cannot be read."""

    def read(handle):
        if millijoules[handle] is None:
            raise NVMLError("Not Supported")
        return millijoules[handle]

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(millijoules),
        nvmlDeviceGetHandleByIndex=lambda place: place,
        nvmlDeviceGetHandleByUUID=lambda name: int(name.removeprefix("GPU-")),
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


def test_the_gpus_that_jax_sees_are_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", make_driver([1000, 2000, 4000]))

    def read(**environment):
        return [counter.read() for counter in energy.list_gpus(environment)]

    assert (
        read() == [1, 2, 4] and read(CUDA_VISIBLE_DEVICES="2, GPU-0") == [4, 1] and read(CUDA_VISIBLE_DEVICES="") == []
    )
    monkeypatch.setitem(sys.modules, "pynvml", make_driver([1000, None]))
    assert read() == [] and read(CUDA_VISIBLE_DEVICES="0") == [1]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read() == []


def test_the_processor_alone_does_not_tell_of_work_on_a_gpu(monkeypatch, machine):
    assert len(energy.find_counters(machine, {})) == 3
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.find_counters(machine, {}) == []
    monkeypatch.setitem(sys.modules, "pynvml", make_driver([1000]))
    assert len(energy.find_counters(machine, {})) == 4
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert energy.find_counters(machine, {}) == []


def test_what_a_training_spent_before_it_was_interrupted_counts(monkeypatch):
    monkeypatch.setattr(energy, "find_counters", lambda: [Counter(iter([10.0, 14.0, 18.0, 18.0]).__next__)])
    spent = Spending()
    found = spent.figures()
    assert (found["devices"], found["joules"]) == (jax.device_count(), 4) and found["seconds"] >= 0
    longer = spent.figures({"seconds": 500.0, "joules": 90.0})
    assert longer["seconds"] == 500 and longer["joules"] == 90
    assert spent.figures({"seconds": 0.0})["joules"] is None, "of a version that did not measure it"
