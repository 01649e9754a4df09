"""What one arm of a run gained over another: differences paired on the same test images, with 95 % intervals.

    python -m aiseeme_jax compare runs/isic scratch                           every other arm against `scratch`
    python -m aiseeme_jax compare runs/pairs rotation-simclr 'rotation-simclr-*'

Prints a Markdown table, and below it why a cell is empty. Each target is taken with the largest share of the labels it
was measured with, or with that of `--fraction`, where it was measured with it. An interval covers the test images and,
where a target has several seeds, the draw of labels and the seed of fine-tuning; not another pretraining.
"""

import argparse
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.report import tables
from aiseeme_jax.report.contents import Contents, read_contents
from aiseeme_jax.report.measured import Incomparable, Measured

METRICS = ("balanced_accuracy", "auroc")


@dataclass(frozen=True)
class Column:
    """What a column of the table measures."""

    target: str
    fraction: float
    metric: str

    @property
    def measured(self) -> str:
        share = "" if self.fraction == 1 else f" on {in_words(self.fraction)}"
        return f"{tables.target_name(self.target)}{share}"

    @property
    def head(self) -> str:
        return f"{self.measured}: {tables.NAMES[self.metric]}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m aiseeme_jax compare", description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("reference", help="the arm that others are measured against")
    parser.add_argument("arms", nargs="*", default=["*"], help="other arms; * stands for anything")
    parser.add_argument("--fraction", type=float, help="share of the labels, as in 0.1; the largest unless given")
    options = parser.parse_args(arguments)
    contents = read_contents(options.workdir)
    arms = chosen(contents, options.reference, options.arms)
    print("\n".join(table(contents, options.reference, arms, columns(contents, options.fraction))))


def chosen(contents: Contents, reference: str, patterns: Sequence[str]) -> list[str]:
    """Arms that a pattern names, but for the reference; UserError if one names none, or the reference is none."""
    unknown = [reference] if reference not in contents.arms else []
    unknown += [pattern for pattern in patterns if not any(fnmatch.fnmatchcase(arm, pattern) for arm in contents.arms)]
    if unknown:
        raise UserError(f"no arm '{unknown[0]}': there are {', '.join(contents.arms)}")
    named = [arm for arm in contents.arms if any(fnmatch.fnmatchcase(arm, pattern) for pattern in patterns)]
    return [arm for arm in named if arm != reference]


def columns(contents: Contents, asked: float | None = None) -> list[Column]:
    """Every metric of the targets on the share of the labels asked for, or the largest of each.

    UserError if nothing was measured, or not with that share.
    """
    shares = {target: found for target in contents.targets if (found := contents.fractions_of(target))}
    if not shares:
        raise UserError("nothing has been measured yet")
    # As it reads: 0.333333 asks for a third.
    alike = lambda fraction: asked is None or f"{fraction:g}" == f"{asked:g}"  # noqa: E731
    chosen = {target: max(filter(alike, found), default=None) for target, found in shares.items()}
    if not any(chosen.values()):
        known = sorted({fraction for found in shares.values() for fraction in found})
        there = ", ".join(f"{fraction:g}" for fraction in known)
        raise UserError(f"no target was measured with --fraction {asked:g}: there are {there}")
    return [Column(target, fraction, metric) for target, fraction in chosen.items() if fraction for metric in METRICS]


def table(contents: Contents, reference: str, arms: Sequence[str], columns: Sequence[Column]) -> Iterator[str]:
    """Lines: the reference as it is, then the others as differences from it, then what they lack and why."""
    measured, missing = Measured(contents), []
    yield _line("arm", [column.head for column in columns])
    yield _line("---", ["---"] * len(columns))
    for arm in [reference, *arms]:
        found = [_cell(measured, arm, reference, column) for column in columns]
        yield _line(f"{arm}, as it is" if arm == reference else arm, [text for text, _ in found])
        missing += [reason for _, reason in found if reason]
    if missing:
        yield from ["", *dict.fromkeys(missing)]


def _cell(measured: Measured, arm: str, reference: str, column: Column) -> tuple[str, str]:
    """The text of a cell, and what it lacks and why, if anything."""
    target, fraction, metric = column.target, column.fraction, column.metric
    try:
        if arm == reference:
            cell = measured.as_it_is(arm, target, fraction, metric)
        else:
            cell = measured.difference(arm, reference, target, metric, fraction)
    except Incomparable as reason:
        return "–", f"{arm}, {column.measured}: {reason}"
    lacks = "" if cell.bounded else f"{column.head}: no interval [–], for too few lesions or patients, or predictions"
    return f"{cell.text} {cell.interval}", lacks


def _line(first: str, cells: Iterable[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"
