"""Tables of made-up studies against values and intervals that are computed anew."""

import csv

import numpy as np
import pytest
from scipy import stats
from study_measurements import ARMS, make_outcomes, make_study, measure

from aiseeme_jax.evaluate import metrics
from aiseeme_jax.study import tables
from aiseeme_jax.study.certainty import balance, compare, list_values, summarise

SEEDS, LABELS = (0, 1, 2), (0, 1)


@pytest.fixture(scope="module")
def made():
    """Four arms, three pretraining seeds, two label seeds."""
    return [measure(arm, seed, label) for arm in ARMS for seed in SEEDS for label in LABELS]


def grid(made, arm, metric):
    """Values by seed and label seed, by scikit-learn's or plain definitions."""
    found = {(m.measured.seed, m.measured.label_seed): m.predictions for m in made if m.measured.arm == arm}
    measure_one = {"balanced_accuracy": plain_accuracy, "auroc": metrics.auroc}[metric]
    return np.array([[measure_one(found[s, k].labels, found[s, k].probs) for k in LABELS] for s in SEEDS])


def plain_accuracy(labels, probs):
    return np.mean([np.mean(probs[labels == c].argmax(axis=1) == c) for c in range(3)])


def resampled_accuracy(labels, probs, groups, rng, samples):
    """Of all cells at once: probs [S, L, N, C] -> mean balanced accuracy of each resample of the lesions."""
    right = (probs.argmax(axis=-1) == labels).mean(axis=(0, 1))
    names, member = np.unique(groups, return_inverse=True)
    found = []
    for _ in range(samples):
        weights = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))[member]
        counts = [weights[labels == c].sum() for c in range(3)]
        if min(counts):
            found.append(np.mean([np.sum((weights * right)[labels == c]) / counts[c] for c in range(3)]))
    return np.array(found)


def half_width(values, images, level):
    """Independent of the package: mean squares, Welch and Satterthwaite, Student."""
    rows, columns = values.shape
    row, column = values.mean(1), values.mean(0)
    rest = values - row[:, None] - column[None] + values.mean()
    parts = [(row.var(ddof=1) / rows, rows - 1)]
    excess = column.var(ddof=1) / columns - (rest**2).sum() / ((rows - 1) * (columns - 1) * values.size)
    parts += [(max(excess, 0.0), columns - 1), images]
    variance = sum(v for v, _ in parts)
    freedom = variance**2 / sum(v**2 / f for v, f in parts)
    return stats.t.ppf(0.5 + level / 2, freedom) * np.sqrt(variance)


def jackknife(labels, groups, score):
    """Variance of a score of weighted rows, by leaving out one lesion at a time."""
    left = np.array([score((groups != g).astype(float)) for g in np.unique(groups)])
    return (len(left) - 1) * left.var(), len(left) - 1


def test_values_are_those_of_the_stored_predictions(made):
    values = list_values(make_outcomes(make_study(), made))
    assert len(values) == len(ARMS) * len(SEEDS) * len(LABELS) * 2
    for metric in ("balanced_accuracy", "auroc"):
        found = [v.value for v in values if (v.arm, v.metric) == ("curriculum", metric)]
        assert found == pytest.approx(grid(made, "curriculum", metric).ravel())


