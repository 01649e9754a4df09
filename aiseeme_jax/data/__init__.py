"""Splits of data sets as they are stored, mixtures of them, and batches of them on the devices, in order."""

from aiseeme_jax.data.balanced import Balanced, balance
from aiseeme_jax.data.batches import (
    Batches,
    Loading,
    data_mesh,
    evaluation_batches,
    first_images,
    steps_per_epoch,
)
from aiseeme_jax.data.exclusion import SharedNames, shared_groups, without
from aiseeme_jax.data.mixtures import Mixture, mix
from aiseeme_jax.data.needs import LABELS, MASKS, Needs, labelled, segmented, take_needed, take_unlabelled
from aiseeme_jax.data.order import order
from aiseeme_jax.data.partly_labelled import PartlyLabelled, partly_labelled
from aiseeme_jax.data.prepared import open_split, parse_name, prepared_directory
from aiseeme_jax.data.shares import draw_share
from aiseeme_jax.data.sources import UNKNOWN
from aiseeme_jax.data.splits import (
    Split,
    as_texts,
    check_model,
    check_views,
    each_picture,
    from_arrays,
    shown_pictures,
)

__all__ = [
    "LABELS",
    "MASKS",
    "UNKNOWN",
    "Balanced",
    "Batches",
    "Loading",
    "Mixture",
    "Needs",
    "PartlyLabelled",
    "SharedNames",
    "Split",
    "as_texts",
    "balance",
    "check_model",
    "check_views",
    "data_mesh",
    "draw_share",
    "each_picture",
    "evaluation_batches",
    "first_images",
    "from_arrays",
    "labelled",
    "mix",
    "open_split",
    "order",
    "parse_name",
    "partly_labelled",
    "prepared_directory",
    "segmented",
    "shared_groups",
    "shown_pictures",
    "steps_per_epoch",
    "take_needed",
    "take_unlabelled",
    "without",
]
