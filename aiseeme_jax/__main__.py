"""The commands beside `launch.py`: `python -m aiseeme_jax COMMAND ...`."""

import argparse
import importlib
import signal
import sys
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aiseeme_jax")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(sys.argv[1:])
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
