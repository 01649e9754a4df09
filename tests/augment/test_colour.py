"""Colour operations against colorsys and the definitions written out."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax.augment import colour

WEIGHTS = np.array([0.299, 0.587, 0.114])


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).random((12, 10, 3)).astype(np.float32)
    # The corners of the colour cube and its diagonal: hues that are undefined or between two sextants.
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), axis=-1).reshape(8, 3)
    pixels[0, :8] = corners
    pixels[1, :8] = np.linspace(0, 1, 8)[:, None]
    return pixels


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.05, 1 / 3, 0.5])
def test_hue_turns_in_hsv(image, turn):
    def one(pixel):
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)

    expected = np.array([[one(pixel) for pixel in row] for row in image.astype(float)])
    np.testing.assert_allclose(colour.hue(image, turn), expected, atol=2e-6)


def test_luminance_weights():
    primaries = np.eye(3, dtype=np.float32)[None]
    np.testing.assert_allclose(colour.luminance(primaries)[0, :, 0], WEIGHTS, rtol=1e-6)
    np.testing.assert_allclose(colour.grey(primaries)[0], np.repeat(WEIGHTS[:, None], 3, axis=1), rtol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_blends(image, factor):
    luma = image @ WEIGHTS
    expected = {
        colour.brightness: factor * image,
        colour.contrast: factor * image + (1 - factor) * luma.mean(),
        colour.saturation: factor * image + (1 - factor) * luma[..., None],
    }
    for operation, values in expected.items():
        np.testing.assert_allclose(operation(image, factor), np.clip(values, 0, 1), atol=1e-6)


def test_solarise_inverts_from_the_threshold_up():
    values = np.array([0.0, 0.25, 0.4999, 0.5, 0.75, 1.0], np.float32).reshape(1, 6, 1)
    np.testing.assert_allclose(colour.solarise(values).ravel(), [0.0, 0.25, 0.4999, 0.5, 0.25, 0.0])


def apply_in_order(image, order, amounts):
    operations = (colour.brightness, colour.contrast, colour.saturation, colour.hue)
    for operation in order:
        image = operations[operation](image, amounts[operation])
    return np.asarray(image)


@pytest.mark.slow
def test_jitter_is_the_four_operations_in_some_order(image):
    """Each result is that of one order of the published operations, and the order varies with the key."""
    strengths = (0.6, 0.6, 0.6, 0.2)
    seen = set()
    for seed in range(6):
        key = jax.random.key(seed)
        result = np.asarray(colour.random_jitter(key, jnp.asarray(image), strengths))
        amounts = draw_amounts(key)
        orders = list(itertools.permutations(range(4)))
        errors = [np.abs(apply_in_order(image, order, amounts) - result).max() for order in orders]
        # The amounts are known to the grid they were read off with.
        assert min(errors) < 2e-4
        seen.add(orders[int(np.argmin(errors))])
    assert len(seen) > 1


def draw_amounts(key):
    """The amounts a key draws, read off images on which each operation alone shows its factor."""
    probe = jnp.asarray([[[0.5, 0.25, 0.125], [0.25, 0.25, 0.5]]], jnp.float32)
    amounts = []
    for operation, strength in enumerate((0.6, 0.6, 0.6, 0.2)):
        alone = tuple(strength if i == operation else 0.0 for i in range(4))
        result = np.asarray(colour.random_jitter(key, probe, alone))
        candidates = np.linspace(-0.2, 0.2, 40001) if operation == 3 else np.linspace(0.4, 1.6, 40001)
        apply = (colour.brightness, colour.contrast, colour.saturation, colour.hue)[operation]
        tried = jax.vmap(lambda a, apply=apply: apply(probe, a))(jnp.asarray(candidates, jnp.float32))
        amounts.append(candidates[int(np.argmin(np.abs(np.asarray(tried) - result).sum(axis=(1, 2, 3))))])
    return amounts


def test_jitter_factors_fill_their_range():
    grey = jnp.full((2, 2, 3), 0.4)
    keys = jax.random.split(jax.random.key(0), 2000)
    views = jax.vmap(lambda key: colour.random_jitter(key, grey, (0.8, 0.0, 0.0, 0.0)))(keys)
    factors = np.asarray(views)[:, 0, 0, 0] / 0.4
    assert 0.2 - 1e-5 <= factors.min() < 0.22 and 1.78 < factors.max() <= 1.8 + 1e-5
    assert abs(factors.mean() - 1.0) < 0.05


def test_jitter_of_strength_zero_is_the_image(image):
    np.testing.assert_array_equal(colour.random_jitter(jax.random.key(0), image, (0.0, 0.0, 0.0, 0.0)), image)


def test_one_channel_has_brightness_and_contrast_only():
    image = jnp.asarray(np.random.default_rng(0).random((4, 4, 1)), jnp.float32)
    key = jax.random.key(3)
    np.testing.assert_array_equal(colour.hue(image, 0.3), image)
    np.testing.assert_allclose(colour.saturation(image, 0.3), image, rtol=1e-6)
    np.testing.assert_array_equal(colour.random_jitter(key, image, (0.0, 0.0, 0.8, 0.2)), image)
    assert np.abs(np.asarray(colour.random_jitter(key, image, (0.8, 0.0, 0.0, 0.0)) - image)).max() > 1e-3
