"""The nodules of a series: outlines joined to its slices, grouped, and cut out of its volume."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from tfds_builders.common import geometry
from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.locations import Location
from tfds_builders.common.series import Series, read_series
from tfds_builders.common.volume_builder import Example, Extracted, Unit, facts

from . import masks, views
from .annotations import MALIGNANCY, RATINGS, Annotation, Outline, Reading
from .clustering import MM, READERS, Grid, group

BENIGN, MALIGNANT = "benign", "malignant"
UNDECIDED = 3
STATISTICS = {"median": np.median, "mean": np.mean}
# Most annotations of one nodule in the collection: some readers outlined parts of a nodule separately.
ROWS = 8
# Share of the distance between slices by which an outline's position may miss its slice.
MISS = 0.25
VOLUME, VIEWS, PATCHES = "volume", "views", "patches"


class Source(NamedTuple):
    """Where a series lies, and what its readers found."""

    locations: Sequence[Location]
    reading: Reading


@dataclasses.dataclass(frozen=True)
class Nodule:
    """A nodule in a volume.

    Attributes:
      number: within the series.
      box: voxels that at least half of the readers enclosed.
      centre: mean index of those, (z, y, x).
      readers: how many readers outlined it.
      diameter: mm, see `masks.diameter`.
    """

    number: int
    annotations: tuple[Annotation, ...]
    box: masks.Box
    centre: tuple[float, float, float]
    readers: int
    diameter: float

    @property
    def ratings(self) -> Int[np.ndarray, "rows ratings"]:
        """One row per annotation, in the order of the readers; the rows left over are 0."""
        table = np.zeros((ROWS, len(RATINGS)), np.int32)
        table[: len(self.annotations)] = [one.ratings for one in self.annotations]
        return table

    def reach(self, spacing: Sequence[float]) -> float:
        """Greatest distance of its voxels' far sides from the centre along one axis, mm."""
        offsets = abs(np.argwhere(self.box.voxels) + self.box.corner - self.centre)
        return float(((offsets + 0.5) * spacing).max(initial=0))

    def malignancy(self, statistic: str) -> float:
        """Median or mean of all its annotations' ratings; NaN if none is valid."""
        values = [one.ratings[MALIGNANCY] for one in self.annotations if one.ratings[MALIGNANCY]]
        return float(STATISTICS[statistic](values)) if values else math.nan


def label_of(malignancy: float) -> str | None:
    """Below 3 benign, above 3 malignant, 3 (or unknown) neither."""
    return BENIGN if malignancy < UNDECIDED else MALIGNANT if malignancy > UNDECIDED else None


class Slices:
    """Finds the slice of an outline by its SOP Instance UID. The position decides where the UID cannot: where the XML
    gives one UID to two positions (LIDC-IDRI-0396), and where the slice was dropped for another one at its position.

    Attributes:
      heights: z of each slice in the patient's frame, mm.
      by_position: how many outlines were joined by position.
    """

    def __init__(self, series: Series, reading: Reading):
        self._index = {uid: i for i, uid in enumerate(series.sop_uids)}
        # As the files have it, like the XML; the origin is that of the even grid.
        above = series.positions - np.dot(series.origin, series.direction[0])
        self.heights = series.origin[2] + above * series.direction[0, 2]
        self._tolerance = MISS * series.spacing[0]
        places = {(one.sop_uid, one.z) for annotation in reading.annotations for one in annotation.outlines}
        self._doubtful = {uid for uid, count in Counter(uid for uid, _ in places).items() if count > 1}
        self.by_position = 0

    def __call__(self, outline: Outline) -> int:
        """Index of the slice. Raises DamagedInput if the series has it not."""
        if outline.sop_uid in self._index and outline.sop_uid not in self._doubtful:
            return self._index[outline.sop_uid]
        nearest = int(abs(self.heights - outline.z).argmin())
        if abs(self.heights[nearest] - outline.z) > self._tolerance:
            raise DamagedInput(
                f"the slice {outline.sop_uid} at {outline.z:g} mm is missing, but has an outline: complete the series"
            )
        self.by_position += 1
        return nearest


