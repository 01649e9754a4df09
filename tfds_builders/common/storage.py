"""What a data set stores of an image file or of a CT volume, as its readers get it: for images of other sources, which
must come to a network as the images came that it was trained on.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int16, UInt8

from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.formats import MAX_PIXELS

# Decoders are imported by those only who read or resize: files of weights are described without them.
if TYPE_CHECKING:
    from tfds_builders.common.series import Series

# How an image comes to a square: `images.fit_square`.
FITS = ("squeeze", "pad", "crop")
# Data sets whose coarse patches are means over blocks of voxels (`ct_patches/cutting.py`); others sample voxels.
AVERAGING = frozenset(("ct_patches",))


@dataclasses.dataclass(frozen=True)
class ImageStorage:
    """How a data set stores an image.

    Attributes:
      size: side of the stored square in pixels; None: as the file is.
      channels: 3 or 1.
      lossless: PNG instead of JPEG of quality 95.
      resized: side of the square to which stored images are resized when they are read; None: not at all.
      fit: one of `FITS`, if `size` is not None.
    """

    size: int | None
    channels: int
    lossless: bool = True
    resized: int | None = None
    fit: str = FITS[0]

    def __post_init__(self):
        if self.fit not in FITS:
            raise ValueError(f"stored fit is {self.fit!r}: known are {', '.join(FITS)}")

    def read(self, data: bytes, name: str, max_pixels: float = MAX_PIXELS) -> UInt8[np.ndarray, "h w c"]:
        """The pixels of an image file as readers of such a data set get them.

        Raises DamagedInput, as `images.read_pixels`.
        """
        from tfds_builders.common.images import read_pixels
        from tfds_builders.common.scan import encode

        pixels, notes = read_pixels(data, name, self.channels, max_pixels)
        if self.size is None:
            pixels = _decode(encode(data, pixels, notes, None, lossless=self.lossless))
        else:
            pixels = self._square(pixels)
        return self._resize(pixels)

    def make(self, pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        """The same of pixels in memory, of `channels` channels. Those of the stored size are taken for stored ones."""
        if self.size is not None and pixels.shape[:2] != (self.size, self.size):
            pixels = self._square(pixels)
        return self._resize(pixels)

    def _resize(self, pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        if self.resized is None:
            return pixels
        from tfds_builders.common.images import square

        return square(pixels, self.resized)

    def _square(self, pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
        from tfds_builders.common.images import encode_jpeg, fit_square, square
        from tfds_builders.common.scan import JPEG_QUALITY

        small = square(fit_square(pixels, self.fit), self.size)
        return small if self.lossless else _decode(encode_jpeg(small, JPEG_QUALITY))


@dataclasses.dataclass(frozen=True)
class VolumeStorage:
    """How a data set stores a cube of a CT volume.

    Attributes:
      size: voxels along each side.
      spacing: mm between them.
      averaged: a spacing of whole mm averages over blocks of 1 mm.
    """

    size: int
    spacing: float
    averaged: bool = False

    @property
    def side(self) -> float:
        """Of the cube, mm."""
        return self.size * self.spacing

    def cut(self, series: "Series", centre: Sequence[float] | None = None) -> Int16[np.ndarray, "s s s 1"]:
        """The cube about a point, in HU, axes z, y, x.

        Args:
          centre: x, y, z in the patient's frame, mm; None: the volume is the cube.

        Raises DamagedInput for values that are no HU, for a centre outside of the volume, and without a centre for a
        volume of other sides than the cube.
        """
        from tfds_builders.common import geometry
        from tfds_builders.common.plausibility import FEWEST_VALUES, count_values, no_hounsfield

        # A cube that was cut already may hold tissue alone.
        few = centre is None and np.count_nonzero(count_values(series.voxels)) < FEWEST_VALUES
        reason = f"fewer than {FEWEST_VALUES} values, as of a segmentation" if few else ""
        if reason := reason or (centre is not None and no_hounsfield(series.voxels)):
            raise DamagedInput(f"{reason}: give a CT volume in Hounsfield units")
        series = series.oriented()
        shape, spacing = np.array(series.voxels.shape), np.array(series.spacing)
        if centre is None:
            if (abs(shape * spacing - self.side) > np.maximum(spacing, self.spacing)).any():
                found = " x ".join(f"{side:.0f}" for side in shape * spacing)
                raise DamagedInput(
                    f"the volume is {found} mm, but the model looks at cubes of {self.side:g} mm: say where, in the "
                    "columns x, y, z of a table, mm in the patient's frame"
                )
            place = (shape - 1) / 2
        else:
            place = geometry.to_voxel(np.array(centre), series.origin, series.spacing, series.direction)
            if (place < -0.5).any() or (place > shape - 0.5).any():
                where = ", ".join(f"{value:g}" for value in centre)
                raise DamagedInput(f"the centre ({where}) mm lies outside of the volume")
        if not self.averaged:
            return geometry.patch(series.voxels, series.spacing, place, self.size, self.spacing)[..., None]
        from tfds_builders.ct_patches.cutting import shrink

        return shrink(geometry.patch(series.voxels, series.spacing, place, round(self.side)), self.size)[..., None]


Storage = ImageStorage | VolumeStorage


def storage_of(fields: dict[str, Any]) -> Storage:
    """The storage with these fields. Raises TypeError if there is none, ValueError for a value out of its range."""
    made = VolumeStorage(**fields) if "spacing" in fields else ImageStorage(**fields)
    numbers = {name: value for name, value in fields.items() if name not in ("lossless", "averaged", "fit")}
    for name, value in numbers.items():
        if value is not None and not (isinstance(value, int | float) and value > 0):
            raise ValueError(f"stored {name} is {value!r}")
    return made


def fields_of(storage: Storage) -> dict[str, Any]:
    """The fields that `storage_of` reads, without `fit` where it is the only one that older versions had."""
    return {name: value for name, value in vars(storage).items() if (name, value) != ("fit", FITS[0])}


def _decode(file: bytes) -> UInt8[np.ndarray, "h w c"]:
    """As TFDS decodes a stored image."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels[..., None] if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
