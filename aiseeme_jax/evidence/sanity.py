"""Whether maps depend on what was learned (Adebayo et al., arXiv 1810.03292): layers are made random again.

The layers are re-initialised from the top down, each with all above it. A map that hardly changes when every layer is
random does not show what the network learned. The check finds methods that are broken, and does not rank the others: a
noisy map passes easily (Binder et al., arXiv 2211.12486).
"""

from collections.abc import Iterator

import numpy as np
from flax import nnx
from jaxtyping import Float
from scipy import stats

from aiseeme_jax import models, seeds
from aiseeme_jax.models.classifier import CosineHead, linear_head
from aiseeme_jax.models.halves import ENDPOINTS, replace_part

HEAD = "head"
# The median similarity of the maps of a network and of a random one should be below it, on maps of at least 14 x 14.
PASSES_BELOW = 0.2


def make_random(backbone: nnx.Module, head: nnx.Module | None, seed: int) -> tuple[nnx.Module, nnx.Module | None]:
    """A backbone and a head (if there is one) like those given, with new random weights."""
    rngs = nnx.Rngs(seeds.derive(seed, "random network"))
    other = models.make_backbone(**backbone.config, rngs=rngs)
    if head is None:
        return other, None
    features, outputs = head.kernel.shape
    if isinstance(head, CosineHead):
        return other, CosineHead(features, outputs, scale=head.scale, rngs=rngs)
    return other, linear_head(features, outputs, rngs=rngs)


def randomise_downwards(
    backbone: nnx.Module, head: nnx.Module | None, seed: int
) -> Iterator[tuple[str, nnx.Module, nnx.Module | None]]:
    """The network with its highest layers random, one part more each time: the name of the part, backbone and head.

    What was given is not changed. The last one is `make_random`'s.
    """
    random, random_head = make_random(backbone, head, seed)
    mixed = nnx.clone(backbone)
    if head is not None:
        yield HEAD, nnx.clone(mixed), random_head
    for part in reversed(ENDPOINTS):
        replace_part(mixed, part, random)
        yield part, nnx.clone(mixed), random_head


def correlate_maps(maps: Float[np.ndarray, "n h w"], others: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, " n"]:
    """Spearman's correlation of the two maps of each image; NaN if one of them is the same everywhere."""
    found = np.full(len(maps), np.nan)
    for i, pair in enumerate(zip(maps, others, strict=True)):
        ranks = [stats.rankdata(one) for one in pair]
        if all(np.ptp(rank) > 0 for rank in ranks):
            found[i] = np.corrcoef(*ranks)[0, 1]
    return found
