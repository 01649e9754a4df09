"""What a step needs before it runs, and what there is."""

import jax
import pytest
import tiny

from aiseeme_jax.training import memory
from aiseeme_jax.training.state import make_state


def needed(batch, task="rotation", **changes):
    config = tiny.stage(task, batch=batch, **changes)
    program, state = make_state(tiny.task(config, tiny.Pixels()), tiny.recipe(config))
    return memory.measure_step(program, state, tiny.batch(batch))


@pytest.mark.slow
def test_a_larger_batch_needs_more_and_at_least_its_pixels():
    small, large = needed(8), needed(24)
    pixels = tiny.batch(16)["image"].nbytes / jax.device_count()
    assert large - small >= pixels > 0


def test_the_limit_of_a_host_is_shared_by_its_devices(monkeypatch):
    monkeypatch.setattr(memory, "_find_host_memory", lambda: 80.0)
    assert memory.find_memory_limit() == 80.0 / jax.local_device_count()
    monkeypatch.setattr(memory, "_find_host_memory", lambda: float("inf"))
    assert memory.find_memory_limit() is None


@pytest.mark.parametrize("group, expected", [("max\n", 2048), ("1024\n", 1024), ("4096\n", 2048), (None, 2048)])
def test_a_control_group_may_have_less_than_its_host(group, expected, monkeypatch):
    texts = {"/proc/meminfo": "MemTotal:       2 kB\nMemFree:  1 kB\n", "/sys/fs/cgroup/memory.max": group}

    def read(path):
        if texts[str(path)] is None:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(memory.Path, "read_text", read)
    assert memory._find_host_memory() == expected
