"""TFDS builder of LUNA16: nodules and non-nodules of 888 CT scans in the official ten folds. See README.md."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.damage import Damaged, stored
from tfds_builders.common.locations import Location
from tfds_builders.common.reporting import compared
from tfds_builders.common.tables import read_patients
from tfds_builders.common.variants import variants
from tfds_builders.common.volume_builder import PatchConfig, Unit, VolumeBuilder, Work

from . import official
from .cutting import NODULE, NON_NODULE, Cutter, Scan, choose

CLASSES = (NON_NODULE, NODULE)
# Which split keeps a patient whose scans lie in several: the measured ones stay as published.
PRECEDENCE = ("test", "validation", "train")


@dataclasses.dataclass(eq=False)
class Config(PatchConfig):
    """Attributes: the folds that are test and validation; non-nodules wanted from each scan; whether to take the
    subsets that are there, instead of wanting all ten.
    """

    test_fold: int = 9
    validation_fold: int = 8
    non_nodules: int = 4
    part: bool = False


def make_configs() -> list[Config]:
    """`64` and `32` test on fold 9 and validate on fold 8; `64_fold<k>` test on fold k, validate on the one before.
    Each also with `_part`.
    """
    configs = []
    for size, spacing in ((64, 1.0), (32, 1.0)):
        shown = f"{size}x{size}x{size} at {spacing:g} mm"
        configs.append(Config(name=f"{size}", size=size, spacing=spacing, description=f"{shown}; fold 9 is test"))
        for fold in range(official.FOLDS):
            before = (fold - 1) % official.FOLDS
            configs.append(
                Config(
                    name=f"{size}_fold{fold}", size=size, spacing=spacing, test_fold=fold, validation_fold=before,
                    description=f"{shown}; fold {fold} is test, fold {before} validation",
                )
            )  # fmt: skip
    return configs + variants(configs, "{}_part", "of the subsets that are there", part=True)


class Builder(VolumeBuilder):
    """LUNA16, patches about nodules and about what a detector took for nodules."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "64"
    SEED = 2016
    HOMEPAGE, LICENSE = official.HOMEPAGE, "CC BY 4.0; the scans, from LIDC-IDRI, CC BY 3.0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put these files of {official.HOMEPAGE} into manual_dir: subset0.zip to subset9.zip (or the folders they "
        f"unpack to), {official.ANNOTATIONS}, {official.CANDIDATES} (or its zip file); also, if at hand, "
        f"{official.EXCLUDED} and LIDC-IDRI's {official.PATIENTS}. The configs that end in _part take the "
        "subsets that are there."
    )

    def more_features(self) -> dict[str, Any]:
        return {
            "label": tfds.features.ClassLabel(names=CLASSES),
            "diameter_mm": tfds.features.Scalar(np.float32, doc="NaN for non-nodules"),
            "fold": tfds.features.Scalar(np.int64, doc="official subset of the scan, 0 to 9"),
        }

    def find_work(self, folder: Path) -> Work:
        config = self.builder_config
        subsets, paths = official.find_files(folder, config.part, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        scans = official.find_scans(subsets)
        if not scans:
            raise ValueError(f"{', '.join(map(str, subsets.values()))} hold no scan (.mhd): use them as published")
        tables = official.read_tables(paths)
        patients = read_patients(paths.get(official.PATIENTS))
        units, left_out = self._units(scans, tables, patients)
        for name in (official.CANDIDATES, official.EXCLUDED):
            # Each by itself: among so many rows the loss of most scans would be a small share.
            self.check_damage(tables.damaged[name], tables.rows.get(name, 0))
            left_out += stored(tables.damaged[name])
        # With some of the subsets, nobody can tell a scan that is missing from one in another subset.
        absent = tables.series() - scans.keys() if len(subsets) == official.FOLDS else set()
        missing = [Damaged(uid, "named in the tables, in no subset: complete the subsets") for uid in sorted(absent)]
        nodules = sum(len(tables.nodules[uid]) for uid in scans if uid in tables.nodules)
        return Work(
            units,
            Cutter(config.size, config.spacing),
            tables=paths,
            classes=CLASSES,
            notes={
                "test_fold": config.test_fold,
                "validation_fold": config.validation_fold,
                "subsets": list(subsets),
                **compared({"scans": len(scans), "nodules": tables.rows[official.ANNOTATIONS]}, official.PUBLISHED),
                "rows": tables.rows,
                "nodules_of_the_scans_found": nodules,
                "patients_known": len(patients) > 0,
                "left_out": left_out,
            },
            damaged=tables.damaged[official.ANNOTATIONS] + missing,
            inputs=tables.rows[official.ANNOTATIONS] + len(missing),
        )

    def _units(
        self, scans: Mapping[str, tuple[int, Location]], tables: official.Tables, patients: Mapping[str, str]
    ) -> tuple[list[Unit], list[dict]]:
        """The scans to read, and those left out lest a patient be in two splits."""
        config = self.builder_config
        splits = {config.test_fold: "test", config.validation_fold: "validation"}
        of_patient = defaultdict(set)
        for uid, (fold, _) in scans.items():
            of_patient[patients.get(uid, uid)].add(splits.get(fold, "train"))
        units, left_out = [], []
        for uid, (fold, location) in scans.items():
            patient, split = patients.get(uid, uid), splits.get(fold, "train")
            kept = min(of_patient[patient], key=PRECEDENCE.index)
            if split != kept:
                reason = f"in {split}, but another scan of patient {patient} is in {kept}"
                left_out.append({"series_uid": uid, "fold": fold, "reason": reason})
                continue
            nodules, excluded = tables.nodules.get(uid, []), tables.excluded.get(uid, [])
            chosen = choose(tables.candidates_of(uid), [*nodules, *excluded], config.non_nodules, uid, self.SEED)
            units.append(Unit(uid, str(location), patient, Scan(location, fold, nodules, chosen), split))
        return units, left_out
