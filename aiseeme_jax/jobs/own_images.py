"""A user's own images: listed, read as the builders of data sets read theirs, and those that cannot be read kept apart.

They are named by a folder, with all files in it and below it, or by a table with the column `path`, relative to it.
"""

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Shaped
from tqdm import tqdm

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.store import files
from tfds_builders.common.archives import is_resource_fork, read_file
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.file_names import FileNames
from tfds_builders.common.formats import MAX_PIXELS, has_mark
from tfds_builders.common.locations import Location, walk_folder
from tfds_builders.common.metaimage import SUFFIXES, read_metaimage
from tfds_builders.common.scan import in_threads
from tfds_builders.common.series import Series, find_series, read_series
from tfds_builders.common.storage import Storage, VolumeStorage
from tfds_builders.image_table.rows import decode, find_delimiter

# Files of a folder that are no images by their names. DICOM files may have any name.
OTHERS = frozenset((".csv", ".txt", ".md", ".json", ".yaml", ".yml", ".xml", ".html", ".pdf", ".log", ".xlsx", ".raw"))
DIRECTORY = "DICOMDIR"
AXES = ("x", "y", "z")
# How Python reads names of files that are not UTF-8.
ESCAPED = "surrogateescape"
NO_VOLUME = "it is no volume: this model takes MetaImage files and DICOM series of CT"
# The exit code where some images could not be read.
SOME_UNREADABLE = 3


@dataclass(frozen=True)
class OwnImage:
    """An image or a volume of the user.

    Attributes:
      name: its path as the user knows it: relative to the folder, or as the table has it.
      files: its file, or the files of its DICOM series.
      centre: of the cube that is cut out of a volume, x, y, z in mm; None if the volume is the cube.
    """

    name: str
    files: tuple[Location, ...]
    centre: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """What there is: images, what is known to be unreadable before it is opened, and files that are no images."""

    images: list[OwnImage]
    unreadable: list[Unreadable]
    passed_over: Counter[str]


def list_images(place: Path, *, volumes: bool) -> Listing:
    """Lists the images of a folder, in the order of their paths, or of a table, in its order.

    Args:
      place: the folder, or the table: a CSV with the column `path`; the columns x, y, z of volumes are read too.
      volumes: whether MetaImage files and DICOM series are wanted, not flat images.

    Raises MissingFile if there is nothing at `place`, UserError for a table that cannot be read and if there is no
    image.
    """
    if not place.exists():
        raise MissingFile(f"--images: there is no file or folder at '{place}'")
    if place.is_file():
        listing = _list_table(place, volumes)
    else:
        listing = _list_volumes(place) if volumes else _list_folder(place)
    if not listing.images and (volumes or not listing.unreadable):
        passed = f"; {describe_passed_over(listing)}" if listing.passed_over else ""
        kind = "volumes (MetaImage files or DICOM series of CT), which this model takes" if volumes else "images"
        flat = f": its {len(listing.unreadable)} other files are none" if volumes and listing.unreadable else ""
        raise UserError(f"'{place}' has no {kind}{flat}{passed}")
    return listing


def describe_passed_over(listing: Listing) -> str:
    """Says how many files of a folder were passed over, by the ends of their names; '' if none were."""
    if not listing.passed_over:
        return ""
    ends = ", ".join(f"{end} ({count})" for end, count in sorted(listing.passed_over.items()))
    return f"{listing.passed_over.total()} files are no images by their names: {ends}"


def read_images(
    images: Sequence[OwnImage], storages: Sequence[Storage], max_pixels: float = MAX_PIXELS
) -> Iterator[tuple[OwnImage, tuple[Shaped[np.ndarray, "*space c"], ...] | Unreadable]]:
    """Each image in order, with its pixels in each of the ways in which data sets store them, or why there are none.

    Images are read in threads. Progress is shown.
    """
    read = in_threads(lambda image: (image, _read(image, storages, max_pixels)), images)
    yield from tqdm(read, total=len(images), desc="reading images", mininterval=1, disable=None)


