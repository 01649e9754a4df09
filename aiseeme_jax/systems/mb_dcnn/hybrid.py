"""The loss of both segmentation networks: soft Dice loss plus a rank loss of the hardest pixels."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from aiseeme_jax import losses
from aiseeme_jax.data import UNKNOWN
from aiseeme_jax.errors import UserError
from aiseeme_jax.task import Output


@dataclasses.dataclass(frozen=True)
class HybridLoss:
    """Fields that both segmentation networks have.

    Attributes:
      rank_weight: of the rank loss beside the Dice loss.
      rank_pixels: hardest pixels of each kind.
      rank_margin: by which the probability of a pixel inside must be above that of one outside.
    """

    rank_weight: float = 0.05
    rank_pixels: int = 30
    rank_margin: float = 0.3

    def __post_init__(self):
        if not 0 <= self.rank_weight < math.inf:
            raise UserError(f"system.rank_weight is {self.rank_weight}; it must be at least 0 and finite")
        if self.rank_pixels < 1:
            raise UserError(f"system.rank_pixels is {self.rank_pixels}; it must be at least 1")
        if not 0 <= self.rank_margin <= 1:
            raise UserError(f"system.rank_margin is {self.rank_margin}; it must lie in [0, 1]")

    def measure(
        self,
        logits: Float[Array, "b s s"],
        mask: UInt8[Array, "b s s"],
        images: Float[Array, "b s s c"],
        features: Float[Array, "b d"],
    ) -> Output:
        """What a task returns for logits and true masks (0, 1, 255: not known)."""
        inside, known = mask == 1, mask != UNKNOWN
        dice = losses.soft_dice(logits, inside, known, smooth_both=True)
        rank = losses.rank_loss(logits, inside, known, pixels=self.rank_pixels, margin=self.rank_margin)
        metrics: Mapping[str, Any] = {"soft_dice": dice, "rank": rank}
        loss = dice + self.rank_weight * rank
        return Output(loss=loss, metrics=dict(metrics), images=images, features=features, empty=~jnp.any(known))


def take_loss(settings: Any) -> HybridLoss:
    """The loss of the settings of a network that has these fields."""
    return HybridLoss(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(HybridLoss)})
