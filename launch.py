"""Runs a config in a workdir; the same command again goes on where it stopped.

python launch.py --config=configs/isic_curriculum.py:demo --workdir=runs/demo
"""

import dis
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

config_flags.DEFINE_config_file("config", None, "Experiment file, with a variant after a colon.", lock_config=True)
flags.DEFINE_string("workdir", None, "Folder for everything of this run.")
flags.DEFINE_bool(
    "distributed", False, "One of several processes. Without the next three, the cluster is asked for them."
)
flags.DEFINE_string("coordinator", None, "host:port of the first process.")
flags.DEFINE_integer("num_processes", None, "How many processes there are.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
flags.DEFINE_bool("deterministic", False, "Bit-identical reruns on GPUs too, at some cost in speed (CPUs always are).")
flags.DEFINE_bool("debug", False, "Show where an error in the input came up.")
CLUSTER = ("coordinator", "num_processes", "process_id")
for name in ("config", "workdir"):
    flags.register_validator(name, lambda value: value is not None, message=f"--{name}=… is missing")

log = logging.getLogger("aiseeme_jax")

# tensorflow, where it is imported, talks before anyone can ask it not to.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

JOBS = {"curriculum": "aiseeme_jax.jobs.curriculum", "evaluate": "aiseeme_jax.jobs.evaluate"}
# How ml_collections begins what it says of an error in a config file; the error itself is the first of its causes.
WRAPPED = ("Error whilst parsing config file", "Configuration is not available")
# What a stopped run leaves for a scheduler to see: 128 + SIGTERM.
PREEMPTED = 143
INTERRUPTED = 130


def main(argv: list[str]) -> None:
    if not flags.FLAGS.distributed and any(flags.FLAGS[name].present for name in CLUSTER):
        raise app.UsageError(f"--{', --'.join(CLUSTER)} mean something only with --distributed")
    if len(argv) > 1:
        raise app.UsageError(f"arguments that are no flags: {' '.join(argv[1:])}")
    _speak()
    _start_devices()
    from aiseeme_jax.jobs import workdir as workdir_
    from aiseeme_jax.training.stopping import Preempted

    config = flags.FLAGS.config
    if config.job not in JOBS:
        raise ValueError(f"unknown job '{config.job}': known are {', '.join(JOBS)}")
    workdir = Path(flags.FLAGS.workdir)
    try:
        with workdir_.alone(workdir):
            importlib.import_module(JOBS[config.job]).run(config, workdir)
    except Preempted as stop:
        log.info("%s", stop)
        sys.exit(PREEMPTED)


def _speak() -> None:
    """This program's own messages, plain; of the libraries', warnings only."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _start_devices() -> None:
    if flags.FLAGS.deterministic:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    import jax

    if flags.FLAGS.distributed:
        # CPU processes talk through gloo; on accelerators the setting is without effect.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # It would swallow SIGTERM; the loop asks all processes itself.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(flags.FLAGS.coordinator, flags.FLAGS.num_processes, flags.FLAGS.process_id)
    log.info("jax %s on %d x %s", jax.__version__, jax.device_count(), jax.devices()[0].device_kind)


def _is_input_error(error: Exception) -> bool:
    """Whether an error judges what the user gave: on the way to a file, in the config before the run, or in so many
    words of this program. An operation of its own that failed is a bug, whatever the type of the error.
    """
    if isinstance(error, OSError | flags.Error):
        return True
    entries = [error.__traceback__]
    while entries[-1].tb_next:
        entries.append(entries[-1].tb_next)
    code = entries[-1].tb_frame.f_code
    # Of a config file it is relative.
    raised_in = Path(code.co_filename).resolve()
    if "ml_collections" in raised_in.parts:
        return not any(entry.tb_frame.f_code is main.__code__ for entry in entries)
    own = Path(__file__).resolve().parent in raised_in.parents and ".venv" not in raised_in.parts
    return own and code.co_code[entries[-1].tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _parse(argv: list[str]) -> list[str]:
    """absl's parsing, but that a field the config does not have is named beside those that it has."""
    try:
        return flags.FLAGS(argv)
    except (SyntaxError, NameError) as error:
        said = getattr(error, "msg", None) or error
        raise ValueError(f"{_place(error)}{type(error).__name__}: {said}") from error
    except (AttributeError, KeyError, IndexError) as error:
        wrong = _wrong_field(argv)
        if wrong is None:
            raise
        raise ValueError(wrong) from error


def _wrong_field(argv: list[str]) -> str | None:
    """What is wrong with the first --config.FIELD that the config file has no place for."""
    flag = re.compile(r"--?config(?:\.(?P<field>[^=]+))?(?:=(?P<value>.*))?", re.DOTALL)
    matches = [(i, match) for i, argument in enumerate(argv) if (match := flag.fullmatch(argument))]
    (i, named), *_ = [(i, match) for i, match in matches if not match["field"]]
    config = flags.FLAGS["config"].parser.parse(named["value"] or argv[i + 1])
    found = (_missing(config, match["field"]) for _, match in matches if match["field"])
    return next((wrong for wrong in found if wrong), None)


def _missing(config: Any, field: str) -> str | None:
    """Where the way to a field ends before the field."""
    at = "config"
    for part in config_path.split(field):
        if isinstance(part, int):
            if not isinstance(config, tuple | list) or part >= len(config):
                held = len(config) if isinstance(config, tuple | list) else "no"
                return f"{at} has {held} entries: there is no {at}[{part}]"
            at += f"[{part}]"
        else:
            known = sorted(config) if isinstance(config, ConfigDict) else []
            if part not in known:
                return f"unknown field '{part}' of {at}: known are {', '.join(known) or 'none'}"
            at += f".{part}"
        config = config[part]
    return None


def _message(error: Exception) -> str:
    """What an error says, without what absl and ml_collections add: the value None, the traceback of an error in a
    config file, the whole config where it has no such field.
    """
    first: BaseException = error
    while any(words in str(error) for words in WRAPPED) and (before := first.__cause__ or first.__context__):
        first = before
    said, locked, _ = str(first).partition(" Other fields present")
    if locked:
        return _place(first) + said.removeprefix("'")
    return re.sub("^flag --(config|workdir)=None: ", "", said)


def _place(error: BaseException) -> str:
    """File and line of the config in which an error came up, for the beginning of a message."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename, error.lineno))
    own = [(file, line) for file, line in frames if file and "site-packages" not in file and file != __file__]
    return "{}, line {}: ".format(*own[-1]) if own else ""


def _run() -> None:
    """Errors in what the user gave end in one message and exit code 2; any other keeps its traceback."""
    try:
        app.run(main, flags_parser=_parse)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (flags.Error, ValueError, AttributeError, TypeError, IndexError, ImportError, OSError) as error:
        if "--debug" in sys.argv or not _is_input_error(error):
            raise
        print(f"error: {_message(error)}\n(--debug shows where)", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    _run()
