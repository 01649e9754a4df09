"""Fisher vectors as a protocol: what is fitted on the training images, and what is chosen on validation."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from aiseeme_jax import data, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.fractions import nested_fraction
from aiseeme_jax.evaluate.labels import Labels, make_labels
from aiseeme_jax.evaluate.linear import LinearProbe, fit_kernel, linear_probe
from aiseeme_jax.evaluate.measurement import (
    Measured,
    Measurement,
    Protocol,
    Runtime,
    Subject,
    check_same_input,
    draw_training_rows,
    plan_all_earlier,
)
from aiseeme_jax.models.halves import check_endpoint
from aiseeme_jax.systems.fisher_vector.encoding import (
    Encoder,
    draw_descriptors,
    encode,
    fit_projection,
    make_vectors,
    project,
    weigh,
)
from aiseeme_jax.systems.fisher_vector.foreground import LinearClassifier, learn_weights
from aiseeme_jax.systems.fisher_vector.mixture import drop_dead, fit_mixture, mean_log_likelihood
from aiseeme_jax.systems.fisher_vector.network import FisherClassifier, FisherNetwork
from aiseeme_jax.systems.fisher_vector.settings import FINETUNED, FOREGROUND, PLAIN, FisherSettings
from aiseeme_jax.weights import load_classifier

NAME = "fisher_vector"
# The measurement whose backbone is encoded, if that is to be fine-tuned first.
CLASSIFIER = "classifier"
# By split.
Gradients = Mapping[str, Float[np.ndarray, "n l two d"]]


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Fits projection, mixture, foreground weights and classifier on the training images, and classifies the test
    images.
    """
    settings: FisherSettings = FISHER_VECTOR.read_settings(measurement.target)
    backbone = find_backbone(measurement, subject, settings)
    split = subject.splits["train"].subset(subject.training_rows(measurement))
    encoder, fitted = fit_encoder(backbone, split, measurement, settings, runtime.evaluation_batch)
    splits = {"train": split, **{name: subject.splits[name] for name in ("validation", "test")}}
    how = {"views": measurement.views, "endpoint": settings.endpoint, "batch_size": runtime.evaluation_batch}
    gradients = {name: encode(backbone, encoder, one, **how) for name, one in splits.items()}
    fits = Fits(settings, splits, gradients)
    if settings.encoding == FOREGROUND:
        weights, learnt = learn_foreground(fits, measurement.seed)
        encoder = encoder._replace(weights=jnp.asarray(weights))
        fitted |= learnt
    probe, classifier = fits.choose_classifier(encoder.weights)
    network = FisherNetwork(
        nnx.clone(backbone), encoder, classifier, endpoint=settings.endpoint, improved=settings.encoding != PLAIN
    )
    chosen = {
        "strength": probe.strength,
        "validation_score": probe.validation_score,
        "converged": probe.converged,
        "unconverged_candidates": probe.unconverged,
        "images": len(split),
        **fitted,
    }
    names = tuple(map(str, split.class_names))
    facts = {"trained_on": split.name, "images": len(split)}
    kept = FisherClassifier(network, fits.kind, names, measurement.views, split.storage, facts)
    return Measured(probe.probs["test"], probe.probs["validation"], chosen, network=kept)


def find_backbone(measurement: Measurement, subject: Subject, settings: FisherSettings) -> nnx.Module:
    """What makes the maps."""
    if settings.backbone != FINETUNED:
        return subject.backbone
    return load_classifier(measurement.needed[CLASSIFIER]).network.backbone


