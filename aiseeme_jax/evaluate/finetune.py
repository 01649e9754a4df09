"""Supervised fine-tuning: a task like the pretext tasks, so that the same loop trains it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import augment, data, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.calibration import fit_temperature
from aiseeme_jax.evaluate.features import fetch_rows, on_every_device
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.metrics import main_metric
from aiseeme_jax.losses.classification import accuracy
from aiseeme_jax.models.classifier import PROBABILITIES, ClassifierNetwork, linear_head
from aiseeme_jax.task import Bank, Batch, Output, Task
from aiseeme_jax.training import checks, loop, optimizers
from aiseeme_jax.weights.classifier import Classifier

Loss = tuple[Float[Array, ""], dict[str, Float[Array, ""]]]


class Best(NamedTuple):
    """The step with the best score on validation, and that score."""

    step: int
    score: float


def class_loss(logits: Float[Array, "b k"], labels: Array, weights: Sequence[float]) -> Loss:
    """Mean over the batch of weight x cross-entropy: an unbiased estimate of the class-balanced risk."""
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(jnp.asarray(weights)[labels] * entropy), {"accuracy": accuracy(logits, labels)}


def finding_loss(logits: Float[Array, "b k"], labels: Array, weights: Sequence[tuple[float, float]]) -> Loss:
    """Mean of weight x binary cross-entropy over all that is known in the batch, 0 if nothing is.

    Args:
      labels: float [B, K], 1 present, 0 absent, NaN not known.
      weights: for each finding, of rows without and of rows with it.
    """
    known, present = jnp.isfinite(labels), labels == 1
    of_absent, of_present = jnp.asarray(weights).T
    entropy = optax.sigmoid_binary_cross_entropy(logits, present.astype(jnp.float32))
    weighted = jnp.where(known, jnp.where(present, of_present, of_absent) * entropy, 0.0)
    return jnp.sum(weighted) / jnp.maximum(jnp.sum(known), 1), {}


# The loss of each kind of labels.
LOSSES: Mapping[str, Callable[..., Loss]] = MappingProxyType({"class": class_loss, "findings": finding_loss})


class FineTuning(Task):
    """A backbone with a linear head on its pooled features, trained on labels.

    It carries a copy of the best weights so far. Checkpoints hold this copy, so a run that was killed and goes on
    recalls the same weights.

    Args:
      backbone: starts from whatever weights it has; all of it is trained.
      spec: the training views.
      class_weights: from `Labels.class_weights`: one weight per class, or a pair per finding.
      kind: of the labels, in `LOSSES`.
    """

    NAME = "finetune"
    RECIPE: ClassVar[Mapping[str, Any]] = {
        "crop_scale": (0.5, 1.0),
        "flip_horizontal": 0.5,
        "jitter_probability": 0.8,
        "brightness": 0.2,
        "contrast": 0.2,
        "saturation": 0.2,
        "hue": 0.02,
    }

    def __init__(
        self,
        backbone: nnx.Module,
        spec: augment.AnyViews,
        *,
        class_weights: Sequence[Any],
        kind: str = "class",
        rngs: nnx.Rngs,
    ):
        super().__init__(backbone, spec)
        self.kind = kind
        self.class_weights = tuple(class_weights)
        self.head = linear_head(backbone.features, len(self.class_weights), rngs=rngs)
        self.best_score = Bank(jnp.float32(-jnp.inf))
        self.best_step = Bank(jnp.int32(0))
        # A variable per array: one that held a tree would not survive the split into plain arrays.
        self.best = nnx.List(Bank(value) for value in self._copy())

    @property
    def network(self) -> ClassifierNetwork:
        """Backbone and head; shares their weights."""
        return ClassifierNetwork(self.backbone, self.head)

    def remember(self, score: float, step: int) -> None:
        """Keeps a copy of the present weights and running statistics if `score` is above all scores before.

        Args:
          step: steps done.
        """
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

    def views(self, key: PRNGKeyArray, batch: Batch) -> dict[str, Array]:
        return {**super().views(key, batch), "label": batch["label"]}

    def loss(self, views: Mapping[str, Array], progress: Float[Array, ""]) -> Output:
        """The loss of `kind`, see `LOSSES`."""
        logits, features = self.network(views["image"], train=True)
        loss, metrics = LOSSES[self.kind](logits, views["label"], self.class_weights)
        return Output(loss=loss, metrics=metrics, images=views["image"], features=features)


def _replace(variable: nnx.Variable, value: np.generic) -> None:
    """Places the value where the old one was: a state that lies elsewhere would make the train step compile again."""
    variable.set_value(jax.device_put(value, variable.get_value().sharding))


def predict(
    network: ClassifierNetwork, split: data.Split, *, kind: str, views: augment.AnyViews, batch_size: int
) -> Float[np.ndarray, "n k"]:
    """Probabilities of each image's central view, in the order of the split; changes nothing."""
    logits = predict_logits(network, split, views=views, batch_size=batch_size)
    return np.asarray(PROBABILITIES[kind](jnp.asarray(logits)))


def predict_logits(
    network: ClassifierNetwork, split: data.Split, *, views: augment.AnyViews, batch_size: int
) -> Float[np.ndarray, "n k"]:
    """Logits of each image's central view, in the order of the split; changes nothing."""
    batches = data.evaluation_batches(split, batch_size)
    return fetch_rows((_logits(network, batch["image"], views) for batch in batches), len(split))


