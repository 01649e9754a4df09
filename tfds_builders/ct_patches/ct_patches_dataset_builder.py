"""TFDS builder of ct_patches: unlabelled cubes of any CT series, for pretraining. See README.md."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common.archives import is_resource_fork
from tfds_builders.common.damage import Damaged
from tfds_builders.common.locations import walk
from tfds_builders.common.metaimage import SUFFIXES
from tfds_builders.common.series import SeriesFound, find_series
from tfds_builders.common.volume_builder import PatchConfig, Unit, VolumeBuilder, Work

from .cutting import Cutter, Source, path_of


@dataclasses.dataclass(eq=False)
class Config(PatchConfig):
    """Attributes: patches wanted from each series."""

    patches: int = 16


class Builder(VolumeBuilder):
    """Unlabelled 3-D patches of the CT series in a folder."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "Spacing by least squares; volumes that are no Hounsfield units are left out; padding beyond the "
        "stored bits is padding; one acquisition of several is kept whole.",
        "1.0.0": "First version.",
    }
    BUILDER_CONFIGS = [
        Config(name="64", size=64, spacing=1.0, description="64x64x64 at 1 mm, 16 of each series"),
        Config(name="32", size=32, spacing=1.0, description="32x32x32 at 1 mm, 16 of each series, for CPUs"),
        Config(name="32_2mm", size=32, spacing=2.0, description="the cubes of 64 as 32x32x32 at 2 mm, for CPUs"),
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "64"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir is the folder of CT series: DICOM files (in folders and under names as they come), zip files of "
        "them, or MetaImage volumes (.mhd with .raw, .mha)."
    )

    def more_features(self) -> dict[str, Any]:
        return {}

    def find_work(self, folder: Path) -> Work:
        found = find_series(folder)
        units = find_units(found, folder)
        wrong = [without_name(item, number) for number, item in enumerate(found.damaged, 1)]
        if not units and not wrong:
            said = " ".join(filter(None, (found.describe_skipped(), self.MANUAL_DOWNLOAD_INSTRUCTIONS)))
            raise FileNotFoundError(f"{folder} holds no CT series. {said}")
        notes = {
            "series_found": len(units),
            "patients_found": len({unit.group for unit in units}),
            "dicom_files": sum(map(len, found.values())),
            "files_passed_over": dict(found.skipped),
        }
        config = self.builder_config
        cutter = Cutter(config.size, config.spacing, config.patches, self.SEED)
        more = sum(len(unit.source) - 1 for unit in units)
        return Work(units, cutter, notes=notes, damaged=wrong, inputs=len(wrong) + more)


def without_name(item: Damaged, number: int) -> Damaged:
    """A file that cannot be told by its series' UID."""
    name = f"file {number} of those without a readable header"
    return Damaged(item.path, item.reason, (name, item.reason.replace(item.path, name)))


def find_units(found: SeriesFound, folder: Path) -> list[Unit]:
    """One for each name: the UID of a DICOM series, or the name of a MetaImage file, which is its patient too, since it
    has no other. The source of a unit is all that has its name, the DICOM series first.
    """
    sources: dict[str, list[Source]] = {uid: [files] for uid, files in sorted(found.items())}
    for location in walk(folder):
        if location.name.suffix.lower() in SUFFIXES and not is_resource_fork(location.name):
            sources.setdefault(location.name.stem, []).append(location)
    # Without labels there is nothing to validate or test on.
    return [
        Unit(name, path_of(several[0]), group_of(found, name), several, split="train")
        for name, several in sources.items()
    ]


def group_of(found: SeriesFound, uid: str) -> str:
    """The patient's id if the file says that it is no hospital's; else what is drawn from it, which keeps a patient's
    series together as well; the series' own UID, or the name of a MetaImage file, where there is none.
    """
    patient = found.patients.get(uid)
    if not patient:
        return uid
    return patient if uid in found.deidentified else hashlib.sha256(f"patient {patient}".encode()).hexdigest()[:16]
