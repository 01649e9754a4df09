"""Photographs of lesions: pose, skin, light and everything that lies on the skin or in the lens.

What is random here changes between two photographs of one lesion; the lesion and the person's skin do not. Up
and down can be told: the light comes from above more often than not, rulers lie at the bottom, hairs grow
downwards, glare of the gel sits high. Image coordinates run from -1 (left, top) to 1.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8

from tfds_builders.common.textures import Field, line, plane_noise, shrink, soften, step, wander

from .lesions import Maps, draw_lesion

Image = Float[np.ndarray, "h w 3"]

# Drawn at twice the size and averaged, so thin lines do not alias.
OVERSAMPLING = 2
# Absorption of red, green and blue by a unit of melanin and of blood.
MELANIN = np.array([0.48, 0.78, 1.02], np.float32)
BLOOD = np.array([0.16, 0.95, 0.75], np.float32)
SKIN = np.array([0.93, 0.79, 0.70], np.float32)
WHITE = np.array([0.93, 0.90, 0.84], np.float32)
BLUE = np.array([0.42, 0.46, 0.56], np.float32)
INKS = np.array([[0.25, 0.20, 0.55], [0.15, 0.35, 0.55], [0.35, 0.15, 0.40]], np.float32)


def photograph(
    label: str, seed: int, lesion: int, photo: int, size: int
) -> tuple[UInt8[np.ndarray, "size size 3"], Bool[np.ndarray, "size size"]]:
    """Photograph number `photo` of the lesion, and the mask of the lesion in it; a pure function of the
    arguments.
    """
    person = np.random.default_rng((seed, lesion, 1))
    tan, flush, framing = person.uniform(0.0, 0.5), person.uniform(0.0, 0.15), person.uniform(0.48, 0.76)
    random = np.random.default_rng((seed, lesion, 2, photo))
    fine = size * OVERSAMPLING
    axis = ((np.arange(fine, dtype=np.float32) + 0.5) * (2 / fine) - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    maps = draw_lesion(label, (seed, lesion, 0), *pose(random, x, y, framing))
    light = random.normal(-math.pi / 2, 0.45)
    image = skin(random, axis, tan, flush)
    image = cover(image, maps)
    image *= relief(maps, light)[..., None]
    image = add_objects(random, image, x, y)
    image = illuminate(random, image, x, y, light)
    image = shrink(image, OVERSAMPLING)
    image = expose(random, image)
    mask = shrink(maps.inside, OVERSAMPLING) > 0.5
    return (image * 255 + 0.5).astype(np.uint8), mask


def pose(random: np.random.Generator, x: Field, y: Field, framing: float) -> tuple[Field, Field]:
    """Lesion coordinates: a little turned, moved and scaled, never mirrored."""
    turn, scale = random.normal(0, 0.12), framing * random.uniform(0.92, 1.08)
    x, y = (x - random.normal(0, 0.07)) / scale, (y - random.normal(0, 0.07)) / scale
    return x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)


def skin(random: np.random.Generator, axis: Float[np.ndarray, " n"], tan: float, flush: float) -> Image:
    melanin = tan + 0.05 * plane_noise(random, axis, 0.12, octaves=2) + 0.05 * plane_noise(random, axis, 0.8)
    blood = flush + 0.05 * plane_noise(random, axis, 0.5, octaves=2)
    return absorb(SKIN, melanin, blood)


def absorb(image: Float[np.ndarray, "... 3"], melanin: Field, blood: Field) -> Image:
    """Light that is left after layers of the given densities (Beer and Lambert)."""
    return image * np.exp(-melanin[..., None] * MELANIN - blood[..., None] * BLOOD)


def cover(image: Image, maps: Maps) -> Image:
    inside = maps.inside
    image = absorb(image, np.maximum(maps.melanin, 0) * inside, np.maximum(maps.blood, 0) * inside)
    for amount, colour in ((maps.blue, BLUE), (maps.white, WHITE)):
        share = (np.clip(amount, 0, 0.85) * inside)[..., None]
        image = image * (1 - share) + share * colour
    return image


def relief(maps: Maps, light: float) -> Field:
    """Shading of the lesion's surface: dark structure is raised, its side towards the light is brighter."""
    height = maps.inside * (1 + 0.5 * maps.melanin + 0.8 * maps.white)
    down, along = np.gradient(height)
    slope = (math.cos(light) * along + math.sin(light) * down) * (len(height) / 64)
    return 1 - 0.35 * np.tanh(slope)


