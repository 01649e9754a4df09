"""One loop for every task.

It waits for the device to log, to save, and at the end of an epoch if somebody asks for it. Otherwise it stays a few
steps ahead of the device.
"""

import collections
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import data, distill, seeds, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.store import checkpoints, claims, records
from aiseeme_jax.store.artifacts import explain_remedy
from aiseeme_jax.task import Task
from aiseeme_jax.training.energy import Meter
from aiseeme_jax.training.health import collapse_warning, feature_health
from aiseeme_jax.training.samples import Samples
from aiseeme_jax.training.state import (
    Program,
    Recipe,
    TrainState,
    add_unsaved,
    make_state,
    split_state,
    take_saved,
    task_of,
)
from aiseeme_jax.training.step import Steps, at_epoch
from aiseeme_jax.training.stopping import Clock, Preempted, StopSignal
from aiseeme_jax.training.telemetry import Telemetry
from aiseeme_jax.training.watch import ENDED, Watch

__all__ = ["Callbacks", "Diverged", "Folder", "Preempted", "Recipe", "Result", "fit", "restore_trained"]

log = logging.getLogger(__name__)

# Steps the host may be ahead of the device: enough to keep it busy, few enough to stop when asked to.
QUEUED_STEPS = 2


class Diverged(UserError):
    """Too many steps in a row were not finite."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where a training leaves its files, and how often.

    Attributes:
      directory: for checkpoints, metrics.jsonl and TensorBoard events.
      title: shown beside the progress.
      log_every: steps from one log line to the next.
      checkpoint_every: steps from one checkpoint to the next.
      identity: what the checkpoints in the folder belong to, by name, such as {'data': the fingerprint of the images}.
        The loop adds `start_hash` and `teachers`. A checkpoint with another identity is refused.
    """

    directory: Path
    title: str
    log_every: int
    checkpoint_every: int
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """What the loop asks of its caller.

    Attributes:
      gather_features: backbone -> its pooled features [N, D] of the whole split, for a task with an `at_epoch`.
      after_epoch: called with the task and the steps done after each epoch and after the last step, which may come
        within an epoch. It may write to the task's own variables.
      pictures: name -> [H, W, C], 0 to 1, for TensorBoard when the training begins.
      watch: what may end the training before its last step.
      samples: chooses the images of each epoch; None: all of them.
    """

    gather_features: Callable[[nnx.Module], Float[np.ndarray, "n d"]] | None = None
    after_epoch: Callable[[Task, int], None] | None = None
    pictures: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    watch: Watch = Watch()
    samples: Samples | None = None


@dataclasses.dataclass
class Result:
    """What a finished training leaves: the task, and figures for its record."""

    task: Task
    record: dict[str, Any]


def fit(
    task: Task,
    batches: Callable[[int], Iterator[dict[str, Array]]],
    recipe: Recipe,
    folder: Folder,
    *,
    frozen: distill.FrozenTeachers | None = None,
    callbacks: Callbacks = Callbacks(),
) -> Result:
    """Trains `task` to its last step, or until the watch ends it, from the newest checkpoint if there is one.

    Args:
      task: taken over; use the one returned.
      batches: start step -> iterator, as `data.Batches`.
      frozen: what `distill.attach_distillation` returned when it gave `task` its distillation.

    Raises Preempted after SIGTERM or Ctrl-C (saved), Diverged after too many steps that are not finite, UserError if
    the checkpoint has another identity, and ValueError if the task has an `at_epoch` and nothing gathers its features.
    """
    if task.AT_EPOCH != "never" and callbacks.gather_features is None:
        name = type(task).__name__
        raise ValueError(f"{folder.title}: {name} needs the features of the whole split: give `gather_features`")
    program, state = make_state(task, recipe, frozen)
    start_hash = weights.backbone_hash(task.backbone)
    identity = {"start_hash": start_hash, "teachers": _hash_teachers(frozen), **folder.identity}
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignal())
        store = stack.enter_context(checkpoints.Checkpoints(folder.directory))
        state, record = _resume(store, program, state, identity, folder.directory)
        telemetry = stack.enter_context(_open_telemetry(recipe, folder, int(state.step)))
        meter = stack.enter_context(Meter(record.get("joules")))
        training = _Training(task, program, recipe, folder, callbacks, signals, store, telemetry, meter, record)
        state = training.run(state, batches)
    return Result(task_of(program, state), {"steps": int(state.step), **training.record})


