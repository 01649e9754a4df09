"""Images: what is cut or not whole, orientation, deep images, masks, and what the screen stays free of."""

import io
import zlib

import cv2
import numpy as np
import pytest
from image_files import with_orientation
from official_format import jpeg
from PIL import Image, ImageOps

from tfds_builders.common import images
from tfds_builders.common.bare import without_metadata
from tfds_builders.common.damage import DamagedInput


def with_thumbnail(data: bytes) -> bytes:
    """The JPEG with another whole JPEG inside an application segment, as cameras write it."""
    inner = jpeg(1, 8, 8)
    return data[:2] + b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner + data[2:]


@pytest.mark.parametrize("tail", [b"", b"\x00\x00", b"trailing"])
def test_bytes_after_the_end_do_no_harm(tail):
    for data in (jpeg(0), with_thumbnail(jpeg(0)), images.encode_png(images.read_pixels(jpeg(0), "x", 3)[0])):
        assert (images.read_pixels(data + tail, "x", 3)[0] == images.read_pixels(data, "x", 3)[0]).all()


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


KINDS = {
    "baseline": (".jpg", []),
    "progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "restarts": (".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
    "PNG": (".png", []),
    "WebP": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
    "JPEG 2000": (".jp2", []),
}


def noisy(grey: bool, height: int = 240, width: int = 320) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (30, 40) if grey else (30, 40, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grey", [False, True])
def test_missing_bytes_are_noticed_at_the_end_and_in_the_middle(kind, grey):
    suffix, flags = KINDS[kind]
    data = cv2.imencode(suffix, noisy(grey), flags)[1].tobytes()
    for start, end in ((0.3, 1), (0.6, 1), (0.99, 1), (0.2, 0.5), (0.4, 0.9), (0.7, 0.9)):
        lost = data[: int(len(data) * start)] + data[int(len(data) * end) :]
        with pytest.raises(DamagedInput, match="image x .*replace the file by a whole one"):
            images.read_pixels(lost, "x", 3)


def test_a_changed_byte_of_a_png_is_noticed():
    data = bytearray(images.encode_png(noisy(True)))
    data[len(data) // 2] ^= 1
    with pytest.raises(DamagedInput, match="CRC"):
        images.read_pixels(bytes(data), "x", 1)


@pytest.mark.parametrize("quality", [50, 98])
@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts"])
def test_a_jpeg_that_is_grey_itself_is_whole(kind, quality):
    """Mid-grey with a few other pixels: as a decoder fills what is missing."""
    image = noisy(True, 160, 200)
    image[8:] = 128
    image[8:][np.random.default_rng(9).random((152, 200)) < 0.003] = 129
    data = cv2.imencode(".jpg", image, [*KINDS[kind][1], cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    assert images.read_pixels(data, "x", 1)[0].shape == (160, 200, 1)


def test_harmless_oddities_of_a_jpeg_are_no_damage():
    data = jpeg(0)
    odd = [data[:-2] + bytes(12) + data[-2:], data.replace(b"JFIF\0\1", b"JFIF\0\7")]
    for other in odd:
        assert (images.read_pixels(other, "x", 3)[0] == images.read_pixels(data, "x", 3)[0]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientations_are_applied_in_all_formats(kind):
    values = cv2.resize(np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8), (40, 30))
    for orientation in range(1, 9):
        data = with_orientation(kind, values, orientation)
        pixels, notes = images.read_pixels(data, "x", 3)
        shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        assert pixels.shape == shown.shape and abs(pixels.astype(int) - shown).max() <= (0 if kind != "JPEG" else 1)
        assert notes == ((f"orientation {orientation}",) if orientation > 1 else ())
        assert images.read_mask(data, "x").shape == shown.shape[:2]
    for nonsense in (0, 9, 4000):
        assert images.read_pixels(with_orientation(kind, values, nonsense), "x", 3)[1] == ()


def test_damaged_exif_data_are_no_damage_of_the_picture():
    data = with_orientation("JPEG", noisy(False, 30, 40), 6)
    place = data.index(b"Exif\0\0") + 6
    for start in (b"XX", b"MM\0*\xff\xff\xff\xff"):
        broken = data[:place] + start + data[place + len(start) :]
        assert images.read_pixels(broken, "x", 3)[0].shape == (30, 40, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_one_hot_pixel_does_not_crush_a_deep_image(suffix):
    image = np.linspace(1000, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    plain, notes = images.read_pixels(cv2.imencode(suffix, image)[1].tobytes(), "x", 1)
    assert notes == ("16 bit",) and (plain[..., 0] == np.round((image - 1000.0) * (255 / 2000))).all()
    for hot in (65535, 0):
        image[32, 32] = hot
        pixels, notes = images.read_pixels(cv2.imencode(suffix, image)[1].tobytes(), "x", 1)
        others = np.ones((64, 64), bool)
        others[32, 32] = False
        if hot:
            assert notes == ("16 bit", "outliers") and pixels[32, 32] == 255
            assert abs(pixels.astype(int) - plain)[others].max() <= 1
        else:
            assert notes == ("16 bit",) and pixels[32, 32] == 0


@pytest.mark.parametrize("side", [16, 200])
def test_few_bright_pixels_of_a_dark_image_stay(side):
    image = np.full((side, side), 7, np.uint16)
    image[3, 3] = 900
    pixels, notes = images.read_pixels(cv2.imencode(".png", image)[1].tobytes(), "x", 1)
    assert pixels[3, 3] == 255 and np.count_nonzero(pixels) == 1 and notes == ("16 bit",)


def test_of_a_tiff_of_several_pages_the_first_is_taken_and_noted():
    page, other = (np.full((20, 20), grey, np.uint8) for grey in (10, 200))
    several = cv2.imencodemulti(".tif", [page, other])[1].tobytes()
    pixels, notes = images.read_pixels(several, "x", 1)
    assert (pixels[..., 0] == page).all() and notes == ("first page",)
    assert images.read_pixels(cv2.imencode(".tif", page)[1].tobytes(), "x", 1)[1] == ()


def test_png_round_trip_is_lossless_in_colour_and_grey():
    colour = np.random.default_rng(0).integers(0, 256, (19, 17, 3), dtype=np.uint8)
    assert (images.read_pixels(images.encode_png(colour), "x", 3)[0] == colour).all()
    assert (images.read_pixels(images.encode_png(colour[..., 0]), "x", 1)[0] == colour[..., :1]).all()


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
        data = gif(frames, colours, **options)
        assert (images.read_mask(data, "x") == (wanted > 128)).all()
        pixels, notes = images.read_pixels(data, "x", 1)
        assert (pixels[..., 0] == wanted).all() and ("first page" in notes) == (len(frames) > 1)


def test_a_cut_gif_mask_is_damaged():
    data = gif([INSIDE], [0, 255])
    # The end mark is no pixel.
    for end in range(1, len(data) - 3):
        with pytest.raises(DamagedInput, match="x .*(cannot be decoded|cut short|no known format)"):
            images.read_mask(data[:end], "x")


def test_a_gif_mask_of_an_absurd_size_is_damaged():
    data = bytearray(gif([INSIDE], [0, 255]))
    data[6:10] = b"\xff" * 4
    with pytest.raises(DamagedInput, match="x is 65535x65535 pixels"):
        images.read_mask(bytes(data), "x")


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


@pytest.mark.parametrize("white", [255, 65535])
def test_the_inside_of_a_mask_is_white_in_its_own_depth(white):
    values = INSIDE.astype(np.uint16 if white > 255 else np.uint8)
    data = cv2.imencode(".png", values * values.dtype.type(white))[1].tobytes()
    assert (images.read_mask(data, "x") == (INSIDE == 1)).all()
    with pytest.raises(DamagedInput, match=f"x holds values up to 1, but a mask's inside is {white}"):
        images.read_mask(cv2.imencode(".png", values)[1].tobytes(), "x")
    assert not images.read_mask(cv2.imencode(".png", values * 0)[1].tobytes(), "x").any()


def test_a_dicom_file_is_no_mask():
    with pytest.raises(DamagedInput, match="a DICOM file in the place of a mask"):
        images.read_mask(bytes(128) + b"DICM" + bytes(100), "x")
