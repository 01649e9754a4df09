"""ISIC 2018: importing this package registers the builder `isic2018` with TFDS."""

import sys
from pathlib import Path

if __name__ == "isic2018":
    # `tfds build tfds_builders/isic2018` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .isic2018_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
