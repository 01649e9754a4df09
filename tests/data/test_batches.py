"""Order, batches, shares: what the next batch is, and that nothing but seed and step decides it."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import tiny

from aiseeme_jax import data
from aiseeme_jax.errors import UserError


def indices(start=0, count=9, *, images=24, batch=8, seed=0):
    steps = data.order(images, batch_size=batch, seed=seed).slice(slice(start, start + count))
    return [np.asarray(step) for step in steps]


def take(batches, start=0, count=4):
    taken = itertools.islice(batches(start), count)
    return [{key: np.asarray(value) for key, value in batch.items()} for batch in taken]


def with_masks(split):
    """The split with a mask for each image, its bright pixels."""
    masks = (split.images()[..., :1] > 100).astype(np.uint8)
    return dataclasses.replace(split, segmentation=masks)


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

    def test_order_of_a_seed_never_changes(self):
        # Finished trainings are repeated bit by bit: these are the numbers of the first version.
        steps = data.from_arrays(tiny.images(24)).order(batch_size=8, seed=0)
        assert np.asarray(steps[0]).tolist() == [19, 15, 0, 18, 17, 20, 23, 16]
        assert np.asarray(steps[3]).tolist() == [18, 12, 14, 13, 9, 5, 23, 15]

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
            data.Batches(tiny.split(), batch_size=8, seed=3, loading=data.Loading(where))
            for where in ("stream", "device")
        )
        assert_same_batches(take(stream, 2), take(device, 2))
        for batch in (next(stream(0)), next(device(0))):
            assert {value.sharding.spec for value in batch.values()} == {jax.sharding.PartitionSpec("data")}

    @pytest.mark.parametrize(
        "way",
        [
            {},
            {"loading": data.Loading("device")},
            pytest.param({"loading": data.Loading(workers=2)}, marks=pytest.mark.slow),
        ],
        ids=str,
    )
    def test_a_pass_in_order_has_every_image_and_fills_the_last_batch(self, way):
        split = tiny.split(21)
        batches = list(data.Batches(split, batch_size=8, seed=3, **way).in_order())
        rows = np.concatenate([batch["index"] for batch in batches])
        np.testing.assert_array_equal(rows, [*range(21), 20, 20, 20])
        np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in batches]), split.images()[rows])
        assert {batch["image"].sharding.spec for batch in batches} == {jax.sharding.PartitionSpec("data")}

    @pytest.mark.parametrize("residence", ["stream", "device"])
    def test_batches_of_listed_rows_come_in_the_order_of_the_list(self, residence):
        split = tiny.split()
        listed = [np.random.default_rng(n).integers(0, 24, 8) for n in range(20)]
        batches = data.Batches(split, batch_size=8, seed=0, loading=data.Loading(residence)).of_rows(iter(listed))
        read = [{key: np.asarray(value) for key, value in batch.items()} for batch in batches]
        wanted = [{"image": split.images()[r], "index": r, "label": split.labels[r]} for r in listed]
        assert_same_batches(read, wanted)

    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 2, 3])
    def test_workers_do_not_change_a_bit(self, workers):
        alone, helped = (
            data.Batches(tiny.split(), batch_size=8, seed=3, loading=data.Loading(workers=n)) for n in (0, workers)
        )
        assert_same_batches(take(alone, 2, 6), take(helped, 2, 6))

    @pytest.mark.parametrize("residence", ["stream", "device"])
    def test_processes_share_a_batch_without_overlap(self, residence, monkeypatch):
        # The placement of a share needs real processes (test_distributed); here it is what each one reads.
        whole = take(data.Batches(tiny.split(), batch_size=8, seed=0, loading=data.Loading("stream")), 0, 3)
        placed = []
        for process in range(2):
            monkeypatch.setattr(jax, "process_index", lambda p=process: p)
            monkeypatch.setattr(jax, "process_count", lambda: 2)
            batches = data.Batches(tiny.split(), batch_size=8, seed=0, loading=data.Loading(residence))
            monkeypatch.setattr(batches, "_place", lambda local: local)
            if residence == "device":
                monkeypatch.setattr(batches, "_resident", {"image": tiny.split().images()}, raising=False)
                monkeypatch.setattr(batches, "_take", lambda images, rows: images[rows], raising=False)
            placed.append(list(itertools.islice(batches(0), 3)))
        for step, batch in enumerate(whole):
            for key in batch:
                shares = [placed[process][step][key] for process in range(2)]
                assert [len(share) for share in shares] == [4, 4]
                np.testing.assert_array_equal(np.concatenate(shares), batch[key])

    def test_several_findings_are_float_labels(self):
        findings = np.array([[1, 0], [np.nan, 1]] * 4, np.float32)
        split = data.from_arrays(tiny.images(8), findings, class_names=("effusion", "mass"))
        batch = next(data.Batches(split, batch_size=8, seed=0)(0))
        assert batch["label"].dtype == np.float32 and batch["label"].sharding.spec == jax.sharding.PartitionSpec("data")
        np.testing.assert_array_equal(batch["label"], findings[np.asarray(batch["index"])])

    @pytest.mark.parametrize("residence", ["stream", "device"])
    def test_masks_come_with_their_images_where_they_are_asked_for(self, residence):
        split = with_masks(tiny.split())
        batches = data.Batches(split, batch_size=8, seed=0, loading=data.Loading(residence), segmentation=True)
        batch = next(batches(0))
        rows = np.asarray(batch["index"])
        assert batch["segmentation"].dtype == np.uint8 and batch["segmentation"].shape == (8, 16, 16, 1)
        np.testing.assert_array_equal(batch["segmentation"], split.read_segmentation(rows))
        np.testing.assert_array_equal(batch["image"], split.read(rows))
        assert "segmentation" not in next(data.Batches(split, batch_size=8, seed=0, loading=data.Loading(residence))(0))
        assert "segmentation" in next(data.evaluation_batches(split, 8, segmentation=True))

    def test_masks_of_a_split_without_any_are_an_error_at_once(self):
        with pytest.raises(UserError, match="tiny:train has no segmentations: take a config .* '_mask'"):
            data.Batches(tiny.split(), batch_size=8, seed=0, segmentation=True)

    def test_bad_sizes_and_names_are_errors(self):
        with pytest.raises(UserError, match="a batch of 32 is larger than the split of 24 images; lower `batch_size`"):
            data.Batches(tiny.split(), batch_size=32, seed=0)
        with pytest.raises(UserError, match="a batch of 12 does not divide over 8 devices; change `batch_size`"):
            data.Batches(tiny.split(), batch_size=12, seed=0)
        with pytest.raises(UserError, match="unknown runtime.residence 'disk': known are stream, device"):
            data.Loading("disk")
        assert data.steps_per_epoch(24, 16) == 1


class TestEvaluationBatches:
    def test_every_image_once_in_order_and_the_last_one_for_the_rest(self):
        split = tiny.split(21)
        batches = [{k: np.asarray(v) for k, v in b.items()} for b in data.evaluation_batches(split, 8)]
        assert [len(batch["index"]) for batch in batches] == [8, 8, 8]
        joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        np.testing.assert_array_equal(joined["index"], [*range(21), 20, 20, 20])
        np.testing.assert_array_equal(joined["image"][:21], split.images())
        np.testing.assert_array_equal(joined["label"][:21], split.labels)

    def test_batch_is_rounded_up_to_the_devices(self):
        first = next(data.evaluation_batches(tiny.split(), 3))
        assert first["image"].shape[0] == 8
        assert [shard.data.shape[0] for shard in first["image"].addressable_shards] == [1] * 8
