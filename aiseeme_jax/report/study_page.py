"""The page of a study: figures with intervals, means, differences, and a sentence for each comparison."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from aiseeme_jax.curriculum.costs import HEADS
from aiseeme_jax.curriculum.protocols import find_protocol
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.report import tables
from aiseeme_jax.report.charts import Line, choose_tone, draw_lines
from aiseeme_jax.report.dots import Dot, draw_dots
from aiseeme_jax.report.estimates import Cell
from aiseeme_jax.report.names import describe_metric, describe_target, within_sentence
from aiseeme_jax.report.templates import REPORT, load_template
from aiseeme_jax.store import records, workdirs
from aiseeme_jax.study.certainty import Difference, Outcomes, Summary, Table, count_different
from aiseeme_jax.study.tables import StudyTables
from aiseeme_jax.study.variants import Study

# Between a variant and an arm in the name of a row.
BETWEEN = " · "
# A figure is logarithmic if its largest x is at least so many times its smallest.
DECADE = 10


def write_study_report(
    workdir: Path, study: Study, outcomes: Outcomes, found: StudyTables, missing: Sequence[str]
) -> Path:
    """Writes `workdir/report.html` of a study, whole or not at all, and returns its path.

    Args:
      missing: sentences about what is not there yet.
    """
    page = render(study, outcomes, found, missing, workdirs.read_config(workdir))
    records.write_text(workdir / REPORT, page)
    return workdir / REPORT


def render(study: Study, outcomes: Outcomes, found: StudyTables, missing: Sequence[str], config: dict[str, Any]) -> str:
    """The page as HTML."""
    main = outcomes.main_tables()
    shown = [one for one in found.differences if (one.target, one.fraction, one.metric) in main]
    return load_template("study.html.jinja").render(
        title=config["title"] or config["data"]["name"],
        synthetic=bool(config["data"]["synthetic"]),
        study=study,
        missing=missing,
        data=config["data"]["name"],
        model=config["model"]["name"],
        seeds=list(study.seeds),
        figures=[(describe_table(outcomes, table), draw_table(study, outcomes, found, table)) for table in main],
        sentences=[describe_difference(outcomes, one) for one in shown],
        reference=describe_reference(study),
        means=list(tabulate_means(outcomes, found.summaries)),
        differences=[
            (one, describe_table(outcomes, (one.target, one.fraction, one.metric)), *_cells(one))
            for one in found.differences
        ],
        name_compared=name_compared,
        cost_of={name_row(*place): cost.words for place, cost in outcomes.costs.items()},
        cost_heads=HEADS,
        alone=list_alone(outcomes),
        one_label_seed=list_one_label_seed(found.summaries),
        config=json.dumps(config, indent=2),
        arms=study.arms,
        choose_tone=choose_tone,
        tone_of=lambda row: choose_tone(row.rpartition(BETWEEN)[2], study.arms),
    )


def name_row(variant: str, arm: str) -> str:
    """A variant and an arm."""
    return f"{variant}{BETWEEN}{arm}" if variant else arm


def describe_table(outcomes: Outcomes, table: Table) -> str:
    """A target, the share of the labels and the metric in words."""
    target, fraction, metric = table
    words = within_sentence(describe_metric(metric, outcomes.kind_of(target)))
    return f"{describe_target(target)} on {in_words(fraction)}: {words}"


# Figures


def draw_table(study: Study, outcomes: Outcomes, found: StudyTables, table: Table) -> Markup:
    """The means of one table over the varied value, or as dots if what varies has no numbers."""
    rows = [one for one in found.summaries if (one.target, one.fraction, one.metric) == table]
    label = describe_table(outcomes, table)
    if study.numeric:
        return draw_over_axis(study, rows, label)
    dots = [Dot(name_row(s.variant, s.arm), choose_tone(s.arm, study.arms), s.value, s.low, s.high) for s in rows]
    return draw_dots(dots, label=label)


def draw_over_axis(study: Study, rows: Sequence[Summary], label: str) -> Markup:
    """A line for each arm over the varied value, which is logarithmic if it spans a decade."""
    values = sorted({variant.x for variant in study.variants})
    logarithmic = values[0] > 0 and values[-1] >= DECADE * values[0]
    span = (math.log10(values[-1] / values[0]) if logarithmic else values[-1] - values[0]) or 1.0
    lines = []
    for position, arm in enumerate(study.arms):
        mine = sorted((one for one in rows if one.arm == arm), key=lambda one: one.x)
        # Side by side, so that the whiskers of one value do not lie on each other.
        nudge = 0.012 * span * (position - (len(study.arms) - 1) / 2)
        xs = [(math.log10(one.x) if logarithmic else one.x) + nudge for one in mine]
        if mine:
            ranges = [(one.low, one.high) for one in mine]
            lines.append(Line(choose_tone(arm, study.arms), xs, [one.value for one in mine], ranges))
    ticks = [(math.log10(x) if logarithmic else x, f"{x:g}") for x in values]
    return draw_lines(lines, label=f"{label} over {study.axis}", x_label=study.axis, x_ticks=ticks)


# Tables


def tabulate_means(outcomes: Outcomes, summaries: Sequence[Summary]) -> Iterator[tables.Table]:
    """For each target, the means of variants and arms by the shares of the labels, a section for each metric."""
    for target in dict.fromkeys(one.target for one in summaries):
        mine = [one for one in summaries if one.target == target]
        fractions = sorted({one.fraction for one in mine})
        sections = []
        for metric in dict.fromkeys(one.metric for one in mine):
            cells = {
                (name_row(one.variant, one.arm), one.fraction): Cell(one.value, one.low, one.high)
                for one in mine
                if one.metric == metric
            }
            names = dict.fromkeys(name for name, _ in cells)
            rows = [(name, [cells.get((name, fraction)) for fraction in fractions]) for name in names]
            words = describe_metric(metric, outcomes.kind_of(target))
            sections.append(tables.make_section(f"{describe_target(target)}: {within_sentence(words)}", rows))
        table = tables.make_table({fraction: in_words(fraction) for fraction in fractions}, sections)
        if table:
            yield table


def list_alone(outcomes: Outcomes) -> list[str]:
    """Rows and targets that have one and the same backbone for several pretraining seeds."""
    found = {}
    for table in outcomes.main_tables():
        for place in outcomes.places():
            cell = outcomes.find(place, table)
            several = len({seed for seed, _ in cell}) > 1
            if several and count_different({seeds: one.key for seeds, one in cell.items()}) == 1:
                found[f"{name_row(*place)}, {describe_target(table[0])}"] = None
    return list(found)


def list_one_label_seed(summaries: Sequence[Summary]) -> list[str]:
    """Targets and shares of the labels with one label seed, though another one would give another result."""
    return list(
        dict.fromkeys(
            f"{describe_target(one.target)} on {in_words(one.fraction)}"
            for one in summaries
            if one.label_seeds < 2 and (one.fraction < 1 or draws_on_all_labels(one.target))
        )
    )


def draws_on_all_labels(target: str) -> bool:
    """Whether a target has random numbers also on all labels."""
    return find_protocol(re.split("[+:]", target)[0]).is_random


def _cells(one: Difference) -> tuple[Cell | None, str]:
    """Difference and adjusted p-value."""
    cell = Cell(one.difference, one.low, one.high, signed=True) if math.isfinite(one.difference) else None
    p = "–" if math.isnan(one.p_adjusted) else "< 0.001" if one.p_adjusted < 0.001 else f"{one.p_adjusted:.3f}"
    return cell, p


# Sentences


def name_compared(one: Difference) -> tuple[str, str]:
    """The two that a difference is of."""
    return name_row(one.variant, one.arm), name_row(one.reference_variant, one.reference)


def describe_difference(outcomes: Outcomes, one: Difference) -> str:
    """Whether two variants or arms can be told apart, in a sentence."""
    first, second = name_compared(one)
    second = one.reference if one.variant == one.reference_variant else second
    where = describe_table(outcomes, (one.target, one.fraction, one.metric))
    if math.isnan(one.difference):
        return f"{where}: {first} and {second} were not compared, since {one.note}."
    words = one.interval.in_words(signed=True)
    if not one.interval.excludes_zero:
        why = f", since {one.note}" if one.note else ""
        return f"{where}: {first} cannot be told apart from {second}: the difference is {words}{why}."
    verdict = "better" if one.difference > 0 else "worse"
    return f"{where}: {first} is {verdict} than {second}: the difference is {words}."


def describe_reference(study: Study) -> str:
    """What arms are compared with, in sentences."""
    said = []
    if study.candidates:
        said.append(
            f"Each arm is compared with the best of {', '.join(study.candidates)}, each trained for as many images as "
            "the curriculum. Validation images say which is the best, for each variant, target and share of the labels."
        )
    elif len(study.arms) > 1:
        said.append(f"Each arm is compared with {study.reference}.")
    if study.reference_variant:
        said.append(f"Each variant is compared with {study.reference_variant}, arm by arm.")
    return " ".join(said)
