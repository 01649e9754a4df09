"""Synthetic lung nodules: importing this package registers the builder `nodule_phantom` with TFDS."""

import sys
from pathlib import Path

if __name__ == "nodule_phantom":
    # `tfds build tfds_builders/nodule_phantom` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .nodule_phantom_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
