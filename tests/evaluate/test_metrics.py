"""Metrics against scikit-learn, and the conventions where they differ from it."""

import numpy as np
import pytest
from sklearn import metrics as sk

from aiseeme_jax.evaluate import metrics, results, weighted
from aiseeme_jax.evaluate.labels import ClassLabels, FindingLabels, check_labels_and_probs
from aiseeme_jax.evaluate.scores import make_scoring


def random_case(rows=300, classes=5, seed=0, levels=None):
    """Unbalanced labels and probabilities that know something about them; `levels` makes scores collide."""
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), rng.choice(classes, rows - classes, p=_unbalanced(classes)))
    logits = rng.normal(size=(rows, classes)) + 1.2 * np.eye(classes)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if levels:
        probs = np.round(probs * levels) / levels
    return labels, probs


def _unbalanced(classes):
    return 2.0 ** -np.arange(classes) / (2.0 ** -np.arange(classes)).sum()


def one_vs_rest(function, labels, probs):
    return np.array([function(labels == c, probs[:, c]) for c in range(probs.shape[1])])


@pytest.mark.parametrize("seed", range(3))
def test_decisions_equal_scikit_learn(seed):
    labels, probs = random_case(seed=seed)
    decided = probs.argmax(axis=1)
    assert metrics.balanced_accuracy(labels, probs) == pytest.approx(sk.balanced_accuracy_score(labels, decided))
    assert metrics.accuracy(labels, probs) == pytest.approx(sk.accuracy_score(labels, decided))
    np.testing.assert_allclose(metrics.sensitivity(labels, probs), sk.recall_score(labels, decided, average=None))
    np.testing.assert_allclose(metrics.f1(labels, probs), sk.f1_score(labels, decided, average=None))
    assert metrics.macro_f1(labels, probs) == pytest.approx(sk.f1_score(labels, decided, average="macro"))
    np.testing.assert_array_equal(metrics.confusion(labels, probs), sk.confusion_matrix(labels, decided))
    inverse_recall = [sk.recall_score(labels != c, decided != c) for c in range(probs.shape[1])]
    np.testing.assert_allclose(metrics.specificity(labels, probs), inverse_recall)
    assert metrics.macro_specificity(labels, probs) == pytest.approx(np.mean(inverse_recall))


@pytest.mark.parametrize("seed", range(3))
def test_further_metrics_equal_scikit_learn(seed):
    labels, probs = random_case(seed=seed)
    decided, classes = probs.argmax(axis=1), range(probs.shape[1])
    assert metrics.kappa(labels, probs) == pytest.approx(sk.cohen_kappa_score(labels, decided))
    assert metrics.mcc(labels, probs) == pytest.approx(sk.matthews_corrcoef(labels, decided))
    scores = metrics.Scores(labels, probs, groups=None, samples=1, seed=0, class_names=list("abcde"))
    for name, theirs in (
        ("ppv", sk.precision_score(labels, decided, average=None)),
        ("npv", [sk.precision_score(labels != c, decided != c) for c in classes]),
        ("brier", [sk.brier_score_loss(labels == c, probs[:, c]) for c in classes]),
    ):
        np.testing.assert_allclose([scores.of(f"{name}/{c}").value for c in "abcde"], theirs)
    assert metrics.brier(labels, probs) == pytest.approx(np.mean(np.sum((probs - np.eye(5)[labels]) ** 2, axis=1)))
    two, half = random_case(classes=2, seed=seed)
    assert metrics.brier(two, half) == pytest.approx(sk.brier_score_loss(two, half[:, 1]))


def test_further_metrics_under_weights_and_ties():
    labels, probs = random_case(rows=60, classes=3, levels=4)
    # An undecided row is a decision for a class of its own.
    decided = weighted.decisions(probs)
    assert (decided == -1).any()
    assert metrics.kappa(labels, probs) == pytest.approx(sk.cohen_kappa_score(labels, decided))
    assert metrics.mcc(labels, probs) == pytest.approx(sk.matthews_corrcoef(labels, decided))
    times = np.random.default_rng(0).integers(0, 3, 60)
    rows = np.repeat(np.arange(60), times)
    made, checked = check_labels_and_probs(labels, probs)
    for metric in metrics.FURTHER.values():
        assert metric.weighted(made, checked, times[None])[0] == pytest.approx(metric(labels[rows], probs[rows]))


