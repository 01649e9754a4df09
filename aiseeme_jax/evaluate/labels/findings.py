"""Labels of several findings for each row."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import special

from aiseeme_jax.evaluate.labels.base import Labels, Regression, balance_values, check_class_weight, groups_with


class FindingLabels(Labels):
    """Several findings for each row. A macro mean runs over those that are present in some rows and absent in others.

    Args:
      values: float [N, C]; 1 present, 0 absent, NaN not known.

    Raises ValueError for other values.
    """

    KIND = "findings"
    METRICS = ("auroc", "average_precision")
    PER_CLASS = ("auroc", "average_precision")
    FURTHER = ("brier",)
    FURTHER_PER_CLASS = ("brier",)
    CHOSEN_BY = "auroc"

    positive_class = None

    def __init__(self, values: ArrayLike):
        self.values = values = np.asarray(values, np.float32)
        self.known = ~np.isnan(values)
        self.present = values == 1
        wrong = self.known & ~self.present & (values != 0)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"labels[{row}, {column}] is {values[row, column]:g}: a finding is 1 (present), 0 (absent) or NaN"
            )

    @functools.cached_property
    def measured(self) -> Int[np.ndarray, "m"]:
        return np.flatnonzero(self.present.any(axis=0) & self.absent.any(axis=0))

    @property
    def learnable(self) -> bool:
        """Whether a finding is present in some rows and absent in others."""
        return len(self.measured) > 0

    @property
    def choosable(self) -> bool:
        """Whether a finding is present in some rows and absent in others."""
        return self.learnable

    def take(self, rows: Int[np.ndarray, "k"]) -> "FindingLabels":
        return FindingLabels(self.values[rows])

    def limit_to(self, columns: Bool[np.ndarray, "c"]) -> tuple[Int[np.ndarray, "k"], "FindingLabels"]:
        """The rows in which one of these findings is known; the others are not known any more."""
        limited = FindingLabels(np.where(columns, self.values, np.nan))
        rows = np.flatnonzero(limited.known.any(axis=1))
        return rows, limited.take(rows)

    def strata(self) -> Bool[np.ndarray, "n s"]:
        """The findings, and last the rows in which none is present."""
        return np.column_stack([self.present, ~self.present.any(axis=1)])

    def groups_for_interval(self, members: Int[np.ndarray, "n"]) -> Int[np.ndarray, "c"]:
        """The groups with the finding, or those without it, whichever are fewer."""
        return np.minimum(groups_with(self.present, members), groups_with(self.absent, members))

    def class_weights(self, how: str) -> tuple[tuple[float, float], ...]:
        """For each finding, the weight of rows without it and of rows with it.

        'balanced': N / (2 N_v), with N the number of rows in which it is known and N_v that of rows with the value, so
        that both values count alike and the mean over the N rows is 1; both are 1 for a finding that is only present or
        only absent. 'none': 1 for each.
        """
        check_class_weight(how)
        counts = np.stack([self.absent.sum(axis=0), self.present.sum(axis=0)], axis=1)
        weights = balance_values(counts) if how == "balanced" else np.ones(counts.shape)
        return tuple((absent, present) for absent, present in weights.tolist())

    def vote_table(self, how: str) -> tuple[Float[np.ndarray, "n v"], Float[np.ndarray, "v"]]:
        """Each row votes for the findings it has, and against those it has not; V = 2 C."""
        weights = np.asarray(self.class_weights(how), np.float32)
        table = np.concatenate([self.present, self.absent], axis=1).astype(np.float32)
        return table, np.concatenate([weights[:, 1], weights[:, 0]])

    def probabilities_from_votes(
        self, votes: Float[np.ndarray, "m v"], all_votes: Float[np.ndarray, "v"]
    ) -> Float[np.ndarray, "m c"]:
        """For each finding, the share of the votes that are for it.

        Where no neighbour knows of a finding, `all_votes` count. Where no training row does, the share is 0.
        """
        votes = np.asarray(votes)
        some = np.add(*np.split(votes, 2, axis=1)) > 0
        for_it, against = np.split(np.where(np.tile(some, 2), votes, all_votes), 2, axis=1)
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
        """Whether the logits of all that is present are above 0, and those of all that is absent below."""
        return bool((self._signed(logits) > 0).all())

    def _signed(self, logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "k"]:
        """The logits of what is known, with the sign that makes a right one positive."""
        return np.where(self.present, logits, -np.asarray(logits))[self.known]

    def describe_undefined(self) -> str:
        return "no finding is present in some rows and absent in others"

    def describe_unlearnable(self, where: str, names: Sequence[str]) -> str:
        return (
            f"no finding of {where} ({', '.join(names)}) is present in some images and absent in others; "
            "targets need one that is, so leave `targets` empty or label more images"
        )

    def describe_lack(self, where: str, name: str) -> str:
        return f"{where} has no image with, or no image without, the finding '{name}'"
