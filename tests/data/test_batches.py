"""Order, batches, shares: what the next batch is, and that nothing but seed and step decides it."""

import dataclasses
import itertools
import json
import logging

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

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

    @pytest.mark.parametrize(
        "way", [{}, {"residence": "device"}, pytest.param({"workers": 2}, marks=pytest.mark.slow)], ids=str
    )
    def test_a_pass_in_order_has_every_image_and_fills_the_last_batch(self, way):
        split = tiny.split(21)
        batches = list(data.Batches(split, batch_size=8, seed=3, **way).in_order())
        rows = np.concatenate([batch["index"] for batch in batches])
        np.testing.assert_array_equal(rows, [*range(21), 20, 20, 20])
        np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in batches]), split.images()[rows])
        assert {batch["image"].sharding.spec for batch in batches} == {jax.sharding.PartitionSpec("data")}

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

    def test_fingerprint_tells_splits_apart_by_version_number_ids_and_labels(self):
        split = tiny.split()
        swapped = dataclasses.replace(split, ids=(*split.ids[:-2], *split.ids[:-3:-1]))
        relabelled = dataclasses.replace(split, labels=split.labels[::-1].copy())
        others = [tiny.split(22), split.subset(range(22)), swapped, relabelled]
        others.append(dataclasses.replace(split, version="2.0.0"))
        found = [json.dumps(other.fingerprint()) for other in (split, *others)]
        assert found[1] == found[2] and len(set(found)) == 5
        assert split.fingerprint()["images"] == 24 and tiny.split(seed=1).fingerprint() == split.fingerprint()

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


def prepare(folder, name, features, rows):
    """Stores rows, dictionaries of features, as the training split of a data set; gives the folder."""
    import tensorflow_datasets as tfds

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict({"image_id": tfds.features.Text(), **features}),
        split_datasets={"train": [(row["image_id"], row) for row in rows]},
        config="tiny",
        data_dir=folder,
        file_format="array_record",
        disable_shuffling=True,
    )
    return folder


class TestEveryBuilder:
    """Data sets of other kinds than `derm_phantom`, by the features they have."""

    @pytest.mark.slow
    def test_volumes_without_labels(self, tmp_path):
        import tensorflow_datasets as tfds

        volumes = np.random.default_rng(0).integers(-1024, 3072, (3, 4, 5, 6, 1)).astype(np.int16)
        features = {"volume": tfds.features.Tensor(shape=(4, 5, 6, 1), dtype=np.int16)}
        features |= {
            "patient_id": tfds.features.Text(),
            "mask": tfds.features.Tensor(shape=(4, 5, 6, 1), dtype=np.uint8),
        }
        mask = np.zeros((4, 5, 6, 1), np.uint8)
        rows = [
            {"image_id": f"i{n}", "patient_id": f"p{n // 2}", "volume": v, "mask": mask} for n, v in enumerate(volumes)
        ]
        split = data.open_split("nodules/tiny", "train", prepare(tmp_path, "nodules", features, rows))
        assert split.groups == ("p0", "p0", "p1") and split.ids == ("i0", "i1", "i2")
        assert split.labels.tolist() == [-1] * 3 and split.class_names == () and split.version == "1.0.0"
        assert split.shape == (4, 5, 6, 1) and split.images().dtype == np.int16
        np.testing.assert_array_equal(split.images(), volumes)
        np.testing.assert_array_equal(split.read(np.array([2, 0])), volumes[[2, 0]])
        batch = next(data.evaluation_batches(split, 8))
        assert batch["image"].dtype == np.int16 and batch["image"].shape == (8, 4, 5, 6, 1)
        with pytest.raises(ValueError, match="nodules/tiny:train has no single label for each image: .* `targets`"):
            data.labelled(split)

    def test_grey_images_some_of_which_have_a_label(self, tmp_path):
        import tensorflow_datasets as tfds

        pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
        features = {"image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"), "group": tfds.features.Text()}
        features |= {"label": tfds.features.ClassLabel(names=["well", "ill"])}
        rows = [
            {"image_id": f"i{n}", "group": f"g{n}", "image": x, "label": [1, -1, 0, -1][n]}
            for n, x in enumerate(pixels)
        ]
        split = data.open_split("own/tiny", "train", prepare(tmp_path, "own", features, rows))
        assert split.groups == ("g0", "g1", "g2", "g3") and split.labels.tolist() == [1, -1, 0, -1]
        np.testing.assert_array_equal(split.images(), pixels)
        part = data.labelled(split)
        assert part.ids == ("i0", "i2") and part.labels.tolist() == [1, 0] and part.class_names == ("well", "ill")
        np.testing.assert_array_equal(part.images(), pixels[[0, 2]])

    def test_several_labels_at_once_are_for_pretraining_alone(self, tmp_path):
        import tensorflow_datasets as tfds

        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "patient_id": tfds.features.Text()}
        features |= {"labels": tfds.features.Tensor(shape=(3,), dtype=np.float32)}
        row = {"image_id": "i", "patient_id": "p", "image": np.zeros((8, 8, 1), np.uint8)}
        rows = [{**row, "labels": np.array([1, 0, np.nan], np.float32)}]
        split = data.open_split("many/tiny", "train", prepare(tmp_path, "many", features, rows))
        assert split.labels.tolist() == [-1] and split.class_names == ()
        with pytest.raises(ValueError, match="gives several labels at once. Targets need single labels"):
            data.labelled(split)

    def test_a_foreign_data_set_is_told_what_it_lacks(self, tmp_path):
        import tensorflow_datasets as tfds

        folder = prepare(tmp_path, "foreign", {"text": tfds.features.Text()}, [{"image_id": "i", "text": "t"}])
        with pytest.raises(ValueError, match="'foreign/tiny' has no feature volume or image: .*It has image_id, text"):
            data.open_split("foreign/tiny", "train", folder)


