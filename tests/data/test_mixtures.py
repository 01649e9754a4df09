"""Mixtures: the shares of every batch, the order of each set, exact resume, and what cannot be mixed."""

import itertools
import json

import numpy as np
import pytest
import tiny

from aiseeme_jax import data
from aiseeme_jax.data.order import cumulated, spread
from aiseeme_jax.errors import UserError

SHARES = {"big": 0.7, "small": 0.3}


def sets(big=40, small=6):
    return {"big": tiny.split(big), "small": data.from_arrays(tiny.images(small, seed=1), name="own/16:train")}


def mixture(**sizes):
    return data.mix(sets(**sizes), SHARES)


def steps(split, start=0, count=12, *, batch=8, seed=0):
    chosen = split.order(batch_size=batch, seed=seed).slice(slice(start, start + count))
    return np.stack([np.asarray(step) for step in chosen])


@pytest.mark.parametrize(
    "shares", [(0.5, 0.5), (0.7, 0.3), (0.001, 0.999), (1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.05, 0.05)]
)
class TestSpread:
    def test_numbers_follow_the_shares_and_sum_up(self, shares):
        images = np.arange(3000)
        numbers = cumulated(images, shares)
        np.testing.assert_array_equal(numbers.sum(axis=0), images)
        limit = 0.5 if len(shares) == 2 else 1.5
        assert np.abs(numbers - np.outer(shares, images)).max() <= limit + 1e-6
        assert set(np.unique(np.diff(numbers, axis=1))) <= {0, 1}

    def test_each_set_is_gone_through_without_a_gap(self, shares):
        chosen, places = spread(np.arange(3000), shares)
        for number in range(len(shares)):
            np.testing.assert_array_equal(places[chosen == number], np.arange((chosen == number).sum()))

    def test_a_position_does_not_depend_on_where_one_starts(self, shares):
        whole, part = spread(np.arange(3000), shares), spread(np.arange(1234, 1300), shares)
        for one, other in zip(whole, part, strict=True):
            np.testing.assert_array_equal(one[1234:1300], other)


class TestMixture:
    def test_holds_the_rows_of_all_sets_behind_one_another(self):
        made, (big, small) = mixture(), sets().values()
        assert len(made) == 46 and made.kind == "none" and made.labels.tolist() == [-1] * 46
        np.testing.assert_array_equal(made.images(), np.concatenate([big.images(), small.images()]))
        np.testing.assert_array_equal(made.read(np.array([41, 3, 40])), made.images()[[41, 3, 40]])
        assert list(made.groups) == [*big.groups, *small.groups]

    def test_ids_that_two_sets_have_are_told_apart(self):
        made = mixture()
        assert len(set(made.ids)) == 46
        assert list(made.ids[[0, 5, 6, 40, 45]]) == ["big/0", "big/5", "6", "small/0", "small/5"]

    def test_every_batch_holds_each_set_by_its_share(self):
        chosen = steps(mixture(), count=100) >= 40
        wanted = 0.3 * 8 * np.arange(1, 101)
        assert np.abs(np.cumsum(chosen.sum(axis=1)) - wanted).max() <= 0.5 + 1e-9
        # A set is not all at one end of the batches, where one device would have it.
        assert all(0 < chosen[:, place].mean() < 0.5 for place in range(8))

    def test_each_set_runs_through_fresh_permutations_of_its_own(self):
        rows = steps(mixture(), count=100).ravel()
        small = (rows[rows >= 40] - 40)[:240].reshape(40, 6)
        np.testing.assert_array_equal(np.sort(small, axis=1), np.broadcast_to(np.arange(6), (40, 6)))
        assert len({tuple(epoch) for epoch in small}) > 30
        big = rows[rows < 40][:520].reshape(13, 40)
        np.testing.assert_array_equal(np.sort(big, axis=1), np.broadcast_to(np.arange(40), (13, 40)))

    def test_order_of_a_set_does_not_depend_on_the_others(self):
        first = steps(mixture(), count=50).ravel()
        third = {**sets(), "third": tiny.split(24, seed=3)}
        with_third = steps(data.mix(third, {**SHARES, "third": 0.5}), count=50).ravel()
        one, other = (rows[(rows >= 40) & (rows < 46)][:60] for rows in (first, with_third))
        np.testing.assert_array_equal(one, other)

    def test_any_step_can_be_reached_at_once_and_the_seed_decides(self):
        whole = steps(mixture(), count=30)
        for start in (1, 13, 29):
            np.testing.assert_array_equal(steps(mixture(), start, 30 - start), whole[start:])
        assert not np.array_equal(steps(mixture(), seed=1), whole[:12])

    def test_number_of_images_of_each_set_is_told(self):
        made = mixture()
        rows = steps(made, count=37)
        assert made.counts(37, 8) == {"big": int((rows < 40).sum()), "small": int((rows >= 40).sum())}
        assert made.counts(0, 8) == {"big": 0, "small": 0}
        assert tiny.split().counts(3, 8) == {"tiny:train": 24}

    def test_shares_are_divided_by_their_sum(self):
        assert data.mix(sets(), {"small": 3, "big": 7}).shares == pytest.approx(SHARES)

    def test_fingerprint_has_every_set_and_its_share(self):
        made = mixture()
        found = made.fingerprint()
        assert found["sets"]["big"] == {"share": 0.7, **tiny.split(40).fingerprint()}
        others = [data.mix(sets(), {"big": 0.6, "small": 0.4}), mixture(small=7)]
        assert len({json.dumps(other.fingerprint()) for other in (made, *others)}) == 3

    def test_subset_keeps_sets_and_shares(self):
        made = mixture()
        part = made.subset([1, 7, 41, 45])
        assert part.shares == made.shares and [len(each) for each in part.sets.values()] == [2, 2]
        np.testing.assert_array_equal(part.images(), made.images()[[1, 7, 41, 45]])
        with pytest.raises(ValueError, match="must increase"):
            made.subset([7, 1])


