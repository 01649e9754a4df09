"""Fine-tuning with a method against class imbalance, from its batches to its classifier, and the same after a kill."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from short_measurements import IMAGES, RUNTIME, Killed, stopping_after, subject, target
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, data
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.protocols import Measurement, Subject
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import finetune, imbalance
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.training.state import make_state
from aiseeme_jax.weights import CLASSIFIER, Classifier, save_classifier
from bench.measure import count_compilations
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table")
SPEC = augment.Views(**{**tiny.STILL, "size": tiny.SIZE})
# Ten steps an epoch: one for each of ten images in a batch.
SELF_PACED = {"name": "ccl", "warmup": 0.2, "start": 0.67, "every": 0.5}


def task(method, counts=(8, 8, 8), **fields):
    made = imbalance.make_method({**imbalance.default_fields(method), **fields})
    return FineTuning(tiny.Linear(), SPEC, method=made, counts=counts, rngs=nnx.Rngs(0))


def lose(made, labels, progress=0.0):
    """The loss of a batch of as many images."""
    views = {"image": tiny.noise("image", count=len(labels), size=tiny.SIZE)["image"], "label": jnp.asarray(labels)}
    return tiny.loss(made, views, progress), views


class TestDifficulty:
    def test_is_the_mean_loss_of_the_epoch_over_all_rows(self):
        made = task("ccl")
        rows: dict[int, list[float]] = {}
        for labels in ([0, 0, 2, 2], [0, 2, 2, 2]):
            _, views = lose(made, labels, progress=0.5)
            logits = np.float64(made.trained_network(views["image"], train=True)[0])
            for row, label in zip(logits, labels, strict=True):
                rows.setdefault(label, []).append(np.log(np.exp(row - row[label]).sum()))
        assert np.isnan(made.difficulty.get_value()).all(), "nothing is known before the epoch ends"
        made.end_epoch()
        expected = [np.mean(rows[0]), np.nan, np.mean(rows[2])]
        np.testing.assert_allclose(made.difficulty.get_value(), expected, rtol=1e-5)
        made.end_epoch()
        np.testing.assert_allclose(made.difficulty.get_value(), expected, rtol=1e-5, err_msg="no row, no news")

    @pytest.mark.parametrize("method", [name for name in imbalance.METHODS if name != "ccl"])
    def test_other_methods_have_no_such_state(self, method):
        made = task(method)
        assert made.difficulty is None and not made.method.measures_difficulty
        made.end_epoch()


def test_a_post_hoc_shift_is_in_the_bias_in_use_and_not_in_training():
    made = task("logit_adjustment", counts=(90, 9, 1))
    image = tiny.noise("image", count=4, size=tiny.SIZE)["image"]
    plain, used = (np.asarray(net(image, train=False)[0]) for net in (made.trained_network, made.network))
    np.testing.assert_allclose(used - plain, np.tile(-np.log([0.9, 0.09, 0.01]), (4, 1)), rtol=1e-4)
    assert made.head.bias.get_value().tolist() == [0, 0, 0]


class TestBalancedBatches:
    LABELS = np.array([0] * 20 + [2] * 3 + [3] * 7)

    def split(self):
        return data.from_arrays(tiny.images(30), self.LABELS, class_names=("a", "b", "c", "d"))

    def steps(self, start=0, count=20, seed=0):
        order = data.balance(self.split()).order(batch_size=8, seed=seed)
        return np.stack([order[start + step] for step in range(count)])

    def test_hold_every_class_that_occurs_alike(self):
        labels = self.LABELS[self.steps()]
        assert {0, 2, 3} == set(labels.ravel())
        for batch in labels:
            assert np.bincount(batch, minlength=4)[[0, 2, 3]].min() >= 2
        assert np.ptp(np.bincount(labels.ravel())[[0, 2, 3]]) <= 2

    @pytest.mark.slow
    def test_every_image_of_a_class_comes_before_any_comes_again(self):
        for c, size in ((0, 20), (2, 3), (3, 7)):
            series = self.steps().ravel()
            series = series[self.LABELS[series] == c]
            for start in range(0, len(series) - size + 1, size):
                assert len(set(series[start : start + size])) == size

    @pytest.mark.slow
    def test_follow_from_seed_and_step(self):
        np.testing.assert_array_equal(self.steps()[11:15], self.steps(start=11, count=4))
        assert (self.steps(seed=1) != self.steps()).any()

    @pytest.mark.parametrize("labels", [np.array([[1.0], [0.0]]), np.array([0, -1])])
    def test_need_one_known_class_of_each_image(self, labels):
        with pytest.raises(ValueError, match="batches can be balanced where each image has one known class"):
            data.balance(data.from_arrays(tiny.images(2), labels, class_names=("a",)))

    def test_are_those_that_fine_tuning_is_given(self, tmp_path, monkeypatch):
        given = []

        def batches(split, **options):
            given.append(split)
            raise Killed

        monkeypatch.setattr(data, "Batches", batches)
        for method, kind in (("balanced_sampling", data.Balanced), ("none", data.Split)):
            with pytest.raises(Killed):
                protocols.measure(Measurement(target(imbalance=method), 1.0, 0), subject(), tmp_path, RUNTIME)
            assert type(given[-1]) is kind


class TestLearningRate:
    """Three classes, of which two are in at first and all at 0.2 + 0.5 of 24 steps: 16.8, so from step 17."""

    def rates(self, method, schedule):
        chosen = target(imbalance=method, schedule=schedule, duration=base.duration(steps=24))
        measured, measurement = subject(), Measurement(chosen, 1.0, 0)
        recipe = finetune.recipe_for(measurement, measured, patience=1)
        program = make_state(finetune.make_task(measurement, measured, RUNTIME), recipe)[0]
        return np.array([float(program.schedule()(step)) for step in range(24)])

    def test_stays_at_its_peak_until_all_classes_are_in(self):
        warmup = {"warmup": base.duration(steps=3)}
        found = self.rates(SELF_PACED, warmup)
        np.testing.assert_allclose(found[3:18], 1e-3, rtol=1e-6)
        # Then the whole cosine of a training of the seven steps that are left.
        np.testing.assert_allclose(found[17:], [0.5e-3 * (1 + np.cos(np.pi * s / 7)) for s in range(7)], rtol=1e-4)

    @pytest.mark.parametrize("name", ["cosine", "step", "constant"])
    def test_never_rises_again(self, name):
        found = self.rates(SELF_PACED, {"name": name, "milestones": (0.3, 0.6)})
        assert (np.diff(found) <= 0).all()
        np.testing.assert_allclose(found[:18], 1e-3, rtol=1e-6)
        if name == "step":
            # 0.3 and 0.6 of the seven steps, from the seventeenth on.
            np.testing.assert_allclose(found[[18, 19, 20, 21]], [1e-3, 1e-4, 1e-4, 1e-5], rtol=1e-5)

    @pytest.mark.parametrize("method", ["none", "ldam_drw", {"name": "ccl", "start": 1.0}])
    def test_other_methods_leave_the_schedule_alone(self, method):
        np.testing.assert_array_equal(self.rates(method, {}), self.rates("inverse_frequency", {}))


@pytest.mark.slow
def test_shares_and_seeds_and_arms_share_what_is_compiled(tmp_path, make_tiny_backbone):
    """Classes of other sizes are other numbers for one program. A share of fewer images than a batch has its own."""
    splits = {name: uneven(count, seed) for seed, (name, count) in enumerate({"train": 120, "validation": 12}.items())}
    splits["test"] = splits["validation"]
    asked = target(duration=base.duration(steps=2), imbalance="class_balanced")
    compiled = {}
    for arm in ("curriculum", "scratch"):
        measured = Subject(arm, make_tiny_backbone(), splits=splits)
        for share, seed in itertools.product((1.0, 0.5, 0.1), (0, 1)):
            with count_compilations() as names:
                protocols.measure(Measurement(asked, share, seed), measured, tmp_path / f"{arm}{share}{seed}", RUNTIME)
            compiled[arm, share, seed] = names
    first, smaller = compiled.pop(("curriculum", 1.0, 0)), compiled.pop(("curriculum", 0.1, 0))
    assert first.count("jit(train_step)") == 1 and smaller.count("jit(train_step)") == 1
    assert set(smaller) <= {"jit(train_step)", "jit(feature_health)"}
    assert not any(compiled.values()), compiled
    sizes = [
        imbalance.count(measured.labels("train").take(measured.training_rows(Measurement(asked, share, seed))))
        for share, seed in itertools.product((1.0, 0.5, 0.1), (0, 1))
    ]
    assert len(set(sizes)) > 2, "of shares whose classes have different sizes"


def uneven(count, seed):
    """Lesions of one to five photographs, so that the sizes of classes depend on which lesions are drawn."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), random.integers(1, 6, count))[:count]
    labels = np.searchsorted([0.5, 0.8, 1.0], random.random(count)[groups], side="right").astype(np.int64)
    names = [f"{seed}-{group}" for group in groups]
    return data.from_arrays(tiny.images(count, seed=seed), labels, names, ("dark", "grey", "bright"), name="tiny:train")


