"""TFDS builder of the COVID-19 image data collection (ieee8023), from files in `manual_dir` (see README.md)."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive, find_archive
from tfds_builders.common.image_builder import ImageBuilder, ImageConfig, sizes, with_masks
from tfds_builders.common.parts import cross_counts
from tfds_builders.common.records import Place, Record, Table, required
from tfds_builders.common.variants import variants

from .findings import CLASSES, label_of
from .metadata import ABSENT, TABLE, Listing, Row, read_rows, shared_stems

IMAGES, MASKS = "images", "lung_masks"
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(eq=False)
class CovidConfig(ImageConfig):
    """Size and encoding of the stored images, and what counts as a class.

    Attributes:
      policy: key of `findings.CLASSES`.
    """

    policy: str = "covid"


def make_configs() -> list[CovidConfig]:
    configs = []
    for policy, classes in CLASSES.items():
        configs += variants(sizes(CovidConfig), f"{{}}_{policy}", " / ".join(classes), policy=policy)
    return with_masks(configs)


class Builder(ImageBuilder):
    """The frontal radiographs of the COVID-19 image data collection that have a finding."""

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {
        "1.0.0": "First version.",
        "2.0.0": "An EXIF orientation is applied; outliers of 16 bits are clipped before stretching.",
    }
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "224_covid"
    CHANNELS = 1
    # Some classes have a dozen images. Of the seeds 0 to 999 this gives them the shares closest to 70, 10, 20 % on the
    # images of August 2020; it was chosen by the counts alone.
    SEED = 251
    HOMEPAGE = "https://github.com/ieee8023/covid-chestxray-dataset"
    LICENSE = "of each image its own, see the feature license; the metadata CC BY-NC-SA 4.0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put {TABLE} and {IMAGES}/ (or {IMAGES}.zip) of {HOMEPAGE} into manual_dir; for the configs with masks also "
        f"{MASKS}/ (or {MASKS}.zip), PNG files named as their images."
    )

    def more_features(self) -> dict[str, Any]:
        return {
            "label": tfds.features.ClassLabel(names=CLASSES[self.builder_config.policy]),
            "finding": tfds.features.Text(doc="path in the hierarchy of findings"),
            "view": tfds.features.Text(doc="PA, AP, AP Supine or AP Erect"),
            "license": tfds.features.Text(doc="as the table has it, or unknown"),
        }

    def find_table(self, folder: Path) -> Table:
        config = self.builder_config
        found = {TABLE: folder / TABLE, IMAGES: find_archive(folder, IMAGES)}
        found |= {MASKS: find_archive(folder, MASKS)} if config.masks else {}
        inputs = required(folder, found, f"{self.name}/{config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        archives = {IMAGES: Archive(inputs[IMAGES], SUFFIXES, by_path=True)}
        archives |= {MASKS: Archive(inputs[MASKS], (".png",), by_path=True)} if config.masks else {}
        listing = read_rows(inputs[TABLE], archives[IMAGES].members)
        masks = find_masks(archives[MASKS], listing.listed) if config.masks else {}
        records = [self._record(row, masks) for row in listing.rows]
        notes = self._notes(listing, records, archives[IMAGES])
        if config.masks:
            notes["masks_not_used"] = len(archives[MASKS].members) - sum(record.mask is not None for record in records)
        return Table(records, archives, inputs, CLASSES[config.policy], notes, listing.damaged)

    def _record(self, row: Row, masks: Mapping[str, str]) -> Record:
        label = label_of(row.finding, self.builder_config.policy)
        stem = PurePosixPath(row.filename).stem
        return Record(
            image_id=row.filename,
            group=row.patient_id,
            image=Place(IMAGES, row.filename),
            features={"label": label, "finding": row.finding, "view": row.view, "license": row.license},
            kinds=(label,),
            mask=Place(MASKS, masks[stem]) if stem in masks else None,
        )

    def _notes(self, listing: Listing, records: Sequence[Record], images: Archive) -> dict[str, Any]:
        suffixes = [PurePosixPath(record.image_id).suffix.lower() for record in records]
        labels = [record.kinds[0] for record in records]
        return {
            "rows_of_the_table": len(listing.listed),
            "left_out": {reason: len(names) for reason, names in listing.left_out.items()},
            "frontal_images": len(listing.frontal),
            "frontal_patients": len(set(listing.frontal.values())),
            "frontal_images_not_in_the_archive": listing.left_out.get(ABSENT, []),
            "images_not_in_the_table": len(images.members.keys() - listing.listed),
            "findings": dict(Counter(row.finding for row in listing.rows)),
            "label_by_view": cross_counts(zip(labels, (row.view for row in listing.rows), strict=True)),
            "label_by_file_type": cross_counts(zip(labels, suffixes, strict=True)),
        }


def find_masks(masks: Archive, images: Iterable[str]) -> dict[str, str]:
    """The mask of each image that has one, by the image's stem; none where two images share it."""
    shared = shared_stems(images)
    names = {PurePosixPath(name).stem: name for name in masks.members}
    return {stem: name for stem, name in names.items() if stem not in shared}
