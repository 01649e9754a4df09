"""Archives, images and tables: what is found, what is refused."""

import io
import json
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from official_format import jpeg
from PIL import Image

from tfds_builders import DATASETS
from tfds_builders.common import images
from tfds_builders.common.archives import Archive
from tfds_builders.common.bare import without_metadata
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


def with_thumbnail(data: bytes) -> bytes:
    """The JPEG with another whole JPEG inside an application segment, as cameras write it."""
    inner = jpeg(1, 8, 8)
    return data[:2] + b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + data[2:]


@pytest.mark.parametrize("tail", [b"", b"\x00\x00", b"trailing"])
def test_whole_jpeg(tail):
    assert images.is_whole(jpeg(0) + tail)
    assert images.is_whole(with_thumbnail(jpeg(0)) + tail)


@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]])
@pytest.mark.parametrize("grey", [False, True])
def test_bare_jpeg_has_the_same_pixels_and_nothing_else(flags, grey):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50) if grey else (40, 50, 3), dtype=np.uint8)
    plain = cv2.imencode(".jpg", noise, flags)[1].tobytes()
    comment = b"\xff\xfe\x00\x0cJohn Smith"
    told = with_thumbnail(plain)[:2] + comment + with_thumbnail(plain)[2:] + b"John Smith's film"
    bare = without_metadata(told)
    assert bare == plain and b"John" not in bare
    assert without_metadata(plain[:-2]) is None


def test_bare_png_has_the_same_pixels_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    plain = images.encode_png(image)
    text = b"tEXtAuthor\0John Smith"
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    bare = without_metadata(plain[:33] + chunk + plain[33:] + b"John Smith")
    assert bare == plain and (images.read_pixels(bare, "x", 3)[0] == image).all()
    assert without_metadata(plain[:40]) is None and without_metadata(b"BM") is None


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
def test_cut_files_are_noticed(keep):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for data in (jpeg(0), with_thumbnail(jpeg(0)), cv2.imencode(".png", noise)[1].tobytes()):
        assert not images.is_whole(data[: int(len(data) * keep)])


def noisy(grey: bool, height: int = 480, width: int = 640) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (30, 40) if grey else (30, 40, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height))


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("lost", [(0.2, 0.5), (0.4, 0.9), (0.7, 0.9)])
def test_a_jpeg_whose_middle_is_missing_is_damaged(grey, lost):
    data = cv2.imencode(".jpg", noisy(grey))[1].tobytes()
    start, end = (int(len(data) * share) for share in lost)
    with pytest.raises(DamagedInput, match="x has lost bytes"):
        images.read_pixels(data[:start] + data[end:], "x", 3)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
        [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    ],
)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("width", [633, 640])
def test_a_jpeg_that_is_grey_itself_is_whole(flags, grey, width):
    for rows in (100, 200, 480):
        image = noisy(grey, width=width)
        image[480 - rows :] = 128
        read = images.read_pixels(cv2.imencode(".jpg", image, flags)[1].tobytes(), "x", 3)
        assert (
            np.asarray(getattr(read, "pixels", read[0] if isinstance(read, tuple) else read)).shape[:2]
            == image.shape[:2]
        )


def test_of_a_tiff_of_several_pages_the_first_is_taken_and_noted():
    page, other = (np.full((20, 20), grey, np.uint8) for grey in (10, 200))
    several = cv2.imencodemulti(".tif", [page, other])[1].tobytes()
    pixels, notes = images.read_pixels(several, "x", 1)
    assert (pixels[..., 0] == page).all() and notes == ("first page",)
    assert images.read_pixels(cv2.imencode(".tif", page)[1].tobytes(), "x", 1)[1] == ()


def test_png_round_trip_is_lossless_in_colour_and_grey():
    colour = np.random.default_rng(0).integers(0, 256, (19, 17, 3), dtype=np.uint8)
    assert (images.read_pixels(images.encode_png(colour), "x", 3)[0] == colour).all()
    assert (images.decode_mask(images.encode_png(colour[..., 0]), "x") == colour[..., 0]).all()


