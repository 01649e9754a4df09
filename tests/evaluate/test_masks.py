"""Metrics of masks: against definitions written out, at empty masks, with intervals, from the file."""

import numpy as np
import pytest

from aiseeme_jax.evaluate import bootstrap, masks, results, scores
from aiseeme_jax.evaluate.masks import MaskScoring, measure_hausdorff95
from aiseeme_jax.evaluate.results import Overlaps

STATISTICS = {"samples": 40, "seed": 3}


def square(top, left, side, size=12):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def random_masks(count, seed=0):
    random = np.random.default_rng(seed)
    return random.random((count, 9, 11)) < random.uniform(0.05, 0.6, (count, 1, 1))


def overlaps(predicted, true, groups=None):
    names = [f"i{i}" for i in range(len(true))]
    distances = np.array([measure_hausdorff95(p, t) for p, t in zip(predicted, true, strict=True)], np.float32)
    counts = [m.sum(axis=(1, 2)).astype(np.int32) for m in (predicted & true, predicted, true)]
    return Overlaps(*counts, distances, names, groups or names)


def border_by_hand(mask):
    """Positions of the pixels in a mask that have a neighbour outside of it, or of the image."""
    found = []
    for y, x in np.argwhere(mask):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [0 <= a < mask.shape[0] and 0 <= b < mask.shape[1] and mask[a, b] for a, b in around]
        if not all(inside):
            found.append((y, x))
    return np.array(found, float)


def hausdorff_by_hand(predicted, true):
    one, other = border_by_hand(predicted), border_by_hand(true)
    far = np.sqrt(((one[:, None] - other[None]) ** 2).sum(axis=-1))
    return max(np.percentile(far.min(axis=1), 95), np.percentile(far.min(axis=0), 95))


class TestHausdorff:
    def test_is_that_of_all_pairs_of_border_pixels(self):
        for predicted, true in zip(random_masks(25), random_masks(25, seed=1), strict=True):
            assert measure_hausdorff95(predicted, true) == pytest.approx(hausdorff_by_hand(predicted, true))

    def test_of_moved_squares(self):
        assert measure_hausdorff95(square(2, 2, 4), square(2, 2, 4)) == 0
        # Each border pixel of one column lies three pixels from the other mask.
        assert measure_hausdorff95(square(2, 2, 4), square(2, 5, 4)) == 3
        assert measure_hausdorff95(square(0, 0, 1), square(3, 4, 1)) == 5

    def test_leaves_out_the_worst_twentieth_of_the_border(self):
        true, stray = square(0, 0, 12, size=40), square(0, 0, 12, size=40)
        stray[39, 39] = True
        assert measure_hausdorff95(stray, true) == 0, "one of 45 border pixels"
        two = stray.copy()
        two[37, 39] = two[35, 39] = True
        assert measure_hausdorff95(two, true) > 15, "three of 47"

    def test_of_empty_masks(self):
        empty = np.zeros((12, 12), bool)
        assert measure_hausdorff95(empty, empty) == 0
        assert np.isnan(measure_hausdorff95(empty, square(2, 2, 4)))
        assert np.isnan(measure_hausdorff95(square(2, 2, 4), empty))

    def test_a_full_mask_has_the_edge_of_the_image_as_its_border(self):
        full = np.ones((12, 12), bool)
        assert measure_hausdorff95(full, full) == 0
        assert measure_hausdorff95(full, square(1, 1, 10)) == pytest.approx(2**0.5), "4 of 44 pixels are corners"


