"""What a stage needs, as it is told before it is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_runs import config, stage

from aiseeme_jax import weights
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.curriculum.stages import make_recipe, prepare_stage
from aiseeme_jax.jobs import forecast
from aiseeme_jax.jobs.forecast import Forecaster
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.training.state import make_state
from aiseeme_jax.training.step import train_step

pytestmark = pytest.mark.usefixtures("tiny_in_the_table", "splits")
STAGES = (stage("rotation", 4), stage("npid", 50, distill={"kind": "mse", "weight": 0.5}))


@pytest.fixture
def planned(tmp_path):
    """A context, and its two planned stages, the second one distilled from the first."""

    def make(dtype="float32"):
        made = config(STAGES, baselines=())
        made.model.dtype = dtype
        datasets = DataSets(made)
        return Context.of(made, Store(tmp_path), datasets), make_plan(made, datasets).arms[0].stages

    return make


def describe(tree):
    """Shapes and types of the arrays in a tree."""
    return jax.tree.map(lambda one: (one.shape, one.dtype), tree)


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 1])
def test_the_program_and_the_shapes_are_those_of_the_training(place, planned, monkeypatch):
    context, stages = planned()
    new = weights.starting_backbone(context.model, weights.SCRATCH, 0)
    monkeypatch.setattr(Context, "load_start", lambda self, start: new)
    prepared = prepare_stage(stages[place], context)
    program, state = make_state(prepared.task, make_recipe(stages[place], context), prepared.frozen)
    batch = next(prepared.batches(0))
    found = Forecaster(context, {}).shape(stages[place])
    # So what `--plan` compiles need not be compiled again.
    assert found[0] == program
    assert describe(found[1]) == describe(state)
    assert describe(found[2]) == describe(batch)
    lie = [jax.tree.map(lambda one: one.sharding, one) for one in (found[1:], (state, batch))]
    assert jax.tree.leaves(lie[0]) == jax.tree.leaves(lie[1])


@pytest.mark.slow
def test_memory_and_disk_of_a_stage(planned):
    context, (first, _) = planned()
    forecaster = Forecaster(context, {first.speed_of: 16.0})
    found = forecaster.forecast(first)
    _, state, batch = forecaster.shape(first)
    arrays = sum(np.prod(one.shape, dtype=int) * one.dtype.itemsize for one in jax.tree.leaves((state, batch)))
    weighs = sum(np.prod(one.shape, dtype=int) * one.dtype.itemsize for one in jax.tree.leaves(state.params))
    assert found.memory > arrays / jax.device_count()
    # Weights and two moments in each of two checkpoints, and the backbone.
    assert 7 * weighs <= found.disk <= 8 * weighs
    # 4 steps of 8 images.
    assert (found.seconds, found.measured) == (2.0, True)
    assert str(found).startswith("about 2 s (measured speed), ")
    assert forecaster.forecast(first) == found
    assert forecaster.estimate_seconds(dataclasses.replace(first, seconds=0.5)) == (0.5, True)


@pytest.mark.slow
def test_without_a_measured_speed_the_operations_of_a_step_tell(planned, monkeypatch):
    context, (first, second) = planned()
    monkeypatch.setattr(forecast, "measure_operations", lambda dtype: 1e6)
    forecaster = Forecaster(context, {})
    program, state, batch = forecaster.shape(second)
    operations = train_step.of(program).lower(state, batch, jax.random.key(0)).cost_analysis()["flops"]
    # A forward pass of the student and of its teacher, and the gradient, of 8 images.
    assert forecaster.estimate_seconds(second) == (50 * operations / 1e6, False)
    assert operations > 1e6


def test_speed_of_the_device_is_that_of_a_convolution(monkeypatch):
    """The operations are counted as the compiler counts them."""
    monkeypatch.setattr(forecast, "CONVOLUTION", (2, 8, 4))
    monkeypatch.setattr(forecast.time, "perf_counter", iter(np.arange(100.0)).__next__)

    def loss(images, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=dimensions).sum()

    # Without the border each of the 64 pixels of the result has all nine weights.
    shapes = jnp.ones((2, 10, 10, 4)), jnp.ones((3, 3, 4, 4))
    counted = jax.jit(loss).lower(*shapes).cost_analysis()["flops"]
    assert forecast.measure_operations("float32") == pytest.approx(3 * counted, rel=0.02)


def test_a_config_for_a_gpu_without_one_is_told_how_long_it_takes(planned, monkeypatch):
    monkeypatch.setattr(forecast, "measure_operations", lambda dtype: 1e3)
    monkeypatch.setattr(Forecaster, "estimate_seconds", lambda self, stage: (90_000.0, False))
    context, stages = planned("bfloat16")
    said = forecast.describe_missing_device(stages, Forecaster(context, {}))
    assert said.startswith("no GPU was found, and this config was made for one") and "about 50 hours" in said
    assert not forecast.describe_missing_device([], Forecaster(context, {}))
    # Nothing is compiled for the wrong device.
    monkeypatch.setattr(forecast.memory, "measure_step", None)
    found = Forecaster(context, {}).forecast(stages[0])
    assert found.memory is None and found.disk > 0 and "of memory" not in str(found)
    context, stages = planned("float32")
    assert not forecast.describe_missing_device(stages, Forecaster(context, {}))
