"""Image tables: importing this package registers the builder `image_table` with TFDS."""

import sys
from pathlib import Path

if __name__ == "image_table":
    # `tfds build tfds_builders/image_table` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .image_table_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