def restore_trained(
    task: Task, recipe: Recipe, folder: Folder, *, frozen: distill.FrozenTeachers | None = None
) -> Task:
    """The task as it was after the last step of a finished training. Nothing in the folder changes.

    Args: as `fit`.

    Raises UserError if the checkpoint of the last step is not there, or has another identity.
    """
    program, state = make_state(task, recipe, frozen)
    start_hash = weights.backbone_hash(task.backbone)
    identity = {"start_hash": start_hash, "teachers": _hash_teachers(frozen), **folder.identity}
    with checkpoints.Checkpoints(folder.directory) as store:
        state, record = _resume(store, program, state, identity, folder.directory)
    if int(state.step) != recipe.total_steps and ENDED not in record:
        raise UserError(f"{folder.directory} has lost its last checkpoint; {explain_remedy(folder.directory)}")
    return task_of(program, state)


class _Training:
    """A training that runs: what it works with, and the record as it was at the last checkpoint."""

    def __init__(
        self,
        task: Task,
        program: Program,
        recipe: Recipe,
        folder: Folder,
        callbacks: Callbacks,
        signals: StopSignal,
        store: checkpoints.Checkpoints,
        telemetry: Telemetry,
        meter: Meter,
        record: dict[str, Any],
    ):
        self.at_epoch_due = task.AT_EPOCH
        self.program, self.recipe, self.folder, self.callbacks = program, recipe, folder, callbacks
        self.signals, self.store, self.telemetry, self.record = signals, store, telemetry, record
        self.clock, self.meter = Clock(record["seconds"]), meter
        self.key = jax.random.key(seeds.derive(recipe.seed, "steps"))
        self.queued: collections.deque = collections.deque()

    def run(self, state: TrainState, batches: Callable[[int], Iterator[dict[str, Array]]]) -> TrainState:
        """The state after the last step. Raises Preempted if the process was asked to stop."""
        start = int(state.step)
        if ENDED in self.record:
            return state
        if start:
            log.info("%s: goes on from step %d of %d", self.folder.title, start, self.recipe.total_steps)
        else:
            self.telemetry.images(0, {name: picture[None] for name, picture in self.callbacks.pictures.items()})
        stream, advance = None, Steps(self.program)
        for step in range(start + 1, self.recipe.total_steps + 1):
            state = self._begin_epoch(state, step - 1)
            stream = self._open_stream(stream, state, step - 1, batches)
            state, metrics, features = advance(state, next(stream), self.key)
            self._limit_queue(step, metrics["loss"])
            if self._is_due(step, self.folder.log_every) or step == start + 1:
                self._log(step, state, metrics, features)
            state = self._end_epoch(state, step)
            ended = self._is_ended(state, step)
            stopping = self.signals.requested(agree=step % self.folder.log_every == 0)
            if self._is_due(step, self.folder.checkpoint_every) or stopping or ended:
                self._save(step, state, metrics)
            if stopping:
                self._stop(f"stopped and saved at step {step} of {self.recipe.total_steps}", stopping)
            if ended:
                break
        self.store.wait()
        stopping = self.signals.requested(agree=True)
        if stopping:
            self._stop("stopped after its last step", stopping)
        return state

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.recipe.total_steps

    def _limit_queue(self, step: int, loss: Array) -> None:
        """Waits if the host is more than QUEUED_STEPS ahead of the device."""
        self.queued.append((step, loss))
        if len(self.queued) > QUEUED_STEPS:
            done, loss = self.queued.popleft()
            self.telemetry.advance(done, loss.block_until_ready())

    def _open_stream(
        self, stream: Iterator[dict[str, Array]] | None, state: TrainState, done: int, batches: Callable
    ) -> Iterator[dict[str, Array]]:
        """The batches that follow `done` steps: those that are open, unless there are none or the images change."""
        samples = self.callbacks.samples
        if samples is None:
            return batches(done) if stream is None else stream
        if stream is None or samples.is_changed(done):
            return samples.open(task_of(self.program, state), done)
        return stream

    def _begin_epoch(self, state: TrainState, done: int) -> TrainState:
        """What comes before the step that follows `done` steps: the losses of all images are measured where they are
        due, and the task's `at_epoch` is called, which may draw anew what they depend on.

        All it needs follows from the state and `done`. So a training that goes on from a checkpoint that was saved just
        before it does the same once more.
        """
        if self.callbacks.samples is not None:
            state = self.callbacks.samples.begin_epoch(self.program, state, done, self.record)
        first, every = done == 0, done % self.recipe.steps_per_epoch == 0
        if not {"never": False, "first": first, "every": every}[self.at_epoch_due]:
            return state
        features = self.callbacks.gather_features(task_of(self.program, state).backbone)
        # The keys of steps count up from 0; this one counts down from the other end.
        return at_epoch(self.program, state, features, jax.random.fold_in(self.key, 2**32 - 1 - done))

    def _end_epoch(self, state: TrainState, step: int) -> TrainState:
        """Calls `after_epoch` where it is due, and takes what it wrote to the task."""
        if self.callbacks.after_epoch is None or not self._is_due(step, self.recipe.steps_per_epoch):
            return state
        task = task_of(self.program, state)
        self.callbacks.after_epoch(task, step)
        _, params, rest = split_state(task)
        return state.replace(params=params, rest=rest)

    def _is_ended(self, state: TrainState, step: int) -> bool:
        """Whether the watch ends the training after this step."""
        watch = self.callbacks.watch
        if watch.is_due(step, self.recipe.steps_per_epoch):
            watch.check(task_of(self.program, state), step, self.record)
        if step % self.folder.log_every == 0:
            watch.check_time(self.clock.seconds(), self.record)
        if ENDED not in self.record:
            return False
        log.info("%s: ended at step %d: %s", self.folder.title, step, self.record[ENDED])
        return True

    def _log(self, step: int, state: TrainState, metrics: dict[str, Array], features: Float[Array, "m d"]) -> None:
        health = {name: float(value) for name, value in feature_health(features).items()}
        self.telemetry.log(step, {name: float(value) for name, value in metrics.items()} | health)
        warning = collapse_warning(health)
        if warning:
            self.telemetry.warn(warning, topic="collapse")
        self._check_finite(state)

    def _save(self, step: int, state: TrainState, metrics: Mapping[str, Array]) -> None:
        self._check_finite(state)
        claims.check_held(self.folder.directory)
        # A training that is too short to measure its speed leaves the speed that was noted before.
        speed = self.telemetry.images_per_second
        self.record |= {
            "seconds": round(self.clock.seconds(), 1),
            "joules": self.meter.joules(),
            **({"images_per_second": speed} if speed else {}),
            "final_loss": float(metrics["loss"]),
            "skipped_steps": int(state.skipped),
        }
        # What is frozen is made again from files with hashes; training does not change it.
        self.store.save(step, take_saved(self.program, state), self.record)

    def _check_finite(self, state: TrainState) -> None:
        if int(state.halted) >= 0:
            raise Diverged(
                f"the loss or its gradient was not finite for {self.recipe.patience} steps in a row, the last at step "
                f"{int(state.halted)}; the last good checkpoint is kept. Lower the learning rate, or clip gradients "
                "(optimizer.clip_norm), under the same --workdir: this training then begins anew, and what is finished "
                "stays"
            )

    def _stop(self, what: str, number: int) -> None:
        self.store.wait()
        raise Preempted(f"{self.folder.title}: {what}; the same command goes on", number)


