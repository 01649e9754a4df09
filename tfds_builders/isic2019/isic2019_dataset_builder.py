"""TFDS builder of ISIC 2019, from the official archives in `manual_dir` (see README.md).

Every image of the ground truth is in the data set, with its lesion, in one of three stored splits: 70/10/20 %
by lesion, stratified by class. The assignment depends on the tables and the images' contents only, not on the
config, so all sizes share one split. Anything missing or damaged stops the preparation with an error that
names it.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive, find_archive
from tfds_builders.common.reporting import (
    ReportingBuilder,
    file_fingerprint,
    listing_fingerprint,
    split_counts,
)
from tfds_builders.common.splits import join_groups, split_by_group

from . import official
from .scan import Scanned, Scanner, Spool

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
SPLIT_SEED = 2019
IMAGE_SUFFIXES = (".jpg", ".jpeg")
MASK_SUFFIXES = (".png",)
UNLISTED_SHOWN = 5


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """Size and encoding of the stored images.

    Attributes:
      size: side of the square image in pixels; None keeps the official file, byte for byte.
      lossless: PNG instead of JPEG.
      masks: also store lesion masks.
    """

    size: int | None = None
    lossless: bool = False
    masks: bool = False


def make_configs() -> list[Config]:
    sizes = {
        "64": (64, True, "64x64, PNG"),
        "224": (224, False, "224x224, JPEG of quality 95"),
        "full": (None, False, "as published, byte for byte"),
    }
    plain = [Config(name=name, size=size, lossless=png, description=text) for name, (size, png, text) in sizes.items()]
    masked = [
        dataclasses.replace(config, name=f"{config.name}_mask", masks=True, description=f"{config.description}; masks")
        for config in plain
    ]
    return plain + masked


class Builder(ReportingBuilder):
    """ISIC 2019, 25,331 dermoscopic images of 8 diagnoses.

    Args (besides those of TFDS):
      download: fetch images and tables from the official addresses instead of reading them from `manual_dir`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = make_configs()
    DEFAULT_CONFIG_NAME = "224"
    DEFAULT_BUILDER_CONFIG_NAME = "224"
    CAN_DOWNLOAD = True
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Put these files of {official.HOMEPAGE} into manual_dir: {official.IMAGES}.zip (or the folder it "
        f"unpacks to), {official.GROUND_TRUTH}, {official.METADATA}; for the configs with masks also one of "
        f"{', '.join(f'{name}.zip' for name in official.MASKS)}. Images and tables can be fetched with "
        "`python -m tfds_builders prepare --download` (9.8 GB)."
    )

    def __init__(self, *, download: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.download = download

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        encoding = "png" if self.builder_config.lossless else "jpeg"
        features = {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format=encoding),
            "label": tfds.features.ClassLabel(names=official.CLASSES),
            "image_id": tfds.features.Text(),
            "lesion_id": tfds.features.Text(doc="the image_id where the official table has none"),
            "age": tfds.features.Scalar(np.float32, doc="years, in steps of 5; NaN where unknown"),
            "sex": tfds.features.Text(doc="female, male or unknown"),
            "site": tfds.features.Text(doc="anatom_site_general, or unknown"),
        }
        if self.builder_config.masks:
            features["mask"] = tfds.features.Image(shape=(size, size, 1), encoding_format="png", doc="0 or 255")
            features["has_mask"] = tfds.features.Scalar(np.bool_, doc="False: the mask is all zero")
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=official.HOMEPAGE,
            license="CC BY-NC 4.0",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict]]]:
        inputs = self._find_inputs(dl_manager)
        rows, notes = official.read_rows(inputs[official.GROUND_TRUTH], inputs[official.METADATA])
        archive = Archive(inputs[official.IMAGES], IMAGE_SUFFIXES)
        check_listed(rows, archive)
        masks = [Archive(inputs[name], MASK_SUFFIXES) for name in official.MASKS if name in inputs]
        config = self.builder_config
        scanner = Scanner(archive, masks, config.masks, config.size, config.lossless)
        spool = Spool(Path(self.data_dir))
        scanned = scanner.scan([row.image_id for row in rows], spool)
        groups = join_groups([row.lesion_id for row in rows], [found.pixel_digest for found in scanned])
        labels = [row.label for row in rows]
        splits = split_by_group(groups, labels, SPLIT_SEED, FRACTIONS)
        self.report = {
            "splits": split_counts(splits, labels, groups, official.CLASSES),
            "fractions": FRACTIONS,
            "split_seed": SPLIT_SEED,
            **notes,
            **describe_contents(rows, scanned, archive),
            "inputs": {name: fingerprint(path, rows, scanned) for name, path in inputs.items()},
        }
        return {
            split: self._generate_examples([(rows[i], scanned[i]) for i in chosen], archive, spool)
            for split, chosen in splits.items()
        }

    def _generate_examples(
        self, chosen: Sequence[tuple[official.Row, Scanned]], archive: Archive, spool: Spool
    ) -> Iterator[tuple[str, dict]]:
        for row, found in chosen:
            example = dataclasses.asdict(row)
            example["image"] = spool.get(found.image) if found.image else archive.read(row.image_id)
            if self.builder_config.masks:
                example.update(mask=spool.get(found.mask), has_mask=found.has_mask)
            yield row.image_id, example

    def _find_inputs(self, dl_manager: Any) -> dict[str, Path]:
        """Path of each input by its official name; FileNotFoundError names all that are missing, and the
        way to them.
        """
        inputs: dict[str, Path | None] = {}
        if self.download:
            paths = dl_manager.download(official.URLS)
            inputs = {name.removesuffix(".zip"): Path(path) for name, path in paths.items()}
        needs_folder = self.builder_config.masks or not self.download
        folder = manual_folder(dl_manager) if needs_folder else None
        if not self.download:
            inputs[official.IMAGES] = find_archive(folder, official.IMAGES)
            for name in (official.GROUND_TRUTH, official.METADATA):
                inputs[name] = folder / name if (folder / name).is_file() else None
        missing = [name for name, path in inputs.items() if path is None]
        if self.builder_config.masks:
            masks = {name: path for name in official.MASKS if (path := find_archive(folder, name))}
            missing += [] if masks else ["lesion masks"]
            inputs.update(masks)
        if missing:
            names = ", ".join(f"{name}.zip" if name == official.IMAGES else name for name in missing)
            raise FileNotFoundError(
                f"isic2019/{self.builder_config.name}: {names} not found in {folder}. "
                f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        return inputs


def manual_folder(dl_manager: Any) -> Path:
    try:
        return Path(dl_manager.manual_dir)
    except AssertionError as error:
        raise FileNotFoundError(f"{error} Images and tables can also be fetched with download=True.") from error


def check_listed(rows: Sequence[official.Row], archive: Archive) -> None:
    missing = [row.image_id for row in rows if row.image_id not in archive]
    if missing:
        shown = ", ".join(missing[:UNLISTED_SHOWN]) + (" …" if len(missing) > UNLISTED_SHOWN else "")
        raise FileNotFoundError(
            f"{len(missing)} of {len(rows)} images of {official.GROUND_TRUTH} are not in {archive.path}: "
            f"{shown}. Complete the archive, or take their rows out of the tables."
        )


def fingerprint(path: Path, rows: Sequence[official.Row], scanned: Sequence[Scanned]) -> dict[str, Any]:
    """SHA-256 of an input file; for the unpacked folder of images, of the list of its images' own SHA-256."""
    if path.is_file():
        return file_fingerprint(path)
    if path.name == official.IMAGES:
        digests = {row.image_id: found.file_sha256 for row, found in zip(rows, scanned, strict=True)}
        return {"listing_sha256": listing_fingerprint(digests)}
    return {"listing_sha256": listing_fingerprint(folder_digests(path))}


def folder_digests(path: Path) -> dict[str, str]:
    archive = Archive(path, MASK_SUFFIXES)
    return {name: file_fingerprint(path / member)["sha256"] for name, member in archive.members.items()}


def describe_contents(rows: Sequence[official.Row], scanned: Sequence[Scanned], archive: Archive) -> dict[str, Any]:
    """What the report says of the images: identical ones, those without a row, how many have a mask."""
    same: Mapping[bytes, list[str]] = defaultdict(list)
    for row, found in zip(rows, scanned, strict=True):
        same[found.pixel_digest].append(row.image_id)
    return {
        "identical_images": [names for names in same.values() if len(names) > 1],
        "images_not_in_the_table": len(archive.members.keys() - {row.image_id for row in rows}),
        "images_with_mask": sum(found.has_mask for found in scanned),
    }
