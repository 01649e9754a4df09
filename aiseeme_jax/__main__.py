"""Commands beside `launch.py`: `python -m aiseeme_jax COMMAND`, each thin over the rooms."""

import argparse
import importlib
import sys

# Command -> module with a `main(arguments)`; imported when asked for.
COMMANDS = {
    "compare": "aiseeme_jax.report.compare",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aiseeme_jax")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(sys.argv[1:])
    importlib.import_module(COMMANDS[options.command]).main(options.arguments)


if __name__ == "__main__":
    main()
