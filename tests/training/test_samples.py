"""Self-paced images: which are shown when, their losses, and a training that goes on with the same images."""

import jax
import numpy as np
import pytest
import tiny
from short_runs import Killed
from tiny import no_events  # noqa: F401

from aiseeme_jax import data
from aiseeme_jax.training import loop, samples
from aiseeme_jax.training.state import make_state, task_of

pytestmark = pytest.mark.usefixtures("no_events")


def pace(**changes):
    fields = {"order": "easiest", "start": 0.5, "warmup": 0.1, "until": 0.6, "every": 1, "passes": 1}
    return samples.Pace(**{**fields, "steps_per_epoch": 3, "total_steps": 30, **changes})


class TestPace:
    def test_grows_in_equal_steps_to_all_images(self):
        """The shares of CCL's curriculum of samples, .5 and then .1 more each time, if an epoch stands for 20."""
        found = pace(warmup=0.0, until=6 / 11, total_steps=33)
        assert [found.share(epoch) for epoch in range(8)] == pytest.approx([1, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1])

    def test_defaults_by_hand(self):
        # Epochs begin at 0, .1, .2, … of the stage; the warm-up ends at .1, and all are in at .6.
        shares = [pace().share(epoch) for epoch in range(10)]
        assert shares == pytest.approx([1, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1, 1])

    @pytest.mark.parametrize(("warmup", "first"), [(0.0, 1), (0.05, 1), (0.1, 1), (0.11, 2), (0.3, 3)])
    def test_the_warm_up_takes_whole_epochs_and_at_least_one(self, warmup, first):
        assert pace(warmup=warmup).first == first

    def test_losses_are_measured_every_few_epochs_while_images_are_left_out(self):
        def measured(**changes):
            return [epoch for epoch in range(10) if pace(**changes).is_measured(epoch)]

        assert measured() == [1, 2, 3, 4, 5]
        assert measured(every=2) == [1, 3, 5]
        assert measured(every=2, warmup=0.2) == [2, 4]
        assert measured(order="random") == []


class TestChooseImages:
    LOSSES = np.array([0.3, 2.0, 0.1, 1.0, 0.5, 4.0], np.float32)

    def test_hard_weights_of_self_paced_learning(self):
        """v_i = 1 if L_i < lambda, else 0, with lambda between the losses of the third and the fourth image."""
        chosen = samples.choose_images(self.LOSSES, 0.5)
        assert chosen.tolist() == np.flatnonzero(self.LOSSES < 0.7).tolist() == [0, 2, 4]
        assert samples.choose_images(self.LOSSES, 0.5, hardest_first=True).tolist() == [1, 3, 5]

    def test_shares_are_rounded_and_never_empty(self):
        counts = [len(samples.choose_images(self.LOSSES, share)) for share in (0.01, 0.24, 0.25, 0.26, 0.75, 1.0)]
        # 6 times .25 is 1.5.
        assert counts == [1, 1, 2, 2, 5, 6]

    def test_larger_shares_contain_smaller_ones(self):
        sets = [set(samples.choose_images(self.LOSSES, share).tolist()) for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
        assert all(one < other for one, other in zip(sets, sets[1:], strict=False))

    def test_ties_go_to_the_first_and_what_is_not_finite_comes_last_in_both_orders(self):
        losses = np.array([np.nan, 1.0, np.inf, 1.0, 2.0, 1.0], np.float32)
        assert samples.choose_images(losses, 2 / 6).tolist() == [1, 3]
        assert samples.choose_images(losses, 2 / 6, hardest_first=True).tolist() == [1, 4]
        for hardest_first in (False, True):
            assert samples.choose_images(losses, 4 / 6, hardest_first=hardest_first).tolist() == [1, 3, 4, 5]

    def test_each_data_set_has_its_share(self):
        chosen = samples.choose_images(np.array([9.0, 8.0, 7.0, 6.0, 1.0, 0.0]), 0.5, sets=(4, 2))
        assert chosen.tolist() == [2, 3, 5]


class TestComparePasses:
    def test_is_the_mean_rank_correlation_of_two_of_them(self):
        passes = [np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 30.0, 20.0, 40.0]), np.array([4.0, 3.0, 2.0, 1.0])]
        # One exchange of neighbours among four makes .8; against the reverse order -1 and -.8.
        assert samples.compare_passes(passes[:2]) == pytest.approx(0.8)
        assert samples.compare_passes(passes) == pytest.approx((0.8 - 1 - 0.8) / 3, abs=1e-6)

    def test_passes_over_images_whose_losses_are_not_finite(self):
        assert samples.compare_passes([np.array([1.0, np.nan, 2.0]), np.array([3.0, 1.0, 4.0])]) == 1
        assert samples.compare_passes([np.array([np.nan, 1.0]), np.array([1.0, 2.0])]) is None
        assert samples.compare_passes([np.ones(3), np.arange(3.0)]) is None


