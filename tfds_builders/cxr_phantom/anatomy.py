"""The chest: what the rays of one exposure pass through, as maps of attenuation over coordinates.

Body coordinates: the spine at u = 0, `v` points down, the rib cage about 1.4 wide; the patient's right is at u < 0, on
the left of the image, as films are hung. Attenuation is a line integral (exp(-attenuation) of the rays is left), so
organs add up, and air in the lungs takes away.
"""

import math
from dataclasses import dataclass

import numpy as np

from tfds_builders.common.textures import Field, line, noise, step, wander

VIEWS = ("PA", "AP")
RIBS = 11
# Attenuation through the middle of the trunk, and of the air in the deepest part of a lung.
TRUNK, AIR = 1.75, 1.25
# Softness of the edges of organs, in body coordinates.
EDGE = 0.014


@dataclass(frozen=True)
class Patient:
    """What all images of a patient share. Lengths in body coordinates.

    Attributes:
      width: of each half of the rib cage.
      apex, base: `v` of the top of the lungs and of their lower outer corner.
      dome: height of the diaphragm's dome.
      raised: how much higher the right dome is.
      fat: thickness of the chest wall.
      mediastinum: half its width.
      heart: size relative to an ordinary one.
      bones: their attenuation relative to ordinary ones.
      slope: how steeply the ribs fall.
      breasts: attenuation of the breasts, 0 for none.
      bend: of the spine, to one side.
      seed: of the vessels.
    """

    width: float
    apex: float
    base: float
    dome: float
    raised: float
    fat: float
    mediastinum: float
    heart: float
    bones: float
    slope: float
    breasts: float
    bend: float
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Stance:
    """What changes between two images of a patient: view, turn about the long axis, depth of breath, arms."""

    view: str
    turn: float
    breath: float
    shoulders: float


@dataclass(frozen=True)
class Chest:
    """Maps over the image.

    Attributes:
      solid: attenuation of everything, with lungs that hold no air.
      air: attenuation that air takes away.
      lungs: cover (0 to 1) of the lung fields: above the diaphragm, beside heart and mediastinum.
      side: -1 in the patient's right half, 1 in the left.
      breadth: 0 at the inner border of the lung, 1 at the ribs.
      height: 0 at the apex, 1 at the diaphragm.
    """

    solid: Field
    air: Field
    lungs: Field
    side: Field
    breadth: Field
    height: Field


def draw_patient(seed: tuple[int, ...]) -> Patient:
    random = np.random.default_rng(seed)
    return Patient(
        width=random.uniform(0.62, 0.76),
        apex=random.uniform(-0.76, -0.66),
        base=random.uniform(0.48, 0.66),
        dome=random.uniform(0.12, 0.22),
        raised=random.uniform(0.02, 0.08),
        fat=random.uniform(0.06, 0.20),
        mediastinum=random.uniform(0.085, 0.125),
        heart=random.uniform(0.85, 1.15),
        bones=random.uniform(0.75, 1.3),
        slope=random.uniform(0.6, 1.3),
        breasts=random.uniform(0.08, 0.25) if random.random() < 0.3 else 0.0,
        bend=random.normal(0, 0.025),
        seed=(*seed, 1),
    )


def draw_stance(random: np.random.Generator, view: str) -> Stance:
    supine = view == "AP"
    return Stance(
        view=view,
        turn=random.normal(0, 0.5),
        breath=random.normal(-0.06 if supine else 0.0, 0.035),
        shoulders=random.uniform(-0.06, 0.04) if supine else random.uniform(-0.02, 0.08),
    )


def draw_chest(patient: Patient, stance: Stance, u: Field, v: Field) -> Chest:
    """The patient at body coordinates `u`, `v`."""
    # A turn moves what lies in front to one side and the spine to the other.
    spine = u - patient.bend * np.sin(2.5 * v) + 0.02 * stance.turn
    front = u - 0.035 * stance.turn
    side, across = np.sign(u).astype(np.float32), np.abs(u)
    inner, outer, dome, field = lung_borders(patient, stance, side, across, v)
    middle = mediastinum(patient, stance, front, v)
    depth = np.sqrt(np.clip(1 - (across / (1.04 * outer)) ** 2, 0, 1)) * (1 + 0.05 * stance.turn * side)
    height = (v - patient.apex) / (dome - patient.apex)
    # The lungs reach a little way down behind the diaphragm, and behind the heart.
    above = step(dome - v, EDGE)
    air = AIR * depth * field * (0.55 + 0.45 * np.clip(2.2 * height, 0, 1)) * (0.12 + 0.88 * above) * (1 - 0.8 * middle)
    solid = trunk(patient, stance, across, v) + 0.25 * middle * step(patient.base - v, 0.2)
    solid = solid + backbone(patient, spine, v) - 0.36 * windpipe(front, v)
    solid = solid + ribs(patient, side, np.abs(spine), v, outer) + shoulder_girdle(patient, stance, front, v)
    solid = solid + breasts(patient, across, v) - stomach(patient, u, v, dome)
    lungs = field * above * (1 - middle)
    # No lung is even: blood, skin folds and muscle mottle it.
    mottle = noise(np.random.default_rng((*patient.seed, 5)), u, v, scale=0.28, octaves=2)
    air = air * np.clip(0.9 + 0.07 * mottle, 0.6, 1.1)
    solid = solid + vessels(patient, u, v) * lungs
    return Chest(solid, air, lungs, side, (across - inner) / np.maximum(outer - inner, 0.05), height)


