"""Images: what is cut or not whole, orientation, deep images, masks, and what the screen stays free of."""

import io
import zlib

import cv2
import numpy as np
import pytest
from official_format import jpeg
from PIL import Image

from tfds_builders.common import images
from tfds_builders.common.bare import without_metadata
from tfds_builders.common.damage import DamagedInput


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
