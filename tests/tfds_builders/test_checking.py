"""`check`: shared ids, groups and pictures of prepared data sets are found, and others are not."""

import csv

import cv2
import numpy as np
import pytest
from own_table import OwnTable
from own_table import picture as large

from aiseeme_jax.data import open_split, without
from tfds_builders import prepare
from tfds_builders.__main__ import main
from tfds_builders.checking import Contents, check, group_names, overlaps, phash, thumbnail, to_exclude


def contents(name, rows, split="train", joined=None, series=None):
    """Rows (id, group, picture)."""
    ids, groups, pictures = zip(*rows, strict=True)
    hashes = np.array([phash(picture) for picture in pictures], np.uint64)
    groups, series = group_names(groups, joined or {}), series or ("",) * len(ids)
    return Contents(name, (split,) * len(ids), ids, groups, series, hashes, np.stack([*map(thumbnail, pictures)]))


def picture(seed, size=200):
    return cv2.resize(np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8), (size, size))


def reasons(one, other):
    return [(o.reason, o.first[1], o.second[1]) for o in overlaps([one, other])]


def test_ids_groups_and_pictures():
    one = contents("a", [("ISIC_1_downsampled", "L1", picture(1)), ("ISIC_2", "L2", picture(2))])
    other = contents("b", [("ISIC_1", "L9", picture(3)), ("x", "L2", picture(4)), ("copy", "L7", picture(2))])
    assert reasons(one, other) == [
        ("id", "ISIC_1_downsampled", "ISIC_1"),
        ("group", "ISIC_2", "x"),
        ("content", "ISIC_2", "copy"),
    ]


def test_names_that_look_alike_are_the_same():
    one = contents("a", [("\u00e9.png", "P-1", picture(1)), ("x", "007", picture(2))])
    other = contents("b", [("e\u0301.PNG", "p-1", picture(3)), ("y", "7.0", picture(4))])
    assert reasons(one, other) == [
        ("id", "\u00e9.png", "e\u0301.PNG"), ("group", "\u00e9.png", "e\u0301.PNG"), ("group", "x", "y"),
    ]  # fmt: skip


def test_series():
    one = contents("a", [("a1", "P1", picture(1)), ("a2", "P2", picture(2))], series=("1.2", ""))
    other = contents("b", [("b1", "Q1", picture(3)), ("b2", "Q2", picture(4))], series=("", "1.2"))
    assert reasons(one, other) == [("series", "a1", "b2")]


def test_a_joined_group_goes_by_all_its_names():
    one = contents("a", [("a1", "P1", picture(1)), ("a2", "P2", picture(2))], joined={"P2": "P1"})
    other = contents("b", [("b1", "P2", picture(3)), ("b2", "P3", picture(4))])
    assert reasons(one, other) == [("group", "a1", "b1"), ("group", "a2", "b1")]
    assert reasons(other, one) == [("group", "b1", "a1"), ("group", "b1", "a2")]
    assert reasons(one, one)[2:6] == [("group", i, j) for i in ("a1", "a2") for j in ("a1", "a2")]


def test_whole_groups_are_excluded_of_the_first_data_set_alone():
    rows = [("a1", "P1", 1), ("a2", "P2", 2), ("a3", "P3", 3), ("a4", "P3", 4)]
    first = contents("a", [(i, group, picture(seed)) for i, group, seed in rows], joined={"P2": "P1"})
    second = contents("b", [("b1", "Q1", picture(2)), ("b2", "Q2", picture(5))])
    third = contents("c", [("c1", "R1", picture(5)), ("c2", "R2", picture(3))])
    assert to_exclude(list(overlaps([first, second])), first) == ["a1", "a2"]
    assert to_exclude(list(overlaps([first, second, third])), first) == ["a1", "a2", "a3", "a4"]


