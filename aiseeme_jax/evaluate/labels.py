"""The two kinds of labels, and everything that metrics and protocols do differently for each.

`ClassLabels`: each row has one of C classes. `FindingLabels`: each row has C findings at once, and each finding is
present, absent or not known. Both show the same two tables of rows by classes (or findings): `present` and `known`.
Code that needs only these tables is the same for both kinds; what differs is a method here.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import special

from aiseeme_jax.errors import UserError

CLASS_WEIGHTS = ("balanced", "none")

# Sums of float32 softmax outputs leave [0, 1] by this much at most.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Regression:
    """One logistic regression of a linear probe.

    Attributes:
      rows: int [M], the training rows it learns from.
      targets: int [M], what it learns to tell apart.
      columns: value of a target -> column of the table of probabilities that its probability goes to.
    """

    rows: Int[np.ndarray, "m"]
    targets: Int[np.ndarray, "m"]
    columns: Mapping[int, int]


class Labels:
    """Labels of N rows for C classes or findings; the base of both kinds.

    Attributes:
      KIND: name of the kind, as files and data sets write it.
      METRICS: names of the metrics that exist for this kind, in the order of a summary.
      PER_CLASS: names of those that exist for each class or finding.
      CHOSEN_BY: name of the metric by which k, C and epoch are chosen on validation.
      values: int [N], or float [N, C]: as they were given.
      present: bool [N, C], whether a row has the class or finding.
      known: bool [N, C], whether that is known.
      measured: int [M], the classes or findings that a macro mean runs over, in order.
      positive_class: the one class that the average precision is about, or None if it is a macro mean.
      learnable: bool, whether these rows suffice to train a classifier.
      choosable: bool, whether CHOSEN_BY is defined on these rows.
    """

    KIND: ClassVar[str]
    METRICS: ClassVar[tuple[str, ...]]
    PER_CLASS: ClassVar[tuple[str, ...]]
    CHOSEN_BY: ClassVar[str]

    values: np.ndarray
    present: Bool[np.ndarray, "n c"]
    known: Bool[np.ndarray, "n c"]
    measured: Int[np.ndarray, "m"]
    positive_class: int | None
    learnable: bool
    choosable: bool

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

    def take(self, rows: Int[np.ndarray, "k"]) -> "Labels":
        """The labels of some rows, for the same classes or findings."""
        return make_labels(self.values[rows], self.count)

    def count_groups(self, members: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c"]:
        """How many groups hold each class or finding.

        Args:
          members: number of the group of each row.
        """
        return _groups_with(self.present, members)


class ClassLabels(Labels):
    """One class for each row.

    Args:
      values: int [N], 0 … classes - 1.
      classes: C; by default the largest value and one.

    Raises ValueError for labels that are not integers, or not classes, or -1 (not known).
    """

    KIND = "class"
    METRICS = ("balanced_accuracy", "auroc", "average_precision", "macro_f1", "macro_specificity", "accuracy")
    PER_CLASS = ("auroc", "average_precision", "sensitivity", "specificity", "f1")
    CHOSEN_BY = "balanced_accuracy"

    choosable = True

    def __init__(self, values: ArrayLike, classes: int | None = None):
        values = np.asarray(values)
        if not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
            raise ValueError(f"labels must be integers, got {values.dtype}")
        if values.min() < 0:
            raise ValueError(f"row {int(values.argmin())} has no label ({values.min()}): leave unlabelled rows out")
        classes = int(values.max()) + 1 if classes is None else classes
        if values.max() >= classes:
            raise ValueError(f"labels reach from {values.min()} to {values.max()}, but there are {classes} classes")
        self.values = values.astype(np.int64)
        self.present = self.values[:, None] == np.arange(classes)
        self.known = np.broadcast_to(True, self.present.shape)

    @functools.cached_property
    def measured(self) -> Int[np.ndarray, "m"]:
        """The classes that occur."""
        return np.unique(self.values)

    @property
    def positive_class(self) -> int | None:
        """Of two classes the second one, which the average precision is about."""
        return 1 if self.count == 2 else None

    @property
    def learnable(self) -> bool:
        """Whether there are two classes to tell apart."""
        return len(self.measured) >= 2

    def strata(self) -> Bool[np.ndarray, "n s"]:
        """What fractions of the labels are stratified by: the class."""
        return self.present

    def groups_for_interval(self, members: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c"]:
        """How many groups an interval of each class rests on: those that hold it."""
        return self.count_groups(members)

    def class_weights(self, how: str) -> tuple[float, ...]:
        """Weight of each class in a loss, or in the votes of kNN.

        'balanced': N / (C' N_c), with C' the number of classes that occur, so that the mean over the rows is 1; 0 for a
        class that does not occur. 'none': 1 for each.
        """
        check_class_weight(how)
        if how == "none":
            return (1.0,) * self.count
        counts = np.bincount(self.values, minlength=self.count)
        weights = len(self) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return tuple(float(w) for w in np.where(counts > 0, weights, 0.0))

    def ballots(self, how: str) -> tuple[Float[np.ndarray, "n v"], Float[np.ndarray, "v"]]:
        """What each training row votes for in kNN, and the weight of each of these votes."""
        return self.present.astype(np.float32), np.asarray(self.class_weights(how), np.float32)

    def shares(self, votes: Float[np.ndarray, "m v"], all_votes: Float[np.ndarray, "v"]) -> Float[np.ndarray, "m c"]:
        """Probabilities from weighted sums of votes: they sum to 1 in each row. `all_votes` is not needed."""
        return votes / votes.sum(axis=-1, keepdims=True)

    def regressions(self) -> list[Regression]:
        """One multinomial regression over all classes."""
        return [Regression(np.arange(len(self)), self.values, {int(c): int(c) for c in self.measured})]

    def log_loss(self, logits: Float[np.ndarray, "n c"]) -> float:
        """Mean of -log softmax(logits) at the class."""
        return -float(np.mean(special.log_softmax(logits, axis=1)[np.arange(len(self)), self.values]))

    def separated_by(self, logits: Float[np.ndarray, "n c"]) -> bool:
        """Whether the logit of its class is above all others in every row."""
        others = np.where(self.present, -np.inf, logits).max(axis=1)
        return bool((logits[np.arange(len(self)), self.values] > others).all())

    def describe_undefined(self) -> str:
        """Why a metric may be undefined on these rows."""
        return f"the labels hold only class {self.measured.tolist()}"

    def describe_unlearnable(self, where: str, names: Sequence[str]) -> str:
        """Why nothing can be learnt from these rows."""
        return (
            f"all {len(self)} labelled images of {where} are of the class '{names[self.measured[0]]}'; "
            "a classifier needs two classes, so leave `targets` empty or label images of another"
        )

    def describe_lack(self, where: str, name: str) -> str:
        """That a class does not occur."""
        return f"{where} has no image of the class '{name}'"


class FindingLabels(Labels):
    """Several findings for each row.

    Args:
      values: float [N, C]; 1 present, 0 absent, NaN not known.

    Raises ValueError for other values.
    """

    KIND = "findings"
    METRICS = ("auroc", "average_precision")
    PER_CLASS = ("auroc", "average_precision")
    CHOSEN_BY = "auroc"

    positive_class = None

    def __init__(self, values: ArrayLike):
        self.values = values = np.asarray(values, np.float32)
        self.known = np.isfinite(values)
        self.present = values == 1
        wrong = self.known & ~self.present & (values != 0) | np.isinf(values)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"labels[{row}, {column}] is {values[row, column]:g}: a finding is 1 (present), 0 (absent) or NaN"
            )

    @functools.cached_property
    def measured(self) -> Int[np.ndarray, "m"]:
        """The findings that are present in some rows and absent in others."""
        return np.flatnonzero(self.present.any(axis=0) & self.absent.any(axis=0))

    @property
    def learnable(self) -> bool:
        """Whether a finding is present in some rows and absent in others."""
        return len(self.measured) > 0

    choosable = learnable

    def strata(self) -> Bool[np.ndarray, "n s"]:
        """What fractions of the labels are stratified by: each finding, and last the rows in which none is present."""
        return np.column_stack([self.present, ~self.present.any(axis=1)])

    def groups_for_interval(self, members: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c"]:
        """How many groups an interval of each finding rests on: the fewer of those with and those without it."""
        return np.minimum(_groups_with(self.present, members), _groups_with(self.absent, members))

    def class_weights(self, how: str) -> tuple[tuple[float, float], ...]:
        """For each finding the weights of rows without and of rows with it, in a loss or in the votes of kNN.

        'balanced': N / (2 N_v) over the N rows in which it is known and the N_v of each value, so that both count alike
        and their mean over the rows is 1; a finding that is only present, or only absent, has weights 1.
        'none': 1 for each.
        """
        check_class_weight(how)
        counts = np.stack([self.absent.sum(axis=0), self.present.sum(axis=0)], axis=1)
        weights = counts.sum(axis=1, keepdims=True) / (2 * np.maximum(counts, 1))
        both = (counts > 0).all(axis=1, keepdims=True) & (how == "balanced")
        return tuple((float(a), float(p)) for a, p in np.where(both, weights, 1.0))

    def ballots(self, how: str) -> tuple[Float[np.ndarray, "n v"], Float[np.ndarray, "v"]]:
        """Each training row votes for the findings it has, and against those it has not; V = 2 C."""
        weights = np.asarray(self.class_weights(how), np.float32)
        table = np.concatenate([self.present, self.absent], axis=1).astype(np.float32)
        return table, np.concatenate([weights[:, 1], weights[:, 0]])

    def shares(self, votes: Float[np.ndarray, "m v"], all_votes: Float[np.ndarray, "v"]) -> Float[np.ndarray, "m c"]:
        """For each finding, the share of the votes that are for it.

        Args:
          votes: weighted sums over the neighbours.
          all_votes: the same over all training rows; they count where no neighbour knows of the finding. Where no
            training row does, the share is 0.
        """
        votes = np.asarray(votes)
        for_it, against = np.split(votes, 2, axis=1)
        some = np.tile(for_it + against > 0, (1, 2))
        for_it, against = np.split(np.where(some, votes, all_votes), 2, axis=1)
        total = for_it + against
        return np.divide(for_it, total, out=np.zeros_like(total), where=total > 0)

    def regressions(self) -> list[Regression]:
        """One regression for each finding, on the rows in which it is known."""
        rows = [np.flatnonzero(self.known[:, c]) for c in range(self.count)]
        return [Regression(r, self.present[r, c].astype(np.int64), {1: c}) for c, r in enumerate(rows)]

    def log_loss(self, logits: Float[np.ndarray, "n c"]) -> float:
        """Mean binary cross-entropy of sigmoid(logits) over all that is known."""
        return -float(np.mean(special.log_expit(self._signed(logits))))

    def separated_by(self, logits: Float[np.ndarray, "n c"]) -> bool:
        """Whether the logits of all that is present are above 0, and of all that is absent below."""
        return bool((self._signed(logits) > 0).all())

    def _signed(self, logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "k"]:
        """The logits of what is known, with the sign that makes a right one positive."""
        return np.where(self.present, logits, -np.asarray(logits))[self.known]

    def describe_undefined(self) -> str:
        """Why a metric may be undefined on these rows."""
        return "no finding is present in some rows and absent in others"

    def describe_unlearnable(self, where: str, names: Sequence[str]) -> str:
        """Why nothing can be learnt from these rows, chosen by them or measured on them."""
        return (
            f"no finding of {where} ({', '.join(names)}) is present in some images and absent in others; "
            "targets need one that is, so leave `targets` empty or label more images"
        )

    def describe_lack(self, where: str, name: str) -> str:
        """That a finding is not present in some rows and absent in others."""
        return f"{where} has no image with, or no image without, the finding '{name}'"


def make_labels(values: ArrayLike, count: int | None = None) -> ClassLabels | FindingLabels:
    """Labels of the kind that their shape says: [N] is a class for each row, [N, C] is C findings.

    Args:
      count: number of classes or findings, if it is known.

    Raises ValueError for another shape, for no rows, or as the class of that kind does.
    """
    values = np.asarray(values)
    if values.ndim not in (1, 2) or not len(values):
        raise ValueError(f"labels must be [N] (classes) or [N, C] (findings) with N > 0, got {values.shape}")
    if values.ndim == 1:
        return ClassLabels(values, count)
    if count is not None and values.shape[1] != count:
        raise ValueError(f"labels {values.shape} are of {values.shape[1]} findings, but there are {count}")
    return FindingLabels(values)


def check_labels_and_probs(
    labels: ArrayLike, probs: ArrayLike
) -> tuple[ClassLabels | FindingLabels, Float[np.ndarray, "n c"]]:
    """Labels of either kind, and probabilities as float64 [N, C]; [N] means the probability of class 1 of two.

    Raises ValueError that names what is wrong: shapes, a label that cannot be, a probability that is not finite or not
      in [0, 1].
    Rows need not sum to one.
    """
    labels, probs = np.asarray(labels), np.asarray(probs, dtype=np.float64)
    if labels.ndim not in (1, 2) or probs.ndim not in (labels.ndim, 2) or len(labels) != len(probs):
        raise ValueError(
            f"need labels [N] and probs [N] or [N, C], or labels and probs [N, C], got {labels.shape} and {probs.shape}"
        )
    if not len(labels):
        raise ValueError("labels and probs are empty: there is nothing to measure")
    if not np.isfinite(probs).all():
        row = int(np.argwhere(~np.isfinite(probs))[0, 0])
        raise ValueError(f"probs[{row}] is not finite: {probs[row]}")
    if probs.min() < -TOLERANCE or probs.max() > 1 + TOLERANCE:
        raise ValueError(f"probs reach from {probs.min():.4g} to {probs.max():.4g}, outside [0, 1]: pass no logits")
    if probs.ndim == 1:
        probs = np.stack([1 - probs, probs], axis=1)
    if labels.ndim == 1 and probs.shape[1] < 2:
        raise ValueError("probs [N, 1] has one class: pass [N] for the probability of class 1 of two")
    return make_labels(labels, probs.shape[1]), probs


def check_class_weight(how: str) -> None:
    """Raises UserError for a `class_weight` that is not known."""
    if how not in CLASS_WEIGHTS:
        raise UserError(f"unknown class_weight '{how}': known are {', '.join(CLASS_WEIGHTS)}")


def _groups_with(table: Bool[np.ndarray, "n c"], members: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c"]:
    """How many groups have a row that is True, for each column."""
    return np.array([len(np.unique(members[column])) for column in table.T])
