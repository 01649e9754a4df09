"""LIDC-IDRI: importing this package registers the builder `lidc_idri` with TFDS."""

import sys
from pathlib import Path

if __name__ == "lidc_idri":
    # `tfds build tfds_builders/lidc_idri` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .lidc_idri_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
