"""TFDS builder of Kermany's paediatric pneumonia, from the official archive in `manual_dir` (see README.md)."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive, find_archive
from tfds_builders.common.damage import Damaged
from tfds_builders.common.image_builder import ImageBuilder, ImageConfig, sizes
from tfds_builders.common.parts import carve, torn_groups, warn_of_torn_groups
from tfds_builders.common.records import Place, Record, Table, required
from tfds_builders.common.reporting import compared
from tfds_builders.common.variants import variants

from . import names

ARCHIVE = "chest_xray"
SUFFIXES = (".jpeg", ".jpg")
# Kaggle's 16 images of val are counted with train.
PUBLISHED = {
    "images": 5856, "normal": 1583, "bacterial": 2780, "viral": 1493, "training, NORMAL": 1349,
    "training, PNEUMONIA": 3883, "test, NORMAL": 234, "test, PNEUMONIA": 390,
}  # fmt: skip
ADVICE = "A model may know a test patient: the configs without 'published' are split by patient."


@dataclasses.dataclass(eq=False)
class KermanyConfig(ImageConfig):
    """Size and encoding of the stored images, and the split.

    Attributes:
      published: the test folder is the test split, as published, even where it shares patients with the others.
    """

    published: bool = False


def make_configs() -> list[KermanyConfig]:
    configs = sizes(KermanyConfig)
    text = "the published test images, whose patients may be in train too"
    return configs + variants(configs, "{}_published", text, published=True)


class Builder(ImageBuilder):
    """Kermany's 5,856 chest X-rays of children: normal, bacterial or viral pneumonia."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    CHANNELS, SEED = 1, 2018
    HOMEPAGE, LICENSE = "https://data.mendeley.com/datasets/rscbjbr9sj/3", "CC BY 4.0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put the archive of {HOMEPAGE}, or of Kaggle's paultimothymooney/chest-xray-pneumonia, into manual_dir as "
        f"{ARCHIVE}.zip, or the folder {ARCHIVE}/ it unpacks to, with train/ and test/ in it."
    )

    def more_features(self) -> dict[str, Any]:
        return {
            "label": tfds.features.ClassLabel(names=names.CLASSES),
            "folder": tfds.features.Text(doc="train, val or test: where the release has it"),
        }

    def split_groups(self, records: Sequence[Record], groups: Sequence[str]) -> list[str]:
        if self.builder_config.published:
            return carve(groups, self.SEED)
        return super().split_groups(records, groups)

    def find_table(self, folder: Path) -> Table:
        advice = f"{self.name}/{self.builder_config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        inputs = required(folder, {f"{ARCHIVE}.zip": find_archive(folder, ARCHIVE)}, advice)
        archive = Archive(inputs[f"{ARCHIVE}.zip"], SUFFIXES, by_path=True)
        listing = names.read_names(archive.members)
        return Table(
            records=[self._record(file) for file in listing.files],
            archives={ARCHIVE: archive},
            inputs={ARCHIVE: archive.path},
            classes=names.CLASSES,
            notes=self._notes(listing),
            damaged=[Damaged(f"{archive.path}: {item.path}", item.reason) for item in listing.damaged],
        )

    def _record(self, file: names.File) -> Record:
        test = self.builder_config.published and file.folder == "test"
        return Record(
            image_id=file.image_id,
            group=file.patient_id,
            image=Place(ARCHIVE, file.path),
            features={"label": file.label, "folder": file.folder},
            kinds=(file.label,),
            split="test" if test else "",
        )

    def _notes(self, listing: names.Listing) -> dict[str, Any]:
        """Counts; and a warning, if the published split is used and tears patients apart."""
        files, patients = listing.files, [file.patient_id for file in listing.files]
        torn = torn_groups(patients, [part_of(file) for file in files])
        if self.builder_config.published:
            warn_of_torn_groups(f"{self.name}/{self.builder_config.name}", torn, ADVICE)
        return {
            "patients": len(set(patients)),
            "patients_in_several_folders": torn_groups(patients, [file.folder for file in files]),
            "patients_torn_by_the_published_split": torn,
            "folders": dict(Counter(file.folder for file in files)),
            **compared(count(files), PUBLISHED),
            "left_out": {"second copies": listing.copies, "other images (OCT)": listing.others},
        }


def part_of(file: names.File) -> str:
    return "test" if file.folder == "test" else "training"


def count(files: Sequence[names.File]) -> dict[str, int]:
    kinds = ("NORMAL" if file.label == "normal" else "PNEUMONIA" for file in files)
    folders = Counter(f"{part_of(file)}, {kind}" for file, kind in zip(files, kinds, strict=True))
    return {"images": len(files), **Counter(file.label for file in files), **folders}
