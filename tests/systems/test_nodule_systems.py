"""MV-KBC, the system in the style of SSAC and Fuse-TSD: what must hold, what is refused, and that each learns."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import nodules
import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import ConfigDict
from scipy.special import expit, softmax
from short_measurements import RUNTIME, stopping_after
from short_runs import Killed
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, data
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import metrics
from aiseeme_jax.systems import mv_kbc, ssac
from aiseeme_jax.systems.multi_view import MultiViewNetwork, decision_entropy, patch_entropy, weigh_missed
from aiseeme_jax.systems.nodule_batches import Cutting, count_planes
from aiseeme_jax.systems.ssac.task import AUTOENCODER, CRITIC
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table")
VIEWS = augment.make_views("grey_planes", nodules.SIDE, fixed=nodules.VIEWS)
START = jnp.zeros(())


class Mean(nnx.Module):
    """A backbone without parameters: two features, the mean and the spread of a patch."""

    features, channels, dtype = 2, 1, jnp.dtype("float32")

    def __call__(self, x, *, train):
        return {"pooled": jnp.stack([x.mean(axis=(1, 2, 3)), x.std(axis=(1, 2, 3))], axis=1)}


def make_network(copies=1, **changes):
    fields = {"planes": 3, "kinds": 2, "hidden": (), "dropout": 0.0, "fusion": "learned", **changes}
    return MultiViewNetwork([Mean() for _ in range(2 * copies)], **fields, rngs=nnx.Rngs(0))


PATCHES = np.random.default_rng(0).normal(size=(4, 3, 2, 5, 5, 1)).astype(np.float32)


class TestNetwork:
    def test_decisions_are_fused_in_each_plane_and_then_over_the_planes(self):
        network = make_network()
        random = np.random.default_rng(1)
        kernels, biases = random.normal(size=(3, 4, 2)), random.normal(size=(3, 2))
        last, bias = random.normal(size=6), random.normal()
        for name, value in zip(
            ("plane_kernels", "plane_biases", "last_kernel", "last_bias"), (kernels, biases, last, bias), strict=True
        ):
            getattr(network, name).set_value(jnp.asarray(value, jnp.float32))
        logits, decided, features = network(PATCHES, train=False)
        for nodule in range(4):
            pairs = []
            for plane in range(3):
                pair = []
                for kind in range(2):
                    patch = PATCHES[nodule, plane, kind]
                    head = network.heads[kind].last
                    own = np.array([patch.mean(), patch.std()]) @ head.kernel.get_value() + head.bias.get_value()
                    np.testing.assert_allclose(logits[nodule, plane, kind], own, rtol=1e-4, atol=1e-5)
                    np.testing.assert_allclose(features[nodule, plane, kind], [patch.mean(), patch.std()], atol=1e-5)
                    pair.extend(softmax(own))
                pairs.extend(softmax(np.array(pair) @ kernels[plane] + biases[plane]))
            assert float(decided[nodule]) == pytest.approx(np.array(pairs) @ last + bias, rel=1e-4, abs=1e-5)

    def test_it_starts_near_the_mean_which_the_other_fusion_is(self):
        network, mean = make_network(), make_network(fusion="mean")
        logits, decided, _ = network(PATCHES, train=False)
        _, plain, _ = mean(PATCHES, train=False)
        expected = softmax(np.asarray(logits), axis=-1).mean(axis=(1, 2))[:, 1]
        np.testing.assert_allclose(expit(np.asarray(plain)), expected, rtol=1e-4)
        np.testing.assert_array_equal(np.argsort(np.asarray(decided)), np.argsort(expected))
        assert ((np.asarray(decided) > 0) == (expected > 0.5)).all()

    def test_a_network_for_each_plane_is_shown_that_plane(self):
        shared, own = make_network(), make_network(3)
        for number, head in enumerate(own.heads):
            nnx.update(head, nnx.state(shared.heads[number // 3]))
        for one, other in zip(shared(PATCHES, train=False), own(PATCHES, train=False), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_dropout_follows_its_key(self):
        network = make_network(hidden=(8,), dropout=0.5)
        one, again, other = (network(PATCHES, train=True, key=jax.random.key(n))[1] for n in (0, 0, 1))
        np.testing.assert_array_equal(one, again)
        assert (np.asarray(one) != np.asarray(other)).any()


class TestPenalty:
    def test_losses_are_those_of_loops(self):
        random = np.random.default_rng(0)
        logits, labels = random.normal(size=12) * 3, random.integers(0, 2, 12)
        weights = np.asarray(weigh_missed(jnp.asarray(logits), jnp.asarray(labels), 2.0))
        entropy = np.asarray(decision_entropy(jnp.asarray(logits), jnp.asarray(labels)))
        for logit, label, weight, found in zip(logits, labels, weights, entropy, strict=True):
            p = 1 / (1 + np.exp(-logit))
            assert weight == (2 if label - p > 0.5 else 1)
            assert found == pytest.approx(-label * np.log(p) - (1 - label) * np.log(1 - p), rel=1e-4, abs=1e-6)
        several = random.normal(size=(2, 3, 2, 2))
        expected = [-np.log(softmax(several[n], axis=-1)[..., label]).mean() for n, label in enumerate((1, 0))]
        np.testing.assert_allclose(patch_entropy(jnp.asarray(several), jnp.array([1, 0])), expected, rtol=1e-5)

    def test_the_weight_has_no_gradient(self):
        labels = jnp.array([1, 0, 1])
        assert not jax.grad(lambda x: weigh_missed(x, labels, 2.0).sum())(jnp.array([-1.0, 1.0, 2.0])).any()

    def test_a_penalty_raises_sensitivity_and_leaves_the_order(self):
        random = np.random.default_rng(0)
        labels = jnp.asarray(np.arange(400) % 2)
        x = jnp.asarray(random.normal(size=400) + 0.8 * labels)

        @jax.jit
        @jax.grad
        def slope(line, penalty):
            logits = line[0] * x + line[1]
            return jnp.mean(weigh_missed(logits, labels, penalty) * decision_entropy(logits, labels))

        found = {}
        for penalty in (1.0, 2.0):
            line = jnp.zeros(2)
            for _ in range(300):
                line = line - 0.5 * slope(line, penalty)
            probs = expit(np.asarray(line[0] * x + line[1]))
            found[penalty] = np.mean(probs[np.asarray(labels) == 1] > 0.5), metrics.auroc(np.asarray(labels), probs)
        assert found[2.0][0] > found[1.0][0] + 0.1 and found[2.0][1] == found[1.0][1]


def make_batch(split, rows=8):
    rows = np.arange(rows)
    return {
        "image": jnp.asarray(split.read(rows)),
        "segmentation": jnp.asarray(split.read_segmentation(rows)),
        "label": jnp.asarray(split.labels[rows]),
    }


@pytest.mark.slow
def test_nine_planes_are_cut_from_volumes():
    random = np.random.default_rng(0)
    batch = {
        "image": random.integers(-900, 300, (2, 16, 16, 16, 1)).astype(np.int16),
        "segmentation": np.zeros((2, 16, 16, 16, 1), np.uint8),
    }
    batch["segmentation"][:, 4:12, 4:12, 4:12] = 1
    views = augment.make_views("ct_planes", 16)
    cutting = Cutting(views, ("OA", "HVV", "HS"), 0.0, volumes=True)
    shown = cutting.show(batch)
    assert shown.shape == (2, 9, 3, 16, 16, 1)
    # The axial square shows the eight voxels of the cube, each in two pixels.
    axial = batch["image"][0, 7:9, 4:12, 4:12, 0].astype(float).mean(axis=0)
    found = np.asarray(augment.to_display(shown[0, 0, 0], views))[..., 0] * 1400 - 1000
    coarse = found.reshape(8, 2, 8, 2).mean(axis=(1, 3))
    assert abs(coarse[1:-1, 1:-1] - axial[1:-1, 1:-1]).mean() < 150 < axial.std()
    volumes = data.from_arrays(batch["image"], [0, 1], class_names=nodules.CLASSES)
    assert count_planes(volumes) == 9 and data.shown_pictures(volumes).shape == (16, 16, 1)
    np.testing.assert_array_equal(data.shown_pictures(volumes).read(np.array([1]))[0], batch["image"][1, 8])


def make_ssac(**changes):
    one = nodules.target("ssac_style", **changes)
    settings = ssac.SSAC_STYLE.read_settings(one)
    return ssac.make_task(settings, protocols.Measurement(one, 1.0, 0), nodules.subject(12, 4), 4)


def state_of(module, kind):
    return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(module, kind)))


def are_equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def make_plain(heads_first, steps):
    cutting = Cutting(VIEWS, ("OA",), 0.0, False)
    return mv_kbc.MultiView(make_network(), cutting, penalty=2.0, heads_first=heads_first, steps=steps)


class TestSemiSupervised:
    def test_helped_classifiers_start_as_the_plain_ones(self):
        task = make_ssac()
        shown = jnp.asarray(PATCHES[:, :1, :1]).repeat(4, axis=3)[:, :, :, :16].repeat(4, axis=4)[:, :, :, :, :16]
        network = task.network
        plain = network.backbones[0](network.select(shown, 0), train=False)["pooled"]
        np.testing.assert_allclose(network.encode(0, network.select(shown, 0), train=False), plain, atol=1e-5)

    @pytest.mark.parametrize("through", [False, True])
    def test_the_gradient_of_a_decision_stops_before_the_autoencoder_unless_it_may_pass(self, through):
        task = make_ssac(through=through)
        for transition in task.network.transitions[0]:
            # They start without help: then nothing could pass.
            transition.join.kernel.set_value(jnp.ones_like(transition.join.kernel.get_value()) / 8)
        shown = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 1, 16, 16, 1)), jnp.float32)
        graph, params, rest = nnx.split(task.network, nnx.Param, ...)
        decide = lambda params: nnx.merge(graph, params, rest)(shown, train=False)[1].sum()  # noqa: E731
        gradient = jax.grad(decide)(params)
        helping = [np.asarray(g) for g in jax.tree.leaves(gradient["autoencoders"])]
        # What lies behind the maps has none in any case: code and decoder.
        assert any(g.any() for g in helping) == through
        assert any(np.asarray(g).any() for g in jax.tree.leaves(gradient["transitions"]))

    @pytest.mark.slow
    @pytest.mark.parametrize("judged", ["image", "code"])
    def test_each_pass_writes_the_running_statistics_of_its_own_part_alone(self, judged):
        task = make_ssac(judged=judged)
        batch = make_batch(nodules.subject(12, 4).splits["train"])
        parts = {"autoencoder": task.network.autoencoders, "classifier": task.network.backbones, "critic": task.critics}
        passes = {
            "classifier": lambda views: task.loss(views, START),
            "critic": lambda views: task.part_loss(CRITIC, views, START),
            "autoencoder": lambda views: task.part_loss(AUTOENCODER, views, START),
        }
        for name, take in passes.items():
            before = {part: state_of(module, nnx.BatchStat) for part, module in parts.items()}
            found = take(task.views(jax.random.key(0), batch))
            assert np.isfinite(float(found.loss))
            for part, module in parts.items():
                # A critic of codes has no norms.
                changes = part == name and bool(jax.tree.leaves(before[part]))
                assert are_equal(before[part], state_of(module, nnx.BatchStat)) != changes, (name, part)

    @pytest.mark.slow
    def test_the_classifier_learns_from_the_labelled_nodules_alone(self):
        task, other = make_ssac(), make_ssac()
        batch = make_batch(nodules.subject(12, 4).splits["train"])
        changed = {**batch, "image": batch["image"].at[4:].set(7), "label": batch["label"].at[4:].set(-1)}
        one = task.loss(task.views(jax.random.key(0), batch), START)
        assert float(other.loss(other.views(jax.random.key(0), changed), START).loss) == float(one.loss)
        assert one.features.shape[0] == len(one.images) == 4 * 3

    def test_the_autoencoder_gets_the_decision_if_it_may_pass(self):
        batch = make_batch(nodules.subject(12, 4).splits["train"])
        losses = {}
        for through in (False, True):
            task = make_ssac(through=through, penalty=5.0)
            views = task.views(jax.random.key(0), batch)
            found = task.part_loss(AUTOENCODER, views, START)
            terms = found.metrics["reconstruction"] + 0.01 * found.metrics["deceived"]
            losses[through] = float(found.loss - terms)
        assert losses[False] == pytest.approx(0, abs=1e-6) and losses[True] > 0.1
        assert losses[True] == pytest.approx(float(task.loss(views, START).loss), rel=1e-4)

    def test_held_backbones_run_in_evaluation_mode(self):
        task = make_ssac(heads_first=0.5)
        batch, network = make_batch(nodules.subject(12, 4).splits["train"]), task.network
        for turn in range(task.alternatives):
            task.turn = turn
            before = [state_of(part, nnx.BatchStat) for part in (network.backbones, network.transitions)]
            task.loss(task.views(jax.random.key(0), batch), START)
            after = [state_of(part, nnx.BatchStat) for part in (network.backbones, network.transitions)]
            assert are_equal(before[0], after[0]) == (turn == 0) and not are_equal(before[1], after[1])

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
    def test_they_run_so_in_the_steps_in_which_they_are_frozen(self, share):
        task, left, ways = make_plain(share, steps=30), 0, []
        for step in range(30):
            progress = jnp.int32(step) / 30
            if task.alternatives > 1 and not left:
                way, left = map(int, task.choose(jax.random.key(0), progress))
                task.turn = way
            left -= 1
            ways.append(task.mode["train_backbones"])
            assert ways[-1] != bool(task.frozen(progress).get("network.backbones", False)), step
        assert ways == sorted(ways) and sum(ways) == round((1 - share) * 30)


class TestPartlyLabelled:
    @pytest.fixture
    def split(self):
        one = nodules.subject(12, 6).splits
        return data.partly_labelled(one["train"], np.arange(8), one["unlabelled"], 0.25)

    def test_each_batch_begins_with_labelled_images(self, split):
        assert len(split) == 18 and (split.labels >= 0).sum() == 8
        order = split.order(batch_size=8, seed=3)
        steps = [order[step] for step in range(40)]
        assert all((split.labels[rows[:2]] >= 0).all() and (split.labels[rows[2:]] < 0).all() for rows in steps)
        known, others = (np.concatenate([rows[part] for rows in steps]) for part in (slice(2), slice(2, None)))
        # Each part is gone through whole before one of its images comes again.
        assert sorted(known[:8]) == list(range(8)) == sorted(known[8:16])
        assert sorted(others[:10]) == list(range(8, 18)) and (known[:8] != known[8:16]).any()
        np.testing.assert_array_equal(split.order(batch_size=8, seed=3)[1000], order[1000])

    def test_masks_and_images_go_with_their_rows(self, split):
        train, unlabelled = (nodules.subject(12, 6).splits[name] for name in ("train", "unlabelled"))
        for row, (part, place) in {3: (train, 3), 14: (unlabelled, 2)}.items():
            rows, places = np.array([row]), np.array([place])
            np.testing.assert_array_equal(split.read(rows), part.read(places))
            np.testing.assert_array_equal(split.read_segmentation(rows), part.read_segmentation(places))
            assert split.groups[row] == part.groups[place]

    def test_a_batch_has_both(self, split):
        assert [dataclasses.replace(split, labelled_share=s).labelled_rows(8) for s in (0.01, 0.5, 0.99)] == [1, 4, 7]
        with pytest.raises(ValueError, match="there is no image without a label"):
            data.partly_labelled(split.subset(np.arange(8)), np.arange(8), split.subset(np.arange(0)), 0.5)


def refuse(name, split, message, **changes):
    one = nodules.target(name, **changes)
    with pytest.raises(UserError, match=message):
        protocols.find_protocol(name).check(one, split)


@pytest.mark.parametrize("name", ["mv_kbc", "ssac_style"])
class TestRefusals:
    def test_of_nodules(self, name):
        whole = nodules.split(12)
        flat = data.each_picture(whole)
        refuse(name, flat, f"{name} needs several planes of each nodule, and nodules:train has one image: take a")
        refuse(name, dataclasses.replace(whole, class_names=("a", "b", "c")), "tells two classes apart, .* a, b, c")
        patches = dataclasses.replace(whole, source=np.zeros((12, 9, 16, 16, 3), np.int16))
        refuse(name, patches, "cuts its patches itself, .* holds patches already: take lidc_idri/views")
        flat_box = data.from_arrays(np.zeros((4, 8, 16, 16, 1), np.int16), [0, 1] * 2, class_names=nodules.CLASSES)
        refuse(name, flat_box, "cuts planes from cubes, and arrays holds volumes")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"kinds": ("OA", "XX")}, r"system.kinds are \('OA', 'XX'\); .* of OA, HVV, HS"),
            ({"fusion": "best"}, "system.fusion is 'best'; known are learned, mean"),
            ({"hidden": (0,)}, r"system.hidden is \(0,\); widths are"),
            ({"dropout": 1.0}, r"system.dropout is 1.0; it must lie in \[0, 1\)"),
            ({"penalty": 0.0}, "system.penalty is 0.0; it must be above 0"),
            ({"margin": -0.1}, "system.margin is -0.1; it must not be negative"),
            ({"batch_size": 0}, "batch_size"),
        ],
    )
    def test_of_fields(self, name, changes, message):
        refuse(name, nodules.split(24), message, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judged": "taste"}, "system.judged is 'taste'; known are image, code"),
        ({"labelled_share": 1.0}, r"system.labelled_share is 1.0; it must lie in \(0, 1\)"),
        ({"width": 0}, "system.width is 0; it must be at least 1"),
        ({"adversarial": -1.0}, "system.adversarial is -1.0"),
        ({"adversary_rate": 0.0}, "system.adversary_rate is 0.0 .* the rate must be positive"),
        ({"size": 24}, "views.size is 24; the autoencoder halves it four times: take a multiple of 16"),
        ({"batch_size": 1}, "batch_size is 1; a batch holds a nodule with a label and one without"),
    ],
)
def test_what_the_semi_supervised_system_cannot_be(changes, message):
    refuse("ssac_style", nodules.split(24), message, **changes)


def test_nodules_without_a_label_are_needed_unless_labels_are_left_out():
    splits = nodules.subject(24, 0).splits
    check = ssac.SSAC_STYLE.check_splits
    with pytest.raises(UserError, match="learns from nodules without a label too, .* lidc_nodules/64_all, leave 1.0"):
        check(nodules.target("ssac_style"), splits)
    for fine in ({"fractions": (0.5,)}, {"unsupervised": False}):
        check(nodules.target("ssac_style", **fine), splits)
    few = {**splits, "train": splits["train"].subset(np.arange(2))}
    with pytest.raises(UserError, match="has none if 50 % of the labels are used with seed 0: .* leave 0.5 out of"):
        check(nodules.target("ssac_style", fractions=(0.5,)), few)
    with pytest.raises(UserError, match="model.name is vit_tiny; ssac_style helps the stages of a ResNet"):
        ssac.SSAC_STYLE.check_model(nodules.target("ssac_style"), ConfigDict({"name": "vit_tiny"}))


@pytest.mark.parametrize("name", ["mv_kbc", "ssac_style"])
def test_all_splits_have_the_same_planes(name):
    train = nodules.split(12)
    one, check = nodules.target(name, fractions=(0.5,)), protocols.find_protocol(name).check_splits
    nine = dataclasses.replace(train, source=np.zeros((12, 9, 16, 16, 1), np.uint8), picture_names=tuple("abcdefghi"))
    cubes = data.from_arrays(np.zeros((4, 8, 8, 8, 1), np.int16), [0, 1] * 2, class_names=nodules.CLASSES)
    empty = {"unlabelled": train.subset(np.arange(0))}
    for other, planes in ((nine, "9 planes"), (cubes, "a volume")):
        with pytest.raises(
            UserError, match=f"test_data: .* has {planes} of each nodule, and nodules:train, .* 3 planes"
        ):
            check(one, {"train": train, "test": other, **empty})
    check(one, {"train": train, "test": train, **empty})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ()}, r"system.features are \(\); there must be some, each once, of texture, shape, deep"),
        ({"deep": "cold"}, "system.deep is 'cold'; known are frozen, finetuned"),
        ({"levels": 1}, "system.levels is 1; it must be at least 2"),
        ({"distances": (0,)}, r"system.distances are \(0,\)"),
        ({"points": 20}, "system.points is 20; 10 harmonics need more than twice as many"),
        ({"decay": -1.0}, "system.decay is -1.0"),
    ],
)
def test_what_fuse_tsd_cannot_be(changes, message):
    refuse("fuse_tsd", nodules.split(24), message, **changes)


def test_fuse_tsd_is_of_slices_and_classes():
    volumes = data.from_arrays(np.zeros((4, 8, 8, 8, 1), np.int16), [0, 1] * 2, class_names=nodules.CLASSES)
    refuse("fuse_tsd", volumes, "describes slices, and arrays holds volumes")
    findings = data.from_arrays(np.zeros((4, 8, 8, 1), np.uint8), np.eye(4)[:, :2], class_names=("a", "b"))
    refuse("fuse_tsd", findings, "tells classes apart, and arrays has findings")


def assert_learnt(outcome, least):
    """Chance is 0.5; with 24 nodules of each class its 95 % quantile is about 0.64."""
    found = metrics.auroc(outcome.predictions.labels, outcome.predictions.probs)
    assert found > least, found
    np.testing.assert_allclose(outcome.predictions.probs.sum(axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_fuse_tsd_learns_and_needs_a_network_if_it_is_to_be_fine_tuned(tmp_path):
    one, measured = nodules.target("fuse_tsd", harmonics=6, points=32), nodules.subject()
    outcome = nodules.measure(one, measured, tmp_path)
    assert_learnt(outcome, 0.85)
    assert outcome.chosen["training_pictures"] == 3 * 48 and sum(outcome.chosen["weights"].values()) == pytest.approx(1)
    again = nodules.measure(one, measured, tmp_path)
    np.testing.assert_array_equal(again.predictions.probs, outcome.predictions.probs)
    assert not one_needs(one) and one_needs(nodules.target("fuse_tsd", deep="finetuned")) == {"network": "finetune"}
    assert not one_needs(nodules.target("fuse_tsd", deep="finetuned", features=("shape",)))
    # A picture without pixels of a nodule is left out, and a nodule without such a picture is a guess.
    bare = measured.splits["test"]
    masks = bare.segmentation.copy()
    masks[0], masks[1, 1:] = 0, 0
    splits = {**measured.splits, "test": dataclasses.replace(bare, segmentation=masks)}
    guessed = nodules.measure(one, dataclasses.replace(measured, splits=splits), tmp_path).predictions.probs
    np.testing.assert_array_equal(guessed[0], [0.5, 0.5])
    np.testing.assert_array_equal(guessed[2:], outcome.predictions.probs[2:])


def one_needs(target):
    needed = protocols.find_protocol("fuse_tsd").plan_needed(target)
    return {name: earlier.protocol for name, earlier in needed.items()}


@pytest.mark.slow
def test_mv_kbc_learns_and_leaves_the_backbone_as_it_is(tmp_path):
    measured = nodules.subject()
    # With this seed one step gives an AUROC of 0.31.
    target = nodules.target("mv_kbc", kinds=("OA", "HS"), heads_first=0.2)
    outcome = nodules.measure(target, measured, tmp_path, seed=3)
    assert_learnt(outcome, 0.8)
    assert outcome.chosen["steps"] == 24 and outcome.chosen["images"] == 48 and outcome.classifier is None
    tiny.assert_same(measured.backbone, tiny.backbone(channels=1))


@pytest.mark.slow
def test_the_adversarial_system_learns_and_goes_on_exactly_after_a_kill(tmp_path, monkeypatch):
    one, measured = nodules.target("ssac_style", duration=base.duration(steps=12)), nodules.subject()

    def measure(folder, **how):
        # With this seed one step gives an AUROC of 0.
        runtime = dataclasses.replace(RUNTIME, **how)
        return nodules.measure(one, measured, tmp_path / folder, fraction=0.5, seed=1, runtime=runtime)

    whole = measure("whole")
    assert_learnt(whole, 0.8)
    labelled = whole.chosen["images"]
    assert abs(labelled - 24) <= 2, "those whose label is hidden are counted with those that have none"
    assert whole.chosen["unlabelled_images"] == 48 + 16 - labelled
    with monkeypatch.context() as patch:
        patch.setattr(data, "Batches", stopping_after(7))
        with pytest.raises(Killed):
            measure("killed")
    made, plain = [], data.Batches
    monkeypatch.setattr(data, "Batches", lambda *args, **how: made.append(plain(*args, **how)) or made[-1])
    again = measure("killed", loading=data.Loading("device"))
    assert [batches.loading.residence for batches in made] == ["device"]
    np.testing.assert_array_equal(again.predictions.probs, whole.predictions.probs)
    np.testing.assert_array_equal(again.validation.probs, whole.validation.probs)
    logs = [(tmp_path / folder / "metrics.jsonl").read_text().splitlines() for folder in ("whole", "killed")]
    last, again = (json.loads(lines[-1]) for lines in logs)
    for name in ("step", "loss", "critic_loss", "autoencoder_reconstruction"):
        assert last[name] == again[name], name
