"""LUNA16: importing this package registers the builder `luna16` with TFDS."""

import sys
from pathlib import Path

if __name__ == "luna16":
    # `tfds build tfds_builders/luna16` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .luna16_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
