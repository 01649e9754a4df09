"""TFDS builder of the RSNA Pneumonia Detection Challenge, from the official archives in `manual_dir` (see README.md).

The images are a choice of NIH ChestX-ray14's, and the challenge does not say whose: only RSNA's own mapping file does.
"""

import dataclasses
import io
import itertools
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders.common.archives import Archive, find_archive, find_part
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.dicom import parse
from tfds_builders.common.image_builder import ImageBuilder, ImageConfig, png_sizes
from tfds_builders.common.parts import kin_of_measured
from tfds_builders.common.radiographs import UNKNOWN, boxes_feature
from tfds_builders.common.records import Place, Record, Table, check_present, required
from tfds_builders.common.reporting import compared
from tfds_builders.common.scan import in_threads
from tfds_builders.common.tables import TablePath, locate_table
from tfds_builders.common.variants import variants

from . import official

SUFFIXES = (".dcm",)
UNLABELLED = -1
UNLABELLED_SPLIT = "unlabelled"
PATIENTS_UNKNOWN = (
    f"{official.MAPPING} is not in manual_dir, so the patients are not known: images of one patient may be in several "
    "splits"
)

log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class RsnaConfig(ImageConfig):
    """Size and encoding of the stored images, and whether those of the challenge's test set are stored too.

    Attributes:
      unlabelled: also store the test set, which has no public labels, as a split of its own.
    """

    unlabelled: bool = False


def make_configs() -> list[RsnaConfig]:
    labelled = png_sizes("1024x1024 as published, PNG", RsnaConfig)
    return labelled + variants(labelled, "{}_unlabelled", "also the unlabelled test set", unlabelled=True)


