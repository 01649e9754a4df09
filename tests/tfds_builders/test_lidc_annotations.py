"""LIDC-IDRI's XML: which annotations count, which files, and what is refused."""

import numpy as np
import pytest
from lidc_series import RADIOGRAPH, message, nodule, non_nodule, roi, square, write_zip

from tfds_builders.lidc_idri import annotations
from tfds_builders.lidc_idri.annotations import WITHDRAWN, parse, read_archive

pytestmark = pytest.mark.slow

GOOD = (3, 1, 6, 4, 4, 2, 1, 5, 4)
RING = square(20, 30, 3)


def drawn(name="n", ratings=GOOD, points=RING, z=-10.0, uid="1.2.1", **more):
    return nodule(name, [roi(z, uid, points, **more)], ratings)


def parsed(*sessions, series="1.2"):
    return parse(message(series, sessions).encode(), "a.xml")


def test_an_annotation_is_read_whole():
    hole = roi(-10.0, "1.2.1", square(20, 30, 1), inclusion=False)
    rois = [roi(-10.0, "1.2.1", RING), hole, roi(-12.5, "1.2.2", RING), roi(-15.0, "1.2.3", [(20, 30)])]
    reading = parsed(non_nodule(-10.0, "1.2.1"), nodule("IL05_7", rois, GOOD))
    (one,) = reading.annotations
    assert (reading.series_uid, reading.sessions) == ("1.2", 2)
    assert (one.session, one.nodule_id, one.ratings) == (1, "IL05_7", GOOD)
    assert [(o.z, o.sop_uid, o.inclusion) for o in one.outlines] == [
        (-10.0, "1.2.1", True), (-10.0, "1.2.1", False), (-12.5, "1.2.2", True)
    ]  # fmt: skip
    # x is the column, and the closing point is not repeated.
    assert one.outlines[0].points.tolist() == [list(point) for point in RING[:-1]]
    assert dict(reading.counts) == dict(non_nodules=1, annotations=1, outlines=2, holes=1, stray_points=1)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (drawn(points=[(20, 30)], ratings=None), "below_3mm"),
        (drawn(points=[(20, 30)], ratings=()), "below_3mm"),
        (drawn(points=[(20, 30)], ratings=(0,) * 9), "rated_points"),
        (drawn(ratings=None), "outlined_without_ratings"),
        (drawn(ratings=()), "outlined_without_ratings"),
        (drawn(ratings=(0, *GOOD[1:])), "outlined_without_ratings"),
        (drawn(ratings=("", *GOOD[1:])), "outlined_without_ratings"),
        (drawn(inclusion=False), "rated_points"),
    ],
)
def test_what_is_no_nodule_of_3_mm_is_counted(text, counted):
    reading = parsed(text)
    assert not reading.annotations and reading.counts[counted] == 1


def test_a_rating_that_its_scale_has_not_is_0():
    reading = parsed(drawn(ratings=(3, 5, 6, 4, 4, 2, 1, 5, 4)))
    assert reading.annotations[0].ratings == (3, 0, 6, 4, 4, 2, 1, 5, 4)
    assert reading.counts["invalid_ratings"] == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (message("1.2", [drawn()])[:-30], "not well-formed XML"),
        ("", "not well-formed XML"),
        ("<a/>", "root is a, not LidcReadMessage"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>' + message("1.2", [drawn()]).split("\n")[1], "DOCTYPE"),
        (message("", [drawn()]), "ResponseHeader has no SeriesInstanceUid"),
        (message("1.2", [drawn(uid="")]), "roi has no imageSOP_UID"),
        (message("1.2", [drawn(z="high")]), "imageZposition is no number"),
        (message("1.2", [drawn(z="nan")]), "imageZposition is no number"),
        (message("1.2", [drawn()]).replace("TRUE", "PERHAPS"), "inclusion is 'PERHAPS'"),
        (message("1.2", [drawn(points=[(1, 2), ("x", 2)])]), "xCoord or yCoord is no whole number"),
        (message("1.2", [drawn()]).replace("<yCoord>30</yCoord>", ""), "not one xCoord and one yCoord"),
        (message("1.2", [drawn(ratings=("many", *GOOD[1:]))]), "subtlety is 'many', not a whole number"),
    ],
)
def test_a_damaged_file_is_listed_and_the_others_are_read(tmp_path, text, problem):
    readings = read_archive(write_zip(tmp_path / "x.zip", {"1/1.xml": text, "1/2.xml": message("1.3", [drawn()])}))
    assert list(readings.by_series) == ["1.3"]
    (damaged,) = readings.damaged
    assert problem in damaged.reason and "1/1.xml" in damaged.path


