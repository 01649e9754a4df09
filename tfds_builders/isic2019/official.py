"""The official tables of ISIC 2019 as rows: names of files and columns, and what counts as a wrong table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.isic import one_hot_label
from tfds_builders.common.tables import read_table

IMAGES = "ISIC_2019_Training_Input"
GROUND_TRUTH = "ISIC_2019_Training_GroundTruth.csv"
METADATA = "ISIC_2019_Training_Metadata.csv"
# Official order of the columns; UNK is a class of the challenge's test set only.
CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
UNKNOWN_CLASS = "UNK"
METADATA_COLUMNS = ("age_approx", "anatom_site_general", "lesion_id", "sex")
# First the masks of the HAM10000 part, then those of the challenges that share images with 2019.
MASKS = (
    "HAM10000_segmentations_lesion_tschandl",
    "ISIC2018_Task1_Training_GroundTruth",
    "ISIC-2017_Training_Part1_GroundTruth",
)

ADDRESS = "https://isic-challenge-data.s3.amazonaws.com/2019"
URLS = {name: f"{ADDRESS}/{name}" for name in (f"{IMAGES}.zip", GROUND_TRUTH, METADATA)}
HOMEPAGE = "https://challenge.isic-archive.com/data/#2019"


@dataclass(frozen=True)
class Row:
    """One labelled image. `lesion_id` is the image's own id where the table has none; age NaN, sex and site
    'unknown'.
    """

    image_id: str
    label: str
    lesion_id: str
    age: float
    sex: str
    site: str


def read_rows(ground_truth: Path, metadata: Path) -> tuple[list[Row], list[Damaged], dict]:
    """Rows of the 8 classes in the order of the ground truth, those that cannot be used, and what the report says.

    A row labelled UNK is no training image: it is left out and listed. Metadata of unlabelled images is not
    used. A row is damaged that is not one-hot, has no metadata, or an age that is no number.

    Raises ValueError if a column is missing or no row is left.
    """
    labels = read_table(ground_truth, "image", (*CLASSES, UNKNOWN_CLASS))
    details = read_table(metadata, "image", METADATA_COLUMNS)
    rows, damaged, left_out, without_lesion = [], [], [], 0
    for image_id, values in labels.items():
        try:
            label = one_hot_label(values, image_id, ground_truth)
            if label == UNKNOWN_CLASS:
                left_out.append({"image": image_id, "reason": "labelled UNK, which is not a training class"})
                continue
            if image_id not in details:
                raise DamagedInput(f"not in {metadata}: use both tables of one release")
            rows.append(make_row(image_id, label, details[image_id], metadata))
        except DamagedInput as error:
            damaged.append(Damaged(f"{ground_truth}: {image_id}", str(error)))
            continue
        without_lesion += not details[image_id]["lesion_id"]
    if not rows and not damaged:
        raise ValueError(f"{ground_truth} has no row of the classes {', '.join(CLASSES)}: use the table as published")
    return rows, damaged, {"left_out": left_out, "images_without_lesion_id": without_lesion}


def make_row(image_id: str, label: str, details: Mapping[str, str], path: Path) -> Row:
    try:
        age = float(details["age_approx"] or "nan")
    except ValueError:
        age = math.inf
    if math.isinf(age):
        raise DamagedInput(f"{path}: the age of {image_id} is {details['age_approx']!r}: a number or blank is wanted")
    return Row(
        image_id=image_id,
        label=label,
        lesion_id=details["lesion_id"] or image_id,
        age=age,
        sex=details["sex"] or "unknown",
        site=details["anatom_site_general"] or "unknown",
    )
