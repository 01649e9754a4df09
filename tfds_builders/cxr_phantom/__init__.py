"""Synthetic chest X-rays: importing this package registers the builder `cxr_phantom` with TFDS."""

import sys
from pathlib import Path

if __name__ == "cxr_phantom":
    # `tfds build tfds_builders/cxr_phantom` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .cxr_phantom_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