def test_further_metrics_where_they_are_undefined():
    one_class = np.array([[0.9, 0.1], [0.8, 0.2]])
    for name in ("kappa", "mcc"):
        with pytest.raises(ValueError, match=f"{name} is undefined"):
            metrics.FURTHER[name]([0, 0], one_class)
    assert metrics.brier([0, 0], one_class) == pytest.approx((0.01 + 0.04) / 2)
    findings = np.array([[1, np.nan], [0, 1], [np.nan, 0]], np.float32)
    probs = np.array([[0.8, 0.9], [0.3, 0.6], [0.5, 0.5]])
    assert metrics.brier(findings, probs) == pytest.approx(((0.04 + 0.09) / 2 + (0.16 + 0.25) / 2) / 2)
    with pytest.raises(ValueError, match="there is no kappa of labels of the kind 'findings'"):
        metrics.kappa(findings, probs)


def test_results_leave_further_metrics_out():
    labels, probs = random_case(rows=80, classes=2)
    options = {"groups": None, "samples": 20, "seed": 0, "class_names": ["no", "yes"]}
    short = [row["metric"] for row in metrics.summarise(labels, probs, **options)]
    long = [row["metric"] for row in metrics.summarise(labels, probs, **options, further=True)]
    assert set(long) - set(short) == {"kappa", "mcc", "brier"} | {
        f"{name}/{of}" for name in ("ppv", "npv", "brier") for of in ("no", "yes")
    }


@pytest.mark.parametrize("levels", [None, 7])
def test_rankings_equal_scikit_learn_also_with_equal_scores(levels):
    labels, probs = random_case(levels=levels)
    areas = one_vs_rest(sk.roc_auc_score, labels, probs)
    precisions = one_vs_rest(sk.average_precision_score, labels, probs)
    np.testing.assert_allclose(metrics.per_class_auroc(labels, probs), areas)
    np.testing.assert_allclose(metrics.per_class_average_precision(labels, probs), precisions)
    assert metrics.auroc(labels, probs) == pytest.approx(areas.mean())
    assert metrics.average_precision(labels, probs) == pytest.approx(precisions.mean())
    if levels is None:
        theirs = sk.roc_auc_score(labels, probs, multi_class="ovr", average="macro")
        assert metrics.auroc(labels, probs) == pytest.approx(theirs)


def test_two_classes_take_one_or_two_columns():
    labels, probs = random_case(classes=2)
    positive = probs[:, 1]
    assert metrics.auroc(labels, positive) == pytest.approx(sk.roc_auc_score(labels, positive))
    assert metrics.auroc(labels, probs) == pytest.approx(sk.roc_auc_score(labels, positive))
    expected = sk.average_precision_score(labels, positive)
    assert metrics.average_precision(labels, positive) == pytest.approx(expected)
    assert metrics.average_precision(labels, probs) == pytest.approx(expected)
    decided = (positive > 0.5).astype(int)
    expected = sk.balanced_accuracy_score(labels, decided)
    assert metrics.balanced_accuracy(labels, positive) == pytest.approx(expected)


def test_a_tie_for_the_maximum_is_wrong_whichever_class_is_true():
    probs = np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]])
    labels = np.array([0, 1, 2])
    assert metrics.balanced_accuracy(labels, probs) == pytest.approx(1 / 3)
    assert metrics.accuracy(labels, probs) == pytest.approx(1 / 3)
    np.testing.assert_array_equal(metrics.confusion(labels, probs), np.diag([0, 0, 1]))
    # The undecided row of class 0 is no false alarm for class 1.
    np.testing.assert_allclose(metrics.specificity(labels, probs), 1)


