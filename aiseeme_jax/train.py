"""One state, one step, one loop for every task.

The step sees the global batch: jit over arrays sharded along `data` makes losses, batch statistics and gradients
those of one large device, on any number of devices. The loop never waits for the device except to log, to save and at
the end of an epoch that asks for it.
"""

import collections
import contextlib
import dataclasses
import functools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from aiseeme_jax import checkpoint, data, distill, optim
from aiseeme_jax.pretext.base import Task
from aiseeme_jax.telemetry import Telemetry, collapse_warning, feature_health

# Steps the host may be ahead of the device: enough to keep it busy, few enough to stop when asked to.
QUEUED_STEPS = 2


class Preempted(Exception):
    """The run was asked to stop (SIGTERM) and has saved; the same command goes on."""


class Diverged(ValueError):
    """Too many steps in a row were not finite."""


@struct.dataclass
class TrainState:
    """Everything that training changes, and the teacher it must not.

    `streak` counts the non-finite steps in a row, `skipped` all of them; `halted` is the step at which the run gave
    up, or -1.
    """

    step: Int[Array, ""]
    params: nnx.State
    rest: nnx.State
    optimizer: optax.OptState
    teacher: nnx.State | None
    streak: Int[Array, ""]
    skipped: Int[Array, ""]
    halted: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Program:
    """What is fixed while a stage trains. Hashable: two runs with equal programs share one compilation.

    Attributes:
      graph: of the task.
      teacher_graph: of the frozen backbone, or None.
      stage: frozen config with `optimizer`, `schedule`, `distill`, `task_weight`, `batch_size`.
      total_steps, steps_per_epoch: of the stage.
      patience: non-finite steps in a row after which nothing is updated any more.
    """

    graph: nnx.GraphDef
    teacher_graph: nnx.GraphDef | None
    stage: Any
    total_steps: int
    steps_per_epoch: int
    patience: int = 10

    def schedule(self) -> optax.Schedule:
        peak = self.stage.optimizer.learning_rate
        return optim.make_schedule(
            self.stage.schedule, peak, self.total_steps, self.steps_per_epoch, self.stage.batch_size
        )

    def optimizer(self) -> optax.GradientTransformation:
        return optim.make_optimizer(self.stage.optimizer, self.schedule())


def make_state(
    task: Task, stage: Any, *, total_steps: int, steps_per_epoch: int, teacher: nnx.Module | None, patience: int
):
    """The program of a stage and its state before the first step, replicated over all devices."""
    graph, params, rest = split(task)
    teacher_graph, teacher_state = nnx.split(teacher) if teacher is not None else (None, None)
    program = Program(graph, teacher_graph, stage, total_steps, steps_per_epoch, patience)
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        zero, params, rest, program.optimizer().init(params), nnx.as_pure(teacher_state), zero, zero, zero - 1
    )
    # Modules share buffers with their clones and with the caller; a donated step needs its own.
    return program, jax.jit(functools.partial(jax.tree.map, jnp.copy), out_shardings=_everywhere())(state)


def _everywhere() -> NamedSharding:
    """Whole on each device: how the state lies, before and after every step."""
    return NamedSharding(data.data_mesh(), PartitionSpec())


