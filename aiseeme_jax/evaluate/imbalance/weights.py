"""Methods that weight the loss of a row by its class, or draw batches in which all classes are alike."""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float

from aiseeme_jax.evaluate.imbalance.base import (
    WEIGHTED,
    Counts,
    Loss,
    Method,
    Moment,
    check_field,
    class_balanced_weights,
)
from aiseeme_jax.evaluate.labels import ClassLabels, FindingLabels, balance_values

BOTH = (ClassLabels.KIND, FindingLabels.KIND)


class Weighted(Method):
    """The base of methods that only weight rows."""

    @abc.abstractmethod
    def weights(self, counts: Counts) -> Float[np.ndarray, "*c"]:
        """[C], or of findings [C, 2]: of rows without a finding and of rows with it."""

    def tabulate(self, counts: Counts) -> dict[str, np.ndarray]:
        return {"weights": self.weights(counts)}

    def loss(self, kind: str, logits: Float[Array, "b c"], labels: Array, counts: Counts, moment: Moment) -> Loss:
        return WEIGHTED[kind](logits, labels, moment.table["weights"])


class Unweighted(Method):
    """The base of methods whose rows have no weights."""

    def loss(self, kind: str, logits: Float[Array, "b c"], labels: Array, counts: Counts, moment: Moment) -> Loss:
        return WEIGHTED[kind](logits, labels, np.ones(np.shape(counts)))


@dataclasses.dataclass(frozen=True)
class Uncorrected(Unweighted):
    """No correction: each image counts alike."""

    NAME: ClassVar[str] = "none"
    KINDS: ClassVar[tuple[str, ...]] = BOTH


@dataclasses.dataclass(frozen=True)
class InverseFrequency(Weighted):
    """Each class counts alike: a row has the weight n / (C n_c). Of a finding, both values count alike."""

    NAME: ClassVar[str] = "inverse_frequency"
    KINDS: ClassVar[tuple[str, ...]] = BOTH

    def weights(self, counts: Counts) -> Float[np.ndarray, "*c"]:
        return balance_values(counts)


@dataclasses.dataclass(frozen=True)
class BalancedSampling(Unweighted):
    """Every batch holds all classes alike; the images of a small class come more often. Rows have no weights.

    The images of each class come in fresh permutations, and an epoch has as many steps as without correction (both
    ours: published samplers draw with replacement).
    """

    NAME: ClassVar[str] = "balanced_sampling"
    BALANCED_BATCHES: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class ClassBalanced(Weighted):
    """A row has a weight proportional to one over the effective number of images of its class.

    (1 - beta) / (1 - beta^n_c), scaled so that the mean over the training rows is 1 (see `class_balanced_weights`).
    Source: Cui et al., CVPR 2019 (arXiv 1901.05555), eq. 4.

    Attributes:
      beta: in [0, 1). 0 is no correction, towards 1 comes `inverse_frequency`. At 0.9999, the published value for large
        sets, classes of up to a thousand images are weighted almost by their inverse frequency: then try 0.99 or 0.999.
    """

    NAME: ClassVar[str] = "class_balanced"
    KINDS: ClassVar[tuple[str, ...]] = BOTH
    beta: float = 0.9999

    def __post_init__(self):
        check_field(self, "beta", 0 <= self.beta < 1, "in [0, 1)")

    def weights(self, counts: Counts) -> Float[np.ndarray, "*c"]:
        return class_balanced_weights(counts, self.beta)
