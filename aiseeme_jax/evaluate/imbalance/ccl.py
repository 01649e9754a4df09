"""Class-wise curriculum: training begins with the easy classes, and the harder ones are added step by step."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from aiseeme_jax import losses
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.imbalance.base import ROUNDING, Counts, Loss, Method, Moment, check_field, count
from aiseeme_jax.evaluate.labels import Labels

ORDERS = ("self_paced", "static")


@dataclasses.dataclass(frozen=True)
class ClassCurriculum(Method):
    """Class-wise curriculum learning (ICIP 2022, pp. 1476-1480): rows of classes that are not yet in do not count.

    The difficulty of a class is the mean cross-entropy of its training images, of all classes, in or not. The number
    of classes that are in is a function of the share of the training that is done; which ones they are follows from the
    order:

    - 'self_paced': by the losses of the last epoch during training. It is part of the checkpoint. Until the first epoch
      ends, no order is known and all classes are in.
    - 'static': by the losses of a classifier that was fine-tuned on the same images without correction, in evaluation
      mode. The plan contains that measurement.

    The loss is the mean over the rows of classes that are in; a batch without any leaves the step without effect. The
    learning rate stays at its peak until all classes are in, and follows its schedule from there, so that it never
    rises again.

    The published constants are not known. The defaults, and shares of the training in place of epochs, are ours. With
    ten classes they have all of them in at 60 % of the training.

    Attributes:
      order: 'self_paced' or 'static'.
      hardest_first: the reverse order; only of a static one.
      warmup: share of the training before the curriculum begins, with all classes, in [0, 1).
      start: share of the classes with which it begins, in (0, 1], rounded to whole classes.
      increment: share of the classes that is added each time, in (0, 1], rounded, at least one class.
      every: share of the training from one addition to the next, in (0, 1).
    """

    NAME: ClassVar[str] = "ccl"
    order: str = "self_paced"
    hardest_first: bool = False
    warmup: float = 0.1
    start: float = 0.5
    increment: float = 0.1
    every: float = 0.1

    def __post_init__(self):
        check_field(self, "order", self.order in ORDERS, f"one of {', '.join(ORDERS)}")
        check_field(self, "warmup", 0 <= self.warmup < 1, "in [0, 1)")
        check_field(self, "every", 0 < self.every < 1, "in (0, 1)")
        for name in ("start", "increment"):
            check_field(self, name, 0 < getattr(self, name) <= 1, "in (0, 1]")
        if self.hardest_first and self.order == "self_paced":
            raise UserError(
                "imbalance.hardest_first needs order='static': a self-paced order that is reversed would leave the "
                "easy classes out until they are hard"
            )

    def check(self, labels: Labels) -> None:
        super().check(labels)
        counts = count(labels)
        if self.start_classes(counts) < 2:
            raise UserError(
                f"imbalance.start is {self.start}: of {_number_in(counts)} classes the curriculum would begin with "
                "one, and there would be nothing to tell apart; raise it, or take another method"
            )
        if self.hold_until(counts) >= 1:
            raise UserError(
                f"imbalance 'ccl' would have all {_number_in(counts)} classes in at {self.hold_until(counts):.2f} of "
                "the training, after its end: lower warmup or every, or raise start or increment"
            )

    def needed_counts(self, counts: Counts) -> Counts:
        """1 for each class that has images, 0 for others."""
        return tuple(int(number > 0) for number in counts)

    @property
    def measures_difficulty(self) -> bool:
        return self.order == "self_paced"

    @property
    def needs_baseline(self) -> bool:
        return self.order == "static"

    def start_classes(self, counts: Counts) -> int:
        """The number of classes that the curriculum begins with."""
        return max(_round(self.start * _number_in(counts)), 1)

    def additions(self, counts: Counts) -> list[float]:
        """The shares of the training at which classes are added."""
        left = _number_in(counts) - self.start_classes(counts)
        times = math.ceil(left / self._increment(counts))
        return [self.warmup + number * self.every for number in range(1, times + 1)]

    def hold_until(self, counts: Counts) -> float:
        """The share of the training at which all classes are in; 0 if they are from the start."""
        return max(self.additions(counts), default=0.0)

    def classes_in(self, counts: Counts, progress: Float[Array, ""] | float) -> Int[Array, ""]:
        """How many classes are in, of those that have images."""
        progress, every_class = jnp.float32(progress) + ROUNDING, _number_in(counts)
        added = sum((progress >= addition).astype(jnp.int32) for addition in self.additions(counts))
        number = jnp.minimum(self.start_classes(counts) + self._increment(counts) * added, every_class)
        return jnp.where(progress < self.warmup, every_class, number)

    def mask(self, counts: Counts, moment: Moment) -> Bool[Array, " c"]:
        """Which classes are in. A class of unknown difficulty is the hardest; if none is known, all are in."""
        difficulty = jnp.where(np.asarray(counts) > 0, moment.difficulty, jnp.nan)
        # NaNs are sorted last.
        order = jnp.argsort(-difficulty if self.hardest_first else difficulty, stable=True)
        rank = jnp.argsort(order)
        return (rank < self.classes_in(counts, moment.progress)) | jnp.isnan(difficulty).all()

    def loss(self, kind: str, logits: Float[Array, "b c"], labels: Array, counts: Counts, moment: Moment) -> Loss:
        counted = self.mask(counts, moment)[labels]
        total = jnp.sum(counted)
        rows = jnp.where(counted, losses.cross_entropies(logits, labels), 0.0)
        return Loss(jnp.sum(rows) / jnp.maximum(total, 1), total == 0)

    def _increment(self, counts: Counts) -> int:
        return max(_round(self.increment * _number_in(counts)), 1)


def _number_in(counts: Counts) -> int:
    """The number of classes that have images."""
    return int(np.count_nonzero(counts))


def _round(value: float) -> int:
    """The nearest whole number, of two the larger one."""
    return math.floor(value + 0.5)
