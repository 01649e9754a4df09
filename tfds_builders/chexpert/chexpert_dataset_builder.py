"""TFDS builder of CheXpert, from the official archives in `manual_dir` (see README.md).

The official valid.csv, the 200 studies that radiologists labelled, is the test set; validation is drawn from train.csv
by patient.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive, find_archive
from tfds_builders.common.damage import Damaged
from tfds_builders.common.image_builder import ImageBuilder, ImageConfig, sizes
from tfds_builders.common.parts import carve
from tfds_builders.common.radiographs import images_absent, label_array, labels_feature
from tfds_builders.common.records import Place, Record, Table, required
from tfds_builders.common.reporting import compared
from tfds_builders.common.tables import TablePath, table_in
from tfds_builders.common.variants import variants

from . import official

SUFFIXES = (".jpg",)
TABLES = {official.TRAIN: "train.csv", official.VALID: "valid.csv"}


@dataclasses.dataclass(eq=False)
class CheXpertConfig(ImageConfig):
    """Size and encoding of the stored images, their views, and what an uncertain label counts as.

    Attributes:
      policy: one of `official.POLICIES`.
      laterals: also take the lateral views.
    """

    policy: str = "ignore"
    laterals: bool = False


def make_configs() -> list[CheXpertConfig]:
    configs = []
    for laterals in (False, True):
        for policy in official.POLICIES:
            ending = ("" if policy == "ignore" else f"_{policy}") + ("_all" if laterals else "")
            views = "frontal and lateral" if laterals else "frontal"
            plain = sizes(CheXpertConfig, policy=policy, laterals=laterals)
            configs += variants(plain, f"{{}}{ending}", f"{views} views; uncertain labels: {policy}")
    return configs


class Builder(ImageBuilder):
    """CheXpert, 223,648 chest radiographs with 14 observations, some of them uncertain."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    GROUP, CHANNELS, SEED = "patient_id", 1, 2019
    HOMEPAGE = official.HOMEPAGE
    LICENSE = "Stanford University Dataset Research Use Agreement; not to be passed on"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put CheXpert ({official.HOMEPAGE}) into manual_dir: {official.RELEASES[0]}.zip or {official.RELEASES[1]}.zip "
        f"(or the folder it unpacks to), or the four files '{official.BATCHES[0]}.zip' to '{official.BATCHES[-1]}.zip' "
        "(or their folders). train.csv and valid.csv are taken from there, or from manual_dir itself."
    )

    def metadata(self) -> dict[str, Any]:
        return {"label_names": list(official.LABELS), "policy": self.builder_config.policy}

    def more_features(self) -> dict[str, Any]:
        shape = (len(official.LABELS),)
        return {
            "labels": labels_feature(official.LABELS),
            "labels_raw": tfds.features.Tensor(
                shape=shape, dtype=np.int8, doc="1, 0, -1 (uncertain) or -2 (blank: not mentioned)"
            ),
            "study_id": tfds.features.Text(),
            "orientation": tfds.features.Text(doc="frontal or lateral"),
            "view": tfds.features.Text(doc="AP, PA, another code of two letters, or unknown, as of all laterals"),
            "age": tfds.features.Scalar(np.float32, doc="years; NaN where unknown"),
            "sex": tfds.features.Text(doc="female, male or unknown"),
        }

    def split_groups(self, records: Sequence[Record], groups: Sequence[str]) -> list[str]:
        del records
        return carve(groups, self.SEED)

    def find_table(self, folder: Path) -> Table:
        paths, tables = self._find_inputs(folder)
        found = [row for part, path in tables.items() for row in official.read_part(path, part)]
        damaged = [row for row in found if isinstance(row, Damaged)]
        rows = [row for row in found if not isinstance(row, Damaged)]
        official.check_rows(rows)
        archives = {key: Archive(path, SUFFIXES, by_path=True) for key, path in paths.items()}
        places = [find_place(row, archives) for row in rows]
        there = len(places) - places.count(None)
        laterals = self.builder_config.laterals
        chosen = [(row, place) for row, place in zip(rows, places, strict=True) if row.frontal or laterals]
        absent = [f"{row.part}/{row.name}" for row, place in chosen if place is None]
        if absent:
            raise images_absent(
                absent, len(chosen), folder, "Complete the archive, or take their rows out of the tables"
            )
        return Table(
            records=[self._record(row, place) for row, place in chosen],
            archives=archives,
            inputs={**paths, **{TABLES[part]: path for part, path in tables.items() if isinstance(path, Path)}},
            classes=official.LABELS,
            notes={
                **compared(official.count(rows), official.PUBLISHED),
                "policy": self.builder_config.policy,
                "lateral_images_left_out": len(rows) - len(chosen),
                "images_not_in_the_tables": sum(len(archive.members) for archive in archives.values()) - there,
            },
            damaged=damaged,
        )

    def _find_inputs(self, folder: Path) -> tuple[dict[str, Path], dict[str, TablePath]]:
        """The archives by name, and the table of each part; FileNotFoundError names all that are missing."""
        whole = next((name for name in official.RELEASES if find_archive(folder, name)), None)
        archives = {name: find_archive(folder, name) for name in ([whole] if whole else official.BATCHES)}
        if not any(archives.values()):
            archives = {official.RELEASES[0]: None}
        first = next(iter(archives.values()))
        tables = {part: (first and table_in(first, name)) or table_in(folder, name) for part, name in TABLES.items()}
        advice = f"{self.name}/{self.builder_config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        required(folder, archives | {TABLES[part]: None for part, path in tables.items() if path is None}, advice)
        return archives, tables

    def _record(self, row: official.Row, place: Place) -> Record:
        labels = official.resolve(row.raw, self.builder_config.policy)
        return Record(
            image_id=f"{row.part}/{row.name}".removesuffix(".jpg"),
            group=row.patient,
            image=place,
            features={
                "labels": label_array(labels),
                "labels_raw": label_array(row.raw, np.int8),
                "study_id": f"{row.patient}/{row.study}",
                "orientation": "frontal" if row.frontal else "lateral",
                "view": row.view,
                "age": row.age,
                "sex": row.sex,
            },
            kinds=tuple(name for name, label in zip(official.LABELS, labels, strict=True) if label == 1),
            split="test" if row.part == official.VALID else "",
        )


def find_place(row: official.Row, archives: Mapping[str, Archive]) -> Place | None:
    """Where the image lies; the batches hold the training images without their folder `train`."""
    for key, archive in archives.items():
        for name in (f"{row.part}/{row.name}", row.name):
            if name in archive:
                return Place(key, name)
    return None
