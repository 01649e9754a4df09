"""One loop for every task.

It never waits for the device except to log, to save and at the end of an epoch that asks for it; otherwise it stays
a few steps ahead.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from aiseeme_jax import data, distill, seeds, weights
from aiseeme_jax.store import checkpoints, records
from aiseeme_jax.task import Task
from aiseeme_jax.training.step import Program, TrainState, at_epoch, make_state, split, task_of, train_step
from aiseeme_jax.training.stopping import Clock, Preempted, StopSignal
from aiseeme_jax.training.telemetry import Telemetry, collapse_warning, feature_health

# Steps the host may be ahead of the device: enough to keep it busy, few enough to stop when asked to.
QUEUED_STEPS = 2


class Diverged(ValueError):
    """Too many steps in a row were not finite."""


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
    teacher: distill.Frozen | None = None,
    patience: int = 10,
    fingerprint: Mapping[str, Any] | None = None,
    gather: Callable[[nnx.Module], Float[np.ndarray, "n d"]] | None = None,
    after_epoch: Callable[[Task, int], None] | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> Result:
    """Trains `task` to `total_steps`, from its newest checkpoint in `directory` if there is one.

    Args:
      task: taken over; use the one returned.
      batches: start step -> iterator, as `data.Batches`.
      stage: frozen config, see `Program`.
      total_steps, steps_per_epoch: of the stage; fine-tuning on a share of the labels counts its epochs in all of them.
      seed: of every random number in the stage.
      directory: for checkpoints, metrics.jsonl and TensorBoard events.
      title: shown beside the progress.
      teacher: what `distill.keep` made of the teachers when it gave `task` its keeper.
      patience: non-finite steps in a row that end the run.
      fingerprint: of the images, see `Split.fingerprint`; a checkpoint goes on with the same ones.
      gather: backbone -> its pooled features of the whole split, for a task with an `at_epoch`.
      after_epoch: called with the task and the steps done after each epoch, and after the last step, which may come
        within one; may write to the task's own variables.
      pictures: name -> [H, W, C], 0 to 1, for TensorBoard when the run begins.

    Raises Preempted after SIGTERM (saved), Diverged after too many non-finite steps, ValueError if the checkpoint
    belongs to another start, teacher or data, or if the task has an `at_epoch` and there is no `gather`.
    """
    if task.AT_EPOCH != "never" and gather is None:
        raise ValueError(f"{title}: {type(task).__name__} needs the features of the whole split: give `gather`")
    program, state = make_state(
        task, stage, total_steps=total_steps, steps_per_epoch=steps_per_epoch, teacher=teacher, patience=patience
    )
    start_hash = weights.backbone_hash(task.backbone)
    identity = {"start_hash": start_hash, "teachers": _hashes(teacher), "data": dict(fingerprint or {})}
    key = jax.random.key(seeds.derive(seed, "steps"))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        store = stack.enter_context(checkpoints.Checkpoints(directory))
        state, record = _resume(store, state, identity, directory)
        start = int(state.step)
        telemetry = stack.enter_context(
            Telemetry(directory, total_steps=total_steps, batch_size=stage.batch_size, title=title, start_step=start)
        )
        if pictures and not start:
            telemetry.images(0, {name: picture[None] for name, picture in pictures.items()})
        clock = Clock(record["seconds"])
        stream, advance = batches(start), train_step.of(program)
        queued: collections.deque = collections.deque()
        for step in range(start + 1, total_steps + 1):
            if _due(task, step - 1, steps_per_epoch):
                state = _cluster(program, state, gather, key, step - 1)
            state, metrics, features = advance(state, next(stream), key)
            queued.append(metrics["loss"])
            if len(queued) > QUEUED_STEPS:
                queued.popleft().block_until_ready()
            last = step == total_steps
            if step % pace.log_every == 0 or step == start + 1 or last:
                _log(telemetry, step, metrics, features)
                _check(state, patience)
            if after_epoch and (last or step % steps_per_epoch == 0):
                state = _epoch(program, state, after_epoch, step)
            stopping = stop.requested(agree=step % pace.log_every == 0)
            if step % pace.checkpoint_every == 0 or last or stopping:
                _check(state, patience)
                record |= _record(state, metrics, clock, telemetry)
                # The teacher is a file with a hash, not a part of what training changes.
                store.save(step, state.replace(teacher=None), record)
            if stopping:
                store.wait()
                raise Preempted(f"{title}: stopped and saved at step {step} of {total_steps}; the same command goes on")
        store.wait()
        if stop.requested(agree=True):
            raise Preempted(f"{title}: stopped after its last step; the same command goes on")
    return Result(task_of(program, state), {"steps": total_steps, **record})


def _record(
    state: TrainState, metrics: Mapping[str, Array], clock: Clock, telemetry: Telemetry
) -> dict[str, float | int]:
    """What `done.json` will say of the stage, as it is now. A run too short to measure its speed leaves what was."""
    speed = {"images_per_second": telemetry.images_per_second} if telemetry.images_per_second else {}
    return {
        "seconds": round(clock.seconds(), 1),
        **speed,
        "final_loss": float(metrics["loss"]),
        "skipped_steps": int(state.skipped),
    }


def _hashes(teacher: distill.Frozen | None) -> dict[str, str]:
    """Of all that is frozen, by name."""
    parts = teacher.parts() if teacher is not None else {}
    return {name: weights.backbone_hash(part) for name, part in parts.items()}


# What is wrong where a part of a checkpoint's identity differs.
DIFFERENT = {
    "start_hash": "the checkpoint started from another backbone",
    "teachers": "the checkpoint was distilled from another teacher",
    "data": "the checkpoint was trained on other data",
}


def _resume(
    store: checkpoints.Checkpoints, state: TrainState, identity: Mapping[str, Any], directory: Path
) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint and its record, or the fresh state and an empty one.

    Args:
      identity: what a checkpoint belongs to, as far as it is known; what its record does not say is not compared.
    """
    fresh = {"seconds": 0.0, **identity}
    found, record = store.restore(state.replace(teacher=None), data.data_mesh()) or (state, fresh)
    for name, now in identity.items():
        changed = records.differences({name: record.get(name, now)}, {name: now})
        if changed:
            raise ValueError(f"{directory}: {DIFFERENT[name]}; remove this stage's folder. Then and now: {changed}")
    return found.replace(teacher=state.teacher), {**identity, **record}


