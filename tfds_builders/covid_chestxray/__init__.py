"""The ieee8023 collection: importing this package registers the builder `covid_chestxray` with TFDS."""

import sys
from pathlib import Path

if __name__ == "covid_chestxray":
    # `tfds build tfds_builders/covid_chestxray` loads this folder as a top-level package; the shared code is two
    # levels up.
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from .covid_chestxray_dataset_builder import Builder  # noqa: E402

__all__ = ["Builder"]
