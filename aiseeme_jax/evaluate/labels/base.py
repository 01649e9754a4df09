"""What metrics and protocols ask of labels, whatever their kind."""

import abc
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from aiseeme_jax.errors import UserError

CLASS_WEIGHTS = ("balanced", "none")


@dataclass(frozen=True)
class Regression:
    """One logistic regression of a linear probe.

    Attributes:
      rows: int [M], the training rows it learns from.
      targets: int [M], what it learns to tell apart.
      columns: value of a target -> the column of the table of probabilities for this value.
    """

    rows: Int[np.ndarray, "m"]
    targets: Int[np.ndarray, "m"]
    columns: Mapping[int, int]


class Labels(abc.ABC):
    """Labels of N rows for C classes or findings; the base of both kinds.

    Attributes:
      KIND: name of the kind, as files and data sets write it.
      METRICS: names of the metrics that exist for this kind, in the order of a summary.
      PER_CLASS: names of those that exist for each class or finding.
      FURTHER, FURTHER_PER_CLASS: likewise, of those that `results.csv` leaves out and the command `metrics` shows.
      CHOSEN_BY: name of the metric by which k, C and epoch are chosen on validation.
      values: int [N], or float [N, C]: the labels as they were given.
      present: bool [N, C], whether a row has the class or finding.
      known: bool [N, C], whether that is known.
    """

    KIND: ClassVar[str]
    METRICS: ClassVar[tuple[str, ...]]
    PER_CLASS: ClassVar[tuple[str, ...]]
    FURTHER: ClassVar[tuple[str, ...]]
    FURTHER_PER_CLASS: ClassVar[tuple[str, ...]]
    CHOSEN_BY: ClassVar[str]

    values: np.ndarray
    present: Bool[np.ndarray, "n c"]
    known: Bool[np.ndarray, "n c"]

    def __len__(self) -> int:
        return len(self.present)

    @property
    def count(self) -> int:
        """C, the number of classes or findings."""
        return self.present.shape[1]

    @functools.cached_property
    def absent(self) -> Bool[np.ndarray, "n c"]:
        """Whether a row is known not to have the class or finding."""
        return self.known & ~self.present

    @property
    @abc.abstractmethod
    def measured(self) -> Int[np.ndarray, "m"]:
        """The classes or findings that a macro mean runs over, in order."""

    @property
    @abc.abstractmethod
    def positive_class(self) -> int | None:
        """The one class that the average precision is about; None if it is a macro mean."""

    @property
    @abc.abstractmethod
    def learnable(self) -> bool:
        """Whether these rows suffice to train a classifier."""

    @property
    @abc.abstractmethod
    def choosable(self) -> bool:
        """Whether the metric CHOSEN_BY is defined on these rows."""

    @abc.abstractmethod
    def take(self, rows: Int[np.ndarray, "k"]) -> "Labels":
        """The labels of some rows, for the same classes or findings."""

    @abc.abstractmethod
    def limit_to(self, columns: Bool[np.ndarray, "c"]) -> tuple[Int[np.ndarray, "k"], "Labels"]:
        """The rows that say something of some classes or findings, and what they say of these alone."""

    @abc.abstractmethod
    def strata(self) -> Bool[np.ndarray, "n s"]:
        """What fractions of the labels are stratified by: whether a row belongs to each stratum."""

    def count_groups(self, members: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c"]:
        """How many groups have each class or finding.

        Args:
          members: number of the group of each row.
        """
        return groups_with(self.present, members)

    @abc.abstractmethod
    def groups_for_interval(self, members: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c"]:
        """How many groups an interval for each class or finding rests on. Arguments as of `count_groups`."""

    @abc.abstractmethod
    def class_weights(self, how: str) -> tuple[Any, ...]:
        """The weights of a row in a loss, or of its vote in kNN: one entry for each class or finding.

        Args:
          how: 'balanced' or 'none'; UserError for anything else.
        """

    @abc.abstractmethod
    def vote_table(self, how: str) -> tuple[Float[np.ndarray, "n v"], Float[np.ndarray, "v"]]:
        """What each training row votes for in kNN, float32 0 or 1, and the weight of each of these votes.

        Args:
          how: as of `class_weights`.
        """

    @abc.abstractmethod
    def probabilities_from_votes(
        self, votes: Float[np.ndarray, "m v"], all_votes: Float[np.ndarray, "v"]
    ) -> Float[np.ndarray, "m c"]:
        """Probabilities from weighted sums of votes.

        Args:
          votes: sums over the neighbours of each row.
          all_votes: the sum over all training rows.
        """

    @abc.abstractmethod
    def regressions(self) -> list[Regression]:
        """The logistic regressions of a linear probe."""

    @abc.abstractmethod
    def log_loss(self, logits: Float[np.ndarray, "n c"]) -> float:
        """Mean negative log-likelihood of the labels, natural logarithm."""

    @abc.abstractmethod
    def separated_by(self, logits: Float[np.ndarray, "n c"]) -> bool:
        """Whether the logits make no mistake, so that larger ones have a smaller log loss without end."""

    @abc.abstractmethod
    def describe_undefined(self) -> str:
        """Why a metric may be undefined on these rows."""

    @abc.abstractmethod
    def describe_unlearnable(self, where: str, names: Sequence[str]) -> str:
        """Why a target cannot use these rows, and what to do.

        Args:
          where: name of the split.
          names: [C], of the classes or findings.
        """

    @abc.abstractmethod
    def describe_lack(self, where: str, name: str) -> str:
        """That a split lacks a class or finding."""


def check_class_weight(how: str) -> None:
    """Raises UserError for a `class_weight` that is not known."""
    if how not in CLASS_WEIGHTS:
        raise UserError(f"unknown class_weight '{how}': known are {', '.join(CLASS_WEIGHTS)}")


def balance_values(counts: ArrayLike) -> Float[np.ndarray, "*c"]:
    """Weights by which all values count alike: N / (V N_v), with V the number of values that occur.

    The mean over the N rows is 1.

    Args:
      counts: N_v: int [C] of classes; or of findings int [C, 2], of which each finding is balanced by itself.

    A class that does not occur has the weight 0. A finding that is only present, or only absent, has the weights 1.
    """
    counts = np.asarray(counts)
    occurring = np.count_nonzero(counts, axis=-1, keepdims=True)
    weights = counts.sum(axis=-1, keepdims=True) / (np.maximum(occurring, 1) * np.maximum(counts, 1))
    if counts.ndim == 1:
        return np.where(counts > 0, weights, 0.0)
    return np.where(occurring == counts.shape[-1], weights, 1.0)


def groups_with(table: Bool[np.ndarray, "n c"], members: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c"]:
    """How many groups have a row that is True, for each column."""
    return np.array([len(np.unique(members[column])) for column in table.T])