def test_an_absent_class_is_left_out_of_macro_means():
    labels, probs = random_case(classes=4)
    present = labels != 3
    labels, probs = labels[present], probs[present]
    assert np.isnan(metrics.per_class_auroc(labels, probs)[3])
    assert np.isnan(metrics.sensitivity(labels, probs)[3])
    areas = [sk.roc_auc_score(labels == c, probs[:, c]) for c in range(3)]
    assert metrics.auroc(labels, probs) == pytest.approx(np.mean(areas))
    recalls = sk.recall_score(labels, probs.argmax(axis=1), average=None, labels=[0, 1, 2])
    assert metrics.balanced_accuracy(labels, probs) == pytest.approx(recalls.mean())


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_weight_of_k_is_k_equal_rows(name):
    labels, probs = random_case(rows=80, levels=20)
    weights = np.random.default_rng(1).integers(0, 4, size=(5, len(labels)))
    weights[:, :5] += 1  # the first rows are one of each class
    metric = metrics.METRICS[name]
    fast = metric.weighted(*check_labels_and_probs(labels, probs), weights.astype(float))
    plain = [metric(np.repeat(labels, row), np.repeat(probs, row, axis=0)) for row in weights]
    np.testing.assert_allclose(fast, plain, rtol=1e-12)


def test_float32_probabilities_are_fine():
    labels, probs = random_case()
    near = metrics.auroc(labels.astype(np.int32), probs.astype(np.float32))
    assert near == pytest.approx(metrics.auroc(labels, probs), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "probs", "message"),
    [
        ([0, 1], [[0.5, np.nan], [0.1, 0.9]], r"probs\[0\] is not finite"),
        ([0, 1], [[0.5, 0.5], [0.1, np.inf]], r"probs\[1\] is not finite"),
        ([0, 1], [[-3.0, 2.0], [0.1, 0.9]], "not? logits|no logits"),
        ([0, 2], [[0.5, 0.5], [0.1, 0.9]], "labels reach from 0 to 2, but there are 2 classes"),
        ([0, -1], [[0.5, 0.5], [0.1, 0.9]], r"row 1 has no label \(-1\)"),
        ([0, 1, 1], [[0.5, 0.5], [0.1, 0.9]], r"got \(3,\) and \(2, 2\)"),
        ([[[0, 1]]], [[0.5, 0.5]], r"got \(1, 1, 2\)"),
        ([0.0, 1.0], [[0.6, 0.4], [0.1, 0.9]], "must be integers"),
        ([[0.0, 1.0]], [0.5], r"got \(1, 2\) and \(1,\)"),
        ([[0.0, 1.0, np.nan]], [[0.5, 0.5]], r"labels \(1, 3\) are of 3 findings, but there are 2"),
        ([[0.0, 1.0], [0.5, 1.0]], [[0.5, 0.5], [0.5, 0.5]], r"labels\[1, 0\] is 0.5: a finding is 1 \(present\), 0"),
        ([0, 0], [[1.0], [1.0]], "one class"),
        ([], np.zeros((0, 3)), "empty"),
    ],
)
def test_bad_input_is_named(labels, probs, message):
    labels = np.asarray(labels) if len(labels) else np.zeros(0, int)
    for metric in metrics.METRICS.values():
        with pytest.raises(ValueError, match=message):
            metric(labels, np.asarray(probs))


@pytest.mark.parametrize("name", ["auroc", "average_precision"])
def test_a_ranking_of_one_class_says_so(name):
    with pytest.raises(ValueError, match=rf"{name} is undefined.*class \[1\]"):
        metrics.METRICS[name](np.array([1, 1]), np.array([0.2, 0.7]))


def test_a_ranking_of_one_class_is_undefined_where_a_resample_holds_no_other():
    labels, probs = check_labels_and_probs([0, 1, 1], [0.3, 0.2, 0.7])
    weights = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]])
    for function in (weighted.auroc, weighted.average_precision):
        assert np.isfinite(function(labels, probs, weights)[:, 1]).tolist() == [True, False]


def random_findings(rows=300, findings=4, seed=0, levels=None):
    """Findings that a fifth of the rows do not know of, and probabilities that know something about them."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, findings)) < 0.4 ** np.arange(1, findings + 1)).astype(np.float32)
    probs = 1 / (1 + np.exp(-rng.normal(size=labels.shape) - 1.2 * labels))
    labels[rng.random(labels.shape) < 0.2] = np.nan
    labels[:2] = [[0.0] * findings, [1.0] * findings]
    return labels, np.round(probs * levels) / levels if levels else probs


def of_each_finding(function, labels, probs):
    """scikit-learn's metric of each finding on the rows that know of it."""
    known = np.isfinite(labels)
    return np.array([function(labels[k, c], probs[k, c]) for c, k in enumerate(known.T)])


