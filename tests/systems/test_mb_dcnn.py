"""MB-DCNN: its parts, what it refuses, and the three networks in a row, also after a kill in the second."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from short_measurements import IMAGES, RUNTIME, Killed, stopping_after, target
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, data, models
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.protocols import Measurement, Subject
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import masks as mask_metrics
from aiseeme_jax.evaluate import metrics
from aiseeme_jax.models import deeplab
from aiseeme_jax.models.classifier import ClassifierNetwork, linear_head
from aiseeme_jax.models.segmentation import SegmentationNetwork
from aiseeme_jax.systems.mb_dcnn import backbones, enhanced, guided, masks
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table")
STILL = augment.Views(**{**tiny.STILL, "size": tiny.SIZE})
RANDOM = np.random.default_rng(0)
QUICK = {"orientations": False, "scales": (1.0,)}


def squares(count, seed):
    """Noise with a brighter square in it, whose size is the class. All images are equally bright on average."""
    random, labels = np.random.default_rng(seed), np.arange(count) // 2 % 3
    shown = np.zeros((count, tiny.SIZE, tiny.SIZE, 1), np.uint8)
    for mask, label in zip(shown, labels, strict=True):
        side = (3, 6, 9)[label]
        top, left = random.integers(0, tiny.SIZE - side, 2)
        mask[top : top + side, left : left + side] = 1
    noise = random.integers(0, 60, (count, tiny.SIZE, tiny.SIZE, 3)) + 90.0 * shown
    noise += 120 - noise.mean(axis=(1, 2, 3), keepdims=True)
    groups = [f"{seed}-{i // 2}" for i in range(count)]
    split = data.from_arrays(noise.clip(0, 255).astype(np.uint8), labels, groups, tuple("abc"), name="tiny:train")
    return dataclasses.replace(split, segmentation=shown)


def make_subject():
    sizes = {"train": IMAGES, "validation": 24, "test": 24}
    splits = {name: squares(size, seed) for seed, (name, size) in enumerate(sizes.items())}
    return Subject("curriculum", tiny.backbone(), splits)


def chosen(protocol, steps=30, rate=1e-2, **changes):
    fields = {"optimizer": {"name": "adamw", "learning_rate": rate}, "batch_size": 16, "views": tiny.STILL}
    return target(protocol, **{**fields, "duration": base.duration(steps=steps), **changes})


class TestParts:
    def test_maps_are_resized_with_their_corners_in_place(self):
        maps = RANDOM.normal(size=(2, 4, 3, 2)).astype(np.float32)
        rows = np.stack(
            [np.interp(np.linspace(0, 3, 7), np.arange(4), column) for column in maps[1, :, :, 0].T], axis=1
        )
        expected = np.stack([np.interp(np.linspace(0, 2, 9), np.arange(3), row) for row in rows])
        np.testing.assert_allclose(deeplab.resize(jnp.asarray(maps), 7, 9)[1, :, :, 0], expected, atol=1e-6)
        assert deeplab.resize(jnp.asarray(maps), 1, 1).shape == (2, 1, 1, 2)

    def test_dropout_keeps_the_mean_and_needs_a_key(self):
        x = jnp.ones((100, 100))
        dropped = np.asarray(deeplab.drop(x, 0.5, jax.random.key(0)))
        assert set(np.unique(dropped)) == {0.0, 2.0} and abs(dropped.mean() - 1) < 0.05
        assert deeplab.drop(x, 0.5, None) is x

    def test_the_filter_of_the_mask_is_the_mean_of_the_others(self):
        plain = tiny.backbone()
        made = backbones.make_dense(plain, mask=True)
        kernel = np.asarray(made.stem_convolution.kernel[...])
        np.testing.assert_array_equal(kernel[:, :, :3], plain.stem_convolution.kernel[...])
        np.testing.assert_allclose(kernel[:, :, 3], kernel[:, :, :3].mean(axis=2), rtol=1e-6)
        assert made.channels == 4 and made.output_stride == 16 and plain.output_stride == 32

    def test_turns_are_undone_and_sizes_too(self):
        class Planted(nnx.Module):
            def __call__(self, images, *, train):
                return images[..., 0], images.mean(axis=(1, 2))

        images = jnp.asarray(RANDOM.normal(size=(2, 8, 8, 4)), jnp.float32)
        found, _ = backbones.Averaged(Planted(), orientations=True)(images)
        np.testing.assert_allclose(found, images[..., 0], atol=1e-6)
        assert len({np.asarray(turn(images)).tobytes() for turn, _ in backbones.TURNS}) == 6
        smooth = jnp.broadcast_to(jnp.linspace(0, 1, 8)[None, :, None, None], (1, 8, 8, 1))
        found, _ = backbones.Averaged(Planted(), backbones.TEST_SCALES, orientations=True)(smooth)
        np.testing.assert_allclose(found, smooth[..., 0], atol=1e-5)

    def test_two_masks_travel_as_one(self):
        given, truth = np.uint8([[0, 1, 0, 1, 0, 1]]), np.uint8([[0, 0, 1, 1, 255, 255]])
        back = masks.split_pairs(jnp.asarray(masks.pair_masks(given, truth)))
        np.testing.assert_array_equal(back[0], given == 1)
        np.testing.assert_array_equal(back[1], truth)

    def test_a_class_map_is_that_of_loops_and_never_divides_by_zero(self):
        guide = ClassifierNetwork(tiny.backbone(channels=4), linear_head(8, 3, rngs=nnx.Rngs(1)))
        guide.head.kernel.set_value(jnp.asarray(RANDOM.normal(size=(8, 3)), jnp.float32))
        images = jnp.asarray(RANDOM.normal(size=(3, 16, 16, 4)), jnp.float32)
        endpoints, kernel = guide.backbone(images, train=False), np.asarray(guide.head.kernel[...])
        for image in range(3):
            best = int(np.argmax(np.asarray(endpoints["pooled"])[image] @ kernel + np.asarray(guide.head.bias[...])))
            expected = np.asarray(endpoints["stage4"])[image] @ kernel[:, best]
            expected = expected / expected.max() if expected.max() > 0 else np.zeros_like(expected)
            found = guided.map_classes(guide, images, "signed")[image, :, :, 0]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        clipped = np.asarray(guided.map_classes(guide, images, "clipped"))
        assert clipped.min() >= 0 and clipped.max() <= 1
        guide.head.kernel.set_value(-jnp.ones((8, 3)))
        for kind in ("signed", "clipped", "zeros"):
            np.testing.assert_array_equal(guided.map_classes(guide, images, kind), 0)

    def test_the_enhanced_network_begins_with_the_weights_of_the_coarse_one(self):
        body = tiny.backbone()
        coarse = SegmentationNetwork(body, deeplab.DeepLabDecoder(body, width=8, rates=(1, 2), rngs=nnx.Rngs(0)))
        decoder = enhanced.add_map(coarse, rngs=nnx.Rngs(5))
        tiny.assert_same(decoder.joined, coarse.decoder.joined)
        images = jnp.asarray(RANDOM.normal(size=(2, 16, 16, 3)), jnp.float32)
        expected = coarse(images, train=False)[0]
        for value in (0.0, 1.0):
            network = SegmentationNetwork(body, decoder)
            found = network(images, train=False, maps=jnp.full((2, 4, 4, 1), value))[0]
            # The new norm divides by the root of 1 + 1e-5.
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        again = models.make_decoder("deeplab", backbone=body, **decoder.config, rngs=nnx.Rngs(0))
        assert again.config == decoder.config and decoder.config["maps"] == 1

    def test_a_network_that_is_held_has_nothing_to_train(self):
        guide = ClassifierNetwork(tiny.backbone(), linear_head(8, 3, rngs=nnx.Rngs(1)))
        images = jnp.asarray(RANDOM.normal(size=(2, 16, 16, 3)), jnp.float32)
        expected = guide(images, train=False)[0]
        held = enhanced.hold(guide)
        assert not jax.tree.leaves(nnx.state(held, (nnx.Param, nnx.BatchStat)))
        np.testing.assert_array_equal(held(images, train=False)[0], expected)


@pytest.mark.slow
def test_three_networks_in_a_row_help_and_survive_a_kill_in_the_second(tmp_path, monkeypatch):
    """A region is found well above its share of the image, and classes well above chance."""
    tiny.use_devices(monkeypatch, 1)
    subject = make_subject()

    def measure(name, protocol, needed=(), **changes):
        folders = {one: tmp_path / one for one in needed}
        return protocols.measure(
            Measurement(chosen(protocol, **changes), 1.0, 0, folders), subject, tmp_path / name, RUNTIME
        )

    coarse = chosen("mb_dcnn_coarse", width=8, rates=(1, 2, 3), **QUICK)
    first = measure("coarse", "mb_dcnn_coarse", width=8, rates=(1, 2, 3), **QUICK)
    first.network.save(tmp_path / "coarse")
    found = mask_metrics.jaccard(first.predictions).mean()
    assert found > 0.5, "a guess of everything has 0.14"

    second = {}
    fast = {"coarse": coarse, "rate": 3e-2}
    for mask in ("truth", "none", "shuffled", "predicted"):
        name = "classifier" if mask == "predicted" else mask
        needed = () if mask in ("truth", "none") else ("coarse",)
        one = measure(name, "mb_dcnn_classifier", needed, mask=mask, **fast)
        second[mask] = metrics.auroc(one.predictions.labels, one.predictions.probs)
    one.network.save(tmp_path / "classifier")
    loaded = guided.load_guided(tmp_path / "classifier")
    assert (loaded.views, loaded.kind, loaded.class_names) == (one.network.views, "class", tuple("abc"))
    assert second["truth"] >= second["predicted"] > 0.9 > second["none"], second
    assert second["shuffled"] < second["predicted"] - 0.05, second

    with monkeypatch.context() as patch:
        patch.setattr(data, "Batches", stopping_after(20))
        with pytest.raises(Killed):
            measure("killed", "mb_dcnn_classifier", ("coarse",), **fast)
    again = measure("killed", "mb_dcnn_classifier", ("coarse",), **fast)
    np.testing.assert_array_equal(again.predictions.probs, one.predictions.probs)
    assert again.network.save(tmp_path / "killed") == one.network.save(tmp_path / "classifier")

    classifier = chosen("mb_dcnn_classifier", coarse=coarse)
    third = measure("enhanced", "mb_dcnn_enhanced", ("coarse", "classifier"), classifier=classifier, rate=5e-3, **QUICK)
    assert mask_metrics.jaccard(third.predictions).mean() > found - 0.05 and third.network is None


class TestRefused:
    @pytest.mark.parametrize(
        ("protocol", "wrong", "message"),
        [
            ("mb_dcnn_coarse", {"rank_weight": -1.0}, "system.rank_weight is -1.0; it must be at least 0"),
            ("mb_dcnn_coarse", {"rank_pixels": 0}, "system.rank_pixels is 0; it must be at least 1"),
            ("mb_dcnn_coarse", {"rates": ()}, r"system.rates \(\); they must be at least 1"),
            ("mb_dcnn_coarse", {"scales": (0.0,)}, r"system.scales are \(0.0,\); there must be some, each positive"),
            (
                "mb_dcnn_classifier",
                {"mask": "half"},
                "system.mask is 'half'; known are predicted, truth, no",
            ),
            (
                "mb_dcnn_classifier",
                {"imbalance": "ldam_drw"},
                "mb_dcnn_classifier takes a method with a linear head",
            ),
            ("mb_dcnn_enhanced", {"class_map": "raw"}, "system.class_map is 'raw'; known are clipped, signed, zeros"),
        ],
    )
    def test_fields_that_cannot_be(self, protocol, wrong, message):
        with pytest.raises(UserError, match=message):
            protocols.check_target(chosen(protocol, **wrong), squares(IMAGES, 0))

    def test_a_classifier_that_was_given_the_answer(self):
        told = chosen("mb_dcnn_enhanced", classifier=chosen("mb_dcnn_classifier", mask="truth"))
        with pytest.raises(UserError, match="its map would tell mb_dcnn_enhanced the mask that it is to predict"):
            protocols.check_target(told, squares(IMAGES, 0))

    def test_networks_that_were_shown_other_images(self):
        other = {**tiny.STILL, "std": (0.5, 0.5, 0.5)}
        for earlier, place in (
            (chosen("mb_dcnn_classifier", views=other), "earlier.classifier"),
            (
                chosen("mb_dcnn_classifier", coarse=chosen("mb_dcnn_coarse", views=other)),
                "earlier.classifier.earlier.coarse",
            ),
        ):
            with pytest.raises(
                UserError, match=rf"views.std is .*, and {place}.views.std \(0.5, 0.5, 0.5\): mb_dcnn_en"
            ):
                protocols.check_target(chosen("mb_dcnn_enhanced", classifier=earlier), squares(IMAGES, 0))

    def test_volumes_and_other_networks(self):
        volumes = base.target("mb_dcnn_coarse", size=16, preset="ct")
        with pytest.raises(UserError, match="mb_dcnn_coarse takes images alone; views.dimensions is 3"):
            protocols.check_target(volumes, squares(IMAGES, 0))
        model = base.get_config().model
        model.name = "vit_tiny"
        with pytest.raises(UserError, match="model.name is 'vit_tiny' .* mb_dcnn_coarse takes a ResNet of images"):
            backbones.check_model(chosen("mb_dcnn_coarse"), model)


def test_only_what_is_used_is_trained_first():
    needed = {mask: list(guided.plan_needed(chosen("mb_dcnn_classifier", mask=mask))) for mask in masks.SOURCES}
    assert needed == {"predicted": ["coarse"], "shuffled": ["coarse"], "truth": [], "none": []}
    assert list(enhanced.plan_needed(chosen("mb_dcnn_enhanced"))) == ["coarse", "classifier"]
