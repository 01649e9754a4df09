"""The official tables of CheXpert as rows, what becomes of an uncertain label, and the published counts."""

import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.radiographs import UNKNOWN, age_of, sex_of
from tfds_builders.common.tables import TablePath, read_rows

HOMEPAGE = "https://stanfordmlgroup.github.io/competitions/chexpert/"
LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
# The small release, the full one in one piece, and the full one as it is given out now.
RELEASES = ("CheXpert-v1.0-small", "CheXpert-v1.0")
BATCHES = (
    "CheXpert-v1.0 batch 1 (validate & csv)",
    "CheXpert-v1.0 batch 2 (train 1)",
    "CheXpert-v1.0 batch 3 (train 2)",
    "CheXpert-v1.0 batch 4 (train 3)",
)
TRAIN, VALID = "train", "valid"
PATH, SEX, AGE, ORIENTATION, PROJECTION = "Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"
COLUMNS = (PATH, SEX, AGE, ORIENTATION, PROJECTION, *LABELS)
IMAGE_PATH = re.compile(r"(?:.*/)?(train|valid)/(patient\d+)/(study\d+)/(view\d+_(?:frontal|lateral)\.jpg)")
VIEW = re.compile(r"[A-Z]{2}")

POSITIVE, NEGATIVE, UNCERTAIN, BLANK = 1, 0, -1, -2
# What an uncertain label counts as, for each policy: of every observation, or of those named, the others being NaN.
POLICIES: Mapping[str, Mapping[str, float]] = {
    "ignore": {},
    "zeros": dict.fromkeys(LABELS, 0.0),
    "ones": dict.fromkeys(LABELS, 1.0),
    "mixed": {"Atelectasis": 1.0, "Edema": 1.0},
}

PUBLISHED = {
    "train images": 223414, "train patients": 64540, "train frontal AP": 161590, "train frontal PA": 29420,
    "train lateral": 32387, "valid images": 234, "valid studies": 200,
    **{f"uncertain {name}": number for name, number in (
        ("Atelectasis", 33739), ("Consolidation", 27742), ("Pneumonia", 18770), ("Edema", 12984),
        ("Enlarged Cardiomediastinum", 12403), ("Pleural Effusion", 11628), ("Cardiomegaly", 8087),
        ("Lung Opacity", 5598), ("Pneumothorax", 3145),
    )},
}  # fmt: skip


class Row(NamedTuple):
    """One image. `raw` holds 1, 0, -1 (uncertain) or -2 (blank: not mentioned) for each of LABELS."""

    part: str
    patient: str
    study: str
    file: str
    frontal: bool
    view: str
    age: float
    sex: str
    raw: tuple[int, ...]

    @property
    def name(self) -> str:
        """Path of the image below its part's folder."""
        return f"{self.patient}/{self.study}/{self.file}"


def read_part(path: TablePath, part: str) -> Iterator[Row | Damaged]:
    """The rows of train.csv or valid.csv; one whose label is none of 1, 0, -1 and blank, whose path is not that of an
    image of the part, or whose age is none, as Damaged.

    Raises ValueError if a column is missing.
    """
    for place, values in read_rows(path, COLUMNS):
        try:
            yield make_row(values, part)
        except DamagedInput as error:
            yield Damaged(f"{place}: {values[PATH]}", str(error))


def make_row(values: Mapping[str, str], part: str) -> Row:
    found = IMAGE_PATH.fullmatch(values[PATH])
    if found is None or found[1] != part:
        raise DamagedInput(f"the path is not …/{part}/patientNNNNN/studyN/viewN_frontal.jpg or _lateral.jpg")
    # Shared: a quarter of a million rows have few different ones.
    patient, study, file = map(sys.intern, found.groups()[1:])
    orientation = values[ORIENTATION]
    if orientation not in ("Frontal", "Lateral"):
        raise DamagedInput(f"{ORIENTATION} is {orientation!r}: Frontal or Lateral is wanted")
    view = values[PROJECTION]
    return Row(
        part=part,
        patient=patient,
        study=study,
        file=file,
        frontal=orientation == "Frontal",
        view=view if VIEW.fullmatch(view) else UNKNOWN,
        age=age_of(values[AGE]),
        sex=sex_of(values[SEX]),
        raw=raw_labels(tuple(values[name] for name in LABELS)),
    )


@cache
def raw_labels(values: tuple[str, ...]) -> tuple[int, ...]:
    raw = []
    for name, value in zip(LABELS, values, strict=True):
        try:
            number = float(value) if value else BLANK
        except ValueError:
            number = math.nan
        if value and number not in (POSITIVE, NEGATIVE, UNCERTAIN):
            raise DamagedInput(f"{name} is {value!r}: 1, 0, -1 or blank is wanted")
        raw.append(int(number))
    return tuple(raw)


@cache
def resolve(raw: tuple[int, ...], policy: str) -> tuple[float, ...]:
    """The labels to train on: uncertain ones after the policy, those that are not mentioned as 0."""
    uncertain = POLICIES[policy]
    meaning = {POSITIVE: 1.0, NEGATIVE: 0.0, BLANK: 0.0}
    return tuple(
        meaning[value] if value in meaning else uncertain.get(name, math.nan)
        for name, value in zip(LABELS, raw, strict=True)
    )


def check_rows(rows: Sequence[Row]) -> None:
    """Raises ValueError for a patient of both parts."""
    valid = {row.patient for row in rows if row.part == VALID}
    both = next((row.patient for row in rows if row.part == TRAIN and row.patient in valid), None)
    if both:
        raise ValueError(f"{both} is in train.csv and in valid.csv: use the tables as published")


def count(rows: Sequence[Row]) -> dict[str, int]:
    """What is published, counted in the rows."""
    counts = Counter({name: 0 for name in PUBLISHED})
    for row in rows:
        counts[f"{row.part} images"] += 1
        if row.part == TRAIN:
            counts[f"train frontal {row.view}" if row.frontal else "train lateral"] += 1
            counts.update(f"uncertain {LABELS[i]}" for i, value in enumerate(row.raw) if value == UNCERTAIN)
    counts["train patients"] = len({row.patient for row in rows if row.part == TRAIN})
    counts["valid studies"] = len({(row.patient, row.study) for row in rows if row.part == VALID})
    return dict(counts)
