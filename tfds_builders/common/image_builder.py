"""The builder of a set of images: a data set says what its tables and archives hold, this class does the rest.

Two passes. The first decodes every image, finds the damaged and the identical ones (which no drawn split may part) and
so knows the splits; the second writes. On one machine the first pass keeps what the second writes in an unnamed
temporary file, so each image is decoded once and memory stays flat; on a Beam runner both passes are spread over the
workers, and each decodes.
"""

import abc
import dataclasses
import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from tfds_builders.common.archives import Archive
from tfds_builders.common.damage import Damaged
from tfds_builders.common.formats import MAX_MEGAPIXELS
from tfds_builders.common.images import ORIENTATION
from tfds_builders.common.records import SHOWN, Record, Table
from tfds_builders.common.repeats import find_repeats
from tfds_builders.common.reporting import REPORT, ReportingBuilder, file_fingerprint, listing_fingerprint, split_counts
from tfds_builders.common.scan import Scanned, Scanner, Spool, Unit, in_threads
from tfds_builders.common.splits import (
    FRACTIONS,
    JOINED,
    SPELLED_ALIKE,
    join_alike,
    join_groups,
    joined_names,
    renamed,
    spelled_alike,
    split_of,
)  # fmt: skip
from tfds_builders.common.storage import FITS
from tfds_builders.common.variants import variants

SPLITS = ("train", "validation", "test")
TURNED = "images_with_orientation_and_mask"
TURNED_WARNING = (
    "{} images with a mask are turned after their EXIF orientation, such as {}: their masks must be drawn on the "
    f"picture as it is shown; all are listed in {REPORT} under {TURNED}"
)
# So many rows without their file are a slip in a table that fits its archives.
FEW = 10


@dataclasses.dataclass(eq=False)
class ImageConfig(tfds.core.BuilderConfig):
    """Size and encoding of the stored images.

    Attributes:
      size: side of the square image in pixels; None keeps the official file, byte for byte where any reader would
        decode it to the same pixels.
      lossless: PNG instead of JPEG of quality 95.
      masks: also store masks.
      fit: how an image comes to the square, see `images.fit_square`.
    """

    size: int | None = None
    lossless: bool = False
    masks: bool = False
    fit: str = FITS[0]


def sizes(config: type[ImageConfig] = ImageConfig, **fields: Any) -> list[ImageConfig]:
    """The configs every set of images has: 64 for CPUs, 224 for ImageNet-sized models, full."""
    return [
        config(name="64", size=64, lossless=True, description="64x64, PNG", **fields),
        config(name="224", size=224, description="224x224, JPEG of quality 95", **fields),
        config(name="full", description="as published, byte for byte", **fields),
    ]


def png_sizes(full: str, config: type[ImageConfig] = ImageConfig, **fields: Any) -> list[ImageConfig]:
    """As `sizes`, for images that are no JPEG; `full` describes the config of that name."""
    return [
        dataclasses.replace(one, lossless=True, description=full) if one.size is None else one
        for one in sizes(config, **fields)
    ]


def with_masks(configs: Sequence[ImageConfig]) -> list[ImageConfig]:
    """The configs, and each again with masks: configs of their own, so the features of the others never change."""
    return [*configs, *variants(configs, "{}_mask", "masks", masks=True)]


