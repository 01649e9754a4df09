"""Losses, each a plain function of arrays.

A loss gets the whole batch. It has no collectives and no axis names; `jit` over a sharded batch gives the same number
and the same gradient as one device. It takes arrays of any float dtype, computes in float32 (float64 stays float64) and
returns a float32 scalar: the mean over the batch, in nats. One whose name is a plural returns the loss of each row. No
loss stops a gradient: the caller wraps what must not learn (keys, targets, teachers) in `jax.lax.stop_gradient`. Inputs
must be finite.
"""

from aiseeme_jax.losses.arrays import image_means, image_shares
from aiseeme_jax.losses.classification import (
    accuracy,
    binary_cross_entropies,
    binary_cross_entropy,
    class_balanced_weights,
    cross_entropies,
    cross_entropy,
    focal,
)
from aiseeme_jax.losses.contrastive import (
    dense_correspondence,
    dense_info_nce,
    dense_info_nces,
    info_nce,
    info_nce_in_batch,
    info_nces,
    info_nces_in_batch,
    nt_xent,
    nt_xents,
)
from aiseeme_jax.losses.imbalance import binary_focal, ldam_margins, log_priors, margin_cross_entropies
from aiseeme_jax.losses.invariance import barlow_twins, cosines, negative_cosine, vicreg
from aiseeme_jax.losses.reconstruction import masked_mse, mse, squared_errors
from aiseeme_jax.losses.segmentation import masked_binary_cross_entropy, rank_loss, soft_dice
from aiseeme_jax.losses.soft_targets import (
    dino,
    dino_losses,
    kl_distill,
    sinkhorn,
    swapped_prediction,
    swapped_predictions,
)

__all__ = [
    "accuracy",
    "barlow_twins",
    "binary_cross_entropies",
    "binary_cross_entropy",
    "binary_focal",
    "class_balanced_weights",
    "cosines",
    "cross_entropies",
    "cross_entropy",
    "dense_correspondence",
    "dense_info_nce",
    "dense_info_nces",
    "dino",
    "dino_losses",
    "focal",
    "image_means",
    "image_shares",
    "info_nce",
    "info_nce_in_batch",
    "info_nces",
    "info_nces_in_batch",
    "kl_distill",
    "ldam_margins",
    "log_priors",
    "margin_cross_entropies",
    "masked_binary_cross_entropy",
    "masked_mse",
    "mse",
    "negative_cosine",
    "nt_xent",
    "nt_xents",
    "rank_loss",
    "sinkhorn",
    "soft_dice",
    "squared_errors",
    "swapped_prediction",
    "swapped_predictions",
    "vicreg",
]
