"""One DICOM file: decoding against the pixels that went in, grey levels against the standard's formulae."""

import io
from concurrent.futures import ThreadPoolExecutor

import cv2
import dicom_files
import numpy as np
import pytest
from dicom_files import compressed, plain, radiograph, to_bytes
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.sequence import Sequence

from tfds_builders.common import decoding, dicom
from tfds_builders.common.damage import DamagedInput

ROWS, COLUMNS = np.mgrid[:64, :48]
EIGHT = ((ROWS * 3 + COLUMNS) % 256).astype(np.uint8)
TWELVE = ((ROWS * 50 + COLUMNS * 10) % 4096).astype(np.uint16)
SIGNED = (ROWS * 50 - COLUMNS * 60 - 500).astype(np.int16)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_files.compressed, "folder", tmp_path, raising=False)


def shown(data: bytes, name: str) -> np.ndarray:
    return dicom.show(data, name)[0]


def stored(data: bytes) -> np.ndarray:
    return dicom.stored_values(dicom.parse(io.BytesIO(data), "x"), "x")


@pytest.mark.parametrize("pixels", [EIGHT, TWELVE, SIGNED], ids=["8 bit", "12 bit", "signed"])
@pytest.mark.parametrize(
    "syntax",
    ["ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian", "RLELossless",
     "JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"],
)  # fmt: skip
def test_transfer_syntaxes_are_lossless(pixels, syntax):
    bits = 12 if pixels is TWELVE else 16
    assert (stored(compressed(to_bytes(plain(pixels, bits)), syntax)) == pixels).all()