class TestLabelled:
    def test_a_split_with_all_labels_is_left_as_it_is(self):
        split = tiny.split()
        assert data.labelled(split) is split

    def test_a_split_without_any_is_an_error(self):
        split = data.from_arrays(tiny.images(3), [-1] * 3, class_names=("a", "b"), name="x:test")
        with pytest.raises(ValueError, match="no image of x:test is labelled: targets need labels"):
            data.labelled(split)


class TestWithout:
    def split(self):
        ids = ("ISIC_1", "ISIC_2_downsampled", "ISIC_3", "ISIC_4")
        split = data.from_arrays(tiny.images(4), groups=("L1", "L2", "L2", "L4"), name="s:train")
        return dataclasses.replace(split, ids=ids)

    def write(self, folder, name, text):
        (folder / name).write_text(text)
        return str(folder / name)

    def test_leaves_out_what_is_listed_by_id_or_by_group(self, tmp_path, caplog):
        lines = self.write(tmp_path, "ids.txt", "ISIC_2\n\nISIC_9\n")
        table = self.write(tmp_path, "table.csv", '\ufeffimage_id,melanoma\n"ISIC_4_downsampled",1.0\n')
        with caplog.at_level(logging.INFO, logger="aiseeme_jax"):
            part = data.without(self.split(), (lines, table))
        assert part.ids == ("ISIC_1", "ISIC_3") and part.groups == ("L1", "L2") and part.excluded == 2
        np.testing.assert_array_equal(part.images(), tiny.images(4)[[0, 2]])
        assert "s:train: 2 of 4 images are left out" in caplog.text and "table.csv" in caplog.text
        by_group = data.without(self.split(), (self.write(tmp_path, "groups.txt", "L2\n"),))
        assert by_group.ids == ("ISIC_1", "ISIC_4")

    def test_leaves_out_series_and_what_counts_as_one_group(self, tmp_path):
        split = dataclasses.replace(self.split(), aliases={"ISIC_1": ("1.2.3",), "ISIC_4": ("L5", "1.2.4")})
        part = data.without(split, (self.write(tmp_path, "names.txt", "1.2.3\nL5\n"),))
        assert part.ids == ("ISIC_2_downsampled", "ISIC_3")

    @pytest.mark.parametrize(
        "line",
        ["{}", " {} ", '"{}"', '"{}",melanoma', '"{}";melanoma', '"{}"\tmelanoma'],
        ids=["line", "blanks", "cell", "comma", "semicolon", "tab"],
    )
    def test_ids_may_hold_what_parts_columns(self, tmp_path, line):
        ids = ("scan, left.png", "x;1.png", "a\tb.png", "scan", "x")
        split = dataclasses.replace(data.from_arrays(tiny.images(5)), ids=ids)
        listed = self.write(tmp_path, "ids.txt", "".join(line.format(name) + "\n" for name in ids[:3]))
        assert data.without(split, (listed,)).ids == ("scan", "x")

    @pytest.mark.parametrize("delimiter", list(",;\t"))
    def test_the_first_column_of_a_table(self, tmp_path, delimiter):
        rows = [["image", "label"], ["ISIC_1", "a"], ['"ISIC_4"', "b,c"], ["", "ISIC_3"]]
        table = self.write(tmp_path, "table.csv", "\n".join(map(delimiter.join, rows)))
        assert data.without(self.split(), (table,)).ids == ("ISIC_2_downsampled", "ISIC_3")

    def test_files_that_cannot_be_read_are_errors(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="data.exclude: no file at 'absent.txt'"):
            data.without(self.split(), ("absent.txt",))
        (tmp_path / "archive.zip").write_bytes(b"PK\xff\xfe\x00")
        with pytest.raises(ValueError, match="data.exclude: .*archive.zip' is no text file"):
            data.without(self.split(), (str(tmp_path / "archive.zip"),))


class TestModel:
    def check(self, shape, **model):
        split = data.from_arrays(np.zeros((2, *shape), np.uint8), name="s:train")
        data.check_model(split, ConfigDict(model))

    def test_model_and_data_must_agree(self):
        self.check((8, 8, 3), dimensions=2, channels=3)
        self.check((8, 8, 8, 1), dimensions=3, channels=1)
        with pytest.raises(ValueError) as error:
            self.check((8, 8, 1), dimensions=2, channels=3)
        assert "model.dimensions is 2 and model.channels 3, but s:train holds images (8, 8, 1)" in str(error.value)
        assert "set model.dimensions=2 and model.channels=1" in str(error.value)
        with pytest.raises(ValueError, match=r"holds volumes \(8, 8, 8, 1\): set model.dimensions=3"):
            self.check((8, 8, 8, 1), dimensions=2, channels=1)