def gif(frames, colours, **options) -> bytes:
    """`frames`: places in `colours`, a list of grey levels."""
    images_of = [Image.fromarray(frame, "P") for frame in frames]
    for image in images_of:
        image.putpalette([level for grey in colours for level in (grey, grey, grey)])
    buffer = io.BytesIO()
    images_of[0].save(buffer, "GIF", save_all=True, append_images=images_of[1:], duration=100, **options)
    return buffer.getvalue()


INSIDE = np.zeros((40, 30), np.uint8)
INSIDE[5:20, 10:25] = 1


@pytest.mark.parametrize("colours", [[0, 255], [255, 0], [7, 200]])
@pytest.mark.parametrize("options", [{}, {"interlace": 1}, {"transparency": 0}, {"transparency": 1}])
def test_a_gif_mask_has_the_colours_of_its_first_frame(colours, options):
    wanted = np.array(colours, np.uint8)[INSIDE]
    for frames in ([INSIDE], [INSIDE, 1 - INSIDE]):
        mask = images.decode_mask(gif(frames, colours, **options), "x")
        assert mask.dtype == np.uint8 and (mask == wanted).all()


def test_a_cut_gif_mask_is_damaged():
    data = gif([INSIDE], [0, 255])
    # The end mark is no pixel.
    for end in range(1, len(data) - 3):
        with pytest.raises(DamagedInput, match="x cannot be decoded"):
            images.decode_mask(data[:end], "x")


def test_a_gif_mask_of_an_absurd_size_is_damaged():
    data = bytearray(gif([INSIDE], [0, 255]))
    data[6:10] = b"\xff" * 4
    with pytest.raises(DamagedInput, match="x cannot be decoded"):
        images.decode_mask(bytes(data), "x")


def test_shrinking_averages_over_areas():
    stripes = np.tile(np.array([0, 200], np.uint8), (64, 32))
    assert (images.square(stripes, 32) == 100).all()


@pytest.mark.parametrize("height", [20, 31, 32, 50])
def test_the_side_that_shrinks_is_averaged_whatever_the_other_does(height):
    # Linear interpolation would look at the two pixels between the stripes alone.
    stripes = np.tile(np.array([200, 0, 0, 200], np.uint8), (height, 32))
    for image in (stripes, stripes.T):
        assert (images.square(np.ascontiguousarray(image), 32) == 100).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_of_16_bits_does_not_count_as_brightness(suffix, channels):
    colour = np.linspace(0, 4095, 20 * 20 * 3).reshape(20, 20, 3).astype(np.uint16)
    alpha = np.full((20, 20, 1), 65535, np.uint16)
    with_alpha, without = (cv2.imencode(suffix, each)[1].tobytes() for each in (np.dstack([colour, alpha]), colour))
    pixels, notes = images.read_pixels(with_alpha, "x", channels)
    assert pixels.max() > 250 and (pixels == images.read_pixels(without, "x", channels)[0]).all()
    assert notes[:2] == ("alpha", "16 bit")


def test_grey_with_alpha_is_grey():
    grey = np.linspace(0, 4095, 20 * 20).reshape(20, 20).astype(np.uint16)
    pixels, notes = images.read_pixels(grey_alpha_png(grey), "x", 1)
    assert (pixels[..., 0] == images.stretch(grey)).all() and notes == ("alpha", "16 bit", "equal channels")


def grey_alpha_png(grey: np.ndarray) -> bytes:
    """16 bit, opaque; after ISO/IEC 15948, since OpenCV does not write two channels."""
    opaque = np.stack([grey, np.full_like(grey, 65535)], axis=-1).astype(">u2")
    lines = zlib.compress(b"".join(b"\0" + line.tobytes() for line in opaque))
    head = b"".join(side.to_bytes(4, "big") for side in grey.shape[::-1]) + bytes([16, 4, 0, 0, 0])
    chunks = [(b"IHDR", head), (b"IDAT", lines), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    )  # fmt: skip


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