def test_baseline_jpeg_of_eight_bits_keeps_its_values():
    """The format of RSNA: no rescaling, no window."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), (0, 0), 2)
    data = compressed(to_bytes(radiograph(noise, 8)), "JPEGBaselineProcess1")
    stream = b"".join(generate_fragments(dicom.parse(io.BytesIO(data), "x").PixelData))
    other = cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_UNCHANGED)
    image = shown(data, "x")
    assert image.dtype == np.uint8 and image.shape == (64, 64)
    # Two decoders may round differently.
    assert abs(image.astype(int) - other).max() <= 1


def test_bits_above_those_stored_are_dropped():
    dirty = TWELVE | np.uint16(0xA000)
    assert (stored(to_bytes(plain(dirty, 12))) == TWELVE).all()
    assert (stored(to_bytes(plain(TWELVE << 4, 12, HighBit=15))) == TWELVE).all()
    narrow = (SIGNED.astype(int) % 4096).astype(np.int16)
    expected = np.where(SIGNED % 4096 > 2047, SIGNED % 4096 - 4096, SIGNED % 4096)
    assert (stored(to_bytes(plain(narrow, 12))) == expected).all()


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (np.clip(values, low, high) - low) / (high - low) * 255


def near(image: np.ndarray, expected: np.ndarray) -> bool:
    return abs(image - expected).max() <= 0.5 + 1e-6


def test_deep_image_without_window_is_stretched_over_what_it_uses():
    image = shown(to_bytes(radiograph(TWELVE + 100, 16)), "x")
    assert near(image, stretched(TWELVE, TWELVE.min(), TWELVE.max()))


def test_monochrome1_is_inverted_and_padding_is_black():
    pixels = TWELVE + np.uint16(10)
    pixels[:5] = 60000
    for kind in ("MONOCHROME1", "MONOCHROME2"):
        image = shown(to_bytes(radiograph(pixels, 16, PhotometricInterpretation=kind, PixelPaddingValue=60000)), "x")
        expected = stretched(pixels[5:].astype(float), pixels[5:].min(), pixels[5:].max())
        assert (image[:5] == 0).all()
        assert near(image[5:], 255 - expected if kind == "MONOCHROME1" else expected)


def test_padding_range_and_signed_padding_written_as_unsigned():
    pixels = SIGNED.copy()
    pixels[0], pixels[1] = -2000 - 10000, -2005 - 10000
    dataset = plain(pixels, PixelPaddingValue=65536 - 12000)
    dataset.PixelPaddingRangeLimit = 65536 - 12005
    assert (dicom.padding_mask(pixels, dataset) == (pixels <= -12000)).all()


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_first_window_after_rescaling(function):
    """The formulae of PS3.3 C.11.2.1.2 and C.11.2.1.3, pixel by pixel."""
    centre, width = 300.0, 900.0
    data = radiograph(TWELVE, 12, RescaleSlope=0.5, RescaleIntercept=-200, WindowCenter=[centre, 1], WindowWidth=[
        width, 2], VOILUTFunction=function)  # fmt: skip
    values = TWELVE * 0.5 - 200
    if function == "SIGMOID":
        expected = 255 / (1 + np.exp(-4 * (values - centre) / width))
    elif function == "LINEAR_EXACT":
        expected = ((values - centre) / width + 0.5) * 255
    else:
        expected = ((values - (centre - 0.5)) / (width - 1) + 0.5) * 255
    assert near(shown(to_bytes(data), "x"), np.clip(expected, 0, 255))


@pytest.mark.parametrize(("centre", "width"), [(300, 0), (300, -5), (9e6, 100)])
def test_windows_that_are_not_meant_are_passed_over(centre, width):
    data = to_bytes(radiograph(TWELVE, 12, WindowCenter=centre, WindowWidth=width))
    assert near(shown(data, "x"), stretched(TWELVE, TWELVE.min(), TWELVE.max()))


def lookup(first: int, entries: np.ndarray) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, 16])
    item.add_new("LUTData", "US", entries.tolist())
    item.ModalityLUTType = "US"
    return Sequence([item])


def test_lookup_tables():
    table = (np.arange(4096) ** 1.5 / 4096**1.5 * 65535).astype(np.uint16)
    image = shown(to_bytes(radiograph(TWELVE, 12, VOILUTSequence=lookup(0, table), WindowCenter=1,
                                                 WindowWidth=5)), "x")  # fmt: skip
    assert near(image, table[TWELVE] / table.max() * 255)
    modality = shown(to_bytes(radiograph(TWELVE, 12, ModalityLUTSequence=lookup(0, table))), "x")
    values = table[TWELVE].astype(float)
    assert near(modality, stretched(values, values.min(), values.max()))


def test_constant_and_all_padding_images_are_read():
    flat = np.full((20, 20), 7, np.uint16)
    assert len(np.unique(shown(to_bytes(radiograph(flat)), "x"))) == 1
    assert not shown(to_bytes(radiograph(flat, PixelPaddingValue=7)), "x").any()


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (dict(NumberOfFrames=3), "multi-frame file of 3 frames"),
        (dict(PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR, not MONOCHROME"),
        (dict(PresentationIntentType="FOR PROCESSING"), "raw detector values"),
        (dict(Rows=65), "cannot be read as DICOM"),
        (dict(BitsStored=None), "cannot be read as DICOM"),
        (dict(Rows=None), "cannot be read as DICOM"),
    ],
)
def test_what_is_no_radiograph(elements, message):
    with pytest.raises(DamagedInput, match=f"a.dcm.*{message}"):
        shown(to_bytes(radiograph(TWELVE, 12, **elements)), "a.dcm")


def test_image_without_pixels():
    dataset = radiograph(TWELVE, 12)
    del dataset.PixelData
    with pytest.raises(DamagedInput, match="no whole PixelData"):
        shown(to_bytes(dataset), "a.dcm")


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 500])
def test_other_files(data):
    with pytest.raises(DamagedInput, match="a.dcm is empty or no DICOM file"):
        shown(data, "a.dcm")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", ["ExplicitVRLittleEndian", "JPEGBaselineProcess1", "JPEGLosslessProcess14_1",
                                    "JPEGLSLossless", "JPEG2000Lossless", "RLELossless"])  # fmt: skip
def test_cut_files_are_noticed(syntax):
    data = compressed(to_bytes(radiograph(EIGHT, 8)), syntax)
    for length in (133, 200, 400, len(data) // 2, int(len(data) * 0.9), len(data) - 20):
        with pytest.raises(DamagedInput, match="a.dcm"):
            shown(data[:length], "a.dcm")


def test_cut_stream_in_a_whole_file_is_noticed():
    data = compressed(to_bytes(radiograph(EIGHT, 8)), "JPEGBaselineProcess1")
    dataset = dicom.parse(io.BytesIO(data), "x")
    stream = b"".join(generate_fragments(dataset.PixelData))
    dataset.PixelData = encapsulate([stream[: len(stream) // 2]])
    with pytest.raises(DamagedInput, match="no end mark"):
        shown(to_bytes(dataset), "a.dcm")


# Bytes of a stream at which GDCM ends its process: precisions.
DEADLY = {
    "JPEGLosslessProcess14_1": (b"\xff\xd8", 6, 60),
    "JPEGLSLossless": (b"\xff\xd8", 6, 60),
    "JPEG2000Lossless": (b"\xff\x4f\xff\x51", 42, 214),
}


def deadly(syntax: str) -> tuple[bytes, bytes]:
    """A compressed file, and with a byte of its stream changed."""
    start, place, value = DEADLY[syntax]
    whole = compressed(to_bytes(radiograph(EIGHT, 8)), syntax)
    data = bytearray(whole)
    data[whole.index(start) + place] = value
    return whole, bytes(data)


@pytest.mark.parametrize("syntax", DEADLY)
def test_what_kills_the_decoder_is_damage_and_the_next_file_is_read(syntax):
    whole, data = deadly(syntax)
    expected = shown(whole, "b.dcm")
    with pytest.raises(DamagedInput, match="a.dcm cannot be read as DICOM .the decoder ends"):
        shown(data, "a.dcm")
    assert (shown(whole, "b.dcm") == expected).all()


def test_a_file_is_not_blamed_for_a_decoder_that_was_dying():
    whole, _ = deadly("JPEGLosslessProcess14_1")
    expected = shown(whole, "a.dcm")
    for decoder in decoding._idle:
        decoder._process.kill()
        decoder._process.wait()
    assert (shown(whole, "a.dcm") == expected).all()


@pytest.mark.filterwarnings("ignore")
def test_threads_get_their_own_pixels():
    files = []
    for number in range(12):
        pixels = np.roll(EIGHT, number, axis=0)
        files.append((compressed(to_bytes(radiograph(pixels, 8)), "JPEGLSLossless"), pixels))
    files[5] = (deadly("JPEGLSLossless")[1], None)

    def read(item):
        try:
            return shown(item[0], "x")
        except DamagedInput:
            return None

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read, files))
    assert found[5] is None
    assert all((grey == pixels).all() for grey, (_, pixels) in zip(found, files, strict=True) if pixels is not None)


@pytest.mark.filterwarnings("ignore")
def test_random_damage_gives_an_image_or_a_reason():
    random = np.random.default_rng(0)
    whole = to_bytes(radiograph(TWELVE[:16, :16], 12, WindowCenter=300, WindowWidth=200))
    for _ in range(300):
        data = bytearray(whole)
        for place in random.integers(0, len(data) - 520, 4):
            data[place] = random.integers(256)
        try:
            assert shown(bytes(data), "x").dtype == np.uint8
        except DamagedInput:
            pass


FEW = np.linspace(0, 4095, 32 * 32).round().astype(np.uint16).reshape(32, 32)


@pytest.mark.parametrize("levels", [1, 3, 6, 8])
def test_few_bits_go_from_black_to_white(levels):
    values = (FEW >> (12 - levels)).astype(np.uint8)
    assert near(shown(to_bytes(radiograph(values, levels)), "x"), values * (255 / (2**levels - 1)))


def test_transformations_in_the_functional_groups_of_one_frame():
    """Those of the frame come before those of all frames."""
    own, shared, values, window = Dataset(), Dataset(), Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept = -1, 4095
    window.WindowCenter, window.WindowWidth = 2048, 4096
    wrong = Dataset()
    wrong.WindowCenter, wrong.WindowWidth = 5, 3
    shared.PixelValueTransformationSequence = Sequence([values])
    shared.FrameVOILUTSequence, own.FrameVOILUTSequence = Sequence([wrong]), Sequence([window])
    groups = dict(SharedFunctionalGroupsSequence=Sequence([shared]), PerFrameFunctionalGroupsSequence=Sequence([own]))
    image = shown(to_bytes(radiograph(FEW, 12, NumberOfFrames=1, **groups)), "x")
    assert near(image, stretched(4095.0 - FEW, 0, 4095))
    table = (np.arange(4096) ** 2 // 4095).astype(np.uint16)
    own.FrameVOILUTSequence[0].VOILUTSequence = lookup(0, table)
    image = shown(to_bytes(radiograph(FEW, 12, NumberOfFrames=1, **groups)), "x")
    assert near(image, table[4095 - FEW] * (255 / 4095))


def test_a_slope_or_an_intercept_alone_counts_and_a_slope_of_0_does_not():
    window = dict(WindowCenter=1000, WindowWidth=2000)
    alone = shown(to_bytes(radiograph(FEW, 12, RescaleIntercept=-1024, **window)), "x")
    assert near(alone, stretched(FEW - 1024.0, 0, 1999))
    alone = shown(to_bytes(radiograph(FEW, 12, RescaleSlope=2, **window)), "x")
    assert near(alone, stretched(FEW * 2.0, 0, 1999))
    image, notes = dicom.show(to_bytes(radiograph(FEW, 12, RescaleSlope=0, RescaleIntercept=0)), "x")
    assert near(image, stretched(FEW, 0, 4095)) and notes == ["slope 0 passed over"]


def test_a_window_of_width_1_is_a_threshold():
    image = shown(to_bytes(radiograph(FEW, 12, WindowCenter=1000, WindowWidth=1)), "x")
    assert (image == np.where(FEW > 999.5, 255, 0)).all()


def test_the_greatest_entry_of_a_voi_lut_is_white_whatever_its_descriptor_says():
    curve = (np.linspace(0, 1, 4096) ** 2 * 4095).astype(np.uint16)
    for colour in ("MONOCHROME1", "MONOCHROME2"):
        dataset = radiograph(FEW, 12, PhotometricInterpretation=colour, VOILUTSequence=lookup(0, curve))
        image = shown(to_bytes(dataset), "x")
        expected = curve[FEW] * (255 / 4095)
        assert near(image, 255 - expected if colour == "MONOCHROME1" else expected)


@pytest.mark.parametrize("kind", ["VOILUTSequence", "ModalityLUTSequence"])
def test_the_first_value_of_a_look_up_table_may_be_of_the_wrong_sign(kind):
    curve = (np.linspace(0, 1, 4096) ** 2 * 4095).astype(np.uint16)
    image = shown(to_bytes(radiograph(FEW.astype(np.int16) - 2048, 12, **{kind: lookup(63488, curve)})), "x")
    assert near(image, curve[FEW] * (255 / 4095))
    high = lookup(0, curve)
    high[0]["LUTDescriptor"].VR = "SS"
    high[0].LUTDescriptor = [4096, -25536, 16]
    assert near(shown(to_bytes(radiograph(FEW + np.uint16(40000), 16, **{kind: high})), "x"), curve[FEW] * (255 / 4095))


def test_a_look_up_table_of_bytes():
    entries = np.arange(255, -1, -1).astype(np.uint8)
    values = (FEW // 16).astype(np.uint8)
    for data, vr in ((entries.tobytes(), "OW"), (entries.view("<u2").tolist(), "US")):
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [256, 0, 8])
        item.add_new("LUTData", vr, data)
        assert (shown(to_bytes(radiograph(values, 8, VOILUTSequence=Sequence([item]))), "x") == 255 - values).all()
    item.LUTDescriptor = [300, 0, 8]
    with pytest.raises(DamagedInput, match="look-up table has 256 bytes for 300 entries"):
        shown(to_bytes(radiograph(values, 8, VOILUTSequence=Sequence([item]))), "x")


def test_one_hot_pixel_does_not_crush_an_image_without_window():
    values = FEW // 8 + 100
    values[5, 5] = 60000
    image, notes = dicom.show(to_bytes(radiograph(values, 16)), "x")
    assert notes == ["outliers"] and near(image, stretched(values, 100, 611))


def test_floating_point_values_are_refused_by_name():
    dataset = radiograph(FEW, 12)
    del dataset.PixelData
    dataset.FloatPixelData = FEW.astype("<f4").tobytes()
    with pytest.raises(DamagedInput, match="a.dcm is a DICOM file of floating point values"):
        shown(to_bytes(dataset), "a.dcm")


def test_a_jpeg_stream_that_has_lost_bytes_is_noticed():
    data = compressed(to_bytes(radiograph(EIGHT, 8)), "JPEGBaselineProcess1")
    dataset = dicom.parse(io.BytesIO(data), "x")
    stream = b"".join(generate_fragments(dataset.PixelData))
    dataset.PixelData = encapsulate([stream[: len(stream) // 2] + stream[-40:]])
    with pytest.raises(DamagedInput, match="a.dcm .*premature end"):
        shown(to_bytes(dataset), "a.dcm")