def lung_borders(patient: Patient, stance: Stance, side: Field, across: Field, v: Field) -> tuple[Field, ...]:
    """Distances from the middle of the inner and outer border, `v` of the diaphragm, cover between the borders."""
    base = patient.base + stance.breath - 0.5 * patient.raised * (1 - side)
    along = (v - patient.apex) / (base - patient.apex)
    # Where apex and dome are highest.
    summit = 0.42 * patient.width
    rounded = np.sqrt(np.clip(1 - (1 - np.clip(along, 0, 0.22) / 0.22) ** 2, 0, 1))
    inner = summit - (summit - patient.mediastinum) * rounded
    outer = summit + (patient.width - summit) * (1 - (1 - np.clip(along, 0, 1)) ** 2.3) ** 0.55
    rest = np.where(across > summit, (across - summit) / (patient.width - summit), 0.7 * (summit - across) / summit)
    dome = base - patient.dome * (1 - np.clip(rest, 0, 1.2) ** 2)
    field = step(outer - across, EDGE) * step(across - inner, EDGE) * step(v - patient.apex, EDGE)
    return inner, outer, dome, field


def mediastinum(patient: Patient, stance: Stance, u: Field, v: Field) -> Field:
    """Cover (0 to 1) of heart, great vessels and what lies between the lungs, from the curves of its two borders."""
    size = patient.heart * (1.15 if stance.view == "AP" else 1.0)
    floor = patient.base + stance.breath - 0.6 * patient.dome
    middle = floor - 0.20 * size

    def bump(centre: float, spread: float) -> Field:
        return np.exp(-(((v - centre) / spread) ** 2))

    # From above: arch of the aorta, trunk of the pulmonary artery, left ventricle; vena cava, right atrium.
    ventricle = 0.26 * size * step(v - middle + 0.02, 0.13) * np.sqrt(np.clip(1 - ((v - middle) / 0.36) ** 2, 0, 1))
    left = patient.mediastinum + 0.055 * bump(-0.33, 0.075) + 0.045 * bump(-0.14, 0.09) + ventricle
    right = patient.mediastinum - 0.015 + 0.02 * bump(-0.40, 0.15) + 0.10 * size * bump(middle + 0.02, 0.17)
    return step(left - u, 0.02) * step(right + u, 0.02)


def trunk(patient: Patient, stance: Stance, across: Field, v: Field) -> Field:
    """Soft tissue of chest wall, belly, neck and shoulders."""
    wall = patient.width + patient.fat - 0.08 * step(-0.1 - v, 0.25)
    armpit = step(-0.42 + stance.shoulders - v, 0.06)
    reach = wall + 0.55 * armpit
    line_of_shoulders = -1.0 + stance.shoulders + 0.30 * np.clip((across - 0.2) / 0.6, 0, 2) ** 1.2
    below = step(v - line_of_shoulders, 0.02)
    thickness = np.sqrt(np.clip(1 - (across / reach) ** 2, 0, 1)) * (1 - 0.25 * armpit)
    neck = 0.62 * np.sqrt(np.clip(1 - (across / 0.24) ** 2, 0, 1))
    return TRUNK * np.maximum(thickness * below, neck * (1 - below))


def backbone(patient: Patient, u: Field, v: Field) -> Field:
    """Vertebrae with the gaps of the discs, a pair of pedicles and a spinous process each."""
    spacing = 0.125 + 0.02 * v
    phase = v / spacing - np.floor(v / spacing) - 0.5
    body = step(0.062 - np.abs(u), 0.012) * (0.7 + 0.3 * step(0.36 - np.abs(phase), 0.08))
    pedicles = step(1 - np.hypot((np.abs(u) - 0.045) / 0.018, (phase + 0.1) / 0.2), 0.3)
    process = step(1 - np.hypot(u / 0.014, (phase - 0.15) / 0.3), 0.3)
    return patient.bones * (0.24 * body + 0.10 * pedicles + 0.08 * process)


def windpipe(u: Field, v: Field) -> Field:
    """Cover of the trachea and the two main bronchi."""
    trachea = step(0.034 - np.abs(u), 0.012) * step(-0.20 - v, 0.02)
    bronchi = step(0.024 - np.abs(v + 0.20 - 0.75 * np.abs(u)), 0.012) * step(0.16 - np.abs(u), 0.03)
    return np.maximum(trachea, 0.7 * bronchi)


