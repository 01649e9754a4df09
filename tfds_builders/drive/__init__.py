"""DRIVE: importing this package registers the builder `drive` with TFDS."""

import sys
from pathlib import Path

if __name__ == "drive":
    # `tfds build tfds_builders/drive` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .drive_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
