"""How well maps fit masks, and what a blind guess gets: the centre prior, masks of other images, a uniform map.

A map is S >= 0, a mask M is 0 or 1, and UNKNOWN where nobody knows; unknown pixels count nowhere. a is the share of M
among the known pixels. A mask that is empty, full or unknown tells nothing of a map: all measures are NaN.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from scipy import stats

UNKNOWN = 255
# Standard deviations of the centre prior, as a share of the side.
PRIORS = (0.15, 0.25, 0.35)

Pixels = Float[np.ndarray, " n"]
Inside = Shaped[np.ndarray, " n"]


def energy(s: Pixels, inside: Inside) -> float:
    """sum S M / sum S; a for a uniform map."""
    return float(s[inside].sum() / s.sum())


def lift(s: Pixels, inside: Inside) -> float:
    """Energy over a: 1 for a uniform map. It is large for small masks, so its median over images is reported."""
    return energy(s, inside) / float(inside.mean())


def pointing(s: Pixels, inside: Inside) -> float:
    """The pointing game (Zhang et al., arXiv 1608.00507) without tolerance: whether the maximum lies in the mask.

    If pixels tie at the maximum, the share of them that does.
    """
    return float(inside[s == s.max()].mean())


def auroc(s: Pixels, inside: Inside) -> float:
    """P(a pixel inside is higher than one outside) + P(equal) / 2; .5 for a uniform map."""
    positives = int(inside.sum())
    negatives = len(inside) - positives
    ranks = stats.rankdata(s)[inside].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def iou_above(s: Pixels, inside: Inside, *, quantile: float) -> float:
    """Intersection over union of the mask and the pixels above a quantile of the map.

    Pixels that tie at the quantile count in part, so that the pixels chosen are 1 - quantile of all in every map.
    """
    wanted = (1 - quantile) * len(s)
    # The value of the last pixel that is chosen.
    threshold = np.partition(s, len(s) - int(np.ceil(wanted)))[len(s) - int(np.ceil(wanted))]
    above, tied = s > threshold, s == threshold
    chosen = above + tied * (wanted - above.sum()) / tied.sum()
    shared = chosen[inside].sum()
    return float(shared / (wanted + inside.sum() - shared))


MEASURES: Mapping[str, Callable[[Pixels, Inside], float]] = MappingProxyType(
    {
        "energy": energy,
        "lift": lift,
        "pointing": pointing,
        "auroc": auroc,
        "iou_50": lambda s, inside: iou_above(s, inside, quantile=0.5),
        "iou_75": lambda s, inside: iou_above(s, inside, quantile=0.75),
        "iou_90": lambda s, inside: iou_above(s, inside, quantile=0.9),
    }
)
# Measures that are reported by their median over images; others by their mean.
MEDIANS = ("lift",)


def score_map(found: Float[np.ndarray, "h w"], mask: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, " m"]:
    """All `MEASURES` of one map, in their order; NaN for a mask that tells nothing. An all-zero map counts as uniform.

    Raises ValueError for another shape than the mask's, or a map that is negative or not finite somewhere.
    """
    found, mask = np.asarray(found, np.float64), np.asarray(mask)
    if found.shape != mask.shape:
        raise ValueError(f"a map {found.shape} cannot be compared with a mask {mask.shape}")
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise ValueError("a map has values that are negative or not finite: take its relu first")
    if not tells_something(mask):
        return np.full(len(MEASURES), np.nan)
    known = mask != UNKNOWN
    inside, s = mask[known] > 0, found[known]
    if not s.any():
        s = np.ones_like(s)
    return np.array([measure(s, inside) for measure in MEASURES.values()])


def score_maps(maps: Float[np.ndarray, "n h w"], masks: UInt8[np.ndarray, "n h w"]) -> Float[np.ndarray, "n m"]:
    """`score_map` of each image first; averages come after."""
    if len(maps) != len(masks):
        raise ValueError(f"got {len(maps)} maps for {len(masks)} masks")
    rows = [score_map(found, mask) for found, mask in zip(maps, masks, strict=True)]
    return np.stack(rows) if rows else np.zeros((0, len(MEASURES)))


def tells_something(mask: UInt8[np.ndarray, "h w"]) -> bool:
    """Whether a mask has known pixels inside and known pixels outside."""
    return bool((mask == 0).any() and ((mask > 0) & (mask != UNKNOWN)).any())


def find_empty(maps: Float[np.ndarray, "n h w"]) -> Shaped[np.ndarray, " n"]:
    """Which maps are zero everywhere. They count as uniform ones."""
    return ~np.asarray(maps).any(axis=(1, 2))


def centre_prior(shape: tuple[int, int], sd: float) -> Float[np.ndarray, "h w"]:
    """A Gaussian in the middle of an image [H, W]; `sd` is a share of each side."""
    rows, columns = (np.exp(-0.5 * (_places(side) / sd) ** 2) for side in shape)
    return rows[:, None] * columns


def share_inside(mask: UInt8[np.ndarray, "h w"]) -> float:
    """a: the share of the mask among its known pixels; NaN if none is known."""
    known = mask[mask != UNKNOWN]
    return float((known > 0).mean()) if len(known) else float("nan")


def measure_distance(mask: UInt8[np.ndarray, "h w"]) -> float:
    """Distance of the mask's centre of mass from the middle of the image, in sides of the image; NaN if it is empty.

    0.5 is the middle of a border.
    """
    inside = (mask > 0) & (mask != UNKNOWN)
    if not inside.any():
        return float("nan")
    rows, columns = np.nonzero(inside)
    return float(np.hypot(_places(mask.shape[0])[rows].mean(), _places(mask.shape[1])[columns].mean()))


def quarter_by(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The quarter of each value: 0 for the smallest, 3 for the largest."""
    return np.searchsorted(np.quantile(values, [0.25, 0.5, 0.75]), values, side="left")


def pair_with_others(groups: Shaped[np.ndarray, " n"], count: int, seed: int) -> Int[np.ndarray, "count n"]:
    """For each image `count` times another one of another group, whose mask it gets as a control.

    Every mask is used about equally often, so position and size of masks have the same distribution as before. Raises
    ValueError if all images belong to one group.
    """
    groups = np.asarray(groups)
    if len(set(groups.tolist())) < 2:
        raise ValueError("masks can only be exchanged between images of at least two groups")
    random = np.random.default_rng(seed)
    return np.stack([_exchange(groups, random) for _ in range(count)])


def _exchange(groups: Shaped[np.ndarray, " n"], random: np.random.Generator) -> Int[np.ndarray, " n"]:
    order = random.permutation(len(groups))
    others = np.empty(len(groups), np.int64)
    others[order] = np.roll(order, 1)
    for row in np.flatnonzero(groups[others] == groups):
        others[row] = random.choice(np.flatnonzero(groups != groups[row]))
    return others


def _places(side: int) -> Float[np.ndarray, " side"]:
    """Centres of pixels, from -0.5 to 0.5."""
    return (np.arange(side) + 0.5) / side - 0.5
