"""Eight virtual CPU devices for every test, and the optional folder of real images."""

import os
from pathlib import Path

import jax
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Most of a test's time is compilation, and a program that runs once is not worth optimising.
jax.config.update("jax_disable_most_optimizations", True)

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