class Builder(ImageBuilder):
    """RSNA Pneumonia Detection Challenge, 26,684 frontal radiographs with classes and boxes of opacities."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = make_configs()
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    GROUP, CHANNELS, SEED = "patient_id", 1, 2018
    HOMEPAGE = official.HOMEPAGE
    LICENSE = "the rules of the competition; the images are NIH ChestX-ray14's"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put {official.COMPETITION}.zip ({official.HOMEPAGE}, accept its rules) into manual_dir, or, of it, "
        f"{official.TRAIN}.zip or its folder, {official.LABELS}, {official.CLASS_INFO} and, for the configs with "
        f"_unlabelled, {official.TEST}.zip or its folder. For splits by patient also {official.MAPPING} "
        f"({official.MAPPING_ADDRESS})."
    )

    def more_features(self) -> dict[str, Any]:
        return {
            "label": tfds.features.ClassLabel(names=official.CLASSES, doc="-1: not known"),
            "target": tfds.features.ClassLabel(num_classes=2, doc="1: an opacity that may be pneumonia; -1: not known"),
            "boxes": boxes_feature(),
            "view": tfds.features.Text(doc="PA, AP or unknown"),
            "nih_image_id": tfds.features.Text(doc="the image in NIH ChestX-ray14, or unknown"),
        }

    def find_table(self, folder: Path) -> Table:
        images, tables, mapping = self._find_inputs(folder)
        rows, damaged = official.read_labels(tables[official.LABELS], tables[official.CLASS_INFO])
        archives = {key: Archive(path, SUFFIXES) for key, path in images.items()}
        nih = official.read_mapping(mapping) if mapping else {}
        if not mapping:
            log.warning("%s: %s", self.name, PATIENTS_UNKNOWN)
        others = unlabelled(archives) if self.builder_config.unlabelled else []
        places = [Place(official.TRAIN, row.image_id) for row in rows] + [Place(official.TEST, name) for name in others]
        # Reading headers takes minutes: what cannot work is said before.
        check_present(places, archives)
        views = read_views(archives, places)
        records = [
            make_record(place, nih, views, row)
            for place, row in zip(places, [*rows, *[None] * len(others)], strict=True)
        ]
        without = sum(record.image_id not in nih for record in records)
        counts, published = official.count(rows, views), official.PUBLISHED
        if self.builder_config.unlabelled:
            counts |= {"unlabelled": len(others)}
            published = published | {"unlabelled": official.PUBLISHED_TEST}
        return Table(
            records=records,
            archives=archives,
            inputs={
                **images,
                **{name: path for name, path in tables.items() if isinstance(path, Path)},
                **({official.MAPPING: mapping} if mapping else {}),
            },
            classes=official.CLASSES,
            notes={
                **compared(counts, published),
                "warnings": [] if mapping else [PATIENTS_UNKNOWN],
                "images_without_nih_patient": without,
            },
            damaged=damaged,
        )

    def left_out(
        self, records: Sequence[Record], groups: Sequence[str], digests: Sequence[Hashable]
    ) -> tuple[set[int], dict[str, Any]]:
        """Unlabelled images of a group that has a labelled one in validation or test."""
        splits = [record.split for record in records]
        out = kin_of_measured(splits, groups, self.split_groups(records, groups))
        return out, {"unlabelled_left_out_patient_in_validation_or_test": len(out)}

    def _find_inputs(self, folder: Path) -> tuple[dict[str, Path], dict[str, TablePath], Path | None]:
        """Archives, tables and mapping by their official names; FileNotFoundError names all that are missing."""
        whole = find_archive(folder, official.COMPETITION)
        keys = (official.TRAIN, official.TEST) if self.builder_config.unlabelled else (official.TRAIN,)
        images = {key: find_part(folder, whole, key) for key in keys}
        tables = {name: locate_table(folder, whole, name) for name in (official.LABELS, official.CLASS_INFO)}
        advice = f"{self.name}/{self.builder_config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        missing = {name: None for name, path in tables.items() if path is None}
        required(folder, {**{f"{key}.zip": path for key, path in images.items()}, **missing}, advice)
        mapping = folder / official.MAPPING
        return images, tables, mapping if mapping.is_file() else None


def unlabelled(archives: Mapping[str, Archive]) -> list[str]:
    """Names of the images of the test set."""
    members = archives[official.TEST].members
    # The archive of the whole competition holds the training images too.
    shared = archives[official.TEST].path == archives[official.TRAIN].path
    return sorted(name for name, member in members.items() if not shared or official.TEST in member.split("/"))


def read_views(archives: Mapping[str, Archive], places: Sequence[Place]) -> dict[str, str]:
    """The view of each image, from its header, where alone it is told; no other element is looked at."""
    names: dict[str, list[str]] = {key: [] for key in archives}
    for archive, name in places:
        names[archive].append(name)
    stream = itertools.chain.from_iterable(archives[key].stream(several) for key, several in names.items())
    views = dict.fromkeys((name for _, name in places), UNKNOWN)
    found = in_threads(lambda item: (item[0], view_of(*item)), stream)
    views.update(tqdm(found, total=len(places), desc="reading headers", mininterval=1))
    return views


def view_of(name: str, data: bytes | DamagedInput) -> str:
    """PA or AP, else unknown; that a file is damaged is found when its pixels are read."""
    if isinstance(data, DamagedInput):
        return UNKNOWN
    try:
        view = str(parse(io.BytesIO(data), name, ["ViewPosition"]).get("ViewPosition") or "")
    except DamagedInput:
        return UNKNOWN
    return view if view in ("PA", "AP") else UNKNOWN


def make_record(place: Place, nih: Mapping[str, str], views: Mapping[str, str], row: official.Row | None) -> Record:
    """`row` is None for an unlabelled image."""
    source = nih.get(place.name)
    return Record(
        image_id=place.name,
        group=official.nih_patient(source) if source else place.name,
        image=place,
        features={
            "label": row.label if row else UNLABELLED,
            "target": row.target if row else UNLABELLED,
            "boxes": [{"box": box} for box in row.boxes] if row else [],
            "view": views[place.name],
            "nih_image_id": source or UNKNOWN,
        },
        kinds=(row.label,) if row else (),
        split="" if row else UNLABELLED_SPLIT,
    )
