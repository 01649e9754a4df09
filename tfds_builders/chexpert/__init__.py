"""CheXpert: importing this package registers the builder `chexpert` with TFDS."""

import sys
from pathlib import Path

if __name__ == "chexpert":
    # `tfds build tfds_builders/chexpert` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .chexpert_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
