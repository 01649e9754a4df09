"""The tables of the report: numbers with their intervals, the best of each column marked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aiseeme_jax.evaluate import metrics, results
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.report.contents import Contents
from aiseeme_jax.report.measured import Cell, Incomparable, Measured, number
from aiseeme_jax.store import records
from aiseeme_jax.training.display import duration

NAMES = {
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "macro_f1": "F1",
    "macro_specificity": "Specificity, at the highest probability",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity, at the highest probability",
}
TARGETS = {"knn": "kNN", "linear": "Linear probe", "finetune": "Fine-tuning"}
PER_CLASS = ("sensitivity", "auroc", "average_precision")


@dataclass(frozen=True)
class Section:
    """Rows (arm, cells) under one heading, on one scale; `zero` is where 0 lies on it, if that is shown."""

    title: str
    rows: list[tuple[str, list[Cell | None]]]
    zero: float | None = None


@dataclass(frozen=True)
class Table:
    """Sections over the same columns: target, class or share of the labels -> heading."""

    columns: dict[str | float, str]
    sections: list[Section]


def headline(measured: Measured, names: Sequence[str]) -> Table | None:
    """Arms by targets for each metric, on the largest share of the labels."""
    contents = measured.contents
    columns = [(target, contents.fraction_of(target)) for target in contents.targets]
    columns = [(target, fraction) for target, fraction in columns if fraction is not None]
    sections = []
    for name in names:
        rows = [
            (arm, [measured.over_seeds(arm, target, fraction, name) for target, fraction in columns])
            for arm in contents.arms
        ]
        sections.append(_section(NAMES[name], rows))
    return _table(_headings(contents, [target for target, _ in columns]), sections)


def fractions(measured: Measured) -> Table | None:
    """Balanced accuracy of arms by shares of the labels, for each target that was measured with several."""
    contents = measured.contents
    shares = {target: contents.fractions_of(target) for target in contents.targets}
    shares = {target: found for target, found in shares.items() if len(found) > 1}
    columns = sorted({fraction for found in shares.values() for fraction in found})
    sections = []
    for target in shares:
        rows = [
            (arm, [measured.over_seeds(arm, target, fraction, "balanced_accuracy") for fraction in columns])
            for arm in contents.arms
        ]
        sections.append(_section(target_name(target), rows))
    return _table({fraction: in_words(fraction) for fraction in columns}, sections)


def per_class(measured: Measured, target: str) -> Table | None:
    """Arms by classes for the metrics that exist per class; in brackets the groups that hold the class."""
    contents = measured.contents
    fraction = contents.fraction_of(target)
    names = dict.fromkeys(row.metric.partition("/")[2] for row in contents.rows if "/" in row.metric)
    sections = []
    for metric in PER_CLASS:
        rows = [
            (arm, [measured.over_seeds(arm, target, fraction, f"{metric}/{name}") for name in names])
            for arm in contents.arms
        ]
        sections.append(_section(NAMES[metric], rows))
    held = measured.groups_of_classes(target)
    return _table({name: f"{name} ({held[name]:,})" if name in held else name for name in names}, sections)


def differences(measured: Measured) -> Table | None:
    """Balanced accuracy of each arm minus that of `scratch`, paired on the same test images."""
    contents = measured.contents
    targets = [target for target in contents.targets if contents.runs_of("scratch", target)]
    rows = [
        (arm, [_difference(measured, arm, "scratch", target) for target in targets])
        for arm in contents.arms
        if arm != "scratch"
    ]
    return _table(_headings(contents, targets), [_section("Balanced accuracy", rows, signed=True)])


def confusions(contents: Contents) -> list[dict[str, Any]]:
    """For each target, the last first, each arm's confusion in percent of the true class, over all seeds."""
    found = []
    for target in reversed(contents.targets):
        matrices = []
        for arm in contents.arms:
            loaded = [results.load_predictions(run.directory) for run in contents.runs_of(arm, target)]
            if loaded:
                counts = sum(metrics.confusion(p.labels, p.probs) for p in loaded)
                totals = sum(np.bincount(p.labels, minlength=len(p.class_names)) for p in loaded)
                percent = np.round(100 * counts / np.maximum(totals, 1)[:, None]).astype(int)
                names = list(loaded[0].class_names)
                matrices.append({"arm": arm, "names": names, "rows": list(zip(names, percent.tolist(), strict=True))})
        if matrices:
            found.append({"target": target, "matrices": matrices})
    return found


