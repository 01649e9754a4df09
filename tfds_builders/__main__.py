"""Command line: `python -m tfds_builders prepare isic2019/64 --data_dir data --manual_dir downloads`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tfds_builders.preparing import DATASETS, prepare


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tfds_builders", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="write a data set to --data_dir; nothing to do if it is there")
    command.add_argument("name", help=f"data set and config, such as isic2019/64; data sets: {', '.join(DATASETS)}")
    command.add_argument("--data_dir", required=True, type=Path, help="folder that receives the prepared data set")
    command.add_argument("--manual_dir", type=Path, help="folder that holds the official archives")
    command.add_argument("--download", action="store_true", help="fetch the archives from the official addresses")
    command.add_argument("--max_damaged", type=float, help="share of the inputs that may be damaged (default 0.001)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status, 1 with one message on stderr when the data set cannot be
    made.
    """
    options = parse(arguments)
    try:
        builder = prepare(
            options.name,
            data_dir=options.data_dir,
            manual_dir=options.manual_dir,
            download=options.download,
            max_damaged=options.max_damaged,
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = json.loads((Path(builder.data_dir) / "prepare_report.json").read_text())
    for split, counts in report["splits"].items():
        classes = ", ".join(f"{name} {number}" for name, number in counts["classes"].items())
        print(f"{split}: {counts['images']} images of {counts['groups']} groups ({classes})")
    if report.get("left_out"):
        print(f"left out: {len(report['left_out'])} rows, listed in prepare_report.json")
    if report.get("damaged"):
        print(f"damaged: {len(report['damaged'])} of {report['inputs_read']} inputs, listed in prepare_report.json")
    print(f"ready: {builder.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