def write_unreadable(out: Path, unreadable: Sequence[Unreadable]) -> Path:
    """Writes the images that could not be read beside the results, as CSV: none, if all could. Returns the path."""
    path = out.with_name(f"{out.stem}.unreadable.csv")
    write_csv(path, ("path", "reason"), [(one.name, one.reason) for one in unreadable])
    return path


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes a table, whole or not at all. Names of files that are not UTF-8 keep their bytes."""
    with files.write_whole(path) as beside, open(beside, "w", newline="", encoding="utf-8", errors=ESCAPED) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _list_folder(folder: Path) -> Listing:
    images, passed = [], Counter()
    for path in walk_folder(folder):
        if _is_hidden(path.relative_to(folder)) or path.name == DIRECTORY or path.suffix.lower() in OTHERS:
            passed[path.suffix.lower() or path.name] += 1
        else:
            images.append(OwnImage(path.relative_to(folder).as_posix(), (Location(path),)))
    return Listing(images, [], passed)


def _list_volumes(folder: Path) -> Listing:
    """MetaImage files by their names, and each DICOM series of CT by the folder and the UID."""
    flat = _list_folder(folder)
    volumes = [image for image in flat.images if image.files[0].name.suffix.lower() in SUFFIXES]
    found = find_series(folder)
    for uid, locations in found.items():
        parent = Path(os.path.commonpath([location.path.parent for location in locations])).relative_to(folder)
        volumes.append(OwnImage((parent / uid).as_posix(), tuple(locations)))
    taken = {location.path for image in volumes for location in image.files}
    rest = [image for image in flat.images if image.files[0].path not in taken and not _is_voxels(image)]
    damaged = {item.path: item.reason for item in found.damaged}
    unreadable = [Unreadable(image.name, damaged.get(str(image.files[0]), NO_VOLUME)) for image in rest]
    return Listing(sorted(volumes, key=lambda image: image.name), unreadable, flat.passed_over)


def _list_table(table: Path, volumes: bool) -> Listing:
    try:
        text = decode(table)
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=find_delimiter(text), strict=True))
    except (ValueError, csv.Error) as error:
        raise UserError(f"--images: {table}: {error}. Name a folder, or a table with the column path") from None
    if rows and "path" not in rows[0]:
        found = ", ".join(name for name in rows[0] if name)
        raise UserError(f"{table} has no column path; it has {found}")
    images, unreadable, names = [], [], FileNames(table.parent)
    for line, row in enumerate(rows, start=2):
        name = (row["path"] or "").strip()
        if not name:
            raise UserError(f"{table}, line {line}: path is blank: name a file relative to the table")
        found = names.find(name) or names.find(name.replace("\\", "/"))
        path = table.parent / (found or name)
        centre = _read_centre(table, line, row) if volumes else None
        if path.is_dir() and volumes:
            several = find_series(path)
            if len(several) == 1:
                images.append(OwnImage(name, tuple(next(iter(several.values()))), centre))
            else:
                unreadable.append(Unreadable(name, f"the folder has {len(several)} DICOM series of CT, and not one"))
        elif found:
            images.append(OwnImage(name, (Location(path),), centre))
        else:
            unreadable.append(Unreadable(name, "there is no such file"))
    return Listing(images, unreadable, Counter())


def _read_centre(table: Path, line: int, row: dict[str, str | None]) -> tuple[float, float, float] | None:
    cells = [(row.get(axis) or "").strip() for axis in AXES]
    if not any(cells):
        return None
    try:
        x, y, z = map(float, cells)
    except ValueError:
        x = y = z = math.nan
    if not all(map(math.isfinite, (x, y, z))):
        raise UserError(
            f"{table}, line {line}: x, y, z are {', '.join(map(repr, cells))}: three numbers of mm, or none"
        )
    return x, y, z


def _is_voxels(image: OwnImage) -> bool:
    """Whether a file holds the voxels of a MetaImage header beside it."""
    return image.files[0].name.suffix.lower() == ".zraw"


def _is_hidden(path: PurePath) -> bool:
    return is_resource_fork(path) or any(part.startswith(".") for part in path.parts)


def _read(
    image: OwnImage, storages: Sequence[Storage], max_pixels: float
) -> tuple[Shaped[np.ndarray, "*space c"], ...] | Unreadable:
    try:
        if isinstance(storages[0], VolumeStorage):
            series = _read_series(image)
            return tuple(storage.cut(series, image.centre) for storage in storages)
        data = read_file(image.files[0].path)
        return tuple(storage.read(data, image.name, max_pixels) for storage in storages)
    except DamagedInput as error:
        return Unreadable(image.name, str(error))


def _read_series(image: OwnImage) -> Series:
    first = image.files[0]
    if first.name.suffix.lower() in SUFFIXES:
        return read_metaimage(first)
    if len(image.files) == 1 and not first.member and not has_mark(read_file(first.path)):
        raise DamagedInput(NO_VOLUME)
    return read_series(image.files)
