"""The cluster bootstrap: equal to its definition, as wide as it should be, speaking where it cannot be."""

import numpy as np
import pytest
from scipy import stats

from aiseeme_jax.evaluate import bootstrap, metrics
from aiseeme_jax.evaluate.bootstrap import MIN_GROUPS, Draws, draw_weights, interval, mean_over_runs, number_groups
from aiseeme_jax.evaluate.labels import make_labels


def clustered_case(groups=40, seed=0, classes=3):
    """Photographs of lesions: those of one lesion share its class and most of the classifier's luck."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, groups)
    member = np.repeat(np.arange(groups), sizes)
    labels = rng.integers(classes, size=groups)[member]
    luck = rng.normal(size=(groups, classes))[member]
    logits = luck + 0.2 * rng.normal(size=luck.shape) + np.eye(classes)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probs, [f"lesion-{g:03d}" for g in member]


def reference(metric, labels, probs, groups, samples, seed):
    """The definition, row by row; what is a mean over classes is undefined where one of them is missing."""
    names = sorted(set(groups))
    rows_of = {name: [i for i, g in enumerate(groups) if g == name] for name in names}
    rng = np.random.default_rng(seed)

    def score(drawn):
        rows = [row for name in drawn for row in rows_of[name]]
        defined = metric is metrics.accuracy or set(labels[rows]) == set(labels)
        return [metric(labels[rows], probs[rows])] if defined else []

    values = [
        value for _ in range(samples) for value in score([names[g] for g in rng.integers(len(names), size=len(names))])
    ]
    left = [value for out in names for value in score([name for name in names if name != out])]
    return metric(labels, probs), *np.percentile(values, 100 * levels_by_definition(values, left))


def levels_by_definition(values, left, between_runs=0.0):
    """Levels of the percentiles, from the metric on the resamples and without each group."""
    deviations = [np.mean(left) - value for value in left]
    jackknife = (len(left) - 1) / len(left) * sum(d**2 for d in deviations)
    variance = jackknife + between_runs
    width = stats.t.ppf(0.975, len(left) - 1) * max(1, np.sqrt(variance) / np.std(values))
    skewness = sum(d**3 for d in deviations) / sum(d**2 for d in deviations) ** 1.5
    acceleration = skewness / 6 * (jackknife / variance) ** 1.5
    return stats.norm.cdf([-width / (1 + acceleration * width), width / (1 - acceleration * width)])


@pytest.mark.parametrize("name", metrics.METRICS)
def test_equals_the_definition(name):
    labels, probs, groups = clustered_case(groups=15)
    metric = metrics.METRICS[name]
    found = metrics.bootstrap_ci(metric, labels, probs, groups=groups, samples=60, seed=3)
    np.testing.assert_allclose(found, reference(metric, labels, probs, groups, 60, 3), rtol=1e-12)


def test_blocks_of_resamples_are_one_stream(monkeypatch):
    labels, probs, groups = clustered_case()
    arguments = dict(groups=groups, samples=50, seed=1)
    whole = metrics.bootstrap_ci(metrics.auroc, labels, probs, **arguments)
    monkeypatch.setattr("aiseeme_jax.evaluate.bootstrap._BLOCK", 7 * len(labels))
    assert metrics.bootstrap_ci(metrics.auroc, labels, probs, **arguments) == whole


def test_any_function_may_be_the_metric():
    labels, probs, groups = clustered_case()

    def plain(labels, probs):
        return metrics.balanced_accuracy(labels, probs)

    arguments = dict(groups=groups, samples=40, seed=2)
    slow = metrics.bootstrap_ci(plain, labels, probs, **arguments)
    fast = metrics.bootstrap_ci(metrics.balanced_accuracy, labels, probs, **arguments)
    np.testing.assert_allclose(slow, fast, rtol=1e-12)


def test_every_row_of_a_group_comes_as_often_as_the_others():
    _, _, groups = clustered_case()
    weights = np.concatenate(list(draw_weights(groups, len(groups), 20, 0)))
    for name in set(groups):
        rows = [i for i, g in enumerate(groups) if g == name]
        assert (weights[:, rows] == weights[:, rows[:1]]).all()
    first = [groups.index(name) for name in sorted(set(groups))]
    assert (weights[0] == 1).all()
    # Without each group once, in any order, then the resamples.
    without, resamples = weights[1 : 1 + len(first), first], weights[1 + len(first) :, first]
    assert len(resamples) == 20 and set(map(tuple, without)) == set(map(tuple, 1 - np.eye(len(first))))
    np.testing.assert_array_equal(resamples.sum(axis=1), len(first))


def test_of_many_groups_parts_are_left_out(monkeypatch):
    """A part is as wrong as its groups together, so the standard error stays what it is."""
    labels, probs, groups = clustered_case(groups=200)
    arguments = dict(groups=groups, samples=2, seed=0)
    error = lambda draws: np.sqrt((len(draws.without) - 1) * draws.without.var())  # noqa: E731
    whole = bootstrap.draw(metrics.auroc, labels, probs, **arguments)
    monkeypatch.setattr(bootstrap, "MAX_PARTS", 40)
    parts = bootstrap.draw(metrics.auroc, labels, probs, **arguments)
    assert (len(whole.without), len(parts.without)) == (200, 40)
    assert error(parts) == pytest.approx(error(whole), rel=0.3)
    weights = np.concatenate(list(draw_weights(groups, len(groups), 2, 0)))[1:41]
    assert set(np.unique(weights)) == {0, 1}
    np.testing.assert_array_equal((1 - weights).sum(axis=0), 1, err_msg="each row is left out once")


@pytest.mark.parametrize("dtype", [np.str_, np.bytes_, np.dtypes.StringDType(), object])
def test_the_type_of_the_names_does_not_matter(dtype):
    labels, probs, groups = clustered_case()
    arguments = dict(samples=50, seed=0)
    expected = metrics.bootstrap_ci(metrics.auroc, labels, probs, groups=groups, **arguments)
    found = metrics.bootstrap_ci(metrics.auroc, labels, probs, groups=np.array(groups, dtype), **arguments)
    assert found == expected


def test_order_of_rows_does_not_matter():
    labels, probs, groups = clustered_case()
    order = np.random.default_rng(9).permutation(len(labels))
    arguments = dict(samples=100, seed=0)
    as_is = metrics.bootstrap_ci(metrics.auroc, labels, probs, groups=groups, **arguments)
    shuffled = metrics.bootstrap_ci(
        metrics.auroc, labels[order], probs[order], groups=[groups[i] for i in order], **arguments
    )
    np.testing.assert_allclose(as_is, shuffled, rtol=1e-12)


def test_clusters_widen_the_interval():
    labels, probs, groups = clustered_case(groups=200)
    arguments = dict(samples=500, seed=0)
    _, low, high = metrics.bootstrap_ci(metrics.accuracy, labels, probs, groups=groups, **arguments)
    _, naive_low, naive_high = metrics.bootstrap_ci(metrics.accuracy, labels, probs, groups=None, **arguments)
    assert high - low > 1.2 * (naive_high - naive_low)


def test_covers_the_truth_about_as_often_as_it_says():
    """Accuracy .8, three equal photographs per lesion: 95 % of intervals hold it; else far fewer.

    results/coverage.md has what was measured of other metrics.
    """
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    repeats = 200
    for seed in range(repeats):
        right = np.repeat(rng.random(100) < 0.8, 3)
        labels = np.zeros(300, int)
        probs = np.where(right, 0.1, 0.9)
        clustered = np.repeat(np.arange(100), 3)
        for place, groups in enumerate((clustered, None)):
            _, low, high = metrics.bootstrap_ci(metrics.accuracy, labels, probs, groups=groups, samples=200, seed=seed)
            covered[place] += low <= 0.8 <= high
    assert 0.88 <= covered[0] / repeats <= 0.99
    assert covered[1] / repeats < 0.85


def test_a_difference_is_paired():
    """Two classifiers with the same luck differ surely, though their intervals overlap."""
    labels, probs, groups = clustered_case(groups=100)
    better = probs + 0.15 * np.eye(3)[labels]
    better /= better.sum(axis=1, keepdims=True)
    arguments = dict(groups=groups, samples=300, seed=0)
    one = metrics.bootstrap_ci(metrics.auroc, labels, probs, **arguments)
    two = metrics.bootstrap_ci(metrics.auroc, labels, better, **arguments)
    value, low, high = metrics.difference_ci(metrics.auroc, labels, [better], [probs], **arguments)
    assert two[1] < one[2], "the case should be one where separate intervals overlap"
    assert low > 0
    assert value == pytest.approx(two[0] - one[0])
    assert metrics.difference_ci(metrics.auroc, labels, [probs, better], [probs, better], **arguments) == (0, 0, 0)
    with pytest.raises(ValueError, match="zip"):
        metrics.difference_ci(metrics.auroc, labels, [probs, probs], [probs], **arguments)


def test_the_mean_over_runs_draws_them_as_well():
    """Runs without any spread over the test images: what is left is the bootstrap of their mean."""
    values = np.array([0.2, 0.5, 0.8])
    drawn = mean_over_runs(np.repeat(values[:, None], 4000, axis=1), seed=0)
    assert set(np.round(drawn, 6)) == {0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.var() == pytest.approx(values.var() / 3, rel=0.1)
    resamples = np.random.default_rng(0).normal(size=(1, 50))
    np.testing.assert_array_equal(mean_over_runs(resamples, seed=3), resamples[0])


def test_a_difference_draws_the_same_runs_on_both_sides():
    """Each run of the second is much better than that of the first in its place, whatever the runs differ by."""
    labels, probs, groups = clustered_case(groups=100)
    runs = [probs, np.roll(probs, 1, axis=0)]
    towards = lambda p: (p + 5 * np.eye(3)[labels]) / 6  # noqa: E731
    arguments = dict(groups=groups, samples=200, seed=0)
    better = [towards(p) for p in runs]
    value, low, high = metrics.difference_ci(metrics.accuracy, labels, better, runs, **arguments)
    singles = [metrics.difference_ci(metrics.accuracy, labels, [towards(p)], [p], **arguments) for p in runs]
    assert value == pytest.approx(np.mean([single[0] for single in singles]))
    assert low < min(single[2] for single in singles) and high > max(single[1] for single in singles)
    assert high - low > max(single[2] - single[1] for single in singles), (
        "two unlike runs are a wider interval than one"
    )


def test_undefined_resamples_are_left_out():
    """One lesion of class 1 among ten: a third of the resamples lack it, and AUROC is undefined there."""
    labels = np.array([1] + [0] * 9)
    probs = np.array([0.8, 0.9, *np.linspace(0.1, 0.5, 8)])
    value, low, high = metrics.bootstrap_ci(metrics.auroc, labels, probs, groups=None, samples=400, seed=0)
    assert value == pytest.approx(8 / 9)
    assert low < value < high == 1
    expected = reference(metrics.auroc, labels, probs, [str(i) for i in range(10)], 400, 0)
    np.testing.assert_allclose((value, low, high), expected, rtol=1e-12)


def test_no_interval_where_most_resamples_are_undefined():
    without = np.array([0.4, 0.5, 0.6])
    assert np.isnan(interval([Draws(0.5, without, np.array([np.nan, np.nan, np.nan, 0.5]))], 0)).all()
    assert interval([Draws(0.5, without, np.array([np.nan, 0.5, 0.5]))], 0) == (0.5, 0.5)


class TestLevels:
    """Of draws without any luck, so that the levels are all that is tested."""

    VALUES = np.linspace(-1, 1, 2001)

    def ends(self, without, values=VALUES):
        low, high = interval([Draws(0.0, np.asarray(without), values)], 0)
        return stats.uniform(-1, 2).cdf([low, high])

    def test_students_t_takes_the_place_of_the_normal_distribution(self):
        """Ten groups, and a jackknife that finds less than the resamples do."""
        found = self.ends(np.linspace(-0.01, 0.01, 10))
        np.testing.assert_allclose(found, stats.norm.cdf(stats.t.ppf([0.025, 0.975], 9)), rtol=1e-3)

    def test_a_larger_error_of_the_jackknife_widens_them(self):
        without = np.linspace(-0.4, 0.4, 10)
        error = np.sqrt(9 * without.var())
        assert error > self.VALUES.std()
        width = stats.t.ppf(0.975, 9) * error / self.VALUES.std()
        np.testing.assert_allclose(self.ends(without), stats.norm.cdf([-width, width]), rtol=0.01)

    def test_a_score_with_a_long_side_below_has_its_interval_there(self):
        """One group spoils the score: without it, the score would be much higher."""
        low, high = self.ends([*np.full(29, -0.001), 0.029])
        assert low < 1 - high

    def test_between_runs_there_is_more_variance_than_two_draws_show(self):
        without = np.linspace(-0.01, 0.01, 30)
        runs = [Draws(value, without, np.full(4000, value)) for value in (0.2, 0.4)]
        low, high = interval(runs, 0)
        assert (low, high) == (0.2, 0.4)
        spread, between = 0.1 / np.sqrt(2), 0.2**2 / 2 / 2
        found = bootstrap.interval_levels(runs, spread)
        values = np.array([-spread, spread])
        np.testing.assert_allclose(found, levels_by_definition(values, without, between), rtol=1e-9)

    @pytest.mark.parametrize("without", [[], [np.nan, np.nan], [0.5, np.nan]])
    def test_without_a_jackknife_they_are_the_usual_ones(self, without):
        np.testing.assert_allclose(self.ends(without), [0.025, 0.975], rtol=1e-6)


def test_one_group_has_values_and_no_intervals():
    labels, probs, _ = clustered_case()
    arguments = dict(groups=["the only one"] * len(labels), samples=20, seed=0)
    rows = metrics.summarise(labels, probs, class_names=["MEL", "NV", "BCC"], **arguments)
    assert rows[0]["value"] == metrics.balanced_accuracy(labels, probs)
    assert all(np.isnan([row["low"], row["high"]]).all() for row in rows)
    even = np.full_like(probs, 1 / 3)
    value, *ends = metrics.difference_ci(metrics.accuracy, labels, [probs], [even], **arguments)
    assert value == metrics.accuracy(labels, probs) and np.isnan(ends).all()
    own = lambda labels, probs: float(probs[:, 0].max())  # noqa: E731
    value, *ends = metrics.bootstrap_ci(own, labels, probs, **arguments)
    assert value == probs[:, 0].max() and np.isnan(ends).all()


def test_a_resample_that_lacks_a_class_has_no_mean_over_classes():
    """All of class 2 is one patient, always missed; classes 0 and 1 are always found: in truth 2 / 3, never 1."""
    labels = np.array([0, 1] * 20 + [2] * 5)
    probs = np.eye(3)[np.where(labels == 2, 0, labels)] * 0.8 + 0.1
    groups = [f"p{i}" for i in range(40)] + ["one"] * 5
    arguments = dict(groups=groups, samples=400, seed=0)
    np.testing.assert_allclose(metrics.bootstrap_ci(metrics.balanced_accuracy, labels, probs, **arguments), 2 / 3)
    rows = {row["metric"]: row for row in metrics.summarise(labels, probs, class_names="abc", **arguments)}
    assert (rows["balanced_accuracy"]["low"], rows["balanced_accuracy"]["high"]) == pytest.approx((2 / 3, 2 / 3))
    assert rows["accuracy"]["low"] < rows["accuracy"]["value"] < rows["accuracy"]["high"]


def test_resamples_that_never_leave_an_end_of_the_range_are_no_interval():
    """All is called benign, at one score: chance is known exactly, the sensitivity is not."""
    labels, probs = np.array([0] * 40 + [1] * 20), np.full(60, 0.1)
    rows = metrics.summarise(labels, probs, groups=None, samples=100, seed=0, class_names=["benign", "malignant"])
    ends = {row["metric"]: (row["low"], row["high"]) for row in rows}
    assert np.isnan(ends["sensitivity/malignant"]).all() and np.isnan(ends["specificity/malignant"]).all()
    assert ends["balanced_accuracy"] == ends["auroc"] == (0.5, 0.5)
    low, high = ends["accuracy"]
    assert low < 2 / 3 < high


@pytest.mark.parametrize("patients, bounded", [(1, False), (MIN_GROUPS - 1, False), (MIN_GROUPS, True)])
def test_a_class_of_few_groups_has_no_interval_of_its_own(patients, bounded):
    rng = np.random.default_rng(0)
    labels = np.array([0] * 60 + [1] * 60)
    probs = rng.uniform(0.2, 0.8, size=120)
    groups = [f"a{i}" for i in range(60)] + [f"b{i % patients}" for i in range(60)]
    assert make_labels(labels, 3).count_groups(number_groups(groups, 120)).tolist() == [60, patients, 0]
    rows = metrics.summarise(labels, probs, groups=groups, samples=100, seed=0, class_names=["benign", "malignant"])
    has_interval = {row["metric"]: bool(np.isfinite(row["low"])) for row in rows}
    assert [has_interval[f"{name}/malignant"] for name in metrics.PER_CLASS] == [bounded] * len(metrics.PER_CLASS)
    assert has_interval["average_precision"] == bounded, "of two classes it is that of the second"
    assert has_interval["balanced_accuracy"] and all(has_interval[f"{name}/benign"] for name in metrics.PER_CLASS)


@pytest.mark.parametrize(
    ("groups", "samples", "message"),
    [
        (["a", "", "b"], 10, "row 1 has an empty group"),
        (np.array(["a", "b", ""], np.dtypes.StringDType()), 10, "row 2 has an empty group"),
        ([b"", b"a", b"b"], 10, "row 0 has an empty group"),
        (["a", "b"], 10, r"got groups \(2,\) for 3 rows"),
        (["a", "b", "c"], 0, "at least 1"),
    ],
)
def test_bad_input_is_named(groups, samples, message):
    with pytest.raises(ValueError, match=message):
        metrics.bootstrap_ci(
            metrics.accuracy,
            np.array([0, 1, 0]),
            np.array([0.1, 0.2, 0.3]),
            groups=groups,
            samples=samples,
            seed=0,
        )


def test_summary_gives_what_bootstrap_ci_gives():
    labels, probs, groups = clustered_case()
    arguments = dict(groups=groups, samples=100, seed=4)
    rows = metrics.summarise(labels, probs, class_names=["MEL", "NV", "BCC"], **arguments)
    by_name = {row["metric"]: (row["value"], row["low"], row["high"]) for row in rows}
    for name, metric in metrics.METRICS.items():
        expected = metrics.bootstrap_ci(metric, labels, probs, **arguments)
        np.testing.assert_allclose(by_name[name], expected, rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(
        [by_name[f"auroc/{c}"][0] for c in ("MEL", "NV", "BCC")], metrics.per_class_auroc(labels, probs)
    )
    assert len(rows) == len(metrics.METRICS) + 3 * len(metrics.PER_CLASS)


def test_summary_leaves_out_what_is_undefined():
    labels, probs, groups = clustered_case()
    with_absent = np.pad(probs, ((0, 0), (0, 1)))
    rows = metrics.summarise(labels, with_absent, groups=groups, samples=20, seed=0, class_names=[*"abc", "never"])
    names = {row["metric"] for row in rows}
    assert "auroc/a" in names and "auroc/never" not in names and "auroc" in names


def test_summary_of_two_classes_reports_the_positive_ones_precision():
    labels, probs, groups = clustered_case(classes=2)
    rows = metrics.summarise(labels, probs, groups=groups, samples=20, seed=0, class_names=["benign", "malignant"])
    by_name = {row["metric"]: row["value"] for row in rows}
    assert by_name["average_precision"] == by_name["average_precision/malignant"]
    with pytest.raises(ValueError, match="3 class names"):
        metrics.summarise(labels, probs, groups=groups, samples=20, seed=0, class_names=["a", "b", "c"])


def clustered_findings(groups=60, seed=0):
    """Several X-rays of each patient, with two common findings and one that three patients have."""
    rng = np.random.default_rng(seed)
    member = np.repeat(np.arange(groups), 3)
    labels = (rng.random((groups, 3)) < 0.5)[member].astype(np.float32)
    labels[:, 2] = member < 3
    probs = 1 / (1 + np.exp(-rng.normal(size=(groups, 3))[member] - labels))
    labels[rng.random(labels.shape) < 0.1] = np.nan
    return labels, probs, [f"patient-{g:03d}" for g in member]


class TestFindings:
    NAMES = ("Effusion", "Mass", "Hernia")

    @pytest.mark.parametrize("name", ["auroc", "average_precision"])
    def test_equals_the_definition(self, name):
        labels, probs, groups = clustered_findings()
        labels, probs = labels[:, :2], probs[:, :2]
        metric = metrics.METRICS[name]
        found = metrics.bootstrap_ci(metric, labels, probs, groups=groups, samples=60, seed=3)
        plain = metrics.bootstrap_ci(lambda *data: metric(*data), labels, probs, groups=groups, samples=60, seed=3)
        np.testing.assert_allclose(found, plain, rtol=1e-12)
        assert found[1] < found[0] < found[2]

    def test_summary_has_the_mean_and_each_finding(self):
        labels, probs, groups = clustered_findings()
        arguments = dict(groups=groups, samples=100, seed=4)
        rows = metrics.summarise(labels, probs, class_names=self.NAMES, **arguments)
        by_name = {row["metric"]: row for row in rows}
        each = [f"{metric}/{name}" for metric in ("auroc", "average_precision") for name in self.NAMES]
        assert list(by_name) == ["auroc", "average_precision", *each]
        areas = metrics.per_class_auroc(labels, probs)
        np.testing.assert_allclose([by_name[f"auroc/{name}"]["value"] for name in self.NAMES], areas)
        assert by_name["auroc"]["value"] == pytest.approx(areas.mean())
        expected = metrics.bootstrap_ci(metrics.auroc, labels, probs, **arguments)
        np.testing.assert_allclose([by_name["auroc"][end] for end in ("value", "low", "high")], expected)

    def test_a_finding_of_few_patients_has_no_interval_of_its_own(self):
        labels, probs, groups = clustered_findings()
        for rare in (labels, 1 - labels):
            rows = metrics.summarise(rare, probs, class_names=self.NAMES, groups=groups, samples=50, seed=0)
            bounded = {row["metric"] for row in rows if np.isfinite(row["low"])}
            assert {"auroc/Effusion", "auroc/Mass"} <= bounded and "auroc/Hernia" not in bounded
        held = make_labels(labels).count_groups(number_groups(groups, len(labels)))
        assert held[2] <= 3 < MIN_GROUPS < held[0]