def find_nodules(
    series: Series, reading: Reading, clustering: str = MM
) -> tuple[list[Nodule], list[str], list[Damaged]]:
    """The nodules in the frame of `series.oriented()`, notes for the report, and the nodules that are left out because
    an outline lies in no slice or leaves the image; those keep their numbers.

    Args:
      clustering: MM or PYLIDC, see `clustering.group`, which may raise DamagedInput.
    """
    slice_of = Slices(series, reading)
    groups = group(
        reading.annotations, Grid(series.spacing, float(slice_of.heights.min()), series.thickness), clustering
    )
    notes = []
    if groups.crowded:
        notes.append(f"more than {READERS} annotations of one nodule, whatever the tolerance: readers outlined parts")
    elif groups.tolerance < groups.first:
        unit = "mm" if clustering == MM else "voxels"
        notes.append(f"tolerance of the grouping shrunk from {groups.first:g} to {groups.tolerance:.3g} {unit}")
    turned = [bool(row[abs(row).argmax()] < 0) for row in series.direction]
    nodules, damaged = [], []
    for number, members in enumerate(groups.members):
        annotations = tuple(reading.annotations[i] for i in members)
        try:
            check(annotations, series)
            box = masks.consensus(annotations, slice_of).reversed(series.voxels.shape, turned)
        except DamagedInput as error:
            damaged.append(Damaged(f"{reading.path}: nodule {number:02d} of {reading.series_uid}", str(error)))
            continue
        readers = len({one.session for one in annotations})
        diameter = masks.diameter(annotations, series.spacing)
        nodules.append(Nodule(number, annotations, box, box.centroid(), readers, diameter))
    if slice_of.by_position:
        notes.append(f"{slice_of.by_position} outlines joined to their slices by position, not by SOP Instance UID")
    return nodules, notes, damaged


def check(annotations: Sequence[Annotation], series: Series) -> None:
    if len(annotations) > ROWS:
        raise DamagedInput(
            f"{len(annotations)} annotations fall on one nodule, at most {ROWS} are known: wrong spacing?"
        )
    height, width = series.voxels.shape[1:]
    for outline in (one for annotation in annotations for one in annotation.outlines):
        low, high = outline.points.min(0), outline.points.max(0)
        if min(low) < 0 or high[0] >= width or high[1] >= height:
            raise DamagedInput(
                f"an outline at {outline.z:g} mm leaves the image of {width}x{height} pixels: another series?"
            )


@dataclasses.dataclass(frozen=True)
class Cutter:
    """Makes the examples of a series. Pickles.

    Attributes: as in the builder's config.
    """

    content: str
    size: int
    spacing: float
    statistic: str
    undecided: bool
    min_readers: int
    clustering: str

    def __call__(self, unit: Unit) -> Extracted:
        series = read_series(unit.source.locations)
        nodules, notes, damaged = find_nodules(series, unit.source.reading, self.clustering)
        series = series.oriented()
        listed = [self.summary(nodule, unit, series.spacing) for nodule in nodules]
        examples = [
            self.example(series, unit, nodule) for nodule, row in zip(nodules, listed, strict=True) if row["kept"]
        ]
        return Extracted(examples, {**facts(series, notes), "nodules": listed}, damaged)

    def summary(self, nodule: Nodule, unit: Unit, spacing: Sequence[float]) -> dict[str, Any]:
        """What the report says of a nodule, kept or not."""
        enough = nodule.readers >= self.min_readers
        return {
            "image_id": image_id(unit, nodule),
            "annotations": len(nodule.annotations),
            "readers": nodule.readers,
            **{statistic: nodule.malignancy(statistic) for statistic in STATISTICS},
            "mask_voxels": int(nodule.box.voxels.sum()),
            "fits": self.content == PATCHES or nodule.reach(spacing) <= self.size * self.spacing / 2,
            "kept": enough and (self.undecided or self.label(nodule) is not None),
        }

    def label(self, nodule: Nodule) -> str | None:
        return label_of(nodule.malignancy(self.statistic))

    def example(self, series: Series, unit: Unit, nodule: Nodule) -> Example:
        label = self.label(nodule)
        centre = geometry.to_world(np.array(nodule.centre), series.origin, series.spacing, series.direction)
        features = {
            **self.pixels(series, nodule),
            "has_mask": bool(nodule.box.voxels.any()),
            "image_id": image_id(unit, nodule),
            "patient_id": unit.group,
            "series_uid": unit.name,
            "centre": centre.astype(np.float32),
            "original_spacing": np.array(series.spacing, np.float32),
            "label": -1 if label is None else label,
            "malignancy_median": nodule.malignancy("median"),
            "malignancy_mean": nodule.malignancy("mean"),
            "ratings": nodule.ratings,
            "readers": nodule.readers,
            "diameter_mm": nodule.diameter,
        }
        return Example(image_id(unit, nodule), features, () if label is None else (label,))

    def pixels(self, series: Series, nodule: Nodule) -> dict[str, Any]:
        volume = series.voxels, nodule.box, series.spacing, nodule.centre
        if self.content == VIEWS:
            images, mask = views.nine_views(*volume, self.size, self.spacing)
            return {"views": images, "mask": mask}
        if self.content == PATCHES:
            patches, mask, sides = views.nodule_patches(*volume, self.size)
            return {"patches": patches, "mask": mask, "side_mm": sides}
        cube = geometry.patch(series.voxels, series.spacing, nodule.centre, self.size, self.spacing)
        local = np.array(nodule.centre) - nodule.box.corner
        inside = nodule.box.voxels.astype(np.uint8)
        mask = geometry.patch(inside, series.spacing, local, self.size, self.spacing, order=geometry.NEAREST)
        return {"volume": cube[..., None], "mask": mask[..., None]}


def image_id(unit: Unit, nodule: Nodule) -> str:
    return f"{unit.name}_{nodule.number:02d}"
