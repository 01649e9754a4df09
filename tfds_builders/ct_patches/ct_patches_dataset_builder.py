"""TFDS builder of ct_patches: unlabelled cubes of any CT series, for pretraining. See README.md."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.common.archives import is_resource_fork
from tfds_builders.common.damage import Damaged
from tfds_builders.common.locations import Location, walk
from tfds_builders.common.metaimage import SUFFIXES
from tfds_builders.common.series import SeriesFound, find_series
from tfds_builders.common.volume_builder import PatchConfig, Unit, VolumeBuilder, Work

from .cutting import Cutter, damaged


@dataclasses.dataclass(eq=False)
class Config(PatchConfig):
    """Attributes: patches wanted from each series."""

    patches: int = 16


class Builder(VolumeBuilder):
    """Unlabelled 3-D patches of the CT series in a folder."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
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
        units = dicom_units(found)
        names = {unit.name for unit in units}
        wrong = [without_name(item, number) for number, item in enumerate(found.damaged, 1)]
        for unit in volume_units(folder):
            if unit.name in names:
                wrong.append(damaged(unit, f"a second series of the name {unit.name}: keep one"))
            else:
                names.add(unit.name)
                units.append(unit)
        if not units and not wrong:
            raise FileNotFoundError(f"{folder} holds no CT series. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        notes = {
            "series_found": len(units),
            "patients_found": len({unit.group for unit in units}),
            "dicom_files": sum(map(len, found.values())),
            "files_passed_over": dict(found.skipped),
        }
        config = self.builder_config
        cutter = Cutter(config.size, config.spacing, config.patches, self.SEED)
        return Work(units, cutter, notes=notes, damaged=wrong, inputs=len(wrong))


def without_name(item: Damaged, number: int) -> Damaged:
    """A file that cannot be told by its series' UID."""
    name = f"file {number} of those without a readable header"
    return Damaged(item.path, item.reason, (name, item.reason.replace(item.path, name)))


def dicom_units(found: SeriesFound) -> list[Unit]:
    return [training(uid, locations[0], group_of(found, uid), locations) for uid, locations in sorted(found.items())]


def group_of(found: SeriesFound, uid: str) -> str:
    """The patient's id if the file says that it is no hospital's; else what is drawn from it, which keeps a patient's
    series together as well; the series' own UID where there is none.
    """
    patient = found.patients[uid]
    if not patient:
        return uid
    return patient if uid in found.deidentified else hashlib.sha256(f"patient {patient}".encode()).hexdigest()[:16]


def volume_units(folder: Path) -> list[Unit]:
    """One for each MetaImage volume; the name of its file is its UID, and its patient, since it has no other."""
    volumes = (location for location in walk(folder) if location.name.suffix.lower() in SUFFIXES)
    return [volume_unit(location) for location in volumes if not is_resource_fork(location.name)]


def volume_unit(location: Location) -> Unit:
    return training(location.name.stem, location, location.name.stem, location)


def training(name: str, place: Location, group: str, source: Any) -> Unit:
    """Without labels there is nothing to validate or test on."""
    return Unit(name, str(place), group, source, split="train")
