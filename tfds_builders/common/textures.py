"""Random fields on coordinates: smooth noise, cells, branching lines. NumPy only, all arrays float32.

The phantoms are drawn with it. Every function takes coordinates of any shape and evaluates a field that is fixed by the
generator it is given, so one lesion photographed twice, say, shows the same texture under another pose.
"""

import math

import numpy as np
from jaxtyping import Float

Field = Float[np.ndarray, "..."]

NEIGHBOURS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]


def step(x: Field, softness: float | Field) -> Field:
    """Smooth 0 -> 1 edge at x = 0."""
    return 0.5 + 0.5 * np.tanh(x / softness)


def noise(random: np.random.Generator, x: Field, y: Field, scale: float, octaves: int = 1) -> Field:
    """Smooth noise of mean 0 and standard deviation near 1, with features of about `scale` coordinate
    units.
    """
    total, amplitude, power = np.zeros_like(x), 1.0, 0.0
    for octave in range(octaves):
        grid = random.standard_normal((32, 32), dtype=np.float32)
        total += amplitude * interpolate(grid, x * 2**octave / scale, y * 2**octave / scale)
        power += amplitude**2
        amplitude *= 0.6
    # Bilinear interpolation halves the variance, near enough.
    return total * (1.5 / math.sqrt(power))


def interpolate(grid: Float[np.ndarray, "n n"], x: Field, y: Field) -> Field:
    """Periodic interpolation with smoothed weights; coordinates in grid steps."""
    size = len(grid)
    column, row = np.floor(x), np.floor(y)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i, j = row.astype(np.int32) % size, column.astype(np.int32) % size
    below, right = (i + 1) % size, (j + 1) % size
    top = grid[i, j] * (1 - u) + grid[i, right] * u
    bottom = grid[below, j] * (1 - u) + grid[below, right] * u
    return top * (1 - v) + bottom * v


def plane_noise(
    random: np.random.Generator, axis: Float[np.ndarray, " n"], scale: float, octaves: int = 1
) -> Float[np.ndarray, "n n"]:
    """`noise` over the whole square whose rows and columns both have the coordinates `axis`; much cheaper."""
    total, amplitude, power = np.zeros((len(axis), len(axis)), np.float32), 1.0, 0.0
    for octave in range(octaves):
        grid = random.standard_normal((32, 32), dtype=np.float32)
        place = axis * 2**octave / scale
        cell = np.floor(place)
        part = place - cell
        part = part * part * (3 - 2 * part)
        here = cell.astype(np.int32) % 32
        there = (here + 1) % 32
        # Two passes of gathering, not a matrix product: the same bits whatever the BLAS.
        rows = grid[here] * (1 - part)[:, None] + grid[there] * part[:, None]
        total += amplitude * (rows[:, here] * (1 - part) + rows[:, there] * part)
        power += amplitude**2
        amplitude *= 0.6
    return total * (1.5 / math.sqrt(power))


def cells(random: np.random.Generator, x: Field, y: Field, scale: float, jitter: float) -> tuple[Field, Field, Field]:
    """Cells around jittered grid points, `scale` coordinate units apart (Worley's cellular field).

    Returns the distance to the nearest point, the distance to the second nearest less the former (small along
    cell borders), both in units of `scale`, and a number in [0, 1) that is constant in each cell.
    """
    size = 32
    along_row, down_column = np.float32(0.5 + jitter * (random.random((2, size * size), dtype=np.float32) - 0.5))
    values = random.random(size * size, dtype=np.float32)
    x, y = x / scale, y / scale
    row = np.floor(y)
    # Every second row lies half a step aside, as in a honeycomb.
    x = x + 0.5 * (row % 2)
    column = np.floor(x)
    u, v = x - column, y - row
    i, j = row.astype(np.int32), column.astype(np.int32)
    first, second = np.full_like(u, 9.0), np.full_like(u, 9.0)
    value = np.zeros_like(u)
    odd = row % 2
    for down, along in NEIGHBOURS:
        # In the rows above and below, the point of the same column lies half a step to one side.
        shift = odd - np.float32(0.5) + along if down else along
        at = ((i + down) % size) * size + (j + along) % size
        squared = (along_row[at] + shift - u) ** 2 + (down_column[at] + down - v) ** 2
        nearer = squared < first
        second = np.where(nearer, first, np.minimum(second, squared))
        value = np.where(nearer, values[at], value)
        first = np.where(nearer, squared, first)
    first, second = np.sqrt(first), np.sqrt(second)
    return first, second - first, value


def line(x: Field, y: Field, points: Float[np.ndarray, "n 2"], width: float, softness: float) -> Field:
    """Cover (0 to 1) of a line through `points`, `width` to each side."""
    cover = np.zeros(x.shape, np.float32)
    reach = width + 3 * softness
    (left, top), (right, bottom) = points.min(axis=0) - reach, points.max(axis=0) + reach
    near = np.flatnonzero((x > left) & (x < right) & (y > top) & (y < bottom))
    u, v = x.ravel()[near], y.ravel()[near]
    nearest = np.full(u.shape, 1e9, np.float32)
    for (x0, y0), (x1, y1) in zip(points[:-1].tolist(), points[1:].tolist(), strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
        np.minimum(nearest, (u - x0 - along * dx) ** 2 + (v - y0 - along * dy) ** 2, out=nearest)
    cover.ravel()[near] = step(width - np.sqrt(nearest), softness)
    return cover


def wander(
    random: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length: float,
    bend: float,
    pieces: int = 7,
) -> Float[np.ndarray, "n 2"]:
    """A curved path of `length` from `start`; its heading drifts by about `bend` radians in all."""
    headings = angle + np.cumsum(random.normal(0, bend / np.sqrt(pieces), pieces))
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * (length / pieces)
    return np.concatenate([[start], start + np.cumsum(steps, axis=0)]).astype(np.float32)


def shrink(image: Float[np.ndarray, "..."], times: int) -> Float[np.ndarray, "..."]:
    """Averages over squares of `times` pixels: what is drawn larger and shrunk does not alias."""
    size = len(image) // times
    return image.reshape(size, times, size, times, *image.shape[2:]).mean(axis=(1, 3))


def soften(image: Float[np.ndarray, "h w ..."], amount: float) -> Float[np.ndarray, "h w ..."]:
    """Blends with the average of the four neighbours."""
    edge = np.pad(image, ((1, 1), (1, 1), *((0, 0) for _ in image.shape[2:])), mode="edge")
    around = (edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:]) / 4
    return image + np.float32(0.6 * amount) * (around - image)
