"""The order in which task and modality have their say."""

import dataclasses
import math

import pytest

from aiseeme_jax import augment, pretext

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


def test_fields_that_a_task_needs_override_the_preset():
    fixed = {"flip_vertical": 0.0, "right_angles": False, "rotation": 0.0, "hue": 0.3}
    views = augment.make_views("dermoscopy", 64, SIMCLR, fixed)
    assert (views.flip_vertical, views.right_angles, views.rotation, views.hue) == (0.0, False, 0.0, 0.3)


def test_views_are_hashable_with_lists_in_the_recipe():
    views = augment.make_views("natural", 32, {"crop_scale": [0.3, 1.0]})
    assert hash(views) == hash(augment.Views(size=32, crop_scale=(0.3, 1.0)))


def test_chest_x_rays_stay_upright_and_grey_and_every_crop_reaches_the_midline():
    views = augment.make_views("cxr", 64, SIMCLR | {"saturation": 0.8, "grey_probability": 0.2, "flip_vertical": 0.5})
    assert (views.flip_vertical, views.right_angles, views.rotation) == (0.0, False, 10.0)
    assert views.flip_horizontal == 0.5 and len(views.mean) == len(views.std) == 1
    assert (views.hue, views.saturation, views.grey_probability, views.solarise_probability) == (0, 0, 0, 0)
    assert views.brightness == 0.4 and views.contrast == 0.0
    narrowest = math.sqrt(views.crop_scale[0] * min(views.crop_ratio[0], 1 / views.crop_ratio[1]))
    assert narrowest > 0.5


def test_volumes_keep_what_a_recipe_of_images_has_in_common_with_them():
    recipe = SIMCLR | {"contrast": 0.8, "blur_probability": 0.5, "saturation": 0.8, "grey_probability": 0.2}
    views = augment.make_views("ct", 32, recipe | {"crop_ratio": (0.5, 2.0), "flip_horizontal": 0.5}, {"rotation": 0.0})
    assert isinstance(views, augment.VolumeViews) and views.dimensions == 3 and views.size == 32
    assert (views.jitter_probability, views.brightness, views.contrast) == (0.8, 0.1, 0.2)
    assert views.blur_probability == 0.5 and views.right_angles
    assert (views.flip_z, views.flip_y, views.flip_x) == (0.5, 0.5, 0.5) and views.window == (-1000.0, 400.0)
    left_out = {f.name for f in dataclasses.fields(augment.Views)} - {f.name for f in dataclasses.fields(views)}
    colours = {"saturation", "hue", "grey_probability", "solarise_probability"}
    assert left_out == colours | {"crop_ratio", "flip_horizontal", "flip_vertical", "rotation"}


def test_a_nodule_of_30_mm_is_in_every_crop_of_a_volume():
    low, _ = augment.make_views("ct", 64, SIMCLR).crop_scale
    edge = 64 * low ** (1 / 3)
    assert 64 - edge <= 32 - 15 and edge >= 32 + 15


def test_fields_of_volumes_apply_to_volumes_only():
    fixed = {"flip_z": 0.0, "right_angles": False}
    assert augment.make_views("ct", 32, SIMCLR, fixed).flip_z == 0.0
    assert augment.make_views("natural", 32, SIMCLR, fixed) == augment.make_views("natural", 32, SIMCLR)


@pytest.mark.parametrize("preset", augment.PRESETS)
def test_every_task_has_views_in_every_modality(preset):
    for kind in pretext.TASKS.values():
        views = augment.make_views(preset, 32, kind.RECIPE, kind.FIXED)
        assert type(views) is augment.PRESETS[preset].kind


def test_planes_of_a_ct_keep_their_densities():
    strong = {"jitter_probability": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
    strong |= {"grey_probability": 0.2, "solarise_probability": 0.2, "crop_scale": (0.08, 1.0)}
    views = augment.make_views("ct_planes", 32, strong)
    assert views.window == (-1000.0, 400.0) and views.crop_scale == (0.55, 1.0) and views.right_angles
    assert (views.brightness, views.contrast, views.saturation, views.hue) == (0.1, 0.2, 0.0, 0.0)
    assert views.grey_probability == views.solarise_probability == 0.0


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="'x-ray': known are ct, ct_planes, cxr, dermoscopy, grey_planes, natural"):
        augment.make_views("x-ray", 64)
    with pytest.raises(ValueError, match="blur_sigmas.*known are dimensions, size, .*blur_sigma"):
        augment.make_views("natural", 64, {"blur_sigmas": (0.1, 2.0)})