class TestFindings:
    @pytest.mark.parametrize("levels", [None, 7])
    def test_equal_scikit_learn_on_the_rows_that_know(self, levels):
        labels, probs = random_findings(levels=levels)
        areas = of_each_finding(sk.roc_auc_score, labels, probs)
        precisions = of_each_finding(sk.average_precision_score, labels, probs)
        np.testing.assert_allclose(metrics.per_class_auroc(labels, probs), areas)
        np.testing.assert_allclose(metrics.per_class_average_precision(labels, probs), precisions)
        assert metrics.auroc(labels, probs) == pytest.approx(areas.mean())
        assert metrics.average_precision(labels, probs) == pytest.approx(precisions.mean())

    def test_two_findings_are_no_two_classes(self):
        labels, probs = random_findings(findings=2)
        expected = of_each_finding(sk.average_precision_score, labels, probs).mean()
        assert metrics.average_precision(labels, probs) == pytest.approx(expected)

    def test_a_finding_that_is_never_or_always_present_is_left_out_of_the_mean(self):
        labels, probs = random_findings()
        labels[:, 1] = np.where(np.isfinite(labels[:, 1]), 0, np.nan)
        labels[:, 3] = 1
        found = metrics.per_class_auroc(labels, probs)
        assert np.isfinite(found).tolist() == [True, False, True, False]
        assert metrics.auroc(labels, probs) == pytest.approx(found[[0, 2]].mean())
        with pytest.raises(ValueError, match="auroc is undefined: no finding is present in some rows and absent in"):
            metrics.auroc(labels[:, [1, 3]], probs[:, [1, 3]])

    @pytest.mark.parametrize("name", ["auroc", "average_precision"])
    def test_a_weight_of_k_is_k_equal_rows(self, name):
        labels, probs = random_findings(rows=80, levels=20)
        weights = np.random.default_rng(1).integers(0, 4, size=(5, len(labels)))
        weights[:, :2] += 1  # rows without and with every finding
        metric = metrics.METRICS[name]
        fast = metric.weighted(*check_labels_and_probs(labels, probs), weights.astype(float))
        plain = [metric(np.repeat(labels, row, axis=0), np.repeat(probs, row, axis=0)) for row in weights]
        np.testing.assert_allclose(fast, plain, rtol=1e-12)

    def test_have_no_decisions(self):
        labels, probs = random_findings()
        for name in ("balanced_accuracy", "accuracy", "macro_f1", "macro_specificity", "sensitivity", "confusion"):
            with pytest.raises(
                ValueError, match=f"there is no {name} of labels of the kind 'findings'.* there are auroc"
            ):
                getattr(metrics, name)(labels, probs)

    def test_are_chosen_by_the_macro_auroc_and_classes_by_the_balanced_accuracy(self):
        assert metrics.main_metric(random_findings()[0]) is metrics.auroc
        assert metrics.main_metric(np.array([0, 1, 2])) is metrics.balanced_accuracy


@pytest.mark.parametrize(
    ("case", "names"),
    [(random_case, ("balanced_accuracy", "auroc")), (random_findings, ("auroc", "average_precision"))],
)
def test_headline_metrics_are_two_for_each_kind_of_labels(case, names):
    labels, probs = case()
    rows, classes = probs.shape
    ids = [f"i{i}" for i in range(rows)]
    predictions = results.Predictions(labels, probs, ids, ids, [f"c{c}" for c in range(classes)])
    scoring = make_scoring(predictions, samples=1, seed=0)
    assert scoring.headline_names == names
    assert scoring.headline() == {name: metrics.METRICS[name](labels, probs) for name in names}


def test_headline_leaves_out_what_is_undefined():
    predictions = results.Predictions(np.zeros(4, np.int32), np.eye(4)[:, :2], "abcd", "abcd", ["MEL", "NV"])
    assert make_scoring(predictions, samples=1, seed=0).headline() == {"balanced_accuracy": 0.25}


def test_the_names_of_each_kind_of_labels_are_those_of_the_table():
    assert set(ClassLabels.METRICS) == set(metrics.METRICS) > set(FindingLabels.METRICS)
    assert all(metric.name == name for name, metric in metrics.METRICS.items())
    assert set(metrics.PER_CLASS) > set(FindingLabels.PER_CLASS)
