"""TFDS builder of LIDC-IDRI: the nodules of 3 mm or more, as volumes, planes or patches. See README.md."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.damage import SHOWN, Damaged
from tfds_builders.common.features import volume_feature
from tfds_builders.common.records import required
from tfds_builders.common.reporting import compared, listing_fingerprint
from tfds_builders.common.series import SeriesFound, find_series
from tfds_builders.common.tables import read_patients
from tfds_builders.common.volume_builder import PatchConfig, Unit, VolumeBuilder, Work

from . import views
from .annotations import PUBLISHED, RATINGS, Readings, read_archive
from .clustering import MM, PYLIDC
from .nodules import BENIGN, MALIGNANT, PATCHES, ROWS, STATISTICS, UNDECIDED, VIEWS, VOLUME, Cutter, Source, label_of

HOMEPAGE = "https://www.cancerimagingarchive.net/collection/lidc-idri/"
CLASSES = (BENIGN, MALIGNANT)
XML, DICOM, PATIENTS = "LIDC-XML-only.zip", "LIDC-IDRI", "PatientId_SeriesUID.csv"
# Names under which the same contents are met.
XML_NAMES = (XML, "LIDC-XML-only", "tcia-lidc-xml")
DICOM_NAMES, MANIFESTS = (DICOM, f"{DICOM}.zip", "dicom"), ("manifest-*",)


@dataclasses.dataclass(eq=False)
class Config(PatchConfig):
    """What is stored of which nodules.

    Attributes (besides those of `PatchConfig`, whose spacing 'patches' do not use):
      content: 'volume', 'views' (nine planes) or 'patches' (OA, HVV and HS in nine planes).
      statistic: of the readers' malignancy, 'median' or 'mean': below 3 benign, above 3 malignant.
      undecided: keep nodules of exactly 3, with the label -1, instead of leaving them out.
      min_readers: that outlined the nodule.
      clustering: how the distance of annotations is measured, 'mm' or 'pylidc'; see `clustering`.
    """

    content: str = VOLUME
    statistic: str = "median"
    undecided: bool = False
    min_readers: int = 1
    clustering: str = MM


def make_configs() -> list[Config]:
    """`64`, `32`, `views` and `patches`, each also with `_mean`, `_3readers`, `_all`, `_pylidc` and combinations."""
    contents = {
        "64": dict(size=64, description="64x64x64 at 1 mm"),
        "32": dict(size=32, description="32x32x32 at 1 mm, for CPUs"),
        VIEWS: dict(size=64, content=VIEWS, description="nine planes, 64x64 at 1 mm"),
        PATCHES: dict(size=64, content=PATCHES, description="OA, HVV and HS in nine planes, 64x64"),
    }
    rules = {
        "mean": dict(statistic="mean"),
        "3readers": dict(min_readers=3),
        "all": dict(undecided=True),
        PYLIDC: dict(clustering=PYLIDC),
    }
    configs = []
    for name, content in contents.items():
        for chosen in itertools.chain.from_iterable(itertools.combinations(rules, n) for n in range(len(rules) + 1)):
            fields = {key: value for rule in chosen for key, value in rules[rule].items()}
            configs.append(Config(name="_".join((name, *chosen)), **content, **fields))
    return configs


class Builder(VolumeBuilder):
    """Nodules of 1,010 patients' CT scans, outlined and rated by up to four radiologists each."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {
        "1.1.0": "Spacing by least squares; padding beyond the stored bits is padding; one acquisition of several is "
        "kept whole; configs _pylidc.",
        "1.0.0": "First version.",
    }
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "64"
    SEED = 2011
    HOMEPAGE, LICENSE = HOMEPAGE, "CC BY 3.0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put these of {HOMEPAGE} into manual_dir: the CT series, as a folder {DICOM} of DICOM files (in whatever "
        f"folders and under whatever names) or {DICOM}.zip; {XML} or the folder it unpacks to; and, if at hand, "
        f"{PATIENTS}."
    )

    def pixel_features(self) -> dict[str, Any]:
        config = self.builder_config
        planes = (len(views.PLANES), config.size, config.size)
        says = "1: at least half of the readers' nodule"
        mask = volume_feature((*planes, 1), np.uint8, says)
        if config.content == VIEWS:
            return {"views": volume_feature((*planes, 1), np.int16, "HU"), "mask": mask}
        if config.content == PATCHES:
            return {
                "patches": volume_feature((*planes, len(views.PATCHES)), np.int16, "HU; channels OA, HVV, HS"),
                "mask": mask,
                "side_mm": tfds.features.Tensor(shape=planes[:1], dtype=np.float32, doc="of the square shown"),
            }
        shape = (config.size,) * 3 + (1,)
        return {**super().pixel_features(), "mask": volume_feature(shape, np.uint8, says)}

    def more_features(self) -> dict[str, Any]:
        return {
            "has_mask": tfds.features.Scalar(np.bool_, doc="False: no voxel has half of the readers"),
            "label": tfds.features.ClassLabel(names=CLASSES, doc="-1: malignancy exactly 3"),
            "malignancy_median": tfds.features.Scalar(np.float32, doc="1 highly unlikely to 5 highly suspicious"),
            "malignancy_mean": tfds.features.Scalar(np.float32),
            "ratings": tfds.features.Tensor(
                shape=(ROWS, len(RATINGS)), dtype=np.int32, doc="a row per annotation, the others 0; 0: no valid value"
            ),
            "readers": tfds.features.Scalar(np.int32, doc="that outlined the nodule"),
            "diameter_mm": tfds.features.Scalar(
                np.float32, doc="greatest of an outline in a slice, mean of the readers"
            ),
        }

    def metadata(self) -> dict[str, Any]:
        config = self.builder_config
        return {
            "rating_names": list(RATINGS),
            "plane_names": list(views.PLANES),
            "patch_names": list(views.PATCHES),
            "label_rule": f"{config.statistic} malignancy below {UNDECIDED} benign, above malignant",
            "min_readers": config.min_readers,
            "clustering": config.clustering,
            # A patch of planes has one of its own for each plane.
            "spacing_mm": "side_mm / size" if config.content == PATCHES else config.spacing,
        }

    def find_work(self, folder: Path) -> Work:
        config = self.builder_config
        # The NBIA Data Retriever makes a manifest-… folder for each download.
        dicom = named(folder, DICOM_NAMES)[:1] or named(folder, MANIFESTS)
        inputs = {XML: next(iter(named(folder, XML_NAMES)), None), DICOM: next(iter(dicom), None)}
        paths = required(folder, inputs, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        patients = read_patients(folder / PATIENTS)
        readings = read_archive(paths[XML])
        found = find_series(*dicom)
        if not found and not found.damaged:
            raise FileNotFoundError(f"{', '.join(map(str, dicom))} holds no CT series. {found.describe_skipped()}")
        units, wrong = make_units(readings, found, patients)
        if not readings.by_series.keys() & found.keys():
            there, listed = ", ".join(map(str, dicom)), f"the {len(readings.by_series)} of {paths[XML]}"
            refused = describe_refused("XML", readings.damaged) + describe_refused("CT", found.damaged)
            raise ValueError(
                f"none of the {len(found)} CT series of {there} is one of {listed}. "
                f"{refused or self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        tables = {XML: paths[XML], PATIENTS: folder / PATIENTS}
        damaged = [*readings.damaged, *found.damaged, *wrong]
        return Work(
            units,
            Cutter(
                config.content, config.size, config.spacing, config.statistic, config.undecided, config.min_readers,
                config.clustering,
            ),
            tables={name: path for name, path in tables.items() if path.is_file()},
            classes=CLASSES,
            notes=describe(readings, found, patients),
            damaged=damaged,
            inputs=readings.files["xml_files"] + len(found.damaged) + len(wrong),
        )  # fmt: skip

    def _fill_report(self, work: Work, found, good, groups, splits) -> None:
        super()._fill_report(work, found, good, groups, splits)
        nodules = [nodule for one in found for nodule in one["facts"].get("nodules", ())]
        used = [unit.group for unit, one in zip(work.units, found, strict=True) if one["facts"].get("nodules")]
        self.report["found"] = counts = {
            "nodules": len(nodules),
            "annotations": sum(one["annotations"] for one in nodules),
            "patients_with_nodules": len(set(used)),
            "kept": sum(one["kept"] for one in nodules),
            "larger_than_the_patch": sum(not one["fits"] for one in nodules),
        }
        counts = counts | self.report["xml"] | {"patients": self.report["patients_of_the_xml_series"]}
        self.report |= compared({name: counts[name] for name in PUBLISHED}, PUBLISHED)
        if absent := len(self.report["series_not_found"]):
            self.report["differs_from_published"].append(f"{absent} series of the XML not found, see series_not_found")
        self.report["labels_by_rule"] = {
            f"{statistic}, {least} or more readers": dict(
                Counter(label_of(one[statistic]) or "undecided" for one in nodules if one["readers"] >= least)
            )
            for statistic in STATISTICS
            for least in (1, 3)
        }


def describe_refused(kind: str, damaged: Sequence[Damaged]) -> str:
    """Which files of a kind cannot be used, and why; '' if all can."""
    if not damaged:
        return ""
    shown = "; ".join(f"{item.path}: {item.reason}" for item in damaged[:SHOWN])
    more = f"; and {len(damaged) - SHOWN} more" if len(damaged) > SHOWN else ""
    return f"{len(damaged)} {kind} files cannot be used: {shown}{more}. Repair or replace them. "


def named(folder: Path, names: Iterable[str]) -> list[Path]:
    """The folders and zip files of these names; the NBIA Data Retriever's manifest-….tcia is neither."""
    paths = (path for name in names for path in sorted(folder.glob(name)))
    return [path for path in paths if path.is_dir() or path.suffix == ".zip"]


def make_units(readings: Readings, found: SeriesFound, patients: dict[str, str]) -> tuple[list[Unit], list[Damaged]]:
    """The series to read: those with nodules. A series whose file and table name two patients is damaged."""
    units, wrong = [], []
    for uid in sorted(found.keys() & readings.by_series.keys()):
        reading, path = readings.by_series[uid], str(found[uid][0])
        patient = patients.get(uid) or found.patients[uid] or uid
        if found.patients[uid] and found.patients[uid] != patient:
            wrong.append(Damaged(path, f"PatientID differs from {PATIENTS}, which says {patient}: one is wrong"))
        elif reading.annotations:
            units.append(Unit(uid, path, patient, Source(found[uid], reading)))
    return units, wrong


def describe(readings: Readings, found: SeriesFound, patients: dict[str, str]) -> dict[str, Any]:
    """What the report says of the inputs beside the published numbers."""
    by_series = readings.by_series
    with_nodules = {uid for uid, reading in by_series.items() if reading.annotations}
    return {
        "xml": {
            **readings.counts(),
            "contents_sha256": listing_fingerprint({uid: reading.digest for uid, reading in by_series.items()}),
            "notes": readings.notes,
        },
        "patients_of_the_xml_series": len(
            {patients.get(uid) or found.patients.get(uid) for uid in by_series} - {None, ""}
        ),
        "dicom": {
            "series_found": len(found),
            "files": sum(map(len, found.values())),
            "series_of_the_xml": len(found.keys() & by_series.keys()),
            "series_with_nodules": len(found.keys() & with_nodules),
            "files_passed_over": dict(found.skipped),
        },
        "series_not_found": sorted(by_series.keys() - found.keys()),
        "series_not_in_the_xml": sorted(found.keys() - by_series.keys()),
        "readers": dict(Counter(str(reading.sessions) for reading in by_series.values())),
    }
