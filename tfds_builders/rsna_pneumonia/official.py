"""The official tables of the RSNA Pneumonia Detection Challenge as rows, and the published counts."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow_datasets as tfds

from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.radiographs import relative_box
from tfds_builders.common.tables import TablePath, read_rows

HOMEPAGE = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"
COMPETITION = "rsna-pneumonia-detection-challenge"
TRAIN, TEST = "stage_2_train_images", "stage_2_test_images"
LABELS, CLASS_INFO = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
MAPPING_ADDRESS = f"https://s3.amazonaws.com/east1.public.rsna.org/AI/2018/{MAPPING}"
LABEL_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
CLASS_COLUMNS = ("patientId", "class")
OPACITY = "Lung Opacity"
CLASSES = ("Normal", "No Lung Opacity / Not Normal", OPACITY)
SIDE = 1024
NIH_IMAGE = re.compile(r"(\d+)_\d+\.png")

PUBLISHED = {
    "images": 26684, "rows": 30227, "boxes": 9555, "target 1": 6012, "target 0": 20672,
    "Normal": 8851, "No Lung Opacity / Not Normal": 11821, OPACITY: 6012, "PA": 14511, "AP": 12173,
}  # fmt: skip
PUBLISHED_TEST = 3000


@dataclass
class Row:
    """One labelled image, and how many rows of the table it has."""

    image_id: str
    target: int
    label: str
    rows: int
    boxes: list[tfds.features.BBox] = field(default_factory=list)


def read_labels(labels: TablePath, class_info: TablePath) -> tuple[list[Row], list[Damaged]]:
    """One row per image, in the order of the table of labels, and the images that cannot be used.

    An image is damaged whose rows contradict each other: two targets or classes, an opacity without target 1, target 1
    without a box or 0 with one; that has no class, or a box that is none. Of equal rows one box is taken.

    Raises ValueError if a column is missing.
    """
    grouped: dict[str, list[dict[str, str]]] = {}
    for _, values in read_rows(labels, LABEL_COLUMNS):
        grouped.setdefault(values["patientId"], []).append(values)
    classes: dict[str, set[str]] = {}
    for _, values in read_rows(class_info, CLASS_COLUMNS):
        classes.setdefault(values["patientId"], set()).add(values["class"])
    rows, damaged = [], []
    for image_id, several in grouped.items():
        try:
            rows.append(make_row(image_id, several, classes.get(image_id, set())))
        except DamagedInput as error:
            damaged.append(Damaged(f"{labels}: {image_id or 'a blank patientId'}", str(error)))
    return rows, damaged


def make_row(image_id: str, several: Sequence[Mapping[str, str]], classes: set[str]) -> Row:
    if not image_id:
        raise DamagedInput("patientId is blank")
    targets = {values["Target"] for values in several}
    if len(targets) != 1 or not targets <= {"0", "1"}:
        raise DamagedInput(f"Target is {' and '.join(sorted(map(repr, targets)))}: 0 or 1 is wanted")
    if len(classes) != 1 or not classes <= set(CLASSES):
        shown = " and ".join(sorted(map(repr, classes))) or "none"
        raise DamagedInput(f"its class in {CLASS_INFO} is {shown}: one of {', '.join(CLASSES)} is wanted")
    target, label = int(targets.pop()), next(iter(classes))
    marked = [values for values in several if any(values[name] for name in LABEL_COLUMNS[1:5])]
    if target != (label == OPACITY) or bool(marked) != target or (target and len(marked) < len(several)):
        raise DamagedInput(f"Target {target}, the class {label!r} and {len(marked)} boxes do not go together")
    places = dict.fromkeys(tuple(values[name] for name in LABEL_COLUMNS[1:5]) for values in marked)
    boxes = [relative_box(*place, SIDE) for place in places]
    return Row(image_id, target, label, len(several), boxes)


def read_mapping(path: Path) -> dict[str, str]:
    """For each challenge image, the name of the NIH ChestX-ray14 image it was made from, without suffix.

    What is relied on: a JSON list of objects, with `subset_img_id` the id of the challenge and `img_id` the NIH file
    name `<patient>_<number>.png`. Raises ValueError for anything else.
    """
    try:
        entries = json.loads(path.read_text())
        pairs = {entry["subset_img_id"]: entry["img_id"] for entry in entries}
        strange = next((name for name in pairs.values() if not NIH_IMAGE.fullmatch(name)), None)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no list of objects with subset_img_id and img_id ({error}): take {MAPPING_ADDRESS}"
        ) from error
    if strange is not None or not pairs:
        raise ValueError(f"{path}: img_id {strange!r} is no name of an NIH image: take {MAPPING_ADDRESS}")
    return {image: name.removesuffix(".png") for image, name in pairs.items()}


def nih_patient(nih_image: str) -> str:
    """As `chestxray14` names the patient."""
    return f"{int(nih_image.split('_')[0]):08d}"


def count(rows: Sequence[Row], views: Mapping[str, str]) -> dict[str, int]:
    """What is published, counted in the rows."""
    counts = Counter({name: 0 for name in PUBLISHED})
    for row in rows:
        counts.update(("images", f"target {row.target}", row.label, views[row.image_id]))
        counts["rows"] += row.rows
        counts["boxes"] += len(row.boxes)
    return dict(counts)