def add_objects(random: np.random.Generator, image: Image, x: Field, y: Field) -> Image:
    """Hairs, ink marks and a ruler, each on some photographs."""
    if random.random() < 0.45:
        image = add_hairs(random, image, x, y)
    if random.random() < 0.08:
        path = wander(random, tuple(random.choice([-1, 1], 2) * random.uniform(0.6, 0.95, 2)), 0.0, 0.8, bend=2.0)
        share = 0.6 * line(x, y, path, 0.05, 0.03)[..., None]
        image = image * (1 - share) + share * INKS[random.integers(len(INKS))]
    if random.random() < 0.2:
        image = add_ruler(random, image, x, y)
    return image


def add_hairs(random: np.random.Generator, image: Image, x: Field, y: Field) -> Image:
    growth = random.normal(math.pi / 2, 0.5)
    colour = np.float32(random.uniform(0.05, 0.35)) * np.array([1.0, 0.8, 0.65], np.float32)
    for _ in range(random.integers(1, 7)):
        start = tuple(random.uniform(-1.1, 0.9, 2).tolist())
        path = wander(random, start, growth + random.normal(0, 0.25), random.uniform(0.5, 1.6), bend=0.6, pieces=5)
        share = 0.75 * line(x, y, path, random.uniform(0.005, 0.016), 0.012)[..., None]
        image = image * (1 - share) + share * colour
    return image


def add_ruler(random: np.random.Generator, image: Image, x: Field, y: Field) -> Image:
    """A translucent scale along the lower edge, slightly tilted."""
    tilt, top, spacing = random.normal(0, 0.04), random.uniform(0.76, 0.88), random.uniform(0.10, 0.16)
    below = y - tilt * x - top
    along = (x + random.uniform(0, spacing)) / spacing
    tick = np.abs(along - np.round(along)) * spacing
    reach = np.where(np.round(along) % 5 == 0, 0.14, 0.08)
    mark = (1 - step(tick - 0.012, 0.008)) * step(reach - below, 0.01)
    body = step(below, 0.008)[..., None]
    image = image * (1 - 0.35 * body) + 0.35 * body * WHITE
    return image * (1 - 0.8 * body * mark[..., None])


def illuminate(random: np.random.Generator, image: Image, x: Field, y: Field, light: float) -> Image:
    """Light that falls off away from its side, vignette of a badly centred lens, glare of the gel on the
    lit side.
    """
    ramp = 1 + random.uniform(0.02, 0.14) * (math.cos(light) * x + math.sin(light) * y)
    centre = random.normal(0, 0.12, 2).tolist()
    distance = np.hypot(x - centre[0], y - centre[1])
    ramp = ramp * (1 - random.uniform(0.0, 0.35) * step(distance - random.uniform(1.0, 1.3), 0.25))
    image = image * ramp[..., None]
    if random.random() < 0.35:
        for _ in range(random.integers(1, 4)):
            away, turn = random.uniform(0.3, 0.9), light + random.normal(0, 0.7)
            spot = np.hypot(x - away * math.cos(turn), (y - away * math.sin(turn)) * random.uniform(0.6, 1.6))
            share = (random.uniform(0.3, 0.8) * (1 - step(spot - random.uniform(0.02, 0.09), 0.03)))[..., None]
            image = image * (1 - share) + share
    return image


def expose(random: np.random.Generator, image: Image) -> Image:
    """The camera: exposure, white balance, gamma, a soft focus on some photographs, grain."""
    balance = random.uniform(0.85, 1.08) * (1 + random.normal(0, 0.03, 3)).astype(np.float32)
    image = np.clip(image * balance, 0, None) ** np.float32(random.uniform(0.85, 1.2))
    if random.random() < 0.3:
        image = soften(image, random.uniform(0.3, 1.0))
    grain = random.uniform(0.005, 0.02) * random.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + grain, 0, 1)
