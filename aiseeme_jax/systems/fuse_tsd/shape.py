"""Shape of a region: Fourier descriptors of its outline (Zahn and Roskies, IEEE Trans. Computers 21(3), 1972).

scikit-image is imported where it is used.
"""

import numpy as np
from jaxtyping import Bool, Complex, Float


def trace_outline(mask: Bool[np.ndarray, "h w"], points: int) -> Complex[np.ndarray, " points"] | None:
    """Points at equal distances along the outline of the largest piece of a mask, as x + i y, counter-clockwise where x
    points to the right and y downwards; None if the mask is empty.
    """
    from skimage.measure import find_contours

    outlines = find_contours(np.pad(mask.astype(np.float64), 1), 0.5)
    if not outlines:
        return None
    closed = [outline[:, 1] + 1j * outline[:, 0] for outline in outlines]
    largest = max(closed, key=lambda outline: abs(signed_area(outline)))
    # The direction must be fixed: a turned one exchanges the frequencies m and -m.
    return space_evenly(largest if signed_area(largest) > 0 else largest[::-1], points)


def signed_area(outline: Complex[np.ndarray, " k"]) -> float:
    """Of a closed polygon whose last point is its first one; positive if it runs from x to y."""
    return float(np.sum(np.conj(outline[:-1]) * outline[1:]).imag / 2)


def space_evenly(outline: Complex[np.ndarray, " k"], points: int) -> Complex[np.ndarray, " points"]:
    """Points at equal distances along a closed polygon whose last point is its first one."""
    lengths = np.concatenate([[0.0], np.cumsum(abs(np.diff(outline)))])
    places = np.arange(points) / points * lengths[-1]
    return np.interp(places, lengths, outline.real) + 1j * np.interp(places, lengths, outline.imag)


def describe_outline(outline: Complex[np.ndarray, " points"], harmonics: int) -> Float[np.ndarray, " f"]:
    """|Z_m| / |Z_1| for m = 2 … harmonics and m = -1 … -harmonics, Z being the Fourier transform of the outline.

    Without Z_0 they do not change with the place, as moduli not with rotation and the first point, and divided by |Z_1|
    not with the size. A circle has zeros. An ellipse of half-axes a > b, sampled at equal angles of its parameter, has
    (a - b) / (a + b) at m = -1 and zeros elsewhere.

    Args:
      outline: of at least 2 harmonics + 1 points; m = 1 is the direction in which it runs.
    """
    moduli = abs(np.fft.fft(outline))
    wanted = [*range(2, harmonics + 1), *range(-1, -harmonics - 1, -1)]
    return moduli[wanted] / max(moduli[1], np.finfo(float).tiny)


def describe_shape(mask: Bool[np.ndarray, "h w"], *, points: int, harmonics: int) -> Float[np.ndarray, " f"]:
    """The descriptors of the outline of a mask; zeros if it is empty."""
    outline = trace_outline(mask, points)
    return np.zeros(2 * harmonics - 1) if outline is None else describe_outline(outline, harmonics)