def test_what_is_written_is_kept_out_whatever_its_name(tmp_path, capsys):
    """A lesion of which another set has one photograph, and names that hold what parts columns."""
    names = ("l0, left.png", "l0;1.png", 'l0"2.png', "l1.png", "l2.png")
    for table, seeds in {"a": (0, 1, 2, 3, 4), "b": (0, 9), "c": (9, 8)}.items():
        own = OwnTable(tmp_path)
        for name, seed in zip(names, seeds, strict=False):
            data = large(seed, height=96, width=128)
            own.add(f"={table}/{name}", data, group=name[:2] if table == "a" else "", split="train")
        own.write(f"{table}.csv")
        prepare(f"image_table/{table}_64", data_dir=tmp_path / "data", manual_dir=tmp_path)
    sets = [f"image_table/{table}_64" for table in "abc"]
    command = ["--data_dir", str(tmp_path / "data"), "--exclude", str(tmp_path / "ids.txt")]
    command += ["--list", str(tmp_path / "all.csv")]
    assert main(["check", *sets, *command]) == 1
    assert "3 ids of image_table/a_64 written" in capsys.readouterr().out
    left = without(open_split(sets[0], "train", tmp_path / "data"), [str(tmp_path / "ids.txt")])
    assert set(left.ids) == {"=a/l1.png", "=a/l2.png"}
    with open(tmp_path / "all.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    # As formulae, a spreadsheet would run them.
    assert rows and all(row[2].startswith("'=") and row[4].startswith("'=") for row in rows)


def test_a_copy_is_found_after_shortening_and_compression():
    for seed in range(20):
        original = picture(seed)
        small = cv2.resize(original, (64, 64), interpolation=cv2.INTER_AREA)
        copy = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_GRAYSCALE)
        found = reasons(contents("a", [("1", "1", original)]), contents("b", [("2", "2", copy)]))
        assert found == [("content", "1", "2")]


def test_different_pictures_are_not_the_same():
    one = contents("a", [(f"a{i}", f"a{i}", picture(i)) for i in range(60)])
    other = contents("b", [(f"b{i}", f"b{i}", picture(100 + i)) for i in range(60)])
    assert not reasons(one, other)


@pytest.mark.slow
def test_the_splits_of_one_data_set_are_compared(tmp_path):
    prepare("derm_phantom/tiny", data_dir=tmp_path)
    assert not [o for o in check(["derm_phantom/tiny"], tmp_path) if o.reason != "content"]


@pytest.mark.slow
def test_command_line(tmp_path, capsys):
    for folder in ("a", "b"):
        prepare("derm_phantom/tiny", data_dir=tmp_path / folder)
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b" / "derm_phantom")
    status = main([
        "check", "derm_phantom/tiny", "other/tiny", "--data_dir", str(tmp_path / "a"),
        "--list", str(tmp_path / "all.csv"), "--exclude", str(tmp_path / "ids.txt"),
    ])  # fmt: skip
    out = capsys.readouterr().out
    assert status == 1 and "same id: " in out and "same content: " in out and "ids of derm_phantom/tiny written" in out
    ids = (tmp_path / "ids.txt").read_text().split()
    assert len(ids) == len(set(ids)) > 90 and all(name.startswith("PHANTOM_") for name in ids)
    assert (tmp_path / "all.csv").read_text().startswith("reason,first,first_id,second,second_id\n")


def test_a_data_set_that_is_not_prepared_is_named(tmp_path, capsys):
    assert main(["check", "isic2017/64", "--data_dir", str(tmp_path)]) == 2
    assert "isic2017/64 is not prepared in" in capsys.readouterr().err


@pytest.mark.slow
def test_copies_of_real_images(real_data, tmp_path):
    """Where the limits come from: see `checking.MIN_CORRELATION`."""
    if not (real_data / "isic2019").is_dir():
        pytest.skip(f"no ISIC 2019 images in {real_data}")
    truth = "ISIC_2019_Training_GroundTruth.csv"
    (tmp_path / "some").mkdir()
    for path in (real_data / "isic2019").iterdir():
        if path.name != truth:
            (tmp_path / "some" / path.name).symlink_to(path)
    head, *rows = (real_data / "isic2019" / truth).read_text().splitlines()
    # Every fourth, for time's sake; all 10,015 are found too.
    (tmp_path / "some" / truth).write_text("\n".join([head, *rows[::4]]) + "\n")
    for config in ("64", "224"):
        prepare(f"isic2019/{config}", data_dir=tmp_path, manual_dir=tmp_path / "some")
    found = {o.first[1] for o in check(["isic2019/64", "isic2019/224"], tmp_path) if o.reason == "content"}
    assert len(found) == len(rows[::4])
