"""Predictions and the table of results on disk.

`results.csv` is never the only copy of anything: each of its rows can be computed anew from the predictions
that lie beside it, with other metrics or another bootstrap.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int

from aiseeme_jax.evaluate import metrics
from aiseeme_jax.store import files, records

RESULTS = "results.csv"
PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Row:
    """One line of results.csv; `low` and `high` bound the 95 % interval and are NaN where there is none."""

    arm: str
    target: str
    fraction: float
    seed: int
    metric: str
    value: float
    low: float
    high: float


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Predictions:
    """What one run of one target said about each test image.

    Attributes:
      labels: the truth, int32 [N].
      probs: float32 [N, C].
      ids, groups: name, and lesion or patient, of each image.
      class_names: [C].
    """

    labels: Int[np.ndarray, "n"]
    probs: Float[np.ndarray, "n c"]
    ids: Sequence[str]
    groups: Sequence[str]
    class_names: Sequence[str]

    def __post_init__(self):
        rows, classes = self.probs.shape
        if not len(self.labels) == len(self.ids) == len(self.groups) == rows or len(self.class_names) != classes:
            raise ValueError(
                f"predictions do not fit together: {len(self.labels)} labels, {len(self.ids)} ids, "
                f"{len(self.groups)} groups and {len(self.class_names)} class names for probs {rows, classes}"
            )

    def by_id(self) -> "Predictions":
        """The same, in the order of the ids."""
        order = np.argsort(np.asarray(self.ids), kind="stable")
        rows = {name: np.asarray(getattr(self, name))[order] for name in ("labels", "probs", "ids", "groups")}
        return replace(self, **rows)


@dataclass(frozen=True)
class Run:
    """One finished run of a target, found in a workdir."""

    arm: str
    target: str
    fraction: float
    seed: int
    directory: Path


def save_predictions(directory: Path, predictions: Predictions) -> None:
    """Writes predictions.npz whole or not at all; only the first process writes."""
    if jax.process_index():
        return
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        labels=np.asarray(predictions.labels, np.int32),
        probs=np.asarray(predictions.probs, np.float32),
        **{name: np.array(list(getattr(predictions, name)), np.str_) for name in ("ids", "groups", "class_names")},
    )
    with files.replaced(directory / PREDICTIONS) as beside:
        beside.write_bytes(buffer.getvalue())


def load_predictions(directory: Path) -> Predictions:
    """Reads predictions.npz; ValueError names the file if it is damaged."""
    path = directory / PREDICTIONS
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Predictions(**{field.name: stored[field.name] for field in fields(Predictions)})
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is damaged ({error}): delete its folder and run again to predict anew") from error


def rows_of(run: Run, predictions: Predictions, *, samples: int, seed: int) -> list[Row]:
    """All metrics of one run, with intervals clustered by group."""
    measured = metrics.summary(
        predictions.labels,
        predictions.probs,
        groups=predictions.groups,
        samples=samples,
        seed=seed,
        class_names=predictions.class_names,
    )
    return [Row(run.arm, run.target, run.fraction, run.seed, **row) for row in measured]


def find_runs(workdir: Path, arms: Sequence[str] = ()) -> list[Run]:
    """Every run of a target that left predictions, by arm, target, descending fraction and seed.

    Args:
      arms: names in the wanted order; arms found beside them follow, 'curriculum' first, under the names of
        their folders.
    """
    names = {records.file_name(arm): arm for arm in arms}
    runs = []
    for path in workdir.glob(f"targets/*/*/*/{PREDICTIONS}"):
        arm, target, share = path.parts[-4:-1]
        found = re.fullmatch(r"fraction-([0-9.e+-]+)-seed-(\d+)", share)
        if found:
            runs.append(Run(names.get(arm, arm), target, float(found[1]), int(found[2]), path.parent))
    place = {arm: position for position, arm in enumerate(names.values())}
    order = lambda run: place.get(run.arm, len(place) + (run.arm != "curriculum"))  # noqa: E731
    return sorted(runs, key=lambda run: (order(run), run.arm, run.target, -run.fraction, run.seed))


def write_rows(workdir: Path, rows: Iterable[Row]) -> None:
    """Writes results.csv whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        *names, value, low, high = astuple(row)
        writer.writerow([*names, *("" if np.isnan(x) else f"{x:.6g}" for x in (value, low, high))])
    records.write_text(workdir / RESULTS, text.getvalue())


def read_rows(workdir: Path) -> list[Row]:
    """Reads results.csv; ValueError names the file and the line of what is wrong in it."""
    path = workdir / RESULTS
    rows = []
    with open(path, newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise ValueError(f"{path}, line 1: expected the columns {','.join(COLUMNS)}, found '{','.join(header)}'")
        for cells in reader:
            rows.append(_row(cells, path, reader.line_num))
    return rows


def _row(cells: list[str], path: Path, line: int) -> Row:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{path}, line {line}: expected {len(COLUMNS)} columns, found {len(cells)}")
    arm, target, fraction, seed, metric, *measured = cells
    try:
        values = [float(cell) if cell else float("nan") for cell in measured]
        return Row(arm, target, float(fraction), int(seed), metric, *values)
    except ValueError as error:
        raise ValueError(
            f"{path}, line {line}: {error}; without the file the report computes it from the predictions"
        ) from error
