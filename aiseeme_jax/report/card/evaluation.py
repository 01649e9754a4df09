"""The sections of an arm about its scores: metrics with intervals, calibration, gaps between subgroups."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from aiseeme_jax.curriculum.costs import HEADS
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.evaluate.masks import MaskScoring
from aiseeme_jax.report.card.markdown import write_table
from aiseeme_jax.report.contents import Contents
from aiseeme_jax.report.estimates import Cell, Estimates
from aiseeme_jax.report.measures.arms import MeasuredArm, collect_arms, list_classified
from aiseeme_jax.report.measures.everything import FOLDER
from aiseeme_jax.report.measures.groups import GapRow
from aiseeme_jax.report.measures.tables import CLASS_WISE, TOP_LABEL, CalibrationRow, MetricRow, tabulate_calibration
from aiseeme_jax.report.measures.words import describe_calibration, describe_measure, write_number, write_p
from aiseeme_jax.report.names import describe_target
from tfds_builders.common.tables import from_cell

# Gaps in the card: those that are least likely by chance.
LISTED = 8
COMMAND = "`python -m aiseeme_jax metrics WORKDIR`"
# Probabilities whose calibration is measured while a card is written: more take longer than seconds.
MOST_VALUES = 100_000
# Decimals of numbers in the files of the command `metrics` do not matter beyond this.
CLOSE = 1e-4


@dataclass(frozen=True)
class Score:
    """A headline metric of an arm on one target and share of the labels.

    Attributes:
      images, groups: of the test split; groups are lesions or patients.
      seeds: of the draw of labels and of fine-tuning.
    """

    target: str
    fraction: float
    metric: str
    words: str
    cell: Cell
    images: int
    groups: int
    seeds: int
    of_masks: bool


def list_scores(estimates: Estimates, arm: str) -> list[Score]:
    """The headline metrics of an arm on test images, on every share of the labels, the largest first."""
    contents, found = estimates.contents, []
    for target in contents.measured_targets():
        test = estimates.read_predictions(target)
        of_masks = estimates.scoring_of(target).kind == MaskScoring.kind
        sizes = len(test.ids), len(set(map(str, test.groups)))
        for fraction in reversed(contents.fractions_of(target)):
            runs = contents.runs_of(arm, target, fraction)
            for metric in estimates.headline_names(target):
                cell = estimates.estimate(arm, target, fraction, metric)
                if cell:
                    words = estimates.describe_metric(target, metric)
                    found.append(Score(target, fraction, metric, words, cell, *sizes, len(runs), of_masks))
    return found


def write_scores(scores: list[Score], cost: tuple[str, ...]) -> list[str]:
    """A table of scores, each with the cost of the pretraining under `costs.HEADS`."""
    head = ("Target", "Labels", "Metric", "Value", "95 % interval", "Test images", "Lesions or patients", "Seeds")
    rows = [
        (
            describe_target(one.target),
            in_words(one.fraction),
            one.words,
            one.cell.text,
            one.cell.interval.strip("[]"),
            f"{one.images:,}",
            f"{one.groups:,}",
            str(one.seeds),
            *cost,
        )
        for one in scores
    ]
    return write_table((*head, *HEADS), rows)


def write_calibration(workdir: Path, contents: Contents, arm: str) -> Iterator[str]:
    """A table of calibration errors on the largest share of the labels, beside what is there by chance.

    It takes what the command `metrics` found for these predictions. Otherwise it measures them, where that takes
    seconds.
    """
    rows, left_out = [], []
    if not any(contents.runs_of(arm, target) for target in list_classified(Estimates(contents))):
        yield "Not measured: there are no probabilities of classes or findings."
        yield ""
        return
    stored = _read_rows(workdir / FOLDER / "calibration.csv", CalibrationRow)
    for measured in collect_arms(contents, [_as_pattern(arm)], [], None):
        found = [row for row in stored if _is_of(row, measured)]
        if not (found and _is_of_these_predictions(workdir, measured)):
            if sum(probs.size for probs in measured.probs) > MOST_VALUES:
                left_out.append(measured.measured)
                continue
            found = list(tabulate_calibration(measured))
        for row in found:
            if row.of in (TOP_LABEL, CLASS_WISE):
                chance = write_number(row.ece_by_chance), write_number(row.ece_by_chance_95)
                rows.append((measured.measured, describe_calibration(row), write_number(row.ece), *chance))
    yield from write_table(("Target", "Measure", "Error", "By chance", "95 % of those by chance are below"), rows)
    if left_out:
        yield f"Not measured, since there are many test images: {', '.join(left_out)}. {COMMAND} measures it."
        yield ""


def _as_pattern(name: str) -> str:
    """A name in which nothing stands for anything else."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def write_gaps(workdir: Path, contents: Contents, arm: str) -> Iterator[str]:
    """A table of the gaps between subgroups that the command `metrics` found, or that it was not run."""
    rows = [row for row in _read_rows(workdir / FOLDER / "gaps.csv", GapRow) if row.arm == arm]
    known = {(row.target, row.fraction): row for row in rows}
    if not known:
        yield f"Not measured: {COMMAND} measures them where the data set tells test images apart by sex, age or site."
        yield ""
        return
    for measured in collect_arms(contents, [_as_pattern(arm)], [], None):
        if (measured.target, measured.fraction) not in known:
            yield f"{measured.measured}: not measured."
        elif not _is_of_these_predictions(workdir, measured):
            yield f"{measured.measured}: measured before the predictions changed; run {COMMAND} again."
        else:
            mine = [row for row in rows if (row.target, row.fraction) == (measured.target, measured.fraction)]
            yield from _write_gaps(measured, mine)
        yield ""