def ribs(patient: Patient, side: Field, across: Field, v: Field, outer: Field) -> Field:
    """Rear ribs, arched; front ribs, fainter and falling steeply towards the middle; the cage's edge seen along it."""
    random = np.random.default_rng((*patient.seed, 2))
    strength = random.uniform(0.8, 1.15, (2, RIBS)).astype(np.float32)
    shift = random.normal(0, 0.006, (2, RIBS)).astype(np.float32)
    spacing = (patient.base - patient.apex + 0.1) / (RIBS - 1.2)
    half = (side > 0).astype(np.int32)
    along = np.clip((across - 0.07) / (outer - 0.07), 0, 1)
    inside = step(outer + 0.02 - across, 0.012) * step(across - 0.08, 0.02)

    def one(fall: Field, width: float) -> Field:
        place = (v - patient.apex + 0.03 - fall) / spacing
        number = np.clip(np.round(place), 0, RIBS - 1).astype(np.int32)
        away = np.abs(place - number - shift[half, number] / spacing) * spacing
        # Dense rims, as of a tube.
        return strength[half, number] * step(width - away, 0.008) * (0.65 + 0.35 * np.minimum(away / width, 1) ** 2)

    slope = patient.slope
    rear = one(slope * (0.20 * along**2.2 - 0.10 * np.sin(math.pi * along)), 0.026)
    front = one(slope * (0.20 + 0.42 * (1 - along) ** 1.2) + 0.02, 0.032) * step(along - 0.42, 0.08)
    edge = np.exp(-(((across - outer - 0.012) / 0.018) ** 2)) * step(v - patient.apex - 0.1, 0.05)
    return patient.bones * (inside * (0.30 * rear + 0.17 * front) + 0.18 * edge * (0.5 + 0.5 * rear))


def shoulder_girdle(patient: Patient, stance: Stance, u: Field, v: Field) -> Field:
    """Collar bones, shoulder blades (over the lungs in AP images, beside them in PA) and heads of the arm bones."""
    lift = stance.shoulders - (0.05 if stance.view == "AP" else 0.0)
    total = np.zeros_like(u)
    top = patient.apex + 0.11 + lift
    for side in (-1, 1):
        x = side * u
        collar = np.array([[0.05, 0.10], [0.18, 0.07], [0.40, 0.01], [0.62, -0.08], [0.84, -0.10]], np.float32)
        collar[:, 1] += top
        bone = line(x, v, collar, 0.024, 0.01)
        total += 0.28 * bone + 0.10 * line(x, v, collar[:2], 0.03, 0.012)
        blade = patient.width * (0.80 if stance.view == "AP" else 1.05)
        upper = step(x - blade - 0.16 * (v + 0.2), 0.015) * step(v - top + 0.02, 0.03)
        lower = step(0.27 - 0.25 * x - v, 0.1) * step(1.0 - x, 0.05)
        total += 0.10 * upper * lower
        total += 0.35 * step(1 - np.hypot(x - 0.93, (v - top - 0.04) / 0.9) / 0.105, 0.1)
        arm = np.array([[0.95, 0.1], [1.25, 0.5]], np.float32) + np.array([0, top], np.float32)
        total += 0.3 * line(x, v, arm, 0.06, 0.012)
    return patient.bones * total


def breasts(patient: Patient, across: Field, v: Field) -> Field:
    """Soft shadows with a lower edge; they lighten the lower fields of a healthy lung on both sides."""
    if not patient.breasts:
        return np.zeros_like(v)
    away = np.hypot((across - 0.62 * patient.width) / 0.36, (v - 0.22) / (0.30 - 0.08 * step(v - 0.22, 0.05)))
    return patient.breasts * np.sqrt(np.clip(1 - away**2, 0, 1))


def stomach(patient: Patient, u: Field, v: Field, dome: Field) -> Field:
    """The gas bubble below the left dome, in some."""
    random = np.random.default_rng((*patient.seed, 3))
    width, height, amount = random.uniform(0.08, 0.16), random.uniform(0.04, 0.09), random.uniform(0.2, 0.6)
    if random.random() < 0.5:
        return np.zeros_like(u)
    away = np.hypot((u - 0.30) / width, (v - dome - 0.05 - height) / height)
    return amount * step(1 - away, 0.15)


def vessels(patient: Patient, u: Field, v: Field) -> Field:
    """Hila, and arteries and veins that branch from them and taper."""
    random = np.random.default_rng((*patient.seed, 4))
    total = np.zeros_like(u)
    for side in (-1, 1):
        x, root = side * u, (patient.mediastinum + 0.04, -0.06 if side < 0 else -0.10)
        total += 0.22 * np.exp(-(((x - root[0]) / 0.06) ** 2) - ((v - root[1]) / 0.13) ** 2)
        for heading in np.linspace(-1.2, 1.4, 5):
            start = (root[0] + random.uniform(-0.02, 0.04), root[1] + 0.09 * heading)
            path = wander(random, start, heading + random.normal(0, 0.15), random.uniform(0.25, 0.45), 0.6, pieces=3)
            total += 0.16 * line(x, v, path, 0.011, 0.011)
            turn = heading + random.choice([-1, 1]) * random.uniform(0.3, 0.7)
            branch = wander(random, tuple(path[1].tolist()), turn, random.uniform(0.25, 0.4), 0.6, pieces=2)
            total += 0.12 * line(x, v, branch, 0.006, 0.009)
    return total
