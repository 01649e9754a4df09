"""Views of volumes: geometry and intensity against SciPy and NumPy, keys, errors."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import ndimage

from aiseeme_jax import augment

pytestmark = pytest.mark.slow

EVERYTHING = augment.VolumeViews(
    size=8,
    flip_z=0.5,
    flip_y=0.5,
    flip_x=0.5,
    right_angles=True,
    jitter_probability=0.8,
    brightness=0.1,
    contrast=0.2,
    blur_probability=0.5,
    blur_sigma=(5.0, 20.0),
    noise_probability=0.5,
    noise=(0.01, 0.1),
)
# No randomness; 0 to 1000 HU become 0 to 1.
PLAIN = augment.VolumeViews(size=8, crop_scale=(1.0, 1.0), window=(0.0, 1000.0), mean=(0.0,), std=(1.0,))


def random_volumes(batch=4, shape=(8, 8, 8), low=0, high=1000):
    return np.random.default_rng(0).integers(low, high, (batch, *shape, 1)).astype(np.int16)


def with_fields(views, **fields):
    return dataclasses.replace(views, **fields)


def view(volumes, spec, seed=0):
    return np.asarray(augment.random_view(jax.random.key(seed), jnp.asarray(volumes), spec))


class TestKeys:
    def test_views_are_a_function_of_the_key_and_of_their_own_volume(self):
        volumes = random_volumes()
        first = view(volumes, EVERYTHING)
        assert first.shape == (4, 8, 8, 8, 1) and first.dtype == np.float32
        np.testing.assert_array_equal(first, view(volumes, EVERYTHING))
        others = np.concatenate([volumes[:2], 0 * volumes[2:]])
        np.testing.assert_array_equal(first[:2], view(others, EVERYTHING)[:2])
        assert (np.abs(first - view(volumes, EVERYTHING, seed=1)).max(axis=(1, 2, 3, 4)) > 0.01).all()
        alike = view(np.repeat(volumes[:1], 4, axis=0), EVERYTHING)
        assert len(np.unique(alike.reshape(4, -1), axis=0)) == 4

    def test_views_are_the_same_on_one_device_and_on_eight(self):
        volumes = jnp.asarray(random_volumes(8))
        mesh = Mesh(np.array(jax.devices()), ("data",))
        spread = jax.device_put(volumes, NamedSharding(mesh, PartitionSpec("data")))
        found = augment.random_view(jax.random.key(0), spread, EVERYTHING)
        assert found.sharding.spec[0] == "data"
        np.testing.assert_allclose(found, view(volumes, EVERYTHING), atol=1e-5)

    def test_operations_of_probability_zero_are_not_traced(self):
        def program(**fields):
            spec = with_fields(PLAIN, **fields)
            volumes = jnp.asarray(random_volumes(1))
            return str(jax.make_jaxpr(lambda k, x: augment.random_view(k, x, spec))(jax.random.key(0), volumes))

        still = {"brightness": 0.1, "contrast": 0.1, "noise": (0.1, 0.2)}
        assert program(**still).count(" dot_general[") == 3 and "erf_inv" not in program(**still)
        assert program(blur_probability=0.5).count(" dot_general[") == 6
        assert "erf_inv" in program(noise_probability=0.5)


class TestCrop:
    SHAPE = (9, 8, 11)

    def places(self, spec, count):
        """Positions (in pixels from the corner) along each axis that the views of `count` volumes read from."""
        axes = np.stack(np.meshgrid(*map(np.arange, self.SHAPE), indexing="ij"))
        found = []
        for ramp in axes:
            # A view of a ramp is the ramp of the positions it reads; far from the border interpolation is exact.
            ramps = np.broadcast_to((40 * ramp + 200).astype(np.int16)[None, ..., None], (count, *self.SHAPE, 1))
            found.append((view(ramps, spec)[..., 0] * 1000 - 200) / 40)
        return np.stack(found, axis=1)

    @pytest.mark.parametrize("flip", [0.0, 1.0])
    def test_crops_are_those_of_scipy_and_lie_within_the_volume(self, flip):
        share = 0.3
        spec = with_fields(PLAIN, crop_scale=(share, share), flip_z=flip, flip_y=flip, flip_x=flip)
        volumes = random_volumes(12, self.SHAPE)
        views, places = view(volumes, spec), self.places(spec, 12)
        step = np.array(self.SHAPE) * share ** (1 / 3) / 8
        starts = []
        for found, volume, place in zip(views, volumes, places, strict=True):
            # One middle step along each axis gives where it starts and which way it goes.
            moved = [place[axis].take(4, axis).mean() - place[axis].take(3, axis).mean() for axis in range(3)]
            np.testing.assert_allclose(moved, -step if flip else step, rtol=1e-3)
            middle = [place[axis].take([3, 4], axis).mean() for axis in range(3)]
            lines = [m + s * (np.arange(8) - 3.5) for m, s in zip(middle, moved, strict=True)]
            expected = ndimage.map_coordinates(
                volume[..., 0].astype(float), np.meshgrid(*lines, indexing="ij"), order=1, mode="reflect"
            )
            np.testing.assert_allclose(found[..., 0] * 1000, expected, atol=1.5)
            starts.append([m + 0.5 - 4 * abs(s) for m, s in zip(middle, moved, strict=True)])
        room = np.array(self.SHAPE) * (1 - share ** (1 / 3))
        assert (np.array(starts) > -1e-2).all() and (np.array(starts) < room + 1e-2).all()
        assert (np.ptp(starts, axis=0) > 0.4 * room).all()

    def test_share_of_the_volume_follows_its_range(self):
        spec = with_fields(PLAIN, crop_scale=(0.2, 0.6))
        # Along the first axis even the largest crop has a voxel of its own for each of the view.
        steps = np.diff(self.places(spec, 64)[:, 0, :, 3, 3], axis=1)[:, 3] * 8 / self.SHAPE[0]
        shares = steps**3
        assert 0.2 - 1e-2 < shares.min() < 0.27 and 0.53 < shares.max() < 0.6 + 1e-2

    def test_whole_volume_is_read_with_antialiasing(self):
        volumes = random_volumes(2, (16, 16, 16))
        found = np.asarray(augment.central_view(jnp.asarray(volumes), PLAIN))[..., 0]
        smooth = volumes[..., 0].astype(float)
        for axis in (1, 2, 3):
            # The triangle that reaches two voxels to each side of a point between voxels: here of 2 i and 2 i + 1.
            smooth = ndimage.correlate1d(smooth, np.array([0, 1, 3, 3, 1]) / 8, axis=axis)
        inner = (slice(None), *[slice(2, -2, 2)] * 3)
        np.testing.assert_allclose(found[:, 1:-1, 1:-1, 1:-1] * 1000, smooth[inner], atol=0.01)


def rotations():
    """The 24 rotations of a cube as functions, from quarter turns about the three axes."""
    turns = itertools.product(range(4), repeat=3)
    found = {}
    marked = np.arange(27).reshape(3, 3, 3)
    for i, j, k in turns:

        def rotate(x, i=i, j=j, k=k):
            return np.rot90(np.rot90(np.rot90(x, i, (0, 1)), j, (1, 2)), k, (0, 2))

        found.setdefault(rotate(marked).tobytes(), rotate)
    return list(found.values())


class TestTurns:
    def test_numbers_are_the_24_rotations_and_no_mirror_image(self):
        cube = np.arange(27).reshape(3, 3, 3, 1)
        turned = augment.rotate_cube(jnp.asarray(np.repeat(cube[None], 24, axis=0)), jnp.arange(24))
        expected = {rotate(cube[..., 0]).tobytes() for rotate in rotations()}
        assert len(expected) == 24
        assert {np.asarray(one[..., 0], cube.dtype).tobytes() for one in turned} == expected
        np.testing.assert_array_equal(turned[0], cube)

    def test_other_shapes_are_refused(self):
        with pytest.raises(ValueError, match=r"rotate_cube needs cubes .*\(2, 3, 3, 4, 1\)"):
            augment.rotate_cube(jnp.zeros((2, 3, 3, 4, 1)), jnp.arange(2))

    def positions_found(self, **fields):
        volume = random_volumes(1)[0]
        sides = [volume[::a, ::b, ::c, 0] for a, b, c in itertools.product((1, -1), repeat=3)]
        known = {}
        for side, rotate in itertools.product(sides, rotations()):
            known.setdefault(rotate(side).tobytes(), len(known))
        views = view(np.repeat(volume[None], 512, axis=0), with_fields(PLAIN, **fields))
        whole = np.round(views[..., 0] * 1000).astype(np.int16)
        return [known[np.ascontiguousarray(one).tobytes()] for one in whole]

    def test_flips_and_right_angles_give_the_48_positions(self):
        found = self.positions_found(flip_z=0.5, flip_y=0.5, flip_x=0.5, right_angles=True)
        assert set(found) == set(range(48))

    def test_right_angles_alone_are_24_and_equally_likely(self):
        counts = np.unique(self.positions_found(right_angles=True), return_counts=True)[1]
        assert len(counts) == 24 and counts.max() < 512 / 24 + 4 * np.sqrt(512 / 24)

    @pytest.mark.parametrize("axis, field", enumerate(("flip_z", "flip_y", "flip_x")))
    def test_a_flip_reverses_its_axis(self, axis, field):
        volumes = random_volumes()
        found = view(volumes, with_fields(PLAIN, **{field: 1.0}))
        np.testing.assert_allclose(found * 1000, np.flip(volumes, axis + 1), atol=0.01)


class TestIntensity:
    def test_window_maps_hounsfield_units_and_clips(self):
        hu = np.array([-32768, -2000, -1000, -300, 100, 400, 401, 32767], np.int16)
        volumes = np.broadcast_to(hu[:, None, None, None, None], (8, 8, 8, 8, 1))
        spec = with_fields(PLAIN, window=(-1000.0, 400.0), mean=(0.5,), std=(0.25,))
        expected = np.array([0, 0, 0, 0.5, 1100 / 1400, 1, 1, 1])
        for found in (view(volumes, spec), np.asarray(augment.central_view(jnp.asarray(volumes), spec))):
            np.testing.assert_allclose(found.max(axis=(1, 2, 3, 4)), (expected - 0.5) / 0.25, atol=1e-5)
        shown = augment.to_display(augment.central_view(jnp.asarray(volumes), spec), spec)
        np.testing.assert_allclose(shown[:, 0, 0, 0, 0], expected, atol=1e-5)
        stored = augment.stored_to_display(jnp.asarray(volumes), spec)
        np.testing.assert_allclose(stored[:, 0, 0, 0, 0], expected, atol=1e-5)

    def test_jitter_moves_and_stretches_the_window_within_its_bounds(self):
        spec = with_fields(PLAIN, jitter_probability=0.5, brightness=0.1, contrast=0.2)
        volume = np.full((8, 8, 8, 1), 480, np.int16)
        volume[4:] = 520
        found = view(np.repeat(volume[None], 400, axis=0), spec)
        low, high = found[:, 1, 0, 0, 0], found[:, 6, 0, 0, 0]
        width = 40 / (high - low)
        middle = 500 - width * ((low + high) / 2 - 0.5)
        same = np.isclose(width, 1000, rtol=1e-4) & np.isclose(middle, 500, atol=0.5)
        assert abs(same.mean() - 0.5) < 0.1  # four standard deviations
        for values, least, most in ((width[~same], 800, 1200), (middle[~same], 400, 600)):
            assert least - 1 < values.min() < least + 0.05 * (most - least)
            assert most - 0.05 * (most - least) < values.max() < most + 1

    def test_blur_is_that_of_scipy_and_shrinks_with_the_view(self):
        spec = with_fields(PLAIN, blur_probability=1.0, blur_sigma=(28.0, 28.0))  # 1 voxel at 8
        volumes = random_volumes(2)
        expected = [ndimage.gaussian_filter(v[..., 0] / 1000, 1.0, mode="reflect", truncate=7) for v in volumes]
        np.testing.assert_allclose(view(volumes, spec)[..., 0], expected, atol=1e-3)

    def test_noise_has_a_deviation_from_its_range(self):
        spec = with_fields(PLAIN, noise_probability=0.3, noise=(0.02, 0.1))
        volumes = np.full((600, 8, 8, 8, 1), 500, np.int16)
        noise = view(volumes, spec) - 0.5
        deviation = noise.std(axis=(1, 2, 3, 4))
        noisy = deviation > 1e-4
        assert abs(noisy.mean() - 0.3) < 0.075  # four standard deviations
        assert 0.02 * 0.85 < deviation[noisy].min() < 0.03 and 0.09 < deviation[noisy].max() < 0.1 * 1.15
        assert abs(noise[noisy].mean()) < 0.002


@pytest.mark.parametrize(
    "make",
    [
        lambda x: augment.random_view(jax.random.key(0), x, EVERYTHING),
        lambda x: augment.central_view(x, EVERYTHING),
    ],
)
def test_wrong_volumes_are_refused(make):
    volumes = jnp.asarray(random_volumes(1))
    with pytest.raises(TypeError, match="int16 HU, not float32"):
        make(volumes.astype(jnp.float32))
    with pytest.raises(ValueError, match=r"\[B, D, H, W, 1\], not \(1, 8, 8, 8\)"):
        make(volumes[..., 0])
    with pytest.raises(ValueError, match=r"not \(1, 8, 8, 8, 3\)"):
        make(jnp.repeat(volumes, 3, axis=-1))
    with pytest.raises(TypeError, match="views of int16 HU need a window"):
        augment.central_view(volumes, augment.Views())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "views.size"),
        ({"dimensions": 2}, "views.dimensions is 2, but these are fields of 3-D views"),
        ({"noise_probability": 1.5}, "views.noise_probability"),
        ({"flip_z": -0.1}, "views.flip_z"),
        ({"crop_scale": (0.0, 1.0)}, "views.crop_scale"),
        ({"window": (400.0, -1000.0)}, "views.window must be .low, high. in HU"),
        ({"noise": (0.2, 0.1)}, "views.noise"),
        ({"contrast": 1.0}, "views.contrast of volumes must be below 1"),
        ({"brightness": -0.1}, "views.brightness"),
        ({"std": (0.0,)}, "views.std"),
    ],
)
def test_impossible_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        augment.VolumeViews(**fields)


class TestViewsOf:
    @pytest.mark.parametrize("spec", [EVERYTHING, augment.Views(size=32, hue=0.1)])
    def test_dimensions_decide_the_class(self, spec):
        assert augment.views_of(dataclasses.asdict(spec)) == spec

    def test_fields_of_the_other_class_are_named(self):
        fields = dataclasses.asdict(augment.Views()) | {"dimensions": 3}
        with pytest.raises(ValueError, match="views.dimensions is 3, but .*crop_ratio, .* are not fields of 3-D views"):
            augment.views_of(fields)
        with pytest.raises(ValueError, match=r"views.dimensions is 2 \(images\) or 3 \(volumes\), not 4"):
            augment.views_of({"dimensions": 4})
