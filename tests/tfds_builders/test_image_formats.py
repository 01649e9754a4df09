"""Every line of the list of what is read, against a reader that the code does not use; and what is on no line."""

import gzip
import io
from itertools import product
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import SimpleITK
import tifffile
from dicom_files import radiograph, to_bytes
from image_files import file_of, heic, png, samples, saved, tiff, to_rgb
from PIL import Image
from pydicom.encaps import encapsulate

from tfds_builders.common import formats, images
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.formats import COLOUR, COLOUR_ALPHA, GREY, GREY_ALPHA, WHITE_IS_ZERO, Kind

CODESTREAM = b"\xff\x4f\xff\x51"
README = Path(formats.__file__).parents[1] / "image_table" / "README.md"
# Of the bits that a line of DICOM allows.
DICOM_BITS = (1, 2, 6, 8, 10, 12, 16)


def kinds(line: formats.Readable) -> list[Kind]:
    bits = [number for number in line.bits if line.format != "DICOM" or number in DICOM_BITS]
    return [Kind(line.format, *rest) for rest in product(line.colours, bits, line.compressions)]


def independent(kind: Kind, data: bytes, folder: Path) -> np.ndarray:
    """The samples, without alpha and palette, upright, 0 black; as another library than the code's reads them.
    SimpleITK turns MONOCHROME1 over.
    """
    match kind:
        case Kind(format="DICOM", bits=bits) if bits < 8:
            # SimpleITK reads none of these.
            values = samples(GREY, bits)
            return 2**bits - 1 - values if kind.colour == "MONOCHROME1" else values
        case Kind(format="DICOM"):
            return with_simpleitk(data, folder)
        case Kind(format="PNG", bits=16):
            values = to_rgb(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
            return values[..., 0] if kind.colour == GREY_ALPHA else values
        case Kind(format="BMP" | "GIF" | "PNM"):
            return to_rgb(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
        case Kind(format="TIFF", compression="JPEG 2000"):
            return independent(
                Kind("JPEG 2000", kind.colour, kind.bits, "bare"), data[data.index(CODESTREAM) :], folder
            )
        case Kind(format="JPEG 2000", colour="colour", bits=bits) if bits > 8:
            return to_rgb(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
        case Kind(format="TIFF", bits=16) if kind.colour != GREY:
            # libtiff, which does not turn white into black.
            values = imagecodecs.tiff_decode(data)
            return 65535 - values if kind.colour == WHITE_IS_ZERO else values
        case Kind(format="HEIC"):
            return samples(kind.colour, 8)
    return with_pillow(data)


def with_pillow(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data))
    if picture.mode in ("P", "1"):
        picture = picture.convert("RGB" if picture.mode == "P" else "L")
    return np.asarray(picture)


def with_simpleitk(data: bytes, folder: Path) -> np.ndarray:
    (folder / "x.dcm").write_bytes(data)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(folder / "x.dcm"))
    return SimpleITK.GetArrayFromImage(reader.Execute())[0]


def shown(values: np.ndarray, kind: Kind) -> np.ndarray:
    """The samples as 8 bits; these have no outliers."""
    values = values[..., :-1] if values.ndim == 3 and values.shape[-1] in (2, 4) else values
    values = values[..., 0] if values.shape[-1] == 1 else values
    if values.dtype.itemsize == 2:
        low, high = float(values.min()), float(values.max())
        values = (values - low) / (high - low) * 255
    elif kind.format == "DICOM":
        values = values / (2**kind.bits - 1) * 255
    return values


@pytest.mark.parametrize("line", range(len(formats.READABLE)))
def test_every_kind_has_the_pixels_that_another_reader_finds(line, tmp_path):
    for kind in kinds(formats.READABLE[line]):
        data = file_of(kind)
        values = shown(independent(kind, data, tmp_path), kind)
        pixels, _ = images.read_pixels(data, "x", 1 if values.ndim == 2 else 3)
        difference = abs(pixels.reshape(values.shape) - values.astype(float)).max()
        # libheif goes through other colours and back.
        assert difference <= (2 if kind.format == "HEIC" else 0.5 + 1e-6), f"{kind}: {difference}"


def test_the_readme_shows_the_list():
    assert formats.as_markdown() in README.read_text()


GREY8, SIGNED = samples(GREY, 8), samples(GREY, 8).astype(np.int16) - 100
WHOLE_DICOM = to_bytes(radiograph(samples(GREY, 12), 12))
REFUSED = {
    "signed TIFF": (tiff(GREY8, 8, 1, 1, GREY8.tobytes(), {339: (3, [2])}), "TIFF of 8 bits, signed numbers"),
    "TIFF of floats": (lambda: written(GREY8.astype(np.float32)), "TIFF of 32 bits, floating point numbers"),
    "TIFF of 12 bits": (tiff(GREY8, 12, 1, 1, bytes(1000)), "TIFF of 12 bits, grey"),
    "two greys": (tiff(samples("grey and alpha", 8), 8, 1, 1, bytes(960), {338: (3, [0])}), "2 channels of MINI"),
    "CMYK TIFF": (tiff(samples(COLOUR_ALPHA, 8), 8, 5, 1, bytes(1920)), "4 channels of SEPARATED"),
    "JPEG XL in TIFF": (tiff(GREY8, 8, 1, 50002, b"x"), "compression JPEGXL"),
    "a thumbnail": (tiff(GREY8, 8, 1, 1, GREY8.tobytes(), {254: (4, [1])}), "TIFF file of thumbnails"),
    "multiplied alpha": (
        tiff(samples(COLOUR_ALPHA, 8), 8, 2, 1, samples(COLOUR_ALPHA, 8).tobytes(), {338: (3, [1])}),
        "colours are multiplied by alpha",
    ),
    "CMYK JPEG": (lambda: saved_as(Image.new("CMYK", (24, 20)), "JPEG"), "JPEG of 8 bits, CMYK"),
    "JPEG of 12 bits": (imagecodecs.jpeg8_encode(samples(GREY, 12), bitspersample=12), "JPEG of 12 bits, grey"),
    "lossless JPEG": (imagecodecs.ljpeg_encode(GREY8), "JPEG of 8 bits, grey, with the compression lossless"),
    "JPEG-LS": (imagecodecs.jpegls_encode(GREY8), "with the compression JPEG-LS"),
    "JPEG 2000 of four channels": (imagecodecs.jpeg2k_encode(samples(COLOUR_ALPHA, 8)), "JPEG 2000 of 8 bits, 4 chan"),
    "JPEG 2000 of signed values": (imagecodecs.jpeg2k_encode(SIGNED), "signed grey"),
    "an animation": (
        lambda: saved(samples(COLOUR, 8), "WEBP", save_all=True, append_images=[Image.new("RGB", (24, 20))]),
        "WebP of 8 bits, an animation",
    ),
    "a bitmap of 16 bits": (b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(10) + b"\x10\0" + bytes(900), "BMP of 16 bits"),
    "PNM of odd depth": (b"P5 24 20 1023\n" + bytes(960), "values to 1023"),
    "text PNM": (b"P2 24 20 255\n" + b"1 " * 480, "a PNM file of bits or in text"),
    "AVIF": (imagecodecs.avif_encode(samples(COLOUR, 8)), "an AVIF file"),
    "JPEG XL": (imagecodecs.jpegxl_encode(samples(COLOUR, 8)), "a JPEG XL file"),
    "gzip": (gzip.compress(WHOLE_DICOM), "a gzip file, which is not read: unpack it"),
    "a web page": (b"\n<!DOCTYPE html><html></html>", "text of a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "a video": (b"\0\0\0\x18ftypisom\0\0\0\0mp42isom" + bytes(400), "a video"),
    "NIfTI": (bytes(344) + b"n+1\0", "a NIfTI file"),
    "a header of HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), "a HEIC file .*export it as JPEG"),
    "something": (b"something else", "of no known format .*convert it to one of JPEG, PNG"),
    "HTJ2K in DICOM": (lambda: with_syntax("1.2.840.10008.1.2.4.201"), "High-Throughput JPEG 2000.* .gdcmconv"),
    "JPEG of odd sampling": (
        saved(samples(COLOUR, 8), "JPEG").replace(b"\x01\x22\0\x02", b"\x01\x42\0\x02"),
        "JPEG of 8 bits, sampled 4x2, 1x1, 1x1",
    ),
}  # fmt: skip


def saved_as(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def written(values: np.ndarray) -> bytes:
    return cv2.imencode(".tif", values)[1].tobytes()


def with_syntax(syntax: str) -> bytes:
    dataset = radiograph(samples(GREY, 12), 12)
    dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60) + b"\xff\xd9"])
    dataset.file_meta.TransferSyntaxUID = syntax
    return to_bytes(dataset)


