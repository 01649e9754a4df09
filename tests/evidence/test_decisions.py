"""Thresholds, rates and net benefit against scikit-learn, golden values and hand-made cases; rules of ISIC's scorer."""

import numpy as np
import pytest
from sklearn import metrics as sk

from aiseeme_jax.evidence import decisions, multiple, official_isic

Y = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], bool)
P = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05])


def test_net_benefit_golden_values():
    thresholds = [0.10, 0.25, 0.50]
    np.testing.assert_allclose(decisions.net_benefit(Y, P, thresholds)[0], [0.23333, 0.23333, 0.1], atol=1e-5)
    np.testing.assert_allclose(decisions.treat_all(0.3, thresholds), [0.22222, 0.06667, -0.4], atol=1e-5)
    rates = [decisions.rates(Y, P >= t) for t in thresholds]
    told = decisions.net_benefit_from_rates(
        [r["sensitivity"][0] for r in rates], [r["specificity"][0] for r in rates], 0.3, thresholds
    )
    np.testing.assert_allclose(told, decisions.net_benefit(Y, P, thresholds)[0])


def test_weights_count_images():
    weights = np.random.default_rng(0).integers(0, 3, size=(4, 10))
    found = decisions.net_benefit(Y, P, [0.3], weights)[:, 0]
    rates = decisions.rates(Y, P >= 0.3, weights)
    for row, weighted in enumerate(weights):
        rows = np.repeat(np.arange(10), weighted)
        assert found[row] == pytest.approx(decisions.net_benefit(Y[rows], P[rows], [0.3])[0, 0])
        assert rates["mcc"][row] == pytest.approx(sk.matthews_corrcoef(Y[rows], P[rows] >= 0.3))


def test_rates_equal_scikit_learn():
    called = P >= 0.4
    found = {name: values[0] for name, values in decisions.rates(Y, called).items()}
    assert found == pytest.approx(
        {
            "sensitivity": sk.recall_score(Y, called),
            "specificity": sk.recall_score(~Y, ~called),
            "ppv": sk.precision_score(Y, called),
            "npv": sk.precision_score(~Y, ~called),
            "f1": sk.f1_score(Y, called),
            "kappa": sk.cohen_kappa_score(Y, called),
            "mcc": sk.matthews_corrcoef(Y, called),
        }
    )
    nobody = decisions.rates(Y, np.zeros(10, bool))
    assert np.isnan(nobody["ppv"][0])
    assert nobody["specificity"][0] == 1


@pytest.mark.parametrize(
    ("least", "threshold", "reached"), [(0.5, 0.6, 2 / 3), (2 / 3, 0.6, 2 / 3), (0.9, 0.3, 1), (1, 0.3, 1)]
)
def test_the_threshold_for_a_sensitivity_is_the_highest_that_reaches_it(least, threshold, reached):
    assert decisions.threshold_for_sensitivity(Y, P, least) == threshold
    assert decisions.rates(Y, threshold <= P)["sensitivity"][0] == pytest.approx(reached)


@pytest.mark.parametrize(("least", "threshold", "reached"), [(0.9, 0.9, 1), (0.8, 0.6, 6 / 7), (5 / 7, 0.3, 5 / 7)])
def test_the_threshold_for_a_specificity_is_the_lowest_that_reaches_it(least, threshold, reached):
    assert decisions.threshold_for_specificity(Y, P, least) == threshold
    assert decisions.rates(Y, threshold <= P)["specificity"][0] == pytest.approx(reached)


def test_ties_share_their_side_of_a_threshold():
    labels, probs = np.array([1, 1, 0, 0, 0, 0], bool), np.array([0.5, 0.5, 0.5, 0.5, 0.2, 0.5])
    assert decisions.threshold_for_sensitivity(labels, probs, 0.5) == 0.5
    assert decisions.threshold_for_specificity(labels, probs, 0.5) == np.inf


def test_bad_input_of_decisions_is_named():
    with pytest.raises(ValueError, match="no image is positive"):
        decisions.threshold_for_sensitivity([0, 0], [0.1, 0.2], 0.9)
    with pytest.raises(ValueError, match="no image is negative"):
        decisions.threshold_for_specificity([1, 1], [0.1, 0.2], 0.9)
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\], got 90"):
        decisions.threshold_for_sensitivity([0, 1], [0.1, 0.2], 90)
    with pytest.raises(ValueError, match="without the ends"):
        decisions.net_benefit(Y, P, [0.0, 0.5])


def test_isic_calls_each_class_above_a_half_and_forgives_what_is_undefined():
    labels = np.array([0, 0, 1, 1])
    probs = np.array([[0.8, 0.2, 0.0], [0.4, 0.35, 0.25], [0.6, 0.55, 0.0], [0.1, 0.5, 0.4]])
    found = official_isic.score_classes(labels, probs)
    # At exactly 0.5 a class is not called. An image may be called for two classes.
    np.testing.assert_allclose(found["sensitivity"], [0.5, 0.5, 1])
    np.testing.assert_allclose(found["specificity"], [0.5, 1, 1])
    np.testing.assert_allclose(found["ppv"], [0.5, 1, 1])
    np.testing.assert_allclose(found["dice"], [0.5, 2 / 3, 1])
    np.testing.assert_allclose(found["accuracy"], [0.5, 0.75, 1])
    assert np.isnan(found["auc_sens_80"][2])
    with pytest.raises(ValueError, match="no measures of findings"):
        official_isic.score_classes(np.ones((4, 3), np.float32), probs)


def test_the_area_above_a_sensitivity():
    rng = np.random.default_rng(0)
    labels, random = rng.random(20000) < 0.3, rng.random(20000)
    assert official_isic.area_above(labels, random) == pytest.approx(0.18, abs=0.01)
    assert official_isic.area_above(labels, labels) == 1
    assert official_isic.area_above(labels, np.zeros(20000)) == pytest.approx(0.18)
    scores = np.round(random + labels, 1)
    # All of the curve is the area itself.
    assert official_isic.area_above(labels, scores, 1e-12) == pytest.approx(sk.roc_auc_score(labels, scores))
    falls, rises, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    fine = np.linspace(0, 1, 200001)
    curve = np.interp(fine, falls, rises)
    assert official_isic.area_above(labels, scores) == pytest.approx(np.mean(curve * (curve >= 0.8)), abs=1e-4)


def test_holm():
    found = multiple.adjust_holm([0.01, 0.04, 0.03, 0.005, np.nan])
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02, np.nan])
    np.testing.assert_allclose(multiple.adjust_holm([0.9, 0.8]), [1, 1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        multiple.adjust_holm([1.2])


def test_p_values_of_resamples():
    assert multiple.resampled_p_value([-1, 1, 1, 1]) == 0.5
    assert multiple.resampled_p_value(np.linspace(1, 2, 99)) == 0.01
    assert np.isnan(multiple.resampled_p_value([1, np.nan, np.nan, 2]))
    assert np.isnan(multiple.resampled_p_value([0.0, 0.0, 0.0]))
