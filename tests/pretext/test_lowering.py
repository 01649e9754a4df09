"""The training step of every task becomes a program for a GPU, on a machine without one. Nothing is compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from aiseeme_jax import pretext
from aiseeme_jax.training.state import make_state
from aiseeme_jax.training.step import train_step

# Colour, blur and noise take long to trace, and are the same in all tasks: once of images, once of volumes.
WITH_ALL_VIEWS = ("simclr", "rotation3d")


def lower_for_gpu(function, *arguments) -> str:
    return function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def list_products(text: str, operation: str) -> list[str]:
    """The type of the first factor of each convolution or matrix product in a program."""
    lines = [line for line in text.splitlines() if f"stablehlo.{operation}" in line]
    return [re.findall(r"tensor<(?:\d+x)*(\w+)>", line.rsplit(" : (", 1)[1])[0] for line in lines]


def find_faults(text: str) -> list[str]:
    """What a program for a GPU should not have: float64, convolutions in float32, calls back to the host."""
    faults = ["float64"] if re.search(r"[x<]f64>", text) else []
    faults += ["convolution in float32"] if "f32" in list_products(text, "convolution") else []
    return faults + sorted(set(re.findall(r"custom_call @(\w*callback\w*|\w*host\w*)", text)))


@pytest.mark.slow
@pytest.mark.parametrize("name", pretext.TASKS)
def test_the_step_of_a_task_lowers_for_cuda_in_bfloat16(name, monkeypatch):
    # What is chosen by the backend is chosen as on a GPU.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    tiny.use_devices(monkeypatch, 1)
    stage = tiny.table_stage(name, **({"views": {}} if name in WITH_ALL_VIEWS else {}))
    task = tiny.task(stage, tiny.table_backbone(name, dtype="bfloat16"), dtype="bfloat16")
    program, state = make_state(task, tiny.recipe(stage))
    text = lower_for_gpu(train_step.of(program), state, tiny.table_batch(name), jax.random.key(0))
    assert find_faults(text) == []
    # The network is in it, and computes in bfloat16.
    assert "bf16" in list_products(text, "dot_general" if name in tiny.OF_VITS else "convolution")


def convolve(x):
    return jax.lax.conv(x, jnp.ones((4, 2, 3, 3), x.dtype), (1, 1), "SAME")


def test_each_fault_is_found():
    image = jnp.ones((1, 2, 8, 8))
    assert find_faults(lower_for_gpu(jax.jit(convolve), image.astype(jnp.bfloat16))) == []
    assert find_faults(lower_for_gpu(jax.jit(convolve), image)) == ["convolution in float32"]

    def ask_host(x):
        return jax.pure_callback(np.sin, x, x)

    # For another platform jax would not lower it at all.
    (callback,) = find_faults(jax.jit(ask_host).lower(jnp.ones(3)).as_text())
    assert "callback" in callback
    with jax.enable_x64(True):
        assert find_faults(lower_for_gpu(jax.jit(lambda x: x * 2), jnp.ones(3, jnp.float64))) == ["float64"]
