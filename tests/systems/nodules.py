"""Drawn nodules in memory, round and smooth ones, and jagged ones with spots; and what measures them."""

import dataclasses

import numpy as np
import tiny
from short_measurements import RUNTIME

from aiseeme_jax import data
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.protocols import Measurement, Subject
from configs import base

SIDE, PLANES = 16, 3
CLASSES = ("benign", "malignant")
# No change of grey values: it takes long to compile.
VIEWS = {"rotation": 180.0, "crop_scale": (0.8, 1.0), "crop_ratio": (1.0, 1.0), "jitter_probability": 0.0}
VIEWS |= {"right_angles": False}


def draw(malignant, random):
    """Planes uint8 [3, 16, 16, 1] and masks of one nodule."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    turn, planes, masks = random.uniform(0, 6), [], []
    for size in (3.6, 4.4, 3.8):
        angle = np.arctan2(y, x) + turn
        inside = np.hypot(y, x) < size * (1 + 0.35 * malignant * np.sin(3 * angle))
        # As bright as the others in the mean.
        spots = 70 * malignant * random.choice((-1, 1), (SIDE, SIDE))
        planes.append(random.normal(40, 8, (SIDE, SIDE)) + inside * (120 + spots + random.normal(0, 25)))
        masks.append(inside)
    return np.clip(planes, 0, 255).astype(np.uint8)[..., None], np.array(masks, np.uint8)[..., None]


def split(count, *, seed=0, unlabelled=0):
    """A split whose last nodules have no label; two of each patient."""
    random = np.random.default_rng(seed)
    truth = np.arange(count + unlabelled) % 2
    drawn = [draw(malignant, random) for malignant in truth]
    labels = np.where(np.arange(len(truth)) < count, truth, -1)
    made = data.from_arrays(
        np.stack([planes for planes, _ in drawn]),
        labels,
        [f"{seed}-{i // 2}" for i in range(len(truth))],
        CLASSES,
        name="nodules:train",
    )
    masks = np.stack([masks for _, masks in drawn])
    return dataclasses.replace(made, segmentation=masks, picture_names=("before", "middle", "behind"))


def subject(count=48, unlabelled=16):
    whole = split(count, unlabelled=unlabelled)
    splits = {"train": whole.subset(np.arange(count)), "unlabelled": whole.subset(np.arange(count, count + unlabelled))}
    return Subject(
        "scratch",
        tiny.backbone(channels=1),
        {**splits, "validation": split(24, seed=1), "test": split(48, seed=2)},
    )


def target(protocol, **changes):
    fields = {"size": SIDE, "preset": "grey_planes", "views": VIEWS}
    if protocol != "fuse_tsd":
        fields |= {"batch_size": 8, "duration": base.duration(steps=24), "hidden": (8,), "dropout": 0.1}
        fields |= {"optimizer": {"name": "adamw", "learning_rate": 1e-2}}
    if protocol == "ssac_style":
        fields |= {"width": 4, "code": 4}
    return base.target(protocol, **{**fields, **changes})


def measure(one, measured, directory, fraction=1.0, seed=0, runtime=RUNTIME):
    return protocols.measure(Measurement(one, fraction, seed), measured, directory, runtime)
