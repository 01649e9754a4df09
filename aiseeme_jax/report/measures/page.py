"""The page of the command `metrics`: reliability diagrams, decision curves, subgroups, and the tables behind them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from aiseeme_jax.curriculum.costs import HEADS, MEASURING
from aiseeme_jax.evaluate.labels import ClassLabels
from aiseeme_jax.evaluate.over_seeds import format_number
from aiseeme_jax.evidence import reliability
from aiseeme_jax.report.charts import PLAIN, Line, choose_tone, draw_lines
from aiseeme_jax.report.contents import Contents
from aiseeme_jax.report.dots import Dot, draw_dots
from aiseeme_jax.report.measures.arms import AS_STORED, MeasuredArm, binary
from aiseeme_jax.report.measures.differences import OBUCHOWSKI, OVERALL
from aiseeme_jax.report.measures.everything import Measures, Request
from aiseeme_jax.report.measures.tables import CLASS_WISE, TOP_LABEL
from aiseeme_jax.report.measures.words import (
    HOW_TO_READ,
    describe_calibration,
    describe_measure,
    write_interval,
    write_number,
    write_p,
)
from aiseeme_jax.report.templates import load_template
from aiseeme_jax.store import records

PAGE = "metrics.html"
# Bins of a reliability diagram, of equal mass.
BINS = 10
# Classes or findings with figures, where the user names none; gaps in the table.
SHOWN, LISTED = 8, 30
UNIT = [(value / 5, f"{value / 5:.1f}") for value in range(6)]

Figures = list[tuple[str, Markup]]


@dataclass(frozen=True)
class Section:
    """What the page shows of one target."""

    title: str
    facts: str
    arms: list[tuple[str, str]]
    numbers: list[tuple[str, list[tuple[str, str]]]]
    costs: list[tuple[str, list[tuple[str, str]]]]
    calibration: list[tuple[str, list[tuple[str, str]]]]
    reliability: Figures
    curves: Figures
    subgroups: Figures
    gaps: list[tuple[str, ...]]
    differences: list[tuple[str, ...]]


def write_page(folder: Path, contents: Contents, found: Measures, asked: Request) -> Path:
    """Writes `metrics.html` whole or not at all, and returns its path."""
    records.write_text(folder / PAGE, render(contents, found, asked))
    return folder / PAGE


def render(contents: Contents, found: Measures, asked: Request) -> str:
    """The page as HTML."""
    targets = dict.fromkeys((arm.target, arm.fraction) for arm in found.arms)
    sections = []
    for place in targets:
        arms = [arm for arm in found.arms if (arm.target, arm.fraction) == place]
        sections.append(_make_section(found, arms, asked))
    return load_template("metrics.html.jinja").render(
        title=contents.title,
        synthetic=contents.synthetic,
        sections=sections,
        notes=found.notes,
        how_to_read=HOW_TO_READ,
        listed=LISTED,
        against=asked.against,
    )


def _make_section(found: Measures, arms: Sequence[MeasuredArm], asked: Request) -> Section:
    first, names = arms[0], [arm.arm for arm in arms]
    tones = {name: choose_tone(name, names) for name in names}
    classes = _choose_classes(first, asked)
    groups = len(set(map(str, first.groups)))
    return Section(
        title=first.measured,
        facts=f"{len(first.labels):,} test images of {groups:,} lesions or patients",
        arms=[(tones[name], name) for name in names],
        numbers=_tabulate(found, arms, "metrics.csv"),
        costs=_list_costs(arms),
        calibration=_tabulate(found, arms, "calibration.csv"),
        reliability=list(_draw_reliability(arms, classes, tones)),
        curves=list(_draw_curves(found, arms, classes, tones)),
        subgroups=list(_draw_subgroups(found, arms, classes, tones)),
        gaps=_list_gaps(found, arms),
        differences=_list_differences(found, arms),
    )


def _choose_classes(arm: MeasuredArm, asked: Request) -> list[str]:
    """Classes or findings with figures: those asked for, the positive one of two, or the first ones."""
    named = [name for name in arm.class_names if name in asked.classes]
    if named:
        return named
    if arm.labels.positive_class is not None:
        return [arm.class_names[arm.labels.positive_class]]
    return [arm.class_names[c] for c in arm.labels.measured.tolist()][:SHOWN]


def _tabulate(found: Measures, arms: Sequence[MeasuredArm], file: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """A row for each measure over all classes, with a cell (value, interval or null) for each arm."""
    cells: dict[str, dict[str, tuple[str, str]]] = {}
    for arm in arms:
        for row in found.of(file, arm):
            if file == "metrics.csv":
                name, cell = row.metric, (write_number(row.value), write_interval(row.low, row.high))
                shown, name = "/" not in name, describe_measure(name)
            else:
                shown, name = row.of in (TOP_LABEL, CLASS_WISE), describe_calibration(row).split(" after")[0]
                name = f"{name} {row.state}".replace(", as", " as") if shown else name
                chance = f"by chance {write_number(row.ece_by_chance)}"
                if row.ece_by_chance_95 == row.ece_by_chance_95:
                    chance += f", 95 % below {write_number(row.ece_by_chance_95)}"
                cell = write_number(row.ece), chance
            if shown:
                cells.setdefault(name, {})[arm.arm] = cell
    return [(name, [row.get(arm.arm, ("–", "")) for arm in arms]) for name, row in cells.items()]


def _list_costs(arms: Sequence[MeasuredArm]) -> list[tuple[str, list[tuple[str, str]]]]:
    """A row for each part of the cost, with a cell for each arm."""
    heads = (*HEADS, MEASURING)
    cells = [(*arm.pretraining.words, arm.measuring.time) for arm in arms]
    return [(head, [(one[place], "") for one in cells]) for place, head in enumerate(heads)]


def _draw_reliability(
    arms: Sequence[MeasuredArm], classes: Sequence[str], tones: dict[str, str]
) -> Iterator[tuple[str, Markup]]:
    """The share of positives over the mean probability, as stored and after what was fitted on validation."""
    shown = [TOP_LABEL, *classes] if arms[0].labels.KIND == ClassLabels.KIND else list(classes)
    for of in shown:
        for state in dict.fromkeys([AS_STORED, arms[0].calibrated]):
            lines = [Line(PLAIN, [0, 1], [0, 1])]
            for arm in arms:
                if state in arm.states:
                    made = _fill_bins(arm, of, state)
                    lines.append(Line(tones[arm.arm], made.prob, made.positive, [(np.nan, np.nan)] * len(made.prob)))
            title = f"{of[0].upper()}{of[1:]}: {'as stored' if state == AS_STORED else f'after {state}'}"
            label = f"Share that is right over mean probability. {title}"
            yield title, draw_lines(lines, label=label, x_label="mean probability of a bin", x_ticks=UNIT)


def _fill_bins(arm: MeasuredArm, of: str, state: str) -> reliability.Bins:
    """Bins of equal mass over all runs together."""
    truths, scores = [], []
    for probs in arm.states[state]:
        if of == TOP_LABEL:
            truth, score = reliability.top_label(arm.labels, probs)
        else:
            c = arm.class_names.index(of)
            truth, score = binary(arm, c), probs[arm.known(c), c]
        truths.append(truth)
        scores.append(score)
    return reliability.fill_bins(np.concatenate(truths), np.concatenate(scores), reliability.equal_mass, BINS)


def _draw_curves(
    found: Measures, arms: Sequence[MeasuredArm], classes: Sequence[str], tones: dict[str, str]
) -> Iterator[tuple[str, Markup]]:
    for of in classes:
        lines = []
        for arm in arms:
            rows = [row for row in found.of("decision_curves.csv", arm) if row.of == of]
            if rows:
                # No net benefit is above the prevalence.
                floor = -float(binary(arm, arm.class_names.index(of)).mean()) / 4
                if not lines:
                    # Acting on everybody soon costs more than the picture has room for.
                    room = [row for row in rows if row.treat_all >= floor]
                    if room:
                        lines.append(Line(PLAIN, [r.threshold for r in room], [r.treat_all for r in room]))
                    lines.append(Line(PLAIN, [rows[0].threshold, rows[-1].threshold], [0, 0]))
                worth = [max(row.net_benefit, floor) for row in rows]
                lines.append(Line(tones[arm.arm], [row.threshold for row in rows], worth))
        if lines:
            label = f"Net benefit of acting on {of} over the threshold"
            yield of, draw_lines(lines, label=label, x_label="threshold of the probability")


def _draw_subgroups(
    found: Measures, arms: Sequence[MeasuredArm], classes: Sequence[str], tones: dict[str, str]
) -> Iterator[tuple[str, Markup]]:
    rows = [row for arm in arms for row in found.of("subgroups.csv", arm)]
    wanted = [row.metric for row in rows if "/" not in row.metric]
    if len(classes) <= 2:
        wanted += [
            f"{metric}/{of}" for of in classes for metric in ("sensitivity", "false_alarms", "excess_probability")
        ]
    for attribute in dict.fromkeys(row.attribute for row in rows):
        for metric in dict.fromkeys(wanted):
            chosen = [row for row in rows if (row.attribute, row.metric) == (attribute, metric)]
            several = len(arms) > 1
            dots = [
                Dot(
                    f"{row.subgroup} ({row.images:,}){f', {row.arm}' if several else ''}",
                    tones[row.arm],
                    row.value,
                    row.low,
                    row.high,
                )
                for row in sorted(chosen, key=lambda row: row.subgroup)
            ]
            title = f"{describe_measure(metric, True)} by {attribute}"
            drawn = draw_dots(dots, label=title)
            if drawn:
                yield title, drawn


def _list_gaps(found: Measures, arms: Sequence[MeasuredArm]) -> list[tuple[str, ...]]:
    rows = [row for arm in arms for row in found.of("gaps.csv", arm) if row.gap == row.gap]
    rows.sort(key=lambda row: (row.p if row.p == row.p else 2, -(row.gap - row.by_chance)))
    return [
        (
            row.arm,
            f"{describe_measure(row.metric, True)} by {row.attribute}",
            f"{row.highest}, {row.lowest}",
            f"{row.smallest:,} ({row.smallest_counted:,})",
            f"{format_number(row.gap)} [{write_interval(row.low, row.high)}]",
            f"{write_number(row.by_chance)} ({write_number(row.by_chance_95)})",
            f"{write_p(row.p)} ({write_p(row.p_holm)})",
        )
        for row in rows[:LISTED]
    ]


def _list_differences(found: Measures, arms: Sequence[MeasuredArm]) -> list[tuple[str, ...]]:
    rows = [row for arm in arms for row in found.of("differences.csv", arm)]
    return [
        (
            row.arm,
            describe_measure(row.metric),
            f"{format_number(row.difference, True)} [{write_interval(row.low, row.high, True)}]",
            f"{write_p(row.p)} ({write_p(row.p_holm)})",
            row.method,
        )
        for row in rows
        if row.kind == OVERALL or row.method == OBUCHOWSKI
    ]
