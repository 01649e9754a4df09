"""Splits in memory: rows that stay together, fingerprints, labels of both kinds, several pictures of one thing."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from aiseeme_jax import augment, data
from aiseeme_jax.errors import UserError


class TestSplit:
    def test_subset_keeps_rows_together(self):
        split = tiny.split()
        rows = [20, 3, 11]
        part = split.subset(rows)
        assert len(part) == 3
        np.testing.assert_array_equal(part.images(), split.images()[rows])
        np.testing.assert_array_equal(part.labels, split.labels[rows])
        assert list(part.groups) == [split.groups[i] for i in rows]
        assert list(part.ids) == [split.ids[i] for i in rows]
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
        message = r"mixed:train: images of different sizes .*\(8, 8, 3\), \(8, 9, 3\).* 'mixed@64'"
        with pytest.raises(UserError, match=message):
            split.read(np.array([0, 1]))

    def test_without_labels_and_groups_each_image_stands_alone(self):
        split = data.from_arrays(tiny.images(5))
        assert split.labels.tolist() == [-1] * 5 and split.kind == "none"
        assert list(split.groups) == list(split.ids) == list("01234")
        assert not split.own_ids and not split.own_groups

    def test_fingerprint_tells_splits_apart_by_version_number_ids_and_labels(self):
        split = tiny.split()
        others = [tiny.split(22), split.subset(range(22))]
        others.append(dataclasses.replace(split, ids=(*split.ids[:-2], *split.ids[:-3:-1])))
        others.append(dataclasses.replace(split, labels=split.labels[::-1].copy()))
        others.append(dataclasses.replace(split, groups=split.groups[::-1]))
        others.append(dataclasses.replace(split, class_names=split.class_names[::-1]))
        others.append(dataclasses.replace(split, version="2.0.0"))
        others.append(dataclasses.replace(split, source=split.images()[:, :8]))
        found = [json.dumps(other.fingerprint()) for other in (split, *others)]
        assert found[1] == found[2] and len(set(found)) == 8
        other_pixels = dataclasses.replace(split, source=255 - split.images())
        assert split.fingerprint()["images"] == 24 and other_pixels.fingerprint() == split.fingerprint()

    def test_fingerprint_covers_findings_and_what_is_not_known_of_them(self):
        def found(*rows):
            made = data.from_arrays(tiny.images(2), np.array(rows, np.float32), class_names=("a", "b"))
            return json.dumps(made.fingerprint())

        other_nan = np.array([0xFFC00001], np.uint32).view(np.float32)[0]
        assert found((1, np.nan), (0, 1)) == found((1, other_nan), (0, 1))
        assert len({found((1, np.nan), (0, 1)), found((1, 0), (0, 1)), found((1, 0), (np.nan, 1))}) == 3

    def test_names_are_strings_in_an_array(self):
        split = data.from_arrays(tiny.images(3), groups=("é", "a longer name than fits into fifteen bytes", "é"))
        assert {type(group) for group in split.groups} == {str}
        assert sorted(set(split.groups)) == ["a longer name than fits into fifteen bytes", "é"]
        assert (split.groups == "é").tolist() == [True, False, True]
        np.testing.assert_array_equal(np.unique(split.groups, return_inverse=True)[1], [1, 0, 1])

    def test_subset_takes_every_table_along(self):
        masks = (np.arange(4)[:, None, None, None] * np.ones((1, 16, 16, 1), int)).astype(np.uint8)
        split = data.from_arrays(tiny.images(4), np.array([[0.0], [1], [np.nan], [1]]), class_names=("x",))
        split = dataclasses.replace(
            split, series=data.as_texts("abcd"), attributes={"age": np.arange(4.0)}, segmentation=masks
        )
        part = split.subset([3, 1])
        assert part.kind == "findings" and part.labels.tolist() == [[1], [1]] and part.labels.dtype == np.float32
        assert part.series.tolist() == ["d", "b"] and part.attributes["age"].tolist() == [3, 1]
        np.testing.assert_array_equal(part.read_segmentation(np.array([1, 0])), masks[[1, 3]])
        np.testing.assert_array_equal(part.segmentations(), masks[[3, 1]])

    @pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
    def test_all_images_of_any_number(self, count):
        pixels = (np.arange(count)[:, None, None, None] * np.ones((1, 2, 2, 1), int)).astype(np.uint8)
        np.testing.assert_array_equal(data.from_arrays(pixels).images(), pixels)

    def test_first_images_of_a_short_split(self):
        assert data.first_images(tiny.split(4), 6).shape == (4, 16, 16, 3)


class TestLabelled:
    def test_a_split_with_all_labels_is_left_as_it_is(self):
        split = tiny.split()
        assert data.labelled(split) is split

    def test_of_several_findings_one_must_be_known(self):
        findings = np.array([[np.nan, 1], [np.nan, np.nan], [0, np.nan]], np.float32)
        part = data.labelled(data.from_arrays(tiny.images(3), findings, class_names=("a", "b")))
        assert part.ids.tolist() == ["0", "2"] and part.kind == "findings"
        with pytest.raises(UserError, match="no image of arrays is labelled"):
            data.labelled(data.from_arrays(tiny.images(3), np.full((3, 2), np.nan), class_names=("a", "b")))

    def test_a_split_without_any_is_an_error(self):
        split = data.from_arrays(tiny.images(3), [-1] * 3, class_names=("a", "b"), name="x:test")
        with pytest.raises(UserError, match="no image of x:test is labelled: targets need labels"):
            data.labelled(split)


class TestModel:
    def check(self, shape, **model):
        split = data.from_arrays(np.zeros((2, *shape), np.uint8), name="s:train")
        data.check_model(split, ConfigDict(model))

    def test_model_and_data_must_agree(self):
        self.check((8, 8, 3), dimensions=2, channels=3)
        self.check((8, 8, 8, 1), dimensions=3, channels=1)
        with pytest.raises(UserError) as error:
            self.check((8, 8, 1), dimensions=2, channels=3)
        assert "model.dimensions is 2 and model.channels 3, but s:train holds images (8, 8, 1)" in str(error.value)
        assert "set model.dimensions=2 and model.channels=1" in str(error.value)
        with pytest.raises(UserError, match=r"holds volumes \(8, 8, 8, 1\): set model.dimensions=3"):
            self.check((8, 8, 8, 1), dimensions=2, channels=1)

    def test_pictures_of_one_thing_are_no_image(self):
        planes = dataclasses.replace(
            data.from_arrays(np.zeros((2, 3, 8, 8, 1), np.int16), name="s"), picture_names=("a", "b", "c")
        )
        with pytest.raises(
            UserError, match=r"s holds 3 pictures of each thing, \(3, 8, 8, 1\), .* one image at a time"
        ):
            data.check_model(planes, ConfigDict({"dimensions": 2, "channels": 1}))
        data.check_model(data.each_picture(planes), ConfigDict({"dimensions": 2, "channels": 1}))


class TestViews:
    def test_images_in_hu_need_a_window_and_others_none(self):
        grey = data.from_arrays(np.zeros((2, 8, 8, 1), np.uint8), name="grey")
        planes = data.from_arrays(np.zeros((2, 8, 8, 1), np.int16), name="planes")
        volumes = data.from_arrays(np.zeros((2, 8, 8, 8, 1), np.int16), name="volumes")
        made = {name: augment.make_views(name, 8) for name in ("cxr", "ct_planes", "ct")}
        data.check_views(grey, made["cxr"])
        data.check_views(planes, made["ct_planes"])
        data.check_views(volumes, made["ct"])
        with pytest.raises(UserError, match="grey holds images of type uint8: take a preset of views with no window"):
            data.check_views(grey, made["ct_planes"])
        with pytest.raises(UserError, match="planes holds images of type int16: .* with a window, such as 'ct_planes'"):
            data.check_views(planes, made["cxr"])
        with pytest.raises(UserError, match="views.dimensions is 3, but planes holds 2-D images"):
            data.check_views(planes, made["ct"])


class TestEachPicture:
    def split(self):
        pixels = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 2, 2, 1)
        made = data.from_arrays(pixels, [1, 0], ("P1", "P2"), ("well", "ill"), name="nodules:train")
        made = dataclasses.replace(made, ids=("a", "b"), attributes={"age": np.array([40.0, 50.0])})
        return dataclasses.replace(made, picture_names=("axial", "y", "z"), segmentation=(pixels > 5).astype(np.uint8))

    def test_every_picture_becomes_an_image_with_the_tables_of_its_thing(self):
        split = self.split()
        assert split.pictures == 3 and split.shape == (3, 2, 2, 1)
        single = data.each_picture(split)
        assert len(single) == 6 and single.pictures == 1 and single.shape == (2, 2, 1)
        assert single.ids.tolist() == ["a/axial", "a/y", "a/z", "b/axial", "b/y", "b/z"]
        assert single.groups.tolist() == ["P1"] * 3 + ["P2"] * 3 and single.labels.tolist() == [1] * 3 + [0] * 3
        assert single.attributes["age"].tolist() == [40] * 3 + [50] * 3
        np.testing.assert_array_equal(single.images(), split.images().reshape(6, 2, 2, 1))
        np.testing.assert_array_equal(single.read(np.array([4, 0, 5, 4])), single.images()[[4, 0, 5, 4]])
        np.testing.assert_array_equal(single.segmentations(), split.segmentations().reshape(6, 2, 2, 1))

    def test_single_images_are_left_as_they_are(self):
        split = tiny.split()
        assert data.each_picture(split) is split
