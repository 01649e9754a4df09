"""Opening what TFDS prepared: every kind of data set, tables from their file or from the records."""

import re

import jax
import numpy as np
import photographs
import pytest
import tiny

import tfds_builders
from aiseeme_jax import augment, data
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate.features import extract as extract_features
from tfds_builders.common import row_tables
from tfds_builders.common.images import square


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


class TestPrepared:
    def test_missing_data_set_names_the_command_that_prepares_it(self, tmp_path):
        with pytest.raises(MissingFile) as error:
            data.open_split("isic2019/64", "train", tmp_path)
        message = str(error.value)
        assert f"'isic2019/64' is not prepared under '{tmp_path}'" in message
        assert f"python -m tfds_builders prepare isic2019/64 --data_dir {tmp_path}" in message
        assert "runtime.data_dir" in message

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("isic2091/64", "there is no data set 'isic2091' (did you mean isic2019 or "),
            ("isic2019/63", "isic2019 has no config '63': the known ones are isic2019/64, isic2019/224"),
            ("isic2019", "isic2019 has no config '': the known ones are isic2019/64, isic2019/224"),
        ],
    )
    def test_data_set_that_does_not_exist_is_told_with_those_that_do(self, name, message, tmp_path):
        with pytest.raises(UserError, match=re.escape(message)):
            data.open_split(name, "train", tmp_path)

    def test_newest_version_is_taken(self, tmp_path):
        for version in ("1.9.0", "1.10.0", "0.1.0"):
            folder = tmp_path / "set" / "64" / version
            folder.mkdir(parents=True)
            (folder / "dataset_info.json").touch()
        assert data.prepared_directory("set/64", tmp_path).name == "1.10.0"


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
        assert list(split.groups) == ["p0", "p0", "p1"] and list(split.ids) == ["i0", "i1", "i2"]
        assert split.labels.tolist() == [-1] * 3 and split.class_names == () and split.version == "1.0.0"
        assert split.shape == (4, 5, 6, 1) and split.images().dtype == np.int16
        np.testing.assert_array_equal(split.images(), volumes)
        np.testing.assert_array_equal(split.read(np.array([2, 0])), volumes[[2, 0]])
        batch = next(data.evaluation_batches(split, 8))
        assert batch["image"].dtype == np.int16 and batch["image"].shape == (8, 4, 5, 6, 1)
        assert split.kind == "none" and split.segmentation is not None
        with pytest.raises(UserError, match="nodules/tiny:train has no single label for each image: .* `targets`"):
            data.labelled(split)

    @pytest.mark.slow
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
        assert list(split.groups) == ["g0", "g1", "g2", "g3"] and split.labels.tolist() == [1, -1, 0, -1]
        np.testing.assert_array_equal(split.images(), pixels)
        part = data.labelled(split)
        assert list(part.ids) == ["i0", "i2"] and part.labels.tolist() == [1, 0] and part.class_names == ("well", "ill")
        np.testing.assert_array_equal(part.images(), pixels[[0, 2]])

    @pytest.mark.slow
    def test_several_findings_at_once(self, tmp_path):
        import tensorflow_datasets as tfds

        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "patient_id": tfds.features.Text()}
        features |= {"labels": tfds.features.Tensor(shape=(3,), dtype=np.float32)}
        row = {"patient_id": "p", "image": np.zeros((8, 8, 1), np.uint8)}
        known = [[1, 0, np.nan], [np.nan] * 3]
        rows = [
            {**row, "image_id": f"i{n}", "labels": np.array(several, np.float32)} for n, several in enumerate(known)
        ]
        split = data.open_split("many/tiny", "train", prepare(tmp_path, "many", features, rows))
        assert split.kind == "findings" and split.class_names == ("0", "1", "2") and split.labels.dtype == np.float32
        np.testing.assert_array_equal(split.labels, known)
        assert list(data.labelled(split).ids) == ["i0"]

    def test_a_data_set_with_both_kinds_of_labels_is_asked_for_one(self, tmp_path):
        import tensorflow_datasets as tfds

        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "group": tfds.features.Text()}
        features |= {"labels": tfds.features.Tensor(shape=(2,), dtype=np.float32)}
        features |= {"label": tfds.features.ClassLabel(names=["well", "ill"])}
        row = {"image_id": "i", "group": "g", "image": np.zeros((8, 8, 1), np.uint8), "label": 1, "labels": [0, 1]}
        folder = prepare(tmp_path, "both", features, [row])
        one = data.open_split("both/tiny", "train", folder)
        assert one.kind == "class" and one.labels.tolist() == [1] and one.class_names == ("well", "ill")
        several = data.open_split("both/tiny", "train", folder, labels="labels")
        assert several.kind == "findings" and several.labels.tolist() == [[0, 1]] and not several.attributes
        with pytest.raises(UserError, match="the labels of a data set are 'label' or 'labels', not 'lables'"):
            data.open_split("both/tiny", "train", folder, labels="lables")

    def test_attributes_are_what_else_is_said_of_an_image(self, tmp_path):
        import tensorflow_datasets as tfds

        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "group": tfds.features.Text()}
        features |= {"age": tfds.features.Scalar(np.float32), "marker": tfds.features.Scalar(np.bool_)}
        features |= {"sex": tfds.features.Text(), "view": tfds.features.ClassLabel(names=["AP", "PA"])}
        features |= {"boxes": tfds.features.Sequence({"box": tfds.features.Tensor(shape=(4,), dtype=np.int32)})}
        row = {"group": "g", "image": np.zeros((8, 8, 1), np.uint8), "boxes": {"box": [[0, 0, 1, 1]]}}
        rows = [{**row, "image_id": "a", "age": 61.5, "marker": True, "sex": "female", "view": 1}]
        rows += [{**row, "image_id": "b", "age": np.nan, "marker": False, "sex": "männlich", "view": -1}]
        split = data.open_split("said/tiny", "train", prepare(tmp_path, "said", features, rows))
        assert set(split.attributes) == {"age", "marker", "sex", "view"}
        np.testing.assert_array_equal(split.attributes["age"], np.array([61.5, np.nan], np.float32))
        assert split.attributes["marker"].tolist() == [1, 0] and split.attributes["marker"].dtype == np.float32
        assert list(split.attributes["sex"]) == ["female", "männlich"] and list(split.attributes["view"]) == ["PA", ""]

    def test_masks_are_0_and_1_and_255_where_there_is_none(self, tmp_path):
        import tensorflow_datasets as tfds

        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "group": tfds.features.Text()}
        features |= {"mask": tfds.features.Image(shape=(8, 8, 1)), "has_mask": tfds.features.Scalar(np.bool_)}
        mask = np.zeros((8, 8, 1), np.uint8)
        mask[2:6] = 255
        row = {"group": "g", "image": np.zeros((8, 8, 1), np.uint8)}
        rows = [{**row, "image_id": "a", "mask": mask, "has_mask": True}]
        rows += [{**row, "image_id": "b", "mask": np.zeros_like(mask), "has_mask": False}]
        folder = prepare(tmp_path, "masked", features, rows)
        split = data.open_split("masked/tiny", "train", folder)
        assert not split.attributes
        found = split.read_segmentation(np.array([1, 0]))
        assert found.dtype == np.uint8 and (found[0] == 255).all()
        np.testing.assert_array_equal(found[1], mask // 255)
        small = data.open_split("masked/tiny@4", "train", folder).read_segmentation(np.array([0, 1]))
        np.testing.assert_array_equal(small[0], mask[::2, ::2] // 255)
        assert small.shape == (2, 4, 4, 1) and (small[1] == 255).all()

    @pytest.mark.slow
    @pytest.mark.parametrize(("feature", "channels"), [("views", 1), ("patches", 3)])
    def test_planes_of_a_nodule_are_pretrained_on_and_measured(self, tmp_path, feature, channels):
        import tensorflow_datasets as tfds

        random = np.random.default_rng(0)
        ill = np.arange(12) % 2
        planes = random.integers(-900, -600, (12, 9, 16, 16, channels)) + 700 * ill[:, None, None, None, None]
        features = {
            feature: tfds.features.Tensor(shape=(9, 16, 16, channels), dtype=np.int16),
            "patient_id": tfds.features.Text(),
            "series_uid": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["benign", "malignant"]),
        }
        rows = [
            {
                "image_id": f"n{n}",
                "patient_id": f"P{n}",
                "series_uid": f"1.{n}",
                feature: one.astype(np.int16),
                "label": ill[n],
            }
            for n, one in enumerate(planes)
        ]
        split = data.open_split("lidc/tiny", "train", prepare(tmp_path, "lidc", features, rows))
        assert split.pictures == 9 and split.shape == (9, 16, 16, channels) and list(split.series[:2]) == ["1.0", "1.1"]
        np.testing.assert_array_equal(split.read(np.array([3])), planes[3:4])
        single = data.each_picture(split)
        assert len(single) == 108 and list(single.ids[8:10]) == ["n0/8", "n1/0"]
        views = augment.make_views("ct_planes", 8)
        data.check_views(single, views)
        batches = data.Batches(single, batch_size=8, seed=0)
        config = tiny.stage("simsiam", preset="ct_planes", views={}, bottleneck=8)
        task = tiny.task(config, tiny.Pixels(channels=channels), images=len(single))
        drawn = augment.random_view(jax.random.key(0), next(batches(0))["image"], views)
        assert np.isfinite(tiny.loss(task, task.views(jax.random.key(0), next(batches(0)))).loss)
        assert drawn.shape == (8, 8, 8, channels) and -1 <= float(drawn.min()) < float(drawn.max()) <= 1
        found = extract_features(tiny.Pixels(channels=channels), single, views=views, batch_size=8)
        bright, dark = (np.asarray(found)[single.labels == label].mean(axis=0) for label in (1, 0))
        assert np.abs(bright - dark).max() > 0.01

    def test_a_data_set_without_pixels_is_told_so(self, tmp_path):
        import tensorflow_datasets as tfds

        folder = prepare(tmp_path, "foreign", {"text": tfds.features.Text()}, [{"image_id": "i", "text": "t"}])
        with pytest.raises(UserError, match="'foreign/tiny' has no feature volume or image or .*It has image_id, text"):
            data.open_split("foreign/tiny", "train", folder)

    def test_volumes_are_not_resized(self, tmp_path):
        import tensorflow_datasets as tfds

        features = {"volume": tfds.features.Tensor(shape=(2, 2, 2, 1), dtype=np.int16)}
        row = {"image_id": "i", "volume": np.zeros((2, 2, 2, 1), np.int16)}
        with pytest.raises(UserError, match="'v/tiny@8': images can be resized .* not the volume of this data set"):
            data.open_split("v/tiny@8", "train", prepare(tmp_path, "v", features, [row]))


class TestTables:
    """Ids, groups, labels and attributes from the file beside the records, or from the records."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tmp_path_factory.mktemp("prepared")

    @pytest.fixture(scope="class")
    def builder(self, folder):
        return tfds_builders.prepare("cxr_phantom/tiny", data_dir=folder)

    def open(self, builder, folder, **options):
        return data.open_split("cxr_phantom/tiny", "test", folder, **options)

    def assert_same(self, one, other):
        assert one.fingerprint() == other.fingerprint()
        assert one.attributes.keys() == other.attributes.keys()
        for name in one.attributes:
            np.testing.assert_array_equal(one.attributes[name], other.attributes[name])
        for name in ("ids", "groups", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))

    def test_a_file_written_by_the_builder_says_what_the_records_say(self, builder, folder, monkeypatch):
        path = row_tables.table_path(builder.data_dir, "test")
        read = []
        monkeypatch.setattr(
            row_tables, "read_tables", lambda *_, real=row_tables.read_tables: read.append(1) or real(*_)
        )
        from_file = self.open(builder, folder)
        assert not read
        path.unlink()
        from_records = self.open(builder, folder)
        assert len(read) == 1 and path.exists()
        self.assert_same(from_file, from_records)
        self.assert_same(self.open(builder, folder), from_records)
        assert len(read) == 1
        assert set(from_file.attributes) == {"view", "marker"} and len(from_file) == len(from_file.images())

    def test_a_folder_that_cannot_be_written_to_is_read_each_time(self, builder, folder, monkeypatch):
        path = row_tables.table_path(builder.data_dir, "test")
        from_file = self.open(builder, folder)
        path.unlink()

        def refuse(*_):
            raise PermissionError("read-only")

        monkeypatch.setattr(row_tables, "save_tables", refuse)
        self.assert_same(self.open(builder, folder), from_file)
        assert not path.exists()

    @pytest.mark.parametrize("damage", ["cut", "other"])
    def test_a_damaged_file_is_named_with_what_to_do(self, builder, folder, damage):
        path = row_tables.table_path(builder.data_dir, "test")
        whole = path.read_bytes() if path.exists() else self.open(builder, folder) and path.read_bytes()
        other = row_tables.table_path(builder.data_dir, "train").read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else other)
        with pytest.raises(UserError, match="tables-test.npz (is damaged|has [0-9]+ rows).*delete this file"):
            self.open(builder, folder)
        path.unlink()
        assert len(self.open(builder, folder))


class TestAnyDataSet:
    """Data sets that TFDS prepares itself: images and perhaps labels, nothing else."""

    def prepare(self, folder, *, splits, sizes=((8, 8),), labels=True, file_format="array_record"):
        builder = photographs.Builder(
            data_dir=folder, file_format=file_format, counts=splits, sizes=sizes, labels=labels
        )
        builder.download_and_prepare()
        return builder

    def open(self, folder, split, name="photographs"):
        return data.open_split(name, split, folder)

    def test_each_image_is_its_own_group_named_by_its_place(self, tmp_path):
        self.prepare(tmp_path, splits={"train": 8, "validation": 4, "test": 5})
        split = self.open(tmp_path, "test")
        assert list(split.ids) == list(split.groups) == [f"photographs-test-{n:05d}" for n in range(5)]
        assert split.kind == "class" and split.class_names == ("cat", "dog")
        assert not split.own_ids and not split.own_groups and split.shape == (8, 8, 3)
        assert split.attributes["file_name"][0].startswith("test") and split.images().dtype == np.uint8
        assert [len(self.open(tmp_path, name)) for name in ("train", "validation")] == [8, 4]
        drawn = self.open(tmp_path, "test").fingerprint()
        assert split.fingerprint() == drawn

    def test_labels_may_lack(self, tmp_path):
        self.prepare(tmp_path, splits={"train": 3, "validation": 1, "test": 1}, labels=False)
        assert self.open(tmp_path, "train").kind == "none"

    @pytest.mark.parametrize("others", [{"test": 6}, {"validation": 6}], ids=["train, test", "train, validation"])
    def test_validation_is_a_tenth_of_the_training_images(self, tmp_path, others):
        builder = self.prepare(tmp_path, splits={"train": 200, **others})
        train, validation, test = (self.open(tmp_path, name) for name in ("train", "validation", "test"))
        assert len(train) + len(validation) == 200 and 8 <= len(validation) <= 35
        assert not set(train.ids) & set(validation.ids) and len(test) == 6
        (official,) = others
        assert set(test.ids) == {f"photographs-{official}-{n:05d}" for n in range(6)}
        stored = list(builder.as_data_source("train"))
        rows = [int(i.rsplit("-", 1)[1]) for i in validation.ids]
        np.testing.assert_array_equal(validation.images(), [stored[row]["image"] for row in rows])
        assert validation.labels.tolist() == [stored[row]["label"] for row in rows]
        assert validation.name == "photographs:validation"

    def test_without_a_test_split_there_is_none(self, tmp_path):
        self.prepare(tmp_path, splits={"train": 5})
        with pytest.raises(UserError, match="photographs has no split 'test': there are train"):
            self.open(tmp_path, "test")

    def test_images_of_many_sizes_are_resized_where_the_name_says_so(self, tmp_path):
        builder = self.prepare(tmp_path, splits={"train": 6, "validation": 1, "test": 1}, sizes=((8, 12), (20, 9)))
        with pytest.raises(UserError, match="images of different sizes .* 'photographs@64'"):
            self.open(tmp_path, "train").images()
        split = self.open(tmp_path, "train", "photographs@6")
        stored = [row["image"] for row in builder.as_data_source("train")]
        assert split.images().shape == (6, 6, 6, 3) and split.name == "photographs@6:train"
        np.testing.assert_array_equal(split.images(), [square(image, 6) for image in stored])
        assert split.fingerprint() != self.open(tmp_path, "train", "photographs@7").fingerprint()
        for wrong in ("photographs@", "photographs@0", "photographs@6x6"):
            with pytest.raises(UserError, match=r"behind '@' belongs the side .* 'photographs@64'"):
                self.open(tmp_path, "train", wrong)

    def test_other_file_formats_are_told_how_to_prepare_anew(self, tmp_path):
        self.prepare(tmp_path, splits={"train": 2}, file_format="tfrecord")
        with pytest.raises(UserError) as error:
            self.open(tmp_path, "train")
        assert "stored as tfrecord" in str(error.value) and f"Delete {tmp_path}" in str(error.value)
        assert f"tfds.builder('photographs', data_dir='{tmp_path}', file_format='array_record')" in str(error.value)

    def test_one_that_is_not_there_is_told_how_to_prepare_it(self, tmp_path):
        with pytest.raises(MissingFile) as error:
            self.open(tmp_path, "train", "cifar10")
        command = f"tfds.builder('cifar10', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()"
        assert f'python -c "import tensorflow_datasets as tfds; {command}"' in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["derm_phantom/tiny", "cxr_phantom/tiny", "nodule_phantom/tiny"])
def test_every_split_of_a_phantom_opens(name, tmp_path):
    tfds_builders.prepare(name, data_dir=tmp_path)
    for part in ("train", "validation", "test"):
        split = data.open_split(name, part, tmp_path)
        assert split.own_ids and split.own_groups and split.kind == "class" and len(data.labelled(split)) == len(split)
        assert len(set(split.ids)) == len(split) == len(split.images())
