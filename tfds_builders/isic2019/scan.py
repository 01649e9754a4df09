"""The one pass over the images: decode each, note its digests, shorten it and keep the result for writing.

The splits need the content of every image (identical images must not be parted), and decoding is the dear
part, so the shortened images wait in an unnamed temporary file until the splits are known. `full` keeps
nothing and reads the archive again.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from tfds_builders.common import images
from tfds_builders.common.archives import Archive

JPEG_QUALITY = 95
# Relative difference of the aspect ratios of an image and its mask that rounding of their sizes can explain.
ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class Scanned:
    """What the pass found for one image: its digests and, if it was shortened, where the results lie in the
    spool.
    """

    file_sha256: str
    pixel_digest: bytes
    image: tuple[int, int] | None
    mask: tuple[int, int] | None
    has_mask: bool


class Spool:
    """An unnamed temporary file of byte strings; it is gone with the process, however that ends."""

    def __init__(self, directory: Path):
        self._file = tempfile.TemporaryFile(dir=directory)
        self._end = 0

    def add(self, data: bytes) -> tuple[int, int]:
        self._file.seek(self._end)
        self._file.write(data)
        self._end += len(data)
        return self._end - len(data), len(data)

    def get(self, place: tuple[int, int]) -> bytes:
        self._file.seek(place[0])
        return self._file.read(place[1])


@dataclass(frozen=True)
class Scanner:
    """Reads images, and masks if `masks` are given, and makes what the data set stores of them.

    Attributes:
      size: side of the stored square in pixels; None stores the image as it is.
      lossless: PNG instead of JPEG.
    """

    archive: Archive
    masks: Sequence[Archive]
    with_masks: bool
    size: int | None
    lossless: bool

    def scan(self, names: Sequence[str], spool: Spool) -> list[Scanned]:
        """Every image in order, on all cores; ValueError names the first that cannot be decoded."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                results = tqdm(pool.map(self._scan_one, names), total=len(names), desc="reading images", mininterval=1)
                return [
                    Scanned(file_sha256, digest, image and spool.add(image), mask and spool.add(mask), has_mask)
                    for file_sha256, digest, image, mask, has_mask in results
                ]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _scan_one(self, name: str) -> tuple[str, bytes, bytes | None, bytes | None, bool]:
        data = self.archive.read(name)
        pixels = images.decode_colour(data, f"{self.archive.path}: {name}")
        # Identical photographs count as identical whatever their file's header says.
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        mask, has_mask = self.encode_mask(name, pixels.shape[:2]) if self.with_masks else (None, False)
        image = self.encode(pixels) if self.size else None
        return hashlib.sha256(data).hexdigest(), digest, image, mask, has_mask

    def encode(self, pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
        small = images.square(pixels, self.size)
        return images.encode_png(small) if self.lossless else images.encode_jpeg(small, JPEG_QUALITY)

    def encode_mask(self, name: str, shape: tuple[int, int]) -> tuple[bytes, bool]:
        """PNG of 0 and 255 in the stored image's size; all zero, and False, for an image without a mask."""
        target = (self.size, self.size) if self.size else shape
        found = find_mask(self.masks, name)
        if found is None:
            return images.encode_png(np.zeros(target, np.uint8)), False
        archive, member = found
        mask = images.decode_mask(archive.read(member), f"{archive.path}: {member}")
        ratio = (mask.shape[0] * shape[1]) / (mask.shape[1] * shape[0])
        if abs(ratio - 1) > ASPECT_TOLERANCE:
            raise ValueError(
                f"{archive.path}: {member} is {mask.shape[1]}x{mask.shape[0]} but its image is "
                f"{shape[1]}x{shape[0]}: the mask belongs to another image; take it out"
            )
        inside = images.binary(mask).astype(np.uint8) * 255
        resized = cv2.resize(inside, target[::-1], interpolation=cv2.INTER_AREA)
        return images.encode_png(images.binary(resized).astype(np.uint8) * 255), True


def find_mask(masks: Sequence[Archive], name: str) -> tuple[Archive, str] | None:
    """The first archive that holds the mask of image `name`; a `_downsampled` image shares its original's
    mask.
    """
    for archive in masks:
        for stem in dict.fromkeys((name, name.removesuffix("_downsampled"))):
            if f"{stem}_segmentation" in archive:
                return archive, f"{stem}_segmentation"
    return None
