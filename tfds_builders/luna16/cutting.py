"""The patches of a LUNA16 scan: its nodules, and places a detector took for nodules and readers did not."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from tfds_builders.common import geometry
from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.locations import Location
from tfds_builders.common.metaimage import read_metaimage
from tfds_builders.common.plausibility import no_hounsfield
from tfds_builders.common.series import Series
from tfds_builders.common.volume_builder import Example, Extracted, Unit, facts

from .official import Nodule

NODULE, NON_NODULE = "nodule", "non_nodule"
# A non-nodule lies at least this far, mm, from the surface of any finding.
CLEARANCE = 5.0


class Scan(NamedTuple):
    """What is known of a scan but its voxels."""

    location: Location
    fold: int
    nodules: Sequence[Nodule]
    non_nodules: Float[np.ndarray, "n 3"]


class Finding(NamedTuple):
    """A place to cut: its key within the scan, label, centre in the world, diameter (NaN for a non-nodule)."""

    key: str
    label: str
    centre: Sequence[float]
    diameter: float


@dataclasses.dataclass(frozen=True)
class Cutter:
    """Makes the patches of a scan. Pickles.

    Attributes:
      size: voxels along each side.
      spacing: mm between them.
    """

    size: int
    spacing: float

    def __call__(self, unit: Unit) -> Extracted:
        scan: Scan = unit.source
        series = read_metaimage(scan.location)
        if reason := no_hounsfield(series.voxels):
            raise DamagedInput(f"{reason}: replace it by the scan")
        flipped = bool((series.direction != geometry.ALIGNED).any())
        series = series.oriented()
        examples, damaged = [], []
        for finding in findings(scan):
            place = geometry.to_voxel(finding.centre, series.origin, series.spacing, series.direction)
            if (place < -0.5).any() or (place > np.array(series.voxels.shape) - 0.5).any():
                where = ", ".join(f"{value:g}" for value in finding.centre)
                damaged.append(Damaged(unit.path, f"the {finding.label} at ({where}) mm lies outside of the scan"))
                continue
            examples.append(self.example(series, unit, finding, place))
        notes = ["flipped axes (TransformMatrix), turned to the patient's frame"] if flipped else []
        return Extracted(examples, facts(series, notes), damaged)

    def example(self, series: Series, unit: Unit, finding: Finding, place: Float[np.ndarray, "3"]) -> Example:
        image_id = f"{unit.name}_{finding.key}"
        cube = geometry.patch(series.voxels, series.spacing, place, self.size, self.spacing)
        features: dict[str, Any] = {
            "volume": cube[..., None],
            "image_id": image_id,
            "patient_id": unit.group,
            "series_uid": unit.name,
            "centre": np.array(finding.centre, np.float32),
            "original_spacing": np.array(series.spacing, np.float32),
            "label": finding.label,
            "diameter_mm": finding.diameter,
            "fold": unit.source.fold,
        }
        return Example(image_id, features, (finding.label,))


def findings(scan: Scan) -> Iterator[Finding]:
    for number, nodule in enumerate(scan.nodules):
        yield Finding(f"nodule_{number:02d}", NODULE, nodule.centre, nodule.diameter)
    for number, centre in enumerate(scan.non_nodules.tolist()):
        yield Finding(f"non_nodule_{number:02d}", NON_NODULE, centre, float("nan"))


def choose(
    candidates: Float[np.ndarray, "n 3"], findings: Sequence[Nodule], number: int, uid: str, seed: int
) -> Float[np.ndarray, "m 3"]:
    """At most `number` of the candidates, clear of all findings; which ones depends on scan and seed alone, not on the
    order of the table.
    """
    if not len(candidates):
        return candidates
    clear = np.ones(len(candidates), bool)
    for finding in findings:
        distance = np.linalg.norm(candidates - np.array(finding.centre), axis=-1)
        clear &= distance >= finding.diameter / 2 + CLEARANCE
    rows = sorted(set(map(tuple, candidates[clear].tolist())), key=lambda row: draw(seed, uid, row))
    return np.array(rows[:number]).reshape(-1, 3)


def draw(seed: int, uid: str, centre: tuple[float, ...]) -> bytes:
    return hashlib.sha256(f"{seed}:{uid}:{centre}".encode()).digest()
