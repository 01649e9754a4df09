"""Calibration on synthetic probabilities: golden values, exact sums, and what a calibrated model gives by chance."""

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from aiseeme_jax.evaluate.labels import make_labels
from aiseeme_jax.evidence import reliability as r

Y = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
P = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05])


def draw_calibrated(images, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.beta(1, 3, images)
    return (rng.random(images) < probs).astype(int), probs


@pytest.mark.parametrize(("images", "expected"), [(100, 0.103), (200, 0.072), (500, 0.047), (2000, 0.024)])
def test_the_ece_of_a_calibrated_model_and_its_null(images, expected):
    found = [r.ece(*draw_calibrated(images, seed)) for seed in range(200)]
    assert np.mean(found) == pytest.approx(expected, rel=0.06)
    mean, most = r.null_of_ece(draw_calibrated(images)[1], draws=400)
    assert mean == pytest.approx(expected, rel=0.15)
    # One calibrated model in twenty lies above it.
    assert np.mean(np.array(found) > most) == pytest.approx(0.05, abs=0.06)


def test_equal_mass_at_100_images():
    found = [r.ece(*draw_calibrated(100, seed), r.equal_mass) for seed in range(300)]
    assert np.mean(found) == pytest.approx(0.113, rel=0.05)


def test_bins():
    probs = np.array([0.0, 1 / 3, 0.5, 1.0])
    assert r.equal_width(probs, 3).tolist() == [0, 1, 1, 2]
    assert r.equal_mass(np.array([0.9, 0.1, 0.4, 0.6]), 2).tolist() == [1, 0, 0, 1]
    # Equal probabilities are not torn apart.
    assert r.equal_mass(np.array([0.2, 0.5, 0.5, 0.5, 0.5, 0.9]), 3).tolist() == [0, 0, 0, 0, 0, 2]
    made = r.fill_bins([1, 0, 1, 1], probs, bins=3)
    np.testing.assert_allclose(made.count, [1, 2, 1])
    np.testing.assert_allclose(made.positive, [1, 0.5, 1])
    assert r.ece([1, 0, 1, 1], probs, bins=3) == pytest.approx((1 + 2 * abs(5 / 12 - 0.5) + 0) / 4)


def test_the_null_of_clusters_is_larger():
    _, probs = draw_calibrated(50)
    images, groups = np.repeat(probs, 10), np.repeat(np.arange(50), 10)
    assert r.null_of_ece(images, groups)[0] > 2 * r.null_of_ece(images)[0]
    # Ten photographs of a lesion with one probability say as much as one.
    assert r.null_of_ece(images, groups)[0] == pytest.approx(r.null_of_ece(probs)[0], rel=0.01)


def test_the_debiased_error_is_zero_on_average():
    found = [r.debiased_squared_error(*draw_calibrated(200, seed)) for seed in range(300)]
    plain = [np.mean(made.count * (made.prob - made.positive) ** 2) for made in [r.fill_bins(*draw_calibrated(200))]]
    assert abs(np.mean(found)) < 0.001 < plain[0]
    labels, probs = draw_calibrated(200)
    # A bin in which all images have p + 0.2 is off by 0.04.
    off = [
        r.debiased_squared_error(draw_calibrated(2000, s)[0], draw_calibrated(2000, s)[1] * 0.8 + 0.2)
        for s in range(10)
    ]
    assert np.mean(off) == pytest.approx(np.mean((0.2 * (1 - probs)) ** 2), rel=0.1)
    assert np.isnan(r.debiased_squared_error([1], [0.5]))


def test_brier_adds_up_exactly():
    rng = np.random.default_rng(0)
    discrete = rng.choice(np.arange(10) / 10 + 0.05, 1000)
    labels = (rng.random(1000) < discrete).astype(int)
    parts = r.decompose_brier(labels, discrete, bins=10)
    assert parts.within == pytest.approx(0, abs=1e-15)
    assert parts.score == pytest.approx(parts.reliability - parts.resolution + parts.uncertainty, abs=1e-15)
    for binning in r.BINNINGS.values():
        labels, probs = draw_calibrated(777)
        parts = r.decompose_brier(labels, probs, binning, bins=10)
        assert parts.score == pytest.approx(np.mean((probs - labels) ** 2))
        assert abs(parts.within) > 1e-6
        whole = parts.reliability - parts.resolution + parts.uncertainty + parts.within
        assert parts.score == pytest.approx(whole, abs=1e-14)
    assert r.decompose_brier(Y, np.full(10, 0.3)).skill == pytest.approx(0)


def test_slope_and_intercept_equal_scikit_learn():
    slope, intercept = r.fit_slope(Y, P)
    model = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(special.logit(P)[:, None], Y)
    assert (slope, intercept) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), abs=1e-4)
    labels, probs = draw_calibrated(20000)
    assert r.fit_slope(labels, probs) == pytest.approx((1, 0), abs=0.06)
    # Twice the logits are too extreme by a factor of two.
    assert r.fit_slope(labels, special.expit(2 * special.logit(probs)))[0] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("labels", "probs"), [([1, 1], [0.2, 0.3]), ([1, 0], [0.5, 0.5]), ([1, 0, 0], [0.9, 0.1, 0.2])]
)
def test_no_slope_where_there_is_none(labels, probs):
    assert np.isnan(r.fit_slope(labels, probs)).all()


