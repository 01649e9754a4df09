"""CT of the surroundings: lung, vessels, chest wall, and the scanner's blur and noise.

The patient lies on the back: lung is denser behind than in front, the wall lies to the outside, vessels come from the
hilum on the other side, ribs run obliquely, and the slices are thicker than the pixels. So front, side and top can be
told from each other.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int16

from tfds_builders.common.textures import step

from .nodules import Nature, draw_nodule
from .space import Field, Grid, grid_of, noise, path, tube

AIR, BLOOD, MUSCLE, FAT, BONE = -1000.0, 45.0, 50.0, -95.0, 500.0
# Share of nodules with a chest wall in sight, and of those that touch it.
WALL_CHANCE, TOUCHING = 0.4, 0.35
ATTACHED = 0.35
# Least part of a voxel that the mask counts as nodule.
THRESHOLD = 0.5


@dataclass(frozen=True)
class Patient:
    """What the nodules of a patient share.

    Attributes:
      lung: Hounsfield units of its middle.
      slope: Hounsfield units per mm from front to back.
      emphysema: 0 to 1.
      grain: standard deviation of the noise, Hounsfield units.
      thickness: of the slices, mm.
      sharp: whether the reconstruction kernel is.
    """

    lung: float
    slope: float
    emphysema: float
    grain: float
    thickness: float
    sharp: bool


def draw_patient(seed: tuple[int, ...]) -> Patient:
    random = np.random.default_rng(seed)
    return Patient(
        lung=random.normal(-850, 25),
        slope=random.uniform(0.8, 2.0),
        emphysema=random.uniform(0.3, 1.0) if random.random() < 0.25 else 0.0,
        grain=math.exp(random.uniform(math.log(12), math.log(45))),
        thickness=random.choice([1.0, 2.0, 2.5, 3.0]),
        sharp=random.random() < 0.4,
    )


def scan(
    nature: Nature, seed: int, patient: int, number: int, size: int, spacing: float
) -> tuple[Int16[np.ndarray, "size size size"], Bool[np.ndarray, "size size size"]]:
    """Hounsfield units (z, y, x) about nodule `number` of the patient, and the nodule's mask; a pure function of the
    arguments.
    """
    person = draw_patient((seed, patient, 0))
    random = np.random.default_rng((seed, patient, 1, number))
    grid = grid_of(size, spacing, tuple(random.normal(0, 0.8, 3).tolist()))
    outside = draw_outside(random)
    wall = nature.diameter / 2 * random.uniform(0.3, 0.9) if random.random() < TOUCHING else random.uniform(7, 16)
    shown = random.random() < WALL_CHANCE
    units = lung(random, person, grid)
    units = add_vessels(random, units, grid, outside)
    if shown:
        units = add_wall(random, units, grid, outside, max(wall, 3.0))
    nodule = draw_nodule(nature, (seed, patient, 2, number), grid)
    # Ground glass adds to what lies in it; it hides neither vessels nor wall.
    units = np.where(nodule.units > units, units + nodule.cover * (nodule.units - units), units)
    units = detect(random, units, person, spacing)
    mask = nodule.cover > THRESHOLD
    return np.clip(np.round(units), -1024, 3071).astype(np.int16), mask


def draw_outside(random: np.random.Generator) -> Float[np.ndarray, "3"]:
    """Unit vector (z, y, x) from the hilum outwards: to one side more than to the front or back."""
    turn = random.normal(0, 0.7)
    vector = np.array([random.normal(0, 0.2), math.sin(turn), math.cos(turn) * random.choice([-1, 1])], np.float32)
    return vector / np.sqrt((vector**2).sum())


def lung(random: np.random.Generator, person: Patient, grid: Grid) -> Field:
    units = person.lung + person.slope * grid.y + 18 * noise(random, grid, 6.0) + 10 * noise(random, grid, 2.5)
    if person.emphysema:
        holes = step(noise(random, grid, 6.0) + 0.6 * noise(random, grid, 2.7) - 1.5 + 0.8 * person.emphysema, 0.3)
        units = units + 0.7 * holes * (AIR - units)
    return units


def add_vessels(random: np.random.Generator, units: Field, grid: Grid, outside: Float[np.ndarray, "3"]) -> Field:
    """Vessels that come from the hilum, branch and thin out; some pass into the nodule."""
    cover = np.zeros_like(units)
    half = grid.spacing * len(units) / 2
    for number in range(random.integers(4, 9)):
        start = random.uniform(-half, half, 3).astype(np.float32) - outside * np.float32(0.9 * half)
        heading = outside + random.normal(0, 0.45, 3).astype(np.float32)
        if number == 0 and random.random() < ATTACHED:
            heading = -start
        width = math.exp(random.uniform(math.log(0.6), math.log(2.0)))
        bend = 0.08 if number == 0 else 0.25
        trunk = path(random, start, heading / np.sqrt((heading**2).sum()), random.uniform(1.0, 2.2) * half, bend, 3)
        cover = np.maximum(cover, tube(grid, trunk, width, 0.5))
        for joint in (1, 2)[: random.integers(1, 3)]:
            aside = trunk[joint + 1] - trunk[joint] + random.normal(0, 0.25 * half, 3).astype(np.float32)
            aside = aside / np.sqrt((aside**2).sum())
            branch = path(random, trunk[joint], aside, random.uniform(0.5, 1.2) * half, 0.3, 2)
            cover = np.maximum(cover, tube(grid, branch, 0.6 * width, 0.4))
    return units + cover * (BLOOD - units)


def add_wall(
    random: np.random.Generator, units: Field, grid: Grid, outside: Float[np.ndarray, "3"], distance: float
) -> Field:
    """Pleura, muscle, fat and ribs beyond a curved surface `distance` mm from the nodule's centre."""
    bow = random.uniform(60, 110)
    centre = (outside * np.float32(distance - bow)).tolist()
    depth = np.sqrt((grid.z - centre[0]) ** 2 + (grid.y - centre[1]) ** 2 + (grid.x - centre[2]) ** 2) - bow
    layers = MUSCLE + (FAT - MUSCLE) * step(np.sin(depth / random.uniform(2.0, 3.5) + random.uniform(0, 6)), 0.4)
    layers = np.where(depth < 2, MUSCLE, layers)
    # Ribs run around the chest and fall towards the front.
    around = np.cross(outside, np.array([1, 0, 0], np.float32)) + np.float32([random.choice([-1, 1]) * 0.4, 0, 0])
    middle = outside * np.float32(distance + random.uniform(6.5, 9))
    lowest = random.uniform(-26, 0)
    for step_up in (lowest, lowest + 26):
        points = middle + np.float32([step_up, 0, 0]) + np.outer(np.float32([-60, 0, 60]), around).astype(np.float32)
        shell, marrow = tube(grid, points, 5.0), tube(grid, points, 3.0)
        layers = layers + shell * (BONE - layers) + marrow * (180 - BONE)
    wall = step(depth, 0.5 * grid.spacing)
    return units + wall * (layers - units)


def detect(random: np.random.Generator, units: Field, person: Patient, spacing: float) -> Field:
    """Blur of the slices' thickness and, with a soft kernel, in the plane; noise with the same grain."""
    grain = random.standard_normal(units.shape, dtype=np.float32)
    across = min(0.25, 0.12 * (person.thickness / spacing) ** 2)
    within = 0.0 if person.sharp else 0.12
    blurred, smooth = units, grain
    for axis, share in ((0, across), (1, within), (2, within)):
        blurred, smooth = blur(blurred, axis, share), blur(smooth, axis, share)
    return blurred + person.grain * (1.4 if person.sharp else 1.0) * smooth / smooth.std()


def blur(field: Field, axis: int, share: float) -> Field:
    """Gives `share` of each voxel to either neighbour along `axis`."""
    pad = [(1, 1) if i == axis else (0, 0) for i in range(3)]
    edge = np.pad(field, pad, mode="edge")
    count = field.shape[axis]
    before, after = np.take(edge, range(count), axis), np.take(edge, range(2, count + 2), axis)
    return field * np.float32(1 - 2 * share) + np.float32(share) * (before + after)
