"""Which patches of a CT series are kept: in the body, the same ones every time, from upright thin slices."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int16

from tfds_builders.common import geometry
from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.locations import Location
from tfds_builders.common.metaimage import read_metaimage
from tfds_builders.common.plausibility import no_hounsfield
from tfds_builders.common.series import Series, read_series
from tfds_builders.common.volume_builder import Example, Extracted, Unit, facts

# A MetaImage file, or the files of a DICOM series.
Source = Location | list[Location]
# Less extent, mm, is too small a volume.
LEAST = 32
# Above the noise of air and below emphysema.
BODY_HU = -900
BODY_SHARE = 0.5
# Voxels along each side of the cube that are looked at to measure the share of body.
PROBES = 16
# Places tried per patch wanted.
TRIES = 20
# Slices further apart, mm, are for viewing: a cube of 1 mm would be mostly interpolated.
THICKEST = 5.0
# Cosine of the largest angle between the slices' normal and the body's axis.
AXIAL = 0.9


@dataclasses.dataclass(frozen=True)
class Cutter:
    """Makes the patches of a series. Pickles.

    Attributes:
      size: voxels along each side of a patch.
      spacing: whole mm between them. A patch is cut at 1 mm; more averages over blocks, so that a coarse patch shows
        what the fine one shows, without aliasing.
      patches: wanted from a series.
      seed: of the places.
    """

    size: int
    spacing: float
    patches: int
    seed: int

    @property
    def side(self) -> int:
        """Of the cube that a patch shows, mm."""
        return round(self.size * self.spacing)

    def __call__(self, unit: Unit) -> Extracted:
        series, notes, wrong = read_first(unit)
        if series is None:
            return Extracted((), {"notes": notes}, wrong)
        series = series.oriented()
        reason = unsuitable(series)
        found = [] if reason else self.cut(series, unit.name)
        if not reason and len(found) < self.patches:
            reason = f"only {len(found)} of {self.patches} patches: too little of the volume is body"
        examples = [self.example(series, unit, number, *item) for number, item in enumerate(found)]
        return Extracted(examples, facts(series, [*notes, *([reason] if reason else [])]), wrong)

    def cut(self, series: Series, name: str) -> list[tuple[Float[np.ndarray, "3"], Int16[np.ndarray, "s s s"]]]:
        """Voxel coordinates and voxels of the patches, from random places that depend on seed and name alone."""
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        shape, spacing = np.array(series.voxels.shape), np.array(series.spacing)
        margin = np.minimum(self.side / 2 / spacing - 0.5, (shape - 1) / 2)
        found = []
        for _ in range(TRIES * self.patches):
            if len(found) == self.patches:
                break
            centre = random.uniform(margin, shape - 1 - margin)
            if body_share(series, centre, self.side) >= BODY_SHARE:
                cube = geometry.patch(series.voxels, series.spacing, centre, self.side)
                found.append((centre, shrink(cube, self.size)))
        return found

    def example(
        self, series: Series, unit: Unit, number: int, centre: Float[np.ndarray, "3"], cube: Int16[np.ndarray, "s s s"]
    ) -> Example:
        image_id = f"{unit.name}_{number:03d}"
        world = geometry.to_world(centre, series.origin, series.spacing, series.direction)
        features: dict[str, Any] = {
            "volume": cube[..., None],
            "image_id": image_id,
            "patient_id": unit.group,
            "series_uid": unit.name,
            "centre": world.astype(np.float32),
            "original_spacing": np.array(series.spacing, np.float32),
        }
        return Example(image_id, features)


def read_first(unit: Unit) -> tuple[Series | None, list[str], list[Damaged]]:
    """The first volume of a unit's name whose values can be Hounsfield units, None if there is none; notes of the
    others that are none, such as a segmentation beside its scan; and what is damaged, or a second scan of the name.
    """
    first, notes, wrong = None, [], []
    for source in unit.source:
        try:
            series = read_metaimage(source) if isinstance(source, Location) else read_series(source)
        except DamagedInput as error:
            wrong.append(damaged(unit.name, source, str(error)))
            continue
        # Of a DICOM series the header says it.
        reason = no_hounsfield(series.voxels) if isinstance(source, Location) else ""
        if reason:
            notes.append(f"{source.name.name} is left out: {reason}")
        elif first is None:
            first = series
        else:
            wrong.append(damaged(unit.name, source, f"a second series of the name {unit.name}: keep one"))
    return first, notes, wrong


def path_of(source: Source) -> str:
    return str(source if isinstance(source, Location) else source[0])


def damaged(name: str, source: Source, reason: str) -> Damaged:
    """Users' folders and files are often called after patients: reports say a series' UID, and of a file its number
    in the order of paths.
    """
    if isinstance(source, Location):
        # Names of volumes stand in the clear, as their UIDs; those of folders do not.
        shown = reason.replace(str(source).removesuffix(source.name.name), "")
    else:
        numbers = {str(location): number for number, location in enumerate(source, 1)}
        shown = reason
        for path in sorted(numbers, key=len, reverse=True):
            shown = shown.replace(path, f"file {numbers[path]}")
    return Damaged(path_of(source), reason, (f"series {name}", shown))


def body_share(series: Series, centre: Float[np.ndarray, "3"], side: int) -> float:
    probe = geometry.patch(
        series.voxels, series.spacing, centre, PROBES, side / PROBES, geometry.NEAREST, outside=geometry.AIR
    )
    return float(np.mean(probe > BODY_HU))


def unsuitable(series: Series) -> str:
    """Why no patch is cut from a series; '' if one is."""
    if abs(series.direction[0, 2]) < AXIAL:
        return "no axial slices: a reformatted series"
    if series.spacing[0] > THICKEST:
        return f"slices {series.spacing[0]:g} mm apart: more than {THICKEST:g}"
    if min(extent(series)) < LEAST:
        return f"{' x '.join(f'{side:.0f}' for side in extent(series))} mm: smaller than {LEAST}"
    return ""


def extent(series: Series) -> Sequence[float]:
    """mm (z, y, x)."""
    return [n * step for n, step in zip(series.voxels.shape, series.spacing, strict=True)]


def shrink(cube: Int16[np.ndarray, "big big big"], size: int) -> Int16[np.ndarray, "size size size"]:
    """Means over blocks."""
    block = len(cube) // size
    if block == 1:
        return cube
    blocks = cube.reshape(size, block, size, block, size, block)
    return np.rint(blocks.mean((1, 3, 5))).astype(np.int16)