def test_mean_covers_seeds_and_images(made):
    (found,) = [
        s
        for s in summarise(make_outcomes(make_study(), made))
        if (s.arm, s.metric) == ("curriculum", "balanced_accuracy")
    ]
    values = grid(made, "curriculum", "balanced_accuracy")
    mine = {(m.measured.seed, m.measured.label_seed): m.predictions for m in made if m.measured.arm == "curriculum"}
    test = mine[0, 0]
    groups, probs = np.array(test.groups), np.array([[mine[s, k].probs for k in LABELS] for s in SEEDS])
    right = (probs.argmax(axis=-1) == test.labels).mean(axis=(0, 1))

    def score(weights):
        return np.mean(
            [np.sum((weights * right)[test.labels == c]) / weights[test.labels == c].sum() for c in range(3)]
        )

    left, freedom = jackknife(test.labels, groups, score)
    drawn = resampled_accuracy(test.labels, probs, groups, np.random.default_rng(9), 4000)
    images = (max(left, drawn.var(ddof=1)), freedom if left > drawn.var(ddof=1) else np.inf)
    half = half_width(values, images, 0.95)
    assert found.value == pytest.approx(values.mean())
    # Other resamples: their standard error is a few percent.
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert (found.pretraining_seeds, found.label_seeds, found.images, found.device_seconds) == (3, 2, 1000.0, 12.5)


def test_difference_is_paired_by_seed_and_image_and_holds_together_with_the_others(made):
    rows = compare(make_outcomes(make_study(), made))
    assert {(r.arm, r.reference) for r in rows} == {(arm, "scratch") for arm in ARMS[:3]}
    assert {r.comparisons for r in rows} == {3}
    (found,) = [r for r in rows if (r.arm, r.metric) == ("curriculum", "balanced_accuracy")]
    values = grid(made, "curriculum", "balanced_accuracy") - grid(made, "scratch", "balanced_accuracy")
    by_arm = {
        arm: np.array(
            [
                [
                    next(
                        m.predictions.probs
                        for m in made
                        if (m.measured.arm, m.measured.seed, m.measured.label_seed) == (arm, s, k)
                    )
                    for k in LABELS
                ]
                for s in SEEDS
            ]
        )
        for arm in ("curriculum", "scratch")
    }
    test = made[0].predictions
    labels, groups = test.labels, np.array(test.groups)
    right = {arm: (probs.argmax(axis=-1) == labels).mean(axis=(0, 1)) for arm, probs in by_arm.items()}

    def score(weights):
        gained = weights * (right["curriculum"] - right["scratch"])
        return np.mean([gained[labels == c].sum() / weights[labels == c].sum() for c in range(3)])

    left, freedom = jackknife(labels, groups, score)
    drawn = [resampled_accuracy(labels, by_arm[a], groups, np.random.default_rng(9), 4000) for a in by_arm]
    spread = np.var(drawn[0] - drawn[1], ddof=1)
    images = (max(left, spread), freedom if left > spread else np.inf)
    half = half_width(values, images, 1 - 0.05 / 3)
    assert found.difference == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.p_adjusted == pytest.approx(min(1, 3 * found.p))
    assert (found.p_adjusted < 0.05) == (found.low > 0)


def test_an_arm_that_lacks_a_label_seed_counts_with_whole_seeds_alone(made):
    left = [m for m in made if (m.measured.arm, m.measured.seed, m.measured.label_seed) != ("curriculum", 1, 1)]
    outcomes = make_outcomes(make_study(), left)
    (found,) = [s for s in summarise(outcomes) if (s.arm, s.metric) == ("curriculum", "auroc")]
    assert found.pretraining_seeds == 2
    assert found.value == pytest.approx(grid(made, "curriculum", "auroc")[[0, 2]].mean())
    (row,) = [r for r in compare(outcomes) if (r.arm, r.metric) == ("curriculum", "auroc")]
    assert row.pretraining_seeds == 2
    assert balance({(0, 0): 1, (1, 0): 2, (1, 1): 3}) == {(1, 0): 2, (1, 1): 3}
    assert balance({(0, 0): 1, (1, 1): 3}) == {}


def test_a_backbone_that_no_pretraining_seed_changes_counts_once():
    one = measure("scratch", 0, key="same")
    made = [measure("scratch", 0, key="same")]
    same = [
        type(one)(measured=m, predictions=None)
        for m in (
            one.measured,
            type(one.measured)(**{**vars(one.measured), "seed": 1}),
            type(one.measured)(**{**vars(one.measured), "seed": 2}),
        )
    ]
    thrice, once = (summarise(make_outcomes(make_study(), found))[0] for found in (same, made))
    assert thrice.pretraining_seeds == once.pretraining_seeds == 1
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high)), "copies make nothing surer"