def batches(split=None, batch_size=8):
    return data.Batches(split or tiny.split(), batch_size=batch_size, seed=0)


def indices(stream, steps):
    return np.array([np.asarray(next(stream)["index"]) for _ in range(steps)])


class TestBatches:
    ROWS = np.array([0, 1, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 18, 20, 22, 23])

    @pytest.mark.parametrize("residence", ["stream", "device"])
    def test_some_images_alone_keep_their_index_and_their_pixels(self, residence):
        made = data.Batches(tiny.split(), batch_size=8, seed=0, loading=data.Loading(residence))
        stream = made.among(self.ROWS, seed=5)
        found = [next(stream) for _ in range(2)]
        assert sorted(np.concatenate([batch["index"] for batch in found]).tolist()) == self.ROWS.tolist()
        for batch in found:
            np.testing.assert_array_equal(batch["image"], tiny.split().read(np.asarray(batch["index"])))
        whole = indices(made.among(self.ROWS, seed=5), 5)
        np.testing.assert_array_equal(indices(made.among(self.ROWS, 2, seed=5), 3), whole[2:])

    def test_shuffled_batches_are_full_and_show_every_image_once_before_the_first_again(self):
        found = [np.asarray(batch["index"]) for batch in batches(tiny.split(20)).shuffled(3)]
        assert [len(rows) for rows in found] == [8, 8, 8]
        rows = np.concatenate(found)
        assert sorted(rows[:20].tolist()) == list(range(20)) and rows[:20].tolist() != list(range(20))
        assert rows[20:].tolist() == rows[:4].tolist()

    def test_a_paced_mixture_keeps_its_shares(self):
        mixed = data.mix({"a": tiny.split(24), "b": tiny.split(16, seed=1)}, {"a": 0.75, "b": 0.25})
        found = samples.Samples(pace(steps_per_epoch=5, total_steps=50, order="random"), batches(mixed), seed=0)
        rows = found.choose(None, 2)
        # .6 of each set.
        assert (rows < 24).sum() == 14 and (rows >= 24).sum() == 10
        shown = indices(found.open(None, 10), 5)
        assert set(shown.ravel().tolist()) <= set(rows.tolist()) and (shown < 24).sum() == 30

    @pytest.mark.parametrize("steps", [50, 13, 4])
    def test_images_shown_of_a_mixture_are_counted(self, steps):
        mixed = data.mix({"a": tiny.split(24), "b": tiny.split(16, seed=1)}, {"a": 0.7, "b": 0.3})
        made = pace(steps_per_epoch=5, total_steps=50, order="random")
        found = samples.Samples(made, batches(mixed), seed=0)
        stream, shown = None, []
        for done in range(steps):
            if stream is None or found.is_changed(done):
                stream = found.open(None, done)
            shown.append(np.asarray(next(stream)["index"]))
        count = int((np.concatenate(shown) < 24).sum())
        assert samples.count_sets(mixed, steps, 8, made) == {"a": count, "b": 8 * steps - count}


CONFIG = tiny.stage("simclr", steps=18, batch=8)


def paced(order="easiest", **changes):
    made = pace(order=order, **{"total_steps": 18, "warmup": 0.1, "until": 0.8, **changes})
    return samples.Samples(made, batches(), seed=0)


def fit(directory, chosen, **options):
    task = tiny.task(CONFIG)
    chosen.attach(task)
    return tiny.fit(task, CONFIG, directory, batches=batches(), samples=chosen, **options)