def _open_telemetry(recipe: Recipe, folder: Folder, start_step: int) -> Telemetry:
    return Telemetry(
        folder.directory,
        total_steps=recipe.total_steps,
        batch_size=recipe.fields.batch_size,
        title=folder.title,
        start_step=start_step,
    )


def _hash_teachers(frozen: distill.FrozenTeachers | None) -> dict[str, str]:
    """The hash of everything that is frozen, by name."""
    parts = frozen.parts() if frozen is not None else {}
    return {name: weights.backbone_hash(part) for name, part in parts.items()}


# What is wrong where a part of a checkpoint's identity differs.
DIFFERENT = {
    "start_hash": "the checkpoint started from another backbone",
    "teachers": "the checkpoint was distilled from another teacher",
    "data": "the checkpoint was trained on other data",
}


def _resume(
    store: checkpoints.Checkpoints, program: Program, state: TrainState, identity: Mapping[str, Any], directory: Path
) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint and its record, or the fresh state and an empty one.

    Args:
      identity: what a checkpoint must belong to. A name that its record lacks is not compared.
    """
    fresh = {"seconds": 0.0, "joules": 0.0, **identity}
    found, record = store.restore(take_saved(program, state), data.data_mesh()) or (state, fresh)
    for name, now in identity.items():
        changed = records.describe_differences({name: record.get(name, now)}, {name: now})
        if changed:
            what = DIFFERENT.get(name, f"the checkpoint belongs to another {name}")
            raise UserError(f"{directory}: {what}. Then and now: {changed}. {explain_remedy(directory)}")
    return add_unsaved(program, found, state), {**identity, **record}
