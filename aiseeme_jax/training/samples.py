"""Self-paced images: a growing share of the images, the easiest or the hardest by their loss first.

The images of an epoch follow from the epoch, from the losses at the last measurement, which are state of the task, and
from the seed. So a training that goes on from a checkpoint is shown what it would have been shown.
"""

import collections
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aiseeme_jax import data, seeds
from aiseeme_jax.task import Bank, Task
from aiseeme_jax.training.state import PerProgram, Program, TrainState, everywhere, progress_of, split_state, task_of

log = logging.getLogger(__name__)

MEASURED = ("easiest", "hardest")
ALL = "all"
ORDERS = (ALL, *MEASURED, "random")
# Batches that the host may be ahead of the device while it measures.
QUEUED_BATCHES = 2
# Of the images that are left out, so many are named.
NAMED = 5


@dataclasses.dataclass(frozen=True)
class Pace:
    """Which share of the images is shown in each epoch.

    An epoch has as many steps as one of all images, whatever their share: the images that are shown come round more
    often. The share grows by the epoch, from `start` in the first one after the warm-up, in proportion to the steps,
    and is 1 from `until` on.

    Attributes:
      order: 'easiest', 'hardest' or 'random'.
      start: the first share, in (0, 1].
      warmup: share of the stage, at least an epoch, in which all images are shown. The heads are new at its beginning,
        and what they make of an image says nothing about it.
      until: share of the stage from which on all images are shown again.
      every: epochs from one measurement of the losses to the next.
      passes: over the images in a measurement, each with other views and other companions. The mean loss counts.
      steps_per_epoch, total_steps: of the stage.
    """

    order: str
    start: float
    warmup: float
    until: float
    every: int
    passes: int
    steps_per_epoch: int
    total_steps: int

    @property
    def first(self) -> int:
        """The first epoch, from 0, that is paced."""
        steps = self.warmup * self.total_steps
        # A little below, since 0.1 times 30 is a little above 3.
        return max(int(np.ceil(steps / self.steps_per_epoch - 1e-6)), 1)

    def share(self, epoch: int) -> float:
        """The share of the images in an epoch, in (0, 1]."""
        begin, end = self.first * self.steps_per_epoch, self.until * self.total_steps
        now = epoch * self.steps_per_epoch
        if now < begin or now >= end:
            return 1.0
        return min(self.start + (1 - self.start) * (now - begin) / (end - begin), 1.0)

    def is_measured(self, epoch: int) -> bool:
        """Whether the losses are measured before an epoch."""
        return self.order in MEASURED and self.share(epoch) < 1 and (epoch - self.first) % self.every == 0


def read_pace(fields: Any, steps_per_epoch: int, total_steps: int) -> Pace | None:
    """The pace of a stage by the node `samples` of its config; None if it shows all images."""
    if fields.order == ALL:
        return None
    return Pace(**fields, steps_per_epoch=steps_per_epoch, total_steps=total_steps)


def choose_images(
    difficulty: Float[np.ndarray, " n"], share: float, *, hardest_first: bool = False, sets: Sequence[int] | None = None
) -> Int[np.ndarray, " k"]:
    """Sorted indices of the share of the images with the smallest difficulty, or the largest one.

    With hard self-paced weights v_i = 1 if L_i < lambda, else 0 (Kumar et al., NeurIPS 2010, eq. 3), lambda is the
    quantile of the losses at `share`, so that it fits losses of any scale. Of equal difficulties the first count as
    smaller in both orders. What is not finite comes last in both.

    Args:
      share: in (0, 1]. It is rounded to a number of images, of two the larger one, and at least one.
      sets: how many of the images belong to each data set, in their order. Each set has its share. By default there
        is one.
    """
    chosen, begin = [], 0
    for size in [len(difficulty)] if sets is None else sets:
        order = _sort(difficulty[begin : begin + size], hardest_first)
        chosen.append(begin + order[: count_share(size, share)])
        begin += size
    return np.sort(np.concatenate(chosen))


