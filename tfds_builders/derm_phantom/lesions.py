"""Lesions: what each class looks like, as maps of melanin, blood, white and blue-grey over coordinates.

A lesion is fixed by its class and its seed. Coordinates are in lesion radii with the centre at 0; `y` points
down. The ranges of melanin and blood overlap between the classes on purpose: what tells them apart is shape,
border and texture.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tfds_builders.common.textures import Field, cells, line, noise, step, wander

# Share of lesions per class: as unbalanced as the real thing, with the rarest still frequent enough to be
# split.
CLASSES = {
    "MEL-like": 0.18,
    "NV-like": 0.42,
    "BCC-like": 0.13,
    "AK-like": 0.08,
    "BKL-like": 0.14,
    "VASC-like": 0.05,
}

PLAINNESS = (0.40, 1.0)
# Some lesions also show a hint of another class's structure.
DECOY_CHANCE, DECOY_PLAINNESS = 0.25, (0.10, 0.25)


@dataclass(frozen=True)
class Manner:
    """Ranges from which a class draws the look of one lesion.

    Attributes:
      melanin, blood: optical density of brown and of red, overall.
      stretch: long over short axis.
      asymmetry: amplitude of the slow waves of the outline, in radii.
      ragged: amplitude of its fast waves.
      softness: width of the border, in radii.
    """

    melanin: tuple[float, float]
    blood: tuple[float, float]
    stretch: tuple[float, float]
    asymmetry: tuple[float, float]
    ragged: tuple[float, float]
    softness: tuple[float, float]


MANNERS = {
    "MEL-like": Manner((0.45, 1.50), (0.00, 0.40), (1.0, 1.6), (0.08, 0.22), (0.03, 0.09), (0.04, 0.14)),
    "NV-like": Manner((0.35, 1.40), (0.00, 0.40), (1.0, 1.5), (0.02, 0.10), (0.00, 0.04), (0.06, 0.20)),
    "BCC-like": Manner((0.20, 1.20), (0.05, 0.50), (1.0, 1.5), (0.04, 0.14), (0.01, 0.06), (0.06, 0.20)),
    "AK-like": Manner((0.20, 1.20), (0.05, 0.50), (1.0, 1.5), (0.05, 0.16), (0.02, 0.08), (0.12, 0.26)),
    "BKL-like": Manner((0.35, 1.40), (0.00, 0.40), (1.0, 1.6), (0.04, 0.14), (0.01, 0.07), (0.02, 0.07)),
    "VASC-like": Manner((0.20, 1.20), (0.10, 0.60), (1.0, 1.4), (0.03, 0.12), (0.00, 0.05), (0.03, 0.10)),
}


@dataclass
class Maps:
    """Optical maps of a lesion over an image, 0 outside: densities of melanin and blood, cover of white and
    blue-grey.
    """

    melanin: Field
    blood: Field
    white: Field
    blue: Field
    inside: Field
    radius: Field


def draw_lesion(label: str, seed: tuple[int, ...], x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"]) -> Maps:
    """The lesion of class `label` and seed `seed` at lesion coordinates `x`, `y`."""
    random = np.random.default_rng(seed)
    manner = MANNERS[label]
    radius, inside = outline(random, manner, x, y)
    # Only the pixels that the lesion reaches are worth painting.
    near = np.flatnonzero(inside > 0.002)
    u, v = x.ravel()[near], y.ravel()[near]
    melanin = random.uniform(*manner.melanin) * (1 + 0.16 * noise(random, u, v, scale=0.9, octaves=2))
    blood = random.uniform(*manner.blood) * (1 + 0.16 * noise(random, u, v, scale=0.9))
    none = np.zeros((2, len(near)), np.float32)
    maps = Maps(melanin, blood, *none, inside.ravel()[near], radius.ravel()[near])
    # Some lesions show their structure plainly, others hardly.
    TEXTURES[label](random, maps, u, v, random.uniform(*PLAINNESS))
    if random.random() < DECOY_CHANCE:
        decoy = list(TEXTURES)[random.integers(len(TEXTURES))]
        TEXTURES[decoy](random, maps, u, v, random.uniform(*DECOY_PLAINNESS))
    for name, values in vars(maps).items():
        full = np.zeros(x.shape, np.float32)
        full.ravel()[near] = values
        setattr(maps, name, full)
    return maps


def outline(random: np.random.Generator, manner: Manner, x: Field, y: Field) -> tuple[Field, Field]:
    """Distance from the centre in units of the outline (1 on it), and the soft inside (0 to 1)."""
    stretch = math.sqrt(random.uniform(*manner.stretch))
    turn = random.uniform(0, math.pi)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    along, across = along / stretch, across * stretch
    angle = np.arctan2(across, along)
    reach = np.ones_like(x)
    asymmetry, ragged = random.uniform(*manner.asymmetry), random.uniform(*manner.ragged)
    for wave in range(1, 4):
        reach += asymmetry / wave * random.normal() * np.cos(wave * angle + random.uniform(0, 2 * math.pi))
    for wave in range(5, 14, 2):
        reach += 0.5 * ragged * random.normal() * np.cos(wave * angle + random.uniform(0, 2 * math.pi))
    radius = np.hypot(along, across) / np.clip(reach, 0.5, 1.6)
    return radius, step(1 - radius, random.uniform(*manner.softness))


def paint_nevus(random: np.random.Generator, maps: Maps, x: Field, y: Field, plainness: float) -> None:
    """A regular fine network, or regular small globules, even all over and fading towards the rim."""
    scale = random.uniform(0.26, 0.36)
    first, border, _ = cells(random, x, y, scale, jitter=0.6)
    fade = step(0.95 - maps.radius, 0.3)
    if random.random() < 0.7:
        structure = 1 - step(border - 0.16, 0.08)
    else:
        structure = 1 - step(first - 0.27, 0.07)
    maps.melanin += plainness * fade * (0.85 * structure - 0.25)


def paint_melanoma(random: np.random.Generator, maps: Maps, x: Field, y: Field, plainness: float) -> None:
    """A broken network of uneven lines, off-centre dark blotches, a blue-white veil, dots of many sizes at
    the rim.
    """
    warp = 0.16 * noise(random, x, y, scale=0.5)
    first, border, value = cells(random, x + warp, y - warp, random.uniform(0.28, 0.42), jitter=1.0)
    patchy = step(noise(random, x, y, scale=0.7), 0.3)
    lines = 1 - step(border - 0.10 - 0.20 * patchy, 0.08)
    maps.melanin += plainness * (0.8 * patchy * lines - 0.15)
    side = random.uniform(0, 2 * math.pi)
    for turn in (side, side + random.uniform(1.2, 3.0)):
        away = random.uniform(0.35, 0.65)
        distance = np.hypot(x - away * math.cos(turn), y - away * math.sin(turn)) + 0.15 * warp / 0.16
        maps.melanin += plainness * random.uniform(0.4, 1.0) * step(random.uniform(0.2, 0.35) - distance, 0.08)
    veil = np.hypot(x + 0.4 * math.cos(side), y + 0.4 * math.sin(side)) + 0.3 * noise(random, x, y, scale=0.5)
    maps.blue += plainness * random.uniform(0.25, 0.7) * step(random.uniform(0.25, 0.45) - veil, 0.1)
    dots = (1 - step(first - 0.10 - 0.16 * value, 0.06)) * step(maps.radius - 0.65, 0.1)
    maps.melanin += plainness * 0.9 * dots * (value > 0.4)


def paint_basal(random: np.random.Generator, maps: Maps, x: Field, y: Field, plainness: float) -> None:
    """Branching vessels in focus, blue-grey ovoid nests, a pale sheen; no network."""
    maps.melanin -= 0.2 * plainness * maps.melanin
    vessels = np.zeros_like(x)
    for _ in range(random.integers(2, 4)):
        start = random.uniform(-0.9, 0.9, 2).tolist()
        heading = math.atan2(-start[1], -start[0]) + random.normal(0, 0.5)
        trunk = wander(random, tuple(start), heading, random.uniform(0.9, 1.5), bend=1.2)
        vessels = np.maximum(vessels, line(x, y, trunk, 0.035, 0.025))
        for _ in range(3):
            joint = random.integers(1, len(trunk) - 1)
            turn = heading + random.choice([-1, 1]) * random.uniform(0.6, 1.2)
            branch = wander(random, tuple(trunk[joint].tolist()), turn, random.uniform(0.3, 0.7), bend=1.0, pieces=4)
            vessels = np.maximum(vessels, 0.8 * line(x, y, branch, 0.02, 0.02))
    maps.blood += plainness * 1.3 * vessels
    for _ in range(random.integers(1, 5)):
        centre, turn = random.uniform(-0.7, 0.7, 2).tolist(), random.uniform(0, math.pi)
        along = (x - centre[0]) * math.cos(turn) + (y - centre[1]) * math.sin(turn)
        across = (y - centre[1]) * math.cos(turn) - (x - centre[0]) * math.sin(turn)
        nest = step(1 - np.hypot(along / random.uniform(0.14, 0.28), across / random.uniform(0.09, 0.16)), 0.2)
        maps.blue += plainness * random.uniform(0.5, 0.8) * nest
        maps.melanin += plainness * 0.5 * nest
    maps.white += 0.3 * plainness * step(noise(random, x, y, scale=0.8) - 0.6, 0.3)


def paint_keratosis(random: np.random.Generator, maps: Maps, x: Field, y: Field, plainness: float) -> None:
    """Pale follicles in a red pseudo-network (the 'strawberry'), and ragged white scale."""
    first, border, value = cells(random, x, y, random.uniform(0.26, 0.36), jitter=0.7)
    follicle = 1 - step(first - 0.25, 0.07)
    maps.blood += plainness * (0.65 * (1 - step(border - 0.30, 0.14)) - 0.2)
    maps.white += plainness * 0.65 * follicle * (value > 0.25)
    grain = noise(random, x, y, scale=0.35, octaves=3)
    maps.white += plainness * random.uniform(0.4, 0.9) * step(grain - 0.9, 0.2)


def paint_seborrhoeic(random: np.random.Generator, maps: Maps, x: Field, y: Field, plainness: float) -> None:
    """Milia-like white dots, dark plugged openings, winding fissures, and a border as if stuck on."""
    first, _, value = cells(random, x, y, random.uniform(0.26, 0.38), jitter=0.95)
    spot = 1 - step(first - 0.12 - 0.12 * value, 0.05)
    maps.white += plainness * 0.8 * spot * (value < 0.4)
    maps.melanin += plainness * 1.3 * spot * (value > 0.65)
    if random.random() < 0.6:
        ridge = np.abs(noise(random, x, y, scale=random.uniform(0.35, 0.5)))
        maps.melanin += plainness * (0.75 * (1 - step(ridge - 0.14, 0.1)) - 0.15)
    rim = np.exp(-(((maps.radius - 0.93) / 0.07) ** 2))
    maps.melanin += plainness * 0.4 * rim


def paint_vascular(random: np.random.Generator, maps: Maps, x: Field, y: Field, plainness: float) -> None:
    """Rounded red to purple lakes, parted by pale walls."""
    first, border, value = cells(random, x, y, random.uniform(0.36, 0.52), jitter=0.75)
    lake = step(border - 0.20, 0.08) * step(0.75 - first, 0.1)
    maps.blood += plainness * lake * (0.4 + 0.8 * value) - 0.3 * plainness
    maps.blue += plainness * 0.45 * lake * (value > 0.6)
    maps.white += plainness * 0.35 * (1 - step(border - 0.14, 0.08))


Painter = Callable[[np.random.Generator, Maps, Field, Field, float], None]
TEXTURES: dict[str, Painter] = {
    "MEL-like": paint_melanoma,
    "NV-like": paint_nevus,
    "BCC-like": paint_basal,
    "AK-like": paint_keratosis,
    "BKL-like": paint_seborrhoeic,
    "VASC-like": paint_vascular,
}
