"""The official tables of ChestX-ray14 as rows: names of files and columns, published counts, what counts as wrong."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.radiographs import UNKNOWN, age_of, relative_box, sex_of
from tfds_builders.common.tables import read_header, read_rows

HOMEPAGE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
# In the order of the paper's tables.
LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
NO_FINDING = "No Finding"
# The table of boxes has another word for it.
BOX_FINDINGS = {"Infiltrate": "Infiltration"}
SIDE = 1024
# An image's name: the patient, and the number of the image.
NAME = re.compile(r"(\d+)_\d+")
ARCHIVES = 12
TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
TRAIN_VAL, TEST, BOXES = "train_val_list.txt", "test_list.txt", "BBox_List_2017.csv"
# 'Patient Gender' in one version, 'Patient Sex' in another.
COLUMNS = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "View Position")
SEX_COLUMNS = ("Patient Gender", "Patient Sex")
# The header's own commas split "Bbox [x,y,w,h]".
BOX_COLUMNS = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")

PUBLISHED = {
    "images": 112120, "patients": 30805, TRAIN_VAL: 86524, TEST: 25596, "PA": 67310, "AP": 44810,
    NO_FINDING: 60361, "Infiltration": 19894, "Effusion": 13317, "Atelectasis": 11559, "Nodule": 6331, "Mass": 5782,
    "Pneumothorax": 5302, "Consolidation": 4667, "Pleural_Thickening": 3385, "Cardiomegaly": 2776, "Emphysema": 2516,
    "Edema": 2303, "Fibrosis": 1686, "Pneumonia": 1431, "Hernia": 227,
}  # fmt: skip
PUBLISHED_BOXES = {"boxes": 984, "images with boxes": 880}


@dataclass(frozen=True)
class Row:
    """One image. `findings` is empty for 'No Finding'; `age` in years or NaN; sex and view 'unknown' where blank."""

    image_id: str
    patient_id: str
    findings: tuple[str, ...]
    follow_up: int
    age: float
    sex: str
    view: str


@dataclass(frozen=True)
class Box:
    """A finding that a radiologist marked."""

    finding: str
    box: tfds.features.BBox


def read_entries(path: Path, listed: Collection[str]) -> tuple[list[Row], list[Damaged], int]:
    """Rows, those that cannot be used, and how many ages were taken for errors.

    A row is damaged whose finding is none of the 14, whose numbers are none, whose patient is not the one of the
    image's name, or that is not in `listed`, the images of the official lists.

    Raises ValueError for a missing column or a doubled image.
    """
    sex_column = find_sex_column(path)
    rows: dict[str, Row] = {}
    damaged, odd_ages = [], 0
    for place, values in read_rows(path, (*COLUMNS, sex_column)):
        name = values["Image Index"]
        try:
            row = make_row(values, values[sex_column])
            if row.image_id not in listed:
                raise DamagedInput(f"in neither {TRAIN_VAL} nor {TEST}: use tables and lists of one release")
        except DamagedInput as error:
            damaged.append(Damaged(f"{place}: {name}", str(error)))
            continue
        if row.image_id in rows:
            raise ValueError(f"{place}: Image Index {name} occurs twice: keep one of the rows")
        rows[row.image_id] = row
        odd_ages += bool(values["Patient Age"]) and math.isnan(row.age)
    return list(rows.values()), damaged, odd_ages


def find_sex_column(path: Path) -> str:
    header = read_header(path)
    return next((name for name in SEX_COLUMNS if name in header), SEX_COLUMNS[0])


def make_row(values: Mapping[str, str], sex: str) -> Row:
    patient, follow_up, view = values["Patient ID"], values["Follow-up #"], values["View Position"]
    for column, value in (("Patient ID", patient), ("Follow-up #", follow_up)):
        if not value.isdecimal():
            raise DamagedInput(f"{column} is {value!r}: a whole number is wanted")
    image_id = stem_of(values["Image Index"])
    named = NAME.fullmatch(image_id)
    # As when one column of the table was sorted by itself.
    if named and int(named[1]) != int(patient):
        raise DamagedInput(f"Patient ID is {patient}, but the image is named after patient {int(named[1])}")
    return Row(
        image_id=image_id,
        # As in the names of the images.
        patient_id=f"{int(patient):08d}",
        findings=read_findings(values["Finding Labels"]),
        follow_up=int(follow_up),
        age=age_of(values["Patient Age"]),
        sex=sex_of(sex),
        view=view if view in ("PA", "AP") else UNKNOWN,
    )


def read_findings(value: str) -> tuple[str, ...]:
    findings = tuple(value.split("|"))
    if findings == (NO_FINDING,):
        return ()
    strange = [name for name in findings if name not in LABELS]
    if strange:
        raise DamagedInput(f"the finding {strange[0]!r} is none of {', '.join(LABELS)}, or {NO_FINDING} alone")
    return findings


def stem_of(name: str) -> str:
    if not name.endswith(".png") or "/" in name or "\\" in name:
        raise DamagedInput(f"Image Index is {name!r}: the name of a PNG file is wanted")
    return name.removesuffix(".png")


def read_lists(train_val: Path, test: Path) -> dict[str, str]:
    """For each listed image, the official list that has it. Raises ValueError for an image that is in both, or a list
    that names no image."""
    lists: dict[str, str] = {}
    for path, name in ((train_val, TRAIN_VAL), (test, TEST)):
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        images = [line.removesuffix(".png") for line in lines if line]
        if not images or not all(line.endswith(".png") for line in lines if line):
            raise ValueError(f"{path} is no list of PNG files, one a line: use the list as published")
        both = next((image for image in images if lists.get(image, name) != name), None)
        if both:
            raise ValueError(f"{both} is in {train_val} and in {test}: use the lists as published")
        lists |= dict.fromkeys(images, name)
    return lists


def check_patients(rows: Iterable[Row], lists: Mapping[str, str]) -> None:
    """Raises ValueError for a patient who is in both official lists."""
    seen: dict[str, Row] = {}
    for row in rows:
        other = seen.setdefault(row.patient_id, row)
        if lists[row.image_id] != lists[other.image_id]:
            raise ValueError(
                f"patient {row.patient_id} has {other.image_id} in {lists[other.image_id]} and {row.image_id} in "
                f"{lists[row.image_id]}: use tables and lists as published"
            )


def read_boxes(path: Path) -> tuple[dict[str, list[Box]], list[Damaged]]:
    """Boxes by image, and the rows that cannot be used; of equal rows one counts. ValueError for a missing column."""
    boxes: dict[str, list[Box]] = {}
    damaged: list[Damaged] = []
    seen: set[tuple[str, ...]] = set()
    for place, values in read_rows(path, BOX_COLUMNS):
        row = tuple(values.values())
        if row in seen:
            continue
        seen.add(row)
        try:
            finding = BOX_FINDINGS.get(values["Finding Label"], values["Finding Label"])
            if finding not in LABELS:
                raise DamagedInput(f"the finding {finding!r} is none of {', '.join(LABELS)}")
            box = relative_box(*(values[name] for name in BOX_COLUMNS[2:]), SIDE)
            boxes.setdefault(stem_of(values["Image Index"]), []).append(Box(finding, box))
        except DamagedInput as error:
            damaged.append(Damaged(place, str(error)))
    return boxes, damaged


def count(rows: Sequence[Row], lists: Mapping[str, str]) -> dict[str, int]:
    """What is published, counted in the rows."""
    counts = {"images": len(rows), "patients": len({row.patient_id for row in rows})}
    counts |= dict.fromkeys((TRAIN_VAL, TEST, "PA", "AP", NO_FINDING, *LABELS), 0)
    for row in rows:
        for name in (lists[row.image_id], row.view, *(row.findings or (NO_FINDING,))):
            counts[name] = counts.get(name, 0) + 1
    return counts
