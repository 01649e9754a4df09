"""The order in which task and modality have their say."""

import pytest

from aiseeme_jax import augment

SIMCLR = {"crop_scale": (0.08, 1.0), "jitter_probability": 0.8, "hue": 0.2, "brightness": 0.8}


def test_natural_images_take_the_recipe_as_it_is():
    assert augment.make_views("natural", 32, SIMCLR, {}) == augment.Views(size=32, **SIMCLR)


def test_dermoscopy_caps_colours_and_crops_and_turns_freely():
    views = augment.make_views("dermoscopy", 64, SIMCLR, {})
    assert views.size == 64 and views.jitter_probability == 0.8
    assert views.hue < 0.2 and views.brightness < 0.8
    assert views.crop_scale[0] > 0.08 and views.crop_scale[1] == 1.0
    assert views.flip_vertical == 0.5 and views.right_angles and views.rotation > 0


def test_a_cap_never_makes_a_recipe_stronger():
    views = augment.make_views("dermoscopy", 64, {"hue": 0.01, "crop_scale": (0.5, 0.6)}, {})
    assert views.hue == 0.01 and views.crop_scale == (0.5, 0.6) and views.saturation == 0.0


def test_floor_of_crops_stays_below_their_ceiling():
    assert augment.make_views("dermoscopy", 64, {"crop_scale": (0.05, 0.14)}, {}).crop_scale == (0.14, 0.14)


def test_what_a_task_cannot_bear_wins():
    fixed = {"flip_vertical": 0.0, "right_angles": False, "rotation": 0.0, "hue": 0.3}
    views = augment.make_views("dermoscopy", 64, SIMCLR, fixed)
    assert (views.flip_vertical, views.right_angles, views.rotation, views.hue) == (0.0, False, 0.0, 0.3)


def test_views_are_hashable_with_lists_in_the_recipe():
    views = augment.make_views("natural", 32, {"crop_scale": [0.3, 1.0]})
    assert hash(views) == hash(augment.Views(size=32, crop_scale=(0.3, 1.0)))


def test_unknown_names_are_told_with_the_known():
    with pytest.raises(ValueError, match="'x-ray': known are dermoscopy, natural"):
        augment.make_views("x-ray", 64)
    with pytest.raises(ValueError, match="blur_sigmas.*known are size, .*blur_sigma"):
        augment.make_views("natural", 64, {"blur_sigmas": (0.1, 2.0)})