def test_temperature_golden_value():
    pair = np.column_stack([1 - P, P])
    fitted = r.recalibrate(Y, pair)
    assert fitted.temperature == pytest.approx(0.823, abs=1e-3)
    assert "uncertain" in fitted.note
    after = fitted.apply(make_labels(Y), pair)[:, 1]
    assert -np.mean(special.xlogy(Y, after) + special.xlogy(1 - Y, 1 - after)) == pytest.approx(0.41925, abs=1e-5)
    findings = r.recalibrate(Y[:, None].astype(np.float32), P[:, None])
    assert findings.temperature == pytest.approx(fitted.temperature, abs=1e-4)


def test_frequencies_of_classes_undo_balanced_training():
    rng = np.random.default_rng(0)
    share = np.array([0.7, 0.2, 0.1])
    labels = rng.choice(3, 6000, p=share)
    x = rng.normal(size=(6000, 3)) + 1.5 * np.eye(3)[labels]
    # The exact posterior of populations with equal classes, and with these.
    balanced, true = special.softmax(1.5 * x, axis=1), special.softmax(1.5 * x + np.log(share), axis=1)
    fitted = r.recalibrate(labels, balanced, balanced=True)
    assert fitted.temperature == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(fitted.apply(make_labels(labels), balanced), true, atol=0.03)
    assert r.ece(labels == 2, balanced[:, 2]) > 3 * r.ece(
        labels == 2, fitted.apply(make_labels(labels), balanced)[:, 2]
    )


def test_frequencies_of_findings_skip_what_is_not_known():
    values = np.array([[1, np.nan], [0, 0], [0, 0], [0, 0]], np.float32)
    shift = r.shift_of_prior(make_labels(values))
    assert shift == pytest.approx([special.logit(0.25), special.logit(0.5 / 3)])


def test_top_label_is_wrong_in_a_tie():
    right, prob = r.top_label(make_labels([0, 1, 1]), np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]))
    assert right.tolist() == [False, True, False]
    assert prob.tolist() == [0.5, 0.8, 0.9]


@pytest.mark.parametrize(
    ("labels", "probs", "message"),
    [
        ([1, np.nan], [0.1, 0.2], "leave unknown ones out"),
        ([1, 0], [0.1, 1.2], "between 0 and 1"),
        ([1, 0], [0.1], r"got \(2,\) and \(1,\)"),
        ([], [], "N > 0"),
    ],
)
def test_bad_input_is_named(labels, probs, message):
    with pytest.raises(ValueError, match=message):
        r.ece(labels, probs)
