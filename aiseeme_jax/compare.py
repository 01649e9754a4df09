"""What one arm of a run gained over another: differences paired on the same test images, with 95 % intervals.

    python -m aiseeme_jax.compare runs/isic scratch                           every other arm against `scratch`
    python -m aiseeme_jax.compare runs/pairs rotation-simclr 'rotation-simclr-*'

Prints a Markdown table, and below it why a cell is empty. Each target is taken with the largest share of the labels it
was measured with, or with that of `--fraction`, where it was measured with it.
"""

import argparse
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiseeme_jax.evaluate import metrics, results
from aiseeme_jax.evaluate.fractions import in_words
from aiseeme_jax.evaluate.weighted import Undefined
from aiseeme_jax.report import tables
from aiseeme_jax.report.contents import Contents, read_contents

METRICS = {name: metrics.METRICS[name] for name in ("balanced_accuracy", "auroc")}
EMPTY = "–"


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
    parser = argparse.ArgumentParser(prog="python -m aiseeme_jax.compare", description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("reference", help="the arm that others are measured against")
    parser.add_argument("arms", nargs="*", default=["*"], help="other arms; * stands for anything")
    parser.add_argument("--fraction", type=float, help="share of the labels, as in 0.1; the largest unless given")
    options = parser.parse_args(arguments)
    try:
        contents = read_contents(options.workdir)
        arms = chosen(contents, options.reference, options.arms)
        lines = list(table(contents, options.reference, arms, columns(contents, options.fraction)))
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print("\n".join(lines))


def chosen(contents: Contents, reference: str, patterns: Sequence[str]) -> list[str]:
    """Arms that a pattern names, but for the reference; ValueError if one names none, or the reference is none."""
    unknown = [reference] if reference not in contents.arms else []
    unknown += [pattern for pattern in patterns if not any(fnmatch.fnmatchcase(arm, pattern) for arm in contents.arms)]
    if unknown:
        raise ValueError(f"no arm '{unknown[0]}': there are {', '.join(contents.arms)}")
    named = [arm for arm in contents.arms if any(fnmatch.fnmatchcase(arm, pattern) for pattern in patterns)]
    return [arm for arm in named if arm != reference]


def columns(contents: Contents, asked: float | None = None) -> list[Column]:
    """Every metric of the targets on the share of the labels asked for, or the largest of each.

    ValueError if nothing was measured, or not with that share.
    """
    measured = {target: found for target in contents.targets if (found := contents.fractions_of(target))}
    if not measured:
        raise ValueError("nothing has been measured yet")
    # As it reads: 0.333333 asks for a third.
    alike = lambda fraction: asked is None or f"{fraction:g}" == f"{asked:g}"  # noqa: E731
    chosen = {target: max(filter(alike, found), default=None) for target, found in measured.items()}
    if not any(chosen.values()):
        known = sorted({fraction for found in measured.values() for fraction in found})
        there = ", ".join(f"{fraction:g}" for fraction in known)
        raise ValueError(f"no target was measured with --fraction {asked:g}: there are {there}")
    return [Column(target, fraction, metric) for target, fraction in chosen.items() if fraction for metric in METRICS]


def table(contents: Contents, reference: str, arms: Sequence[str], columns: Sequence[Column]) -> Iterator[str]:
    """Lines: the reference as it is, the others as differences from it, and why a cell or an interval is not there."""
    notes: list[str] = []
    yield _line("arm", [column.head for column in columns])
    yield _line("---", ["---"] * len(columns))
    for arm in [reference, *arms]:
        found = [_cell(contents, arm, reference, column) for column in columns]
        yield _line(f"{arm}, as it is" if arm == reference else arm, [text for text, _ in found])
        notes += [note for _, note in found if note]
    if notes:
        yield ""
        yield from dict.fromkeys(notes)


def _cell(contents: Contents, arm: str, reference: str, column: Column) -> tuple[str, str]:
    """The text of a cell, and what is to be said of it below the table, if anything."""
    try:
        cell = _own(contents, arm, column) if arm == reference else _gain(contents, arm, reference, column)
    except Undefined as error:
        return EMPTY, f"{EMPTY} {column.measured}: {error}"
    if cell is None:
        return EMPTY, f"{EMPTY} {column.measured}: {_why_not(contents, arm, reference, column)}"
    if not cell.interval:
        return cell.text, f"{column.head}: no interval, the test images are of too few lesions or patients"
    return f"{cell.text} {cell.interval}", ""


def _own(contents: Contents, arm: str, column: Column) -> tables.Cell | None:
    cell = tables.over_seeds(contents, arm, column.target, column.fraction, column.metric)
    if cell is None:
        # results.csv leaves out what is undefined; the metric says why it is.
        for run in contents.runs_of(arm, column.target, column.fraction):
            found = results.load_predictions(run.directory)
            METRICS[column.metric](found.labels, found.probs)
    return cell


def _gain(contents: Contents, arm: str, reference: str, column: Column) -> tables.Cell | None:
    return tables.difference(contents, arm, reference, column.target, METRICS[column.metric], column.fraction)


def _why_not(contents: Contents, arm: str, reference: str, column: Column) -> str:
    for name in (arm, reference):
        if arm == reference or not contents.runs_of(name, column.target, column.fraction):
            return f"no results of {name}"
    return f"{arm} and {reference} do not have the same test images in the same order"


def _line(first: str, cells: Iterable[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


if __name__ == "__main__":
    main()