def stage_rows(contents: Contents) -> list[dict[str, str]]:
    """Length, speed, last loss and health of each stage."""
    rows = []
    for stage in contents.stages:
        last = {k: v for record in stage.metrics for k, v in record.items() if v is not None}
        record = {**last, "steps": last.get("step"), "final_loss": last.get("loss"), **(stage.done or {})}
        rows.append(
            {
                "arm": stage.arm,
                "task": stage.task,
                "steps": _plain(record.get("steps"), ",.0f"),
                "time": duration(record["seconds"]) if "seconds" in record else "–",
                "speed": _plain(record.get("images_per_second"), ",.0f"),
                "loss": _plain(record.get("final_loss"), ".3f"),
                "std": _plain(record.get("feature_std"), ".2f"),
                "rank": _plain(record.get("effective_rank"), ".1f"),
                "skipped": _plain(record.get("skipped_steps"), ".0f"),
                "state": "" if stage.done else "not finished",
            }
        )
    return rows


def chosen_rows(contents: Contents) -> list[dict[str, str]]:
    """What each run chose on validation, its score there, and whether the choice lies at an end of what was tried."""
    targets = {target["protocol"]: target for target in contents.config["targets"]} if contents.config else {}
    rows = []
    for run in contents.runs:
        done = records.read_done(run.directory) or {}
        choice, note = _choice(done, targets.get(run.target, {}))
        if choice:
            names = {"arm": run.arm, "target": target_name(run.target), "seed": str(run.seed)}
            found = {"choice": choice, "note": note, "score": _plain(done["validation_score"], ".3f")}
            rows.append({**names, "labels": f"{100 * run.fraction:g} %", **found})
    return rows


def target_name(target: str) -> str:
    """A target's name in words."""
    return TARGETS.get(target, target)


def _difference(measured: Measured, arm: str, reference: str, target: str) -> Cell | None:
    try:
        return measured.difference(arm, reference, target)
    except Incomparable:
        return None


def _choice(done: dict[str, Any], target: dict[str, Any]) -> tuple[str, str]:
    """The choice in the record of a run, in words, and a note; empty if there is none."""
    if "neighbours" in done:
        return f"k = {done['neighbours']}", _end_of_grid(done["neighbours"], target.get("neighbours", ()))
    if "strength" in done:
        return f"C = {done['strength']:g}", _end_of_grid(done["strength"], target.get("strengths", ()))
    if done.get("best_step"):
        note = "the last" if done["best_step"] == done["steps"] else ""
        return f"step {done['best_step']:,} of {done['steps']:,}", note
    return "", ""


def _end_of_grid(value: float, grid: Sequence[float]) -> str:
    if len(grid) < 2:
        return ""
    # A k that is not in the grid is all training rows, of which a candidate wanted more.
    if value == max(grid) or value not in grid:
        return "the largest tried"
    return "the smallest tried" if value == min(grid) else ""


def _section(title: str, rows: list[tuple[str, list[Cell | None]]], signed: bool = False) -> Section:
    """Places the cells on one scale and marks the best of each column."""
    rows = [(arm, cells) for arm, cells in rows if any(cells)]
    cells = [cell for _, row in rows for cell in row if cell]
    ends = [x for cell in cells for x in (cell.value, cell.low, cell.high) if np.isfinite(x)] + [0.0] * signed
    if not cells:
        return Section(title, [])
    floor, span = min(ends), max(max(ends) - min(ends), 1e-6)
    place = lambda x: round(100 * (x - floor) / span, 1) if np.isfinite(x) else 0.0  # noqa: E731
    columns = zip(*(row for _, row in rows), strict=True)
    tops = [max((cell.value for cell in column if cell), default=None) for column in columns]

    def placed(cell: Cell | None, top: float | None) -> Cell | None:
        if cell is None:
            return None
        best = len(rows) > 1 and cell.text == number(top, cell.signed)
        left, right = place(cell.low), place(cell.high)
        return replace(cell, best=best, left=left, width=round(right - left, 1), dot=place(cell.value))

    placed_rows = [(arm, [placed(c, t) for c, t in zip(row, tops, strict=True)]) for arm, row in rows]
    return Section(title, placed_rows, zero=place(0.0) if signed else None)


def _headings(contents: Contents, targets: Sequence[str]) -> dict[str, str]:
    fractions = {target: contents.fraction_of(target) for target in targets}
    share = {target: "" if f == 1 else f" ({100 * f:g} % of labels)" for target, f in fractions.items()}
    return {target: target_name(target) + share[target] for target in targets}


def _table(columns: dict[str, str], sections: list[Section]) -> Table | None:
    sections = [section for section in sections if section.rows]
    return Table(columns, sections) if sections else None


def _plain(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
