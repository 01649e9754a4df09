"""The two files of nodules that were cut out beforehand: their arrays and their table."""

import dataclasses
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from tfds_builders.common.damage import Damaged, DamagedInput
from tfds_builders.common.tables import read_rows

ARRAYS, TABLE = "nodules_3x64x64.npz", "labels.csv"
IMAGES, VOTES = "image", "mask_votes"
COLUMNS = ("index", "patient_id", "nodule", "readers", "malignancy_ratings")
# Three neighbouring axial planes, and the side of each in pixels.
PLANES, SIDE = ("before", "middle", "behind"), 64
BENIGN, MALIGNANT = "benign", "malignant"
UNDECIDED = 3
RATINGS = range(1, 6)
STATISTICS = {"median": np.median, "mean": np.mean}

Crops = UInt8[np.ndarray, "n p h w"]


@dataclasses.dataclass(frozen=True)
class Nodule:
    """A row of the table.

    Attributes:
      place: row of the arrays.
      patient: its id.
      number: of the nodule, among those of the patient.
      readers: how many outlined it.
      ratings: of malignancy, 1 to 5.
    """

    place: int
    patient: str
    number: str
    readers: int
    ratings: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.patient}_{self.number}"

    def malignancy(self, statistic: str) -> float:
        """Median or mean of the ratings."""
        return float(STATISTICS[statistic](self.ratings))

    def label(self, statistic: str) -> str | None:
        """Below 3 benign, above 3 malignant, 3 neither."""
        malignancy = self.malignancy(statistic)
        return BENIGN if malignancy < UNDECIDED else MALIGNANT if malignancy > UNDECIDED else None

    def mask(self, votes: UInt8[np.ndarray, "p h w"]) -> UInt8[np.ndarray, "p h w"]:
        """1 where at least half of the readers marked the pixel."""
        return ((votes > 0) & (2 * votes.astype(int) >= self.readers)).astype(np.uint8)


def read_arrays(path: Path) -> tuple[Crops, Crops]:
    """Images and votes of the nodules. Raises ValueError for a file that is not of the form that README.md says."""
    try:
        with np.load(path) as file:
            images, votes = (file[name] for name in (IMAGES, VOTES))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of `{IMAGES}` and `{VOTES}` ({error}): write it again") from error
    shape = (len(PLANES), SIDE, SIDE)
    for name, found in ((IMAGES, images), (VOTES, votes)):
        if found.dtype != np.uint8 or found.shape[1:] != shape:
            raise ValueError(
                f"{path}: `{name}` is {found.dtype} {found.shape}; it must be uint8 {('N', *shape)}: write it again"
            )
    if len(images) != len(votes):
        raise ValueError(f"{path} has {len(images)} images and {len(votes)} votes: write it again")
    return images, votes


def read_nodules(path: Path, images: int) -> tuple[list[Nodule], list[Damaged]]:
    """The nodules of the table, and the rows that cannot be used.

    Args:
      images: how many there are in the arrays.

    Raises ValueError for a table that is none, and for a nodule or a place that is there twice.
    """
    nodules: list[Nodule] = []
    damaged: list[Damaged] = []
    for place, row in read_rows(path, COLUMNS):
        try:
            nodules.append(make_nodule(row, images))
        except DamagedInput as error:
            damaged.append(Damaged(place, str(error)))
    for what, values in (("nodule", [n.name for n in nodules]), ("index", [n.place for n in nodules])):
        (value, times), *_ = Counter(values).most_common(1) or [("", 0)]
        if times > 1:
            raise ValueError(f"{path}: the {what} {value} is there {times} times: keep one of the rows")
    return nodules, damaged


def make_nodule(row: dict[str, str], images: int) -> Nodule:
    """Raises DamagedInput for a row that cannot be used."""
    try:
        place, readers = int(row["index"]), int(row["readers"])
        ratings = tuple(int(rating) for rating in row["malignancy_ratings"].split("|"))
    except ValueError as error:
        raise DamagedInput(f"index, readers or malignancy_ratings is no whole number ({error})") from error
    if not 0 <= place < images:
        raise DamagedInput(f"index is {place}, but there are {images} images: it must be from 0 to {images - 1}")
    if not all(rating in RATINGS for rating in ratings):
        raise DamagedInput(f"malignancy_ratings are {row['malignancy_ratings']}: each must be from 1 to 5")
    if readers < 1 or not row["patient_id"] or not row["nodule"]:
        raise DamagedInput("a nodule needs patient_id, nodule and at least one reader")
    return Nodule(place, row["patient_id"], row["nodule"], readers, ratings)
