"""Writes the page of finished runs again, or one page for several runs.

    python -m aiseeme_jax report runs/isic                     writes runs/isic/report.html and results.csv again
    python -m aiseeme_jax report runs/isic runs/isic_seed1     both side by side, in runs/isic/runs.html
    python -m aiseeme_jax report runs/a runs/b --out both.html

Nothing is trained or measured. Arms are named by their workdirs. All of them must have been measured on the same test
images, by the targets that they have in common. Intervals are bootstrapped as the first config says.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from aiseeme_jax import report
from aiseeme_jax.errors import UserError
from aiseeme_jax.store import workdirs

# The page of several runs, in the first workdir.
PAGE = "runs.html"


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Raises UserError for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m aiseeme_jax report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--out", type=Path, help=f"the page of several runs; by default {PAGE} in the first workdir")
    options = parser.parse_args(arguments)
    first = options.workdirs[0]
    if len(options.workdirs) > 1:
        print(report.write_report_of_several(options.workdirs, options.out or first / PAGE))
        return
    if options.out:
        raise UserError("--out is for the page of several runs: that of one run lies in its workdir")
    job = workdirs.read_config(first).get("job", "curriculum")
    if job not in ("curriculum", "evaluate"):
        raise UserError(f"'{first}' is the workdir of a {job}: run its config again, and it writes its page again")
    print(report.write_results(first))
    print(report.write_report(first))
