"""Methods against class imbalance: golden values, NumPy references, pacing computed by hand, and bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import imbalance
from aiseeme_jax.evaluate.imbalance import METHODS, Moment
from aiseeme_jax.evaluate.imbalance.base import class_balanced_weights
from aiseeme_jax.evaluate.imbalance.ccl import ClassCurriculum
from aiseeme_jax.evaluate.imbalance.ldam import LdamDrw
from aiseeme_jax.evaluate.labels import make_labels
from configs import base

COUNTS = (1000, 100, 10)
LABELS = np.array([0, 0, 1, 2, 0, 1, 1, 0])
LOGITS = np.random.default_rng(0).normal(size=(len(LABELS), 3)) * 2
OF_FINDINGS = {"none", "inverse_frequency", "class_balanced", "focal"}
NOW = Moment(jnp.float32(0.0))


def make(name, **fields):
    return imbalance.make_method({**imbalance.default_fields(name), **fields})


def loss(method, logits=LOGITS, labels=LABELS, counts=COUNTS, moment=NOW, kind="class"):
    moment = moment._replace(table=method.tabulate(counts))
    return method.loss(kind, jnp.float32(logits), jnp.asarray(labels), method.needed_counts(counts), moment)


def shift_logits(method, counts=COUNTS):
    return method.logit_shift(method.tabulate(counts))


def entropies(logits, labels=LABELS):
    """In double precision."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def of_classes(counts):
    return make_labels(np.repeat(np.arange(len(counts)), counts), len(counts))


# Double precision, written down independently of the package.
def balanced(beta):
    weights = (1 - beta) / (1 - beta ** np.array(COUNTS, float))
    return weights * sum(COUNTS) / (weights @ COUNTS)


def reference_ldam(deferred):
    margins = 0.5 * np.array(COUNTS, float) ** -0.25 / 10**-0.25
    logits = LOGITS - 30.0 * margins * np.eye(3)[LABELS]
    weights = balanced(0.9999) if deferred else np.ones(3)
    return np.mean(weights[LABELS] * entropies(logits))


