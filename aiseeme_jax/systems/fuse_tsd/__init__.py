"""Fuse-TSD: texture, shape and deep features of a nodule, an ensemble of boosted networks for each, and their
decisions fused (Xie et al., Information Fusion 42, 2018).

Theirs are the three descriptions (co-occurrence of grey levels, Fourier descriptors of the outline, features of a
network), AdaBoost of networks with one hidden layer, and a decision for each slice, of which a nodule has the mean.
Grey levels, harmonics, sizes and the weights of the fusion are not published; those here are ours.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from aiseeme_jax import augment, data, seeds, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import features, metrics
from aiseeme_jax.evaluate.measurement import (
    Measured,
    Measurement,
    Protocol,
    Runtime,
    Subject,
    check_same_input,
    plan_all_earlier,
)
from aiseeme_jax.systems.fuse_tsd import boosting
from aiseeme_jax.systems.fuse_tsd.fusion import average_pictures, choose_weights, fuse
from aiseeme_jax.systems.fuse_tsd.shape import describe_shape
from aiseeme_jax.systems.fuse_tsd.texture import describe_texture

TEXTURE, SHAPE, DEEP = "texture", "shape", "deep"
KINDS = (TEXTURE, SHAPE, DEEP)
FROZEN, FINETUNED = "frozen", "finetuned"
# The measurement that leaves the fine-tuned network.
NETWORK = "network"
# A picture with fewer pixels of the region is left out: they have neither texture nor shape.
FEWEST_PIXELS = 4
# Weights of red, green and blue in a grey value (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
# Pictures that are described at once.
DESCRIBED = 256


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fields of the system.

    Attributes:
      features: descriptions, of KINDS, each with an ensemble of its own.
      deep: features of the backbone as it is, 'frozen', or of the one that is fine-tuned first, 'finetuned'.
      levels, distances: of the co-occurrence of grey levels; the distances are in stored pixels.
      points, harmonics: of the outline.
      rounds, hidden, iterations, decay: of the boosted networks, see `boosting.Boosting`.
    """

    features: tuple[str, ...] = KINDS
    deep: str = FROZEN
    levels: int = 16
    distances: tuple[int, ...] = (1,)
    points: int = 64
    harmonics: int = 10
    rounds: int = 10
    hidden: int = 8
    iterations: int = 30
    decay: float = 0.01

    def __post_init__(self):
        known = set(self.features) <= set(KINDS) and len(set(self.features)) == len(self.features)
        if not self.features or not known:
            raise UserError(
                f"system.features are {tuple(self.features)}; there must be some, each once, of {', '.join(KINDS)}"
            )
        if self.deep not in (FROZEN, FINETUNED):
            raise UserError(f"system.deep is '{self.deep}'; known are {FROZEN}, {FINETUNED}")
        for name, least in (("levels", 2), ("harmonics", 1), ("rounds", 1), ("hidden", 1), ("iterations", 1)):
            if getattr(self, name) < least:
                raise UserError(f"system.{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.distances or not all(distance >= 1 for distance in self.distances):
            raise UserError(f"system.distances are {tuple(self.distances)}; there must be some, each at least 1")
        if self.points <= 2 * self.harmonics:
            raise UserError(f"system.points is {self.points}; {self.harmonics} harmonics need more than twice as many")
        if not self.decay >= 0:
            raise UserError(f"system.decay is {self.decay}; it must not be negative")

    @property
    def boosting(self) -> boosting.Boosting:
        return boosting.Boosting(self.rounds, self.hidden, self.iterations, self.decay)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of the things of a split that show enough of the region.

    Attributes:
      rows: of each kind of description, [M, D].
      things: [M] the thing that each shows.
      count: how many things there are, those without such a picture too.
    """

    rows: Mapping[str, Float[np.ndarray, "m d"]]
    things: Int[np.ndarray, " m"]
    count: int

    def of_things(self, wanted: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " m"]:
        return np.isin(self.things, wanted)


def measure(measurement: Measurement, subject: Subject, directory: Path, runtime: Runtime) -> Measured:
    """Fits an ensemble to each description of the training pictures, and fuses what they say of each thing. The weights
    are chosen on validation.
    """
    settings = FUSE_TSD.read_settings(measurement.target)
    backbone = subject.backbone
    if settings.deep == FINETUNED and DEEP in settings.features:
        backbone = weights.load_classifier(measurement.needed[NETWORK] / weights.CLASSIFIER).network.backbone
    described = {
        name: describe(backbone, subject.splits[name], settings, measurement.views, runtime.evaluation_batch)
        for name in ("train", "validation", "test")
    }
    train = subject.splits["train"]
    used = described["train"].of_things(subject.training_rows(measurement))
    labels = train.labels[described["train"].things[used]]
    found: dict[str, list[Float[np.ndarray, "n c"]]] = {"validation": [], "test": []}
    rounds = {}
    for kind in settings.features:
        ensemble = boosting.boost(
            described["train"].rows[kind][used],
            labels,
            classes=len(train.class_names),
            settings=settings.boosting,
            seed=seeds.derive(measurement.seed, "boosting", kind),
        )
        rounds[kind] = len(ensemble.networks)
        for name, several in found.items():
            pictures = described[name]
            several.append(average_pictures(ensemble.predict(pictures.rows[kind]), pictures.things, pictures.count))
    return combine(settings, found, subject, rounds, len(labels))


def combine(
    settings: Settings,
    found: Mapping[str, list[Float[np.ndarray, "n c"]]],
    subject: Subject,
    rounds: Mapping[str, int],
    pictures: int,
) -> Measured:
    """The fused decisions, with what was chosen for them."""
    truth = subject.splits["validation"].labels
    chosen = choose_weights(found["validation"], truth)
    fused = {name: fuse(several, chosen) for name, several in found.items()}
    told = len(np.unique(truth)) > 1
    record = {
        "weights": dict(zip(settings.features, chosen, strict=True)),
        "networks": dict(rounds),
        "training_pictures": pictures,
        "validation_score": float(metrics.auroc(truth, fused["validation"])) if told else None,
    }
    return Measured(fused["test"], fused["validation"], record)


def describe(
    backbone: nnx.Module, split: data.Split, settings: Settings, views: augment.Views, batch_size: int
) -> Pictures:
    """All descriptions of the pictures of a split."""
    single = data.each_picture(split)
    things = np.repeat(np.arange(len(split)), split.pictures)
    rows: dict[str, list[Float[np.ndarray, " d"]]] = {kind: [] for kind in settings.features if kind != DEEP}
    shown: list[bool] = []
    for part in np.array_split(np.arange(len(single)), len(single) // DESCRIBED + 1):
        grey = to_grey(np.asarray(augment.stored_to_display(jnp.asarray(single.read(part)), views)))
        masks = single.read_segmentation(part)[..., 0] == 1
        shown.extend(masks.sum(axis=(1, 2)) >= FEWEST_PIXELS)
        for kind, listed in rows.items():
            listed.extend(describe_picture(kind, *pair, settings) for pair in zip(grey, masks, strict=True))
    found = {kind: np.array(listed) for kind, listed in rows.items()}
    if DEEP in settings.features:
        found[DEEP] = features.extract(backbone, single, views=views, batch_size=batch_size)
    kept = np.array(shown, bool)
    return Pictures({kind: found[kind][kept] for kind in settings.features}, things[kept], len(split))


def describe_picture(
    kind: str, grey: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], settings: Settings
) -> Float[np.ndarray, " d"]:
    if kind == TEXTURE:
        return describe_texture(grey, mask, levels=settings.levels, distances=settings.distances)
    return describe_shape(mask, points=settings.points, harmonics=settings.harmonics)


def to_grey(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h w"]:
    """The luma of colours, or the only channel."""
    return images @ np.asarray(LUMA, images.dtype) if images.shape[-1] == len(LUMA) else images[..., 0]


def check(target: ConfigDict, train: data.Split) -> None:
    """Raises UserError for fields that cannot be, for other views than those of the network, volumes and findings."""
    settings = FUSE_TSD.read_settings(target)
    if settings.deep == FINETUNED and DEEP in settings.features:
        check_same_input(target, target.earlier.network, "earlier.network")
    if train.kind != "class":
        raise UserError(f"fuse_tsd tells classes apart, and {train.name} has findings: take a data set of classes")
    if train.pictures == 1 and len(train.shape) == 4:
        raise UserError(
            f"fuse_tsd describes slices, and {train.name} holds volumes: take a config of planes, such as "
            "lidc_idri/views"
        )


def plan_needed(target: ConfigDict) -> dict[str, ConfigDict]:
    """Fine-tuning, if it is asked for."""
    settings = FUSE_TSD.read_settings(target)
    return plan_all_earlier(target) if settings.deep == FINETUNED and DEEP in settings.features else {}


FUSE_TSD = Protocol(
    "fuse_tsd",
    trains=False,
    draws=True,
    check=check,
    measure=measure,
    needs=data.Needs(masks=True, together=True),
    settings=Settings,
    earlier={NETWORK: "finetune"},
    plan_needed=plan_needed,
)
