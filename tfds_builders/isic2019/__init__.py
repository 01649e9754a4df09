"""ISIC 2019: importing this package registers the builder `isic2019` with TFDS."""

import sys
from pathlib import Path

if __name__ == "isic2019":
    # `tfds build tfds_builders/isic2019` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .isic2019_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
