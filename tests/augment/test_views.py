"""Whole views: keys, sharding, types, probabilities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from aiseeme_jax import augment
from aiseeme_jax.augment import blur, colour

EVERYTHING = augment.Views(
    size=16,
    flip_vertical=0.5,
    right_angles=True,
    rotation=20.0,
    jitter_probability=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grey_probability=0.2,
    blur_probability=0.5,
    blur_sigma=(5.0, 20.0),
    solarise_probability=0.2,
)
PLAIN = augment.Views(
    size=24,
    crop_scale=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    flip_horizontal=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def random_images(batch=8, height=24, width=24, channels=3):
    generator = np.random.default_rng(0)
    return jnp.asarray(generator.integers(0, 256, (batch, height, width, channels)), jnp.uint8)


def with_fields(views, **fields):
    return dataclasses.replace(views, **fields)


@pytest.mark.slow
def test_views_are_a_function_of_the_key():
    images, key = random_images(), jax.random.key(0)
    first = augment.random_view(key, images, EVERYTHING)
    assert first.shape == (8, 16, 16, 3) and first.dtype == jnp.float32
    np.testing.assert_array_equal(first, augment.random_view(key, images, EVERYTHING))
    other = augment.random_view(jax.random.key(1), images, EVERYTHING)
    assert all(np.abs(np.asarray(a - b)).max() > 0.01 for a, b in zip(first, other, strict=True))


@pytest.mark.slow
def test_view_of_an_image_does_not_depend_on_the_others():
    images, key = random_images(), jax.random.key(0)
    view = augment.random_view(key, images, EVERYTHING)
    np.testing.assert_allclose(augment.random_view(key, images[:3], EVERYTHING), view[:3], atol=1e-5)
    replaced = images.at[4:].set(0)
    np.testing.assert_array_equal(augment.random_view(key, replaced, EVERYTHING)[:4], view[:4])


def test_images_of_a_batch_get_views_of_their_own():
    same = jnp.broadcast_to(random_images(1), (8, 24, 24, 3))
    views = np.asarray(augment.random_view(jax.random.key(0), same, EVERYTHING))
    assert len(np.unique(views.reshape(8, -1), axis=0)) == 8


@pytest.mark.slow
def test_views_are_the_same_on_one_device_and_on_eight():
    assert jax.device_count() == 8
    images, key = random_images(16), jax.random.key(0)
    expected = augment.random_view(key, images, EVERYTHING)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    views = augment.random_view(key, spread, EVERYTHING)
    assert views.sharding.spec[0] == "data"
    np.testing.assert_allclose(views, expected, atol=1e-5)


def test_view_that_may_change_nothing_is_the_image():
    images = random_images()
    view = augment.random_view(jax.random.key(0), images, PLAIN)
    np.testing.assert_allclose(view, np.asarray(images) / 255, atol=1e-5)


def test_flips_and_right_angles_give_the_eight_positions():
    image = np.asarray(random_images(1, 24, 24))[0]
    positions = [np.rot90(side, k) for side in (image, image[:, ::-1]) for k in range(4)]
    spec = with_fields(PLAIN, flip_horizontal=0.5, flip_vertical=0.5, right_angles=True)
    views = augment.random_view(jax.random.key(0), jnp.asarray(np.stack([image] * 64)), spec)
    found = set()
    for view in np.asarray(views):
        errors = [np.abs(view - position / 255).max() for position in positions]
        assert min(errors) < 1e-5
        found.add(int(np.argmin(errors)))
    assert found == set(range(8))


@pytest.mark.parametrize(
    "fields",
    [
        {"flip_horizontal": 0.3},
        {"flip_vertical": 0.3},
        {"grey_probability": 0.3},
        {"solarise_probability": 0.3},
        {"blur_probability": 0.3, "blur_sigma": (9.0, 9.0)},
        {"jitter_probability": 0.3, "brightness": 0.4},
    ],
)
def test_probabilities_are_per_image(fields):
    image = random_images(1)
    views = augment.random_view(
        jax.random.key(0), jnp.broadcast_to(image, (600, 24, 24, 3)), with_fields(PLAIN, **fields)
    )
    changed = np.abs(np.asarray(views) - np.asarray(image) / 255).max(axis=(1, 2, 3)) > 1e-4
    assert abs(changed.mean() - 0.3) < 0.075  # four standard deviations


def test_operations_of_probability_zero_are_not_traced():
    def count(operation, **fields):
        views = with_fields(PLAIN, **fields)
        program = jax.make_jaxpr(lambda k, x: augment.random_view(k, x, views))(jax.random.key(0), random_images(1))
        return str(program).count(f" {operation}[")

    strengths = {"brightness": 0.4, "hue": 0.1, "blur_sigma": (1.0, 2.0)}
    assert count("dot_general", **strengths) == 2
    assert count("dot_general", blur_probability=0.5) == 4
    assert count("scan", **strengths) == 0
    assert count("scan", jitter_probability=0.5, **strengths) == 1
    assert count("gather", rotation=5.0) == count("gather") + 4


@pytest.mark.slow
def test_colour_comes_in_the_published_order():
    """Jitter, then grey, blur, solarise: any two of them exchanged give another image."""
    always = {f"{operation}_probability": 1.0 for operation in ("jitter", "grey", "blur", "solarise")}
    spec = with_fields(PLAIN, **always, blur_sigma=(20.0, 20.0), hue=0.4)
    images = random_images(4)
    seen = augment.random_view(jax.random.key(0), images, spec)
    sigma = 20.0 * 24 / 224

    def end(image, *steps):
        for step in steps:
            image = step(image)
        return image

    blurred = lambda x: blur.gaussian_blur(x, sigma)  # noqa: E731
    jittered = augment.random_view(
        jax.random.key(0),
        images,
        with_fields(spec, grey_probability=0.0, blur_probability=0.0, solarise_probability=0.0),
    )
    for view, image in zip(seen, jittered, strict=True):
        np.testing.assert_allclose(view, end(image, colour.grey, blurred, colour.solarise), atol=1e-5)
        for other in ((colour.grey, colour.solarise, blurred), (blurred, colour.solarise, colour.grey)):
            assert np.abs(view - end(image, *other)).max() > 0.01
    assert np.abs(seen - augment.random_view(jax.random.key(0), images, with_fields(spec, hue=0.0))).max() > 0.01


def test_rotation_takes_its_corners_from_the_image_where_it_has_them():
    """A square in the middle turns about its centre and keeps its area."""
    images = jnp.full((16, 64, 64, 3), 200, jnp.uint8).at[:, :2].set(0).at[:, -2:].set(0)
    images = images.at[:, 24:40, 24:40].set(100)
    spec = with_fields(PLAIN, size=32, rotation=45.0)
    views = np.asarray(augment.random_view(jax.random.key(0), images, spec)) * 255
    np.testing.assert_allclose(views[:, 15:17, 15:17], 100, atol=0.5)
    middle = views[:, 8:24, 8:24, 0]
    np.testing.assert_allclose((middle < 150).mean(axis=(1, 2)), 0.25, atol=0.04)


def test_blur_shrinks_with_the_view():
    """Sigma is given for 224 pixels."""
    spec = with_fields(PLAIN, size=56, blur_probability=1.0, blur_sigma=(8.0, 8.0))
    images = jnp.zeros((1, 56, 56, 3), jnp.uint8).at[:, 28, 28].set(255)
    spot = np.asarray(augment.random_view(jax.random.key(0), images, spec))[0, :, :, 0]
    rows = spot.sum(axis=1)
    deviation = np.sqrt((rows * (np.arange(56) - 28) ** 2).sum() / rows.sum())
    assert deviation == pytest.approx(2.0, abs=0.02)


def test_central_view_is_the_whole_image_resized_and_normalised():
    images = random_images(2, 40, 60)
    views = augment.Views(size=20)
    result = np.asarray(augment.central_view(images, views))
    for image, view in zip(np.asarray(images), result, strict=True):
        planes = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
        resized = [np.asarray(p.resize((20, 20), Image.Resampling.BILINEAR)) for p in planes]
        expected = (np.stack(resized, axis=-1) / 255 - np.array(views.mean)) / np.array(views.std)
        np.testing.assert_allclose(view, expected, atol=1e-4)


class TestEvaluationViews:
    IMAGES, VIEWS = random_images(2, 16, 16), augment.Views(size=16)

    def views(self, name, views=VIEWS):
        return [np.asarray(view) for view in augment.evaluation_views(self.IMAGES, views, name)]

    def test_flip_is_the_central_view_and_its_mirror_image(self):
        central = np.asarray(augment.central_view(self.IMAGES, self.VIEWS))
        np.testing.assert_array_equal(self.views("central"), [central])
        np.testing.assert_array_equal(self.views("flip"), [central, central[:, :, ::-1]])

    def test_right_angles_are_the_eight_symmetries_of_a_square(self):
        central = np.asarray(augment.central_view(self.IMAGES, self.VIEWS))
        found = self.views("right_angles")
        expected = [np.rot90(c, turns, (1, 2)) for c in (central, central.transpose(0, 2, 1, 3)) for turns in range(4)]
        unmatched = [one for one in found if not any(np.array_equal(one, other) for other in expected)]
        assert len(found) == 8 and not unmatched
        assert all(not np.array_equal(a, b) for i, a in enumerate(found) for b in found[:i])

    def test_nine_crops_are_boxes_of_seven_eighths_of_the_sides(self):
        """With 14 of 16 pixels a crop is cut out as it is."""
        found = self.views("nine_crops", augment.Views(size=14))
        views = augment.Views(size=14)
        boxes = [(down, right) for down in (0, 1, 2) for right in (0, 1, 2)]
        assert len(found) == 9
        for view, (down, right) in zip(found, boxes, strict=True):
            cut = np.asarray(self.IMAGES)[:, down : down + 14, right : right + 14]
            np.testing.assert_allclose(view, augment.central_view(jnp.asarray(cut), views), atol=1e-5)

    def test_of_volumes_there_is_the_whole_alone(self):
        views = augment.make_views("ct", size=8)
        volumes = jnp.zeros((1, 8, 8, 8, 1), jnp.int16)
        assert len(augment.evaluation_views(volumes, views, "central")) == 1
        with pytest.raises(ValueError, match="'flip' is for images: volumes have 'central' alone"):
            augment.evaluation_views(volumes, views, "flip")


def test_display_undoes_the_normalisation():
    images = random_images(2, 16, 16)
    views = augment.Views(size=16)
    shown = augment.to_display(augment.central_view(images, views), views)
    np.testing.assert_allclose(shown, np.asarray(images) / 255, atol=1e-5)


@pytest.mark.slow
def test_one_channel_images():
    images = random_images(channels=1)
    view = augment.random_view(jax.random.key(0), images, EVERYTHING)
    assert view.shape == (8, 16, 16, 1) and bool(jnp.isfinite(view).all())
    shown = augment.to_display(augment.central_view(images, with_fields(EVERYTHING, size=24)), EVERYTHING)
    np.testing.assert_allclose(shown, np.asarray(images) / 255, atol=1e-5)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: augment.random_view(jax.random.key(0), x, EVERYTHING),
        lambda x: augment.central_view(x, EVERYTHING),
    ],
)
def test_wrong_images_are_refused(view):
    with pytest.raises(TypeError, match="uint8 images, not float32"):
        view(random_images().astype(jnp.float32))
    with pytest.raises(ValueError, match=r"\(8, 24, 24, 4\)"):
        view(random_images(channels=4))
    with pytest.raises(ValueError, match=r"\(24, 24, 3\)"):
        view(random_images()[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "views.size"),
        ({"blur_probability": 1.5}, "views.blur_probability"),
        ({"flip_vertical": -0.1}, "views.flip_vertical"),
        ({"hue": 0.6}, "views.hue"),
        ({"contrast": -1.0}, "views.contrast"),
        ({"crop_scale": (0.5, 0.2)}, "views.crop_scale"),
        ({"crop_scale": (0.5, 1.2)}, "views.crop_scale"),
        ({"crop_ratio": (0.0, 1.0)}, "views.crop_ratio"),
        ({"std": (0.0, 1.0, 1.0)}, "views.std"),
    ],
)
def test_impossible_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        augment.Views(**fields)


class TestHounsfieldUnits:
    """Images stored as int16 HU: planes of a CT, of one channel or three."""

    PLANES = with_fields(PLAIN, window=(-1000.0, 400.0), mean=(0.0,), std=(1.0,))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_window_maps_hu_to_0_and_1(self, channels):
        stored = np.full((2, 24, 24, channels), -300, np.int16)
        stored[0, :12], stored[1, :12] = -2000, 3000
        view = np.asarray(augment.central_view(stored, self.PLANES))
        assert view.dtype == np.float32 and view.shape == stored.shape
        np.testing.assert_allclose(view[:, 20], 0.5, atol=1e-6)
        np.testing.assert_allclose([view[0, 3].max(), view[1, 3].min()], [0, 1], atol=1e-6)
        np.testing.assert_allclose(augment.random_view(jax.random.key(0), stored, self.PLANES), view, atol=1e-5)
        np.testing.assert_allclose(augment.stored_to_display(stored, self.PLANES)[:, 20], 0.5, atol=1e-6)

    def test_densities_are_averaged_before_the_window(self):
        stored = np.where(np.arange(24)[:, None] % 2, 1400, -1000) * np.ones((1, 24, 24, 1), int)
        view = augment.central_view(stored.astype(np.int16), with_fields(self.PLANES, size=4))
        # The mean is 200 HU; of clipped values it would be -300.
        np.testing.assert_allclose(view[0, :, 1:3], 1200 / 1400, atol=0.02)

    def test_views_and_stored_type_must_fit(self):
        planes, photographs = np.zeros((1, 8, 8, 1), np.int16), np.zeros((1, 8, 8, 1), np.uint8)
        with pytest.raises(TypeError, match="views of int16 HU need a window: .* 'ct_planes'"):
            augment.central_view(planes, PLAIN)
        with pytest.raises(TypeError, match="views with a window are made of int16 HU, not uint8"):
            augment.central_view(photographs, self.PLANES)
        with pytest.raises(ValueError, match=r"views.window must be \(low, high\) in HU"):
            with_fields(PLAIN, window=(400.0, -1000.0))


class TestMasks:
    """What moves pixels of an image moves those of its mask."""

    FIELDS = {"size": 24, "crop_scale": (0.3, 1.0), "flip_horizontal": 0.5, "flip_vertical": 0.5}
    PLAIN = {"jitter_probability": 0.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

    @pytest.fixture(scope="class")
    def blocks(self):
        """Masks of large blocks, in images that are no squares, which are white where the mask is."""
        masks = np.random.default_rng(0).random((12, 4, 5, 1)) < 0.5
        masks = masks.repeat(12, axis=1).repeat(12, axis=2).astype(np.uint8)
        return 255 * masks.repeat(3, axis=-1), masks

    @pytest.mark.parametrize("turned", [{}, {"right_angles": True}, {"rotation": 30.0}])
    def test_follow_their_images(self, blocks, turned):
        images, masks = blocks
        views = augment.Views(**self.FIELDS, **self.PLAIN, **turned)
        view, mask = augment.random_view_with_mask(jax.random.key(1), images, masks, views)
        assert mask.dtype == jnp.uint8 and set(np.unique(mask)) == {0, 1} and mask.shape == (12, 24, 24, 1)
        # Off the borders of the blocks, where bilinear values lie in between.
        sure = jnp.abs(view[..., :1] - 0.5) > 0.45
        assert sure.mean() > 0.5 and bool(((view[..., :1] > 0.5) == mask)[sure].all())
        assert len({bytes(np.asarray(one)) for one in mask}) == 12

    def test_keep_their_values_where_colours_change(self, blocks):
        images, masks = blocks
        loud = {"jitter_probability": 1.0, "brightness": 0.8, "solarise_probability": 1.0, "grey_probability": 1.0}
        coloured, quiet = (augment.Views(**self.FIELDS, **fields) for fields in (loud, self.PLAIN))
        marked = np.where(masks == 1, 255, 0).astype(np.uint8)
        key = jax.random.key(2)
        found = [augment.random_view_with_mask(key, images, marked, views) for views in (coloured, quiet)]
        np.testing.assert_array_equal(found[0][1], found[1][1])
        assert set(np.unique(found[0][1])) == {0, 255} and not np.allclose(found[0][0], found[1][0])

    def test_leave_the_view_as_it_would_be_without_them(self, blocks):
        images, masks = blocks
        views = augment.Views(size=16, rotation=20.0, jitter_probability=1.0, brightness=0.4)
        view, _ = augment.random_view_with_mask(jax.random.key(3), images, masks, views)
        np.testing.assert_allclose(view, augment.random_view(jax.random.key(3), images, views), atol=1e-6)

    def test_of_another_size_than_the_images_are_refused(self, blocks):
        images, masks = blocks
        with pytest.raises(ValueError, match=r"masks must be \[B, H, W, 1\] beside images"):
            augment.random_view_with_mask(jax.random.key(0), images, masks[:, 1:], augment.Views(size=8))
