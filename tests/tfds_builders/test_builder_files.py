"""Archives, images and tables: what is found, what is refused."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tfds_builders import DATASETS
from tfds_builders.common.archives import Archive
from tfds_builders.common.damage import DamagedInput, Report
from tfds_builders.common.records import Place, check_present
from tfds_builders.common.tables import as_cell, from_cell, read_table


def test_only_images_are_members(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            "a/one.jpg",
            "a/TWO.JPG",
            "a/one_superpixels.png",
            "a/licence.txt",
            "__MACOSX/a/._one.jpg",
        ):
            archive.writestr(name, b"x")
    assert Archive(path, (".jpg",)).members == {"one": "a/one.jpg", "TWO": "a/TWO.JPG"}


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/x.jpg", "a\\..\\..\\x.jpg", "C:\\x.jpg"])
def test_members_that_climb_out_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(ValueError, match="points out of the archive"):
        Archive(tmp_path / "a.zip", (".jpg",))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_damage_whatever_compressed_it(tmp_path, method):
    noise = np.random.default_rng(0).bytes(3000) * 5
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("x.jpg", noise)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[300:700] = bytes(400)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DamagedInput, match=r"x.jpg cannot be read .*download the archive again"):
        Archive(tmp_path / "a.zip", (".jpg",)).read("x")


@pytest.mark.parametrize(
    "changed", [{6: 99}, {9: 8, 46: 255}, {28: 0}, {42: 255}], ids=["version", "alphabet", "no name", "place"]
)
def test_a_damaged_directory_of_a_zip_file_is_an_error_that_names_the_file(tmp_path, changed):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.jpg", b"x")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    for place, value in changed.items():
        data[data.index(b"PK\x01\x02") + place] = value
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip"):
        Archive(tmp_path / "a.zip", (".jpg",)).read("x")


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("a/x.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match="is a link"):
        Archive(tmp_path / "a.zip", (".jpg",))


def test_table_with_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffimage,a\r\nx, 1 \r\n".encode())
    assert read_table(tmp_path / "t.csv", "image", ["a"]) == {"x": {"a": "1"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,a\n", "no rows"),
        ("", "no column image, a"),
        ("image,a\nx,1\nx,2\n", "line 3: image x occurs twice"),
        ("image,a\nx\n", "line 2: the row has fewer values"),
        ("image,a\n,1\n", "line 2: the column image is blank"),
        ("image,b,a\nx,,1,0\n", "line 2: the row has more values than the header"),
        ("image,a,b\nx,1\n", "line 2: the row has fewer values"),
        ("image,a,a\nx,1,0\n", "two columns a"),
        ('image,a\nx,1\ny,"0\nz,1\n', "from line 3 on"),
        ('image,a\nx,1\ny,"0\nz,"1"\n', "from line 3 on"),
        (f"image,a\n{'x' * 200_000},1\n", "from line 2 on"),
        ("image,a\né,1\n", "no table of UTF-8 text"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_wrong_tables(tmp_path, text, message, zipped):
    path, data = tmp_path / "t.csv", text.encode("latin-1")
    path.write_bytes(data)
    if zipped:
        path = tmp_path / "t.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t.csv", data)
    with pytest.raises(ValueError, match=message) as error:
        read_table(path, "image", ["a"])
    assert type(error.value) is ValueError and str(path) in str(error.value)


def test_blank_lines_and_marks_before_the_header_do_not_count(tmp_path):
    for before in ("\n\n", ",,\n", "\ufeff\ufeff\n", "\ufeff\ufeff"):
        (tmp_path / "t.csv").write_text(before + "image,a\nx,1\ny\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"line {3 + before.count(chr(10))}: the row has fewer values"):
            read_table(tmp_path / "t.csv", "image", ["a"])


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", "\r=x", "'=x", "''=x"])
def test_a_cell_of_a_spreadsheet_is_no_formula(text):
    cell = as_cell(text)
    assert cell.startswith("'") and from_cell(cell) == text


@pytest.mark.parametrize("text", ["", "x", "-0.5", "+1e-3", "'x", "x=y"])
def test_other_cells_stay_as_they_are(text):
    assert as_cell(text) == from_cell(text) == text


def test_names_in_archives_are_known_in_one_form(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/e\u0301.jpg", b"x")
        archive.writestr("a/B.jpg", b"x")
    archive = Archive(tmp_path / "a.zip", (".jpg",), by_path=True)
    check_present([Place("a", "\u00e9.jpg")], {"a": archive})
    with pytest.raises(FileNotFoundError, match="There is 'B.jpg' for 'b.JPG': give them the spelling of the tables"):
        check_present([Place("a", "b.JPG")], {"a": archive})


def test_commas_at_the_end_of_header_or_rows_are_no_columns(tmp_path):
    for text in ("image,a,,\nx,1,,\n", "image,a\nx,1,,\n", "image,a,,\nx,1\n"):
        (tmp_path / "t.csv").write_text(text)
        assert read_table(tmp_path / "t.csv", "image", ["a"]) == {"x": {"a": "1"}}


@pytest.mark.parametrize("folder", ["/home/a b/päth", "scans"])
def test_reports_say_paths_below_the_folder_of_inputs(tmp_path, folder):
    report = Report(tmp_path / "r.json", [Path(folder)])
    report.write([f"{folder}/x/1.dcm", f"{folder}: x.png", f"a ({folder}/y) b", f"/other{folder}/z", f"{folder}2/z"])
    said = json.loads((tmp_path / "r.json").read_text())
    assert said == ["x/1.dcm", "x.png", "a (y) b", f"/other{folder}/z", f"{folder}2/z"]


@pytest.mark.parametrize("name", DATASETS)
def test_a_builder_has_all_its_pieces(name):
    import importlib

    from tensorflow_datasets.core import dataset_metadata

    builder = importlib.import_module(f"tfds_builders.{name}").Builder
    assert builder.name == name and builder.DEFAULT_BUILDER_CONFIG_NAME in builder.builder_configs
    # Refuses tags that TFDS does not know.
    metadata = dataset_metadata.load(builder.code_path.parent)
    assert metadata.citation.startswith("@") and metadata.tags and f"{name}/" in metadata.description
    assert (builder.code_path.parent / "checksums.tsv").is_file()