@pytest.mark.parametrize("case", REFUSED)
def test_all_else_is_refused_by_name_with_a_way_out(case):
    made, told = REFUSED[case]
    data = made() if callable(made) else made
    with pytest.raises(DamagedInput, match=f"x(.dcm)? is .*{told}") as error:
        images.read_pixels(data, "x", 3)
    assert "whole one" not in str(error.value) and "cut" not in str(error.value)


@pytest.mark.parametrize("meta", [True, False])
def test_dicom_without_preamble_is_read(meta):
    start = 132 if meta else WHOLE_DICOM.index(b"\x08\0\x16\0")
    pixels, notes = images.read_pixels(WHOLE_DICOM[start:], "x", 1)
    assert (pixels == images.read_pixels(WHOLE_DICOM, "x", 1)[0]).all() and notes == ("DICOM",)


@pytest.mark.parametrize("kind", ["tiles", "planes", "little endian", "bigtiff", "predictor"])
def test_other_layouts_of_tiff(kind):
    values = cv2.resize(samples(COLOUR, 8), (80, 70))
    options = {
        "tiles": {"tile": (16, 32), "compression": "zstd"},
        "planes": {"planarconfig": "separate", "compression": "lzw"},
        "little endian": {"byteorder": "<", "rowsperstrip": 7},
        "bigtiff": {"bigtiff": True},
        "predictor": {"predictor": True, "compression": "zlib"},
    }[kind]
    buffer = io.BytesIO()
    stored = np.moveaxis(values, -1, 0) if kind == "planes" else values
    tifffile.imwrite(buffer, stored, photometric="rgb", **options)
    assert (images.read_pixels(buffer.getvalue(), "x", 3)[0] == values).all()
    assert (with_pillow(buffer.getvalue()) == values).all()


