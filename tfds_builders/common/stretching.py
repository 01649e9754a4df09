"""Images of more than 8 bits, stretched to 8."""

import numpy as np
from jaxtyping import Num, Shaped, UInt8

# The share of the values at either end of the range that may be taken for broken pixels.
OUTLIERS = 1e-3
CLIPPED = "outliers"


def stretch(image: Shaped[np.ndarray, "*shape"]) -> tuple[UInt8[np.ndarray, "*shape"], bool]:
    """uint16 values mapped linearly to 0 to 255, and whether some were clipped. The depth that was used (12 of 16 bits,
    say) is not written in the file, so the range is that of `used_range`.
    """
    low, high, clipped = used_range(image)
    values = np.clip(np.arange(2**16, dtype=np.float64), low, high)
    return np.round((values - low) * (255 / max(high - low, 1.0))).astype(np.uint8)[image], clipped


def used_range(values: Num[np.ndarray, "*shape"]) -> tuple[float, float, bool]:
    """The ends of the range of an image's values, and whether some lie outside of it.

    They are the least and the greatest value. But if a thousandth of the values at each end (one at least) takes up
    more than half of that range, these are broken pixels or burnt-in marks, and the ends are those of all other values:
    one hot pixel must not make a whole image dark.
    """
    flat = values.ravel()
    few = max(1, int(flat.size * OUTLIERS))
    if flat.size <= 2 * few:
        return float(flat.min()), float(flat.max()), False
    parted = np.partition(flat, (0, few, flat.size - 1 - few, flat.size - 1))
    low, inner_low, inner_high, high = (float(parted[place]) for place in (0, few, -1 - few, -1))
    clipped = 0 < 2 * (inner_high - inner_low) < high - low
    return (inner_low, inner_high, True) if clipped else (low, high, False)
