"""TFDS builder of DRIVE, vessels of the retina, from the official archives in `manual_dir` (see README.md).

There is no table: the names of the files say which part an image is of and which manual segmentation is its own.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive, find_archive, find_part
from tfds_builders.common.image_builder import ImageBuilder, png_sizes, with_masks
from tfds_builders.common.parts import carve
from tfds_builders.common.records import Place, Record, Table, required
from tfds_builders.common.reporting import compared

# All parts in one, under either name.
WHOLES = ("DRIVE", "datasets")
# Each part and its split; '' for the one that validation is carved from.
PARTS = {"training": "", "test": "test"}
SUFFIXES = (".tif", ".gif")
IMAGE = re.compile(r"(?P<number>\d+)_(?P<part>training|test)")
IMAGES_OF_A_PART = 20
NO_TEST_MASKS = (
    "no test image has a manual segmentation, as in the release of grand-challenge.org: nothing can be measured on the "
    "test split"
)


class Builder(ImageBuilder):
    """DRIVE, 40 fundus photographs with the vessels of the retina segmented by hand."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = with_masks(png_sizes("565x584 as published, PNG"))
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    # Many seeds draw none of the 20 training images for validation, or four; this one draws three.
    GROUP, SEED = "group", 0
    HOMEPAGE = "https://drive.grand-challenge.org"
    LICENSE = "for research and education, no redistribution (the first page of the database)"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put training.zip and test.zip of {HOMEPAGE}, or the folders training/ and test/ that they unpack to, into "
        "manual_dir; or all of it as DRIVE.zip, datasets.zip or the folder of either. A zip file inside a zip file is "
        "not read: unpack the outer one."
    )

    def more_features(self) -> dict[str, Any]:
        return {}

    def split_groups(self, records: Sequence[Record], groups: Sequence[str]) -> list[str]:
        return carve(groups, self.SEED)

    def find_table(self, folder: Path) -> Table:
        advice = f"{self.name}/{self.builder_config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        whole = next(filter(None, (find_archive(folder, name) for name in WHOLES)), None)
        inputs = {part: find_part(folder, whole, part) for part in PARTS}
        required(folder, {f"{part}.zip": path for part, path in inputs.items()}, advice)
        archives = {part: Archive(path, SUFFIXES) for part, path in inputs.items()}
        parts = {part: find_records(part, archives[part]) for part in PARTS}
        for part, records in parts.items():
            if not records:
                raise FileNotFoundError(f"{archives[part].path} holds no image NN_{part}.tif. {advice}")
        return Table(
            records=[record for records in parts.values() for record in records],
            archives=archives,
            inputs=inputs,
            notes={**self._compare(parts), "images_not_used": find_unused(archives)},
        )

    def _compare(self, parts: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
        """Images, and masks where they are stored, beside the published ones."""
        images = {part: len(records) for part, records in parts.items()}
        if not self.builder_config.masks:
            return compared(images, dict.fromkeys(images, IMAGES_OF_A_PART))
        masks = {part: sum(record.mask is not None for record in records) for part, records in parts.items()}
        counts = images | {f"{part}, masks": number for part, number in masks.items()}
        warnings = [] if masks["test"] else [NO_TEST_MASKS]
        return {**compared(counts, dict.fromkeys(counts, IMAGES_OF_A_PART)), "warnings": warnings}


def find_records(part: str, archive: Archive) -> list[Record]:
    """The images of a part, in the order of their numbers; the archive may hold the other part too."""
    named = (IMAGE.fullmatch(name) for name in sorted(archive.members))
    return [make_record(found, archive) for found in named if found and found["part"] == part]


def make_record(name: re.Match[str], archive: Archive) -> Record:
    image, part, mask = name[0], name["part"], f"{name['number']}_manual1"
    return Record(
        image_id=image,
        group=image,
        image=Place(part, image),
        split=PARTS[part],
        mask=Place(part, mask) if mask in archive else None,
    )


def find_unused(archives: Mapping[str, Archive]) -> list[str]:
    """Images whose names are not of the published form."""
    images = {
        name
        for archive in archives.values()
        for name, member in archive.members.items()
        if member.lower().endswith(SUFFIXES[0])
    }
    return sorted(name for name in images if not IMAGE.fullmatch(name))
