"""Labels of one class for each row."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import special

from aiseeme_jax.evaluate.labels.base import Labels, Regression, balance_values, check_class_weight


class ClassLabels(Labels):
    """One class for each row. A macro mean runs over the classes that occur.

    Args:
      values: int [N], 0 … classes - 1.
      classes: C; by default the largest value plus one.

    Raises ValueError for labels that are not integers, that are -1 (not known), or that are no class.
    """

    KIND = "class"
    METRICS = ("balanced_accuracy", "auroc", "average_precision", "macro_f1", "macro_specificity", "accuracy")
    PER_CLASS = ("auroc", "average_precision", "sensitivity", "specificity", "f1")
    FURTHER = ("kappa", "mcc", "brier")
    FURTHER_PER_CLASS = ("ppv", "npv", "brier")
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
        return np.unique(self.values)

    @property
    def positive_class(self) -> int | None:
        """Of two classes the second one."""
        return 1 if self.count == 2 else None

    @property
    def learnable(self) -> bool:
        """Whether there are two classes to tell apart."""
        return len(self.measured) >= 2

    def take(self, rows: Int[np.ndarray, "k"]) -> "ClassLabels":
        return ClassLabels(self.values[rows], self.count)

    def limit_to(self, columns: Bool[np.ndarray, "c"]) -> tuple[Int[np.ndarray, "k"], "ClassLabels"]:
        """The rows of these classes."""
        rows = np.flatnonzero(columns[self.values])
        return rows, self.take(rows)

    def strata(self) -> Bool[np.ndarray, "n s"]:
        """The classes."""
        return self.present

    def groups_for_interval(self, members: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c"]:
        """The groups that have the class."""
        return self.count_groups(members)

    def class_weights(self, how: str) -> tuple[float, ...]:
        """The weight of each class.

        'balanced': N / (C' N_c), with C' the number of classes that occur, so that the mean over the rows is 1; 0 for a
        class that does not occur. 'none': 1 for each.
        """
        check_class_weight(how)
        if how == "none":
            return (1.0,) * self.count
        return tuple(balance_values(np.bincount(self.values, minlength=self.count)).tolist())

    def vote_table(self, how: str) -> tuple[Float[np.ndarray, "n v"], Float[np.ndarray, "v"]]:
        """Each row votes for its class; V = C."""
        return self.present.astype(np.float32), np.asarray(self.class_weights(how), np.float32)

    def probabilities_from_votes(
        self, votes: Float[np.ndarray, "m v"], all_votes: Float[np.ndarray, "v"]
    ) -> Float[np.ndarray, "m c"]:
        """The shares of the votes, which sum to 1 in each row."""
        return votes / votes.sum(axis=-1, keepdims=True)

    def regressions(self) -> list[Regression]:
        """One multinomial regression of all classes that occur."""
        return [Regression(np.arange(len(self)), self.values, {int(c): int(c) for c in self.measured})]

    def log_loss(self, logits: Float[np.ndarray, "n c"]) -> float:
        """Mean of -log softmax(logits) at the class."""
        return -float(np.mean(special.log_softmax(logits, axis=1)[np.arange(len(self)), self.values]))

    def separated_by(self, logits: Float[np.ndarray, "n c"]) -> bool:
        """Whether the logit of its class is above all others in every row."""
        others = np.where(self.present, -np.inf, logits).max(axis=1)
        return bool((logits[np.arange(len(self)), self.values] > others).all())

    def describe_undefined(self) -> str:
        return f"the labels hold only class {self.measured.tolist()}"

    def describe_unlearnable(self, where: str, names: Sequence[str]) -> str:
        return (
            f"all {len(self)} labelled images of {where} are of the class '{names[self.measured[0]]}'; "
            "a classifier needs two classes, so leave `targets` empty or label images of another"
        )

    def describe_lack(self, where: str, name: str) -> str:
        return f"{where} has no image of the class '{name}'"
