"""Radiographs: exposure, scatter, noise, the detector's curve, and what lies on patient and film.

What is random here changes between two images of one patient; body and disease do not.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from tfds_builders.common.textures import Field, line, shrink, soften, wander

from .anatomy import draw_chest, draw_patient, draw_stance
from .opacities import THRESHOLD, draw_opacity

# Drawn at twice the size and averaged, so thin lines do not alias.
OVERSAMPLING = 2
# An 'R' of height and width 1, as strokes.
LETTER = np.array([[0, 1], [0, 0], [0.7, 0], [0.9, 0.25], [0.7, 0.5], [0, 0.5], [0.35, 0.5], [0.95, 1]], np.float32)


@dataclass(frozen=True)
class Radiograph:
    """Attributes: pixels; the lungs, as far as neither heart nor diaphragm hides them; pneumonia, inside the lungs."""

    image: UInt8[np.ndarray, "size size"]
    lungs: Bool[np.ndarray, "size size"]
    opacity: Bool[np.ndarray, "size size"]


def radiograph(label: str, view: str, marker: bool, seed: int, patient: int, number: int, size: int) -> Radiograph:
    """Image number `number` of the patient; a pure function of the arguments. `marker` changes the letter's pixels
    and no others.
    """
    random = np.random.default_rng((seed, patient, 2, number))
    fine = size * OVERSAMPLING
    axis = ((np.arange(fine, dtype=np.float32) + 0.5) * (2 / fine) - 1).astype(np.float32)
    u, v = seen_from(random, axis)
    chest = draw_chest(draw_patient((seed, patient, 0)), draw_stance(random, view), u, v)
    filled, extent = draw_opacity(label, (seed, patient, 1), random.uniform(0.75, 1.1), chest, u, v)
    solid = chest.solid - chest.air * (1 - filled) + attachments(random, view, u, v)
    image = expose(random, shrink(np.exp(-np.clip(solid, 0, None)), OVERSAMPLING), view)
    if marker:
        letter = shrink(draw_marker(np.random.default_rng((seed, patient, 3, number)), axis), OVERSAMPLING)
        image = image * (1 - letter) + letter
    lungs = shrink(chest.lungs, OVERSAMPLING) > 0.5
    opacity = lungs & (shrink(extent, OVERSAMPLING) > THRESHOLD)
    return Radiograph((image * 255 + 0.5).astype(np.uint8), lungs, opacity)


def seen_from(
    random: np.random.Generator, axis: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """Body coordinates of the pixels of an image with the coordinates `axis` (-1 to 1): framing and tilt."""
    x, y = np.meshgrid(axis, axis)
    tilt, scale = random.normal(0, 0.04), random.uniform(0.74, 0.94)
    x, y = scale * (x - random.normal(0, 0.04)), scale * (y - random.normal(0.02, 0.04))
    return x * math.cos(tilt) - y * math.sin(tilt), x * math.sin(tilt) + y * math.cos(tilt)


def attachments(random: np.random.Generator, view: str, u: Field, v: Field) -> Field:
    """Leads and tubes, mostly on those who lie in bed."""
    total = np.zeros_like(u)
    if random.random() < (0.3 if view == "AP" else 0.05):
        for _ in range(random.integers(1, 4)):
            start = (random.uniform(-0.6, 0.6), random.uniform(-0.9, 0.2))
            path = wander(random, start, random.normal(1.5, 0.8), random.uniform(0.4, 1.2), bend=1.2)
            total += 0.35 * line(u, v, path, 0.006, 0.008)
            electrode = np.float32([path[0], [path[1, 0], path[0, 1]]])
            total += 0.5 * line(u, v, electrode, 0.02, 0.01)
    return total


def expose(random: np.random.Generator, rays: Float[np.ndarray, "n n"], view: str) -> Float[np.ndarray, "n n"]:
    """Grey levels (0 to 1, bright where few rays come through) of the rays that reach the detector."""
    scattered = random.uniform(0.04, 0.12) if view == "PA" else random.uniform(0.08, 0.2)
    rays = rays + scattered * veil(rays)
    photons = np.exp(random.uniform(np.log(800), np.log(6000))) / (1.0 if view == "PA" else 1.5)
    rays = rays + np.sqrt(rays / photons) * random.standard_normal(rays.shape, dtype=np.float32)
    dense = -np.log(np.clip(rays, 0.01, None))
    # The reading unit stretches what it finds, as real ones do, so brightness tells little of what is in the lungs.
    low, high = np.quantile(dense, [random.uniform(0.0, 0.06), random.uniform(0.96, 1.0)]).tolist()
    image = np.clip((dense - low) / (high - low), 0, 1) ** np.float32(np.exp(random.normal(0.1, 0.2)))
    if random.random() < 0.3:
        image = soften(image, random.uniform(0.3, 1.0))
    return np.clip(image * random.uniform(0.85, 1.0) + random.uniform(0.0, 0.05), 0, 1)


def veil(rays: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Scatter: the rays, blurred over a quarter of the image."""
    reach = max(len(rays) // 8, 1)
    for axis in (0, 1):
        pad = [(reach, reach) if i == axis else (0, 0) for i in range(2)]
        total = np.cumsum(np.pad(rays, pad, mode="edge"), axis=axis, dtype=np.float32)
        total = np.insert(total, 0, 0, axis=axis)
        width = 2 * reach + 1
        rays = (np.take(total, range(width, len(rays) + width), axis) - np.take(total, range(len(rays)), axis)) / width
    return rays


def draw_marker(random: np.random.Generator, axis: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """Cover of a lead letter R in the upper corner at the patient's right."""
    x, y = np.meshgrid(axis, axis)
    height = random.uniform(0.15, 0.2)
    corner = np.float32([random.uniform(-0.95, -0.82), random.uniform(-0.95, -0.75)])
    return line(x, y, corner + LETTER * np.float32([0.7 * height, height]), 0.016, 0.010)
