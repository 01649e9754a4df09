"""APTOS 2019: importing this package registers the builder `aptos2019` with TFDS."""

import sys
from pathlib import Path

if __name__ == "aptos2019":
    # `tfds build tfds_builders/aptos2019` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .aptos2019_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