class TestOverlaps:
    def test_by_hand(self):
        # Same; 8 of 16 each; nothing in common; both empty; predicted nothing; found where nothing is.
        true = np.stack([square(2, 2, 4)] * 3 + [square(0, 0, 0)] + [square(2, 2, 4)] + [square(0, 0, 0)])
        moved, apart, empty = square(2, 4, 4), square(8, 8, 4), square(0, 0, 0)
        predicted = np.stack([square(2, 2, 4), moved, apart, empty, empty, moved])
        found = overlaps(predicted, true)
        np.testing.assert_allclose(masks.dice(found), [1, 0.5, 0, 1, 0, 0])
        np.testing.assert_allclose(masks.jaccard(found), [1, 8 / 24, 0, 1, 0, 0])
        np.testing.assert_allclose(found.hausdorff95, [0, 2, found.hausdorff95[2], 0, np.nan, np.nan])
        scoring = MaskScoring(found, **STATISTICS)
        assert scoring.value("dice") == pytest.approx(2.5 / 6)
        assert scoring.value("hausdorff95") == pytest.approx(np.mean(found.hausdorff95[:4]))
        assert scoring.value("hausdorff95_undefined") == pytest.approx(2 / 6)

    @pytest.mark.parametrize(("common", "counts"), [(65, 65), (64, 0)])
    def test_the_threshold_is_reached_at_065(self, common, counts):
        true = np.array([100], np.int32)
        found = Overlaps(np.array([common]), np.array([common]), true, np.zeros(1), ["a"], ["a"])
        assert masks.threshold_jaccard(found) == pytest.approx(counts / 100)

    def test_what_does_not_fit_together_is_refused(self):
        one, two = np.ones(1, np.int32), 2 * np.ones(1, np.int32)
        with pytest.raises(ValueError, match="rows of the masks do not fit together"):
            Overlaps(one, one, one, np.zeros(2), ["a"], ["a"])
        with pytest.raises(ValueError, match="more pixels are in both masks than in one of them"):
            Overlaps(two, one, two, np.zeros(1), ["a"], ["a"])

    def test_comes_back_from_its_file_in_another_order(self, tmp_path):
        found = overlaps(random_masks(5), random_masks(5, seed=1), groups=list("aabbc"))
        written = results.save_predictions(tmp_path, found)
        again = results.load_predictions(tmp_path)
        assert isinstance(again, Overlaps) and results.hash_predictions(tmp_path) == written
        for name in Overlaps.ROWS:
            np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
        shuffled = Overlaps(**{name: np.asarray(getattr(found, name))[[3, 1, 4, 0, 2]] for name in Overlaps.ROWS})
        assert again.differing_table(shuffled) == "ids" and again.differing_table(shuffled.by_id()) == ""
        other = overlaps(random_masks(5), random_masks(5, seed=2), groups=list("aabbc"))
        assert again.differing_table(other) == "true"


class TestScoring:
    def test_intervals_are_those_of_the_bootstrap_over_groups(self):
        groups = [f"g{i // 2}" for i in range(40)]
        found = overlaps(random_masks(40), random_masks(40, seed=1), groups)
        summary = {row["metric"]: row for row in MaskScoring(found, **STATISTICS).summarise()}
        assert list(summary) == list(masks.METRICS)
        for name in ("jaccard", "dice", "hausdorff95"):
            values = masks.METRICS[name](found)
            wanted = bootstrap.bootstrap_ci(
                lambda rows, _: float(np.mean(rows)), values, values, groups=groups, **STATISTICS
            )
            row = summary[name]
            np.testing.assert_allclose([row["value"], row["low"], row["high"]], wanted)
            assert row["low"] < row["value"] < row["high"]

    def test_a_distance_that_is_nowhere_defined_is_left_out(self):
        true = random_masks(12)
        scoring = MaskScoring(overlaps(np.zeros_like(true), true), **STATISTICS)
        rows = {row["metric"]: row for row in scoring.summarise()}
        assert "hausdorff95" not in rows and rows["hausdorff95_undefined"]["value"] == 1
        assert np.isnan(rows["hausdorff95_undefined"]["low"]), "no resample leaves the end of the range"
        with pytest.raises(ValueError, match="hausdorff95 is undefined: in no image"):
            scoring.value("hausdorff95")

    def test_resamples_without_a_defined_distance_count_for_nothing(self):
        true = random_masks(12)
        predicted = np.concatenate([true[:1], np.zeros_like(true[1:])])
        drawn = MaskScoring(overlaps(predicted, true), **STATISTICS).of("hausdorff95")
        assert drawn.value == 0 and np.isnan(drawn.resampled).any() and np.isnan(drawn.without).sum() == 1

    def test_headlines_are_jaccard_and_dice(self):
        found = overlaps(random_masks(6), random_masks(6, seed=1))
        headline = scores.make_scoring(found, **STATISTICS).headline()
        assert headline == {"jaccard": masks.jaccard(found).mean(), "dice": masks.dice(found).mean()}
