"""TFDS builder of APTOS 2019 Blindness Detection, from the official files in `manual_dir` (see README.md).

The competition does not say which images are of one patient: only identical images are known to belong together.
"""

import dataclasses
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive, find_archive, find_part
from tfds_builders.common.damage import Damaged
from tfds_builders.common.image_builder import ImageBuilder, ImageConfig, png_sizes
from tfds_builders.common.parts import kin_of_measured
from tfds_builders.common.records import Place, Record, Table, required
from tfds_builders.common.reporting import compared
from tfds_builders.common.tables import TablePath, locate_table, read_table
from tfds_builders.common.variants import variants

COMPETITION = "aptos2019-blindness-detection"
TRAIN, TEST = "train_images", "test_images"
LABELS, TEST_LIST = "train.csv", "test.csv"
SUFFIXES = (".png",)
# In the order of the numbers in the column diagnosis.
CLASSES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")
UNLABELLED = -1
PUBLISHED = {"images": 3662, **dict(zip(CLASSES, (1805, 370, 999, 193, 295), strict=True))}
PUBLISHED_TEST = 1928


@dataclasses.dataclass(eq=False)
class AptosConfig(ImageConfig):
    """Size and encoding of the stored images, and whether those of the competition's test set are stored too.

    Attributes:
      unlabelled: also store the test set, which has no public labels, in the split train.
    """

    unlabelled: bool = False


def make_configs() -> list[AptosConfig]:
    labelled = png_sizes("as published, byte for byte", AptosConfig)
    return labelled + variants(labelled, "{}_unlabelled", "also the unlabelled test set, in train", unlabelled=True)


class Builder(ImageBuilder):
    """APTOS 2019 Blindness Detection, 3,662 fundus photographs in five grades of diabetic retinopathy."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    GROUP, SEED = "group", 2019
    HOMEPAGE, LICENSE = f"https://www.kaggle.com/c/{COMPETITION}", "the rules of the competition"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put {COMPETITION}.zip ({HOMEPAGE}, accept its rules) into manual_dir, or, of it, {TRAIN}.zip or its folder "
        f"and {LABELS}; for the configs with _unlabelled also {TEST}.zip or its folder and {TEST_LIST}."
    )

    def more_features(self) -> dict[str, Any]:
        return {"label": tfds.features.ClassLabel(names=CLASSES, doc="grade of diabetic retinopathy; -1: not known")}

    def find_table(self, folder: Path) -> Table:
        images, tables = self._find_inputs(folder)
        records, damaged = read_labels(tables[LABELS])
        counts, published = count(records), PUBLISHED
        if self.builder_config.unlabelled:
            others = [make_record(TEST, name) for name in read_table(tables[TEST_LIST], "id_code", ())]
            records = records + others
            counts, published = counts | {"unlabelled": len(others)}, published | {"unlabelled": PUBLISHED_TEST}
        return Table(
            records=records,
            archives={key: Archive(path, SUFFIXES) for key, path in images.items()},
            inputs=images | {name: path for name, path in tables.items() if isinstance(path, Path)},
            classes=CLASSES,
            notes=compared(counts, published),
            damaged=damaged,
        )

    def left_out(
        self, records: Sequence[Record], groups: Sequence[str], digests: Sequence[Hashable]
    ) -> tuple[set[int], dict[str, Any]]:
        """Unlabelled images that are identical to a labelled one in validation or test."""
        del digests
        if not self.builder_config.unlabelled:
            return set(), {}
        splits = [record.split for record in records]
        out = kin_of_measured(splits, groups, self.split_groups(records, groups))
        left_out = sorted(records[row].image_id for row in out)
        return out, {"unlabelled_left_out_as_copies_of_validation_or_test": left_out}

    def _find_inputs(self, folder: Path) -> tuple[dict[str, Path], dict[str, TablePath]]:
        """Archives and tables by their official names; FileNotFoundError names all that are missing."""
        whole = find_archive(folder, COMPETITION)
        keys, names = [TRAIN], [LABELS]
        if self.builder_config.unlabelled:
            keys, names = [TRAIN, TEST], [LABELS, TEST_LIST]
        images = {key: find_part(folder, whole, key) for key in keys}
        tables = {name: locate_table(folder, whole, name) for name in names}
        advice = f"{self.name}/{self.builder_config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        missing = {name: None for name, path in tables.items() if path is None}
        required(folder, {**{f"{key}.zip": path for key, path in images.items()}, **missing}, advice)
        return images, tables


def read_labels(path: TablePath) -> tuple[list[Record], list[Damaged]]:
    """The labelled images, and the rows whose diagnosis is none. ValueError for a table that is not as published."""
    records, damaged = [], []
    for name, values in read_table(path, "id_code", ("diagnosis",)).items():
        diagnosis = values["diagnosis"]
        if diagnosis in map(str, range(len(CLASSES))):
            records.append(make_record(TRAIN, name, CLASSES[int(diagnosis)]))
        else:
            reason = f"diagnosis is {diagnosis!r}: a whole number from 0 to {len(CLASSES) - 1} is wanted"
            damaged.append(Damaged(f"{path}: {name}", reason))
    return records, damaged


def make_record(part: str, name: str, label: str = "") -> Record:
    return Record(
        image_id=name,
        group=name,
        image=Place(part, name),
        features={"label": label or UNLABELLED},
        kinds=(label,) if label else (),
        split="" if label else "train",
    )


def count(records: Sequence[Record]) -> Mapping[str, int]:
    """What is published of the labelled images."""
    kinds = Counter(kind for record in records for kind in record.kinds)
    return {"images": len(records), **{name: kinds[name] for name in CLASSES}}
