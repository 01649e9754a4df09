"""ISIC 2016: importing this package registers the builder `isic2016` with TFDS."""

import sys
from pathlib import Path

if __name__ == "isic2016":
    # `tfds build tfds_builders/isic2016` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .isic2016_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
