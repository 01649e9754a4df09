"""Variances of areas under the ROC curve: golden values, scikit-learn, and simulations with clusters."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from aiseeme_jax.evidence import auc

LABELS = np.array([1] * 5 + [0] * 6)
A = [0.9, 0.8, 0.7, 0.6, 0.4, 0.75, 0.5, 0.4, 0.3, 0.2, 0.1]
B = [0.8, 0.9, 0.4, 0.3, 0.6, 0.7, 0.6, 0.35, 0.3, 0.25, 0.1]


def test_delong_golden_values():
    areas = auc.measure_areas(LABELS, [A, B], None)
    np.testing.assert_allclose(areas.values, [0.85, 0.766667], atol=1e-6)
    np.testing.assert_allclose(areas.covariance, [[0.015, 0.01309722], [0.01309722, 0.02319444]], atol=1e-8)
    difference, error = areas.contrast((1, -1))
    z, p = auc.compare_areas(difference, error)
    assert z == pytest.approx(0.760726, abs=1e-6)
    assert p == pytest.approx(0.4468, abs=1e-4)


def test_components_are_means_over_pairs_also_with_ties():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(40) < 0.4, np.round(rng.random(40) * 5) / 5
    positives, negatives = scores[labels], scores[~labels]
    psi = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    wanted = np.var(psi.mean(axis=1), ddof=1) / len(positives) + np.var(psi.mean(axis=0), ddof=1) / len(negatives)
    areas = auc.measure_areas(labels, scores, None)
    assert areas.values[0] == pytest.approx(roc_auc_score(labels, scores))
    assert areas.covariance[0, 0] == pytest.approx(wanted)


def test_groups_of_one_image_are_no_groups():
    alone = auc.measure_areas(LABELS, [A, B], None)
    named = auc.measure_areas(LABELS, [A, B], [f"patient {i}" for i in range(11)])
    np.testing.assert_allclose(named.covariance, alone.covariance)


def simulate_patients(seed, mixed):
    """50 patients with 4 images each, and one label for each patient or for each image."""
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(50), 4)
    labels = rng.random(200) < 0.5 if mixed else (rng.permutation(50) < 25)[member]
    scores = rng.normal(size=50)[member] * 0.8 + rng.normal(size=200) * 0.6 + labels
    return labels, scores, member


@pytest.mark.parametrize("mixed", [False, True])
def test_the_clustered_variance_is_that_over_other_patients(mixed):
    runs = [auc.measure_areas(*simulate_patients(seed, mixed)) for seed in range(600)]
    true = np.var([run.values[0] for run in runs])
    told = np.mean([run.covariance[0, 0] for run in runs])
    assert told == pytest.approx(true, rel=0.15)
    plain = np.mean(
        [auc.measure_areas(*simulate_patients(seed, mixed)[:2], None).covariance[0, 0] for seed in range(100)]
    )
    # With one label for each patient the plain variance is a third of the true one.
    assert (plain < 0.5 * true) == (not mixed)


def test_the_logit_interval_stays_below_one_and_holds_the_truth():
    low, high = auc.logit_interval(0.98, 0.02)
    assert 0.85 < low < 0.98 < high < 1
    held = 0
    for seed in range(400):
        areas = auc.measure_areas(*simulate_patients(seed, False))
        low, high = auc.logit_interval(areas.values[0], areas.contrast([1])[1])
        # Scores differ by 1 with a standard deviation of 1 on either side.
        held += low <= 0.76025 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_no_interval_where_nothing_varies():
    assert np.isnan(auc.logit_interval(1.0, 0.0)).all()
    assert np.isnan(auc.compare_areas(0.0, 0.0)).all()
    one_patient = auc.measure_areas([1, 0, 0, 1], [0.9, 0.1, 0.2, 0.8], ["a", "b", "c", "a"])
    assert np.isnan(one_patient.covariance).all()


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1], [0.1, 0.2], "2 of 2 images are positive"),
        ([1, 0, np.nan], [0.1, 0.2, 0.3], "leave unknown ones out"),
        ([1, 0], [0.1, np.inf], "not all finite"),
        ([1, 0], [0.1, 0.2, 0.3], r"got \(2,\) and \(1, 3\)"),
    ],
)
def test_bad_input_is_named(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        auc.measure_areas(labels, scores, None)