def _log(telemetry: Telemetry, step: int, metrics: dict[str, Array], features: Float[Array, "m d"]) -> None:
    health = {name: float(value) for name, value in feature_health(features).items()}
    telemetry.log(step, {name: float(value) for name, value in metrics.items()} | health)
    warning = collapse_warning(health)
    if warning:
        telemetry.warn(warning, topic="collapse")


def _check(state: TrainState, patience: int) -> None:
    if int(state.halted) >= 0:
        raise Diverged(
            f"the loss or its gradient was not finite for {patience} steps in a row, "
            f"the last at step {int(state.halted)}; "
            "the last good checkpoint is kept. Lower the learning rate, or clip gradients (optimizer.clip_norm), under "
            "the same --workdir: this training then begins anew, and what is finished stays"
        )


def _due(task: Task, done: int, steps_per_epoch: int) -> bool:
    """Whether the task's `at_epoch` comes before the step that follows `done` steps."""
    return {"never": False, "first": done == 0, "every": done % steps_per_epoch == 0}[task.AT_EPOCH]


def _cluster(
    program: Program,
    state: TrainState,
    gather: Callable[[nnx.Module], Float[np.ndarray, "n d"]],
    key: PRNGKeyArray,
    done: int,
) -> TrainState:
    """The task's `at_epoch`. All it needs follows from the state and `done`: taken up at a checkpoint that was saved
    before it, a run does the same once more.
    """
    features = gather(task_of(program, state).backbone)
    # Steps count up from 0 in their keys, this counts down from the other end.
    return at_epoch(program, state, features, jax.random.fold_in(key, 2**32 - 1 - done))


def _epoch(program: Program, state: TrainState, after_epoch: Callable[[Task, int], None], step: int) -> TrainState:
    task = task_of(program, state)
    after_epoch(task, step)
    _, params, rest = split(task)
    return state.replace(params=params, rest=rest)
