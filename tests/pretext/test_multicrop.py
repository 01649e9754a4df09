"""Multi-crop: sizes, scales, order and independence of the crops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from aiseeme_jax import augment, pretext
from aiseeme_jax.pretext.multicrop import by_image, multi_crop

pytestmark = pytest.mark.slow

SPEC = augment.Views(**{**tiny.STILL, "size": 32, "crop_scale": (0.4, 1.0)})


def crops(spec=SPEC, backbone=None, **changes):
    fields = {"local_crops": 3, "local_size": 0, "local_scale": (0.05, 0.4), **changes}
    return multi_crop(pretext.task_class("dino"), backbone or tiny.Pixels(), spec, **fields)


class Patches(tiny.Pixels):
    patch = 16


@pytest.mark.parametrize("size, plain, patched", [(224, 96, 96), (128, 56, 48), (64, 24, 32), (32, 16, 16), (8, 8, 8)])
def test_local_size_left_to_itself_suits_views_and_patches(size, plain, patched):
    spec = dataclasses.replace(SPEC, size=size)
    assert crops(spec).local.size == plain
    if size >= Patches.patch:
        assert crops(spec, Patches()).local.size == patched


def test_local_crops_are_blurred_by_the_same_pixels_as_global_ones():
    """The spec has sigma for a view of 224: 96 px of a local crop are scaled to, 224 px of a global one."""
    spec = dataclasses.replace(SPEC, size=224, blur_sigma=(0.1, 2.0))
    made = crops(spec)
    pixels = [[s * crop.size / 224 for s in crop.blur_sigma] for crop in (made.first, made.second, made.local)]
    np.testing.assert_allclose(pixels, [[0.1, 2.0]] * 3)


def test_local_crops_of_broken_patches_are_refused():
    with pytest.raises(
        ValueError, match="dino: local crops of 24 px do not divide into the backbone's patches of 16 px"
    ):
        crops(backbone=Patches(), local_size=24)
    assert crops(backbone=Patches(), local_size=24, local_crops=0).count == 0


# One shape throughout: making views is mostly compilation.
COUNT = 16
IMAGES = tiny.images(COUNT, size=32)


def drawn(images, key=0):
    return {name: np.asarray(seen) for name, seen in crops().views(jax.random.key(key), jnp.asarray(images)).items()}


def test_crops_come_image_major_and_each_its_own():
    views = drawn(IMAGES)
    assert views["global"].shape == (32, 32, 32, 3) and views["local"].shape == (48, 16, 16, 3)
    assert len({view.tobytes() for view in views["local"]}) == 48
    shades = np.broadcast_to(np.arange(COUNT, dtype=np.uint8)[:, None, None, None] * 10, IMAGES.shape)
    for name, count in (("global", 2), ("local", 3)):
        seen = drawn(shades)[name]
        np.testing.assert_allclose(seen.mean(axis=(1, 2, 3)) * 255, np.repeat(np.arange(COUNT) * 10, count), atol=1e-3)
        rows = by_image(seen, COUNT)
        assert rows.shape[:2] == (COUNT, count)
        np.testing.assert_allclose(rows[2].mean() * 255, 20, atol=1e-3)


def test_crops_of_an_image_depend_on_the_key_and_on_it_alone():
    one, again, other = (drawn(IMAGES, key) for key in (0, 0, 1))
    beside = drawn(np.concatenate([IMAGES[:2], IMAGES[:1:-1]]))
    for name, count in (("global", 4), ("local", 6)):
        np.testing.assert_array_equal(one[name], again[name])
        assert not np.array_equal(one[name], other[name])
        np.testing.assert_array_equal(one[name][:count], beside[name][:count])


def test_local_crops_show_the_share_of_the_image_they_are_told_to():
    """On a ramp from 0 to 1 the difference of the columns is the width of the crop."""
    ramp = np.broadcast_to(np.linspace(0, 255, 32).astype(np.uint8)[None, None, :, None], IMAGES.shape)
    views = drawn(ramp)
    for name, low, high in (("local", 0.05, 0.4), ("global", 0.4, 1.0)):
        seen = views[name]
        width = (seen[:, :, -1] - seen[:, :, 0]).mean(axis=(1, 2)) * seen.shape[2] / (seen.shape[2] - 1)
        assert np.sqrt(low) - 0.05 < width.min() and width.max() < np.sqrt(high) + 0.05
        assert width.max() - width.min() > 0.5 * (np.sqrt(high) - np.sqrt(low))


def test_each_kind_of_crop_gets_its_part_of_the_spec():
    spec = dataclasses.replace(SPEC, blur_probability=1.0, solarise_probability=0.2)
    made = crops(spec, shares=({"solarise_probability": 0.0}, {"blur_probability": 0.1}, {"blur_probability": 0.5}))
    assert [s.blur_probability for s in (made.first, made.second, made.local)] == [1.0, 0.1, 0.5]
    assert [s.solarise_probability for s in (made.first, made.second, made.local)] == [0.0, 0.2, 0.2]
    assert (made.local.crop_scale, made.first.crop_scale) == ((0.05, 0.4), (0.4, 1.0))
    assert hash(made) == hash(dataclasses.replace(made))


def test_crops_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="dino: local crops of 40 px are larger than the views of 32 px; lower `local"):
        crops(local_size=40)
    assert crops(local_size=40, local_crops=0).count == 0
    with pytest.raises(ValueError, match="dino: local_crops is -1; it must be at least 0"):
        crops(local_crops=-1)
    with pytest.raises(ValueError, match=r"dino: local_scale must be .* not \(0.4, 0.1\)"):
        crops(local_scale=(0.4, 0.1))
