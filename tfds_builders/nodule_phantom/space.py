"""Space around a nodule: voxel coordinates in mm, smooth noise and tubes in three dimensions. NumPy only, float32."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tfds_builders.common.textures import step

Field = Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Grid:
    """Coordinates of voxel centres relative to the nodule's centre, mm: z to the head, y to the back, x to the
    patient's left; and the distance of neighbouring voxels.
    """

    z: Field
    y: Field
    x: Field
    spacing: float


def grid_of(size: int, spacing: float, centre: tuple[float, float, float]) -> Grid:
    """A cube of `size` voxels a side with `centre` (mm from its middle) as the origin."""
    axis = ((np.arange(size, dtype=np.float32) - (size - 1) / 2) * spacing).astype(np.float32)
    z, y, x = np.meshgrid(*(axis - np.float32(offset) for offset in centre), indexing="ij")
    return Grid(z, y, x, spacing)


def noise(random: np.random.Generator, grid: Grid, scale: float) -> Field:
    """Smooth noise of mean 0 and standard deviation near 1 with features of about `scale` mm."""
    lattice = random.standard_normal((16, 16, 16), dtype=np.float32)
    total = lattice
    # Separable: one axis after the other, each between its two neighbouring planes.
    for axis, line in enumerate((grid.z[:, 0, 0], grid.y[0, :, 0], grid.x[0, 0, :])):
        place = line / scale
        cell = np.floor(place)
        part = place - cell
        part = part * part * (3 - 2 * part)
        here = cell.astype(np.int32) % 16
        weight = part.reshape([-1 if i == axis else 1 for i in range(3)])
        total = np.take(total, here, axis) * (1 - weight) + np.take(total, (here + 1) % 16, axis) * weight
    # Interpolation takes away about as much.
    return total * np.float32(1.8)


def tube(grid: Grid, points: Float[np.ndarray, "n 3"], radius: float, taper: float = 1.0) -> Field:
    """Share of each voxel (0 to 1) that a tube through `points` (z, y, x; mm) fills; at its end it has `taper` of its
    radius. Thinner than a voxel, it fills the voxels it passes in part, as in CT.
    """
    cover = np.zeros(grid.z.shape, np.float32)
    softness = 0.45 * grid.spacing
    reach = radius + 2.5 * softness
    low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
    spans = []
    for line, least, most in zip((grid.z[:, 0, 0], grid.y[0, :, 0], grid.x[0, 0, :]), low, high, strict=True):
        first, last = np.searchsorted(line, [least, most])
        spans.append(slice(int(first), int(last)))
    box = tuple(spans)
    z, y, x = grid.z[box], grid.y[box], grid.x[box]
    if not z.size:
        return cover
    count = len(points) - 1
    for number, (start, end) in enumerate(zip(points[:-1].tolist(), points[1:].tolist(), strict=True)):
        dz, dy, dx = (b - a for a, b in zip(start, end, strict=True))
        uz, uy, ux = z - start[0], y - start[1], x - start[2]
        along = np.clip((uz * dz + uy * dy + ux * dx) / (dz * dz + dy * dy + dx * dx + 1e-9), 0, 1)
        away = np.sqrt((uz - along * dz) ** 2 + (uy - along * dy) ** 2 + (ux - along * dx) ** 2)
        here = radius * (1 + (taper - 1) * (number + along) / count)
        fill = np.minimum((here / (0.6 * grid.spacing)) ** 2, 1)
        np.maximum(cover[box], fill * step(np.maximum(here, softness) - away, softness), out=cover[box])
    return cover


def path(
    random: np.random.Generator,
    start: Float[np.ndarray, "3"],
    heading: Float[np.ndarray, "3"],
    length: float,
    bend: float,
    pieces: int = 4,
) -> Float[np.ndarray, "n 3"]:
    """A crooked path of `length` mm from `start`; each piece strays by about `bend` radians."""
    points = [np.asarray(start, np.float32)]
    for _ in range(pieces):
        heading = heading + bend * random.standard_normal(3, dtype=np.float32)
        heading = heading / np.sqrt((heading**2).sum())
        points.append((points[-1] + heading * np.float32(length / pieces)).astype(np.float32))
    return np.stack(points)
