"""Eight virtual CPU devices for every test, quick compilation, and the optional folder of real images."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest
from running import ONE_ORDER, QUICK_TO_COMPILE

from aiseeme_jax.jobs import working
from aiseeme_jax.training import memory

os.environ.setdefault("JAX_PLATFORMS", "cpu")
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), EIGHT_DEVICES, ONE_ORDER, QUICK_TO_COMPILE])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
jax.config.update("jax_disable_most_optimizations", True)


def pytest_configure(config):
    """One cache of compiled programs for the workers of a run and the processes that they start.

    If the user names a folder for it, the next run finds there what this one compiled. Otherwise it is a temporary one.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.temporary_cache = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def pytest_unconfigure(config):
    if hasattr(config, "temporary_cache"):
        shutil.rmtree(config.temporary_cache, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def memory_is_given_back_once_a_module():
    """Between the many short pieces of work of a test, that takes longer than most of the pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(working, "give_back_memory", lambda: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_module_are_let_go():
    """Linux limits the mappings of a process, and every compiled program holds some.

    What was imported before stays: after `freeze`, garbage collection does not look through it again and again.
    """
    gc.collect()
    gc.freeze()
    yield
    jax.clear_caches()
    memory.give_back_memory()


@pytest.fixture(scope="session", autouse=True)
def leavings(tmp_path_factory):
    """TFDS and Beam leave folders where temporary files go; pytest clears its own away."""
    tempfile.tempdir = os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("leavings"))


REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images in the official formats; the tests that want it are skipped where it is absent."""
    path = Path(os.environ.get("AISEEME_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real images at {path}: set AISEEME_TEST_DATA to a folder that holds them")
    return path


@pytest.fixture(scope="session", autouse=True)
def parsed_flags():
    """grain's workers and clu read absl flags, which only an absl app parses."""
    from absl import flags

    flags.FLAGS.mark_as_parsed()
