"""The published numbers that are defaults here, written down a second time: a slip of a digit trains on, and worse."""

import pytest

from aiseeme_jax import augment, pretext

JITTER = {"jitter_probability": 0.8, "grey_probability": 0.2}
SIMCLR = {**JITTER, "crop_scale": (0.08, 1.0), "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
SIMCLR |= {"blur_probability": 0.5}
MOCO = {**JITTER, "crop_scale": (0.2, 1.0), "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
MOCO |= {"blur_probability": 0.5}
BYOL = {**JITTER, "crop_scale": (0.08, 1.0), "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
NPID = {"jitter_probability": 1.0, "grey_probability": 0.2, "crop_scale": (0.2, 1.0)}
NPID |= {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.4}
CLUSTERS = {"crop_scale": (0.08, 1.0), "rotation": 2.0, "grey_probability": 0.2}
CLUSTERS |= {"brightness": 0.4, "contrast": 0.4, "saturation": 1.0, "hue": 0.5}
FLIPPED = {"flip_horizontal": 0.5, "flip_vertical": 0.0, "blur_sigma": (0.1, 2.0), "crop_ratio": (3 / 4, 4 / 3)}

# The task's fields, and those of its views.
PUBLISHED = {
    "relative_location": ({}, {"grey_probability": 0.66}),
    "jigsaw": ({}, {"grey_probability": 0.66}),
    "rotation": ({}, {"crop_scale": (0.08, 1.0)}),
    "deepcluster": ({}, CLUSTERS),
    "odc": ({"momentum": 0.5, "interval": 10, "hidden": 512, "dimensions": 256}, CLUSTERS),
    "clusterfit": (
        {},
        {"crop_scale": (0.08, 1.0), "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
    ),
    "npid": ({"temperature": 0.07, "momentum": 0.5, "dimensions": 128}, NPID),
    "moco_v1": ({"temperature": 0.07, "momentum": 0.999, "dimensions": 128}, NPID),
    "moco_v2": ({"temperature": 0.2, "momentum": 0.999, "dimensions": 128}, MOCO),
    "moco_v3": ({"temperature": 1.0, "momentum": 0.99, "dimensions": 256}, {**BYOL, "crop_scale": (0.2, 1.0)}),
    "densecl": ({"dense_weight": 0.5, "temperature": 0.2, "momentum": 0.999}, MOCO),
    "simclr": ({"temperature": 0.1, "dimensions": 128}, SIMCLR),
    "nnclr": ({"temperature": 0.1, "dimensions": 256}, SIMCLR),
    "byol": ({"momentum": 0.996, "dimensions": 256}, BYOL),
    "simsiam": ({}, MOCO),
    "barlow_twins": ({"off_diagonal_weight": 0.0051}, BYOL),
    "vicreg": (
        {"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
        {**BYOL, "blur_probability": 0.5, "solarise_probability": 0.1},
    ),
    "swav": (
        {"temperature": 0.1, "epsilon": 0.05, "iterations": 3, "local_crops": 6, "local_scale": (0.05, 0.14)},
        {**SIMCLR, "crop_scale": (0.14, 1.0)},
    ),
    "dino": (
        {
            **{"student_temperature": 0.1, "warmup_temperature": 0.04, "teacher_temperature": 0.07},
            **{"momentum": 0.996, "centre_momentum": 0.9, "hidden": 2048, "bottleneck": 256},
            **{"local_crops": 8, "local_scale": (0.05, 0.4)},
        },
        {**BYOL, "crop_scale": (0.4, 1.0)},
    ),
    "mae": ({"share": 0.75, "normalised": True}, {"crop_scale": (0.2, 1.0)}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_as_published(name):
    fields, seen = PUBLISHED[name]
    kind = pretext.task_class(name)
    made = augment.make_views("natural", size=224, recipe=kind.RECIPE, fixed=kind.FIXED)
    defaults = pretext.task_fields(name)
    assert {field: defaults[field] for field in fields} == fields
    seen = {**FLIPPED, **seen}
    assert {field: getattr(made, field) for field in seen} == seen


# Blurred, solarised.
@pytest.mark.parametrize("name", ["byol", "barlow_twins", "moco_v3"])
def test_one_view_is_always_blurred_and_the_other_solarised_now_and_then(name):
    kind = pretext.task_class(name)
    shares = [
        [share.get(field, 1.0) for field in ("blur_probability", "solarise_probability")] for share in kind.SHARES
    ]
    strengths = kind.RECIPE["blur_probability"], kind.RECIPE["solarise_probability"]
    assert strengths == (1.0, 0.2) and shares == [[1.0, 0.0], [0.1, 1.0]]
