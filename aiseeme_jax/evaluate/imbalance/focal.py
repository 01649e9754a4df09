"""Focal loss: what is classified well already counts less."""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float

from aiseeme_jax import losses
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.imbalance.base import (
    Counts,
    Loss,
    Method,
    Moment,
    check_field,
    mean_of_known,
)
from aiseeme_jax.evaluate.labels import ClassLabels, FindingLabels, Labels


@dataclasses.dataclass(frozen=True)
class Focal(Method):
    """The loss of a row, times (1 - p)^gamma, with p the probability of the truth.

    Source: Lin et al., ICCV 2017 (arXiv 1708.02002), eq. 5, with a softmax in place of the sigmoid where each image has
    one class.

    Attributes:
      gamma: at least 0, where it is the plain loss.
      alpha: only of findings: the weight of what is present, in (0, 1); 1 - alpha is that of what is absent. None is
        0.25, as published. For classes it does not exist: one factor for all would only change the learning rate.
    """

    NAME: ClassVar[str] = "focal"
    KINDS: ClassVar[tuple[str, ...]] = (ClassLabels.KIND, FindingLabels.KIND)
    gamma: float = 2.0
    alpha: float | None = None

    def __post_init__(self):
        check_field(self, "gamma", 0 <= self.gamma < float("inf"), "at least 0 and finite")
        check_field(self, "alpha", self.alpha is None or 0 < self.alpha < 1, "in (0, 1), or None")

    def check(self, labels: Labels) -> None:
        super().check(labels)
        if labels.KIND == ClassLabels.KIND and self.alpha is not None:
            raise UserError(
                f"imbalance.alpha is {self.alpha}, but with one class for each image one factor for all classes would "
                "only change the learning rate: leave alpha out"
            )

    def loss(self, kind: str, logits: Float[Array, "b c"], labels: Array, counts: Counts, moment: Moment) -> Loss:
        if kind == ClassLabels.KIND:
            return Loss(losses.focal(logits, labels, gamma=self.gamma, alpha=1.0))
        alpha = 0.25 if self.alpha is None else self.alpha
        return mean_of_known(losses.binary_focal(logits, labels == 1, gamma=self.gamma, alpha=alpha), labels)
