"""LDAM-DRW: larger margins for smaller classes, and class weights in the last part of the training."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aiseeme_jax import losses
from aiseeme_jax.evaluate.imbalance.base import (
    ROUNDING,
    Counts,
    Loss,
    Method,
    Moment,
    check_field,
    class_balanced_weights,
)
from aiseeme_jax.models.classifier import CosineHead


@dataclasses.dataclass(frozen=True)
class LdamDrw(Method):
    """Cross-entropy of scaled cosines with a margin for each class; class-balanced weights after a while.

    The head is the cosine between features and class weights, both of length 1, without bias, in float32: the margins
    are in units of it. Source: Cao et al., NeurIPS 2019 (arXiv 1906.07413), eq. 13 and algorithm 1. Its training also
    divides the learning rate by 100 at 0.8 and once more at 0.9 of the steps: `schedule` 'step' with milestones
    (0.8, 0.9) and factor 0.01.

    Attributes:
      max_margin: of the smallest class, positive.
      scale: of the cosines, positive.
      deferred: share of the steps in which all rows weigh 1, in [0, 1]; published are 160 of 200 epochs.
      beta: of the class-balanced weights in the rest of the steps, in [0, 1). Their scale is ours, see
        `class_balanced_weights`.
    """

    NAME: ClassVar[str] = "ldam_drw"
    max_margin: float = 0.5
    scale: float = 30.0
    deferred: float = 0.8
    beta: float = 0.9999

    def __post_init__(self):
        for name in ("max_margin", "scale"):
            check_field(self, name, 0 < getattr(self, name) < float("inf"), "positive and finite")
        check_field(self, "deferred", 0 <= self.deferred <= 1, "in [0, 1]")
        check_field(self, "beta", 0 <= self.beta < 1, "in [0, 1)")

    def make_head(self, features: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return CosineHead(features, outputs, scale=self.scale, rngs=rngs)

    def tabulate(self, counts: Counts) -> dict[str, np.ndarray]:
        margins = losses.ldam_margins(counts, max_margin=self.max_margin)
        return {"margins": margins, "weights": class_balanced_weights(counts, self.beta)}

    def weights(self, moment: Moment) -> Float[Array, " c"]:
        """1 for each class, and from `deferred` on the class-balanced weights."""
        balanced = jnp.asarray(moment.table["weights"], jnp.float32)
        return jnp.where(moment.progress >= self.deferred - ROUNDING, balanced, 1.0)

    def loss(self, kind: str, logits: Float[Array, "b c"], labels: Array, counts: Counts, moment: Moment) -> Loss:
        margins = moment.table["margins"]
        rows = losses.margin_cross_entropies(logits, labels, margins=margins, scale=self.scale)
        return Loss(jnp.mean(self.weights(moment)[labels] * rows))
