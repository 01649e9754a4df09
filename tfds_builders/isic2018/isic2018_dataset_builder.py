"""TFDS builder of ISIC 2018, tasks 3 and 1, from the official archives in `manual_dir` (see README.md).

Task 3 (diagnosis) and task 1 (segmentation) have different images, so they are different configs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.image_builder import ImageConfig, sizes
from tfds_builders.common.isic import IsicBuilder, Part, Row, one_hot_label
from tfds_builders.common.tables import read_table
from tfds_builders.common.variants import variants

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
UNKNOWN = "unknown"


def diagnosis(name: str, split: str, counts: tuple[int, ...], *more: str, later: bool = False) -> Part:
    stem = f"ISIC2018_Task3_{name.capitalize()}"
    published = {"images": sum(counts), **dict(zip(CLASSES, counts, strict=True))}
    tables = (f"{stem}_GroundTruth", *more)
    return Part(name, split, f"{stem}_Input", tables, published=published, tables_optional=later)


def segmentation(name: str, split: str, images: int) -> Part:
    masks = (f"ISIC2018_Task1_{name.capitalize()}_GroundTruth",)
    return Part(name, split, f"ISIC2018_Task1-2_{name.capitalize()}_Input", (), masks, {"images": images})


def make_configs() -> list[ImageConfig]:
    plain = sizes()
    return plain + variants(plain, "segmentation_{}", "images of task 1, masks, no labels", masks=True)


class Builder(IsicBuilder):
    """ISIC 2018: 11,720 dermoscopic images of seven diagnoses; 3,694 others with masks."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    SEED = 2018
    HOMEPAGE = "https://challenge.isic-archive.com/data/#2018"
    LICENSE = "task 3: CC BY-NC 4.0; task 1: CC0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put these files of {HOMEPAGE} into manual_dir: ISIC2018_Task3_Training_Input.zip, _Validation_Input.zip and "
        "_Test_Input.zip (or the folders they unpack to), ISIC2018_Task3_Training_GroundTruth.zip, "
        "_Validation_GroundTruth.zip and, if at hand, _Test_GroundTruth.zip (or the tables in them), "
        "ISIC2018_Task3_Training_LesionGroupings.csv; for the segmentation configs, instead, "
        "ISIC2018_Task1-2_Training_Input.zip and ISIC2018_Task1_Training_GroundTruth.zip, and the same of Validation "
        "and Test."
    )
    CLASSES = CLASSES
    PARTS = (
        diagnosis(
            "training", "train", (1113, 6705, 514, 327, 1099, 115, 142), "ISIC2018_Task3_Training_LesionGroupings"
        ),
        diagnosis("validation", "validation", (21, 123, 15, 8, 22, 1, 3)),
        diagnosis("test", "test", (171, 909, 93, 43, 217, 44, 35), later=True),
    )
    SEGMENTATION_PARTS = (
        segmentation("training", "train", 2594),
        segmentation("validation", "validation", 100),
        segmentation("test", "test", 1000),
    )

    def parts(self) -> tuple[Part, ...]:
        return self.SEGMENTATION_PARTS if self.builder_config.masks else self.PARTS

    def more_features(self) -> dict[str, Any]:
        confirmation = tfds.features.Text(doc=f"how the diagnosis was confirmed, or {UNKNOWN}")
        return {**super().more_features(), "confirmation": confirmation}

    def unlabelled_features(self) -> dict[str, Any]:
        return {"confirmation": UNKNOWN}

    def read_rows(self, tables: Sequence[Path]) -> tuple[list[Row], list[Damaged]]:
        """Only the training part has a second table, that of the lesions."""
        lesions = [read_table(path, "image", ("lesion_id", "diagnosis_confirm_type")) for path in tables[1:]]
        rows, damaged = [], []
        for image_id, values in read_table(tables[0], "image", CLASSES).items():
            try:
                label = one_hot_label(values, image_id, tables[0])
                rows.append(make_row(image_id, label, lesions[0], tables[1]) if lesions else lone_row(image_id, label))
            except DamagedInput as error:
                damaged.append(Damaged(f"{tables[0]}: {image_id}", str(error)))
        return rows, damaged


def make_row(image_id: str, label: str, lesions: Mapping[str, Mapping[str, str]], path: Path) -> Row:
    if image_id not in lesions:
        raise DamagedInput(f"not in {path}: use both tables of one release")
    details = lesions[image_id]
    confirmation = details["diagnosis_confirm_type"] or UNKNOWN
    return Row(image_id, details["lesion_id"] or image_id, label, {"confirmation": confirmation})


def lone_row(image_id: str, label: str) -> Row:
    return Row(image_id, image_id, label, {"confirmation": UNKNOWN})