def _sort(difficulty: Float[np.ndarray, " n"], hardest_first: bool) -> Int[np.ndarray, " n"]:
    """Indices in the order in which images are shown. NaNs are sorted last."""
    ranked = np.where(np.isfinite(difficulty), -difficulty if hardest_first else difficulty, np.nan)
    return np.argsort(ranked, kind="stable")


def compare_passes(passes: Sequence[Float[np.ndarray, " n"]]) -> float | None:
    """How well passes agree on the order of the images: the mean rank correlation of two of them, of those images whose
    losses are all finite. None if there is no such number.

    If it is r, the ranks of means of k passes are expected to agree by k r / (1 + (k - 1) r) with those of k others
    (Spearman and Brown, 1910).
    """
    rows = np.stack(passes)
    rows = rows[:, np.isfinite(rows).all(axis=0)]
    if rows.shape[1] < 2 or (np.ptp(rows, axis=1) == 0).any():
        return None
    ranks = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1)
    pairs = np.corrcoef(ranks)[np.triu_indices(len(rows), 1)]
    return round(float(pairs.mean()), 6)


def count_share(images: int, share: float) -> int:
    """How many of the images of a data set are a share of them."""
    return max(int(np.floor(share * images + 0.5)), 1)


def list_sizes(split: data.Split) -> tuple[int, ...]:
    """How many images of a split belong to each data set that it is made of, in their order."""
    return tuple(map(len, split.sets.values())) if isinstance(split, data.Mixture) else (len(split),)


class Samples:
    """Chooses the images of each epoch of one training, and measures their losses for that.

    A measurement shows every image once in batches of random images, in views that are the same at every measurement,
    and computes the loss of the task as a step would. Nothing of it remains but the losses.

    Args:
      pace: which share of them.
      batches: of all images.
      seed: of the training.
    """

    def __init__(self, pace: Pace, batches: data.Batches, seed: int):
        self.pace, self.batches, self.seed = pace, batches, seed
        self.sizes = list_sizes(batches.split)

    def attach(self, task: Task) -> None:
        """Gives a task the variable for the losses that are measured, if any are."""
        if self.pace.order in MEASURED:
            task.difficulty = Bank(jnp.full(len(self.batches.split), jnp.nan))

    def begin_epoch(self, program: Program, state: TrainState, done: int, record: dict[str, Any]) -> TrainState:
        """The state with the losses of all images by the network as it is now, if they are due after `done` steps.

        If an epoch begins whose images are not all shown, notes in `record` which they are.
        """
        epoch, place = divmod(done, self.pace.steps_per_epoch)
        if place or self.pace.share(epoch) == 1:
            return state
        agreement = {}
        if self.pace.is_measured(epoch):
            passes = []
            for number in range(self.pace.passes):
                state, losses = self._pass_over_images(program, state, number)
                passes.append(losses)
            task = task_of(program, state)
            mean = np.mean(passes, axis=0).astype(np.float32)
            task.difficulty.set_value(jax.device_put(mean, everywhere()))
            state = state.replace(rest=split_state(task)[2])
            agreement = {"agreement": compare_passes(passes)} if len(passes) > 1 else {}
        found = self._describe(task_of(program, state), epoch) | agreement
        record["samples"] = [*record.get("samples", []), found]
        log.info("epoch %d shows %d of %d images", epoch + 1, found["images"], len(self.batches.split))
        return state

    def _pass_over_images(
        self, program: Program, state: TrainState, number: int
    ) -> tuple[TrainState, Float[np.ndarray, " n"]]:
        key = jax.random.key(seeds.derive(self.seed, "difficulty", f"views {number}"))
        order = seeds.derive(self.seed, "difficulty", f"order {number}")
        measure, found, queued = measure_batch.of(program), [], collections.deque()
        for place, batch in enumerate(self.batches.shuffled(order)):
            state, *rows = measure(state, batch, jax.random.fold_in(key, place))
            found.append(rows)
            queued.append(rows[1])
            if len(queued) > QUEUED_BATCHES:
                queued.popleft().block_until_ready()
        index, losses = (np.concatenate(rows) for rows in zip(*jax.device_get(found), strict=True))
        # The last batch is filled up with images of the first one, whose losses are known already.
        images = len(self.batches.split)
        measured = np.empty(images)
        measured[index[:images]] = losses[:images]
        return state, measured

    def is_changed(self, done: int) -> bool:
        """Whether the step after `done` steps begins an epoch whose images are others than those of the one before."""
        epoch, place = divmod(done, self.pace.steps_per_epoch)
        return not place and (self.pace.share(epoch) < 1 or (epoch > 0 and self.pace.share(epoch - 1) < 1))

    def open(self, task: Task, done: int) -> Iterator[dict[str, Array]]:
        """The batches that follow `done` steps, up to the end of their epoch if it is paced."""
        epoch, place = divmod(done, self.pace.steps_per_epoch)
        if self.pace.share(epoch) == 1:
            return self.batches(done)
        rows = self.choose(task, epoch)
        return self.batches.among(rows, place, seed=seeds.derive(self.seed, "paced", f"epoch {epoch}"))

    def choose(self, task: Task, epoch: int) -> Int[np.ndarray, " k"]:
        """Sorted indices of the images of an epoch."""
        share, hardest = self.pace.share(epoch), self.pace.order == "hardest"
        return choose_images(self._difficulty(task), share, hardest_first=hardest, sets=self.sizes)

    def _difficulty(self, task: Task) -> Float[np.ndarray, " n"]:
        if self.pace.order in MEASURED:
            return np.asarray(task.difficulty.get_value())
        random = np.random.default_rng(seeds.derive(self.seed, "random images"))
        return random.permutation(len(self.batches.split)).astype(np.float32)

    def _describe(self, task: Task, epoch: int) -> dict[str, Any]:
        """What the record says of an epoch: its number, from 1, the share and number of its images, and if losses are
        measured, the mean losses of those that are shown and of the others, and ids of others that come last.
        """
        rows, share = self.choose(task, epoch), self.pace.share(epoch)
        found = {"epoch": epoch + 1, "share": round(share, 6), "images": len(rows)}
        if self.pace.order not in MEASURED:
            return found
        losses = self._difficulty(task)
        others = np.setdiff1d(np.arange(len(losses)), rows)
        last = others[_sort(losses[others], self.pace.order == "hardest")[::-1][:NAMED]]
        return found | {
            "shown_loss": _mean(losses[rows]),
            "other_loss": _mean(losses[others]),
            "last": self.batches.split.ids[last].tolist(),
        }


