"""Fine-tuning as a protocol: how long it lasts, what it is trained on, and what is chosen on validation."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import augment, data, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import imbalance
from aiseeme_jax.evaluate.best_weights import BestKeeper
from aiseeme_jax.evaluate.calibration import fit_temperature
from aiseeme_jax.evaluate.features import fetch_rows, on_every_device
from aiseeme_jax.evaluate.labels import Labels, make_labels
from aiseeme_jax.evaluate.measurement import Measured, Measurement, Protocol, Runtime, Subject
from aiseeme_jax.evaluate.metrics import main_metric
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.losses import cross_entropies
from aiseeme_jax.models.classifier import PROBABILITIES, ClassifierNetwork
from aiseeme_jax.training import checks, loop, optimizers
from aiseeme_jax.weights.classifier import Classifier, load_classifier

# The measurement that must be made first, if a method against imbalance learns from its classifier.
BASELINE = "baseline"
# What fine-tuning may train of the backbone.
TRAINED = ("all", "norms")


def predict(
    network: ClassifierNetwork,
    split: data.Split,
    *,
    kind: str,
    views: augment.AnyViews,
    batch_size: int,
    shown: str = augment.CENTRAL,
) -> Float[np.ndarray, "n k"]:
    """Probabilities of each image, in the order of the split; changes nothing.

    Args:
      shown: one of `augment.EVALUATION_VIEWS`; the probability is the mean over these views.
    """
    each = [
        np.asarray(PROBABILITIES[kind](jnp.asarray(logits)))
        for logits in predict_views(network, split, views=views, batch_size=batch_size, shown=shown)
    ]
    return np.mean(each, axis=0)


def predict_logits(
    network: ClassifierNetwork, split: data.Split, *, views: augment.AnyViews, batch_size: int
) -> Float[np.ndarray, "n k"]:
    """Logits of each image's central view, in the order of the split; changes nothing."""
    return predict_views(network, split, views=views, batch_size=batch_size, shown=augment.CENTRAL)[0]


def predict_views(
    network: ClassifierNetwork, split: data.Split, *, views: augment.AnyViews, batch_size: int, shown: str
) -> Float[np.ndarray, "v n k"]:
    """Logits of each of several views of each image."""
    batches = data.evaluation_batches(split, batch_size)
    found = fetch_rows((_logits(network, batch["image"], views, shown) for batch in batches), len(split))
    return np.moveaxis(found, 1, 0)


@functools.partial(nnx.jit, static_argnames=("views", "shown"))
def _logits(
    network: ClassifierNetwork, images: Shaped[Array, "b *space c"], views: augment.AnyViews, shown: str
) -> Float[Array, "b v k"]:
    # One after another: a batch of all views might not fit.
    made = augment.evaluation_views(images, views, shown)
    return on_every_device(jnp.stack([network(view, train=False)[0] for view in made], axis=1))


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


def make_task(
    measurement: Measurement, subject: Subject, runtime: Runtime, make: Callable[..., FineTuning] = FineTuning
) -> FineTuning:
    """The task of a measurement, by `make`: a copy of the backbone with a fresh head.

    Raises ValueError if the method needs a baseline and the measurement has none.
    """
    rows = subject.training_rows(measurement)
    labels = subject.labels("train").take(rows)
    method = imbalance.make_method(measurement.target.imbalance)
    difficulty = None
    if method.needs_baseline:
        if BASELINE not in measurement.needed:
            raise ValueError(f"{measurement}: give the folder of the measurement without correction as `{BASELINE}`")
        split = subject.splits["train"].subset(rows)
        baseline = load_classifier(measurement.needed[BASELINE])
        difficulty = mean_losses(baseline, split, batch_size=runtime.evaluation_batch)
    return make(
        nnx.clone(subject.backbone),
        measurement.views,
        method=method,
        counts=imbalance.count(labels),
        kind=labels.KIND,
        difficulty=difficulty,
        trained=measurement.target.get("trained", "all"),
        layer_decay=measurement.target.layer_decay,
        rngs=nnx.Rngs(seeds.derive(measurement.seed, "heads")),
    )


