"""The official files of LUNA16: which there are, and the tables as rows; a row that cannot be used is listed."""

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tfds_builders.common.archives import is_resource_fork
from tfds_builders.common.damage import Damaged
from tfds_builders.common.locations import Location, walk
from tfds_builders.common.tables import read_rows

HOMEPAGE = "https://luna16.grand-challenge.org"
FOLDS = 10
# Scans, and rows of the annotations.
PUBLISHED = {"scans": 888, "nodules": 1186}
ANNOTATIONS, CANDIDATES = "annotations.csv", "candidates_V2.csv"
EXCLUDED, PATIENTS = "annotations_excluded.csv", "PatientId_SeriesUID.csv"
PLACE = ("seriesuid", "coordX", "coordY", "coordZ")


@dataclass(frozen=True)
class Nodule:
    """Centre in the world, mm (x, y, z), and diameter, mm."""

    centre: tuple[float, float, float]
    diameter: float


@dataclass
class Tables:
    """Rows by series UID.

    Attributes:
      nodules: accepted by at least three of the four readers.
      excluded: findings that are neither nodules nor free of them.
      candidates: class 0, x, y, z after one another.
      damaged: rows that were left out, by table.
      rows: how many there were, by table.
    """

    nodules: dict[str, list[Nodule]] = field(default_factory=lambda: defaultdict(list))
    excluded: dict[str, list[Nodule]] = field(default_factory=lambda: defaultdict(list))
    candidates: dict[str, array] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    damaged: dict[str, list[Damaged]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, int] = field(default_factory=dict)

    def series(self) -> set[str]:
        """Every scan that a table names."""
        return {*self.nodules, *self.candidates}

    def candidates_of(self, uid: str) -> Float[np.ndarray, "n 3"]:
        return np.array(self.candidates[uid] if uid in self.candidates else ()).reshape(-1, 3)


def find_files(folder: Path, part: bool, advice: str) -> tuple[dict[int, Path], dict[str, Path]]:
    """Paths of the subsets (zip file, or the folder it unpacks to; with `part` those that are there, else all ten) and
    of the tables (plain or zipped, the optional ones where they are). FileNotFoundError names all that is missing.
    """
    found = {number: first_there(folder, (f"subset{number}.zip", f"subset{number}")) for number in range(FOLDS)}
    if part:
        found = {number: path for number, path in found.items() if path} or found
    tables = {
        name: first_there(folder, (name, f"{Path(name).stem}.zip"))
        for name in (ANNOTATIONS, CANDIDATES, EXCLUDED, PATIENTS)
    }
    missing = [f"subset{number}.zip" for number, path in found.items() if path is None]
    missing += [name for name in (ANNOTATIONS, CANDIDATES) if tables[name] is None]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} not found in {folder}. {advice}")
    return found, {name: path for name, path in tables.items() if path}


def first_there(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def find_scans(subsets: dict[int, Path]) -> dict[str, tuple[int, Location]]:
    """Fold and header file of each scan by its series UID. ValueError for a scan in two subsets."""
    scans: dict[str, tuple[int, Location]] = {}
    for fold, path in subsets.items():
        for location in walk(path):
            name = location.name
            if name.suffix != ".mhd" or is_resource_fork(name):
                continue
            if name.stem in scans:
                raise ValueError(f"the scan {name.stem} is at {scans[name.stem][1]} and at {location}: keep one")
            scans[name.stem] = fold, location
    return scans


def read_tables(paths: dict[str, Path]) -> Tables:
    """Annotations and candidates. ValueError if a table has not the official columns or no rows."""
    tables = Tables()
    for name, target in ((ANNOTATIONS, tables.nodules), (EXCLUDED, tables.excluded)):
        if name not in paths:
            continue
        for number, (place, row) in enumerate(read_rows(paths[name], (*PLACE, "diameter_mm")), 1):
            tables.rows[name] = number
            # Excluded findings without an outline have the diameter -1.
            numbers = to_numbers(row, (*PLACE[1:], "diameter_mm"))
            if numbers is None or (name == ANNOTATIONS and numbers[3] <= 0):
                reason = f"{row}: three coordinates and a diameter in mm are wanted"
                tables.damaged[name].append(Damaged(place, reason))
                continue
            nodule = Nodule(numbers[:3], max(numbers[3], 0.0))
            # Not the same row a second time.
            if nodule not in target[row["seriesuid"]]:
                target[row["seriesuid"]].append(nodule)
    for number, (place, row) in enumerate(read_rows(paths[CANDIDATES], (*PLACE, "class")), 1):
        tables.rows[CANDIDATES] = number
        numbers = to_numbers(row, PLACE[1:])
        if numbers is None or row["class"] not in ("0", "1"):
            reason = f"{row}: three coordinates in mm and the class 0 or 1 are wanted"
            tables.damaged[CANDIDATES].append(Damaged(place, reason))
        elif row["class"] == "0":
            tables.candidates[row["seriesuid"]].extend(numbers)
    return tables


def to_numbers(row: dict[str, str], columns: Sequence[str]) -> tuple[float, ...] | None:
    try:
        values = tuple(float(row[column]) for column in columns)
    except ValueError:
        return None
    return values if row["seriesuid"] and all(map(math.isfinite, values)) else None