class TestReference:
    def test_the_best_single_task_is_chosen_by_validation_and_not_by_test(self):
        study = make_study(reference="", candidates=("single:a", "single:b"))
        # On the test images 'b' is better.
        made = [measure(arm, s, validation={"single:a": 0.9}.get(arm, 0.5)) for arm in ARMS for s in SEEDS]
        assert {(r.arm, r.reference) for r in compare(make_outcomes(study, made))} == {
            (arm, "single:a") for arm in ("curriculum", "single:b", "scratch")
        }

    def test_variants_are_compared_arm_by_arm(self):
        study = make_study(xs=(0.1, 1.0), reference="scratch", reference_variant="v1")
        made = [
            measure(arm, s, variant=v, shift=shift)
            for v, shift in (("v0", 0.0), ("v1", 0.5))
            for arm in ("curriculum", "scratch")
            for s in SEEDS
        ]
        rows = [r for r in compare(make_outcomes(study, made)) if r.metric == "auroc"]
        pairs = [(r.variant, r.arm, r.reference_variant, r.reference, r.comparisons) for r in rows]
        assert pairs == [
            ("v0", "curriculum", "v0", "scratch", 2),
            ("v1", "curriculum", "v1", "scratch", 2),
            ("v0", "curriculum", "v1", "curriculum", 2),
            ("v0", "scratch", "v1", "scratch", 2),
        ]
        assert rows[2].difference < 0 and rows[2].x == 0.1

    def test_says_why_there_is_no_difference(self):
        made = [measure("curriculum", 0), measure("scratch", 1), measure("single:a", 0, images=30)]
        made += [measure("single:b", 1, key="x"), measure("scratch", 0, fraction=0.1)]
        made[3].measured.__dict__["key"] = made[1].measured.key
        notes = {(r.arm, r.fraction): r.note for r in compare(make_outcomes(make_study(), made))}
        assert notes["curriculum", 1.0] == "they have no seed in common"
        assert notes["curriculum", 0.1] == "one of them has no results"
        made = [measure("curriculum", 0, images=30), measure("scratch", 0)]
        (row, _) = compare(make_outcomes(make_study(), made))
        assert row.note == "they were measured on different test images" and np.isnan(row.difference)

    def test_the_same_measurements_have_no_interval(self):
        first = measure("scratch", 0)
        twin = type(first)(
            measured=type(first.measured)(**{**vars(first.measured), "arm": "curriculum"}), predictions=None
        )
        row = compare(make_outcomes(make_study(), [first, twin]))[0]
        assert (row.difference, row.note) == (0.0, "both are the same measurements")


def test_tables_are_written_with_what_is_not_known_empty(made, tmp_path):
    tables.write_tables(tmp_path, make_outcomes(make_study(), made))
    read = {}
    for name in (tables.VALUES, tables.SUMMARY, tables.DIFFERENCES):
        with open(tmp_path / name, newline="") as file:
            read[name] = list(csv.DictReader(file))
    assert read["study.csv"][0].keys() >= {
        "variant",
        "arm",
        "target",
        "fraction",
        "metric",
        "pretraining_seed",
        "label_seed",
    }
    value = {
        (r["arm"], r["pretraining_seed"], r["label_seed"], r["metric"]): float(r["value"]) for r in read["study.csv"]
    }
    assert value["scratch", "2", "1", "auroc"] == pytest.approx(grid(made, "scratch", "auroc")[2, 1], rel=1e-5)
    assert {row["x"] for row in read["summary.csv"]} == {""} and len(read["summary.csv"]) == 2 * len(ARMS)
    assert len(read["differences.csv"]) == 2 * 3
