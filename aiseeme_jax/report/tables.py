"""The tables of the report: numbers with their intervals, the best of each column marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aiseeme_jax.curriculum.costs import cost_of_work
from aiseeme_jax.evaluate import metrics, results
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.evaluate.labels import ClassLabels
from aiseeme_jax.evaluate.over_seeds import format_number
from aiseeme_jax.evaluate.scoring import LOWER_IS_BETTER
from aiseeme_jax.report.contents import Contents
from aiseeme_jax.report.estimates import Cell, Estimates, Incomparable
from aiseeme_jax.report.names import METRICS, describe_target, within_sentence
from aiseeme_jax.training.display import duration

PER_CLASS = ("sensitivity", "auroc", "average_precision")

Row = tuple[str, list[Cell | None]]


@dataclass(frozen=True)
class Section:
    """Rows (arm, cells) under one heading, on one scale.

    Attributes:
      zero: where the vertical line is on the scale, in percent: at 0, or at chance; None if there is none.
      chance: the value of chance in words; '' if there is none.
    """

    title: str
    rows: list[Row]
    zero: float | None = None
    chance: str = ""


@dataclass(frozen=True)
class Table:
    """Sections over the same columns: target, class or share of the labels -> heading."""

    columns: dict[str | float, str]
    sections: list[Section]


def tabulate_metrics(estimates: Estimates, names: Sequence[str]) -> list[Table]:
    """Arms by targets for each metric, on the largest share of the labels.

    There is a table for each kind of predictions, with those of the metrics that exist for it.
    """
    contents = estimates.contents
    tables = []
    for targets in _group_by_kind(estimates, contents.measured_targets()):
        known = estimates.scoring_of(targets[0]).metrics
        sections = [_compare_arms(estimates, targets, name) for name in names if name in known]
        tables.append(make_table(_head_targets(contents, targets), sections))
    return [table for table in tables if table]


def tabulate_fractions(estimates: Estimates) -> Table | None:
    """The main metric of arms by shares of the labels, for each target that was measured with several."""
    contents = estimates.contents
    shares = {target: contents.fractions_of(target) for target in contents.targets}
    shares = {target: found for target, found in shares.items() if len(found) > 1}
    columns = sorted({fraction for found in shares.values() for fraction in found})
    sections = []
    for target in shares:
        metric = estimates.main_metric(target)
        rows = [
            (arm, [estimates.estimate(arm, target, fraction, metric) for fraction in columns]) for arm in contents.arms
        ]
        chance = estimates.chance(target)
        sections.append(make_section(title_with_metric(estimates, target), rows, chance=chance))
    return make_table({fraction: in_words(fraction) for fraction in columns}, sections)


def tabulate_classes(estimates: Estimates, target: str) -> Table | None:
    """Arms by classes or findings, for the metrics that each of them has.

    In brackets behind a name stands how many lesions or patients its interval rests on.
    """
    contents = estimates.contents
    fraction = contents.largest_fraction_of(target)
    scoring = estimates.scoring_of(target)
    groups, known = scoring.count_groups(), scoring.per_class
    sections = []
    for metric in PER_CLASS:
        if metric in known:
            rows = [
                (arm, [estimates.estimate(arm, target, fraction, f"{metric}/{name}") for name in groups])
                for arm in contents.arms
            ]
            chance = 0.5 if metric == "auroc" else None
            sections.append(make_section(METRICS[metric], rows, chance=chance))
    return make_table({name: f"{name} ({count:,})" for name, count in groups.items()}, sections)


def tabulate_differences(estimates: Estimates) -> list[Table]:
    """The main metric of each arm minus that of `scratch` of the same run, paired on the same test images.

    There is a table for each kind of predictions.
    """
    contents = estimates.contents
    references = {contents.reference_of(arm) for arm in contents.arms}
    targets = [
        target
        for target in contents.measured_targets()
        if any(contents.runs_of(reference, target) for reference in references)
    ]
    arms = [arm for arm in contents.arms if arm not in references]
    tables = []
    for alike in _group_by_kind(estimates, targets):
        rows = [(arm, [_subtract_scratch(estimates, arm, target) for target in alike]) for arm in arms]
        section = make_section(estimates.describe_metric(alike[0]), rows, signed=True)
        tables.append(make_table(_head_targets(contents, alike), [section]))
    return [table for table in tables if table]


def tabulate_confusions(estimates: Estimates) -> list[dict[str, Any]]:
    """For each target of classes, the last first, each arm's confusion in percent of the true class, over all seeds."""
    contents = estimates.contents
    found = []
    for target in reversed(contents.measured_targets()):
        if estimates.scoring_of(target).kind == ClassLabels.KIND:
            matrices = [_make_confusion(contents, arm, target) for arm in contents.arms]
            found.append({"target": target, "matrices": [matrix for matrix in matrices if matrix]})
    return found


