"""The commands: `python -m aiseeme_jax COMMAND ...`, or `aiseeme COMMAND ...` where the package is installed."""

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from aiseeme_jax import __version__
from aiseeme_jax.errors import UserError
from aiseeme_jax.store.files import check_local, explain_disk_errors

# Command -> module with a `main(arguments)`. It is imported only when the command is given.
COMMANDS = {
    "attention": "aiseeme_jax.jobs.attention_command",
    "bias": "aiseeme_jax.jobs.bias",
    "card": "aiseeme_jax.jobs.card_command",
    "compare": "aiseeme_jax.report.compare",
    "embed": "aiseeme_jax.jobs.embed",
    "export": "aiseeme_jax.jobs.export",
    "freeze": "aiseeme_jax.jobs.freezing",
    "metrics": "aiseeme_jax.jobs.metrics_command",
    "predict": "aiseeme_jax.jobs.predict",
    "report": "aiseeme_jax.jobs.report_command",
    "similarity": "aiseeme_jax.jobs.similarity",
    "store": "aiseeme_jax.jobs.store_command",
}


def train(arguments: Sequence[str]) -> None:
    """Runs `launch.py` with these flags."""
    from aiseeme_jax.jobs import launch

    sys.argv = [f"{sys.argv[0]} train", *arguments]
    launch.run()


def plan(arguments: Sequence[str]) -> None:
    """The same, and nothing is trained."""
    train([*arguments, "--plan"])


def run_builders(arguments: Sequence[str]) -> NoReturn:
    """Runs `python -m tfds_builders`."""
    from tfds_builders.__main__ import main

    sys.exit(main(arguments))


# Commands that are programs of their own, with their own exit codes.
PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "plan": plan,
    "prepare": lambda arguments: run_builders(["prepare", *arguments]),
    "check": lambda arguments: run_builders(["check", *arguments]),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="aiseeme" if Path(sys.argv[0]).stem == "aiseeme" else "python -m aiseeme_jax")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=sorted((*COMMANDS, *PROGRAMS)))
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(sys.argv[1:])
    if options.command in PROGRAMS:
        PROGRAMS[options.command](options.arguments)
        return
    try:
        for argument in options.arguments:
            check_local(argument, options.command)
        with explain_disk_errors(Path()):
            importlib.import_module(COMMANDS[options.command]).main(options.arguments)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
