"""Supervised fine-tuning, under the contract of a pretext task so that the one train loop runs it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped
from numpy.typing import ArrayLike

from aiseeme_jax import augment, data
from aiseeme_jax.evaluate.features import on_every_device
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.task import Bank, Batch, Output, Task


class Best(NamedTuple):
    """The step whose weights did best on validation, and how well."""

    step: int
    score: float


class Classifier(Task):
    """A backbone with a linear head on its pooled features and a class-weighted cross-entropy.

    It carries a copy of the best weights so far: checkpoints hold them, and a killed run recalls the same.

    Args:
      backbone: starts from whatever weights it has; all of it is trained.
      spec: the training views.
      class_weights: one per class, from `class_weights`.
    """

    RECIPE: ClassVar[Mapping[str, Any]] = {
        "crop_scale": (0.5, 1.0),
        "flip_horizontal": 0.5,
        "jitter_probability": 0.8,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "hue": 0.02,
    }

    def __init__(self, backbone: nnx.Module, spec: augment.AnyViews, *, class_weights: Sequence[float], rngs: nnx.Rngs):
        super().__init__(backbone, spec)
        self.class_weights = tuple(float(w) for w in class_weights)
        # Small weights: the first steps then do not tear at the backbone's features.
        init = nnx.initializers.normal(0.01)
        self.head = nnx.Linear(backbone.features, len(self.class_weights), kernel_init=init, rngs=rngs)
        self.best_score = Bank(jnp.float32(-jnp.inf))
        self.best_step = Bank(jnp.int32(0))
        # A variable per array: one that held a tree would not survive the split into plain arrays.
        self.best = nnx.List(Bank(value) for value in self._copy())

    def remember(self, score: float, step: int) -> None:
        """Keeps the weights and running statistics of now, after `step` steps, if `score` is above all before."""
        if np.float32(score) > float(self.best_score.get_value()):
            _replace(self.best_score, np.float32(score))
            _replace(self.best_step, np.int32(step))
            for kept, value in zip(self.best, self._copy(), strict=True):
                kept.set_value(value)

    def recall(self) -> Best | None:
        """Puts the best weights back and says which they are; None, changing nothing, if there are none."""
        score = float(self.best_score.get_value())
        if not np.isfinite(score):
            return None
        for variable, kept in zip(self._variables(), self.best, strict=True):
            variable.set_value(jnp.copy(kept.get_value()))
        return Best(int(self.best_step.get_value()), score)

    def _variables(self) -> list[nnx.Variable]:
        """Parameters and running statistics of backbone and head, in a fixed order."""
        state = nnx.state((self.backbone, self.head))
        return jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

    def _copy(self) -> list[Array]:
        # A copy: the train step donates its buffers, and a buffer can be donated once.
        return [jnp.copy(variable.get_value()) for variable in self._variables()]

    def logits(
        self, images: Float[Array, "b *space c"], *, train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b d"]]:
        """Class scores and the pooled features they come from."""
        features = self.backbone(images, train=train)["pooled"].astype(jnp.float32)
        return self.head(features), features

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        return {**super().views(key, batch), "label": batch["label"]}

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        """Mean over the batch of weight x cross-entropy: an unbiased estimate of the class-balanced risk."""
        logits, features = self.logits(views["image"], train=True)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, views["label"])
        loss = jnp.mean(jnp.asarray(self.class_weights)[views["label"]] * entropy)
        return Output(
            loss=loss,
            metrics={"accuracy": accuracy(logits, views["label"])},
            images=views["image"],
            features=features,
        )


def _replace(variable: nnx.Variable, value: np.generic) -> None:
    """Placed as it was: a state that lies elsewhere would make the train step compile anew."""
    variable.set_value(jax.device_put(value, variable.get_value().sharding))


def class_weights(labels: ArrayLike, classes: int, kind: str) -> tuple[float, ...]:
    """Weight of each class in the loss, or in the votes of kNN, from the training labels.

    'balanced': n / (C n_c) with C the number of classes present, so that the mean over the rows is 1; 0 for
    an absent class. 'none': 1 for each.
    """
    labels = np.asarray(labels)
    if kind not in ("balanced", "none"):
        raise ValueError(f"unknown class_weight '{kind}': known are balanced, none")
    if not len(labels) or labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"every label must lie between 0 and {classes - 1}; unlabelled rows cannot be used")
    if kind == "none":
        return (1.0,) * classes
    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return tuple(float(w) for w in np.where(counts > 0, weights, 0.0))


def predict(
    classifier: Classifier, split: data.Split, *, views: augment.AnyViews, batch_size: int
) -> Float[np.ndarray, "n classes"]:
    """Class probabilities of each image's central view, in the order of the split; changes nothing."""
    batches = data.evaluation_batches(split, batch_size)
    rows = [_probabilities(classifier, batch["image"], views) for batch in batches]
    return np.concatenate(jax.device_get(rows))[: len(split)]


@partial(nnx.jit, static_argnames=("views",))
def _probabilities(
    classifier: Classifier, images: Shaped[Array, "b *space c"], views: augment.AnyViews
) -> Float[Array, "b classes"]:
    logits, _ = classifier.logits(augment.central_view(images, views), train=False)
    return on_every_device(jax.nn.softmax(logits, axis=-1))
