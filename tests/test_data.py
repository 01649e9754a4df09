"""Order, batches, shares: what the next batch is, and that nothing but seed and step decides it."""

import itertools

import jax
import numpy as np
import pytest
import tiny

from aiseeme_jax import data


def indices(start=0, count=9, *, images=24, batch=8, seed=0):
    steps = data.order(images, batch_size=batch, seed=seed).slice(slice(start, start + count))
    return [np.asarray(step) for step in steps]


def take(batches, start=0, count=4):
    taken = itertools.islice(batches(start), count)
    return [{key: np.asarray(value) for key, value in batch.items()} for batch in taken]


def assert_same_batches(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


class TestOrder:
    def test_every_epoch_is_a_fresh_permutation(self):
        epochs = np.concatenate(indices(count=12)).reshape(4, 24)
        np.testing.assert_array_equal(np.sort(epochs, axis=1), np.broadcast_to(np.arange(24), (4, 24)))
        assert len({tuple(epoch) for epoch in epochs}) == 4

    def test_remainder_is_left_out_another_one_each_epoch(self):
        epochs = np.concatenate(indices(count=12, images=27)).reshape(4, 24)
        left_out = [frozenset(range(27)) - set(epoch.tolist()) for epoch in epochs]
        assert [len(rest) for rest in left_out] == [3] * 4 and len(set(left_out)) > 1

    def test_any_step_can_be_reached_at_once(self):
        whole = indices(count=12)
        for start in (1, 3, 7, 11):
            np.testing.assert_array_equal(indices(start, 12 - start), whole[start:])

    def test_another_seed_is_another_order(self):
        np.testing.assert_array_equal(indices(seed=5), indices(seed=5))
        assert not np.array_equal(indices(seed=5), indices(seed=6))


class TestBatches:
    def test_holds_the_images_and_labels_of_its_indices_spread_over_the_devices(self):
        split = tiny.split()
        batch = next(data.Batches(split, batch_size=16, seed=0)(0))
        assert batch["image"].dtype == np.uint8 and batch["index"].dtype == np.int32
        assert batch["image"].sharding.spec == jax.sharding.PartitionSpec("data")
        assert [shard.data.shape[0] for shard in batch["image"].addressable_shards] == [2] * 8
        rows = np.asarray(batch["index"])
        np.testing.assert_array_equal(batch["image"], split.images()[rows])
        np.testing.assert_array_equal(batch["label"], split.labels[rows])
        np.testing.assert_array_equal(rows, indices(count=1, batch=16)[0])

    def test_starts_at_any_step(self):
        batches = data.Batches(tiny.split(), batch_size=8, seed=3)
        assert_same_batches(take(batches, 5, 4), take(batches, 0, 9)[5:])

    def test_residence_does_not_change_a_bit(self):
        stream, device = (
            data.Batches(tiny.split(), batch_size=8, seed=3, residence=where) for where in ("stream", "device")
        )
        assert_same_batches(take(stream, 2), take(device, 2))
        for batch in (next(stream(0)), next(device(0))):
            assert {value.sharding.spec for value in batch.values()} == {jax.sharding.PartitionSpec("data")}

    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_workers_do_not_change_a_bit(self, workers):
        alone, helped = (data.Batches(tiny.split(), batch_size=8, seed=3, workers=n) for n in (0, workers))
        assert_same_batches(take(alone, 2, 6), take(helped, 2, 6))

    @pytest.mark.parametrize("residence", ["stream", "device"])
    def test_processes_share_a_batch_without_overlap(self, residence, monkeypatch):
        # The placement of a share needs real processes (test_distributed); here it is what each one reads.
        whole = take(data.Batches(tiny.split(), batch_size=8, seed=0, residence="stream"), 0, 3)
        placed = []
        for process in range(2):
            monkeypatch.setattr(jax, "process_index", lambda p=process: p)
            monkeypatch.setattr(jax, "process_count", lambda: 2)
            batches = data.Batches(tiny.split(), batch_size=8, seed=0, residence=residence)
            monkeypatch.setattr(batches, "_place", lambda local: local)
            if residence == "device":
                monkeypatch.setattr(batches, "_resident", tiny.split().images(), raising=False)
                monkeypatch.setattr(batches, "_take", lambda images, rows: images[rows], raising=False)
            placed.append(list(itertools.islice(batches(0), 3)))
        for step, batch in enumerate(whole):
            for key in batch:
                shares = [placed[process][step][key] for process in range(2)]
                assert [len(share) for share in shares] == [4, 4]
                np.testing.assert_array_equal(np.concatenate(shares), batch[key])

    def test_bad_sizes_and_names_are_errors(self):
        with pytest.raises(ValueError, match="a batch of 32 is larger than the split of 24 images; lower `batch_size`"):
            data.Batches(tiny.split(), batch_size=32, seed=0)
        with pytest.raises(ValueError, match="a batch of 12 does not divide over 8 devices; change `batch_size`"):
            data.Batches(tiny.split(), batch_size=12, seed=0)
        with pytest.raises(ValueError, match="unknown runtime.residence 'disk': known are stream, device"):
            data.Batches(tiny.split(), batch_size=8, seed=0, residence="disk")
        assert data.steps_per_epoch(24, 16) == 1


class TestEvaluationBatches:
    def test_every_image_once_in_order_and_the_rest_masked(self):
        split = tiny.split(21)
        batches = [{k: np.asarray(v) for k, v in b.items()} for b in data.evaluation_batches(split, 8)]
        assert [len(batch["mask"]) for batch in batches] == [8, 8, 8]
        joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        np.testing.assert_array_equal(joined["mask"], [1] * 21 + [0] * 3)
        np.testing.assert_array_equal(joined["index"][:21], np.arange(21))
        np.testing.assert_array_equal(joined["image"][:21], split.images())
        np.testing.assert_array_equal(joined["label"][:21], split.labels)

    def test_batch_is_rounded_up_to_the_devices(self):
        first = next(data.evaluation_batches(tiny.split(), 3))
        assert first["image"].shape[0] == 8
        assert [shard.data.shape[0] for shard in first["image"].addressable_shards] == [1] * 8


class TestSplit:
    def test_subset_keeps_rows_together(self):
        split = tiny.split()
        rows = [20, 3, 11]
        part = split.subset(rows)
        assert len(part) == 3
        np.testing.assert_array_equal(part.images(), split.images()[rows])
        np.testing.assert_array_equal(part.labels, split.labels[rows])
        assert part.groups == tuple(split.groups[i] for i in rows)
        assert part.ids == tuple(split.ids[i] for i in rows)
        np.testing.assert_array_equal(part.subset([2]).images(), split.images()[[11]])

    def test_subset_asks_its_source_for_many_at_once(self):
        class Source:
            asked = []

            def __getitems__(self, rows):
                self.asked.append(list(rows))
                return [np.zeros((4, 4, 3), np.uint8) for _ in rows]

        split = data.Split("s", Source(), np.zeros(9, np.int32), tuple("abcdefghi"), tuple("abcdefghi"), ("x",))
        assert split.subset([8, 2, 5]).read(np.array([2, 0])).shape == (2, 4, 4, 3)
        assert Source.asked == [[5, 8]]

    def test_images_of_different_sizes_are_an_error_that_names_them(self):
        source = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)]
        split = data.Split("mixed:train", source, np.zeros(2, np.int32), ("a", "b"), ("a", "b"), ("x",))
        assert split.read(np.array([1])).shape == (1, 8, 9, 3)
        with pytest.raises(ValueError, match=r"mixed:train: images of different sizes .*\(8, 8, 3\), \(8, 9, 3\)"):
            split.read(np.array([0, 1]))

    def test_without_labels_and_groups_each_image_stands_alone(self):
        split = data.from_arrays(tiny.images(5))
        assert split.labels.tolist() == [-1] * 5 and split.groups == split.ids == tuple("01234")

    @pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
    def test_all_images_of_any_number(self, count):
        pixels = (np.arange(count)[:, None, None, None] * np.ones((1, 2, 2, 1), int)).astype(np.uint8)
        np.testing.assert_array_equal(data.from_arrays(pixels).images(), pixels)

    def test_first_images_of_a_short_split(self):
        assert data.first_images(tiny.split(4), 6).shape == (4, 16, 16, 3)


class TestPrepared:
    def test_missing_data_set_names_the_command_that_prepares_it(self, tmp_path):
        with pytest.raises(FileNotFoundError) as error:
            data.open_split("isic2019/64", "train", tmp_path)
        message = str(error.value)
        assert f"'isic2019/64' is not prepared under '{tmp_path}'" in message
        assert f"python -m tfds_builders prepare isic2019/64 --data_dir {tmp_path}" in message
        assert "runtime.data_dir" in message

    def test_newest_version_is_taken(self, tmp_path):
        for version in ("1.9.0", "1.10.0", "0.1.0"):
            folder = tmp_path / "set" / "64" / version
            folder.mkdir(parents=True)
            (folder / "dataset_info.json").touch()
        assert data.prepared_directory("set/64", tmp_path).name == "1.10.0"
