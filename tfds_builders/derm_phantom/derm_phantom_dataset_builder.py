"""TFDS builder of derm_phantom: drawn, not photographed; for demos and tests, not for medical claims.

Everything is a pure function of the config (size, number of lesions, seed). Lesions, not photographs, are
split into train, validation and test (70/10/20 %), stratified by class. See README.md.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.images import encode_png
from tfds_builders.common.reporting import ReportingBuilder, split_counts
from tfds_builders.common.splits import split_by_group

from .lesions import CLASSES
from .photographs import photograph

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
# Photographs per lesion, as in HAM10000: most lesions have one.
PHOTOGRAPHS = {1: 0.74, 2: 0.19, 3: 0.06, 4: 0.01}


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """Attributes: side of the images in pixels; number of lesions (each has 1.34 photographs on average);
    seed.
    """

    size: int = 64
    lesions: int = 2240
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Photo:
    label: str
    lesion: int
    number: int

    @property
    def lesion_id(self) -> str:
        return f"PHANTOM_{self.lesion:06d}"

    @property
    def image_id(self) -> str:
        return f"{self.lesion_id}_{self.number}"


class Builder(ReportingBuilder):
    """Synthetic dermoscopic images of six classes that imitate patterns of real diagnoses."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = [
        Config(name="64", size=64, lesions=2240, description="synthetic, about 3,000 images of 64x64 pixels"),
        Config(name="demo", size=32, lesions=900, description="synthetic, about 1,200 images of 32x32 pixels"),
        Config(
            name="tiny",
            size=32,
            lesions=90,
            description="synthetic, about 120 images of 32x32 pixels, for tests",
        ),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "64"

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        features = {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
            "mask": tfds.features.Image(shape=(size, size, 1), encoding_format="png", doc="lesion: 0 or 255"),
            "label": tfds.features.ClassLabel(names=list(CLASSES)),
            "image_id": tfds.features.Text(),
            "lesion_id": tfds.features.Text(doc="photographs of one lesion share it"),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            license="Apache-2.0",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict]]]:
        del dl_manager
        photos = plan(self.builder_config.lesions, self.builder_config.seed)
        labels, lesions = [photo.label for photo in photos], [photo.lesion_id for photo in photos]
        splits = split_by_group(lesions, labels, self.builder_config.seed, FRACTIONS)
        self.report = {
            "synthetic": True,
            "splits": split_counts(splits, labels, lesions, list(CLASSES)),
            "fractions": FRACTIONS,
            "seed": self.builder_config.seed,
            "inputs": {},
        }
        return {split: self._generate_examples([photos[i] for i in chosen]) for split, chosen in splits.items()}

    def _generate_examples(self, photos: Sequence[Photo]) -> Iterator[tuple[str, dict]]:
        config = self.builder_config
        for photo in photos:
            image, mask = photograph(photo.label, config.seed, photo.lesion, photo.number, config.size)
            yield (
                photo.image_id,
                {
                    "image": encode_png(image),
                    "mask": encode_png(mask.astype(np.uint8) * 255),
                    "label": photo.label,
                    "image_id": photo.image_id,
                    "lesion_id": photo.lesion_id,
                },
            )


def plan(lesions: int, seed: int) -> list[Photo]:
    """Class and number of photographs of every lesion; the class counts are exact up to rounding."""
    random = np.random.default_rng((seed, 3))
    bounds = np.round(np.cumsum(list(CLASSES.values())) * lesions).astype(int)
    classes = np.searchsorted(bounds, np.arange(lesions), side="right")
    random.shuffle(classes)
    numbers = random.choice(list(PHOTOGRAPHS), lesions, p=list(PHOTOGRAPHS.values()))
    names = list(CLASSES)
    return [
        Photo(names[classes[lesion]], lesion, number) for lesion in range(lesions) for number in range(numbers[lesion])
    ]
