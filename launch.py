"""Runs a config in a workdir. The same command again continues where it stopped.

python launch.py --config=configs/isic_curriculum.py:demo --workdir=runs/demo
"""

import importlib
import logging
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from aiseeme_jax.errors import UserError

config_flags.DEFINE_config_file("config", None, "Experiment file, with a variant after a colon.", lock_config=True)
flags.DEFINE_string("workdir", None, "Folder for everything of this run.")
flags.DEFINE_bool("plan", False, "Print what exists and what would be done, and do nothing.")
flags.DEFINE_bool(
    "distributed", False, "One of several processes. Without the next three, the cluster is asked for them."
)
flags.DEFINE_string("coordinator", None, "host:port of the first process.")
flags.DEFINE_integer("num_processes", None, "How many processes there are.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
flags.DEFINE_bool("deterministic", False, "Bit-identical reruns on GPUs too, at some cost in speed (CPUs always are).")
flags.DEFINE_bool("debug", False, "Show the traceback of an error in the input.")
CLUSTER = ("coordinator", "num_processes", "process_id")
for name in ("config", "workdir"):
    flags.register_validator(name, lambda value: value is not None, message=f"--{name}=… is missing")

log = logging.getLogger("aiseeme_jax")

# tensorflow prints messages while it is imported, so this must be set before.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# Job -> module with a `run(config, workdir, plan_only=…)`.
JOBS = {
    "curriculum": "aiseeme_jax.jobs.curriculum",
    "evaluate": "aiseeme_jax.jobs.curriculum",
    "search": "aiseeme_jax.jobs.search",
}
# How ml_collections begins its message about an error in a config file. The error itself is the first of the causes.
WRAPPED = ("Error whilst parsing config file", "Configuration is not available")
# Exit code of a run that was stopped by SIGTERM, as schedulers expect it: 128 + 15.
PREEMPTED = 143
INTERRUPTED = 130


def main(argv: list[str]) -> None:
    if not flags.FLAGS.distributed and any(flags.FLAGS[name].present for name in CLUSTER):
        raise UserError(f"--{', --'.join(CLUSTER)} have a meaning only with --distributed")
    if len(argv) > 1:
        raise UserError(f"these arguments are not flags: {' '.join(argv[1:])}")
    show_messages()
    start_devices()
    from aiseeme_jax.training.stopping import Preempted

    config = flags.FLAGS.config
    if config.job not in JOBS:
        raise UserError(f"unknown job '{config.job}': known are {', '.join(JOBS)}")
    job = importlib.import_module(JOBS[config.job])
    try:
        job.run(config, Path(flags.FLAGS.workdir), plan_only=flags.FLAGS.plan)
    except Preempted as stop:
        log.info("%s", stop)
        sys.exit(PREEMPTED)


def show_messages() -> None:
    """Shows the messages of this program as plain text, and of libraries only warnings."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def start_devices() -> None:
    """Starts jax, in one process or as one of several."""
    if flags.FLAGS.deterministic:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    import jax

    if flags.FLAGS.distributed:
        # CPU processes communicate through gloo. On accelerators the setting has no effect.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # The service would catch SIGTERM. The training loop handles it, for all processes.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(flags.FLAGS.coordinator, flags.FLAGS.num_processes, flags.FLAGS.process_id)
    log.info("jax %s on %d x %s", jax.__version__, jax.device_count(), jax.devices()[0].device_kind)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags. A mistake in the config file or in a flag becomes a UserError that says where it is."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(re.sub("^flag --(config|workdir)=None: ", "", describe(error))) from error
    except (SyntaxError, NameError) as error:
        said = getattr(error, "msg", None) or error
        raise UserError(f"{find_line(error)}{type(error).__name__}: {said}") from error
    except OSError as error:
        raise UserError(describe(error)) from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        wrong = find_wrong_field(argv) if isinstance(error, AttributeError | KeyError | IndexError) else None
        raise UserError(wrong or describe(error)) from error


def find_wrong_field(argv: list[str]) -> str | None:
    """Says what is wrong with the first --config.FIELD that does not exist in the config file."""
    flag = re.compile(r"--?config(?:\.(?P<field>[^=]+))?(?:=(?P<value>.*))?", re.DOTALL)
    matches = [(i, match) for i, argument in enumerate(argv) if (match := flag.fullmatch(argument))]
    named = [(i, match) for i, match in matches if not match["field"]]
    if not named:
        return None
    i, match = named[0]
    try:
        config = flags.FLAGS["config"].parser.parse(match["value"] or argv[i + 1])
        found = (find_missing(config, match["field"]) for _, match in matches if match["field"])
        return next((wrong for wrong in found if wrong), None)
    except Exception:
        # The file itself cannot be read. The first error says why.
        return None


def find_missing(config: Any, field: str) -> str | None:
    """Says which part of the path to a field does not exist; None if the field exists."""
    at = "config"
    for part in config_path.split(field):
        if isinstance(part, int):
            if not isinstance(config, tuple | list) or part >= len(config):
                count = len(config) if isinstance(config, tuple | list) else "no"
                return f"{at} has {count} entries: there is no {at}[{part}]"
            at += f"[{part}]"
        else:
            known = sorted(config) if isinstance(config, ConfigDict) else []
            if part not in known:
                return f"unknown field '{part}' of {at}: known are {', '.join(known) or 'none'}"
            at += f".{part}"
        config = config[part]
    return None


def describe(error: Exception) -> str:
    """The message of an error in a config, without what ml_collections adds to it.

    It adds the traceback of an error in a config file, and for an unknown field the whole config.
    """
    first: BaseException = error
    while any(words in str(error) for words in WRAPPED) and (before := first.__cause__ or first.__context__):
        first = before
    said, locked, _ = str(first).partition(" Other fields present")
    # A UserError says itself where it belongs.
    place = "" if isinstance(first, UserError) else find_line(first)
    return place + (said.removeprefix("'") if locked else said)


def find_line(error: BaseException) -> str:
    """File and line of the config in which an error was raised, as the beginning of a message."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename, error.lineno))
    own = [(file, line) for file, line in frames if file and "site-packages" not in file and file != __file__]
    return "{}, line {}: ".format(*own[-1]) if own else ""


def run() -> None:
    """Runs the program. A UserError ends in one message and exit code 2. Every other error keeps its traceback."""
    try:
        app.run(main, flags_parser=parse_flags)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}\n(--debug shows where)", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
