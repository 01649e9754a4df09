"""Compiled programs that later runs find again."""

import hashlib
import logging
import platform
import warnings
from pathlib import Path

import jax

log = logging.getLogger(__name__)

# When the folder has grown to this many bytes, jax deletes what was not used for longest.
LARGEST = 4 * 2**30
# A program that takes less than this to compile is compiled faster than it is found. In seconds.
WORTH_KEEPING = 0.3


def keep_programs(folder: str) -> None:
    """Keeps compiled programs in a folder, for later stages and runs that need the same.

    If the user has told jax of a folder of their own (JAX_COMPILATION_CACHE_DIR), that one is used instead.

    Args:
      folder: is made if it does not exist; it may begin with `~`. If empty, programs are not kept.
    """
    if not folder or jax.config.jax_compilation_cache_dir:
        return
    path = Path(folder).expanduser() / name_processor()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.info("compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)
    # A process that was killed while it wrote leaves half a file. Then jax compiles again, and warns.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")


def name_processor() -> str:
    """A name for the kind of this machine's processor.

    A program compiled for one processor may contain instructions that another one does not know, and computers of one
    cluster often share the home folder.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    described = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    text = "\n".join([platform.machine(), platform.processor(), *described])
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