def mean_losses(classifier: Classifier, split: data.Split, *, batch_size: int) -> Float[np.ndarray, " c"]:
    """Mean cross-entropy of the images of each class, of central views in evaluation mode; NaN without images."""
    logits = predict_logits(classifier.network, split, views=classifier.views, batch_size=batch_size)
    rows = np.asarray(cross_entropies(jnp.asarray(logits), jnp.asarray(split.labels)), np.float64)
    classes = range(len(split.class_names))
    return np.array([rows[split.labels == c].mean() if (split.labels == c).any() else np.nan for c in classes])


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Fine-tunes a copy of the backbone, and classifies the test images with the weights of the best epoch."""
    return measure_classifier(make_task(measurement, subject, runtime), measurement, subject, directory, runtime)


def measure_classifier(
    task: FineTuning, measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime
) -> Measured:
    """Trains a task on the labels of a measurement, and classifies the test images with the weights of the best epoch.

    The probabilities are those of the network as it is; the temperature is for the classifier that is handed on.
    """
    split = subject.splits["train"].subset(subject.training_rows(measurement))
    views, batch_size = measurement.views, runtime.evaluation_batch
    validation, test = subject.splits["validation"], subject.splits["test"]
    metric = main_metric(validation.labels)

    def score(task: FineTuning) -> float:
        settings = {"kind": task.kind, "views": task.spec, "batch_size": batch_size}
        return metric(validation.labels, predict(task.network, validation, **settings))

    trained = data.balance(split) if task.method.BALANCED_BATCHES else split
    recipe = recipe_for(measurement, subject, runtime.patience)
    folder = make_folder(directory, measurement, subject, split, runtime)
    task, chosen = train_network(task, trained, recipe, folder, score, loading=runtime.loading)
    shown = measurement.target.test_views
    probs = predict(task.network, test, kind=task.kind, views=views, batch_size=batch_size, shown=shown)
    logits = predict_logits(task.network, validation, views=views, batch_size=batch_size)
    temperature = fit_temperature(logits, subject.labels("validation"))
    classifier = Classifier(
        task.network,
        kind=task.kind,
        class_names=tuple(map(str, split.class_names)),
        views=views,
        temperature=temperature.value,
        stored=split.storage,
        info={"temperature_note": temperature.note, "trained_on": split.name, "images": len(split)},
    )
    fitted = {"temperature": temperature.value, "temperature_note": temperature.note}
    chosen = {**fitted, "images": len(split), **chosen}
    return Measured(probs, np.asarray(PROBABILITIES[task.kind](jnp.asarray(logits))), chosen, classifier)


def train_network(
    task: BestKeeper,
    split: data.Split,
    recipe: loop.Recipe,
    folder: loop.Folder,
    score: Callable[[BestKeeper], float],
    *,
    loading: data.Loading,
    segmentation: bool = False,
) -> tuple[BestKeeper, dict[str, Any]]:
    """Trains a task to its end, from its newest checkpoint if there is one, and takes the weights of the best epoch.

    Args:
      split: the images that it is trained on.
      score: of the task as it is, on validation images; more is better.
      loading: how batches come to the devices.
      segmentation: whether batches have masks.

    Returns the trained task, and what the record of the measurement says about the training.
    """

    def remember_best(task: BestKeeper, step: int) -> None:
        task.remember(score(task), step)
        # The last call may come within an epoch; nothing reads afterwards what is measured in one.
        task.end_epoch()

    how = {"batch_size": recipe.fields.batch_size, "seed": recipe.seed}
    batches = data.Batches(split, **how, loading=loading, segmentation=segmentation)
    result = loop.fit(task, batches, recipe, folder, callbacks=loop.Callbacks(after_epoch=remember_best))
    best = result.task.recall()
    chosen = {"best_step": best.step, "validation_score": best.score} if best else {"validation_score": None}
    return result.task, {**chosen, **result.record}


def recipe_for(measurement: Measurement, subject: Subject, patience: int) -> loop.Recipe:
    """How to fine-tune on a share of the labels: for as many steps as on all of them."""
    target, images = measurement.target, len(subject.training_rows(measurement))
    lengths = lengths_for(target, len(subject.splits["train"]))
    hold = steps_held(target, lengths, subject.labels("train").take(subject.training_rows(measurement)))
    return make_recipe(target, lengths, images, measurement.seed, patience, hold)


def make_recipe(
    target: ConfigDict, lengths: Lengths, images: int, seed: int, patience: int, hold: int = 0
) -> loop.Recipe:
    """How to train on `images` images for so many steps, with the fields of a target.

    Args:
      hold: steps after the warm-up with the peak of the learning rate.
    """
    fields = {**target.to_dict(), "batch_size": batch_size_for(target.batch_size, images)}
    fields["schedule"]["warmup"] = {"epochs": None, "steps": lengths.warmup, "examples": None}
    fields |= {"task_weight": 1.0, "distill": {"kind": "none"}}
    return loop.Recipe(FrozenConfigDict(fields), lengths.total, lengths.epoch, seed, patience, hold)


def steps_held(target: ConfigDict, lengths: Lengths, labels: Labels) -> int:
    """Steps after the warm-up during which the method keeps the learning rate at its peak."""
    held_until = imbalance.make_method(target.imbalance).hold_until(imbalance.count(labels))
    return max(math.ceil((held_until - imbalance.ROUNDING) * lengths.total) - lengths.warmup, 0)


def make_folder(
    directory: Path, measurement: Measurement, subject: Subject, split: data.Split, runtime: Runtime
) -> loop.Folder:
    """Where the training of a measurement leaves its log and checkpoints.

    Args:
      split: the images that it is trained on.
    """
    title = f"{subject.name}: {measurement}"
    return loop.Folder(directory, title, runtime.log_every, runtime.checkpoint_every, {"data": split.fingerprint()})


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a field that cannot be."""
    if target.get("trained", "all") not in TRAINED:
        raise UserError(f"trained is '{target.trained}'; known are {', '.join(TRAINED)}")
    if not 0 < target.layer_decay <= 1:
        raise UserError(f"layer_decay is {target.layer_decay}; it must lie in (0, 1]")
    check_supervised(target, train)