def test_missing_strips_of_a_tiff_are_noticed():
    values = np.full((70, 80), 200, np.uint8)
    for tags in ({257: (4, [140])}, {278: (4, [7])}, {279: (4, [10**6])}):
        with pytest.raises(DamagedInput, match="strips or tiles|requested|cannot be decoded as TIFF"):
            images.read_pixels(tiff(values, 8, 1, 5, imagecodecs.lzw_encode(values), tags), "x", 1)


def test_a_jpeg_strip_that_has_lost_bytes_is_noticed():
    whole = file_of(Kind("TIFF", COLOUR, 8, "JPEG"))
    start, end = whole.index(b"\xff\xda"), len(whole)
    middle = (start + end) // 2
    with pytest.raises(DamagedInput, match="x cannot be decoded as TIFF"):
        images.read_pixels(whole[: middle - 20] + bytes(40) + whole[middle + 20 :], "x", 3)


def test_alpha_does_not_darken_the_colours_of_any_format():
    values = np.full((20, 24, 4), 200, np.uint8)
    values[..., 3] = np.arange(24) * 10
    tags = {338: (3, [2])}
    files = [png(values, COLOUR_ALPHA, 8), tiff(values, 8, 2, 1, values.tobytes(), tags)]
    files += [saved(values, "WEBP", lossless=True, exact=True), heic(values)]
    for data in files:
        pixels, notes = images.read_pixels(data, "x", 3)
        assert abs(pixels.astype(int) - 200).max() <= 1 and "alpha" in notes
    opaque = values | np.array([0, 0, 0, 255], np.uint8)
    assert (images.read_pixels(tiff(opaque, 8, 2, 1, opaque.tobytes(), {338: (3, [1])}), "x", 3)[0] == 200).all()


def bombs() -> dict[str, bytes]:
    """Small files whose headers promise 30,000 x 30,000 pixels."""
    side = 30_000
    found = {"PNG": png(GREY8, GREY, 8, size=(side, side))}
    jpeg = bytearray(saved(GREY8, "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = side.to_bytes(2, "big") * 2
    found["JPEG"] = bytes(jpeg)
    found["TIFF"] = tiff(GREY8, 8, 1, 8, b"x", {256: (4, [side]), 257: (4, [side])})
    found["GIF"] = b"GIF89a" + side.to_bytes(2, "little") * 2 + bytes(20)
    found["PNM"] = f"P5 {side} {side} 255\n".encode()
    found["BMP"] = b"BM" + bytes(12) + b"\x28\0\0\0" + side.to_bytes(4, "little") * 2 + b"\1\0\x18\0" + bytes(30)
    found["DICOM"] = to_bytes(radiograph(GREY8, 8, Rows=side, Columns=side))
    found["JPEG 2000"] = b"\xff\x4f\xff\x51\0\x29\0\0" + side.to_bytes(4, "big") * 2 + bytes(24) + b"\0\1\7\1\1"
    return found


@pytest.mark.parametrize("kind", bombs())
def test_a_size_that_fills_the_memory_is_refused_before_decoding(kind):
    with pytest.raises(DamagedInput, match="30000x30000 pixels, more than the 100 megapixels .*max_megapixels"):
        images.read_pixels(bombs()[kind], "x", 1)
    with pytest.raises(DamagedInput, match="24x20 pixels, more than the 0.0004 mega"):
        images.read_mask(png(GREY8, GREY, 8), "x", 400)


def test_nothing_but_the_error_reaches_the_screen(capfd):
    """The decoders' own lines, of files damaged in many places, say less than the reason."""
    random = np.random.default_rng(0)
    lines = {(line.format, line.compressions[-1]): line for line in formats.READABLE}
    for line in lines.values():
        data = file_of(kinds(line)[-1])
        for cut in (len(data) // 2, len(data) - 30):
            with pytest.raises(DamagedInput):
                images.read_pixels(data[:cut], "x", 1)
        for _ in range(20):
            changed = bytearray(data)
            for place in random.integers(min(20, len(data) - 1), len(data), 3):
                changed[place] = random.integers(256)
            try:
                assert images.read_pixels(bytes(changed), "x", 1)[0].dtype == np.uint8
            except DamagedInput as error:
                assert "x" in str(error)
    assert capfd.readouterr() == ("", "")