def test_radiographs_are_counted_and_left_out(tmp_path):
    readings = read_archive(
        write_zip(tmp_path / "x.zip", {"1/1.xml": RADIOGRAPH, "2/1.xml": message("1.2", [drawn()])})
    )
    assert dict(readings.files) == dict(xml_files=2, ct_files=1, radiograph_files=1)
    assert readings.counts()["annotations"] == readings.counts()["ct_series_with_nodules"] == 1


def test_equal_files_of_a_series_count_once(tmp_path):
    contents = [drawn("a"), drawn("b")]
    texts = {"1.xml": message("1.2", contents), "2.xml": message("1.2", contents, "<MessageId>7</MessageId>")}
    texts["3.xml"] = texts["1.xml"].replace("><", ">\r\n  <")
    readings = read_archive(write_zip(tmp_path / "x.zip", texts))
    assert readings.counts()["annotations"] == 2 and not readings.damaged
    assert readings.notes == ["1.2: 3 XML files: equal contents, counted once"]


def test_files_that_contradict_each_other_are_damaged_unless_one_was_resubmitted(tmp_path):
    texts = {"161.xml": message("1.2", [drawn("a")]), "162.xml": message("1.2", [drawn("b"), drawn("c")])}
    readings = read_archive(write_zip(tmp_path / "x.zip", texts))
    assert not readings.by_series
    assert "annotate the series 1.2 differently" in readings.damaged[0].reason
    texts = {"161.xml": texts["161.xml"], "161-resubmitted-correction-3-9-12.xml": texts["162.xml"]}
    readings = read_archive(write_zip(tmp_path / "y.zip", texts))
    assert [one.nodule_id for one in readings.by_series["1.2"].annotations] == ["b", "c"]
    assert "the resubmitted file replaces the other" in readings.notes[0]


def test_what_the_correction_withdraws_is_left_out_where_the_corrected_file_lacks(tmp_path, monkeypatch):
    ((uid, session, name),) = WITHDRAWN
    assert (session, uid[-6:]) == (0, "717327")
    texts = {"161.xml": message(uid, [drawn(name) + drawn("kept"), drawn(name)])}
    readings = read_archive(write_zip(tmp_path / "x.zip", texts))
    kept = [(one.session, one.nodule_id) for one in readings.by_series[uid].annotations]
    assert kept == [(0, "kept"), (1, name)]
    counts = readings.counts()
    assert (counts["annotations"], counts["withdrawn"], counts["outlines"]) == (2, 1, 2)
    # A corrected file says for itself what holds.
    readings = read_archive(write_zip(tmp_path / "y.zip", texts | {"161-resubmitted.xml": texts["161.xml"]}))
    assert readings.counts()["annotations"] == 3


def test_zip_and_folder_read_alike(tmp_path):
    archive = write_zip(tmp_path / "x.zip", {"1/1.xml": message("1.2", [drawn()]), "1/notes.txt": "no XML"})
    import zipfile

    zipfile.ZipFile(archive).extractall(tmp_path / "folder")
    one, other = read_archive(archive), read_archive(tmp_path / "folder")
    assert one.counts() == other.counts() and one.counts()["xml_files"] == 1
    same = [readings.by_series["1.2"].annotations[0].outlines[0].points for readings in (one, other)]
    assert (same[0] == same[1]).all()


def test_ratings_are_named_in_order():
    assert list(annotations.RATINGS)[annotations.MALIGNANCY] == "malignancy" and len(annotations.RATINGS) == 9
    assert np.all(np.array(list(annotations.RATINGS.values())) >= 4)
