"""Steps and loops that benchmarks measure. They need no config, so they run without ml-collections, grain and clu."""

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from aiseeme_jax import augment, pretext
from aiseeme_jax.task import Output, Task
from aiseeme_jax.training import loop
from aiseeme_jax.training.state import Recipe, make_state
from aiseeme_jax.training.step import train_step
from bench import roofline

# A stage so long that its schedule does not matter.
TOTAL_STEPS = 1_000_000
NO_CALLBACKS = loop.Callbacks()


@dataclasses.dataclass(frozen=True)
class Duration:
    """As `configs.nodes.duration` makes it."""

    epochs: float | None = None
    steps: int | None = None
    examples: int | None = None


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The fields of a stage's `optimizer` that SGD and AdamW read. The rate is low, so that nothing diverges."""

    name: str = "sgd"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 0.0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A constant rate."""

    name: str = "constant"
    warmup: Duration = Duration(steps=0)


@dataclasses.dataclass(frozen=True)
class Fields:
    """What a training reads of a stage's config: `Recipe.fields`."""

    batch_size: int
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    task_weight: float = 1.0


class Ready(Task):
    """A task that gets its views ready-made: a step without augmentation."""

    def __init__(self, task: Task):
        super().__init__(task.backbone, task.spec)
        self.task = task

    def views(self, key, batch):
        return batch["views"]

    def loss(self, views, progress) -> Output:
        return self.task.loss(views, progress)

    def after_update(self, progress) -> None:
        self.task.after_update(progress)


@dataclasses.dataclass
class Step:
    """The compiled step of a task, with its state and a batch.

    Attributes:
      operations: floating-point operations of its products and convolutions, see `roofline.count_operations`.
    """

    compiled: Any
    operations: float
    state: Any
    batch: dict[str, Array]
    key: jax.Array

    def __call__(self, steps: int, batches: Iterator[dict[str, Array]] | None = None) -> None:
        """Makes steps on the one batch, or on others of its shape, and waits for them."""
        for _ in range(steps):
            batch = self.batch if batches is None else next(batches)
            self.state, metrics, _ = self.compiled(self.state, batch, self.key)
        jax.block_until_ready((self.state, metrics))

    @property
    def mebibytes(self) -> float:
        """Memory of the state, the batch, and everything else during a step."""
        memory = self.compiled.memory_analysis()
        return (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20

    @property
    def bytes(self) -> float:
        """See `roofline.count_bytes`."""
        return roofline.count_bytes(self.compiled.as_text())


def compile_step(
    task: Task,
    fields: Any,
    batch: dict[str, Array],
    *,
    steps_per_epoch: int,
    options: Mapping[str, Any] | None = None,
) -> Step:
    """Compiles the training step of a task.

    Args:
      fields: of the stage, as in `Recipe`.
      options: of the compiler, for this step alone.
    """
    program, state = make_state(task, Recipe(fields, TOTAL_STEPS, steps_per_epoch, seed=0))
    key = jax.random.key(0)
    traced = train_step.of(program).trace(state, batch, key)
    compiled = traced.lower().compile(compiler_options=dict(options) if options else None)
    return Step(compiled, roofline.count_operations(traced.jaxpr), state, batch, key)


def make_task(
    name: str,
    backbone: nnx.Module,
    *,
    size: int,
    preset: str,
    setting: pretext.Setting,
    views: Mapping[str, Any] | None = None,
) -> Task:
    """A pretext task with its published fields.

    Args:
      size, preset: of its views, as in `configs.base.stage`.
      views: changes to fields of the views.
    """
    kind = pretext.task_class(name)
    spec = augment.make_views(preset, size=size, recipe=kind.RECIPE, fixed=kind.FIXED)
    spec = dataclasses.replace(spec, **(views or {}))
    return pretext.make_task(name, backbone, spec, setting, pretext.task_fields(name), rngs=nnx.Rngs(0))


def make_views(task: Task, batch: dict[str, Array]) -> dict[str, Array]:
    """The batch with views of it, for `Ready`."""
    return {**batch, "views": jax.jit(lambda key, batch: task.views(key, batch))(jax.random.key(0), batch)}


def forever(batch):
    while True:
        yield batch


def run_loop(
    task: Task,
    fields: Any,
    batches: Callable[[int], Iterator[dict[str, Array]]],
    *,
    steps: int,
    steps_per_epoch: int,
    callbacks: loop.Callbacks = NO_CALLBACKS,
) -> float:
    """Images per second of `loop.fit` after its first log line, with logging and two checkpoints."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, contextlib.redirect_stderr(io.StringIO()):
        recipe = loop.Recipe(fields, max(steps, 2), steps_per_epoch, seed=0)
        folder = loop.Folder(Path(directory), "whole loop", log_every=10, checkpoint_every=max(steps // 2, 1))
        result = loop.fit(task, batches, recipe, folder, callbacks=callbacks)
    return result.record["images_per_second"]