def count_sets(mixture: data.Mixture, steps: int, batch_size: int, pace: Pace | None) -> dict[str, int]:
    """Images of each set of a mixture in the first steps of a training, whose images may be paced."""
    if pace is None:
        return mixture.counts(steps, batch_size)
    total = dict.fromkeys(mixture.sets, 0)
    for begin in range(0, steps, pace.steps_per_epoch):
        end = min(begin + pace.steps_per_epoch, steps)
        # A paced epoch begins its series anew.
        anew = begin if pace.share(begin // pace.steps_per_epoch) < 1 else 0
        until, before = (mixture.counts(step - anew, batch_size) for step in (end, begin))
        total = {name: number + until[name] - before[name] for name, number in total.items()}
    return total


@PerProgram
def measure_batch(
    program: Program, state: TrainState, batch: dict[str, Array], key: PRNGKeyArray
) -> tuple[TrainState, Int[Array, " b"], Float[Array, " b"]]:
    """The loss of each image of a batch, by the task alone, without its distillation.

    Args:
      program: static.
      state: donated.
      batch: as of `train_step`.
      key: of the views.

    Returns the state as it was, the index of each image, and its loss.
    """
    task = task_of(program, state)
    losses = task.loss(task.views(key, batch), progress_of(program, state)).image_losses
    return jax.lax.with_sharding_constraint((state, batch["index"], losses.astype(jnp.float32)), everywhere())


def _mean(losses: Float[np.ndarray, " k"]) -> float | None:
    """Of those that are finite, as a number of a record."""
    finite = losses[np.isfinite(losses)].astype(np.float64)
    return round(float(finite.mean()), 6) if len(finite) else None
