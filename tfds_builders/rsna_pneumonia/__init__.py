"""RSNA Pneumonia: importing this package registers the builder `rsna_pneumonia` with TFDS."""

import sys
from pathlib import Path

if __name__ == "rsna_pneumonia":
    # `tfds build tfds_builders/rsna_pneumonia` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .rsna_pneumonia_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