def list_stages(contents: Contents) -> list[dict[str, str]]:
    """Length, speed, last loss and health of each stage."""
    rows = []
    for stage in contents.stages:
        last = {k: v for record in stage.metrics for k, v in record.items() if v is not None}
        record = {**last, "steps": last.get("step"), "final_loss": last.get("loss"), **(stage.record or {})}
        rows.append(
            {
                "arm": stage.arm,
                "task": stage.task,
                "steps": _format(record.get("steps"), ",.0f"),
                "time": duration(record["seconds"]) if "seconds" in record else "–",
                "speed": _format(record.get("images_per_second"), ",.0f"),
                "loss": _format(record.get("final_loss"), "z.3f"),
                "std": _format(record.get("feature_std"), ".2f"),
                "rank": _format(record.get("effective_rank"), ".1f"),
                "skipped": _format(record.get("skipped_steps"), ".0f"),
                "state": "" if stage.record else "not finished",
            }
        )
    return rows


def list_searches(contents: Contents) -> list[dict[str, Any]]:
    """The search of a learning rate and a batch size of each stage that had one: what was found, and its trials."""
    found = []
    for stage in contents.stages:
        search = (stage.record or {}).get("tuning")
        if search:
            sentences = " ".join([*search["sentences"], _describe_search_cost(search)])
            rows = [_describe_trial(trial) for trial in search["trials"]]
            found.append({"stage": stage, "score": search["score"], "sentences": sentences, "rows": rows})
    return found


def _describe_search_cost(search: Mapping[str, Any]) -> str:
    return f"It cost {search['images']:,} images and {duration(search['device_seconds'])} times devices."


def _describe_trial(trial: Mapping[str, Any]) -> dict[str, Any]:
    error = "" if trial["error"] is None else f"± {trial['error']:.3f}"
    return {
        "rate": f"{trial['learning_rate']:.3g}",
        "batch": f"{trial['batch_size']:,}",
        "length": f"{100 * trial['share']:.3g} %",
        "score": _format(trial["value"], ".3f"),
        "error": error,
        "state": trial["state"],
        "chosen": trial["state"] == "chosen",
        "time": duration(trial["seconds"]),
    }


def list_runs(contents: Contents) -> list[dict[str, str]]:
    """Each run that worked in the workdir: when, how it ended, what it spent, and what it was made with."""
    shown = contents.runs_shown or {"": contents}
    return [_describe_run(name, run) for name, one in shown.items() for run in one.made]


def _describe_run(name: str, run: Mapping[str, Any]) -> dict[str, str]:
    return {
        "run": name,
        "start": run["start"].removesuffix("+00:00").replace("T", " "),
        "time": duration(run["seconds"]) if "seconds" in run else "–",
        "energy": cost_of_work(run).energy,
        "outcome": run.get("outcome", "has not ended, or was killed"),
        "where": f"{run.get('devices', '?')} × {run['device']} on {run['host']}",
        "versions": ", ".join(f"{package} {version}" for package, version in run["versions"].items()),
        "commit": run["commit"] or "–",
        "command": run["command"],
    }


def list_choices(estimates: Estimates) -> list[dict[str, str]]:
    """What each run chose on validation, its score there, and whether the choice lies at an end of what was tried."""
    rows = []
    for run in estimates.contents.runs:
        choice, note = _describe_choice(run.record, estimates.contents.fields_of(run.target))
        if choice:
            rows.append(
                {
                    "arm": run.arm,
                    "target": describe_target(run.target),
                    "labels": f"{100 * run.fraction:g} %",
                    "seed": str(run.seed),
                    "choice": choice,
                    "note": note,
                    "metric": estimates.describe_metric(run.target),
                    "score": _format(run.record["validation_score"], ".3f"),
                }
            )
    return rows


def title_with_metric(estimates: Estimates, target: str) -> str:
    """A target and its main metric in words."""
    return f"{describe_target(target)}: {within_sentence(estimates.describe_metric(target))}"


def _group_by_kind(estimates: Estimates, targets: Sequence[str]) -> list[list[str]]:
    """Targets of one kind of predictions together: they have the same metrics."""
    groups: dict[str, list[str]] = {}
    for target in targets:
        groups.setdefault(estimates.scoring_of(target).kind, []).append(target)
    return list(groups.values())