@functools.partial(nnx.jit, static_argnames=("views",))
def _logits(
    network: ClassifierNetwork, images: Shaped[Array, "b *space c"], views: augment.AnyViews
) -> Float[Array, "b k"]:
    return on_every_device(network(augment.central_view(images, views), train=False)[0])


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Steps of fine-tuning: of all, of its warm-up, and from one validation to the next."""

    total: int
    warmup: int
    epoch: int


def lengths_for(target: ConfigDict, images: int) -> Lengths:
    """The lengths of fine-tuning on all `images` labelled images. Every share of the labels has the same lengths.

    Each image of a share is shown more often instead. With as many epochs, a share would have fewer steps, and nobody
    could tell the effect of few labels from that of few steps.
    """
    batch_size = batch_size_for(target.batch_size, images)
    per_epoch = data.steps_per_epoch(images, batch_size)
    steps = functools.partial(optimizers.steps_of, steps_per_epoch=per_epoch, batch_size=batch_size)
    return Lengths(steps(target.duration), steps(target.schedule.warmup), per_epoch)


def batch_size_for(asked: int, images: int) -> int:
    """The batch size that was asked for, or the largest that the devices can share if there are fewer images.

    Raises UserError where there are fewer images than devices.
    """
    devices = jax.device_count()
    if images < devices:
        raise UserError(f"a fraction of {images} labelled images is too few for {devices} devices; raise `fractions`")
    return min(asked, images // devices * devices)


def make_task(measurement: Measurement, subject: Subject) -> FineTuning:
    """The task of a measurement: a copy of the backbone with a fresh head."""
    labels = subject.labels("train").take(subject.training_rows(measurement))
    return FineTuning(
        nnx.clone(subject.backbone),
        measurement.views,
        class_weights=labels.class_weights(measurement.target.class_weight),
        kind=labels.KIND,
        rngs=nnx.Rngs(seeds.derive(measurement.seed, "heads")),
    )


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Fine-tunes a copy of the backbone, and classifies the test images with the weights of the best epoch.

    The probabilities are those of the network as it is; the temperature is for the classifier that is handed on.
    """
    split = subject.splits["train"].subset(subject.training_rows(measurement))
    views, batch_size = measurement.views, runtime.evaluation_batch
    result = _train(measurement, subject, split, directory, runtime)
    task = result.task
    best = task.recall()
    chosen = {"best_step": best.step, "validation_score": best.score} if best else {"validation_score": None}
    probs = predict(task.network, subject.splits["test"], kind=task.kind, views=views, batch_size=batch_size)
    validation = predict_logits(task.network, subject.splits["validation"], views=views, batch_size=batch_size)
    temperature = fit_temperature(validation, subject.labels("validation"))
    classifier = Classifier(
        task.network,
        kind=task.kind,
        class_names=tuple(map(str, split.class_names)),
        views=views,
        temperature=temperature.value,
        info={"temperature_note": temperature.note, "trained_on": split.name, "images": len(split)},
    )
    fitted = {"temperature": temperature.value, "temperature_note": temperature.note}
    return Measured(probs, {**chosen, **fitted, "images": len(split), **result.record}, classifier)


def recipe_for(measurement: Measurement, subject: Subject, patience: int) -> loop.Recipe:
    """How to fine-tune on a share of the labels: for as many steps as on all of them."""
    target, images = measurement.target, len(subject.training_rows(measurement))
    lengths = lengths_for(target, len(subject.splits["train"]))
    fields = {**target.to_dict(), "batch_size": batch_size_for(target.batch_size, images)}
    fields["schedule"]["warmup"] = {"epochs": None, "steps": lengths.warmup, "examples": None}
    fields |= {"task_weight": 1.0, "distill": {"kind": "none"}}
    return loop.Recipe(FrozenConfigDict(fields), lengths.total, lengths.epoch, measurement.seed, patience)


def _train(
    measurement: Measurement, subject: Subject, split: data.Split, directory: Path, runtime: Runtime
) -> loop.Result:
    """Trains on a share of the labels, and remembers the weights of the best epoch."""
    validation = subject.splits["validation"]
    recipe = recipe_for(measurement, subject, runtime.patience)
    score = main_metric(validation.labels)

    def remember_best(task: FineTuning, step: int) -> None:
        settings = {"kind": task.kind, "views": task.spec, "batch_size": runtime.evaluation_batch}
        task.remember(score(validation.labels, predict(task.network, validation, **settings)), step)

    return loop.fit(
        make_task(measurement, subject),
        data.Batches(
            split,
            batch_size=recipe.fields.batch_size,
            seed=measurement.seed,
        ),
        recipe,
        loop.Folder(
            directory,
            f"{subject.name}: {measurement}",
            runtime.log_every,
            runtime.checkpoint_every,
            {"data": split.fingerprint()},
        ),
        callbacks=loop.Callbacks(after_epoch=remember_best),
    )


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a batch size, length, optimizer or schedule that cannot be."""
    for fraction in target.fractions:
        batch_size_for(target.batch_size, round(len(train) * fraction))
    # The lengths are those of all labels, whatever the fraction.
    size = batch_size_for(target.batch_size, len(train))
    checks.check_training(ConfigDict({**target.to_dict(), "batch_size": size}), len(train))


FINETUNE = Protocol("finetune", trains=True, check=check, measure=measure)
