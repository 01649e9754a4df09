"""What a method against class imbalance is."""

import abc
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from aiseeme_jax import losses
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.labels import ClassLabels, FindingLabels, Labels
from aiseeme_jax.models.classifier import linear_head

# How many training images each class has; of findings a pair for each: images without it and with it.
Counts = tuple[int, ...] | tuple[tuple[int, int], ...]

# Arrays that follow from the sizes of the classes, by name.
Table = Mapping[str, Any]
NO_TABLE: Table = MappingProxyType({})

# Progress is a float32: a step that lies on a boundary counts as behind it.
ROUNDING = 1e-6


class Loss(NamedTuple):
    """The loss of a batch, and whether the batch has nothing to learn from."""

    value: Float[Array, ""]
    empty: Bool[Array, ""] | bool = False


class Moment(NamedTuple):
    """What the loss of a step may depend on beside the batch.

    Attributes:
      progress: share of the training's steps that are done.
      difficulty: [C] mean loss of each class, NaN where it is not known; None if the method does not ask for it.
      table: of the method, from the sizes of the classes.
    """

    progress: Float[Array, ""]
    difficulty: Float[Array, " c"] | None = None
    table: Table = NO_TABLE


class Method(abc.ABC):
    """A way to train on classes of very different sizes. Each method is a frozen dataclass; what it does to a step
    follows from its fields, from the sizes of the classes and from the `Moment`.

    The sizes are those of the training images of the measurement, for a share of the labels those of the share. They
    act through the arrays of `tabulate`, which a compiled program is handed: so all shares have the same program.

    Class attributes:
      NAME: in configs and in the names of targets.
      KINDS: of the labels that it is for.
      BALANCED_BATCHES: whether batches hold all classes alike. Otherwise they hold what the permutation brings.
    """

    NAME: ClassVar[str]
    KINDS: ClassVar[tuple[str, ...]] = (ClassLabels.KIND,)
    BALANCED_BATCHES: ClassVar[bool] = False

    @abc.abstractmethod
    def loss(self, kind: str, logits: Float[Array, "b c"], labels: Array, counts: Counts, moment: Moment) -> Loss:
        """The loss of a batch.

        Args:
          kind: of the labels.
          labels: int [B], or of findings float [B, C]: 1 present, 0 absent, NaN not known.
          counts: what `needed_counts` gave.
        """

    def check(self, labels: Labels) -> None:
        """Raises UserError if the method is not for such labels."""
        if labels.KIND not in self.KINDS:
            raise UserError(
                f"imbalance '{self.NAME}' is for one class for each image, and these images have several findings: "
                "for findings there are none, inverse_frequency, class_balanced and focal"
            )

    def needed_counts(self, counts: Counts) -> Counts:
        """As much of the sizes as the program depends on. Measurements that agree in it share what is compiled.

        Default: how many classes there are.
        """
        return forget_counts(counts)

    def tabulate(self, counts: Counts) -> dict[str, np.ndarray]:
        """Arrays for the loss and for `logit_shift` that follow from the sizes. Default: none."""
        return {}

    def make_head(self, features: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """The layer that makes logits of pooled features. Default: linear."""
        return linear_head(features, outputs, rngs=rngs)

    def logit_shift(self, table: Table) -> Float[np.ndarray, " c"] | None:
        """What is added to the logits of the trained network, wherever it is used; None: nothing."""
        return None

    def hold_until(self, counts: Counts) -> float:
        """Share of the training during which the learning rate stays at its peak, before its schedule begins."""
        return 0.0

    @property
    def measures_difficulty(self) -> bool:
        """Whether the mean loss of each class over an epoch is measured during training, for the next epoch."""
        return False

    @property
    def needs_baseline(self) -> bool:
        """Whether the mean loss of each class is that of a classifier that was trained before, without correction."""
        return False


def forget_counts(counts: Counts) -> Counts:
    """Sizes of the same shape that say nothing."""
    return tuple((1, 1) for _ in counts) if np.ndim(counts) == 2 else (1,) * len(counts)


def count(labels: Labels) -> Counts:
    """How many rows each class has; of findings a pair for each: rows without it and with it."""
    if isinstance(labels, FindingLabels):
        pairs = zip(labels.absent.sum(axis=0).tolist(), labels.present.sum(axis=0).tolist(), strict=True)
        return tuple(pairs)
    return tuple(labels.present.sum(axis=0).tolist())


def weighted_class_loss(logits: Float[Array, "b c"], labels: Array, weights: Any) -> Loss:
    """Mean over the batch of weight x cross-entropy: an unbiased estimate of the weighted risk.

    Args:
      weights: [C] of each class.
    """
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return Loss(jnp.mean(jnp.asarray(weights)[labels] * entropy))


def weighted_finding_loss(logits: Float[Array, "b c"], labels: Array, weights: Any) -> Loss:
    """Mean of weight x binary cross-entropy over all that is known in the batch; it is empty if nothing is.

    Args:
      labels: float [B, C], 1 present, 0 absent, NaN not known.
      weights: [C, 2], for each finding of rows without and of rows with it.
    """
    present = labels == 1
    of_absent, of_present = jnp.asarray(weights).T
    entropy = optax.sigmoid_binary_cross_entropy(logits, present.astype(jnp.float32))
    return mean_of_known(jnp.where(present, of_present, of_absent) * entropy, labels)


def mean_of_known(terms: Float[Array, "b c"], labels: Float[Array, "b c"]) -> Loss:
    """Mean of the terms whose label is not NaN; empty if there is none."""
    known = jnp.isfinite(labels)
    total = jnp.sum(known)
    return Loss(jnp.sum(jnp.where(known, terms, 0.0)) / jnp.maximum(total, 1), total == 0)


# The weighted loss of each kind of labels.
WEIGHTED: Mapping[str, Callable[..., Loss]] = MappingProxyType(
    {ClassLabels.KIND: weighted_class_loss, FindingLabels.KIND: weighted_finding_loss}
)


def check_field(method: Method, name: str, fits: bool, wanted: str) -> None:
    """Raises UserError, with the name of the field and what it must be, unless its value fits."""
    if not fits:
        raise UserError(f"imbalance.{name} is {getattr(method, name)}; it must be {wanted}")


def class_balanced_weights(counts: Counts, beta: float) -> Float[np.ndarray, "*c"]:
    """Weights (1 - beta) / (1 - beta^n), scaled so that their mean over the training rows is 1.

    Published is the scale at which the weights of the classes sum to C (Cui et al., CVPR 2019, section 4). With it the
    mean over the rows, and with it the learning rate, would fall with the imbalance. The scale here is ours. What no
    row has gets the weight 0.

    Args:
      counts: [C], or [C, 2] of findings: of each finding, both values are balanced.
    """
    table = np.asarray(counts)
    if table.ndim == 2:
        return np.stack([class_balanced_weights(tuple(pair), beta) for pair in table.tolist()])
    if not table.any():
        return np.zeros(len(table))
    # They are numbers, also where a step is being traced.
    with jax.ensure_compile_time_eval():
        weights = np.asarray(losses.class_balanced_weights(table, beta=beta), np.float64)
    return weights * (table.sum() / (weights @ table))
