"""Crops of lung nodules: importing this package registers the builder `lidc_nodules` with TFDS."""

import sys
from pathlib import Path

if __name__ == "lidc_nodules":
    # `tfds build tfds_builders/lidc_nodules` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .lidc_nodules_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
