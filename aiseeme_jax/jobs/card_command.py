"""Writes MODEL_CARD.md of a finished run: what its backbone is, data, licence, use, metrics, cost, limits.

    python -m aiseeme_jax card runs/isic                         every finished curriculum
    python -m aiseeme_jax card runs/isic --arm single:simclr     another arm

A run writes it at its end. Write it again after `python -m aiseeme_jax metrics`, and it tells of gaps between
subgroups. What the program cannot know is marked "not known: fill in". docs/report.md says more.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from aiseeme_jax.errors import UserError
from aiseeme_jax.report.card.page import write_card


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--arm", nargs="+", default=[], help="arms; * stands for anything; by default the curricula")
    options = parser.parse_args(arguments)
    written = write_card(options.workdir, options.arm)
    if written is None:
        raise UserError(f"'{options.workdir}' has no finished curriculum: run its config to the end, or name an --arm")
    print(written)
