"""Segmentation: the task, its loss and its views; what is learnt; the same after a kill."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from short_measurements import IMAGES, RUNTIME, Killed, stopping_after, target
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, data, losses, models
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.protocols import Measurement
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import masks, segment
from aiseeme_jax.evaluate.segmentation import Segmentation
from aiseeme_jax.models import resnet
from aiseeme_jax.models.segmentation import resize_logits
from configs import base

LOSSES = (losses.masked_binary_cross_entropy, losses.soft_dice)
pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table")
STILL = augment.Views(**{**tiny.STILL, "size": tiny.SIZE})


def add_masks(split, seed=0):
    """A bright square in each image, and its mask."""
    random = np.random.default_rng(seed)
    masks = np.zeros((len(split), tiny.SIZE, tiny.SIZE, 1), np.uint8)
    for mask in masks:
        top, left = random.integers(0, 8, 2)
        mask[top : top + 7, left : left + 7] = 1
    images = split.images() // 3 + 150 * masks
    return dataclasses.replace(split, source=images, segmentation=masks)


def make_backbone():
    """Two stages, so that the decoder has a convolution and a skip."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.ARCHITECTURES, "two", (False, (1, 1, 0, 0)))
        return models.ResNet("two", width=0.125, stem="small", rngs=nnx.Rngs(0))


def measured():
    sizes = {"train": IMAGES, "validation": 24, "test": 24}
    splits = {name: add_masks(tiny.split(size, seed=seed), seed) for seed, (name, size) in enumerate(sizes.items())}
    return protocols.Subject("curriculum", make_backbone(), splits)


def chosen(**changes):
    fields = {"optimizer": {"name": "adamw", "learning_rate": 1e-2}, "batch_size": 16, "views": tiny.STILL}
    return target("segment", **{**fields, "duration": base.duration(epochs=2), **changes})


def make_task(**changes):
    return Segmentation(make_backbone(), STILL, rngs=nnx.Rngs(0), **changes)


def make_batch(split, rows=range(8)):
    rows = np.array(rows)
    return {"image": jnp.asarray(split.read(rows)), "segmentation": jnp.asarray(split.read_segmentation(rows))}


class TestTask:
    @pytest.mark.slow
    def test_the_loss_is_half_the_cross_entropy_and_half_the_dice_loss_of_what_is_known(self):
        batch = make_batch(add_masks(tiny.split(8)))
        task = make_task()
        whole = task.loss(task.views(jax.random.key(0), batch), jnp.zeros(()))
        halves = [float(whole.metrics[name]) for name in ("cross_entropy", "soft_dice")]
        assert float(whole.loss) == pytest.approx(np.mean(halves), rel=1e-5) and not whole.empty
        # What a mask says of pixels that are not known does not matter, and neither does the network there.
        view, half = task.views(jax.random.key(0), batch)["image"], batch["segmentation"].at[:, :8].set(data.UNKNOWN)
        logits, _ = make_task().network(view, train=True)
        known = half[..., 0] != data.UNKNOWN
        terms = [loss(logits, half[..., 0] == 1, known) for loss in LOSSES]
        output = make_task().loss({"image": view, "mask": half}, jnp.zeros(()))
        assert float(output.loss) == pytest.approx(float(sum(terms)) / 2, rel=1e-5) and output.loss != whole.loss

    def test_a_batch_of_unknown_masks_is_empty(self):
        batch = make_batch(add_masks(tiny.split(8)))
        batch["segmentation"] = jnp.full_like(batch["segmentation"], data.UNKNOWN)
        task = make_task()
        output = task.loss(task.views(jax.random.key(0), batch), jnp.zeros(()))
        assert bool(output.empty) and float(output.loss) == 0

    def test_a_frozen_backbone_keeps_its_running_statistics(self):
        batch = make_batch(add_masks(tiny.split(8)))
        for trained, stays in (("decoder", True), ("all", False)):
            task = make_task(trained=trained)
            before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(task.backbone, nnx.BatchStat)))
            task.loss(task.views(jax.random.key(0), batch), jnp.zeros(()))
            after = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(task.backbone, nnx.BatchStat)))
            assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, after))) == stays
            assert (set(task.frozen(jnp.zeros(()))) == {"backbone"}) == stays

    @pytest.mark.slow
    def test_works_with_a_transformer(self):
        task = Segmentation(tiny.vit(), STILL, rngs=nnx.Rngs(0))
        logits, _ = task.network(jnp.zeros((2, tiny.SIZE, tiny.SIZE, 3)), train=False)
        assert logits.shape == (2, tiny.SIZE, tiny.SIZE) and logits.dtype == jnp.float32


class Planted(nnx.Module):
    """A network that answers whether the first channel is bright."""

    def __call__(self, images, *, train, train_backbone=True):
        return images[..., 0] - 0.5, images.mean(axis=(1, 2))


