"""Nodules: what a latent malignancy makes likely, what readers make of it, and the shape and density that follow.

Lengths are mm. Every trait overlaps between neighbouring grades.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tfds_builders.common.textures import step

from .space import Field, Grid, tube

READERS = 4
TEXTURES = ("solid", "part-solid", "ground-glass")
CALCIFICATIONS = ("none", "central", "popcorn", "shell")
BENIGN, MALIGNANT = "benign", "malignant"
UNLABELLED = -1


@dataclass(frozen=True)
class Nature:
    """Traits of a nodule.

    Attributes:
      malignancy: latent, 1 (highly unlikely) to 5 (highly suspicious).
      diameter: of the body, without spicules, mm.
      lobulation, spiculation: 0 to 1.
      margin: width of the border, mm.
      texture, calcification: one of TEXTURES, CALCIFICATIONS.
    """

    malignancy: float
    diameter: float
    lobulation: float
    spiculation: float
    margin: float
    texture: str
    calcification: str


@dataclass(frozen=True)
class Drawn:
    """Attributes: share of each voxel that the nodule fills (0 to 1), and the Hounsfield units of what fills it."""

    cover: Field
    units: Field


def draw_nature(random: np.random.Generator) -> Nature:
    malignancy = random.uniform(1, 5)
    # -1 for surely benign, 1 for surely malignant.
    leaning = (malignancy - 3) / 2
    texture = TEXTURES[int(np.searchsorted([0.66, 0.66 + 0.17 + 0.11 * leaning], random.random()))]
    calcified = texture == "solid" and random.random() < 0.42 * max(-leaning, 0) ** 0.7
    return Nature(
        malignancy=malignancy,
        diameter=min(max(9.0 * math.exp(0.15 * leaning + random.normal(0, 0.28)), 4.5), 18.0),
        lobulation=min(max(0.4 + 0.25 * leaning + random.normal(0, 0.22), 0), 1),
        spiculation=min(max(0.38 + 0.6 * leaning + random.normal(0, 0.16), 0), 1),
        margin=min(max(0.9 + 0.4 * leaning + random.normal(0, 0.35), 0.4), 2.0),
        texture=texture,
        calcification=CALCIFICATIONS[random.integers(1, len(CALCIFICATIONS))] if calcified else CALCIFICATIONS[0],
    )


def read(random: np.random.Generator, malignancy: float) -> Int[np.ndarray, "readers"]:
    """Ratings of 1 to 5 by readers who lean to one side each and waver."""
    leanings = random.normal(0, 0.35, READERS)
    return np.clip(np.round(malignancy + leanings + random.normal(0, 0.5, READERS)), 1, 5).astype(np.int64)


def label_of(ratings: Int[np.ndarray, "readers"]) -> str | int:
    """The median rule: below 3 benign, above 3 malignant, 3 neither (-1)."""
    median = float(np.median(ratings))
    return UNLABELLED if median == 3 else BENIGN if median < 3 else MALIGNANT


def draw_nodule(nature: Nature, seed: tuple[int, ...], grid: Grid) -> Drawn:
    """The nodule at the origin of `grid`."""
    random = np.random.default_rng(seed)
    radius = nature.diameter / 2
    distance = np.sqrt(grid.z**2 + grid.y**2 + grid.x**2)
    near = np.flatnonzero(distance < 2 * radius + 4)
    z, y, x, away = (part.ravel()[near] for part in (grid.z, grid.y, grid.x, distance))
    reach = radius * outline(random, nature, z, y, x, away)
    border = max(nature.margin, 0.6 * grid.spacing)
    cover = step(reach - away, border)
    units = density(random, nature, z, y, x, away / reach, grid.spacing)
    full = np.zeros((2, distance.size), np.float32)
    full[0, near], full[1, near] = cover, units
    body, units = full.reshape(2, *distance.shape)
    spikes = spicules(random, nature, radius, grid)
    strands = np.float32(-250 if nature.texture == "ground-glass" else 20)
    units = np.where(spikes > body, strands, units)
    return Drawn(np.maximum(body, spikes), units)


def outline(random: np.random.Generator, nature: Nature, z: Field, y: Field, x: Field, away: Field) -> Field:
    """Distance of the surface from the centre in each voxel's direction, in radii: an ellipsoid with broad bumps and,
    if spiculated, a rough surface.
    """
    axes = np.exp(random.normal(0, 0.12, 3))
    axes = axes / axes.prod() ** (1 / 3)
    turn = directions(random, 3)
    ray = [part / np.maximum(away, 1e-3) for part in (z, y, x)]
    squeezed = sum(
        ((a * ray[0] + b * ray[1] + c * ray[2]) / axis) ** 2
        for (a, b, c), axis in zip(orthonormal(turn).tolist(), axes.tolist(), strict=True)
    )
    reach = 1 / np.sqrt(squeezed)
    for count, sharpness, amplitude in ((7, 7.0, 0.5 * nature.lobulation), (16, 30.0, 0.4 * nature.spiculation)):
        for a, b, c in directions(random, count).tolist():
            bump = np.exp(sharpness * (a * ray[0] + b * ray[1] + c * ray[2] - 1))
            reach = reach + np.float32(amplitude * random.uniform(-0.6, 1.0)) * bump
    return np.clip(reach, 0.35, 2.0)


def spicules(random: np.random.Generator, nature: Nature, radius: float, grid: Grid) -> Field:
    """Cover of fine strands that radiate from the surface into the lung."""
    cover = np.zeros_like(grid.z)
    for direction in directions(random, round(30 * max(nature.spiculation - 0.2, 0))):
        length = 1.1 * radius + random.uniform(2, 8) * nature.spiculation
        bend = np.float32(random.normal(0, 0.12, 3))
        middle = direction * (0.5 * (length + radius))
        points = np.stack([0.7 * radius * direction, middle + bend * radius, length * direction])
        cover = np.maximum(cover, tube(grid, points, random.uniform(1.0, 1.6), 0.4))
    return cover


def density(
    random: np.random.Generator, nature: Nature, z: Field, y: Field, x: Field, depth: Field, spacing: float
) -> Field:
    """Hounsfield units inside; `depth` is 0 in the centre and 1 on the surface."""
    solid = random.uniform(-20, 60)
    glass = random.uniform(-650, -420)
    units = np.full_like(depth, glass if nature.texture == "ground-glass" else solid)
    if nature.texture == "part-solid":
        core = random.uniform(0.45, 0.65)
        units = glass + (solid - glass) * step(core - depth, 0.12)
    calcium = random.uniform(250, 800)
    if nature.calcification == "central":
        units = units + calcium * step(random.uniform(0.35, 0.6) - depth, 0.12)
    elif nature.calcification == "shell":
        units = units + calcium * np.exp(-(((depth - random.uniform(0.55, 0.75)) / 0.16) ** 2))
    elif nature.calcification == "popcorn":
        for centre in (0.55 * random.uniform(0.4, 1) * nature.diameter / 2 * directions(random, 5)).tolist():
            grain = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
            units = np.maximum(units, solid + calcium * np.exp(-grain / max(0.12 * nature.diameter, spacing) ** 2))
    return units.astype(np.float32)


def directions(random: np.random.Generator, count: int) -> Float[np.ndarray, "count 3"]:
    """Unit vectors, evenly distributed."""
    vectors = random.standard_normal((count, 3), dtype=np.float32)
    return vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))


def orthonormal(vectors: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    first = vectors[0]
    third = np.cross(first, vectors[1])
    third = third / np.sqrt((third**2).sum())
    return np.stack([first, np.cross(third, first), third])