def fit_encoder(
    backbone: nnx.Module, split: data.Split, measurement: Measurement, settings: FisherSettings, batch_size: int
) -> tuple[Encoder, dict[str, Any]]:
    """Projection and mixture of descriptors of the training images, with all foreground weights 1; and figures."""
    key = jax.random.key(seeds.derive(measurement.seed, NAME))
    descriptors = draw_descriptors(
        backbone,
        split,
        views=measurement.views,
        endpoint=settings.endpoint,
        each=max(1, settings.descriptors // len(split)),
        key=jax.random.fold_in(key, 0),
        batch_size=batch_size,
    )
    if len(descriptors) < settings.components:
        raise UserError(
            f"components is {settings.components}, and there are {len(descriptors)} descriptors in {len(split)} "
            "training images: take fewer components, or an endpoint with larger maps"
        )
    projection = fit_projection(descriptors, settings.dimensions)
    rows = project(projection, jnp.asarray(descriptors))
    fields = {"components": settings.components, "iterations": settings.iterations, "floor": settings.floor}
    mixture = drop_dead(fit_mixture(jax.random.fold_in(key, 1), rows, **fields))
    figures = {
        "descriptors": len(descriptors),
        "dimensions": rows.shape[1],
        "components": len(mixture.weights),
        "log_likelihood": float(mean_log_likelihood(mixture, rows)),
    }
    return Encoder(projection, mixture, jnp.ones(len(mixture.weights))), figures


class Fits:
    """Linear classifiers of the vectors of the same images, with different foreground weights."""

    def __init__(self, settings: FisherSettings, splits: Mapping[str, data.Split], gradients: Gradients):
        self.settings, self.splits, self.gradients = settings, splits, gradients
        self.classes = len(splits["train"].class_names)
        self.labels = {name: split.labels for name, split in splits.items()}
        self.kind = make_labels(self.labels["train"], self.classes).KIND

    @property
    def options(self) -> dict[str, Any]:
        """Of every fit."""
        return {
            "class_weight": self.settings.class_weight,
            "max_iter": self.settings.max_iter,
            "classes": self.classes,
        }

    def make_vectors(self, weights: Float[Array, " l"]) -> dict[str, Float[np.ndarray, "n v"]]:
        """The vectors of every split."""
        improved = self.settings.encoding != PLAIN
        return {
            name: np.asarray(make_vectors(weigh(jnp.asarray(one), weights), improved=improved))
            for name, one in self.gradients.items()
        }

    def choose_classifier(self, weights: Float[Array, " l"]) -> tuple[LinearProbe, LinearClassifier]:
        """The classifier with the best strength on validation, and its probabilities."""
        vectors = self.make_vectors(weights)
        strengths = self.settings.strengths
        probe = linear_probe(vectors, self.labels, strengths=strengths, standardise=False, **self.options)
        return probe, self.fit(vectors["train"], self.labels["train"], probe.strength)

    def fit(self, vectors: Float[np.ndarray, "n v"], labels: np.ndarray, strength: float) -> LinearClassifier:
        """The classifier of one strength."""
        fitted = fit_kernel(vectors, labels, strength=strength, **self.options)
        return LinearClassifier(*(jnp.asarray(part, jnp.float32) for part in fitted))


def learn_foreground(fits: Fits, seed: int) -> tuple[Float[np.ndarray, " l"], dict[str, Any]]:
    """Foreground weights with the mean 1, and figures.

    A classifier with the strength that is best without weights is fitted on a part of the training images, and the
    weights are learnt on the rest. No lesion or patient is in both.

    Raises UserError as `hold_out` does.
    """
    even = jnp.ones(fits.gradients["train"].shape[1])
    probe, _ = fits.choose_classifier(even)
    held, rest, lacking = hold_out(fits.splits["train"], fits.settings.held_share, seed)
    labels, gradients = fits.labels["train"], fits.gradients["train"]
    of_rest = make_labels(labels[rest], fits.classes)
    vectors = np.asarray(make_vectors(jnp.asarray(gradients[rest]), improved=True))
    weights = learn_weights(
        gradients[held],
        labels[held],
        fits.fit(vectors, labels[rest], probe.strength),
        kind=fits.kind,
        class_weights=of_rest.class_weights(fits.settings.class_weight),
        steps=fits.settings.weight_steps,
        rate=fits.settings.weight_rate,
        sparsity=fits.settings.sparsity,
    )
    return weights, {
        "validation_score_without_weights": probe.validation_score,
        "foreground_weights": [round(float(one), 4) for one in weights],
        "held_images": len(held),
        **({"held_note": f"one part of the training images has no {', no '.join(lacking)}"} if lacking else {}),
    }


class HeldOut(NamedTuple):
    """The training images in two parts, of whole groups.

    Attributes:
      held: rows on which the foreground weights are learnt.
      rest: rows on which the classifier is fitted before.
      lacking: classes or findings that one of the parts has not.
    """

    held: Int[np.ndarray, " k"]
    rest: Int[np.ndarray, " m"]
    lacking: tuple[str, ...]


def hold_out(train: data.Split, share: float, seed: int) -> HeldOut:
    """Holds out about a share of the images of each class. Of two ways to draw them it is the one in which fewer
    classes are lacking in a part.

    Raises UserError if nothing can be learnt from one of the parts.
    """
    made, every = make_labels(train.labels, len(train.class_names)), np.arange(len(train))
    own = seeds.derive(seed, NAME, "held")
    held, rest = (nested_fraction(train.labels, train.groups, part, own) for part in (share, 1 - share))
    ways = (held, np.setdiff1d(every, held)), (np.setdiff1d(every, rest), rest)
    found = [HeldOut(*way, _list_lacking(train.class_names, made, way)) for way in ways]
    best = min(found, key=lambda way: len(way.lacking))
    if not len(best.held) or not len(best.rest) or not made.take(best.rest).learnable:
        raise UserError(
            f"{len(train)} training images are too few to learn foreground weights on a part of them "
            f"(held_share {share}): take encoding 'ifv', or raise `fractions`"
        )
    return best


def _list_lacking(names: Sequence[str], made: Labels, parts: Iterable[Int[np.ndarray, " k"]]) -> tuple[str, ...]:
    """The classes or findings of some rows that are in no row of one of the parts."""
    everywhere = np.logical_and.reduce([made.present[part].any(axis=0) for part in parts])
    return tuple(str(names[place]) for place in np.flatnonzero(made.present.any(axis=0) & ~everywhere))


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for a field that cannot be, and for other views than those of fine-tuning."""
    settings: FisherSettings = FISHER_VECTOR.read_settings(target)
    check_endpoint(settings.endpoint)
    if settings.backbone == FINETUNED:
        check_same_input(target, target.earlier[CLASSIFIER], f"earlier.{CLASSIFIER}")


def check_splits(target: ConfigDict, splits: Mapping[str, data.Split]) -> None:
    """Raises UserError if a share of the training images cannot be parted to learn foreground weights."""
    settings: FisherSettings = FISHER_VECTOR.read_settings(target)
    if settings.encoding != FOREGROUND:
        return
    train = splits["train"]
    for fraction, seed in itertools.product(target.fractions, target.seeds):
        hold_out(train.subset(draw_training_rows(train, target, fraction, seed)), settings.held_share, seed)


def plan_needed(target: ConfigDict) -> Mapping[str, ConfigDict]:
    """Fine-tuning, if its backbone is encoded."""
    return plan_all_earlier(target) if FISHER_VECTOR.read_settings(target).backbone == FINETUNED else {}


FISHER_VECTOR = Protocol(
    NAME,
    trains=False,
    draws=True,
    check=check,
    measure=measure,
    settings=FisherSettings,
    earlier={CLASSIFIER: "finetune"},
    plan_needed=plan_needed,
    check_splits=check_splits,
)