class TestCheck:
    @pytest.mark.parametrize(
        "method, message",
        [
            ({"name": "class_balanced", "beta": 2.0}, "imbalance.beta is 2.0"),
            ({"name": "ccl", "start": 0.3}, "imbalance.start is 0.3: of 3 classes the curriculum would begin with one"),
            ({"name": "ccl", "start": 0.67, "warmup": 0.9, "every": 0.09}, "warmup lasts 0 steps and 12 steps at the"),
        ],
    )
    def test_a_method_that_cannot_be_is_named_before_anything_is_trained(self, method, message):
        with pytest.raises(UserError, match=message):
            protocols.check_target(target(imbalance=method), tiny.split(IMAGES))


@pytest.mark.slow
def test_a_kill_in_the_middle_changes_nothing(tmp_path, monkeypatch):
    """Killed in the second of two epochs: the class order of the first one and the sums of the second go on."""
    measured, measurement = subject(), Measurement(target(imbalance=SELF_PACED), 1.0, 0)

    def measure(directory):
        return protocols.measure(measurement, measured, directory, RUNTIME)

    whole = measure(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(data, "Batches", stopping_after(8))
        with pytest.raises(Killed):
            measure(tmp_path / "killed")
    again = measure(tmp_path / "killed")
    assert again.classifier.hash() == whole.classifier.hash()
    np.testing.assert_array_equal(again.predictions.probs, whole.predictions.probs)


def test_a_static_order_is_that_of_the_losses_of_the_baseline(tmp_path):
    measured = subject()
    rows = measured.training_rows(Measurement(target(), 0.5, 0))
    plain = FineTuning(
        tiny.backbone(), SPEC, method=imbalance.make_method({"name": "none"}), counts=(1, 1, 1), rngs=nnx.Rngs(3)
    )
    plain.head.kernel.set_value(100 * plain.head.kernel[...])
    baseline = Classifier(plain.network, "class", ("dark", "grey", "bright"), SPEC)
    chosen = target(imbalance={"name": "ccl", "order": "static", "start": 0.67})
    with pytest.raises(ValueError, match="order=static,start=0.67.* give the folder .* as `baseline`"):
        finetune.make_task(Measurement(chosen, 0.5, 0), measured, RUNTIME)
    save_classifier(tmp_path / CLASSIFIER, baseline)
    made = finetune.make_task(Measurement(chosen, 0.5, 0, {"baseline": tmp_path}), measured, RUNTIME)
    images, labels = measured.splits["train"].images()[rows], measured.splits["train"].labels[rows]
    truth = np.float64(baseline.predict(images, calibrated=False))[np.arange(len(rows)), labels]
    expected = [-np.log(truth[labels == c]).mean() for c in range(3)]
    np.testing.assert_allclose(made.difficulty.get_value(), expected, rtol=1e-3)
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(made)))
    made.end_epoch()
    tiny.assert_same(nnx.to_pure_dict(nnx.state(made)), before)