def check_supervised(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a batch size, length, optimizer, schedule, method against imbalance, or views to test on,
    that cannot be.
    """
    if target.test_views not in augment.EVALUATION_VIEWS:
        raise UserError(f"test_views is '{target.test_views}'; known are {', '.join(augment.EVALUATION_VIEWS)}")
    if target.test_views != augment.CENTRAL and augment.views_of(target.views).dimensions == 3:
        raise UserError(f"test_views is '{target.test_views}'; volumes have only '{augment.CENTRAL}'")
    for fraction in target.fractions:
        batch_size_for(target.batch_size, round(len(train) * fraction))
    # The lengths are those of all labels, whatever the fraction.
    size = batch_size_for(target.batch_size, len(train))
    fields = ConfigDict({**target.to_dict(), "batch_size": size})
    checks.check_training(fields, len(train))
    labels = make_labels(train.labels, len(train.class_names))
    imbalance.make_method(target.imbalance).check(labels)
    checks.check_training(fields, len(train), hold=steps_held(target, lengths_for(target, len(train)), labels))


def plan_baseline(target: ConfigDict) -> dict[str, ConfigDict]:
    """The target that must be measured first, if the method learns from a classifier trained without correction."""
    if not imbalance.make_method(target.imbalance).needs_baseline:
        return {}
    fields = {**target.to_dict(), "imbalance": imbalance.default_fields("none")}
    return {BASELINE: ConfigDict(fields).lock()}


FINETUNE = Protocol("finetune", trains=True, check=check, measure=measure, plan_needed=plan_baseline)
