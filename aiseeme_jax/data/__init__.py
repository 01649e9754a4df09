"""Splits of data sets as they are stored, and batches of them on the devices, in order."""

from aiseeme_jax.data.batches import (
    Batches,
    check_residence,
    data_mesh,
    evaluation_batches,
    first_images,
    order,
    steps_per_epoch,
)
from aiseeme_jax.data.splits import (
    Split,
    check_model,
    from_arrays,
    labelled,
    open_split,
    prepared_directory,
    without,
)

__all__ = [
    "Batches",
    "Split",
    "check_model",
    "check_residence",
    "data_mesh",
    "evaluation_batches",
    "first_images",
    "from_arrays",
    "labelled",
    "open_split",
    "order",
    "prepared_directory",
    "steps_per_epoch",
    "without",
]
