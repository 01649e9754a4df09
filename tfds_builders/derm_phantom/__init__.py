"""Synthetic dermoscopy: importing this package registers the builder `derm_phantom` with TFDS."""

import sys
from pathlib import Path

if __name__ == "derm_phantom":
    # `tfds build tfds_builders/derm_phantom` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .derm_phantom_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
