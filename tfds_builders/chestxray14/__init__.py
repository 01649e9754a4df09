"""NIH ChestX-ray14: importing this package registers the builder `chestxray14` with TFDS."""

import sys
from pathlib import Path

if __name__ == "chestxray14":
    # `tfds build tfds_builders/chestxray14` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .chestxray14_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
