"""Predictions and the table of results on disk.

The predictions are the result. `results.csv` is made from them, and so it can be made again, with other metrics or
another bootstrap too.
"""

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate import imbalance
from aiseeme_jax.evaluate.features import DEFAULT_ENDPOINT
from aiseeme_jax.store import files, keys, records
from tfds_builders.common.tables import as_cell, from_cell

RESULTS = "results.csv"
PREDICTIONS = "predictions.npz"
# What the same classifier gave for the validation images: thresholds and temperatures are chosen on these.
VALIDATION = "validation.npz"


@dataclass(frozen=True)
class Row:
    """One line of results.csv; `low` and `high` bound the 95 % interval and are NaN where there is none.

    Attributes:
      pretraining_images and all after it: what the pretraining of the arm and this measurement cost; NaN where that is
        not known.
    """

    arm: str
    target: str
    fraction: float
    seed: int
    metric: str
    value: float
    low: float
    high: float
    pretraining_images: float = math.nan
    pretraining_device_seconds: float = math.nan
    pretraining_joules: float = math.nan
    measuring_device_seconds: float = math.nan
    measuring_joules: float = math.nan


# Columns of what the pretraining and the measurement cost.
PRETRAINING_COSTS = ("pretraining_images", "pretraining_device_seconds", "pretraining_joules")
COSTS = (*PRETRAINING_COSTS, "measuring_device_seconds", "measuring_joules")
COLUMNS = tuple(field.name for field in fields(Row))


class ImageRows:
    """Base of what a measurement stores, with a row for each test image. A subclass is a dataclass.

    Class attributes:
      TABLES: names of the fields that say which images these are, and what is true of them.
      ROWS: names of the fields with a row for each image.
    """

    TABLES: ClassVar[tuple[str, ...]]
    ROWS: ClassVar[tuple[str, ...]]

    def by_id(self) -> Self:
        """The same, in the order of the ids."""
        order = np.argsort(np.asarray(self.ids), kind="stable")
        return replace(self, **{name: np.asarray(getattr(self, name))[order] for name in self.ROWS})

    def differing_table(self, other: Self) -> str:
        """Name of the first of TABLES in which two differ; '' if none does.

        Findings that are not known are equal to each other.
        """
        for name in self.TABLES:
            one, two = np.asarray(getattr(self, name)), np.asarray(getattr(other, name))
            if not np.array_equal(one, two, equal_nan=one.dtype.kind == two.dtype.kind == "f"):
                return name
        return ""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All fields, in the types in which they are stored."""
        raise TypeError(f"{type(self).__name__} does not say how it is stored")


def _texts(values: Sequence[str]) -> Shaped[np.ndarray, "n"]:
    return np.array(list(values), np.str_)


@dataclass(frozen=True)
class Predictions(ImageRows):
    """The probabilities that one measurement gave for each test (or validation) image, and the truth.

    Attributes:
      labels: the truth: a class for each image, int32 [N], or findings, float32 [N, C] (1, 0, NaN: not known).
      probs: float32 [N, C].
      ids, groups: name, and lesion or patient, of each image.
      class_names: [C], of the classes or findings.
    """

    TABLES = ("ids", "class_names", "labels", "groups")
    ROWS = ("labels", "probs", "ids", "groups")

    labels: Int[np.ndarray, "n"] | Float[np.ndarray, "n c"]
    probs: Float[np.ndarray, "n c"]
    ids: Sequence[str]
    groups: Sequence[str]
    class_names: Sequence[str]

    def __post_init__(self):
        rows, classes = self.probs.shape
        labels = np.shape(self.labels)
        fits = labels in ((rows,), (rows, classes)) and len(self.ids) == len(self.groups) == rows
        if not fits or len(self.class_names) != classes:
            raise ValueError(
                f"predictions do not fit together: labels {labels}, {len(self.ids)} ids, {len(self.groups)} groups "
                f"and {len(self.class_names)} class names for probs {rows, classes}"
            )

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {
            "labels": np.asarray(self.labels, np.int32 if np.ndim(self.labels) == 1 else np.float32),
            "probs": np.asarray(self.probs, np.float32),
            **{name: _texts(getattr(self, name)) for name in ("ids", "groups", "class_names")},
        }


@dataclass(frozen=True)
class Overlaps(ImageRows):
    """What the masks that one measurement predicted have in common with the true ones, for each test image.

    `evaluate/masks.py` makes metrics of it.

    Attributes:
      common, predicted, true: int32 [N], pixels that are in both masks, in the predicted one, and in the true one.
      hausdorff95: float32 [N], distance in pixels of the stored image; NaN where it is undefined.
      ids, groups: name, and lesion or patient, of each image.
    """

    TABLES = ("ids", "true", "groups")
    COUNTS = ("common", "predicted", "true")
    ROWS = (*COUNTS, "hausdorff95", "ids", "groups")

    common: Int[np.ndarray, "n"]
    predicted: Int[np.ndarray, "n"]
    true: Int[np.ndarray, "n"]
    hausdorff95: Float[np.ndarray, "n"]
    ids: Sequence[str]
    groups: Sequence[str]

    def __post_init__(self):
        lengths = {name: len(getattr(self, name)) for name in self.ROWS}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the rows of the masks do not fit together: {lengths}")
        if (np.asarray(self.common) > np.minimum(self.predicted, self.true)).any():
            raise ValueError("more pixels are in both masks than in one of them")

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {
            **{name: np.asarray(getattr(self, name), np.int32) for name in self.COUNTS},
            "hausdorff95": np.asarray(self.hausdorff95, np.float32),
            **{name: _texts(getattr(self, name)) for name in ("ids", "groups")},
        }


AnyPredictions = Predictions | Overlaps


def save_predictions(directory: Path, predictions: AnyPredictions, name: str = PREDICTIONS) -> str:
    """Writes predictions.npz, or another file of them, whole or not at all, and returns its hex SHA-256.

    Only the first process writes; every one gets the hash.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **predictions.to_arrays())
    if not jax.process_index():
        with files.write_whole(directory / name, buffer.getbuffer().nbytes) as beside:
            beside.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def load_predictions(directory: Path, name: str = PREDICTIONS) -> AnyPredictions:
    """Reads predictions.npz, or another file of them.

    Raises MissingFile if it is not there, UserError that names it if it is damaged.
    """
    path = directory / name
    try:
        with np.load(path, allow_pickle=False) as stored:
            kind = Predictions if "probs" in stored else Overlaps
            return kind(**{field.name: stored[field.name] for field in fields(kind)})
    except FileNotFoundError:
        raise MissingFile(f"there is no {path}: run again to make it") from None
    except Exception as error:
        raise UserError(f"{path} is damaged ({error}): delete its folder and run again to predict once more") from error


