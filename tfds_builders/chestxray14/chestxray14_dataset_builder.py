"""TFDS builder of NIH ChestX-ray14, from the official archives in `manual_dir` (see README.md).

The test set is the official one; validation is drawn from the official train_val list by patient.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders.common.archives import Archive, find_archive
from tfds_builders.common.image_builder import ImageBuilder, ImageConfig, png_sizes
from tfds_builders.common.parts import carve
from tfds_builders.common.radiographs import boxes_feature, images_absent, label_array, labels_feature
from tfds_builders.common.records import Place, Record, Table, required
from tfds_builders.common.reporting import compared
from tfds_builders.common.variants import variants

from . import official

SUFFIXES = (".png",)
ALL_IMAGES = "images"
ADVICE = "Complete the archives, or take the config 64_part, 224_part or full_part, which leaves such images out"
ARCHIVES = {f"images_{number:03d}": f"images_{number:02d}" for number in range(1, official.ARCHIVES + 1)}


@dataclasses.dataclass(eq=False)
class ChestConfig(ImageConfig):
    """Size and encoding of the stored images, and how many of the archives must be there.

    Attributes:
      part: take the archives that are there; False wants all twelve.
    """

    part: bool = False


def make_configs() -> list[ChestConfig]:
    whole = png_sizes("as published, byte for byte", ChestConfig)
    return whole + variants(whole, "{}_part", "of the archives that are there", part=True)


class Builder(ImageBuilder):
    """NIH ChestX-ray14, 112,120 frontal radiographs of 30,805 patients with 14 text-mined findings."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {
        "1.0.0": "First version.",
        "2.0.0": "An EXIF orientation is applied; outliers of 16 bits are clipped before stretching.",
    }
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    GROUP, CHANNELS, SEED = "patient_id", 1, 14
    HOMEPAGE = official.HOMEPAGE
    LICENSE = "no restriction of use; NIH asks to be named as the source"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put these files of {official.HOMEPAGE} into manual_dir: images_001.tar.gz to images_012.tar.gz (or .zip, or "
        f"the folders they unpack to, or all images in one folder images), {' or '.join(official.TABLES)}, "
        f"{official.TRAIN_VAL}, {official.TEST} and, for boxes, {official.BOXES}. The configs 64_part, 224_part and "
        "full_part take those of the twelve archives that are there."
    )

    def metadata(self) -> dict[str, Any]:
        return {"label_names": list(official.LABELS)}

    def more_features(self) -> dict[str, Any]:
        return {
            "labels": labels_feature(official.LABELS),
            "view": tfds.features.Text(doc="PA, AP or unknown"),
            "age": tfds.features.Scalar(np.float32, doc="years; NaN where unknown or impossible"),
            "sex": tfds.features.Text(doc="female, male or unknown"),
            "follow_up": tfds.features.Scalar(np.int32, doc="number of the patient's image, from 0"),
            "boxes": boxes_feature(finding=tfds.features.ClassLabel(names=official.LABELS)),
        }

    def split_groups(self, records: Sequence[Record], groups: Sequence[str]) -> list[str]:
        del records
        return carve(groups, self.SEED)

    def find_table(self, folder: Path) -> Table:
        inputs = self._find_inputs(folder)
        lists = official.read_lists(inputs[official.TRAIN_VAL], inputs[official.TEST])
        table = next(inputs[name] for name in official.TABLES if name in inputs)
        rows, damaged, odd_ages = official.read_entries(table, lists)
        official.check_patients(rows, lists)
        boxes, bad_boxes = official.read_boxes(inputs[official.BOXES]) if official.BOXES in inputs else ({}, [])
        counts, published = official.count(rows, lists), official.PUBLISHED
        if official.BOXES in inputs:
            counts |= {"boxes": sum(map(len, boxes.values())), "images with boxes": len(boxes)}
            published = published | official.PUBLISHED_BOXES
        archives = open_archives(inputs)
        homes = {name: key for key, archive in archives.items() for name in archive.members}
        there = [row for row in rows if row.image_id in homes]
        if len(there) < len(rows) and not self.builder_config.part:
            absent = [row.image_id for row in rows if row.image_id not in homes]
            raise images_absent(absent, len(rows), folder, ADVICE)
        return Table(
            records=[make_record(row, homes[row.image_id], lists, boxes) for row in there],
            archives=archives,
            inputs=inputs,
            classes=(*official.LABELS, official.NO_FINDING),
            notes={
                **compared(counts, published),
                "images_in_missing_archives": len(rows) - len(there),
                "missing_archives": [] if ALL_IMAGES in archives else sorted(ARCHIVES.keys() - archives.keys()),
                "images_not_in_the_table": len(homes.keys() - {row.image_id for row in rows}),
                "listed_images_not_in_the_table": len(lists.keys() - {row.image_id for row in rows}),
                "impossible_ages": odd_ages,
            },
            damaged=damaged + bad_boxes,
        )

    def _find_inputs(self, folder: Path) -> dict[str, Path]:
        """Path of each input by its official name; FileNotFoundError names all that are missing."""
        entries = next((name for name in official.TABLES if (folder / name).is_file()), official.TABLES[0])
        found = self._find_archives(folder)
        found |= {name: folder / name for name in (entries, official.TRAIN_VAL, official.TEST)}
        if (folder / official.BOXES).is_file():
            found[official.BOXES] = folder / official.BOXES
        return required(folder, found, f"{self.name}/{self.builder_config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")

    def _find_archives(self, folder: Path) -> dict[str, Path | None]:
        """The twelve archives if all are there, else the one folder, else those of the twelve that are there; what is
        wanted and missing is None.
        """
        found = {key: find_archive(folder, key) or find_archive(folder, short) for key, short in ARCHIVES.items()}
        together = find_archive(folder, ALL_IMAGES)
        there = {key: path for key, path in found.items() if path}
        if together and len(there) < len(found):
            return {ALL_IMAGES: together}
        if there and self.builder_config.part:
            return there
        return {key if path else f"{key}.tar.gz": path for key, path in found.items()}


def open_archives(inputs: Mapping[str, Path]) -> dict[str, Archive]:
    """Raises ValueError for an image that is in two of them."""
    archives: dict[str, Archive] = {}
    # The listing of a tar file is spread over the whole of it.
    for key in tqdm([key for key in inputs if key in (ALL_IMAGES, *ARCHIVES)], desc="listing archives"):
        archive = Archive(inputs[key], SUFFIXES)
        for other in archives.values():
            twice = archive.members.keys() & other.members.keys()
            if twice:
                raise ValueError(
                    f"{min(twice)} is in {other.path} and in {archive.path}: use the archives as published"
                )
        archives[key] = archive
    return archives


def make_record(
    row: official.Row, archive: str, lists: Mapping[str, str], boxes: Mapping[str, Sequence[official.Box]]
) -> Record:
    marked = boxes.get(row.image_id, ())
    return Record(
        image_id=row.image_id,
        group=row.patient_id,
        image=Place(archive, row.image_id),
        features={
            "labels": label_array(tuple(float(name in row.findings) for name in official.LABELS)),
            "view": row.view,
            "age": row.age,
            "sex": row.sex,
            "follow_up": row.follow_up,
            "boxes": [{"box": box.box, "finding": box.finding} for box in marked],
        },
        kinds=row.findings or (official.NO_FINDING,),
        split="test" if lists[row.image_id] == official.TEST else "",
    )
