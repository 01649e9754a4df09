"""Kermany's paediatric pneumonia: importing this package registers the builder `kermany_pneumonia` with TFDS."""

import sys
from pathlib import Path

if __name__ == "kermany_pneumonia":
    # `tfds build tfds_builders/kermany_pneumonia` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .kermany_pneumonia_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
