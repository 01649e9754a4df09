"""Colorization: lightness in, the right bin as answer, rare colours weighted up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax.augment import lab

pytestmark = pytest.mark.slow


class Head(nnx.Module):
    """In the place of the decoder: fixed logits."""

    def __init__(self, logits):
        self.logits, self.side = nnx.Variable(logits), 16

    def __call__(self, endpoints, *, train):
        return self.logits.get_value()


def task_of(**fields):
    return tiny.table_task("colorization", views=tiny.STILL, **fields)


class TestViews:
    @pytest.fixture(scope="class")
    def views(self):
        return jax.jit(task_of().views)(jax.random.key(0), tiny.batch())

    def test_backbone_sees_the_lightness_alone(self, views):
        seen, image = np.asarray(views["image"]), np.asarray(tiny.batch()["image"]) / np.float32(255)
        np.testing.assert_array_equal(seen[..., :1], seen[..., 1:2])
        np.testing.assert_array_equal(seen[..., :1], seen[..., 2:])
        found, expected = lab.to_lab(jnp.asarray(seen)), lab.to_lab(jnp.asarray(image))
        np.testing.assert_allclose(found[..., 0], expected[..., 0], atol=0.05)
        np.testing.assert_allclose(found[..., 1:], 0, atol=0.05)

    def test_answer_is_the_bin_nearest_to_the_colour(self, views):
        image = jnp.asarray(np.asarray(tiny.batch()["image"]) / np.float32(255))
        colours = np.asarray(lab.to_lab(image))[..., 1:]
        bins = lab.colour_bins()
        distance = np.linalg.norm(colours[..., None, :] - bins, axis=-1)
        chosen = np.take_along_axis(distance, np.asarray(views["label"])[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(chosen, distance.min(axis=-1), atol=0.5)
        assert len(np.unique(views["label"])) > 30


class TestLoss:
    def test_rare_colours_weigh_more_as_the_paper_has_it(self):
        task = task_of(mixing=0.25)
        bins = lab.colour_bins()
        kernel = np.exp(-np.square(bins[:, None] - bins).sum(axis=-1) / 50)
        random = np.random.default_rng(0)
        frequencies = random.dirichlet(np.full(len(bins), 0.1))
        task.frequencies.set_value(jnp.asarray(frequencies, jnp.float32))
        smooth = (kernel / kernel.sum(axis=0)) @ frequencies
        weights = 1 / (0.75 * smooth + 0.25 / len(bins))
        np.testing.assert_allclose(task.weights(), weights, rtol=1e-4)

        logits = random.normal(size=(8, 16, 16, len(bins)))
        labels = random.integers(0, len(bins), (8, 16, 16))
        task.decoder = Head(jnp.asarray(logits, jnp.float32))
        output = tiny.loss(task, {"image": jnp.zeros((8, 16, 16, 3)), "label": jnp.asarray(labels)})
        wrong = -np.log(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))
        wrong = np.take_along_axis(wrong, labels[..., None], axis=-1)[..., 0]
        expected = (weights[labels] * wrong).sum() / weights[labels].sum()
        assert float(output.loss) == pytest.approx(expected, rel=1e-4)
        counted = np.bincount(labels.ravel(), minlength=len(bins)) / labels.size
        np.testing.assert_allclose(task.frequencies.get_value(), 0.99 * frequencies + 0.01 * counted, atol=1e-6)

    def test_at_first_all_colours_weigh_the_same(self):
        weights = np.asarray(task_of().weights())
        np.testing.assert_allclose(weights, len(lab.colour_bins()), rtol=0.5)
        assert float(task_of().frequencies.get_value().sum()) == pytest.approx(1)


def test_images_of_one_channel_are_an_error_in_words():
    with pytest.raises(ValueError, match="colorization: these images have one channel .* no colour to predict"):
        tiny.table_task("colorization", tiny.Pixels(channels=1))


def test_shares_out_of_range_are_an_error():
    with pytest.raises(ValueError, match="colorization: `mixing` and `memory` are shares of 1, not 1.5 and 0.99"):
        tiny.table_task("colorization", mixing=1.5)