def _write_gaps(measured: MeasuredArm, rows: list[GapRow]) -> Iterator[str]:
    tested = sorted((row for row in rows if row.p == row.p), key=lambda row: (row.p, row.by_chance - row.gap))
    yield f"{measured.measured}: the {min(LISTED, len(tested))} least likely of {len(tested)} gaps."
    yield ""
    smallest = "Images (lesions or patients) of the smallest"
    head = "Attribute", "Metric", "Gap", "By chance", "p (Holm)", "Highest, lowest", smallest
    yield from write_table(
        head,
        [
            (
                row.attribute,
                describe_measure(row.metric, True),
                write_number(row.gap),
                f"{write_number(row.by_chance)} (95 %: {write_number(row.by_chance_95)})",
                f"{write_p(row.p)} ({write_p(row.p_holm)})",
                f"{row.highest}, {row.lowest}",
                f"{row.smallest} ({row.smallest_counted})",
            )
            for row in tested[:LISTED]
        ],
    )


def _is_of_these_predictions(workdir: Path, measured: MeasuredArm) -> bool:
    """Whether the files of `metrics` tell of the predictions that are there now, by the mean of a metric."""
    rows = _read_rows(workdir / FOLDER / "metrics.csv", MetricRow)
    known = {row.metric: row.value for row in rows if _is_of(row, measured)}
    shared = [name for name in measured.scores[0].names() if name in known]
    values = {name: sum(scores.of(name).value for scores in measured.scores) / len(measured.scores) for name in shared}
    return bool(shared) and all(math.isclose(values[name], known[name], abs_tol=CLOSE) for name in shared)


def _is_of(row: Any, measured: MeasuredArm) -> bool:
    return (row.arm, row.target, row.fraction) == (measured.arm, measured.target, measured.fraction)


def _read_rows(path: Path, kind: type) -> list[Any]:
    """The rows of a table of the command `metrics`; none if it was not run, or left another table."""
    if not path.exists():
        return []
    columns = [(column.name, column.type) for column in fields(kind)]
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    if lines and set(lines[0]) != {name for name, _ in columns}:
        return []
    return [kind(**{name: _read_cell(line[name], column) for name, column in columns}) for line in lines]


def _read_cell(text: str, column: type) -> object:
    if column is float:
        return float(text) if text else math.nan
    return int(text) if column is int else from_cell(text)
