"""From the bytes of an image to what a data set stores of it, in threads here or on the workers of a Beam runner."""

import dataclasses
import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import UInt8

from tfds_builders.common import images
from tfds_builders.common.archives import Archive
from tfds_builders.common.bare import without_metadata
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.records import Record
from tfds_builders.common.storage import FITS

JPEG_QUALITY = 95
# Relative difference of the aspect ratios of an image and its mask that rounding of their sizes can explain.
ASPECT_TOLERANCE = 0.02
RECORDS_OF_A_UNIT = 64

Unit = list[tuple[int, Record]]

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Scanned:
    """What was found out about one image.

    Attributes:
      reason: why it cannot be used; empty if it can, and then the rest is set.
      file_sha256: of the file.
      digest: of the pixels: equal for equal photographs, whatever their files' headers say.
      size: width and height in pixels.
      notes: conversions, see `images.read_pixels`.
      image, mask: the bytes that are stored.
      has_mask: whether the mask is one, not the blank that stands for none.
    """

    reason: str = "not read"
    file_sha256: str = ""
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()
    image: bytes = b""
    mask: bytes = b""
    has_mask: bool = False

    def light(self) -> "Scanned":
        """Without the bytes."""
        return dataclasses.replace(self, image=b"", mask=b"")


@dataclasses.dataclass(frozen=True)
class Scanner:
    """Reads images, and masks if the data set has them, and makes what it stores of them. Pickles.

    Attributes:
      size: side of the stored square in pixels; None stores the image as it is.
      channels: 1 or 3.
      lossless: PNG instead of JPEG.
      masks: whether masks are stored.
      bare: files stored as they are lose their metadata.
      max_pixels: larger images and masks are damaged.
      fit: how an image and its mask come to the square, see `images.fit_square`.
    """

    archives: Mapping[str, Archive]
    size: int | None
    channels: int
    lossless: bool
    masks: bool = False
    bare: bool = False
    max_pixels: float = images.MAX_PIXELS
    fit: str = FITS[0]

    def units(self, records: Mapping[int, Record]) -> list[Unit]:
        """Records by position, in portions that one worker reads: a tar file is one, since it reads in one go."""
        by_archive: dict[str, list[tuple[int, Record]]] = {}
        for position, record in records.items():
            by_archive.setdefault(record.image.archive, []).append((position, record))
        units = []
        for key, numbered in by_archive.items():
            step = len(numbered) if self.archives[key].sequential else RECORDS_OF_A_UNIT
            units += [numbered[start : start + step] for start in range(0, len(numbered), step)]
        return units

    def stream(self, unit: Unit) -> Iterator[tuple[int, Record, bytes | DamagedInput]]:
        """(position, record, bytes) of the images of a unit."""
        archive = self.archives[unit[0][1].image.archive]
        by_name = {record.image.name: (position, record) for position, record in unit}
        for name, data in archive.stream(by_name):
            yield *by_name[name], data

    def scan(self, record: Record, data: bytes | DamagedInput) -> Scanned:
        """What is stored of a record; a damaged one gives its reason."""
        try:
            if isinstance(data, DamagedInput):
                raise data
            name = f"{self.archives[record.image.archive].path}: {record.image.name}"
            pixels, notes = images.read_pixels(data, name, self.channels, self.max_pixels)
            mask, has_mask = self._mask(record, pixels.shape[:2], notes) if self.masks else (b"", False)
        except DamagedInput as error:
            return Scanned(reason=str(error))
        return Scanned(
            reason="",
            file_sha256=hashlib.sha256(data).hexdigest(),
            digest=hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
            size=(pixels.shape[1], pixels.shape[0]),
            notes=notes,
            image=encode(data, pixels, notes, self.size, lossless=self.lossless, bare=self.bare, fit=self.fit),
            mask=mask,
            has_mask=has_mask,
        )

    def _mask(self, record: Record, shape: tuple[int, int], notes: tuple[str, ...]) -> tuple[bytes, bool]:
        """PNG of 0 and 255 in the stored image's size; all zero, and False, for an image without a mask."""
        target = (self.size, self.size) if self.size else shape
        if record.mask is None:
            return images.encode_png(np.zeros(target, np.uint8)), False
        archive, name = self.archives[record.mask.archive], record.mask.name
        where = f"{archive.path}: {name}"
        mask = images.read_mask(archive.read(name), where, self.max_pixels)
        check_shape(where, mask.shape, shape, notes)
        fitted = np.ascontiguousarray(images.fit_square(mask, self.fit)) if self.size else mask
        resized = cv2.resize(fitted.astype(np.uint8) * 255, target[::-1], interpolation=cv2.INTER_AREA)
        return images.encode_png((resized > images.INSIDE).astype(np.uint8) * 255), True


def encode(
    data: bytes,
    pixels: UInt8[np.ndarray, "height width channels"],
    notes: Sequence[str],
    size: int | None,
    *,
    lossless: bool,
    bare: bool = False,
    fit: str = FITS[0],
) -> bytes:
    """The file that a data set stores of an image.

    Args:
      data: the file that was read.
      pixels, notes: what `images.read_pixels` gives for it.
      size, lossless, bare, fit: as in `Scanner`.
    """
    if size is None:
        # A file that any reader decodes to these pixels stays byte for byte.
        as_it_is = not notes and data.startswith((images.PNG_START, images.JPEG_START))
        file = without_metadata(data) if bare else data
        return file if as_it_is and file else images.encode_png(pixels)
    small = images.square(images.fit_square(pixels, fit), size)
    return images.encode_png(small) if lossless else images.encode_jpeg(small, JPEG_QUALITY)


def check_shape(mask: str, shape: Sequence[int], image: Sequence[int], notes: Sequence[str]) -> None:
    """Raises DamagedInput if a mask of `shape` does not fit an `image` (height, width) with these notes."""
    if is_alike(shape, image):
        return
    sizes = f"{mask} is {shape[1]}x{shape[0]} but its image is {image[1]}x{image[0]}"
    turned = next((note for note in notes if note.startswith(images.ORIENTATION)), None)
    if turned and is_alike(shape, image[::-1]):
        raise DamagedInput(
            f"{sizes} as it is shown: the image has the {turned} and the mask fits its pixels as they are stored. Draw "
            "the mask on the picture as it is shown, or take the orientation out of the image"
        )
    raise DamagedInput(f"{sizes}: the mask belongs to another image; take it out")


def is_alike(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes have the same aspect ratio, up to rounding."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) <= ASPECT_TOLERANCE


class Spool:
    """An unnamed temporary file of byte strings; it is gone with the process, however that ends."""

    def __init__(self, directory: Path):
        self._file = tempfile.TemporaryFile(dir=directory)
        self._end = 0

    @property
    def size(self) -> int:
        return self._end

    def add(self, data: bytes) -> tuple[int, int]:
        self._file.seek(self._end)
        self._file.write(data)
        self._end += len(data)
        return self._end - len(data), len(data)

    def get(self, place: tuple[int, int]) -> bytes:
        self._file.seek(place[0])
        return self._file.read(place[1])


def in_threads(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """function(item) of each item, in order, on all cores; only so many items are in memory at once."""
    workers = os.cpu_count() or 1
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
