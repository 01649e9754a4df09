"""Damage to images and volumes, against NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax.augment import corruption

pytestmark = pytest.mark.slow


def numbered(*space) -> np.ndarray:
    """Every pixel has a number of its own, the same in both channels."""
    numbers = np.arange(np.prod(space)).reshape(*space, 1)
    return np.concatenate([numbers, numbers], axis=-1)


def many(draw, count: int):
    """`draw` of `count` keys, compiled."""
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), count)))


class TestSwappedPatches:
    @pytest.mark.parametrize("space, size", [((14, 11), 4), ((7, 8, 6), 2)])
    def test_two_patches_apart_change_places(self, space, size):
        image = numbered(*space)
        swapped = many(lambda key: corruption.swap_patches(key, jnp.asarray(image), size=size, swaps=1), 200)
        np.testing.assert_array_equal(swapped[..., 0], swapped[..., 1])
        touched = np.zeros(space, bool)
        for once in swapped[..., 0].reshape(200, -1):
            changed = np.flatnonzero(once != np.arange(len(once)))
            assert len(changed) == 2 * size ** len(space), "patches overlap"
            np.testing.assert_array_equal(once[once], np.arange(len(once)))
            places, origins = (np.stack(np.unravel_index(p, space), axis=1) for p in (changed, once[changed]))
            way = origins - places
            assert {tuple(w) for w in way} == {tuple(way[0]), tuple(-way[0])}, "a patch was torn"
            one = places[(way == way[0]).all(axis=1)]
            np.testing.assert_array_equal(one.max(axis=0) - one.min(axis=0), size - 1)
            touched.ravel()[changed] = True
        assert touched.all(), "some pixels are never reached"

    def test_many_swaps_keep_the_histogram(self):
        image = np.random.default_rng(0).normal(size=(16, 16, 3)).astype(np.float32)
        swapped = many(lambda key: corruption.swap_patches(key, jnp.asarray(image), size=3, swaps=8), 4)
        for one in swapped:
            assert (one != image).any()
            np.testing.assert_array_equal(np.sort(one.reshape(-1, 3), axis=0), np.sort(image.reshape(-1, 3), axis=0))

    @pytest.mark.parametrize("size", [0, 6])
    def test_patches_without_a_place_apart_are_an_error(self, size):
        with pytest.raises(ValueError, match=f"patches to swap have 1 to 5 px, .* of 16 x 15 px, not {size}"):
            corruption.swap_patches(jax.random.key(0), jnp.zeros((16, 15, 1)), size=size, swaps=1)


class TestBezier:
    curve = staticmethod(jax.jit(jax.vmap(lambda v, p, f: corruption.bezier(v, p[:2], p[2:], falling=f), (None, 0, 0))))

    def test_values_are_those_of_the_curve(self):
        random = np.random.default_rng(0)
        points, falling = random.uniform(size=(40, 4)), np.arange(40) % 2 == 1
        values = np.linspace(0, 1, 101)
        bent = self.curve(jnp.asarray(values, jnp.float32), points, falling)
        t = np.linspace(0, 1, 100_001)
        for (a, b, c, d), falls, ours in zip(points, falling, bent, strict=True):
            x, y = (3 * (1 - t) ** 2 * t * p + 3 * (1 - t) * t**2 * q + t**3 for p, q in ((a, c), (b, d)))
            np.testing.assert_allclose(ours, np.interp(values, x, y[::-1] if falls else y), atol=2e-3)
            assert (np.diff(ours) * (-1 if falls else 1) > -1e-5).all()

    def test_points_on_the_diagonal_change_nothing(self):
        values = jnp.linspace(0, 1, 11)
        same, reversed_ = self.curve(values, jnp.tile(jnp.array([1, 1, 2, 2]) / 3, (2, 1)), jnp.array([False, True]))
        np.testing.assert_allclose(same, values, atol=1e-6)
        np.testing.assert_allclose(reversed_, 1 - values, atol=1e-6)


class TestShuffledBlocks:
    @pytest.mark.parametrize("space, largest", [((40, 30), 4), ((12, 9, 10), 3)])
    def test_pixels_stay_in_their_blocks(self, space, largest):
        def draw(key):
            block_key, key = jax.random.split(key)
            blocks = corruption.random_blocks(block_key, space, largest=largest)
            shuffled = corruption.shuffle_within(key, jnp.asarray(numbered(*space)), blocks)
            return jnp.concatenate([blocks[..., None], shuffled], axis=-1)

        lengths = []
        for drawn in many(draw, 3):
            blocks, shuffled = drawn[..., 0], drawn[..., 1:]
            np.testing.assert_array_equal(shuffled[..., 0], shuffled[..., 1])
            for block in np.unique(blocks):
                before, after = (np.sort(n[blocks == block, 0]) for n in (numbered(*space), shuffled))
                np.testing.assert_array_equal(before, after)
            assert (shuffled[..., 0] != numbered(*space)[..., 0]).mean() > 0.4
            for block in np.unique(blocks):
                sides = np.ptp(np.argwhere(blocks == block), axis=0) + 1
                assert np.prod(sides) == (blocks == block).sum(), "a block is a box"
                lengths.extend(sides)
        assert set(lengths) == set(range(1, largest + 1))


class TestBoxes:
    @pytest.mark.parametrize("space", [(42, 42), (21, 28, 35)])
    def test_a_box_has_sides_of_the_range_and_keeps_off_the_border(self, space):
        ranges = [(side // 6, side // 3) for side in space]
        boxes = many(partial(corruption.random_boxes, space=space, count=3, sides=ranges, sure=1, more=0.0), 100)
        sides = [[], [], []]
        for box in boxes:
            corners = np.argwhere(box)
            lengths = np.ptp(corners, axis=0) + 1
            assert np.prod(lengths) == box.sum()
            assert corners.min() >= 3 and (corners.max(axis=0) < np.array(space) - 3).all()
            for axis, length in enumerate(lengths):
                sides[axis].append(length)
        for drawn, (low, high) in zip(sides, ranges, strict=False):
            assert set(drawn) == set(range(low, high + 1))

    def test_paint_inside_covers_up_to_five_boxes(self):
        painted = many(partial(corruption.inner_boxes, space=(42, 42)), 300)
        area = painted.sum(axis=(1, 2))
        assert area.max() <= 5 * 14**2 and set(area[area < 7**2]) <= {0}
        assert 0.01 < (area == 0).mean() < 0.12  # one in twenty has no box
        assert area.mean() > 2 * 7**2

    def test_paint_outside_leaves_one_to_five_boxes(self):
        left = ~many(partial(corruption.outside_boxes, space=(42, 42)), 300)
        area = left.sum(axis=(1, 2))
        assert area.min() >= 18**2 and area.max() <= 36**2
        assert not left[:, :3].any() and not left[:, :, -3:].any()
        single = many(
            partial(corruption.random_boxes, space=(42, 42), count=5, sides=[(18, 24)] * 2, sure=1, more=0.0), 50
        )
        assert area.mean() > 1.5 * single.sum(axis=(1, 2)).mean(), "several boxes leave more than one"
