"""`check`: shared ids, groups and pictures of prepared data sets are found, and others are not."""

import cv2
import numpy as np
import pytest

from tfds_builders import prepare
from tfds_builders.__main__ import main
from tfds_builders.checking import Contents, check, overlaps, phash, thumbnail


def contents(name, rows, split="train"):
    """Rows (id, group, picture)."""
    ids, groups, pictures = zip(*rows, strict=True)
    hashes = np.array([phash(picture) for picture in pictures], np.uint64)
    return Contents(name, (split,) * len(ids), ids, groups, hashes, np.stack([thumbnail(p) for p in pictures]))


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