def _compare_arms(estimates: Estimates, targets: Sequence[str], metric: str) -> Section:
    """One metric of all arms on targets of one kind of predictions."""
    fractions = [estimates.contents.largest_fraction_of(target) for target in targets]
    places = list(zip(targets, fractions, strict=True))
    rows = [
        (arm, [estimates.estimate(arm, target, fraction, metric) for target, fraction in places])
        for arm in estimates.contents.arms
    ]
    lower = metric in LOWER_IS_BETTER
    chances = {estimates.chance(target, metric) for target in targets}
    # Targets of data sets with other numbers of classes have no chance in common.
    chance = chances.pop() if len(chances) == 1 else None
    return make_section(estimates.describe_metric(targets[0], metric), rows, lower_is_better=lower, chance=chance)


def _subtract_scratch(estimates: Estimates, arm: str, target: str) -> Cell | None:
    try:
        return estimates.estimate_difference(arm, estimates.contents.reference_of(arm), target)
    except Incomparable:
        return None


def _make_confusion(contents: Contents, arm: str, target: str) -> dict[str, Any] | None:
    loaded = [results.load_predictions(run.directory) for run in contents.runs_of(arm, target)]
    if not loaded:
        return None
    counts = sum(metrics.confusion(p.labels, p.probs) for p in loaded)
    totals = sum(np.bincount(p.labels, minlength=len(p.class_names)) for p in loaded)
    percent = np.round(100 * counts / np.maximum(totals, 1)[:, None]).astype(int)
    names = list(map(str, loaded[0].class_names))
    return {"arm": arm, "names": names, "rows": list(zip(names, percent.tolist(), strict=True))}


def _describe_choice(record: dict[str, Any], target: dict[str, Any]) -> tuple[str, str]:
    """The choice in the record of a run, in words, and a note; empty if there is none."""
    if "neighbours" in record:
        return f"k = {record['neighbours']}", _describe_place(record["neighbours"], target["neighbours"])
    if "strength" in record:
        tried = target.get("system", target)["strengths"]
        return f"C = {record['strength']:g}", _describe_place(record["strength"], tried)
    if record.get("best_step"):
        note = "the last" if record["best_step"] == record["steps"] else ""
        return f"step {record['best_step']:,} of {record['steps']:,}", note
    return "", ""


def _describe_place(value: float, tried: Sequence[float]) -> str:
    """Whether a value is the smallest or the largest of those that were tried; '' if neither, or the only one."""
    if len(tried) < 2:
        return ""
    # A k that is not in the list is the number of all training images: a k of the list was larger than that.
    if value == max(tried) or value not in tried:
        return "the largest tried"
    return "the smallest tried" if value == min(tried) else ""


def make_section(
    title: str,
    rows: list[Row],
    signed: bool = False,
    *,
    lower_is_better: bool = False,
    chance: float | None = None,
) -> Section:
    """Puts the cells on one scale and marks the best of each column. Rows without any cell are left out.

    Args:
      signed: whether the cells are differences, whose scale shows 0.
      chance: a value that the scale shows and names.
    """
    rows = [(arm, cells) for arm, cells in rows if any(cells)]
    cells = [cell for _, row in rows for cell in row if cell]
    if not cells:
        return Section(title, [])
    ends = [x for cell in cells for x in (cell.value, cell.low, cell.high) if np.isfinite(x)]
    line = 0.0 if signed else chance
    if line is not None:
        ends.append(line)
    floor, span = min(ends), max(max(ends) - min(ends), 1e-6)
    columns = zip(*(row for _, row in rows), strict=True)
    find_best = min if lower_is_better else max
    tops = [find_best((cell.value for cell in column if cell), default=None) for column in columns]

    def place(x: float) -> float:
        return round(100 * (x - floor) / span, 1) if np.isfinite(x) else 0.0

    def place_cell(cell: Cell | None, top: float | None) -> Cell | None:
        if cell is None:
            return None
        best = len(rows) > 1 and cell.text == format_number(top, cell.signed)
        left, right = place(cell.low), place(cell.high)
        return replace(cell, best=best, left=left, width=round(right - left, 1), dot=place(cell.value))

    placed = [(arm, [place_cell(cell, top) for cell, top in zip(row, tops, strict=True)]) for arm, row in rows]
    named = "" if chance is None else format_number(chance)
    return Section(title, placed, zero=None if line is None else place(line), chance=named)


def _head_targets(contents: Contents, targets: Sequence[str]) -> dict[str, str]:
    """Headings of columns: the target, and the share of the labels where that is not all of them."""
    fractions = {target: contents.largest_fraction_of(target) for target in targets}
    shares = {target: "" if f == 1 else f" ({100 * f:g} % of labels)" for target, f in fractions.items()}
    return {target: describe_target(target) + shares[target] for target in targets}


def make_table(columns: dict[str | float, str], sections: list[Section]) -> Table | None:
    """None if no section has a row."""
    sections = [section for section in sections if section.rows]
    return Table(columns, sections) if sections else None


def _format(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
