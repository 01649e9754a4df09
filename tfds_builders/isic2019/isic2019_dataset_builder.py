"""TFDS builder of ISIC 2019, from the official archives in `manual_dir` (see README.md).

Every image of the ground truth is in the data set, with its lesion, in one of three stored splits: 70/10/20 %
by lesion, stratified by class. The assignment depends on the tables and the images' contents only, not on the
config, so all sizes share one split.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive, find_archive
from tfds_builders.common.image_builder import ImageBuilder, sizes, with_masks
from tfds_builders.common.records import Place, Record, Table, required
from tfds_builders.common.splits import FRACTIONS, split_by_group

from . import official

IMAGE_SUFFIXES = (".jpg", ".jpeg")
MASK_SUFFIXES = (".png",)


class Builder(ImageBuilder):
    """ISIC 2019, 25,331 dermoscopic images of 8 diagnoses.

    Args (besides those of `ImageBuilder`):
      download: fetch images and tables from the official addresses instead of reading them from `manual_dir`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = with_masks(sizes())
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    CAN_DOWNLOAD = True
    GROUP, SEED = "lesion_id", 2019
    HOMEPAGE, LICENSE = official.HOMEPAGE, "CC BY-NC 4.0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put these files of {official.HOMEPAGE} into manual_dir: {official.IMAGES}.zip (or the folder it "
        f"unpacks to), {official.GROUND_TRUTH}, {official.METADATA}; for the configs with masks also one of "
        f"{', '.join(f'{name}.zip' for name in official.MASKS)}. Images and tables can be fetched with "
        "`python -m tfds_builders prepare --download` (9.8 GB)."
    )

    def __init__(self, *, download: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.download = download

    def more_features(self) -> dict[str, Any]:
        return {
            "label": tfds.features.ClassLabel(names=official.CLASSES),
            "age": tfds.features.Scalar(np.float32, doc="years, in steps of 5; NaN where unknown"),
            "sex": tfds.features.Text(doc="female, male or unknown"),
            "site": tfds.features.Text(doc="anatom_site_general, or unknown"),
        }

    def split_groups(self, records: Sequence[Record], groups: Sequence[str]) -> list[str]:
        # The release does not grow, so the exact shares are worth more than a draw that ignores the classes.
        splits = split_by_group(groups, [record.kinds[0] for record in records], self.SEED, FRACTIONS)
        split_of_row = {int(row): split for split, rows in splits.items() for row in rows}
        return [split_of_row[row] for row in range(len(records))]

    def folder(self, dl_manager: Any) -> Path | None:
        self._downloaded = {}
        if self.download:
            paths = dl_manager.download(official.URLS)
            self._downloaded = {name.removesuffix(".zip"): Path(path) for name, path in paths.items()}
            if not self.builder_config.masks:
                return None
        return super().folder(dl_manager)

    def find_table(self, folder: Path | None) -> Table:
        inputs = self._find_inputs(folder)
        rows, damaged, notes = official.read_rows(inputs[official.GROUND_TRUTH], inputs[official.METADATA])
        archives = {"images": Archive(inputs[official.IMAGES], IMAGE_SUFFIXES)}
        archives |= {name: Archive(inputs[name], MASK_SUFFIXES) for name in official.MASKS if name in inputs}
        unlisted = archives["images"].members.keys() - {row.image_id for row in rows}
        return Table(
            records=[make_record(row, archives) for row in rows],
            archives=archives,
            inputs=inputs,
            classes=official.CLASSES,
            notes={**notes, "images_not_in_the_table": len(unlisted)},
            damaged=damaged,
        )

    def _find_inputs(self, folder: Path | None) -> dict[str, Path]:
        """Path of each input by its official name; FileNotFoundError names all that are missing, and the
        way to them.
        """
        found: dict[str, Path | None] = dict(self._downloaded)
        if not found:
            found[f"{official.IMAGES}.zip"] = find_archive(folder, official.IMAGES)
            found |= {name: folder / name for name in (official.GROUND_TRUTH, official.METADATA)}
        if self.builder_config.masks:
            masks = {name: path for name in official.MASKS if (path := find_archive(folder, name))}
            found |= masks or {"lesion masks": None}
        inputs = required(folder, found, f"isic2019/{self.builder_config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return {name.removesuffix(".zip"): path for name, path in inputs.items()}


def make_record(row: official.Row, archives: Mapping[str, Archive]) -> Record:
    features = {"label": row.label, "age": row.age, "sex": row.sex, "site": row.site}
    place = Place("images", row.image_id)
    mask = find_mask(archives, row.image_id)
    return Record(row.image_id, row.lesion_id, place, features, kinds=(row.label,), mask=mask)


def find_mask(archives: Mapping[str, Archive], name: str) -> Place | None:
    """The first archive that holds the mask of image `name`; a `_downsampled` image shares its original's
    mask.
    """
    for key in official.MASKS:
        for stem in dict.fromkeys((name, name.removesuffix("_downsampled"))):
            if f"{stem}_segmentation" in archives.get(key, ()):
                return Place(key, f"{stem}_segmentation")
    return None
