"""How well masks fit: Dice, Jaccard, threshold Jaccard, 95 % Hausdorff distance of each image, and their means.

Of an image let P be the predicted and T the true pixels, both among those in which the truth is known.

    dice                 2 |P ∩ T| / (|P| + |T|), 1 where both are empty
    jaccard              |P ∩ T| / |P ∪ T|, 1 where both are empty
    threshold_jaccard    the Jaccard index if it is at least 0.65, else 0
    hausdorff95          pixels of the stored image, between the centres of the border pixels of P and of T: the larger
                         of two 95th percentiles, of the distance of each border pixel of P from the nearest one of T,
                         and the reverse. 0 where both are empty, undefined where one of them is.
    hausdorff95_undefined    1 where it is undefined, else 0

The official scorer of ISIC 2018 scores the first three in this way (macro means over the images, empty against empty is
1, threshold 0.65). A metric of a test split is the mean over its images; that of hausdorff95 runs over the images in
which it is defined, and the mean of hausdorff95_undefined says how many are not in it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from aiseeme_jax.evaluate.bootstrap import Draws, draw_weights, split_draws
from aiseeme_jax.evaluate.results import Overlaps
from aiseeme_jax.evaluate.scoring import Scoring

# Least Jaccard index of a mask that counts at all, as the ISIC 2018 challenge says.
LEAST_JACCARD = 0.65


def dice(found: Overlaps) -> Float[np.ndarray, "n"]:
    return _share(2 * found.common.astype(np.float64), found.predicted + found.true)


def jaccard(found: Overlaps) -> Float[np.ndarray, "n"]:
    return _share(found.common.astype(np.float64), found.predicted + found.true - found.common)


def threshold_jaccard(found: Overlaps) -> Float[np.ndarray, "n"]:
    values = jaccard(found)
    return np.where(values >= LEAST_JACCARD, values, 0.0)


def _share(part: Float[np.ndarray, "n"], whole: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)


METRICS: Mapping[str, Callable[[Overlaps], Float[np.ndarray, "n"]]] = MappingProxyType(
    {
        "jaccard": jaccard,
        "dice": dice,
        "threshold_jaccard": threshold_jaccard,
        "hausdorff95": lambda found: found.hausdorff95.astype(np.float64),
        "hausdorff95_undefined": lambda found: np.isnan(found.hausdorff95).astype(np.float64),
    }
)
# By which the epoch is chosen.
CHOSEN_BY = "jaccard"


def measure_hausdorff95(predicted: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> float:
    """The 95 % Hausdorff distance of two masks in pixels, as at the top of this file; NaN where one alone is empty."""
    if not predicted.any() and not true.any():
        return 0.0
    if not predicted.any() or not true.any():
        return np.nan
    borders = find_border(predicted), find_border(true)
    # Distance of every pixel from the nearest border pixel of the other mask.
    to_other = [ndimage.distance_transform_edt(~border) for border in borders[::-1]]
    return float(max(np.percentile(far[border], 95) for far, border in zip(to_other, borders, strict=True)))


def find_border(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels of a mask with a neighbour (above, below, left or right) that is not in it, or beyond the image."""
    return mask & ~ndimage.binary_erosion(mask)


class MaskScoring(Scoring):
    """Metrics of predicted masks, with everything that their intervals are made of."""

    kind = "masks"
    metrics = tuple(METRICS)
    per_class = ()

    def __init__(self, found: Overlaps, *, samples: int, seed: int):
        self.found, self.samples, self.seed = found, samples, seed

    def __len__(self) -> int:
        return len(self.found.ids)

    def value(self, name: str) -> float:
        value = float(self._average(name, np.ones((1, len(self))))[0])
        if not np.isfinite(value):
            raise ValueError(f"{name} is undefined: in no image is there both a predicted and a true mask")
        return value

    def of(self, name: str) -> Draws:
        blocks = draw_weights(self.found.groups, len(self), self.samples, self.seed)
        return split_draws(np.concatenate([self._average(name, weights) for weights in blocks]), self.samples)

    def _average(self, name: str, weights: Float[np.ndarray, "s n"]) -> Float[np.ndarray, "s"]:
        """The mean over the images in which the metric is defined, under each weighting of the rows."""
        values = METRICS[name](self.found)
        defined = np.isfinite(values)
        total = weights @ defined
        summed = weights @ np.where(defined, values, 0.0)
        return np.divide(summed, total, out=np.full(len(weights), np.nan), where=total > 0)
