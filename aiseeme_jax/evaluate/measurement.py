"""What is measured, on what, and what comes out: the contract between the protocols and their callers.

Nothing here knows a config as a whole, a workdir or a report.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
from flax import nnx
from jaxtyping import Float, Int
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import augment, data
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import features, results
from aiseeme_jax.evaluate.fractions import draw_shots, in_words, nested_fraction
from aiseeme_jax.evaluate.labels import Labels, make_labels
from aiseeme_jax.weights.classifier import Classifier

SPLITS = ("train", "validation", "test")
# Fields that a target under `earlier` does not have: they are those of the target that needs it.
SHARED_FIELDS = ("fractions", "shots", "data", "test_data", "seeds")
# Fields of 'finetune' that a system may have too: see `Protocol.common`.
COMMON_FIELDS = ("layer_decay", "test_views", "imbalance")
# Fields of the views that decide what a network is shown, whatever augments the training images.
INPUT_FIELDS = ("size", "mean", "std", "window")


@dataclass(frozen=True)
class Measurement:
    """One protocol on one share of the labels, with one seed.

    Attributes:
      target: config of the target, as `configs.base.target` makes it.
      fraction: share of the labelled training images, in (0, 1].
      seed: of the share and of fine-tuning.
      needed: folders of the finished measurements that must be made first, by the names that `Protocol.plan_needed`
        gives them. The networks that they left lie there.
    """

    target: ConfigDict
    fraction: float
    seed: int
    needed: Mapping[str, Path] = field(default_factory=dict)

    @property
    def views(self) -> augment.AnyViews:
        return augment.views_of(FrozenConfigDict(self.target.views))

    def __str__(self) -> str:
        name = results.name_target(self.target, self.target.data)
        return f"{name} on {in_words(self.fraction, self.target.shots)}, seed {self.seed}"


@dataclass(frozen=True)
class Runtime:
    """How measuring is done. The result does not depend on these.

    Attributes:
      evaluation_batch: images at once where nothing is trained.
      loading: of the training images.
      log_every, checkpoint_every: steps of fine-tuning.
      patience: non-finite steps in a row that end fine-tuning.
    """

    evaluation_batch: int
    loading: data.Loading
    log_every: int
    checkpoint_every: int
    patience: int


@dataclass
class Subject:
    """A backbone to measure, and the labelled images to measure it on.

    Attributes:
      name: for messages.
      backbone: is not changed.
      splits: 'train', 'validation' and 'test', with a label, or a mask, or both for each image, as the protocol needs;
        'unlabelled', the training images without a label, if the protocol needs them too.
    """

    name: str
    backbone: nnx.Module
    splits: Mapping[str, data.Split]
    _features: dict[tuple[augment.AnyViews, str], dict[str, Float[np.ndarray, "n d"]]] = field(
        default_factory=dict, repr=False
    )

    def labels(self, split: str) -> Labels:
        """The labels of a split."""
        return make_labels(self.splits[split].labels, len(self.splits[split].class_names))

    def features(
        self, views: augment.AnyViews, batch_size: int, endpoint: str = features.DEFAULT_ENDPOINT
    ) -> Mapping[str, Float[np.ndarray, "n d"]]:
        """Features of each split at an endpoint, computed once for all measurements with the same views."""
        place = views, endpoint
        if place not in self._features:
            self._features[place] = {
                name: features.extract(self.backbone, split, views=views, batch_size=batch_size, endpoint=endpoint)
                for name, split in self.splits.items()
                if len(split)
            }
        return self._features[place]

    def training_rows(self, measurement: Measurement) -> Int[np.ndarray, "k"]:
        """The rows of the training split that a measurement uses."""
        return draw_training_rows(self.splits["train"], measurement.target, measurement.fraction, measurement.seed)

    def features_and_labels(
        self, measurement: Measurement, batch_size: int
    ) -> tuple[dict[str, Float[np.ndarray, "n d"]], dict[str, np.ndarray]]:
        """Features and labels of each split; of 'train' only the rows that the measurement uses."""
        rows = self.training_rows(measurement)
        found = self.features(measurement.views, batch_size, measurement.target.endpoint)
        labels = {name: split.labels for name, split in self.splits.items()}
        return {**found, "train": found["train"][rows]}, {**labels, "train": labels["train"][rows]}


def draw_training_rows(train: data.Split, target: ConfigDict, fraction: float, seed: int) -> Int[np.ndarray, "k"]:
    """The rows of a training split whose labels a target uses, with one of its fractions and seeds."""
    if target.shots:
        return draw_shots(train.labels, train.groups, target.shots, seed)
    return nested_fraction(train.labels, train.groups, fraction, seed)


class Kept(Interface):
    """A network that can be kept as a file, as `weights.Segmenter`."""

    def save(self, directory: Path) -> str:
        """Writes the file `weights.NETWORK`, and returns the hash in its header."""


@dataclass(frozen=True)
class Measured:
    """What a protocol gives.

    Attributes:
      found: of the test images the probabilities, float [N, C]; or how well their masks were predicted.
      validation: the same of the validation images, by the same network.
      chosen: JSON values: what was chosen on validation, and figures for the record.
      classifier: the trained one, if the protocol trains a backbone with a head on its pooled features.
      network: another network that was trained and is kept as a file.
    """

    found: Float[np.ndarray, "n c"] | results.Overlaps
    validation: Float[np.ndarray, "m c"] | results.Overlaps
    chosen: dict[str, Any]
    classifier: Classifier | None = None
    network: Kept | None = None


@dataclass(frozen=True)
class Outcome:
    """What a measurement gives: `Measured`, with the probabilities of test and validation beside the truth."""

    predictions: results.AnyPredictions
    validation: results.AnyPredictions
    chosen: dict[str, Any]
    classifier: Classifier | None = None
    network: Kept | None = None


@dataclass(frozen=True)
class Protocol:
    """A way to measure a backbone. A new one is a file with such a value, and its line in a table of protocols:
    `curriculum.protocols.MEASURES`, or for a supervised system `systems.SYSTEMS`.

    Everything is chosen on the validation split, and the predictions are those of the test split.

    Attributes:
      name: of the protocol, as a target's config has it.
      trains: whether it trains the backbone. If not, all seeds give the same result on all labels, unless it `draws`.
      check: judges the fields of a target against its training split. Raises UserError that names the field.
      measure: (measurement, subject, directory, runtime) -> `Measured`. Checkpoints and logs go to the directory.
      needs: what the images of the splits have.
      settings: of a system: frozen dataclass of the fields that it alone has, with their defaults. A target has them as
        `target.system`; `read_settings` gives an object of it, which refuses values that cannot be.
      common: of a system: which fields of 'finetune' it reads too, among `COMMON_FIELDS`.
      earlier: of a system: name -> protocol of the measurements that it may need first. A target has their fields as
        `target.earlier.NAME`.
      plan_needed: (target) -> name -> config of the targets that must be measured first, on the same data sets, the
        same share of the labels and with the same seed.
      check_splits: judges the target against all its splits, where the training split is not enough.
      check_model: judges it against the fields of the network, `config.model`.
      draws: of a protocol that trains no backbone, whether its result depends on the seed all the same.
    """

    name: str
    trains: bool
    check: Callable[[ConfigDict, data.Split], None]
    measure: Callable[[Measurement, Subject, Path, Runtime], Measured]
    needs: data.Needs = data.LABELS
    settings: type | None = None
    common: tuple[str, ...] = ()
    earlier: Mapping[str, str] = field(default_factory=dict)
    plan_needed: Callable[[ConfigDict], Mapping[str, ConfigDict]] = lambda target: plan_all_earlier(target)
    check_splits: Callable[[ConfigDict, Mapping[str, data.Split]], None] = lambda target, splits: None
    check_model: Callable[[ConfigDict, ConfigDict], None] = lambda target, model: None
    draws: bool = False

    @property
    def is_random(self) -> bool:
        """Whether its result depends on the seed, on all labels too."""
        return self.trains or self.draws

    def read_settings(self, target: ConfigDict) -> Any:
        """The fields of a system of a target, an object of `settings`. UserError for a value that cannot be."""
        return self.settings(**{name: _freeze(value) for name, value in target.system.items()})


def plan_all_earlier(target: ConfigDict) -> dict[str, ConfigDict]:
    """The targets that the config of a target has under `earlier`, all of them."""
    return {name: make_earlier(target, name) for name in target.get("earlier", {})}


def make_earlier(target: ConfigDict, name: str) -> ConfigDict:
    """A target under `earlier`, with the fields that say on what is measured: they are those of `target`."""
    shared = {field: target[field] for field in SHARED_FIELDS}
    return ConfigDict({**shared, **target.earlier[name].to_dict()}).lock()


def check_same_input(target: ConfigDict, earlier: ConfigDict, place: str) -> None:
    """Judges whether a target shows images as the target did whose network it goes on with.

    Args:
      earlier: that target.
      place: where it stands in the config of `target`, for the message.

    Raises UserError for another size, mean, deviation or window.
    """
    for name in INPUT_FIELDS:
        ours, theirs = target.views.get(name), earlier.views.get(name)
        if ours != theirs:
            raise UserError(
                f"views.{name} is {ours}, and {place}.views.{name} {theirs}: {target.protocol} goes on with the "
                "network of that target, so make them the same"
            )


def _freeze(value: Any) -> Any:
    """A value of a config as a field of a frozen dataclass: a node becomes a FrozenConfigDict, which has a hash."""
    return FrozenConfigDict(value) if isinstance(value, ConfigDict) else value