class TestScores:
    def test_a_right_answer_is_perfect_at_the_size_of_the_stored_image(self):
        # Views are half as large as the images, whose masks are blocks of four pixels.
        split = tiny.split(9)
        blocks = np.random.default_rng(0).random((9, 4, 4, 1)) < 0.5
        blocks = blocks.repeat(4, axis=1).repeat(4, axis=2)
        blocks[4] = False
        split = dataclasses.replace(
            split, source=(255 * blocks).repeat(3, axis=-1).astype(np.uint8), segmentation=blocks.astype(np.uint8)
        )
        found = segment.score_masks(Planted(), split, STILL, batch_size=8)
        assert list(found.ids) == list(split.ids) and (found.true == blocks.sum(axis=(1, 2, 3))).all()
        np.testing.assert_array_equal(masks.jaccard(found), 1)
        np.testing.assert_array_equal(found.hausdorff95, 0)
        half = dataclasses.replace(STILL, size=8)
        assert (masks.jaccard(segment.score_masks(Planted(), split, half, batch_size=8)) > 0.7).all()
        assert segment.mean_jaccard(Planted(), split, STILL, 8) == 1

    def test_pixels_that_are_not_known_count_nowhere(self):
        split = tiny.split(8)
        bright = (split.images()[..., :1] > 127).astype(np.uint8)
        wrong = bright.copy()
        wrong[:, :6] = data.UNKNOWN
        known = bright[:, 6:].sum(axis=(1, 2, 3))
        found = segment.score_masks(Planted(), dataclasses.replace(split, segmentation=wrong), STILL, batch_size=8)
        np.testing.assert_array_equal(found.common, known)
        np.testing.assert_array_equal(found.predicted, known)
        np.testing.assert_array_equal(found.true, known)

    def test_logits_are_resized_to_images_of_any_shape(self):
        logits = jnp.asarray(np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4))
        assert resize_logits(logits, 6, 10).shape == (1, 6, 10)
        np.testing.assert_array_equal(resize_logits(logits, 4, 4), logits)


@pytest.mark.slow
def test_learns_what_is_bright_survives_a_kill_and_leaves_the_backbone_as_it_is(tmp_path, monkeypatch):
    one = measured()
    measurement = Measurement(chosen(duration=base.duration(steps=30)), 0.5, 0)

    def measure(directory):
        return protocols.measure(measurement, one, directory, RUNTIME)

    whole = measure(tmp_path / "whole")
    found = whole.predictions
    assert masks.jaccard(found).mean() > 0.9 and masks.jaccard(found).std() > 0
    assert whole.chosen["images"] == 48 and whole.chosen["best_step"] in (6, 12, 18, 24, 30)
    # The score on validation is that of the weights that the test images were measured with.
    assert masks.jaccard(whole.validation).mean() == pytest.approx(whole.chosen["validation_score"], abs=1e-6)
    assert whole.chosen["hausdorff95_undefined"] == np.isnan(found.hausdorff95).sum()
    tiny.assert_same(one.backbone, make_backbone())
    with monkeypatch.context() as patch:
        patch.setattr(data, "Batches", stopping_after(20))
        with pytest.raises(Killed):
            measure(tmp_path / "killed")
    again = measure(tmp_path / "killed")
    for name in ("common", "predicted", "true", "hausdorff95"):
        np.testing.assert_array_equal(getattr(again.predictions, name), getattr(found, name))
    same = ("best_step", "validation_score", "steps", "images")
    assert {key: again.chosen[key] for key in same} == {key: whole.chosen[key] for key in same}


@pytest.mark.slow
def test_the_decoder_alone_can_be_trained(tmp_path):
    one = measured()
    measurement = Measurement(chosen(trained="decoder", duration=base.duration(steps=3)), 1.0, 0)
    outcome = protocols.measure(measurement, one, tmp_path, RUNTIME)
    assert outcome.chosen["steps"] == 3 and outcome.classifier is None
    tiny.assert_same(outcome.network.network.backbone, make_backbone())
    tiny.assert_different(outcome.network.network.decoder, segment.make_task(measurement, one).decoder)


def test_volumes_are_refused():
    volumes = base.target("segment", size=16, preset="ct")
    with pytest.raises(UserError, match="segment measures backbones of images alone; views.dimensions is 3"):
        protocols.check_target(volumes, tiny.split(IMAGES))


def test_shares_are_nested_and_of_whole_groups():
    split = add_masks(tiny.split(IMAGES))
    small, large = (segment.draw_rows(split, share, 0) for share in (0.25, 0.5))
    assert set(small) < set(large) and len(small) == 24 and len(large) == 48
    assert not set(split.groups[small]) & set(np.delete(split.groups, small))
    assert len(segment.draw_rows(split, 1.0, 5)) == IMAGES


def test_a_split_without_masks_is_refused():
    with pytest.raises(UserError, match="has no segmentations: take a config .* '_mask'"):
        data.segmented(tiny.split())
    unknown = dataclasses.replace(tiny.split(4), segmentation=np.full((4, 16, 16, 1), data.UNKNOWN, np.uint8))
    with pytest.raises(UserError, match="no image of tiny:train has a mask: put masks beside the images"):
        data.segmented(unknown)
    some = unknown.segmentation.copy()
    some[[1, 3], 2, 2] = 0
    part = data.segmented(dataclasses.replace(unknown, segmentation=some))
    assert list(part.ids) == ["1", "3"], "a mask without anything inside is a mask"


@pytest.mark.slow
def test_losses_are_those_of_definitions_written_out():
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 5, 4)).astype(np.float32)
    inside, known = random.random((3, 5, 4)) < 0.4, random.random((3, 5, 4)) < 0.8
    known[2] = False
    p = 1 / (1 + np.exp(-logits))
    entropy = -np.where(inside, np.log(p), np.log(1 - p))[known].mean()
    assert float(losses.masked_binary_cross_entropy(logits, inside, known)) == pytest.approx(entropy, rel=1e-5)
    terms = []
    for i in range(2):
        q, y = p[i][known[i]], inside[i][known[i]].astype(float)
        for a, b in ((q, y), (1 - q, 1 - y)):
            terms.append(1 - 2 * (a * b).sum() / (a.sum() + b.sum() + 1e-5))
    assert float(losses.soft_dice(logits, inside, known)) == pytest.approx(np.mean(terms), rel=1e-5)
    nothing = np.zeros_like(known)
    for loss in LOSSES:
        assert float(loss(logits, inside, nothing)) == 0
        assert np.isfinite(jax.grad(lambda x, f=loss: f(x, jnp.asarray(inside), jnp.asarray(nothing)))(logits)).all()
