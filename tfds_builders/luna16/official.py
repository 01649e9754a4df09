"""The official files of LUNA16: which there are, and the tables as rows; a row that cannot be used is listed."""

import csv
import io
import math
import zipfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from tfds_builders.common.archives import open_zip
from tfds_builders.common.damage import Damaged
from tfds_builders.common.locations import Location, walk

HOMEPAGE = "https://luna16.grand-challenge.org"
FOLDS = 10
SCANS = 888
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
      damaged: rows that were left out.
      rows: how many there were, by table.
    """

    nodules: dict[str, list[Nodule]] = field(default_factory=lambda: defaultdict(list))
    excluded: dict[str, list[Nodule]] = field(default_factory=lambda: defaultdict(list))
    candidates: dict[str, array] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    damaged: list[Damaged] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    def series(self) -> set[str]:
        """Every scan that a table names."""
        return {*self.nodules, *self.candidates}

    def candidates_of(self, uid: str) -> Float[np.ndarray, "n 3"]:
        return np.array(self.candidates[uid] if uid in self.candidates else ()).reshape(-1, 3)


def find_files(folder: Path, subsets: Sequence[int], advice: str) -> tuple[dict[int, Path], dict[str, Path]]:
    """Paths of the subsets (zip file, or the folder it unpacks to) and of the tables (plain or zipped, the optional
    ones where they are). FileNotFoundError names all that is missing.
    """
    names = {number: (f"subset{number}.zip", f"subset{number}") for number in subsets}
    found = {number: first_there(folder, names[number]) for number in subsets}
    tables = {
        name: first_there(folder, (name, f"{Path(name).stem}.zip"))
        for name in (ANNOTATIONS, CANDIDATES, EXCLUDED, PATIENTS)
    }
    missing = [f"subset{number}.zip" for number in subsets if found[number] is None]
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
            if name.suffix != ".mhd" or name.name.startswith("._") or "__MACOSX" in name.parts:
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
        for place, row in read_rows(paths[name], (*PLACE, "diameter_mm"), tables, name):
            # Excluded findings without an outline have the diameter -1.
            numbers = to_numbers(row, (*PLACE[1:], "diameter_mm"))
            if numbers is None or (name == ANNOTATIONS and numbers[3] <= 0):
                tables.damaged.append(Damaged(place, f"{row}: three coordinates and a diameter in mm are wanted"))
                continue
            target[row["seriesuid"]].append(Nodule(numbers[:3], max(numbers[3], 0.0)))
    for place, row in read_rows(paths[CANDIDATES], (*PLACE, "class"), tables, CANDIDATES):
        numbers = to_numbers(row, PLACE[1:])
        if numbers is None or row["class"] not in ("0", "1"):
            tables.damaged.append(Damaged(place, f"{row}: three coordinates in mm and the class 0 or 1 are wanted"))
        elif row["class"] == "0":
            tables.candidates[row["seriesuid"]].extend(numbers)
    return tables


def read_rows(path: Path, columns: Sequence[str], tables: Tables, name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(place for messages, values of the columns) of each row, counted in `tables.rows`."""
    with open_table(path, name) as file:
        reader = csv.DictReader(file)
        header = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = header
        missing = [column for column in columns if column not in header]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)} (its columns: {', '.join(header) or 'none'}): "
                             "use the table as published")  # fmt: skip
        tables.rows[name] = 0
        for row in reader:
            tables.rows[name] += 1
            yield f"{path}, line {reader.line_num}", {column: (row[column] or "").strip() for column in columns}
    if not tables.rows[name]:
        raise ValueError(f"{path} has a header but no rows: use the table as published")


def open_table(path: Path, name: str) -> io.TextIOBase:
    if path.suffix != ".zip":
        return open(path, newline="", encoding="utf-8-sig")
    archive: zipfile.ZipFile = open_zip(path)
    members = [member for member in archive.namelist() if Path(member).name == name and "__MACOSX" not in member]
    if len(members) != 1:
        raise ValueError(f"{path} should hold {name} once, but holds it {len(members)} times: download it again")
    return io.TextIOWrapper(archive.open(members[0]), encoding="utf-8-sig", newline="")


def to_numbers(row: dict[str, str], columns: Sequence[str]) -> tuple[float, ...] | None:
    try:
        values = tuple(float(row[column]) for column in columns)
    except ValueError:
        return None
    return values if row["seriesuid"] and all(map(math.isfinite, values)) else None


def read_patients(path: Path | None) -> dict[str, str]:
    """Patient of each series UID, from LIDC-IDRI's list (two columns, patient first; a header is passed over)."""
    if path is None:
        return {}
    with open_table(path, PATIENTS) as file:
        rows = [[value.strip() for value in row] for row in csv.reader(file) if row]
    if any(len(row) != 2 or not all(row) for row in rows) or not rows:
        raise ValueError(f"{path} must have two columns, patient id and series UID: use LIDC-IDRI's own list")
    return {uid: patient for patient, uid in rows}
