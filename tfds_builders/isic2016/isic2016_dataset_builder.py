"""TFDS builder of ISIC 2016, task 3, from the official archives in `manual_dir` (see README.md)."""

import csv
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.common.damage import Damaged
from tfds_builders.common.image_builder import sizes, with_masks
from tfds_builders.common.isic import IsicBuilder, Part, Row
from tfds_builders.common.parts import carve
from tfds_builders.common.records import Record
from tfds_builders.common.spelling import plain
from tfds_builders.common.tables import open_table

# The training table has words, the test table numbers.
LABELS = {
    "benign": "benign", "malignant": "malignant", "0": "benign", "1": "malignant", "0.0": "benign", "1.0": "malignant",
}  # fmt: skip


def part(name: str, split: str, published: dict[str, int]) -> Part:
    stem = f"ISBI2016_ISIC_Part3_{name.capitalize()}"
    # Part3B is images and masks in one.
    masks = (f"ISBI2016_ISIC_Part1_{name.capitalize()}_GroundTruth", f"ISBI2016_ISIC_Part3B_{name.capitalize()}_Data")
    return Part(name, split, f"{stem}_Data", (f"{stem}_GroundTruth",), masks, published)


class Builder(IsicBuilder):
    """ISIC 2016, 1,279 dermoscopic images, benign or malignant."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = with_masks(sizes())
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    SEED = 2016
    HOMEPAGE, LICENSE = "https://challenge.isic-archive.com/data/#2016", "CC0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put these files of {HOMEPAGE} into manual_dir: ISBI2016_ISIC_Part3_Training_Data.zip and _Test_Data.zip (or "
        "the folders they unpack to), ISBI2016_ISIC_Part3_Training_GroundTruth.csv and _Test_GroundTruth.csv; for the "
        "configs with masks also ISBI2016_ISIC_Part1_Training_GroundTruth.zip and _Test_GroundTruth.zip."
    )
    CLASSES = ("benign", "malignant")
    PARTS = (
        part("training", "", {"images": 900, "benign": 727, "malignant": 173}),
        part("test", "test", {"images": 379, "benign": 304, "malignant": 75}),
    )

    def read_rows(self, tables: Sequence[Path]) -> tuple[list[Row], list[Damaged]]:
        """The table has two columns and no header."""
        rows, damaged = [], []
        with open_table(tables[0]) as file:
            for line, values in enumerate(csv.reader(file, strict=True), start=1):
                image_id, label = (*map(plain, values), "", "")[:2]
                if len(values) == 2 and image_id and label in LABELS:
                    rows.append(Row(image_id, image_id, LABELS[label]))
                elif any(value.strip() for value in values):
                    reason = f"{','.join(values)!r} is not an image and a label (benign, malignant, 0 or 1)"
                    damaged.append(Damaged(f"{tables[0]}, line {line}", reason))
        return rows, damaged

    def split_groups(self, records: Sequence[Record], groups: Sequence[str]) -> list[str]:
        return carve(groups, self.SEED)
