"""Command line of the data sets.

python -m tfds_builders prepare isic2019/64 --data_dir data --manual_dir downloads
python -m tfds_builders check isic2019/64 isic2017/64 --data_dir data --exclude ids.txt
"""

import argparse
import contextlib
import csv
import io
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from absl import logging as absl_logging

from tfds_builders.checking import overlaps, read_all, to_exclude
from tfds_builders.common.tables import as_cell
from tfds_builders.preparing import DATASETS, prepare

# What an installed package has only with its extra `data`.
EXTRA = frozenset(("apache_beam", "imagehash", "mlcroissant"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tfds_builders", description="Prepares and compares data sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="write a data set to --data_dir; nothing to do if it is there")
    command.add_argument("name", help=f"data set and config, such as isic2019/64; data sets: {', '.join(DATASETS)}")
    command.add_argument(
        "--data_dir", required=True, type=local_folder, help="folder that receives the prepared data set"
    )
    command.add_argument("--manual_dir", type=local_folder, help="folder that holds the official archives")
    command.add_argument("--download", action="store_true", help="fetch the archives from the official addresses")
    command.add_argument("--max_damaged", type=float, help="share of the inputs that may be damaged (default 0.001)")
    command.add_argument(
        "--keep_splits",
        action="store_true",
        help="image_table: keep the table's splits although identical images are in several of them",
    )
    command.add_argument("--max_megapixels", type=float, help="largest image that is decoded (default 100)")
    command = commands.add_parser(
        "check",
        help="compare data sets, or the splits of one, by id, group, series and content; "
        "exit status 1: overlap, 2: error",
    )
    command.add_argument("names", nargs="+", help="data sets and configs, such as isic2019/64 isic2017/64")
    command.add_argument(
        "--data_dir", required=True, type=local_folder, help="folder that holds the prepared data sets"
    )
    command.add_argument(
        "--list",
        type=Path,
        help="CSV file of every overlap; ids that a spreadsheet would take for formulae have ' before them",
    )
    command.add_argument(
        "--exclude",
        type=Path,
        help="text file that receives the ids of the first data set that overlap, and those of their groups",
    )
    return parser.parse_args(arguments)


def local_folder(text: str) -> Path:
    """A path, as a type of argparse. An address in a network would become a folder of an odd name here."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise argparse.ArgumentTypeError(f"'{text}' is an address in a network: mount it as a folder, or copy it")
    return Path(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status, not 0 with one message on stderr when it cannot be done."""
    options = parse(arguments)
    quiet_libraries()
    try:
        return {"prepare": run_prepare, "check": run_check}[options.command](options)
    except KeyboardInterrupt:
        print("\ninterrupted: nothing half-written is left, and the same command begins anew", file=sys.stderr)
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(f"error: {options.command} needs {error.name}: pip install 'aiseeme-jax[data]'", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
    # 1 is what `check` says of data sets that overlap.
    return 2 if options.command == "check" else 1


def quiet_libraries() -> None:
    """Of TFDS, errors only; nothing of what is odd in a file that was read; and no progress bars where nobody watches
    them.
    """
    warnings.filterwarnings("ignore", module=r"pydicom\b|PIL\b")
    absl_logging.set_verbosity(absl_logging.ERROR)
    if not sys.stderr.isatty():
        # tqdm reads it when it is imported, by the builders.
        os.environ.setdefault("TQDM_DISABLE", "1")


def run_prepare(options: argparse.Namespace) -> int:
    # TFDS announces what it prepares and where; nothing else prints there.
    with contextlib.redirect_stdout(io.StringIO()):
        builder = prepare(
            options.name,
            data_dir=options.data_dir,
            manual_dir=options.manual_dir,
            download=options.download,
            max_damaged=options.max_damaged,
            keep_splits=options.keep_splits,
            max_megapixels=options.max_megapixels,
        )
    report = json.loads((Path(builder.data_dir) / "prepare_report.json").read_text())
    for split, counts in report["splits"].items():
        classes = ", ".join(f"{name} {number}" for name, number in counts["classes"].items())
        print(f"{split}: {counts['images']} images of {counts['groups']} groups" + (f" ({classes})" if classes else ""))
    for difference in report.get("differs_from_published", []):
        print(f"not as published: {difference}")
    for warning in report.get("warnings", []):
        print(f"warning: {warning}")
    if left_out := report.get("left_out"):
        print(f"left out: {describe_left_out(left_out)}, see prepare_report.json")
    if report.get("damaged"):
        print(f"damaged: {len(report['damaged'])} of {report['inputs_read']} inputs, listed in prepare_report.json")
    print(f"ready: {builder.data_dir}")
    return 0


def describe_left_out(left_out: list | dict[str, int]) -> str:
    """Rows listed one by one, or counted by reason."""
    if isinstance(left_out, list):
        return f"{len(left_out)} rows"
    return ", ".join(f"{number} {reason}" for reason, number in left_out.items() if number) or "nothing"


def run_check(options: argparse.Namespace) -> int:
    sets = read_all(options.names, options.data_dir)
    found = list(overlaps(sets))
    for reason, several in groupby(sorted(found, key=lambda overlap: overlap.reason), lambda overlap: overlap.reason):
        pairs = list(several)
        print(f"same {reason}: {len(pairs)} pairs, such as")
        for pair in pairs[:3]:
            print(f"    {' '.join(pair.first)}    {' '.join(pair.second)}")
    print(f"{len(found)} overlaps in {', '.join(options.names)}" if found else "no overlap found")
    if options.list:
        with open(options.list, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("reason", "first", "first_id", "second", "second_id"))
            writer.writerows(map(as_cell, (pair.reason, *pair.first, *pair.second)) for pair in found)
    if options.exclude:
        ids = to_exclude(found, sets[0])
        options.exclude.write_text("".join(f"{cell(name)}\n" for name in ids), encoding="utf-8")
        print(f"{len(ids)} ids of {options.names[0]} written to {options.exclude}")
    return 1 if found else 0


def cell(name: str) -> str:
    """As the only cell of a line of CSV, whichever of its delimiters the reader takes it to have."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"' if set(name) & set(',;\t"') else name


if __name__ == "__main__":
    sys.exit(main())
