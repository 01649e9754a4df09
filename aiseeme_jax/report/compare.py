"""What one arm of a run gained over another: differences paired on the same test images, with 95 % intervals.

    python -m aiseeme_jax compare runs/isic scratch                           every other arm against `scratch`
    python -m aiseeme_jax compare runs/pairs rotation-simclr 'rotation-simclr-*'
    python -m aiseeme_jax compare runs/isic 'isic: scratch' --with runs/isic_seed1 runs/isic_long

With other workdirs the arms are called 'WORKDIR: ARM', as on a page of several runs, and are paired on the same test
images too. Other seeds of a pretraining are arms of their own; a study averages them.

Prints a Markdown table with what each arm cost, and below it why a cell is empty. On a terminal that is too narrow for
it, each metric has a table of its own. Each target is taken with
the largest share of the labels that it was measured with, or with that of `--fraction`, where it was measured with it.
An interval covers the test images and, where a target has several seeds, the draw of labels and the seed of fine-
tuning. It does not cover another pretraining.
"""

import argparse
import fnmatch
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiseeme_jax.curriculum import costs
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.report.contents import Contents, read_contents
from aiseeme_jax.report.estimates import Estimates, Incomparable
from aiseeme_jax.report.names import describe_target
from aiseeme_jax.report.several import read_several

# Heads of what pretraining and measurements of each arm cost.
COST = tuple(head.lower() for head in (*costs.HEADS, costs.MEASURING))


@dataclass(frozen=True)
class Column:
    """What a column of the table shows.

    Attributes:
      words: the metric in words.
    """

    target: str
    fraction: float
    metric: str
    words: str

    @property
    def measured(self) -> str:
        share = "" if self.fraction == 1 else f" on {in_words(self.fraction)}"
        return f"{describe_target(self.target)}{share}"

    @property
    def head(self) -> str:
        return f"{self.measured}: {self.words}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m aiseeme_jax compare", description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("reference", help="the arm that others are compared with")
    parser.add_argument("arms", nargs="*", default=["*"], help="other arms; * stands for anything")
    parser.add_argument("--with", nargs="+", type=Path, default=[], metavar="WORKDIR", dest="others", help="other runs")
    parser.add_argument("--fraction", type=float, help="share of the labels, as in 0.1; by default the largest")
    options = parser.parse_args(arguments)
    workdirs = [options.workdir, *options.others]
    estimates = Estimates(read_several(workdirs) if options.others else read_contents(options.workdir))
    arms = choose_arms(estimates.contents, options.reference, options.arms)
    columns = choose_columns(estimates, options.fraction)
    lines = list(write_table(estimates, options.reference, arms, columns))
    if sys.stdout.isatty() and max(map(len, lines[:2])) > shutil.get_terminal_size().columns:
        lines = list(split_table(lines))
    print("\n".join(lines))


def choose_arms(contents: Contents, reference: str, patterns: Sequence[str]) -> list[str]:
    """The arms that patterns name, without the reference.

    Raises UserError if there is no arm `reference`, or if a pattern names none.
    """
    unknown = [reference] if reference not in contents.arms else []
    unknown += [pattern for pattern in patterns if not fnmatch.filter(contents.arms, pattern)]
    if unknown:
        raise UserError(f"no arm '{unknown[0]}': there are {', '.join(contents.arms)}")
    named = {arm for pattern in patterns for arm in fnmatch.filter(contents.arms, pattern)}
    return [arm for arm in contents.arms if arm in named and arm != reference]


def choose_columns(estimates: Estimates, asked: float | None = None) -> list[Column]:
    """The headline metrics of each target on the share of the labels asked for, or on its largest.

    Raises UserError if nothing was measured, or not with that share.
    """
    contents = estimates.contents
    shares = {target: contents.fractions_of(target) for target in contents.measured_targets()}
    if not shares:
        raise UserError("nothing has been measured yet")
    chosen = {target: fractions[-1:] for target, fractions in shares.items()}
    if asked is not None:
        # As a reader sees it: 0.333333 asks for a third.
        chosen = {target: [f for f in fractions if f"{f:g}" == f"{asked:g}"] for target, fractions in shares.items()}
    if not any(chosen.values()):
        there = ", ".join(f"{fraction:g}" for fraction in sorted({f for found in shares.values() for f in found}))
        raise UserError(f"no target was measured with --fraction {asked:g}: there are {there}")
    return [
        Column(target, fraction, metric, estimates.describe_metric(target, metric))
        for target, fractions in chosen.items()
        for fraction in fractions
        for metric in estimates.headline_names(target)
    ]


def write_table(estimates: Estimates, reference: str, arms: Sequence[str], columns: Sequence[Column]) -> Iterator[str]:
    """Lines: the reference as it is, then the others as differences from it, then why cells are empty."""
    reasons = []
    yield _write_line("arm", [*(column.head for column in columns), *COST])
    yield _write_line("---", ["---"] * (len(columns) + len(COST)))
    for arm in [reference, *arms]:
        found = [_write_cell(estimates, arm, reference, column) for column in columns]
        cells = [*(text for text, _ in found), *estimates.contents.describe_cost(arm)]
        yield _write_line(f"{arm}, as it is" if arm == reference else arm, cells)
        reasons += [reason for _, reason in found if reason]
    if reasons:
        yield from ["", *dict.fromkeys(reasons)]


def split_table(lines: Sequence[str]) -> Iterator[str]:
    """The lines of a Markdown table as a short table for each of its columns, and then what follows the table."""
    rows = [_read_line(line) for line in lines if line.startswith("|")]
    head, body = rows[0], rows[2:]
    width = max(len(row[0]) for row in body)
    for place, title in enumerate(head[1:], start=1):
        yield from ["", title] if place > 1 else [title]
        yield from (f"  {row[0]:<{width}}  {row[place]}" for row in body)
    yield from (line for line in lines if not line.startswith("|"))


def _read_line(line: str) -> list[str]:
    """The cells of a line of `_write_line`."""
    return [cell.replace("\\|", "|") for cell in re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))]


def _write_cell(estimates: Estimates, arm: str, reference: str, column: Column) -> tuple[str, str]:
    """The text of a cell, and why value or interval is not there, if so."""
    target, fraction, metric = column.target, column.fraction, column.metric
    try:
        if arm == reference:
            cell = estimates.require_estimate(arm, target, fraction, metric)
        else:
            cell = estimates.estimate_difference(arm, reference, target, metric, fraction)
    except Incomparable as reason:
        return "–", f"{arm}, {column.measured}: {reason}"
    reason = "" if cell.bounded else f"{column.head}: no interval [–], for there are too few lesions or patients"
    return f"{cell.text} {cell.interval}", reason


def _write_line(first: str, cells: Iterable[str]) -> str:
    # A bar in a name would begin another cell.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in [first, *cells]) + " |"
