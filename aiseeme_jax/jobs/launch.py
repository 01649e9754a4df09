"""Runs a config in a workdir. The same command again continues where it stopped.

    python launch.py --config=configs/isic_curriculum.py:demo --workdir=runs/demo
    aiseeme train --config=isic_curriculum:demo --workdir=runs/demo

The second is for an installed package. A name without a folder and `.py` is one of the config files of this project,
which an installed package has within itself. Config files import each other as `configs`, wherever they lie.
"""

import functools
import importlib
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from aiseeme_jax.errors import Terminated, UserError
from aiseeme_jax.jobs.config_names import CONFIG_FLAG, CONFIGS, find_config, find_shipped, find_wrong_file
from aiseeme_jax.jobs.requirements import COMMAND_FOR_GPUS

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
    flags.register_validator(name, bool, message=f"--{name}=… is missing")

log = logging.getLogger("aiseeme_jax")

# tensorflow prints messages while it is imported, so this must be set before.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# Job -> module with a `run(config, workdir, plan_only=…)`.
JOBS = {
    "curriculum": "aiseeme_jax.jobs.curriculum",
    "evaluate": "aiseeme_jax.jobs.curriculum",
    "search": "aiseeme_jax.jobs.search",
    "study": "aiseeme_jax.jobs.study",
}
# How ml_collections begins its message about an error in a config file. The error itself is the first of the causes.
WRAPPED = ("Error whilst parsing config file", "Configuration is not available")
# Exit codes after signals, as shells expect them: 128 and the number of the signal.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def main(argv: list[str]) -> None:
    if not flags.FLAGS.distributed and any(flags.FLAGS[name].present for name in CLUSTER):
        raise UserError(f"--{', --'.join(CLUSTER)} have a meaning only with --distributed")
    if len(argv) > 1:
        raise UserError(f"these arguments are not flags: {' '.join(argv[1:])}")
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    if config.job not in JOBS:
        raise UserError(f"unknown job '{config.job}': known are {', '.join(JOBS)}")
    check_paths(config, flags.FLAGS.workdir)
    show_messages()
    from aiseeme_jax.training.stopping import EndSignal, Preempted, leave, try_briefly

    try:
        with EndSignal():
            run_job(config, workdir)
    except Preempted as stop:
        # Where the terminal takes no text, a normal end would wait for it.
        if not try_briefly(functools.partial(log.info, "%s", stop)):
            leave(stop.exit_code)
        sys.exit(stop.exit_code)


def run_job(config: ConfigDict, workdir: Path) -> None:
    """Starts jax and does what the config asks for."""
    members = start_devices()
    from aiseeme_jax.jobs.processes import explain_losses
    from aiseeme_jax.store.files import explain_disk_errors

    job = importlib.import_module(JOBS[config.job])
    with explain_losses(members), explain_disk_errors(workdir):
        job.run(config, workdir, plan_only=flags.FLAGS.plan)


def check_paths(config: ConfigDict, workdir: str) -> None:
    """Raises UserError for a path that is an address in a network, and for a workdir that is no folder."""
    from aiseeme_jax.store.files import check_folder, check_local

    named = {"--workdir": workdir, "runtime.store": config.runtime.store, "runtime.data_dir": config.runtime.data_dir}
    for name, path in named.items():
        check_folder(path, name)
    for name in ("init", "imagenet"):
        check_local(config[name], name)


def repeat_signal(unraisable: Any) -> None:
    """Sends a signal again whose exception was lost: one that is raised while Python frees memory goes nowhere."""
    lost = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}.get(unraisable.exc_type)
    if lost is None:
        sys.__unraisablehook__(unraisable)
        return
    # A moment later: here it would be lost again.
    threading.Timer(0.05, os.kill, (os.getpid(), lost)).start()


def show_messages() -> None:
    """Shows the messages of this program as plain text, and of libraries only warnings."""
    from aiseeme_jax.training.display import MessageHandler

    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = MessageHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    # Orbax logs the errors of its threads, a page for each, and raises them as well.
    absl_logging.get_absl_handler().addFilter(lambda record: not (record.exc_info and "orbax" in record.pathname))
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    log.setLevel(logging.INFO)
    log.propagate = False


def start_devices() -> list:
    """Starts jax, in one process or as one of several, and returns the processes of the run if there are several.

    Raises UserError if the processes or the devices that are asked for are not there.
    """
    if flags.FLAGS.deterministic:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    import jax

    members = []
    if flags.FLAGS.distributed:
        from aiseeme_jax.jobs.processes import join_processes

        members = join_processes(*(flags.FLAGS[name].value for name in CLUSTER))
    try:
        devices = jax.devices()
    # jax says by an AssertionError that the platform is known and has no device.
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0][:200]
        raise UserError(
            f"jax finds no device with JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: unset it, or install jax "
            f"for that device, for GPUs by `{COMMAND_FOR_GPUS}`{said and f' ({said})'}"
        ) from error
    log.info("jax %s on %d x %s", jax.__version__, len(devices), devices[0].device_kind)
    return members


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags. A mistake in the config file or in a flag becomes a UserError that says where it is."""
    # First of all, since others too may have installed a package of that name.
    sys.path.insert(0, str(CONFIGS.parent))
    argv = find_shipped(argv)
    if wrong := find_wrong_file(argv):
        raise UserError(wrong)
    # A config file may import what lies beside it.
    sys.path.append(str(Path((find_config(argv) or "").partition(":")[0]).absolute().parent))
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(re.sub("^flag --(config|workdir)=(None)?: ", "", describe(error))) from error
    except (SyntaxError, NameError) as error:
        said = getattr(error, "msg", None) or error
        raise UserError(f"{find_line(error)}{type(error).__name__}: {said}") from error
    except OSError as error:
        raise UserError(describe(error)) from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(find_wrong_field(argv) or describe(error)) from error


def find_wrong_field(argv: list[str]) -> str | None:
    """Says what is wrong with the first --config.FIELD that does not exist in the config file."""
    matches = filter(None, map(CONFIG_FLAG.fullmatch, argv))
    fields = [match["field"] for match in matches if match["field"]]
    try:
        config = flags.FLAGS["config"].parser.parse(find_config(argv))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        # The file itself cannot be read. The first error says why.
        return None
    from aiseeme_jax.study.fields import find_missing

    return next(filter(None, (find_missing(config, config_path.split(field)) for field in fields)), None)


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
    sys.unraisablehook = repeat_signal
    # --help shows the flags of the program that was started.
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    try:
        app.run(main, flags_parser=parse_flags)
    except KeyboardInterrupt:
        end(INTERRUPTED, "\ninterrupted: the same command goes on from the last checkpoint")
    except Terminated:
        end(TERMINATED, "stopped: the same command goes on from the last checkpoint")
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        end(2, f"error: {error}\n(--debug shows where)")


def end(code: int, said: str) -> NoReturn:
    """Ends the program with a message; at once if jax was started, since its threads may wait for what never comes."""
    if "jax" in sys.modules:
        from aiseeme_jax.training.stopping import leave

        leave(code, said)
    print(said, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    run()