def split(task: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Graph, parameters and all other state of a task, as plain arrays: a `Variable` may not cross a transformation."""
    graph, params, rest = nnx.split(task, nnx.Param, ...)
    return graph, nnx.as_pure(params), nnx.as_pure(rest)


def task_of(program: Program, state: TrainState) -> Task:
    """The task with the weights and state of `state`; shares its buffers."""
    return nnx.merge(program.graph, state.params, state.rest)


def _loss(params: nnx.State, program: Program, state: TrainState, batch, key: PRNGKeyArray):
    task = nnx.merge(program.graph, params, state.rest)
    output = task.loss(task.views(key, batch))
    total = program.stage.task_weight * output.loss
    metrics = {"task_loss": output.loss, **output.metrics}
    compare = distill.make(program.stage.distill)
    if compare is not None and program.teacher_graph is not None:
        teacher = nnx.merge(program.teacher_graph, state.teacher)
        kept = compare(output.features, jax.lax.stop_gradient(teacher(output.images, train=False)["pooled"]))
        total = total + program.stage.distill.weight * kept
        metrics["distill_loss"] = kept
    _, _, rest = split(task)
    return total, (rest, {"loss": total, **metrics}, output.features)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    program: Program, state: TrainState, batch: dict[str, Array], key: PRNGKeyArray
) -> tuple[TrainState, dict[str, Float[Array, ""]], Float[Array, "m d"]]:
    """One update. A step whose loss or gradient is not finite changes nothing but the counters.

    Args:
      program: static.
      state: donated.
      batch: `image` uint8 [B, H, W, C], `index` int32 [B], perhaps `label` int32 [B]; sharded along `data`.
      key: of the stage; the step's own is folded from it.

    Returns the new state, scalars to log, and the pooled features [M, D] for the health of the run.
    """
    step_key = jax.random.fold_in(key, state.step)
    gradient = jax.grad(_loss, has_aux=True)(state.params, program, state, batch, step_key)
    gradient, (rest, metrics, features) = gradient
    norm = optax.global_norm(gradient)
    fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm) & (state.halted < 0)
    updates, optimizer = program.optimizer().update(gradient, state.optimizer, state.params)
    params, rest = _after_update(program, optax.apply_updates(state.params, updates), rest, state.step)
    new = (params, rest, optimizer)
    params, rest, optimizer = _choose(fine, new, (state.params, state.rest, state.optimizer))
    streak = jnp.where(fine, 0, state.streak + 1)
    halted = jnp.where((state.halted < 0) & (streak >= program.patience), state.step + 1, state.halted)
    metrics |= {
        "gradient_norm": norm,
        "learning_rate": program.schedule()(state.step),
        "skipped_steps": state.skipped + (1 - fine),
    }
    state = state.replace(
        step=state.step + 1,
        params=params,
        rest=rest,
        optimizer=optimizer,
        streak=streak,
        skipped=state.skipped + (1 - fine.astype(jnp.int32)),
        halted=halted,
    )
    # Left to itself the compiler may leave a queue lying in shards, and compile anew for the next step.
    return jax.lax.with_sharding_constraint(state, _everywhere()), metrics, features


def _after_update(program: Program, params: nnx.State, rest: nnx.State, step: Int[Array, ""]):
    task = nnx.merge(program.graph, params, rest)
    task.after_update((step + 1) / program.total_steps)
    _, params, rest = split(task)
    return params, rest


def _choose(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


@dataclasses.dataclass(frozen=True)
class Pace:
    """How often the loop turns to the host: steps between log lines, and between checkpoints."""

    log_every: int
    checkpoint_every: int


@dataclasses.dataclass
class Result:
    """What a finished run leaves: the task, and figures for its record."""

    task: Task
    record: dict[str, Any]


def fit(
    task: Task,
    batches: Callable[[int], Iterator[dict[str, Array]]],
    *,
    stage: Any,
    total_steps: int,
    steps_per_epoch: int,
    seed: int,
    directory: Path,
    title: str,
    pace: Pace,
    teacher: nnx.Module | None = None,
    patience: int = 10,
    at_epoch: Callable[[Task], None] | None = None,
) -> Result:
    """Trains `task` to `total_steps`, from its newest checkpoint in `directory` if there is one.

    Args:
      task: taken over; use the one returned.
      batches: start step -> iterator, as `data.Batches`.
      stage: frozen config, see `Program`.
      seed: of every random number in the stage.
      directory: for checkpoints, metrics.jsonl and TensorBoard events.
      title: shown beside the progress.
      teacher: frozen backbone that `stage.distill` compares with.
      patience: non-finite steps in a row that end the run.
      at_epoch: called with the task after each epoch; may write to the task's own variables.

    Raises Preempted after SIGTERM (saved), Diverged after too many non-finite steps, ValueError if the checkpoint
    belongs to another teacher.
    """
    program, state = make_state(
        task, stage, total_steps=total_steps, steps_per_epoch=steps_per_epoch, teacher=teacher, patience=patience
    )
    key = jax.random.key(seed)
    teacher_hash = checkpoint.backbone_hash(teacher) if teacher is not None else ""
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        store = stack.enter_context(checkpoint.Store(directory))
        fresh = {"seconds": 0.0, "teacher_hash": teacher_hash}
        state, record = store.restore(state, data.data_mesh()) or (state, fresh)
        if record["teacher_hash"] != teacher_hash:
            raise ValueError(
                f"{directory}: the checkpoint was distilled from another teacher; remove this stage's folder"
            )
        start = int(state.step)
        telemetry = stack.enter_context(
            Telemetry(directory, total_steps=total_steps, batch_size=stage.batch_size, title=title, start_step=start)
        )
        clock = Clock(record["seconds"])
        stream = batches(start)
        queued: collections.deque = collections.deque()
        for step in range(start + 1, total_steps + 1):
            state, metrics, features = train_step(program, state, next(stream), key)
            queued.append(metrics["loss"])
            if len(queued) > QUEUED_STEPS:
                queued.popleft().block_until_ready()
            last = step == total_steps
            if step % pace.log_every == 0 or step == start + 1 or last:
                _log(telemetry, step, metrics, features)
                _check(state, patience)
            if at_epoch and step % steps_per_epoch == 0:
                state = _epoch(program, state, at_epoch)
            stopping = stop.requested(step)
            if step % pace.checkpoint_every == 0 or last or stopping:
                _check(state, patience)
                record |= {
                    "seconds": round(clock.seconds(), 1),
                    "images_per_second": telemetry.images_per_second,
                    "final_loss": float(metrics["loss"]),
                    "skipped_steps": int(state.skipped),
                }
                store.save(step, state, record)
            if stopping:
                store.wait()
                raise Preempted(f"{title}: stopped and saved at step {step} of {total_steps}; the same command goes on")
        store.wait()
    return Result(task_of(program, state), {"steps": total_steps, **record})


def _log(telemetry: Telemetry, step: int, metrics: dict[str, Array], features: Float[Array, "m d"]) -> None:
    health = {name: float(value) for name, value in feature_health(features).items()}
    telemetry.log(step, {name: float(value) for name, value in metrics.items()} | health)
    warning = collapse_warning(health)
    if warning:
        telemetry.warn(f"step {step}: {warning}")


def _check(state: TrainState, patience: int) -> None:
    if int(state.halted) >= 0:
        raise Diverged(
            f"the loss or its gradient was not finite for {patience} steps in a row, the last at step {int(state.halted)}; "
            "the last good checkpoint is kept. Lower the learning rate, or clip gradients (optimizer.clip_norm)"
        )


def _epoch(program: Program, state: TrainState, at_epoch: Callable[[Task], None]) -> TrainState:
    task = task_of(program, state)
    at_epoch(task)
    _, params, rest = split(task)
    return state.replace(params=params, rest=rest)


class Clock:
    """Wall time of a stage over all its restarts."""

    def __init__(self, before: float):
        self.before, self.start = before, time.monotonic()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start


class StopSignal:
    """Turns SIGTERM into a question the loop asks between steps; all processes agree on the step."""

    def __enter__(self) -> "StopSignal":
        self._asked = False
        self._previous = signal.signal(signal.SIGTERM, self._ask) if jax.process_count() == 1 else None
        return self

    def __exit__(self, *exception) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _ask(self, *_) -> None:
        self._asked = True

    def requested(self, step: int) -> bool:
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)