class TestBatches:
    def take(self, start, count, **way):
        batches = data.Batches(mixture(), batch_size=8, seed=3, **way)
        taken = itertools.islice(batches(start), count)
        return [{name: np.asarray(value) for name, value in batch.items()} for batch in taken]

    def assert_same(self, one, other):
        for a, b in zip(one, other, strict=True):
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])

    def test_batches_of_a_mixture_are_like_others(self):
        batches = data.Batches(mixture(), batch_size=8, seed=3)
        assert batches.steps_per_epoch == 46 // 8
        taken = self.take(0, 4)
        for batch, rows in zip(taken, steps(mixture(), count=4, seed=3), strict=True):
            np.testing.assert_array_equal(batch["index"], rows)
            np.testing.assert_array_equal(batch["image"], mixture().read(rows))
            assert batch["label"].tolist() == [-1] * 8

    def test_starts_at_any_step_and_residence_changes_nothing(self):
        whole = self.take(0, 9)
        self.assert_same(self.take(5, 4), whole[5:])
        self.assert_same(self.take(2, 3, loading=data.Loading("device")), whole[2:5])

    @pytest.mark.slow
    def test_workers_change_nothing(self):
        self.assert_same(self.take(2, 5, loading=data.Loading(workers=2)), self.take(2, 5))


class TestWhatCannotBeMixed:
    def test_shares_and_sets_must_fit(self):
        with pytest.raises(
            UserError, match="one share for each data set: the data sets are big, small, the shares .* big"
        ):
            data.mix(sets(), {"big": 1})
        with pytest.raises(UserError, match="the data sets are none"):
            data.mix({}, {})
        for share in (0, -1, float("nan"), float("inf")):
            with pytest.raises(UserError, match="the share of 'small' in a mixture must be a positive number"):
                data.mix(sets(), {"big": 1, "small": share})

    def test_images_must_be_of_one_shape_and_type(self):
        other = data.from_arrays(np.zeros((3, 16, 16, 1), np.int16))
        with pytest.raises(UserError) as error:
            data.mix({"skin": tiny.split(), "planes": other}, {"skin": 1, "planes": 1})
        assert "'skin' holds uint8 (16, 16, 3) and 'planes' holds int16 (16, 16, 1)" in str(error.value)
