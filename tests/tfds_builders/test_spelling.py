"""Spellings that look alike: which are one name, which are not, and how they are shown."""

import pytest

from tfds_builders.common.records import Place, Record
from tfds_builders.common.repeats import find_repeats
from tfds_builders.common.spelling import fold, show, sort_names, tidy, tidy_column
from tfds_builders.common.splits import join_alike, spelled_alike

ALIKE = [
    ("7", "7.0", "007", " 7 ", "7,00", "+7", "\uff17", "7\u200b"),
    ("P-1", "p-1", "P\u20111", "\uff30-1", "P-1\u00a0"),
    ("M\u00fcller", "Mu\u0308ller", "m\u00dcLLER"),
    ("basal cell", "basal  cell", "basal\u00a0cell", "Basal\u2009cell", "basal cell\u200b", "ba\u00adsal cell"),
    ("0", "00", "-0", "0.0"),
    ("stra\u00dfe", "STRASSE"),
]


@pytest.mark.parametrize("spellings", ALIKE)
def test_alike(spellings):
    assert len({fold(spelling) for spelling in spellings}) == 1
    # Nobody could mend two that are shown alike.
    assert len({show(spelling) for spelling in spellings}) == len(spellings)


def test_names_of_different_things_are_not_alike():
    names = [
        "7",
        "70",
        "-7",
        "7.5",
        "7.50",
        "12",
        "P-1",
        "P-01",
        "P1",
        "P 1",
        "a7",
        "7a",
        "1.2.840",
        "1.2.84",
        "",
        "1/2",
    ]
    assert len({fold(name) for name in names}) == len(names)


def test_tidy():
    assert tidy(" \ufeffna\u0308vus \u00a0 cell\u200b ") == "n\u00e4vus cell"
    assert tidy_column(["1.0", "2,0", "", "x 3.0"]) == {"1.0": "1", "2,0": "2", "": "", "x 3.0": "x 3.0"}
    assert tidy_column(["1.0", "1.5", "007"]) == {"1.0": "1.0", "1.5": "1.5", "007": "007"}


def test_numbers_are_in_the_order_of_their_values():
    assert sort_names(["10", "9", "-1", "2.5", "2,25"]) == ["-1", "2,25", "2.5", "9", "10"]
    assert sort_names(["10", "9", "x"]) == ["10", "9", "x"]


def test_groups_that_look_alike_are_one_unless_they_are_images():
    groups = ["P-1", "p-1", "7", "7.0", "12", "8", "08"]
    ids = ["a", "b", "c", "d", "e", "8", "08"]
    assert join_alike(groups, ids) == ["P-1", "P-1", "7", "7", "12", "8", "08"]
    assert spelled_alike(groups, ids) == [["7", "7.0"], ["P-1", "p-1"]]


def test_repeats_between_parts_that_nothing_is_measured_on_are_no_warning():
    records = [
        Record(name, name, Place("a", name), kinds=kinds) for name, kinds in (("a", ("x",)), ("b", ()), ("c", ()))
    ]
    found = find_repeats(records, ["same", "same", "other"], {"train": [0], "unlabelled": [1, 2]})
    assert found["identical_across_splits"] == found["identical_images"] == [["a", "b"]]
    assert found["warnings"] == found["identical_images_of_several_labels"] == []
