"""Everything that the stored predictions of a workdir say: metrics, calibration, decisions, subgroups.

    python -m aiseeme_jax metrics runs/isic
    python -m aiseeme_jax metrics runs/isic --arm curriculum --target knn --by sex,age,site --classes MEL
    python -m aiseeme_jax metrics runs/isic --arm curriculum --against scratch

Prints a summary, and writes tables (CSV) and a page into WORKDIR/metrics. docs/metrics.md explains each number. Nothing
is trained. Attributes of the test images are read from the prepared data set.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from aiseeme_jax.curriculum.costs import describe_cost
from aiseeme_jax.errors import UserError
from aiseeme_jax.evidence.subgroups import DEALS
from aiseeme_jax.report.contents import read_contents
from aiseeme_jax.report.measures.arms import MeasuredArm
from aiseeme_jax.report.measures.differences import OBUCHOWSKI, OVERALL
from aiseeme_jax.report.measures.everything import FOLDER, Measures, Request, measure_everything, write_tables
from aiseeme_jax.report.measures.page import write_page
from aiseeme_jax.report.measures.tables import CLASS_WISE, THRESHOLDS, TOP_LABEL
from aiseeme_jax.report.measures.words import (
    describe_calibration,
    describe_measure,
    write_interval,
    write_number,
    write_p,
)

# Gaps, and differences, in the summary.
LISTED = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax metrics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--arm", nargs="+", default=["*"], help="arms; * stands for anything")
    parser.add_argument("--target", nargs="+", default=[], help="targets as results name them; by default all")
    parser.add_argument("--fraction", type=float, help="share of the labels, as in 0.1; by default the largest")
    parser.add_argument("--against", default="", help="the arm that the others are compared with")
    parser.add_argument("--by", default="", help="attributes of subgroups, such as sex,age,sex+age")
    parser.add_argument("--classes", default="", help="classes or findings that subgroups are measured for")
    parser.add_argument(
        "--least", type=float, default=0.9, help="sensitivity (specificity) of thresholds, on validation"
    )
    parser.add_argument("--thresholds", default="{}:{}".format(*THRESHOLDS), help="of decision curves, from:to")
    parser.add_argument(
        "--data_dir", default="", help="where prepared data sets lie; by default where the run had them"
    )
    parser.add_argument("--deals", type=int, default=DEALS, help="times an attribute is dealt out for gaps by chance")
    parser.add_argument("--ensemble", action="store_true", help="also the mean probabilities over the seeds of an arm")
    options = parser.parse_args(arguments)
    asked = Request(
        arms=options.arm,
        targets=options.target,
        fraction=options.fraction,
        against=options.against,
        by=_split(options.by),
        classes=_split(options.classes),
        least=options.least,
        thresholds=_read_range(options.thresholds),
        data_dir=options.data_dir,
        deals=options.deals,
        ensemble=options.ensemble,
    )
    contents = read_contents(options.workdir, scored=False)
    found = measure_everything(contents, asked, tell=_show_progress)
    written = write_tables(options.workdir / FOLDER, found)
    written.append(write_page(options.workdir / FOLDER, contents, found, asked))
    print("\n".join(summarise(found)))
    print(f"\nwritten in {options.workdir / FOLDER}: {', '.join(path.name for path in written)}")


def _show_progress(title: str) -> None:
    print(f"measuring {title}", file=sys.stderr, flush=True)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _read_range(text: str) -> tuple[float, float]:
    """Two numbers. Raises UserError for anything else."""
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise UserError(f"--thresholds is '{text}': write two numbers, as in 0.02:0.5") from None
    return low, high


def summarise(found: Measures) -> Iterator[str]:
    """Lines of at most 100 columns for each arm on each target, then differences and notes."""
    for arm in found.arms:
        seeds = "1 seed" if len(arm.tests) == 1 else f"{len(arm.tests)} seeds"
        if arm.pretrainings > 1:
            seeds += f" ({arm.pretrainings} of pretraining)"
        groups = len(set(map(str, arm.groups)))
        yield f"{arm.title}: {len(arm.labels):,} test images, {groups:,} lesions or patients, {seeds}"
        yield f"  cost: {describe_cost(arm.pretraining, arm.measuring)}"
        yield from align([("", "value", "95 % interval", "by chance (95 %)"), *_list_numbers(found, arm)])
        yield from _list_gaps(found, arm)
        yield ""
    yield from _list_differences(found)
    yield from found.notes


def _list_numbers(found: Measures, arm: MeasuredArm) -> Iterator[tuple[str, ...]]:
    for row in found.of("metrics.csv", arm):
        if "/" not in row.metric:
            numbers = write_number(row.value), write_interval(row.low, row.high)
            yield describe_measure(row.metric), *numbers, ""
    for row in found.of("calibration.csv", arm):
        if row.of in (TOP_LABEL, CLASS_WISE):
            least, most = write_number(row.ece_by_chance), write_number(row.ece_by_chance_95)
            chance = f"{least} ({most})" if row.of == TOP_LABEL else least
            yield describe_calibration(row), write_number(row.ece), "", chance


def _list_gaps(found: Measures, arm: MeasuredArm) -> Iterator[str]:
    """The gaps that are least likely by chance."""
    gaps = [row for row in found.of("gaps.csv", arm) if row.p == row.p]
    if not gaps:
        return
    gaps.sort(key=lambda row: (row.p, -(row.gap - row.by_chance)))
    yield f"  the {min(LISTED, len(gaps))} least likely of {len(gaps)} gaps between subgroups"
    head = "", "gap", "by chance", "p (Holm)", "highest, lowest", "smallest"
    rows = [
        (
            f"{row.attribute}: {describe_measure(row.metric, True)}",
            write_number(row.gap),
            write_number(row.by_chance),
            f"{write_p(row.p)} ({write_p(row.p_holm)})",
            f"{row.highest}, {row.lowest}",
            f"{row.smallest} ({row.smallest_counted})",
        )
        for row in gaps[:LISTED]
    ]
    yield from align([head, *rows])


def _list_differences(found: Measures) -> Iterator[str]:
    rows = found.rows["differences.csv"]
    for pair in dict.fromkeys((row.arm, row.against, row.target, row.fraction) for row in rows):
        of_pair = [row for row in rows if (row.arm, row.against, row.target, row.fraction) == pair]
        arm = next(arm for arm in found.arms if (arm.arm, arm.target, arm.fraction) == (pair[0], *pair[2:]))
        yield f"{arm.title}, minus {pair[1]}"
        shown = [row for row in of_pair if row.kind == OVERALL or row.method == OBUCHOWSKI]
        lines = [
            (
                describe_measure(row.metric),
                f"{row.difference:+.3f}".replace("-", "−"),
                write_interval(row.low, row.high, signed=True),
                f"{write_p(row.p)} ({write_p(row.p_holm)})",
                row.method,
            )
            for row in shown
        ]
        yield from align([("", "difference", "95 % interval", "p (Holm)", ""), *lines])
        yield ""


def align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns side by side; long words of the first are cut, so that lines have at most 100 columns if they can."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rest = sum(widths[1:]) + 2 * len(widths)
    widths[0] = max(20, min(widths[0], 100 - rest))
    for row in rows:
        first = row[0] if len(row[0]) <= widths[0] else f"{row[0][: widths[0] - 1]}…"
        cells = [first.ljust(widths[0]), *(cell.ljust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield f"  {'  '.join(cells)}".rstrip()
