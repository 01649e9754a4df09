"""Thorax-Net: Grad-CAM weights inside the forward pass, the decision of two branches, and its trainings in a row."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import ConfigDict
from short_measurements import RUNTIME, stopping_after
from short_runs import Killed
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, data, models
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import imbalance, metrics
from aiseeme_jax.models import resnet
from aiseeme_jax.models.classifier import ClassifierNetwork, linear_head
from aiseeme_jax.systems.thorax_net import load_thorax_classifier, network, task
from aiseeme_jax.weights import CLASSIFIER, Classifier, save_classifier
from configs import base

# A block in the first stage and one in the last: the branch takes maps of 16 x 16.
BLOCKS = (False, (1, 0, 0, 1))
FINDINGS = ("bright", "dark")
PLACES = tiny.SIZE**2


@pytest.fixture
def in_the_table(monkeypatch):
    monkeypatch.setitem(resnet.ARCHITECTURES, "penultimate", BLOCKS)
    added = {"penultimate": partial(models.ResNet, "penultimate")}
    monkeypatch.setattr(models, "BACKBONES", {**models.BACKBONES, **added})


def make_backbone(seed=0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.ARCHITECTURES, "penultimate", BLOCKS)
        return models.ResNet("penultimate", width=0.125, stem="small", rngs=nnx.Rngs(seed))


def make_network(outputs=3):
    backbone = make_backbone()
    head = linear_head(backbone.features, outputs, rngs=nnx.Rngs(1))
    fields = {"size": tiny.SIZE, "hidden": 8, "standardise": True, "rngs": nnx.Rngs(2)}
    return network.make_network(backbone, head, **fields)


def run(backbone, count):
    """The endpoints of noise."""
    images = jax.random.normal(jax.random.key(0), (count, tiny.SIZE, tiny.SIZE, 3))
    return nnx.jit(lambda backbone, images: backbone(images, train=False))(backbone, images)


def draw_phantom(count, seed):
    """Grey noise with a bright square in the left half of some images, and a dark one in the right half of others."""
    random = np.random.default_rng(seed)
    images = random.normal(128, 25, (count, tiny.SIZE, tiny.SIZE, 1)).repeat(3, axis=-1)
    labels = random.integers(0, 2, (count, 2)).astype(np.float32)
    for image, (bright, dark) in zip(images, labels, strict=True):
        for there, first, change in ((bright, 0, 70), (dark, tiny.SIZE // 2, -70)):
            top, left = random.integers(0, tiny.SIZE - 5), first + random.integers(0, tiny.SIZE // 2 - 4)
            image[top : top + 5, left : left + 5] += change * there
    groups = [f"{seed}-{i}" for i in range(count)]
    return data.from_arrays(np.clip(images, 0, 255).astype(np.uint8), labels, groups, FINDINGS, name="phantom:train")


def make_target(protocol, *, rate, epochs, **changes):
    training = {"optimizer": {"name": "adamw", "learning_rate": rate}, "batch_size": 16}
    return base.target(
        protocol,
        size=tiny.SIZE,
        views=tiny.STILL,
        duration=base.duration(epochs=epochs),
        **training,
        **changes,
    )


class TestChannelWeights:
    @pytest.mark.slow
    def test_on_the_last_stage_they_are_the_kernel_over_the_places(self):
        one = make_network()
        maps = run(one.backbone, 3)["stage4"]
        found = network.find_channel_weights(one.backbone, one.head, maps, "stage4")
        kernel = np.asarray(one.head.kernel[...]).T
        np.testing.assert_allclose(found, np.broadcast_to(kernel / maps[0, ..., 0].size, found.shape), atol=1e-6)

    @pytest.mark.slow
    def test_they_are_the_mean_gradient_of_each_logit_and_nothing_is_learnt_through_them(self):
        one = make_network()
        maps = run(one.backbone, 2)["stage3"]

        def logit(maps, image, finding):
            x = maps
            for block in one.backbone.stages[3]:
                x = block(x, train=False)
            return one.head(x.mean(axis=(1, 2)))[image, finding]

        found = network.find_channel_weights(one.backbone, one.head, maps)
        gradient = jax.grad(logit)(maps, 1, 2)
        np.testing.assert_allclose(found[1, 2], gradient[1].mean(axis=(0, 1)), rtol=1e-4, atol=1e-9)
        np.testing.assert_array_equal(gradient[0], 0)
        through = jax.grad(lambda maps: network.find_channel_weights(one.backbone, one.head, maps).sum())(maps)
        np.testing.assert_array_equal(through, 0)


class TestMaps:
    @pytest.mark.slow
    def test_they_sum_to_1_and_their_scale_does_not_matter_if_they_are_standardised(self):
        random = np.random.default_rng(0)
        maps = jnp.asarray(random.normal(size=(2, 4, 5, 6)), jnp.float32)
        weights = jnp.asarray(1e-6 * random.normal(size=(2, 3, 6)), jnp.float32)
        found = np.asarray(network.attend(maps, weights, standardise=True))
        np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, rtol=1e-5)
        sums = np.einsum("bhwk,bck->bhwc", np.asarray(maps, np.float64), np.asarray(weights, np.float64))
        white = (sums - sums.mean(axis=(1, 2), keepdims=True)) / sums.std(axis=(1, 2), keepdims=True)
        wanted = np.exp(white) / np.exp(white).sum(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found, wanted, rtol=2e-3)
        # Without, weights as small as those of a trained classifier make flat maps.
        flat = network.attend(maps, weights, standardise=False)
        assert (
            np.log(20) - float(network.measure_entropy(flat))
            < 1e-5
            < np.log(20) - float(network.measure_entropy(jnp.asarray(found)))
        )
        nothing = jax.grad(lambda maps: network.attend(maps, 0 * weights, standardise=True)[..., 0].sum())(maps)
        assert np.isfinite(nothing).all()


@pytest.mark.parametrize("kind", ["class", "findings"])
def test_the_decision_is_the_mean_of_the_probabilities(kind):
    random = np.random.default_rng(0)
    one, other = jnp.asarray(random.normal(0, 3, (2, 5, 3)), jnp.float32)
    to_probabilities = models.classifier.PROBABILITIES[kind]
    found = network.average_decisions(kind, one, other)
    wanted = (to_probabilities(one) + to_probabilities(other)) / 2
    np.testing.assert_allclose(to_probabilities(found), wanted, rtol=1e-4)
    sure = network.average_decisions(kind, jnp.full((1, 2), 90.0), jnp.full((1, 2), 95.0))
    assert np.isfinite(sure).all()
    decided = network.decide(kind, jnp.stack([one, other], axis=1))
    np.testing.assert_allclose(decided["average"], wanted, rtol=1e-6)
    np.testing.assert_array_equal(decided["attention"], to_probabilities(other))


def test_the_weighted_loss_is_half_that_of_the_paper():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(12, 2)), random.integers(0, 2, (12, 2))
    counts = tuple((int(12 - n), int(n)) for n in labels.sum(axis=0))
    method = imbalance.make_method(imbalance.default_fields("inverse_frequency"))
    moment = imbalance.Moment(jnp.zeros(()), table=method.tabulate(counts))
    tables = (jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.float32))
    found = method.loss("findings", *tables, counts, moment)
    total = 0.0
    for i in range(12):
        for c, (absent, present) in enumerate(counts):
            p = 1 / (1 + np.exp(-logits[i, c]))
            weight = (present + absent) / (present if labels[i, c] else absent)
            total -= weight * np.log(p if labels[i, c] else 1 - p)
    assert float(found.value) == pytest.approx(total / 24 / 2, rel=1e-5)


def test_in_training_a_classifier_that_stays_keeps_its_statistics_and_its_gradient_is_zero():
    method = imbalance.make_method(imbalance.default_fields("none"))
    spec = augment.Views(**{**tiny.STILL, "size": tiny.SIZE})
    one = task.AttentionTraining(make_network(), spec, kind="findings", method=method, counts=((1, 1),) * 3)
    views = {
        "image": jax.random.normal(jax.random.key(0), (4, tiny.SIZE, tiny.SIZE, 3)),
        "label": jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, 3)), jnp.float32),
    }
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(one.backbone)))
    output = tiny.loss(one, views)
    tiny.assert_same(before, nnx.to_pure_dict(nnx.state(one.backbone)))
    assert float(output.metrics["map_entropy"]) < np.log(PLACES) and np.isfinite(output.loss)
    assert set(one.frozen(jnp.zeros(()))) == {"backbone", "head"}


@pytest.mark.slow
@pytest.mark.usefixtures("in_the_table", "no_events")
def test_the_trainings_in_a_row_beat_chance_and_survive_a_kill(tmp_path, monkeypatch):
    tiny.use_devices(monkeypatch, 1)
    sizes = {"train": 96, "validation": 48, "test": 96}
    splits = {name: draw_phantom(count, seed) for seed, (name, count) in enumerate(sizes.items())}
    subject = protocols.Subject("scratch", make_backbone(), splits)
    views = augment.Views(**{**tiny.STILL, "size": tiny.SIZE})
    runtime = dataclasses.replace(RUNTIME, checkpoint_every=10)

    def measure(target, name, **needed):
        measurement = protocols.Measurement(target, 1.0, 0, needed)
        return protocols.measure(measurement, subject, tmp_path / name, runtime)

    # In place of fine-tuning, which is tested elsewhere, a classifier that has learnt nothing.
    plain = Classifier(
        ClassifierNetwork(make_backbone(), linear_head(64, 2, rngs=nnx.Rngs(0))), "findings", FINDINGS, views
    )
    (tmp_path / "plain").mkdir()
    save_classifier(tmp_path / "plain" / CLASSIFIER, plain)
    of_branch = make_target("thorax_attention", rate=3e-3, epochs=10, hidden=8)
    attention = measure(of_branch, "attention", classifier=tmp_path / "plain")
    attention.network.save(tmp_path / "attention")
    tiny.assert_same(attention.network.network.backbone, plain.network.backbone)
    branches = attention.network.network.run(
        augment.central_view(jnp.asarray(splits["test"].images()), attention.network.views), train=False
    )
    # Maps are not flat.
    assert float(network.measure_entropy(branches.maps)) < np.log(PLACES) - 0.1
    whole = make_target("thorax_net", rate=3e-3, epochs=6)
    joint = measure(whole, "joint", branch=tmp_path / "attention")
    # The branch alone, on maps that nobody trained, is worth less than all together. Chance is a half.
    for one, margin in ((attention, 0.1), (joint, 0.3)):
        scores = {
            name: one.chosen[f"validation_score_of_{name}"] for name in ("classification", "attention", "average")
        }
        assert scores["average"] >= min(scores["classification"], scores["attention"])
        assert metrics.auroc(one.predictions.labels, one.predictions.probs) > 0.5 + margin, scores
    tiny.assert_different(joint.network.network.backbone, plain.network.backbone)

    loaded = load_thorax_classifier(tmp_path / "attention")
    tiny.assert_same(loaded.network, attention.network.network)
    assert loaded.class_names == FINDINGS and loaded.views == attention.network.views
    with monkeypatch.context() as patch:
        patch.setattr(data, "Batches", stopping_after(23))
        with pytest.raises(Killed):
            measure(whole, "killed", branch=tmp_path / "attention")
    again = measure(whole, "killed", branch=tmp_path / "attention")
    tiny.assert_same(again.network.network, joint.network.network)
    np.testing.assert_array_equal(again.predictions.probs, joint.predictions.probs)


def test_what_cannot_be_is_said():
    train = draw_phantom(48, 0)
    plain = make_target("finetune", rate=1e-3, epochs=1)
    branch = make_target("thorax_attention", rate=1e-3, epochs=1, classifier=plain)
    of_all = partial(make_target, "thorax_net", rate=1e-3, epochs=1, branch=branch)
    small = make_target("thorax_attention", rate=1e-3, epochs=1)
    with small.unlocked():
        small.views.size = 8
    for target, message in [
        (make_target("thorax_attention", rate=1e-3, epochs=1, hidden=0), "hidden is 0"),
        (of_all(loss_shares=(0.5, 0.5)), "loss_shares are"),
        (of_all(imbalance="balanced_sampling"), "has a weighted loss alone"),
        (small, "views.size is 8, and earlier.classifier.views.size 16"),
        (of_all(test_views="all"), "test_views is 'all'"),
    ]:
        with pytest.raises(UserError, match=message):
            protocols.check_target(target, train)
    whole = of_all()
    protocols.check_target(whole, train)
    protocol = protocols.find_protocol("thorax_net")
    with pytest.raises(UserError, match="model.name is 'vit_small'; thorax_net takes the maps of a ResNet"):
        protocol.check_model(whole, ConfigDict({"name": "vit_small"}))
    assert protocol.plan_needed(whole)["branch"].protocol == "thorax_attention"