PRIOR = np.log(np.array(COUNTS) / sum(COUNTS))
PROBABILITY = np.exp(-entropies(LOGITS))
REFERENCES = {
    "none": ({}, np.mean(entropies(LOGITS))),
    "inverse_frequency": ({}, np.mean((sum(COUNTS) / (3 * np.array(COUNTS)))[LABELS] * entropies(LOGITS))),
    "balanced_sampling": ({}, np.mean(entropies(LOGITS))),
    "class_balanced": ({"beta": 0.99}, np.mean(balanced(0.99)[LABELS] * entropies(LOGITS))),
    "focal": ({}, np.mean((1 - PROBABILITY) ** 2 * entropies(LOGITS))),
    "ldam_drw": ({}, reference_ldam(deferred=False)),
    "logit_adjustment": ({"mode": "loss", "tau": 0.7}, np.mean(entropies(LOGITS + 0.7 * PRIOR))),
    "balanced_softmax": ({}, np.mean(entropies(LOGITS + np.log(COUNTS)))),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_the_loss_is_the_formula(name):
    fields, expected = REFERENCES[name]
    found = loss(make(name, **fields))
    assert float(found.value) == pytest.approx(expected, rel=1e-5) and not bool(found.empty)


def test_every_method_has_a_reference():
    assert set(REFERENCES) | {"ccl"} == set(METHODS)


class TestWeights:
    def test_effective_numbers_have_their_mean_over_the_rows_at_one(self):
        # The published weights sum to the number of classes: (.04216, .28000, 2.67784).
        weights = np.array(class_balanced_weights(COUNTS, 0.999))
        np.testing.assert_allclose(weights / weights.sum() * 3, [0.04216, 0.28000, 2.67784], atol=1e-5)
        weights = np.array(class_balanced_weights(COUNTS, 0.9999))
        np.testing.assert_allclose(weights / weights.sum() * 3, [0.02836, 0.27126, 2.70038], atol=1e-5)
        assert weights @ COUNTS == pytest.approx(sum(COUNTS))

    def test_beta_goes_from_no_correction_to_the_inverse_frequency(self):
        np.testing.assert_allclose(class_balanced_weights(COUNTS, 0.0), 1)
        inverse = make("inverse_frequency").weights(COUNTS)
        np.testing.assert_allclose(class_balanced_weights(COUNTS, 1 - 1e-12), inverse, rtol=1e-5)

    def test_what_no_row_has_weighs_nothing(self):
        assert class_balanced_weights((4, 0, 2), 0.9)[1] == 0
        np.testing.assert_allclose(class_balanced_weights((4, 0, 2), 0.9)[[0, 2]], class_balanced_weights((4, 2), 0.9))
        assert class_balanced_weights(((0, 0), (3, 0)), 0.9).tolist() == [[0, 0], [1, 0]]

    def test_both_values_of_a_finding_are_balanced(self):
        found = make("class_balanced", beta=0.9).weights(((90, 10), (5, 5)))
        np.testing.assert_allclose(found[0], class_balanced_weights((90, 10), 0.9))
        np.testing.assert_allclose(found[1], 1)

    def test_many_classes_are_counted_one_by_one(self):
        """The public code counts them in ten bins, which is right for ten classes alone."""
        counts = (5, 0, *range(1, 14))
        assert imbalance.count(of_classes(counts)) == counts


class TestFindings:
    LABELS = np.array([[1, 0, np.nan], [0, 0, 1], [0, np.nan, 1], [0, 0, 1]], np.float32)
    COUNTS = ((3, 1), (3, 0), (0, 3))

    @pytest.mark.parametrize("name", METHODS)
    def test_methods_are_for_findings_or_refused(self, name):
        labels = make_labels(self.LABELS)
        assert imbalance.count(labels) == self.COUNTS
        if name not in OF_FINDINGS:
            message = f"imbalance '{name}' is for one class for each image.*none, inverse_frequency, class_balanced and"
            with pytest.raises(UserError, match=message):
                make(name).check(labels)
            return
        method = make(name)
        method.check(labels)
        value = lambda logits: loss(method, logits, self.LABELS, self.COUNTS, kind="findings").value  # noqa: E731
        gradient = np.asarray(jax.grad(value)(jnp.float32(LOGITS[:4])))
        assert np.isfinite(gradient).all() and (gradient[np.isnan(self.LABELS)] == 0).all()
        nothing = loss(method, LOGITS[:4], np.full((4, 3), np.nan), self.COUNTS, kind="findings")
        assert bool(nothing.empty) and float(nothing.value) == 0

    @pytest.mark.parametrize("alpha", [None, 0.9])
    def test_focal_weighs_what_is_present_by_alpha(self, alpha):
        of_present = 0.25 if alpha is None else alpha
        probs = 1 / (1 + np.exp(-LOGITS[:4]))
        terms = []
        for (i, c), y in np.ndenumerate(self.LABELS):
            if np.isfinite(y):
                p = probs[i, c] if y else 1 - probs[i, c]
                terms.append(-(of_present if y else 1 - of_present) * (1 - p) ** 2 * np.log(p))
        found = loss(make("focal", alpha=alpha), LOGITS[:4], self.LABELS, self.COUNTS, kind="findings")
        assert float(found.value) == pytest.approx(np.mean(terms), rel=1e-5)

    def test_one_alpha_for_all_classes_is_refused(self):
        with pytest.raises(UserError, match="imbalance.alpha is 0.25, but .* would only change the learning rate"):
            make("focal", alpha=0.25).check(of_classes(COUNTS))


class TestLdam:
    def test_weights_begin_at_their_share_of_the_steps(self):
        """Of 10 steps the last two, since eight are done before the ninth."""
        found = [
            np.asarray(LdamDrw().weights(Moment(jnp.float32(step / 10), table=LdamDrw().tabulate(COUNTS))))
            for step in range(10)
        ]
        for step, weights in enumerate(found):
            np.testing.assert_allclose(weights, balanced(0.9999) if step >= 8 else 1, rtol=1e-5)
        late = loss(make("ldam_drw"), moment=Moment(jnp.float32(0.8))).value
        assert float(late) == pytest.approx(reference_ldam(deferred=True), rel=1e-5)

    def test_its_head_is_the_cosine(self):
        head = make("ldam_drw").make_head(5, 3, rngs=nnx.Rngs(0))
        x = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
        kernel = np.float64(head.kernel[...])
        expected = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (kernel / np.linalg.norm(kernel, axis=0))
        np.testing.assert_allclose(head(x), 30 * expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(head(7 * x), head(x), rtol=1e-4, atol=1e-5)
        head.kernel.set_value(3 * head.kernel[...])
        np.testing.assert_allclose(head(x), 30 * expected, rtol=1e-4, atol=1e-4)
        assert np.isfinite(jax.grad(lambda x: head(x).sum())(jnp.zeros((1, 5)))).all()


class TestPriors:
    def test_zero_logits_cost_the_logarithm_of_the_prior(self):
        for method in (make("balanced_softmax"), make("logit_adjustment", mode="loss")):
            found = [float(loss(method, np.zeros((1, 3)), [c]).value) for c in range(3)]
            np.testing.assert_allclose(found, [0.10436, 2.40695, 4.70953], atol=1e-5)

    def test_post_hoc_trains_without_correction_and_shifts_the_logits_in_use(self):
        method = make("logit_adjustment", tau=2.0)
        assert float(loss(method).value) == pytest.approx(REFERENCES["none"][1], rel=1e-5)
        np.testing.assert_allclose(shift_logits(method), -2 * PRIOR)
        assert all(shift_logits(make(name)) is None for name in METHODS if name != "logit_adjustment")
        assert shift_logits(make("logit_adjustment", mode="loss")) is None

    def test_a_class_without_images_is_never_favoured(self):
        shift = shift_logits(make("logit_adjustment"), (10, 0, 1000))
        assert shift[1] == shift[2] == shift.min()
        gradient = jax.grad(lambda z: loss(make("balanced_softmax"), z, [0], (10, 0, 1000)).value)(jnp.zeros((1, 3)))
        assert float(gradient[0, 1]) > 0.4, "its logit is pushed down"


class TestClassCurriculum:
    TEN = (50,) * 10

    def numbers(self, method, counts, steps=20):
        return [int(method.classes_in(counts, jnp.float32(step / steps))) for step in range(steps)]

    def test_defaults_have_all_classes_in_at_sixty_percent(self):
        method = ClassCurriculum()
        assert self.numbers(method, self.TEN) == [10] * 2 + [5] * 2 + [6] * 2 + [7] * 2 + [8] * 2 + [9] * 2 + [10] * 8
        assert method.hold_until(self.TEN) == pytest.approx(0.6)

    @pytest.mark.parametrize("steps", [7, 10, 30, 700, 1000])
    def test_a_boundary_belongs_to_what_follows(self, steps):
        """An addition acts at once: at the first step with that share of the steps behind it."""
        method = ClassCurriculum(warmup=0.1, start=0.5, increment=0.1, every=0.1)
        expected = [10 if 10 * s < steps else min(5 + (10 * s - steps) // steps, 10) for s in range(steps)]
        assert self.numbers(method, self.TEN, steps) == expected

    def test_an_addition_that_leaps_over_the_number_of_classes_has_all_in(self):
        """30 % and 40 % of ten: 3, 7, and then 11, which the public code never takes for 'all'."""
        method = ClassCurriculum(warmup=0.0, start=0.3, increment=0.4, every=0.25)
        assert self.numbers(method, self.TEN, 4) == [3, 7, 10, 10]
        assert method.hold_until(self.TEN) == 0.5

    def test_few_classes_are_added_one_by_one(self):
        """A tenth of three classes rounds to none: the public code would never add one."""
        method = ClassCurriculum(warmup=0.0, start=0.5, every=0.2)
        assert self.numbers(method, (5, 5, 5), 5) == [2, 3, 3, 3, 3]

    def test_easy_classes_come_first(self):
        difficulty = jnp.array([0.9, 0.1, 0.5, 2.0, 0.3])
        method = ClassCurriculum(warmup=0.0, start=0.4, increment=0.2, every=0.2, order="static")
        wanted = [[1, 4], [1, 2, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
        for step, expected in enumerate(wanted):
            mask = method.mask((1,) * 5, Moment(jnp.float32(step / 5), difficulty))
            assert np.flatnonzero(mask).tolist() == expected
        reverse = dataclasses.replace(method, hardest_first=True)
        mask = reverse.mask((1,) * 5, Moment(jnp.float32(0.2), difficulty))
        assert np.flatnonzero(mask).tolist() == [0, 2, 3]

    @pytest.mark.parametrize("hardest_first", [False, True])
    def test_classes_without_images_take_no_place(self, hardest_first):
        method = ClassCurriculum(warmup=0.0, start=0.5, increment=0.5, order="static", hardest_first=hardest_first)
        counts, difficulty = (3, 0, 3, 0, 3, 3), jnp.array([0.5, 0.0, 0.1, 9.0, 0.9, jnp.nan])
        assert method.start_classes(counts) == 2
        mask = method.mask(counts, Moment(jnp.float32(0.0), difficulty))
        assert np.flatnonzero(mask).tolist() == ([0, 4] if hardest_first else [0, 2])

    def test_without_an_order_all_classes_are_in(self):
        moment = Moment(jnp.float32(0.2), jnp.full(10, jnp.nan))
        assert np.asarray(ClassCurriculum().mask(self.TEN, moment)).all()
        warmup = Moment(jnp.float32(0.05), jnp.arange(10.0))
        assert np.asarray(ClassCurriculum().mask(self.TEN, warmup)).all()

    DIFFICULTY = jnp.array([0.1, 0.2, 0.3])
    METHOD = ClassCurriculum(warmup=0.0, start=0.67)
    BEGIN = Moment(jnp.float32(0.0), DIFFICULTY)

    def test_the_loss_is_the_mean_over_rows_of_classes_that_are_in(self):
        found = loss(self.METHOD, moment=self.BEGIN)
        counted = LABELS < 2
        assert float(found.value) == pytest.approx(entropies(LOGITS)[counted].mean(), rel=1e-5)
        # A row whose loss underflows to 0 counts as one: two rows, one of them right beyond doubt.
        sure = np.array([[200.0, 0, 0], [0, 0, 0]])
        assert float(loss(self.METHOD, sure, [0, 1], moment=self.BEGIN).value) == pytest.approx(np.log(3) / 2)

    def test_rows_of_other_classes_pull_nowhere(self):
        gradient = jax.grad(lambda z: loss(self.METHOD, z, moment=self.BEGIN).value)(jnp.float32(LOGITS))
        assert (np.abs(gradient).sum(axis=1) > 0).tolist() == (LABELS < 2).tolist()

    def test_a_batch_without_any_class_that_is_in_is_empty(self):
        found = loss(self.METHOD, LOGITS[:2], [2, 2], moment=self.BEGIN)
        assert bool(found.empty) and float(found.value) == 0
        assert not bool(loss(self.METHOD, moment=self.BEGIN).empty)

    @pytest.mark.parametrize(
        "fields, counts, message",
        [
            ({}, (9, 9), "imbalance.start is 0.5: of 2 classes the curriculum would begin with one"),
            ({"start": 0.1}, (9,) * 10, "imbalance.start is 0.1: of 10 classes the curriculum would begin with one"),
            ({"every": 0.3}, (9,) * 10, "all 10 classes in at 1.60 of the training, after its end: lower warmup or"),
        ],
    )
    def test_a_curriculum_that_cannot_be_is_refused(self, fields, counts, message):
        with pytest.raises(UserError, match=message):
            ClassCurriculum(**fields).check(of_classes(counts))


class TestConfig:
    @pytest.mark.parametrize("name", METHODS)
    def test_a_name_stands_for_its_defaults_and_comes_back(self, name):
        node = base.target("finetune", imbalance=name).imbalance
        assert imbalance.make_method(node) == METHODS[name]()
        assert dataclasses.fields(METHODS[name]) == () or set(node) == {"name", *vars(METHODS[name]())}
        assert hash(METHODS[name]()) == hash(METHODS[name]())

    def test_fields_reach_the_method(self):
        node = base.target("finetune", imbalance={"name": "ldam_drw", "max_margin": 0.3}).imbalance
        assert imbalance.make_method(node) == LdamDrw(max_margin=0.3)
        node = base.target("finetune", imbalance={"name": "focal", "alpha": 0.5}).imbalance
        assert imbalance.make_method(node).alpha == 0.5

    def test_the_default_is_that_each_class_counts_alike(self):
        assert base.target("finetune").imbalance.to_dict() == {"name": "inverse_frequency"}

    @pytest.mark.parametrize(
        "given, error, message",
        [
            ("smote", UserError, "unknown imbalance 'smote': known are none, inverse_frequency, balanced_sampling"),
            ({"max_margin": 0.3}, UserError, "has no name"),
            ({"name": "ldam_drw", "margin": 1}, AttributeError, "'margin': known are beta, deferred, max_margin, name"),
            ({"name": "focal", "gamma": "high"}, TypeError, "gamma"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, given, error, message):
        with pytest.raises(error, match=message):
            base.target("finetune", imbalance=given)

    @pytest.mark.parametrize(
        "name, fields, message",
        [
            ("class_balanced", {"beta": 1.0}, r"imbalance.beta is 1.0; it must be in \[0, 1\)"),
            ("focal", {"gamma": -1.0}, "imbalance.gamma is -1.0; it must be at least 0 and finite"),
            ("focal", {"alpha": 1.5}, r"imbalance.alpha is 1.5; it must be in \(0, 1\)"),
            ("ldam_drw", {"max_margin": 0.0}, "imbalance.max_margin is 0.0; it must be positive and finite"),
            ("ldam_drw", {"scale": float("nan")}, "imbalance.scale is nan; it must be positive"),
            ("ldam_drw", {"deferred": 1.1}, r"imbalance.deferred is 1.1; it must be in \[0, 1\]"),
            ("logit_adjustment", {"tau": -0.5}, "imbalance.tau is -0.5; it must be at least 0"),
            ("logit_adjustment", {"mode": "later"}, "imbalance.mode is later; it must be one of post_hoc, loss"),
            ("ccl", {"order": "random"}, "imbalance.order is random; it must be one of self_paced, static"),
            ("ccl", {"start": 0.0}, r"imbalance.start is 0.0; it must be in \(0, 1\]"),
            ("ccl", {"increment": 40.0}, r"imbalance.increment is 40.0; it must be in \(0, 1\]"),
            ("ccl", {"every": 0.0}, r"imbalance.every is 0.0; it must be in \(0, 1\)"),
            ("ccl", {"warmup": 1.0}, r"imbalance.warmup is 1.0; it must be in \[0, 1\)"),
            ("ccl", {"hardest_first": True}, "imbalance.hardest_first needs order='static'"),
        ],
    )
    def test_a_value_that_cannot_be_is_named(self, name, fields, message):
        with pytest.raises(UserError, match=message):
            make(name, **fields)

    def test_a_name_that_was_changed_alone_is_noticed(self):
        node = base.target("finetune", imbalance="focal").imbalance
        node.name = "ldam_drw"
        with pytest.raises(
            UserError, match="'ldam_drw' has the fields max_margin, scale, deferred, beta, not alpha, gam"
        ):
            imbalance.make_method(node)
        node = ConfigDict({"name": "none"})
        node.name = "inverse_frequency"
        assert imbalance.make_method(node) == METHODS["inverse_frequency"]()