class TestMeasuring:
    def measured(self, **changes):
        chosen = paced(**changes)
        task = tiny.task(CONFIG)
        chosen.attach(task)
        program, state = make_state(task, tiny.recipe(CONFIG))
        before, record = tiny.arrays(state), {}
        after = chosen.begin_epoch(program, state, 3, record)
        return chosen, before, after, task_of(program, after), record

    @pytest.mark.slow
    def test_gives_the_loss_of_each_image_and_changes_nothing_else(self):
        _, before, after, task, _ = self.measured()
        found = np.asarray(task.difficulty.get_value())
        after = tiny.arrays(after)
        changed = [name for name in before if before[name].tobytes() != after[name].tobytes()]
        assert len(changed) == 1 and "difficulty" in changed[0]
        assert before.keys() == after.keys() and np.isnan(before[changed[0]]).all()
        # The images that come in one batch, by hand.
        (first, *_), key = (
            list(batches().shuffled(samples.seeds.derive(0, "difficulty", "order 0"))),
            jax.random.key(samples.seeds.derive(0, "difficulty", "views 0")),
        )
        fresh = tiny.task(CONFIG)
        output = tiny.loss(fresh, fresh.views(jax.random.fold_in(key, 0), first), 0.0)
        np.testing.assert_allclose(found[np.asarray(first["index"])], output.image_losses, rtol=1e-4)
        assert np.isfinite(found).all() and len(np.unique(found)) == 24

    def test_passes_are_averaged_and_compared(self):
        once = self.measured()
        *_, task, record = self.measured(passes=2)
        first, mean = (np.asarray(found.difficulty.get_value()) for found in (once[3], task))
        second = 2 * mean - first
        assert not np.allclose(first, second, atol=0.01)
        ranks = [np.argsort(np.argsort(losses)) for losses in (first, second)]
        assert record["samples"][0]["agreement"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-4)
        assert "agreement" not in once[4]["samples"][0]

    @pytest.mark.parametrize(("order", "sign"), [("easiest", 1), ("hardest", -1)])
    def test_the_record_says_what_is_shown_and_what_comes_last(self, order, sign):
        chosen, _, _, task, record = self.measured(order=order)
        losses = np.asarray(task.difficulty.get_value())
        ranked = np.argsort(sign * losses)
        (found,) = record["samples"]
        assert (found["epoch"], found["share"], found["images"]) == (2, 0.5, 12)
        assert found["shown_loss"] == pytest.approx(losses[ranked[:12]].mean(), abs=1e-5)
        assert found["other_loss"] == pytest.approx(losses[ranked[12:]].mean(), abs=1e-5)
        assert found["last"] == tiny.split().ids[ranked[::-1][:5]].tolist()
        assert chosen.choose(task, 1).tolist() == sorted(ranked[:12].tolist())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aiseeme_jax.training.events.writer", lambda directory, **options: None)
        return fit(tmp_path_factory.mktemp("whole"), paced())


def shown_batches(monkeypatch, found):
    """Notes the images of every step."""
    real = loop.Steps.__call__

    def step(self, state, batch, key):
        found.append((int(state.step), np.asarray(batch["index"]).tolist()))
        return real(self, state, batch, key)

    monkeypatch.setattr(loop.Steps, "__call__", step)


class TestTraining:
    # An epoch is three steps: within a paced epoch, at the end of one, and after its losses were measured anew.
    @pytest.mark.slow
    @pytest.mark.parametrize("last", [4, 6, 7])
    def test_goes_on_after_a_kill_with_the_same_images_to_the_same_bits(self, last, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            real = loop._Training._save

            def save(training, step, state, metrics):
                real(training, step, state, metrics)
                if step >= last:
                    training.store.wait()
                    raise Killed

            patch.setattr(loop._Training, "_save", save)
            with pytest.raises(Killed):
                fit(tmp_path, paced(), checkpoint_every=last)
        result = fit(tmp_path, paced(), checkpoint_every=last)
        tiny.assert_same(result.task, whole.task)
        assert result.record["samples"] == whole.record["samples"]

    @pytest.mark.slow
    def test_shows_the_images_of_each_epoch_and_no_others(self, tmp_path, monkeypatch):
        found = []
        shown_batches(monkeypatch, found)
        result = fit(tmp_path, paced())
        epochs = [{i for step, rows in found for i in rows if step // 3 == epoch} for epoch in range(6)]
        plain = indices(batches()(0), 18).tolist()
        # The second epoch begins at 3 of 18 steps, and all images are in from 14.4 steps on: .5 + .5 (n - 3) / 11.4.
        assert [entry["images"] for entry in result.record["samples"]] == [12, 15, 18, 21]
        for epoch, entry in zip(range(1, 5), result.record["samples"], strict=True):
            # Of 12 … 21 images, one or two full batches make a permutation.
            assert 8 <= len(epochs[epoch]) <= entry["images"]
        # The last losses are still known.
        assert epochs[4] <= set(paced().choose(result.task, 4).tolist())
        # The warm-up and the end are as without pacing.
        assert [rows for step, rows in found if step < 3 or step >= 15] == plain[:3] + plain[15:]

    @pytest.mark.slow
    def test_random_images_need_no_losses_and_are_nested(self, tmp_path, monkeypatch):
        found = []
        shown_batches(monkeypatch, found)
        result = fit(tmp_path, paced("random"))
        chosen = paced("random")
        sets = [set(chosen.choose(None, epoch).tolist()) for epoch in range(1, 5)]
        assert all(one < other for one, other in zip(sets, sets[1:], strict=False))
        assert all(set(rows) <= sets[step // 3 - 1] for step, rows in found if 3 <= step < 15)
        assert result.task.difficulty is None
        assert all(set(entry) == {"epoch", "share", "images"} for entry in result.record["samples"])
