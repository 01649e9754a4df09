"""What is kept out of pretraining, and names that two data sets have in common."""

import dataclasses
import logging

import numpy as np
import pytest
import tiny

from aiseeme_jax import data
from aiseeme_jax.errors import MissingFile, UserError


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
        assert list(part.ids) == ["ISIC_1", "ISIC_3"] and list(part.groups) == ["L1", "L2"] and part.excluded == 2
        np.testing.assert_array_equal(part.images(), tiny.images(4)[[0, 2]])
        assert "s:train: 2 of 4 images are left out" in caplog.text and "table.csv" in caplog.text
        by_group = data.without(self.split(), (self.write(tmp_path, "groups.txt", "L2\n"),))
        assert list(by_group.ids) == ["ISIC_1", "ISIC_4"]

    def test_leaves_out_series_and_what_counts_as_one_group(self, tmp_path):
        series = data.as_texts(["1.2.3", "", "", "1.2.4"])
        split = dataclasses.replace(self.split(), series=series, other_names={"L4": ("L5",)})
        part = data.without(split, (self.write(tmp_path, "names.txt", "1.2.3\nL5\n"),))
        assert list(part.ids) == ["ISIC_2_downsampled", "ISIC_3"]

    @pytest.mark.parametrize(
        "line",
        ["{}", " {} ", '"{}"', '"{}",melanoma', '"{}";melanoma', '"{}"\tmelanoma'],
        ids=["line", "blanks", "cell", "comma", "semicolon", "tab"],
    )
    def test_ids_may_hold_what_parts_columns(self, tmp_path, line):
        ids = ("scan, left.png", "x;1.png", "a\tb.png", "scan", "x")
        split = dataclasses.replace(data.from_arrays(tiny.images(5)), ids=ids)
        listed = self.write(tmp_path, "ids.txt", "".join(line.format(name) + "\n" for name in ids[:3]))
        assert list(data.without(split, (listed,)).ids) == ["scan", "x"]

    @pytest.mark.parametrize("delimiter", list(",;\t"))
    def test_the_first_column_of_a_table(self, tmp_path, delimiter):
        rows = [["image", "label"], ["ISIC_1", "a"], ['"ISIC_4"', "b,c"], ["", "ISIC_3"]]
        table = self.write(tmp_path, "table.csv", "\n".join(map(delimiter.join, rows)))
        assert list(data.without(self.split(), (table,)).ids) == ["ISIC_2_downsampled", "ISIC_3"]

    def test_files_that_cannot_be_read_are_errors(self, tmp_path):
        with pytest.raises(MissingFile, match="data.exclude: no file at 'absent.txt'"):
            data.without(self.split(), ("absent.txt",))
        (tmp_path / "archive.zip").write_bytes(b"PK\xff\xfe\x00")
        with pytest.raises(UserError, match="data.exclude: .*archive.zip' is no text file"):
            data.without(self.split(), (str(tmp_path / "archive.zip"),))

    def test_of_a_mixture_each_set_by_its_own_names(self, tmp_path):
        other = data.from_arrays(tiny.images(3, seed=1), groups=("L2", "M", "N"), name="t:train")
        mixture = data.mix({"s": self.split(), "t": other}, {"s": 3, "t": 1})
        part = data.without(mixture, (self.write(tmp_path, "ids.txt", "ISIC_1\nL2\n"),))
        assert part.shares == {"s": 0.75, "t": 0.25} and part.excluded == 4
        assert list(part.ids) == ["ISIC_4", "1", "2"]
        np.testing.assert_array_equal(part.images(), [*tiny.images(4)[3:], *tiny.images(3, seed=1)[1:]])

    def test_a_mixture_must_not_lose_a_whole_set(self, tmp_path):
        mixture = data.mix(
            {"s": self.split(), "t": data.from_arrays(tiny.images(2), groups=("L8", "L9"))}, {"s": 1, "t": 1}
        )
        with pytest.raises(UserError, match="no image of 't' is left in the mixture"):
            data.without(mixture, (self.write(tmp_path, "groups.txt", "L8\nL9\n"),))


class TestSharedGroups:
    def split(self, name, ids, groups, **more):
        made = data.from_arrays(tiny.images(len(ids)), groups=groups, name=name)
        return dataclasses.replace(made, ids=ids, own_ids=True, **more)

    def target(self, **more):
        test = self.split("isic2017/64:test", ("ISIC_1", "ISIC_5"), ("L1", "L5"), **more)
        train = self.split("isic2017/64:train", ("ISIC_7",), ("L7",))
        return {"train": train, "validation": self.split("isic2017/64:validation", ("ISIC_6",), ("L6",)), "test": test}

    def test_finds_ids_and_groups_of_held_out_images(self):
        source = self.split("isic2019/64:train", ("ISIC_1_downsampled", "ISIC_7", "ISIC_8"), ("HAM_1", "L7", "L6"))
        found = data.shared_groups(source, self.target())
        assert [(one.target, one.ids, one.groups) for one in found] == [
            ("isic2017/64:validation", (), ("L6",)),
            ("isic2017/64:test", ("ISIC_1",), ()),
        ]
        assert {one.pretraining for one in found} == {"isic2019/64:train"}

    def test_names_that_look_alike_are_the_same(self):
        source = self.split("own/64:train", ("e\u0301",), ("l6\u00a0",))
        target = self.target()
        target["test"] = self.split("isic2017/64:test", ("\u00c9",), ("07",))
        assert [(one.ids, one.groups) for one in data.shared_groups(source, target)] == [
            ((), ("l6\u00a0",)),
            (("e\u0301",), ()),
        ]

    def test_series_and_further_names_of_groups_count(self):
        source = self.split("luna16/64:train", ("a",), ("P",), series=data.as_texts(["1.2.3"]))
        target = self.target(series=data.as_texts(["1.2.3", ""]), other_names={"L5": ("P",)})
        assert [one.groups for one in data.shared_groups(source, target)] == [("1.2.3", "P")]

    def test_nothing_is_compared_within_a_data_set(self):
        source = self.split("isic2017/224:train", ("ISIC_1",), ("L1",))
        assert data.shared_groups(source, self.target()) == []

    def test_names_made_from_the_order_of_images_mean_nothing(self):
        target = {"test": data.from_arrays(tiny.images(4), name="other:test")}
        assert data.shared_groups(data.from_arrays(tiny.images(4), name="one:train"), target) == []

    def test_every_set_of_a_mixture_is_compared(self):
        sets = {
            "isic2019/64": self.split("isic2019/64:train", ("ISIC_2",), ("L2",)),
            "own/64": self.split("own/64:train", ("ISIC_5",), ("x",)),
        }
        found = data.shared_groups(data.mix(sets, dict.fromkeys(sets, 1)), self.target())
        assert [(one.pretraining, one.ids) for one in found] == [("own/64:train", ("ISIC_5",))]