class ImageBuilder(ReportingBuilder, skip_registration=True):
    """Base of the builders of images; a subclass gives `find_table` and `more_features`.

    Args (besides those of `ReportingBuilder`):
      max_megapixels: a larger image counts as damaged, before it is decoded: a small file can hold a picture that
        fills the memory.

    Class attributes:
      GROUP: name of the feature that holds the group: 'patient_id', 'lesion_id' or 'group'.
      CHANNELS: of the stored images.
      SEED: of the splits of groups that have no official one.
      BARE: JPEG and PNG files that are stored as they are lose their metadata: these may tell of a person.
    """

    GROUP: ClassVar[str] = "patient_id"
    CHANNELS: ClassVar[int] = 3
    SEED: ClassVar[int] = 0
    BARE: ClassVar[bool] = False
    LICENSE: ClassVar[str] = ""
    HOMEPAGE: ClassVar[str] = ""
    OPTIONS: ClassVar[frozenset[str]] = ReportingBuilder.OPTIONS | {"max_megapixels"}

    def __init__(self, *, max_megapixels: float = MAX_MEGAPIXELS, **kwargs: Any):
        super().__init__(**kwargs)
        if not max_megapixels > 0:
            raise ValueError(f"max_megapixels is {max_megapixels}: a number above 0 is wanted")
        self.max_megapixels = max_megapixels

    @abc.abstractmethod
    def find_table(self, folder: Path) -> Table:
        """The records of the data set whose archives lie in `folder`.

        Raises FileNotFoundError that names all that is missing, ValueError for tables that are not as published.
        """

    @abc.abstractmethod
    def more_features(self) -> dict[str, Any]:
        """Features besides image, mask, image_id and the group."""

    def metadata(self) -> dict[str, Any]:
        """What readers of the data set need beside its features, such as `label_names`."""
        return {}

    def split_groups(self, records: Sequence[Record], groups: Sequence[str]) -> list[str]:
        """Split of each record that has no official one; `groups` are those of the records, identical images joined.

        Drawn from the smallest name among the group's records without an official split: the others, which some configs
        of a data set leave out, may give the group its name, but a config must not test on what another one trains on.
        """
        names: dict[str, str] = {}
        for record, group in zip(records, groups, strict=True):
            if not record.split:
                names[group] = min(record.group, names.get(group, record.group))
        return [split_of(names.get(group, group), self.SEED, FRACTIONS) for group in groups]

    def left_out(
        self, records: Sequence[Record], groups: Sequence[str], digests: Sequence[Hashable]
    ) -> tuple[set[int], dict[str, Any]]:
        """Rows that are not written lest a held-out group be trained on, and what the report says of them.

        Here: rows without an official split that are copies of an image in the official validation or test, and all
        others of the groups that these copies tie to a held-out one. A group that the official split itself tears is
        left torn.

        Args:
          records: those that can be used.
          groups: theirs, identical images joined.
          digests: equal for identical images.
        """
        held = [row for row, record in enumerate(records) if record.split in SPLITS[1:]]
        seen, wholes = {digests[row] for row in held}, {groups[row] for row in held}
        torn = {records[row].group for row in held}
        free = [row for row, record in enumerate(records) if not record.split]
        copies = [row for row in free if digests[row] in seen]
        kin = [row for row in free if groups[row] in wholes and records[row].group not in torn]
        with_copies = sorted(set(kin) - set(copies))
        listed = {
            "left_out_as_copies_of_held_out_images": [records[row].image_id for row in copies],
            "left_out_with_such_copies": [records[row].image_id for row in with_copies],
        }
        return {*copies, *with_copies}, {key: images for key, images in listed.items() if images}

    def folder(self, dl_manager: Any) -> Path:
        """Where the archives lie. Raises FileNotFoundError that says what to put there."""
        try:
            return Path(dl_manager.manual_dir)
        except AssertionError as error:
            raise FileNotFoundError(str(error)) from error

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        encoding = "png" if config.lossless else "jpeg"
        fit = {} if config.fit == FITS[0] else {"fit": config.fit}
        features = {
            "image": tfds.features.Image(shape=(config.size, config.size, self.CHANNELS), encoding_format=encoding),
            "image_id": tfds.features.Text(),
            self.GROUP: tfds.features.Text(doc="splits keep its images together"),
            **self.more_features(),
        }
        if config.masks:
            shape = (config.size, config.size, 1)
            features["mask"] = tfds.features.Image(shape=shape, encoding_format="png", doc="0 or 255")
            features["has_mask"] = tfds.features.Scalar(np.bool_, doc="False: the mask is all zero")
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label") if "label" in features else None,
            homepage=self.HOMEPAGE or None,
            license=self.LICENSE or None,
            metadata=tfds.core.MetadataDict(group=self.GROUP, **fit, **self.metadata()),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        self._beam = download_config.beam_runner, download_config.beam_options
        super()._download_and_prepare(dl_manager, download_config)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        table = self.find_table(self.folder(dl_manager))
        self.inputs = len(table.records) + len(table.damaged)
        # Tables that do not belong together are found in seconds; a slip is told with what is found in the images.
        if len(table.damaged) > FEW or not table.records:
            self.check_damage(table.damaged, self.inputs)
        table.check()
        config = self.builder_config
        bound = self.max_megapixels * 1e6
        how = config.size, self.CHANNELS, config.lossless, config.masks, self.BARE, bound, config.fit
        scanner = Scanner(table.archives, *how)
        make = self._with_beam if any(self._beam) else self._here
        scanned, self._write = make(table.records, scanner)
        self.damaged = table.damaged + [
            Damaged(f"{table.archives[record.image.archive].path}: {record.image.name}", found.reason)
            for record, found in zip(table.records, scanned, strict=True)
            if found.reason
        ]
        self.check_damage(self.damaged, self.inputs)
        good, groups = self._kept(table, scanned)
        records = [table.records[i] for i in good]
        self.info.metadata[JOINED] = renamed([record.group for record in records], groups)
        splits = self._splits(records, groups)
        self._fill_report(table, scanned, good, groups, splits)
        return {split: self._generate_examples([good[row] for row in rows]) for split, rows in splits.items()}

    def _kept(self, table: Table, scanned: Sequence[Scanned]) -> tuple[list[int], list[str]]:
        """Positions of the records that are written, not the damaged ones and those of `left_out`; and their groups.

        Groups are joined before any row goes: what ties a patient to a held-out one may be a row that goes.
        """
        good = [i for i, found in enumerate(scanned) if not found.reason]
        if not good:
            raise ValueError(f"none of the {len(scanned)} images can be used; the first: {scanned[0].reason}")
        records, digests = [table.records[i] for i in good], [scanned[i].digest for i in good]
        alike = join_alike([record.group for record in records], [record.image_id for record in records])
        groups = join_groups(alike, digests)
        left_out, notes = self.left_out(records, groups, digests)
        table.notes |= notes
        rows = [row for row in range(len(good)) if row not in left_out]
        return [good[row] for row in rows], [groups[row] for row in rows]

    def _generate_examples(self, positions: Sequence[int]) -> Any:
        return self._write(positions)

    def _splits(self, records: Sequence[Record], groups: Sequence[str]) -> dict[str, np.ndarray]:
        drawn = self.split_groups(records, groups)
        names = np.array([record.split or split for record, split in zip(records, drawn, strict=True)])
        order = dict.fromkeys((*SPLITS, *names.tolist()))
        return {split: rows for split in order if len(rows := np.flatnonzero(names == split))}

    def _here(self, records: Sequence[Record], scanner: Scanner):
        """The first pass in threads, and what writes the given records."""
        spool = Spool(Path(self.data_dir))
        scanned: list[Scanned] = [Scanned()] * len(records)
        places: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}
        units = scanner.units(dict(enumerate(records)))
        # Each image lies in the spool and, at the end, in the data set too.
        self.wanted_bytes = lambda: 2 * spool.size * len(records) // max(len(places), 1)
        stream = (item for unit in units for item in scanner.stream(unit))
        found = in_threads(lambda item: (item[0], scanner.scan(item[1], item[2])), stream)
        for position, result in tqdm(found, total=len(records), desc="reading images", mininterval=1):
            places[position] = spool.add(result.image), spool.add(result.mask)
            scanned[position] = result.light()

        def generate(positions: Sequence[int]) -> Iterator[tuple[str, dict]]:
            for i in positions:
                image, mask = places[i]
                kept = dataclasses.replace(scanned[i], image=spool.get(image), mask=spool.get(mask))
                yield records[i].image_id, self._example(records[i], kept)

        return scanned, generate

    def _with_beam(self, records: Sequence[Record], scanner: Scanner):
        """The same on the workers of a Beam runner; their results come back through files beside the data."""
        import apache_beam as beam

        # What workers get must not hold the builder.
        example = self._example
        runner, options = self._beam
        listing = Path(self.data_dir) / "scanned"
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            lines = pipeline | beam.Create(scanner.units(dict(enumerate(records)))) | beam.Reshuffle()
            lines = lines | beam.FlatMap(lambda unit: _scan_lines(scanner, unit))
            _ = lines | beam.io.WriteToText(str(listing))
        scanned = [Scanned()] * len(records)
        for path in sorted(listing.parent.glob("scanned*")):
            for line in path.read_text().splitlines():
                position, found = json.loads(line)
                found |= {name: tuple(found[name]) for name in ("size", "notes")}
                scanned[position] = Scanned(**found)
            path.unlink()

        def generate(positions: Sequence[int]) -> Any:
            units = beam.Create(scanner.units({i: records[i] for i in positions})) | beam.Reshuffle()
            return units | beam.FlatMap(lambda unit: _examples(example, scanner, unit))

        return scanned, generate

    @property
    def _example(self):
        return _Example(self.GROUP, self.builder_config.masks)

    def _fill_report(self, table: Table, scanned: Sequence[Scanned], good: Sequence[int], groups, splits) -> None:
        records, found = [table.records[i] for i in good], [scanned[i] for i in good]
        repeats = find_repeats(records, [one.digest for one in found], splits)
        described = describe(records, found)
        turned = described[TURNED]
        shown = ", ".join(turned[:SHOWN])
        warnings = [*table.notes.get("warnings", ()), *repeats["warnings"]]
        warnings += [TURNED_WARNING.format(len(turned), shown)] if turned else []
        kinds = [record.kinds for record in records]
        self.report = {
            "splits": split_counts(splits, kinds, groups, table.classes),
            "split_seed": self.SEED,
            **table.notes,
            JOINED: joined_names(self.info.metadata[JOINED]),
            SPELLED_ALIKE: spelled_alike([record.group for record in records], [record.image_id for record in records]),
            **repeats,
            **described,
            "warnings": warnings,
            "inputs": {name: fingerprint(path, table, scanned) for name, path in table.inputs.items()},
        }


