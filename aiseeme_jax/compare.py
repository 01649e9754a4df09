"""What one arm of a run gained over another: differences paired on the same test images, with 95 % intervals.

    python -m aiseeme_jax.compare runs/isic scratch                           every other arm against `scratch`
    python -m aiseeme_jax.compare runs/pairs rotation-simclr 'rotation-simclr-*'

Prints a Markdown table, and below it why a difference is missing. Each target is taken with the largest share of the
labels it was measured with. An interval covers the test images and, where a target has several seeds, the draw of
labels and the seed of fine-tuning; not another pretraining.
"""

import argparse
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from aiseeme_jax.report import tables
from aiseeme_jax.report.contents import Contents, read_contents
from aiseeme_jax.report.measured import Cell, Incomparable, Measured

METRICS = ("balanced_accuracy", "auroc")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m aiseeme_jax.compare", description=__doc__.split("\n")[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument("reference", help="the arm that others are measured against")
    parser.add_argument("arms", nargs="*", default=["*"], help="other arms; * stands for anything")
    options = parser.parse_args(arguments)
    try:
        contents = read_contents(options.workdir)
        arms = chosen(contents, options.reference, options.arms)
        lines = list(table(contents, options.reference, arms))
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


def table(contents: Contents, reference: str, arms: Sequence[str]) -> Iterator[str]:
    """Lines: the reference as it is, then the others as differences from it, then what they lack and why."""
    measured, missing = Measured(contents), []
    columns = [(target, metric) for target in contents.targets for metric in METRICS]
    heads = [f"{tables.target_name(target)}: {tables.NAMES[metric]}" for target, metric in columns]
    yield _line("arm", heads)
    yield _line("---", ["---"] * len(columns))
    own = [measured.over_seeds(reference, t, contents.fraction_of(t), metric) for t, metric in columns]
    yield _line(f"{reference}, as it is", map(_text, own))
    for arm in arms:
        found = []
        for target, metric in columns:
            try:
                found.append(measured.difference(arm, reference, target, metric))
            except Incomparable as reason:
                found.append(None)
                missing.append(f"{arm}, {tables.target_name(target)}: {reason}")
        yield _line(arm, map(_text, found))
    if missing:
        yield from ["", *dict.fromkeys(missing)]


def _text(cell: Cell | None) -> str:
    return "–" if cell is None else f"{cell.text} {cell.interval}"


def _line(first: str, cells: Iterable[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


if __name__ == "__main__":
    main()
