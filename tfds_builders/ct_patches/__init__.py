"""Patches of CT series: importing this package registers the builder `ct_patches` with TFDS."""

import sys
from pathlib import Path

if __name__ == "ct_patches":
    # `tfds build tfds_builders/ct_patches` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .ct_patches_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
