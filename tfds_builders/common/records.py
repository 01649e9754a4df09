"""What a builder of images finds in the tables of a data set, before a single image is read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tfds_builders.common.archives import Archive
from tfds_builders.common.damage import Damaged
from tfds_builders.common.spelling import show, spelled_like

SHOWN = 5


class Place(NamedTuple):
    """Where an image lies: a key of `Table.archives`, and its name there."""

    archive: str
    name: str


@dataclass(frozen=True)
class Record:
    """One image.

    Attributes:
      image_id: unique in the data set, stable over releases.
      group: what splits must not tear apart: lesion, patient.
      image: where it lies.
      features: its other features, as they are stored.
      kinds: what the report counts it under: its label, its labels, or nothing.
      split: the official one, or '' for the one its group draws.
      mask: where its mask lies, if it has one.
    """

    image_id: str
    group: str
    image: Place
    features: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    split: str = ""
    mask: Place | None = None


@dataclass
class Table:
    """All of a data set but its pixels.

    Attributes:
      records: one per image.
      archives: by the keys that places use.
      inputs: the files and folders it was made from, for their fingerprints.
      classes: everything that `Record.kinds` may name, in the order of the report.
      notes: what else the report says.
      damaged: rows that had to be left out.
    """

    records: list[Record]
    archives: dict[str, Archive]
    inputs: dict[str, Path]
    classes: Sequence[str] = ()
    notes: dict[str, Any] = field(default_factory=dict)
    damaged: list[Damaged] = field(default_factory=list)

    def check(self) -> None:
        """Raises ValueError for an empty table, a doubled image or image id, FileNotFoundError for images that are in
        no archive; a builder whose tables list more than was published takes those out before.
        """
        if not self.records:
            raise ValueError("the tables name no image that can be used: use them as published")
        for named in ([record.image_id for record in self.records], [record.image for record in self.records]):
            twice = [name for name, count in Counter(named).items() if count > 1]
            if twice:
                more = f", and {len(twice) - 1} more" if len(twice) > 1 else ""
                name = twice[0] if isinstance(twice[0], str) else twice[0].name
                raise ValueError(f"the image {name} is listed twice{more}: keep one of the rows")
        check_present([record.image for record in self.records], self.archives)


def check_present(places: Sequence[Place], archives: Mapping[str, Archive]) -> None:
    """FileNotFoundError names some of the images that are not in their archive."""
    absent = [place for place in places if place.name not in archives[place.archive]]
    if absent:
        shown = ", ".join(place.name for place in absent[:SHOWN]) + (" …" if len(absent) > SHOWN else "")
        paths = ", ".join(sorted({str(archives[place.archive].path) for place in absent}))
        raise FileNotFoundError(
            f"{len(absent)} of {len(places)} images of the tables are not in {paths}: {shown}. "
            f"{describe_others(absent[:SHOWN], archives)}Complete the archive, or take their rows out of the tables."
        )


def describe_others(absent: Sequence[Place], archives: Mapping[str, Archive]) -> str:
    """A sentence on those that are there under another spelling, or ''."""
    found = [(place.name, spelled_like(place.name, archives[place.archive].members)) for place in absent]
    others = [f"{show(others[0])} for {show(name)}" for name, others in found if others]
    return f"There is {', '.join(others)}: give them the spelling of the tables. " if others else ""


def required(folder: Path, found: Mapping[str, Path | None], advice: str) -> dict[str, Path]:
    """The inputs by name, or FileNotFoundError that names every one that is missing, and `advice`."""
    missing = [name for name, path in found.items() if path is None or not path.exists()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} not found in {folder}. {advice}")
    return {name: path for name, path in found.items() if path is not None}
