"""TFDS builder of ISIC 2017, part 3, from the official archives in `manual_dir` (see README.md)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.image_builder import sizes, with_masks
from tfds_builders.common.isic import IsicBuilder, Part, Row, zeros_and_ones
from tfds_builders.common.tables import read_table

MELANOMA, KERATOSIS, NEVUS = "melanoma", "seborrheic_keratosis", "nevus"


def part(name: str, split: str, infix: str, counts: tuple[int, int, int]) -> Part:
    stem = f"ISIC-2017_{infix}"
    published = {"images": sum(counts), **dict(zip((MELANOMA, KERATOSIS, NEVUS), counts, strict=True))}
    return Part(name, split, f"{stem}_Data", (f"{stem}_Part3_GroundTruth",), (f"{stem}_Part1_GroundTruth",), published)


class Builder(IsicBuilder):
    """ISIC 2017, 2,750 dermoscopic images of three diagnoses, posed as two binary tasks."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = with_masks(sizes())
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    SEED = 2017
    HOMEPAGE, LICENSE = "https://challenge.isic-archive.com/data/#2017", "CC0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put these files of {HOMEPAGE} into manual_dir: for each of ISIC-2017_Training, ISIC-2017_Validation and "
        "ISIC-2017_Test_v2 the images …_Data.zip (or the folder it unpacks to) and …_Part3_GroundTruth.csv; for the "
        "configs with masks also …_Part1_GroundTruth.zip."
    )
    CLASSES = (MELANOMA, KERATOSIS, NEVUS)
    PARTS = (
        part("training", "train", "Training", (374, 254, 1372)),
        part("validation", "validation", "Validation", (30, 42, 78)),
        part("test", "test", "Test_v2", (117, 90, 393)),
    )

    def more_features(self) -> dict[str, Any]:
        return {
            **super().more_features(),
            MELANOMA: tfds.features.Scalar(np.bool_, doc="first official task: melanoma against the others"),
            KERATOSIS: tfds.features.Scalar(np.bool_, doc="second official task"),
        }

    def read_rows(self, tables: Sequence[Path]) -> tuple[list[Row], list[Damaged]]:
        rows, damaged = [], []
        for image_id, values in read_table(tables[0], "image_id", (MELANOMA, KERATOSIS)).items():
            try:
                rows.append(make_row(image_id, values))
            except DamagedInput as error:
                damaged.append(Damaged(f"{tables[0]}: {image_id}", str(error)))
        return rows, damaged


def make_row(image_id: str, values: Mapping[str, str]) -> Row:
    tasks = zeros_and_ones(values)
    if not tasks or all(tasks.values()):
        shown = ", ".join(f"{name}={value}" for name, value in values.items())
        raise DamagedInput(f"{shown}: 0 and 1 are wanted, and 1 at most once")
    label = next((name for name, value in tasks.items() if value), NEVUS)
    return Row(image_id, image_id, label, tasks)
