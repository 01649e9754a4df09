"""Planes of volumes and patches of nodules: where a marker lies, what fills a patch, one transformation for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax import augment
from aiseeme_jax.augment import nodule_patches as patches
from aiseeme_jax.augment.planes import PLANES, cut_planes
from tfds_builders.common import planes as stored
from tfds_builders.common.geometry import LINEAR, NEAREST
from tfds_builders.nodule_phantom import nodule_phantom_dataset_builder as phantom

STILL = augment.Views(
    size=16, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_horizontal=0.0, mean=(0.2,), std=(0.5,)
)
MOVED = augment.Views(
    size=16, crop_scale=(0.6, 0.9), flip_vertical=0.5, right_angles=True, jitter_probability=1.0, brightness=0.1
)


def test_planes_have_the_names_and_axes_of_the_data_set():
    assert list(PLANES) == list(stored.PLANES)
    for name, axes in PLANES.items():
        np.testing.assert_allclose(axes, stored.PLANES[name])


@pytest.mark.parametrize("side", [6, 7])
def test_planes_are_those_that_the_builder_samples(side):
    random = np.random.default_rng(side)
    voxels = random.integers(-1000, 400, (side,) * 3).astype(np.int16)
    mask = (random.random((side,) * 3) < 0.5).astype(np.uint8)
    found = np.asarray(cut_planes(voxels[None, ..., None]))[0, ..., 0]
    inside = np.asarray(cut_planes(mask[None, ..., None], nearest=True))[0, ..., 0]
    centre = [(side - 1) / 2] * 3
    for number, axes in enumerate(stored.PLANES.values()):
        linear = stored.sample_plane(voxels, (1, 1, 1), centre, axes, side, 1.0, LINEAR)
        assert abs(found[number].astype(int) - linear).max() <= 1, "rounding of halves"
        nearest = stored.sample_plane(mask, (1, 1, 1), centre, axes, side, 1.0, NEAREST)
        # Samples half-way between two voxels may fall on either side, by the last bit of their position.
        assert (inside[number] != nearest).mean() < (0.01 if side % 2 else 0.2)
    assert found.dtype == np.int16 and inside.dtype == np.uint8


def test_stored_planes_of_the_phantom_are_those_that_are_cut():
    random = np.random.default_rng(0)
    volume, mask = random.integers(-1000, 400, (5, 5, 5)).astype(np.int16), random.random((5, 5, 5)) < 0.5
    shown, inside = phantom.cut_planes(volume, mask)
    assert abs(shown.astype(int) - np.asarray(cut_planes(volume[None, ..., None]))[0, ..., 0]).max() <= 1
    cut = np.asarray(cut_planes(mask[None, ..., None].astype(np.uint8), nearest=True))[0, ..., 0]
    assert shown.dtype == np.int16 and inside.dtype == np.uint8 and (cut != inside).mean() < 0.01


def test_a_planted_marker_is_found_in_each_plane():
    side, centre = 9, 4
    for number, (name, (down, right)) in enumerate(PLANES.items()):
        # Two steps down and one to the right; along a diagonal the nearest voxel.
        place = np.rint(centre + 2 * down + 1 * right).astype(int)
        volume = np.zeros((1, side, side, side, 1), np.uint8)
        volume[(0, *place)] = 1
        seen = np.argwhere(np.asarray(cut_planes(volume, nearest=True))[0, number, ..., 0])
        assert [centre + 2, centre + 1] in seen.tolist() and len(seen) <= 2, name


def test_only_cubes_have_planes():
    with pytest.raises(ValueError, match=r"planes are cut from cubes \[B, S, S, S, C\], not \(1, 4, 5, 5, 1\)"):
        cut_planes(jnp.zeros((1, 4, 5, 5, 1)))


def make_nodule(size=24):
    """Three planes with a bright rectangle of 6 x 10 at (5, 9); the last plane has no pixel of it."""
    planes = np.random.default_rng(0).integers(0, 120, (2, 3, size, size, 1)).astype(np.uint8)
    masks = np.zeros((2, 3, size, size, 1), np.uint8)
    masks[:, :2, 5:11, 9:19] = 1
    return np.where(masks == 1, planes + 100, planes).astype(np.uint8), masks


@pytest.mark.slow
def test_a_square_holds_the_nodule_and_its_margin():
    planes, masks = make_nodule()
    cut, inside = patches.cut_squares(planes, masks, size=10, margin=0.0)
    np.testing.assert_array_equal(cut[0, 0], planes[0, 0, 3:13, 9:19])
    np.testing.assert_array_equal(inside[0, 0], masks[0, 0, 3:13, 9:19])
    np.testing.assert_array_equal(cut[0, 2], planes[0, 2, 3:13, 9:19], "the square of the other planes")
    assert cut.dtype == np.uint8 and not inside[0, 2].any()
    # Its longer side has ten pixels: a fifth of it on each side makes fourteen.
    wide, _ = patches.cut_squares(planes, masks, size=14, margin=0.2)
    np.testing.assert_array_equal(wide[0, 0], planes[0, 0, 1:15, 7:21])
    whole, _ = patches.cut_squares(planes, 0 * masks, size=24, margin=0.0)
    np.testing.assert_array_equal(whole, planes)


def test_texture_and_shape_make_up_the_appearance():
    planes, masks = make_nodule(16)
    made = np.asarray(patches.central_patches(planes, masks, STILL, patches.KINDS))
    empty = (0 - 0.2) / 0.5
    assert made.shape == (2, 3, 3, 16, 16, 1)
    oa, hvv, hs = np.moveaxis(made, 2, 0)
    np.testing.assert_allclose(oa, (planes / 255 - 0.2) / 0.5, atol=1e-6)
    np.testing.assert_array_equal(np.where(masks == 1, hvv, hs), oa)
    np.testing.assert_allclose(np.where(masks == 1, hs, hvv), empty, atol=1e-6)
    stored_units = [np.where(masks == 1, planes, 0), np.where(masks == 1, 0, planes)]
    np.testing.assert_array_equal(sum(stored_units), planes)
    with pytest.raises(ValueError, match=r"planes are \(16, 16\), and views 24: cut the squares in that size"):
        patches.central_patches(planes, masks, augment.Views(size=24), patches.KINDS)


def test_zero_hounsfield_units_are_grey():
    views = augment.make_views("ct_planes", 16)
    # 0 HU lies at 5/7 of the window from -1000 to 400; mean and deviation are 0.5.
    assert float(patches.empty_value(views, 1)[0]) == pytest.approx((5 / 7 - 0.5) / 0.5, abs=1e-6)


@pytest.mark.slow
def test_all_patches_of_a_nodule_share_one_transformation():
    planes, masks = make_nodule(16)
    # The same picture in every plane of a nodule: then all its patches must be the same.
    planes, masks = planes[:, :1].repeat(3, axis=1), masks[:, :1].repeat(3, axis=1)
    made = np.asarray(patches.random_patches(jax.random.key(0), planes, masks, MOVED, ("OA", "HVV", "HS")))
    for plane in (1, 2):
        np.testing.assert_array_equal(made[:, plane], made[:, 0])
    oa, hvv, hs = np.moveaxis(made, 2, 0)
    empty = float(patches.empty_value(MOVED, 1)[0])
    outside = np.isclose(hvv, empty)
    np.testing.assert_array_equal(np.where(outside, hs, hvv), oa)
    other = np.asarray(patches.random_patches(jax.random.key(1), planes, masks, MOVED, ("OA", "HVV", "HS")))
    assert abs(other[:, 0, 0] - oa[:, 0]).max() > 0.1 and abs(oa[0, 0] - oa[1, 0]).max() > 0.1
