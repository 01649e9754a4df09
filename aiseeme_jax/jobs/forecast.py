"""Says before a stage is trained how long it takes, and what memory and disk it needs, without training anything.

The step of the stage is compiled on shapes alone, unless it is meant for a GPU that is not there. The compiled program
is kept in the user's folder, for the run (`training/compilation.py`). The time of a stage is that of stages of the same
kind in the store; if there is none, it is estimated from the operations of the step and from how fast this device makes
those of a convolution.
"""

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from aiseeme_jax import data, distill, weights
from aiseeme_jax.curriculum.checks import make_stage_task
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.pieces import PlannedStage
from aiseeme_jax.curriculum.stages import make_recipe
from aiseeme_jax.jobs.config_names import suggest_small
from aiseeme_jax.jobs.requirements import COMMAND_FOR_GPUS
from aiseeme_jax.store import checkpoints
from aiseeme_jax.training import memory
from aiseeme_jax.training.display import duration
from aiseeme_jax.training.state import Program, TrainState, everywhere, make_state
from aiseeme_jax.training.step import train_step

# The convolution whose speed is measured: images, side, features; it takes a fraction of a second on a CPU.
CONVOLUTION = (16, 28, 64)
REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a stage needs.

    Attributes:
      seconds: of training.
      measured: whether these follow from a speed that was measured.
      memory: bytes on each device; None if the compiler does not say, or the GPU that it is meant for is not there.
      disk: bytes of its checkpoints and its backbone.
    """

    seconds: float
    measured: bool
    memory: int | None
    disk: int

    def __str__(self) -> str:
        how = "measured" if self.measured else "estimated"
        parts = [f"about {duration(self.seconds)} ({how} speed)"]
        parts += [] if self.memory is None else [f"{self.memory / 2**20:,.0f} MiB of memory"]
        return ", ".join([*parts, f"{self.disk / 2**20:,.0f} MiB of disk"])


class Forecaster:
    """Forecasts stages. Those of the same kind are compiled once.

    Args:
      speeds: images per second of finished stages, by `PlannedStage.speed_of`.
    """

    def __init__(self, context: Context, speeds: Mapping[str, float]):
        self.context, self.speeds = context, speeds
        # By `PlannedStage.speed_of`.
        self._compiled: dict[str, tuple[int | None, int]] = {}
        self._operations: dict[str, float] = {}

    def forecast(self, stage: PlannedStage) -> Forecast:
        """What a stage needs."""
        if stage.speed_of not in self._compiled:
            program, state, batch = self.shape(stage)
            missing = is_made_for_missing_gpu(self.context)
            needed = None if missing else memory.measure_step(program, state, batch)
            self._compiled[stage.speed_of] = needed, _count_disk(state)
        seconds, measured = self.estimate_seconds(stage)
        return Forecast(seconds, measured, *self._compiled[stage.speed_of])

    def estimate_seconds(self, stage: PlannedStage) -> tuple[float, bool]:
        """Seconds that a stage takes, and whether its speed was measured. Nothing is compiled but a convolution."""
        if stage.speed_of in self.speeds:
            return stage.limit_seconds(stage.images_shown / self.speeds[stage.speed_of]), True
        seconds = stage.total_steps * self._count_operations(stage) / self._operations_per_second
        return stage.limit_seconds(seconds), False

    def shape(self, stage: PlannedStage) -> tuple[Program, TrainState, dict[str, jax.ShapeDtypeStruct]]:
        """The program of a stage, and the shapes of its state and of a batch.

        The weights of teachers are new, and Fisher information is left out: their values do not matter here.
        """
        context, split = self.context, self.context.datasets.pretraining(stage.sets)
        programs = []

        def make() -> TrainState:
            new = functools.partial(weights.starting_backbone, context.model, weights.SCRATCH, 0)
            task = make_stage_task(
                stage.fields, new(), len(split), stage.total_steps, dtype=context.model.dtype, seed=stage.seed
            )
            terms = [term for term in stage.terms if term.kind != "ewc"]
            teachers = {label: new() for label in stage.teachers}
            frozen = distill.attach_distillation(task, terms, teachers, dtype=context.model.dtype, seed=stage.seed)
            program, state = make_state(task, make_recipe(stage, context), frozen)
            programs.append(program)
            return state

        state = _place(jax.eval_shape(make), everywhere())
        rows = stage.fields.batch_size
        batch = {
            "image": jax.ShapeDtypeStruct((rows, *split.shape), split.dtype),
            "index": jax.ShapeDtypeStruct((rows,), jnp.int32),
        }
        if split.labels is not None:
            batch["label"] = jax.ShapeDtypeStruct((rows, *split.labels.shape[1:]), split.labels.dtype)
        return programs[0], state, _place(batch, NamedSharding(data.data_mesh(), PartitionSpec("data")))

    def _count_operations(self, stage: PlannedStage) -> float:
        """Floating point operations of a step."""
        if stage.speed_of not in self._operations:
            program, state, batch = self.shape(stage)
            lowered = train_step.of(program).lower(state, batch, jax.random.key(0))
            self._operations[stage.speed_of] = lowered.cost_analysis()["flops"]
        return self._operations[stage.speed_of]

    @functools.cached_property
    def _operations_per_second(self) -> float:
        # What is called devices on a CPU shares its cores.
        devices = 1 if jax.default_backend() == "cpu" else jax.device_count()
        return measure_operations(self.context.model.dtype) * devices


def measure_operations(dtype: str) -> float:
    """Floating point operations that a device makes in a second, in a 3 x 3 convolution and its gradients."""
    count, side, features = CONVOLUTION
    images = jnp.ones((count, side, side, features), dtype)
    kernel = jnp.ones((3, 3, features, features), dtype)

    def loss(images: jax.Array, kernel: jax.Array) -> jax.Array:
        made = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.square(made.astype(jnp.float32)).sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(images, kernel).compile()
    jax.block_until_ready(step(images, kernel))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(step(images, kernel))
        times.append(time.perf_counter() - start)
    # Of the convolution and both gradients: a multiplication and an addition for each weight and pixel.
    return 3 * 2 * count * side**2 * 9 * features**2 / min(times)


def is_made_for_missing_gpu(context: Context) -> bool:
    """Whether a config was made for a GPU, and there are only CPUs.

    Configs for GPUs compute in bfloat16, those for CPUs in float32, since CPUs have no arithmetic of bfloat16.
    """
    return jax.default_backend() == "cpu" and context.model.dtype == "bfloat16"


def describe_missing_device(stages: Sequence[PlannedStage], forecaster: Forecaster) -> str:
    """A warning if a config that was made for a GPU runs on CPUs; '' if it is not so, or nothing is to be trained."""
    if not is_made_for_missing_gpu(forecaster.context) or not stages:
        return ""
    seconds = sum(forecaster.estimate_seconds(stage)[0] for stage in stages)
    told = f"{seconds / 3600:,.0f} hours" if seconds >= 7200 else duration(seconds)
    return (
        f"no GPU was found, and this config was made for one: it computes in bfloat16. On these CPUs its stages take "
        f"about {told}; {suggest_small(sys.argv)}. If there is a GPU, `{COMMAND_FOR_GPUS}` installs jax for it"
    )


def _place(shapes: Any, sharding: NamedSharding) -> Any:
    """Shapes as arrays that lie so on the devices."""
    return jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=sharding), shapes)


def _count_disk(state: TrainState) -> int:
    """Bytes of the checkpoints that are kept of a training, and of its backbone, which is smaller than its weights."""
    sizes = jax.tree.map(lambda one: math.prod(one.shape) * one.dtype.itemsize, state.replace(frozen=None))
    return checkpoints.KEPT * sum(jax.tree.leaves(sizes)) + sum(jax.tree.leaves(sizes.params))