def hash_predictions(directory: Path, name: str = PREDICTIONS) -> str:
    """Hex SHA-256 of predictions.npz, or of another file of them. Raises MissingFile if it is not there."""
    path = directory / name
    if not path.exists():
        raise MissingFile(f"there is no {path}: run again to make it")
    return keys.hash_file(path)


# Fields that the name of a target says, where they have another value than this.
NAMED_FIELDS = (
    ("endpoint", DEFAULT_ENDPOINT, "{}"),
    ("shots", 0, "{}shots"),
    ("trained", "all", "{}"),
    ("layer_decay", 1.0, "layer_decay({:g})"),
    ("test_views", "central", "{}"),
    ("label", "", "{}"),
)


def name_target(fields: Mapping[str, Any], default: str) -> str:
    """A target in results and report: its protocol, with what differs from the default.

    Such as 'knn'; 'knn:derm/64' where its data set is not that of the run; 'knn+stage2' where it measures another
    endpoint than the pooled features; 'svm+8shots' with so many labels of each class; 'finetune+focal' with a method
    against class imbalance that is not the default one; 'arl_cnn+plain' of a system whose `label` is 'plain';
    'linear:derm/64>other/64' where it is measured on the test images of another data set than that which it learns
    from.

    Args:
      fields: of the target.
      default: the data set of the run.
    """
    parts = [imbalance.describe(fields["imbalance"]) if "imbalance" in fields else ""]
    # A field, what it says where nothing is to be said, and how another value is written.
    for field, silent, written in NAMED_FIELDS:
        value = fields.get(field, silent)
        parts.append("" if value == silent else written.format(value))
    data = fields["data"] or default
    test = fields.get("test_data") or data
    where = "" if (data, test) == (default, default) else f":{data}" + ("" if test == data else f">{test}")
    return "+".join(filter(None, [fields["protocol"], *parts])) + where


def write_rows(workdir: Path, rows: Iterable[Row]) -> None:
    """Writes results.csv whole or not at all."""
    write_table(workdir / RESULTS, Row, rows, measured=("value", "low", "high", *COSTS))


def write_table(path: Path, kind: type, rows: Iterable[Any], *, measured: Sequence[str]) -> None:
    """Writes a table as CSV, whole or not at all.

    Args:
      kind: dataclass of a row, with a field for each column.
      measured: columns of numbers, which have six digits, or all if they are whole, and are empty where they are NaN.
    """
    columns = [field.name for field in fields(kind)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = {name: getattr(row, name) for name in columns}
        writer.writerow(
            _write_number(cell) if name in measured else as_cell(_write_on_one_line(str(cell)))
            for name, cell in cells.items()
        )
    records.write_text(path, text.getvalue())


def _write_number(value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"


def _write_on_one_line(name: str) -> str:
    """A name without line breaks and other control characters, as Python writes them: readers differ in these."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def read_rows(workdir: Path) -> list[Row]:
    """Reads results.csv. Raises UserError that names the file and the line of what is wrong in it."""
    path = workdir / RESULTS
    rows = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise UserError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}, found '{','.join(header)}'")
        for cells in reader:
            rows.append(_row(cells, path, reader.line_num))
    return rows


def _row(cells: list[str], path: Path, line: int) -> Row:
    if len(cells) != len(COLUMNS):
        raise UserError(f"{path}, line {line}: expected {len(COLUMNS)} columns, found {len(cells)}")
    arm, target, fraction, seed, metric, *measured = map(from_cell, cells)
    try:
        values = [float(cell) if cell else float("nan") for cell in measured]
        return Row(arm, target, float(fraction), int(seed), metric, *values)
    except ValueError as error:
        raise UserError(
            f"{path}, line {line}: {error}; the next run in this workdir writes the file anew, from the predictions"
        ) from error
