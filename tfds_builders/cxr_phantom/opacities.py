"""Pneumonia: how much of the air in the lungs is replaced, and where.

Places are given in lung coordinates (breadth from the inner border to the ribs, height from apex to diaphragm), so a
patient's disease stays where it is from image to image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfds_builders.common.textures import Field, line, noise, step, wander

from .anatomy import Chest

Pair = tuple[Field, Field]

# Share of patients, near that of Kermany's set.
CLASSES = {"normal": 0.27, "bacterial-like": 0.47, "viral-like": 0.26}
BOTH = "both"
# Share of patients where an image has several findings: each disease comes without regard to the other.
WITH_BOTH = {"normal": 0.39, "bacterial-like": 0.26, "viral-like": 0.21, BOTH: 0.14}
# The diseases that are findings then, and what shows them.
SHOWN_BY = {"bacterial-like": ("bacterial-like", BOTH), "viral-like": ("viral-like", BOTH)}
# Part of the air that must be replaced for a place to count as opacity.
THRESHOLD = 0.12


@dataclass(frozen=True)
class Lobe:
    """Side, centre and radii of its usual consolidation, and the fissures (heights) that end it above and below."""

    side: int
    centre: tuple[float, float]
    radii: tuple[float, float]
    above: float | None
    below: float | None


LOBES = (
    Lobe(-1, (0.50, 0.28), (0.60, 0.26), None, 0.46),
    Lobe(-1, (0.30, 0.70), (0.50, 0.22), 0.50, None),
    Lobe(-1, (0.60, 0.80), (0.55, 0.28), None, None),
    Lobe(1, (0.45, 0.32), (0.60, 0.28), None, 0.58),
    Lobe(1, (0.30, 0.62), (0.50, 0.22), None, 0.86),
    Lobe(1, (0.60, 0.78), (0.60, 0.28), 0.52, None),
)


def draw_opacity(label: str, seed: tuple[int, ...], course: float, chest: Chest, u: Field, v: Field) -> Pair:
    """Part of the air replaced (0 to 1), and where that counts as pneumonia (the same without fine structure).

    Args:
      seed: of the patient's disease.
      course: its strength on the day of the image, near 1.
    """
    random = np.random.default_rng(seed)
    filled, extent = DISEASES[label](random, chest, u, v)
    return np.clip(course * filled, 0, 0.95) * chest.lungs, np.clip(course * extent, 0, 1) * chest.lungs


def nothing(random: np.random.Generator, chest: Chest, u: Field, v: Field) -> Pair:
    """Healthy, but with coarse markings or a band of collapsed lung in some, which is not pneumonia."""
    filled = markings(random, chest, u, v)
    if random.random() < 0.25:
        side, height = random.choice([-1, 1]), random.uniform(0.6, 0.85)
        away = np.abs(chest.height - height - random.normal(0, 0.15) * (chest.breadth - 0.5))
        filled += 0.4 * step(0.02 - away, 0.012) * step(0.25 - np.abs(chest.breadth - 0.5), 0.1) * (chest.side == side)
    return filled, np.zeros_like(u)


def markings(random: np.random.Generator, chest: Chest, u: Field, v: Field) -> Field:
    """Coarse markings of some lungs, healthy or not: a hint of what viral disease looks like."""
    if random.random() < 0.5:
        return np.zeros_like(u)
    haze = np.exp(-(((chest.height - random.uniform(0.4, 0.8)) / 0.4) ** 2))
    return random.uniform(0.05, 0.2) * net(random, chest, u, v) + random.uniform(0.0, 0.1) * haze


def bacterial(random: np.random.Generator, chest: Chest, u: Field, v: Field) -> Pair:
    """One lobe, seldom two of one side, consolidated: dense, sharp where a fissure ends it, open bronchi dark in it."""
    first = LOBES[random.integers(len(LOBES))]
    lobes = [first]
    if random.random() < 0.2:
        others = [lobe for lobe in LOBES if lobe.side == first.side and lobe is not first]
        lobes.append(others[random.integers(len(others))])
    filled = np.zeros_like(u)
    for lobe in lobes:
        size, softness = random.uniform(0.5, 1.05), random.uniform(0.12, 0.4)
        shift = random.normal(0, 0.08, 2).tolist()
        away = np.hypot(
            (chest.breadth - lobe.centre[0] - shift[0]) / (size * lobe.radii[0]),
            (chest.height - lobe.centre[1] - shift[1]) / (size * lobe.radii[1]),
        )
        body = step(1 - away + 0.25 * noise(random, u, v, scale=0.16, octaves=2), softness)
        tilt = random.normal(0, 0.06) * (chest.breadth - 0.5)
        if lobe.above is not None:
            body = body * step(chest.height - lobe.above - tilt, 0.012)
        if lobe.below is not None:
            body = body * step(lobe.below + tilt - chest.height, 0.012)
        filled = np.maximum(filled, random.uniform(0.4, 0.95) * body * (chest.side == lobe.side))
    open_bronchi = 0.4 * bronchi(random, first.side, u, v)
    return filled * (1 - open_bronchi) + markings(random, chest, u, v), filled


def bronchi(random: np.random.Generator, side: int, u: Field, v: Field) -> Field:
    """Cover of air-filled bronchi that fan out from the hilum of a side."""
    total = np.zeros_like(u)
    for heading in np.linspace(-0.8, 1.1, 4):
        path = wander(random, (0.14, -0.06), heading + random.normal(0, 0.15), random.uniform(0.3, 0.5), 0.5, pieces=4)
        total = np.maximum(total, line(side * u, v, path, 0.007, 0.009))
    return total


def viral(random: np.random.Generator, chest: Chest, u: Field, v: Field) -> Pair:
    """Both lungs: a net of thickened tissue about the hila and below, and a few faint patches with soft edges."""
    weight = np.exp(-(((chest.height - random.uniform(0.45, 0.75)) / 0.35) ** 2) - (chest.breadth / 0.8) ** 2)
    lean = 1 + random.uniform(-0.5, 0.5) * chest.side
    extent = random.uniform(0.18, 0.38) * weight * lean
    for side in (-1, 1):
        for _ in range(random.integers(1, 4)):
            centre, radius = (random.uniform(0.1, 0.9), random.uniform(0.2, 0.9)), random.uniform(0.10, 0.20)
            away = np.hypot((chest.breadth - centre[0]) / (1.7 * radius), (chest.height - centre[1]) / radius)
            patch = step(1 - away + 0.35 * noise(random, u, v, scale=0.12, octaves=2), 0.35) * (chest.side == side)
            extent = np.maximum(extent, random.uniform(0.3, 0.65) * patch)
    strength = random.uniform(0.15, 0.35)
    return extent * 0.75 + strength * net(random, chest, u, v) * np.minimum(3 * extent, 1), extent


def both(random: np.random.Generator, chest: Chest, u: Field, v: Field) -> Pair:
    """The two diseases at once: where they overlap, the denser one shows."""
    (filled, extent), (more, further) = bacterial(random, chest, u, v), viral(random, chest, u, v)
    return np.maximum(filled, more), np.maximum(extent, further)


def net(random: np.random.Generator, chest: Chest, u: Field, v: Field) -> Field:
    """Fine crooked lines between the lobules, more of them near the hilum than at the ribs."""
    scale = random.uniform(0.07, 0.10)
    ridges = sum(1 - step(np.abs(noise(random, u, v, scale * share)) - 0.12, 0.14) for share in (1.0, 0.7))
    return 0.6 * ridges * np.exp(-((chest.breadth / 0.9) ** 2))


Disease = Callable[[np.random.Generator, Chest, Field, Field], Pair]
DISEASES: dict[str, Disease] = {"normal": nothing, "bacterial-like": bacterial, "viral-like": viral, BOTH: both}
