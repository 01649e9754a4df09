"""Masked autoencoder: what is hidden, what the encoder sees of it, what the loss compares, and the decoder."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax.pretext import mae

pytestmark = pytest.mark.slow

PATCH = 4


class Grey(nnx.Module):
    """In the place of the decoder: 0.5 for every pixel."""

    def __call__(self, encoded, visible, hidden, space):
        return jnp.full((*hidden.shape, 3 * PATCH**2), 0.5)


def drawn(**fields):
    task = tiny.table_task("mae", views=tiny.STILL, **fields)
    return task, jax.jit(task.views)(jax.random.key(0), tiny.batch())


def pixels(views, row: int, place: int) -> np.ndarray:
    """A patch of a view, sliced from it."""
    top, left = (PATCH * i for i in divmod(int(place), 16 // PATCH))
    return np.asarray(views["image"], np.float64)[row, top : top + PATCH, left : left + PATCH].ravel()


def test_a_quarter_of_the_patches_is_seen_another_of_each_image():
    task, views = drawn()
    assert views["visible"].shape == (8, 4) and views["hidden"].shape == (8, 12)
    places = np.concatenate([views["visible"], views["hidden"]], axis=1)
    np.testing.assert_array_equal(np.sort(places, axis=1), np.tile(np.arange(16), (8, 1)))
    assert len({tuple(sorted(row)) for row in np.asarray(views["visible"])}) > 4
    np.testing.assert_array_equal(task.shown_images(views), views["image"])


def test_every_patch_is_hidden_as_often_as_another():
    task, views = drawn()
    keys = jax.random.split(jax.random.key(1), 200)
    hidden = jax.jit(jax.vmap(lambda key: task.views(key, tiny.batch())["hidden"]))(keys)
    share = np.bincount(np.asarray(hidden).ravel(), minlength=16) / (200 * 8)
    # Four deviations of 1,600 draws.
    np.testing.assert_allclose(share, 0.75, atol=4 * np.sqrt(0.75 * 0.25 / 1600))


@pytest.mark.parametrize(
    ("share", "space", "visible"),
    [(0.75, (14, 14), 49), (0.75, (8, 8, 8), 128), (0.9, (10,), 1), (0.75, (3, 3), 2), (0.5, (2, 2), 2)],
)
def test_visible_patches_are_rounded_down(share, space, visible):
    assert mae.visible_count(mae.MAE, share, space, PATCH) == visible


def test_a_patch_is_normalised_by_its_own_pixels():
    patches = jnp.asarray([[[1.0, 2, 3], [0, 0, 6]], [[-2, 0, 2], [5, 5, 5]]])
    golden = [[[-1, 0, 1], [-1 / 3**0.5, -1 / 3**0.5, 2 / 3**0.5]], [[-1, 0, 1], [0, 0, 0]]]
    np.testing.assert_allclose(mae.standardised(patches), golden, atol=1e-5)
    rows = np.random.default_rng(0).normal(3, 2, (2, 4, 48))
    expected = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(mae.standardised(jnp.asarray(rows, jnp.float32)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_loss_is_the_mean_over_the_hidden_patches(normalised):
    task, views = drawn(normalised=normalised)
    task.decoder = Grey()
    errors = []
    for row, places in enumerate(np.asarray(views["hidden"])):
        for place in places:
            wanted = pixels(views, row, place)
            if normalised:
                wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var(ddof=1) + 1e-6)
            errors.append(np.square(wanted - 0.5).mean())
    assert float(tiny.loss(task, views).loss) == pytest.approx(np.mean(errors), rel=1e-5)


def test_hidden_pixels_do_not_reach_the_encoder_and_visible_ones_do():
    task, views = drawn()
    image, run = np.array(views["image"]), jax.jit(lambda views: task.loss(views, 0.0))
    for kind in ("hidden", "visible"):
        changed = image.copy()
        for row, places in enumerate(np.asarray(views[kind])):
            for top, left in (divmod(int(place), 4) for place in places):
                # The loss, of normalised patches, would not see a brighter one.
                changed[row, PATCH * top : PATCH * (top + 1), PATCH * left : PATCH * (left + 1)] *= -1
        before, after = (run({**views, "image": jnp.asarray(pixels)}) for pixels in (image, changed))
        assert np.array_equal(before.features, after.features) == (kind == "hidden")
        assert not np.array_equal(before.images, after.images) and float(before.loss) != float(after.loss)


def test_features_are_the_mean_of_the_visible_patches_as_encoded():
    task, views = drawn()
    tokens = np.asarray(jax.jit(lambda x: task.backbone.tokens(x))(views["image"]))
    seen = np.stack([row[places] for row, places in zip(tokens, np.asarray(views["visible"]), strict=True)])
    encoded = np.asarray(jax.jit(lambda x: task.backbone.encode(x))(seen))
    assert encoded.shape == (8, 5, 24)
    np.testing.assert_allclose(tiny.loss(task, views).features, encoded[:, 1:].mean(axis=1), rtol=1e-4, atol=1e-5)


def test_the_decoder_knows_a_patch_by_its_place_alone():
    task, views = drawn()
    random = np.random.default_rng(0)
    encoded = jnp.asarray(random.standard_normal((2, 5, 24)), jnp.float32)
    visible, hidden = views["visible"][:2], views["hidden"][:2]
    restore = jax.jit(lambda e, v, h: task.decoder(e, v, h, (4, 4)))
    restored = restore(encoded, visible, hidden)
    assert restored.shape == (2, 12, 48) and restored.dtype == jnp.float32
    # Handed over in another order, restored alike.
    turned = jnp.concatenate([encoded[:, :1], encoded[:, :0:-1]], axis=1)
    np.testing.assert_allclose(restore(turned, visible[:, ::-1], hidden), restored, atol=1e-5)
    np.testing.assert_allclose(restore(encoded, visible, hidden[:, ::-1]), restored[:, ::-1], atol=1e-5)
    assert not np.allclose(restored[:, 0], restored[:, 1], atol=1e-3)
    assert not np.allclose(restore(encoded, visible[:, ::-1], hidden), restored, atol=1e-3)


@pytest.mark.parametrize(
    ("features", "depth", "size"),
    [(768, 12, (512, 8, 16)), (384, 12, (256, 8, 8)), (192, 12, (128, 8, 4)), (24, 2, (32, 1, 1))],
)
def test_the_decoder_of_a_base_is_the_published_one_and_others_follow(features, depth, size):
    backbone = SimpleNamespace(features=features, blocks=range(depth))
    assert tuple(mae.decoder_size(mae.MAE, backbone, width=0, blocks=0, heads=0).values()) == size
    assert tuple(mae.decoder_size(mae.MAE, backbone, width=48, blocks=3, heads=6).values()) == (48, 3, 6)


def test_the_decoder_has_the_size_asked_for():
    task = nnx.eval_shape(lambda: tiny.table_task("mae", width=48, blocks=3, heads=6))
    assert task.decoder.token.shape == (48,) and task.decoder.head.kernel.shape == (48, 48)
    assert len(task.decoder.blocks) == 3 and task.decoder.blocks[0].heads == 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"share": 0.95},
            "`share` 0.95 of 16 patches of 4 px leaves 0 visible; .* change `share`, or lower model.patch",
        ),
        ({"share": 0.0}, "`share` 0 of 16 patches of 4 px leaves 16 visible"),
        ({"share": 1.5}, "mae: `share` must lie between 0 and 1, not 1.5"),
        ({"width": 48, "heads": 5}, "a decoder of 48 features does not divide into 5 heads; change `heads`"),
        ({"views": {"size": 18}}, "18 px do not divide into patches of 4 px"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny.table_task("mae", **fields)


def test_a_resnet_is_refused_and_the_vits_are_named():
    with pytest.raises(ValueError, match="mae needs a ViT, .* set model.name to vit_tiny, vit_small, vit_base"):
        tiny.table_task("mae", tiny.backbone())
