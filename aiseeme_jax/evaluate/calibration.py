"""Temperature scaling: one number that makes the probabilities of a trained classifier fit how often they are right.

Guo, Pleiss, Sun & Weinberger, On calibration of modern neural networks, ICML 2017, section 4.2: the logits are divided
by the temperature T > 0 that minimises the negative log-likelihood on validation. T changes neither the most probable
class nor the order of the rows for a finding. It cannot undo a shift of all probabilities of one class, as balanced
class weights cause it.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import optimize

from aiseeme_jax.evaluate.labels import Labels

LOWEST, HIGHEST = 1e-3, 1e3

# With fewer labelled images the temperature is uncertain. If the true one is 2, nine of ten sets of 300 images give
# 1.65 … 2.46, and nine of ten sets of 100 images give 1.31 … 2.66.
FEW = 300


class Temperature(NamedTuple):
    """A temperature, and what the user should know about it; '' if there is nothing."""

    value: float
    note: str


def fit_temperature(logits: Float[np.ndarray, "n c"], labels: Labels) -> Temperature:
    """The temperature in LOWEST … HIGHEST with the least log loss; all findings have the same one.

    It is 1, with a note, where the labels do not suffice (one class only; no finding that is both present and absent),
    and where no temperature has the least loss, because the classifier makes no mistake on these labels.

    Args:
      logits: of the rows of `labels`.
    """
    if not labels.learnable:
        return Temperature(1.0, f"not fitted: {labels.describe_undefined()}")
    logits = np.asarray(logits, np.float64)
    if labels.separated_by(logits):
        return Temperature(1.0, "not fitted: there is no mistake on validation, so no temperature has the least loss")
    found = optimize.minimize_scalar(
        lambda log_t: labels.log_loss(logits / math.exp(log_t)),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    value = math.exp(found.x)
    if value > 0.99 * HIGHEST:
        return Temperature(HIGHEST, "on validation the classifier is no better than chance")
    note = f"uncertain: fitted on {len(labels)} images only" if len(labels) < FEW else ""
    return Temperature(value, note)
