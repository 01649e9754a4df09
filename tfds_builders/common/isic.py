"""What the ISIC challenges of all years share: parts with official splits, tables of labels, masks by image name."""

import abc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from tfds_builders.common.archives import Archive, find_archive
from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.image_builder import ImageBuilder
from tfds_builders.common.records import Place, Record, Table, required

IMAGE_SUFFIXES = (".jpg", ".jpeg")
MASK_SUFFIXES = (".png",)
# 2016 writes it with a capital.
MASK_ENDINGS = ("_segmentation", "_Segmentation")
UNLABELLED = -1


@dataclass(frozen=True)
class Part:
    """One official part of a challenge's data.

    Attributes:
      name: training, validation or test.
      split: the split it is; '' for one that validation is carved from.
      images: its archive of images, without suffix.
      tables: its tables, without suffix, labels first; none for a part without labels.
      masks: archives of masks, without suffix; one of them is enough.
      published: numbers of images, in all and of each class.
      tables_optional: the labels were published later; without them the part is unlabelled.
    """

    name: str
    split: str
    images: str
    tables: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    published: Mapping[str, int] = field(default_factory=dict)
    tables_optional: bool = False


@dataclass(frozen=True)
class Row:
    """One image; `label` '' where not known, `lesion_id` the image's own where there is none."""

    image_id: str
    lesion_id: str
    label: str = ""
    features: Mapping[str, Any] = field(default_factory=dict)


class IsicBuilder(ImageBuilder, skip_registration=True):
    """Base of the builders of challenges with official splits; a subclass names the parts and reads their tables.

    Class attributes:
      CLASSES: names of the labels.
      PARTS: the parts, of which the configs with masks also read the masks.
    """

    GROUP = "lesion_id"
    CLASSES: ClassVar[tuple[str, ...]]
    PARTS: ClassVar[tuple[Part, ...]]

    @abc.abstractmethod
    def read_rows(self, tables: Sequence[Path]) -> tuple[list[Row], list[Damaged]]:
        """The rows of one part's tables, and those that cannot be used. ValueError if a column is missing."""

    def unlabelled_features(self) -> dict[str, Any]:
        """Values, for an image without label, of the features that `read_rows` fills."""
        return {}

    def more_features(self) -> dict[str, Any]:
        return {"label": tfds.features.ClassLabel(names=self.CLASSES, doc="-1: not known")}

    def parts(self) -> tuple[Part, ...]:
        """Those that the config reads."""
        return self.PARTS

    def find_table(self, folder: Path) -> Table:
        inputs = self._find_inputs(folder)
        table = Table([], {}, inputs, self.CLASSES)
        parts = {part.name: self._read(part, inputs, table) for part in self.parts()}
        published = {part.name: dict(part.published) for part in self.parts()}
        counts = {name: self._counts(records) for name, records in parts.items()}
        table.notes |= {"published_counts": published, "differs_from_published": differences(counts, published)}
        table.notes["images_not_in_the_tables"] = {
            part.name: len(table.archives[part.images].members) - len(parts[part.name]) for part in self.parts()
        }
        table.records = [record for records in parts.values() for record in records]
        return table

    def _read(self, part: Part, inputs: Mapping[str, Path], table: Table) -> list[Record]:
        """The part's records; its archives and its damaged rows go into the table."""
        archive = table.archives[part.images] = Archive(inputs[part.images], IMAGE_SUFFIXES)
        if self.builder_config.masks:
            table.archives |= {name: Archive(inputs[name], MASK_SUFFIXES) for name in part.masks if name in inputs}
        tables = [inputs[name] for name in part.tables if name in inputs]
        if tables:
            rows, damaged = self.read_rows(tables)
            table.damaged += damaged
        else:
            rows = [Row(name, name, features=self.unlabelled_features()) for name in sorted(archive.members)]
        return [self._record(row, part, table.archives) for row in rows]

    def _counts(self, records: Sequence[Record]) -> dict[str, int]:
        kinds = Counter(kind for record in records for kind in record.kinds)
        masks = {"masks": sum(record.mask is not None for record in records)} if self.builder_config.masks else {}
        return {"images": len(records), **masks, **({name: kinds[name] for name in self.CLASSES} if kinds else {})}

    def _find_inputs(self, folder: Path) -> dict[str, Path]:
        """Path of each input by its official name; FileNotFoundError names all that are missing."""
        found: dict[str, Path | None] = {}
        for part in self.parts():
            found[part.images] = find_archive(folder, part.images)
            tables = {name: find_csv(folder, name) for name in part.tables}
            found |= {} if part.tables_optional and not any(tables.values()) else tables
            if self.builder_config.masks:
                masks = {name: path for name in part.masks if (path := find_archive(folder, name))}
                found |= masks or {part.masks[0]: None}
        return required(folder, found, f"{self.name}/{self.builder_config.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")

    def _record(self, row: Row, part: Part, archives: Mapping[str, Archive]) -> Record:
        return Record(
            image_id=row.image_id,
            group=row.lesion_id,
            image=Place(part.images, row.image_id),
            features={"label": row.label or UNLABELLED, **row.features},
            kinds=(row.label,) if row.label else (),
            split=part.split,
            mask=find_mask(row.image_id, part.masks, archives),
        )


def find_mask(image_id: str, names: Sequence[str], archives: Mapping[str, Archive]) -> Place | None:
    """Where the first of the archives `names` that holds the image's mask has it."""
    for name in names:
        for ending in MASK_ENDINGS:
            if f"{image_id}{ending}" in archives.get(name, ()):
                return Place(name, f"{image_id}{ending}")
    return None


def find_csv(folder: Path, name: str) -> Path | None:
    """A table as it is published, plain or in a zip file of its name, or unpacked in a folder of its name."""
    places = (folder / f"{name}.csv", folder / f"{name}.zip", folder / name / f"{name}.csv")
    return next((path for path in places if path.is_file()), None)


def differences(found: Mapping[str, Mapping[str, int]], published: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What is missing, or too much, in each part; a part has as many masks as images, if it has any."""
    return [
        f"{part}: {number} {name}, published {published[part]['images' if name == 'masks' else name]}"
        for part, numbers in found.items()
        for name, number in numbers.items()
        if number != published[part]["images" if name == "masks" else name]
    ]


def one_hot_label(values: Mapping[str, str], image_id: str, path: Path) -> str:
    """The column that is 1. Raises DamagedInput unless it is one, and all others are 0."""
    numbers = zeros_and_ones(values)
    if sum(numbers.values()) != 1:
        shown = ", ".join(f"{name}={value}" for name, value in values.items())
        raise DamagedInput(f"{path}: the label of {image_id} is not one-hot ({shown}): exactly one column must be 1")
    return next(name for name, number in numbers.items() if number)


def zeros_and_ones(values: Mapping[str, str]) -> dict[str, bool]:
    """The values as numbers, or an empty dict if one is neither 0 nor 1."""
    try:
        numbers = {name: float(value) for name, value in values.items()}
    except ValueError:
        return {}
    return {name: number == 1 for name, number in numbers.items()} if {*numbers.values()} <= {0.0, 1.0} else {}