@dataclasses.dataclass(frozen=True)
class _Example:
    """Makes what is written of a record; a class, since it travels to workers."""

    group: str
    masks: bool

    def __call__(self, record: Record, found: Scanned) -> dict[str, Any]:
        mask = {"mask": found.mask, "has_mask": found.has_mask} if self.masks else {}
        own = {"image_id": record.image_id, self.group: record.group}
        return {"image": found.image, **own, **mask, **record.features}


def _scan_lines(scanner: Scanner, unit: Unit) -> Iterator[str]:
    for position, record, data in scanner.stream(unit):
        found = dataclasses.asdict(scanner.scan(record, data))
        yield json.dumps([position, {name: value for name, value in found.items() if name not in ("image", "mask")}])


def _examples(example: _Example, scanner: Scanner, unit: Unit) -> Iterator[tuple[str, dict[str, Any]]]:
    for _, record, data in scanner.stream(unit):
        found = scanner.scan(record, data)
        if found.reason:
            # It was fine in the first pass: the storage fails, not the image.
            raise OSError(found.reason)
        yield record.image_id, example(record, found)


def describe(records: Sequence[Record], scanned: Sequence[Scanned]) -> dict[str, Any]:
    """What the report says of the images: their sizes, conversions, how many have a mask, and which of these were
    turned: of a picture turned by 180 degrees it cannot be told whether its mask was drawn before.
    """
    turned = sorted(
        record.image_id
        for record, found in zip(records, scanned, strict=True)
        if found.has_mask and any(note.startswith(ORIENTATION) for note in found.notes)
    )
    found_sizes = sorted((found.size for found in scanned), key=lambda size: size[0] * size[1]) or [(0, 0)]
    return {
        "smallest_image": list(found_sizes[0]),
        "largest_image": list(found_sizes[-1]),
        "converted": dict(Counter(note for found in scanned for note in found.notes)),
        "images_with_mask": sum(found.has_mask for found in scanned),
        TURNED: turned,
    }


def fingerprint(path: Path, table: Table, scanned: Sequence[Scanned]) -> dict[str, Any]:
    """SHA-256 of an input file; for an unpacked folder of images, of the list of its images' own SHA-256."""
    if path.is_file():
        return file_fingerprint(path)
    keys = {key for key, archive in table.archives.items() if archive.path == path}
    digests = {
        record.image.name: found.file_sha256
        for record, found in zip(table.records, scanned, strict=True)
        if record.image.archive in keys and not found.reason
    }
    return {"listing_sha256": listing_fingerprint(digests or folder_digests(path))}


def folder_digests(path: Path) -> dict[str, str]:
    archive = Archive(path, (".png", ".jpg", ".jpeg"), by_path=True)
    return {name: file_fingerprint(path / member)["sha256"] for name, member in archive.members.items()}
