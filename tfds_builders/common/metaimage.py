"""MetaImage volumes (.mhd with .raw or .zraw, .mha), read where they lie, in a folder or in a zip file."""

import io
import zlib
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float, Int16

from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.locations import Files, Location
from tfds_builders.common.series import Series
from tfds_builders.common.slices import LOWEST_HU

SUFFIXES = (".mhd", ".mha")
LONGEST_HEADER = 1 << 16
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
LAST_KEY = "ElementDataFile"
LOCAL = ("LOCAL", "Local", "local")
SYNONYMS = {
    "Position": "Offset", "Origin": "Offset", "Orientation": "TransformMatrix", "Rotation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}  # fmt: skip


def read_metaimage(location: Location) -> Series:
    """The CT volume of a MetaImage file; its series UID is the file's name, as in LUNA16. Values are taken for HU.

    Raises DamagedInput, naming the file, if header or voxels are missing, cut short or of an unknown kind.
    """
    with Files() as files:
        data = files.read(location)
        header, rest = split_header(data, location)
        place = header[LAST_KEY]
        if place.startswith("LIST") or "%" in place:
            raise DamagedInput(f"{location}: {LAST_KEY} names several files ({place}): write the volume to one file")
        if place not in LOCAL:
            if place != PurePosixPath(place).name or "\\" in place:
                raise DamagedInput(
                    f"{location}: {LAST_KEY} names a file that is not beside it: put both into one folder"
                )
            rest = files.read(location.sibling(place))
    shape = tuple(int(n) for n in numbers(header, "DimSize", 3, location)[::-1])
    spacing = numbers(header, "ElementSpacing", 3, location)[::-1]
    origin = numbers(header, "Offset", 3, location, default="0 0 0")
    # A row of the matrix is the world's direction of one axis, x first.
    direction = numbers(header, "TransformMatrix", 9, location, default="1 0 0 0 1 0 0 0 1").reshape(3, 3)[::-1]
    if min(shape) < 1 or min(spacing) <= 0 or not np.allclose(direction @ direction.T, np.eye(3), atol=1e-3):
        raise DamagedInput(f"{location}: DimSize, ElementSpacing or TransformMatrix is impossible: replace it")
    return Series(
        voxels=to_hounsfield(header, rest, shape, location),
        spacing=tuple(spacing.tolist()),
        positions=float(origin @ direction[0]) + spacing[0] * np.arange(shape[0]),
        origin=tuple(origin.tolist()),
        direction=direction,
        sop_uids=(),
        series_uid=location.name.stem,
        patient_id="",
    )


def split_header(data: bytearray, location: Location) -> tuple[dict[str, str], bytes]:
    """Keys of the text header, of which ElementDataFile is the last, and the bytes after it."""
    header, file = {}, io.BytesIO(data)
    while LAST_KEY not in header:
        line = file.readline()
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals or file.tell() > LONGEST_HEADER:
            raise DamagedInput(f"{location} is no MetaImage header (no {LAST_KEY}): replace it")
        key = key.strip()
        header[SYNONYMS.get(key, key)] = value.strip()
    check_kind(header, location)
    return header, file.read()


def check_kind(header: dict[str, str], location: Location) -> None:
    """Raises DamagedInput for a kind of MetaImage file that is not read."""
    known = {
        "NDims": ("3",),
        "ElementType": tuple(TYPES),
        "ElementNumberOfChannels": ("1", None),
        "HeaderSize": ("0", None),
        "Modality": ("MET_MOD_CT", "MET_MOD_OTHER", "MET_MOD_UNKNOWN", None),
        "ElementToIntensityFunctionSlope": ("1", "1.0", None),
        "ElementToIntensityFunctionOffset": ("0", "0.0", None),
    }
    if not is_true(header, "BinaryData", location, default="True"):
        raise DamagedInput(f"{location}: BinaryData is {header['BinaryData']!r}, but only binary voxels are read")
    for key, values in known.items():
        if header.get(key) not in values:
            shown = ", ".join(filter(None, values))
            raise DamagedInput(f"{location}: {key} is {header.get(key)!r}, but only {shown} is read")


def is_true(header: dict[str, str], key: str, location: Location, default: str = "False") -> bool:
    """Whether a key says true; readers of the format go by the first character: T, t or 1, and F, f or 0."""
    start = header.get(key, default)[:1].upper()
    if not start or start not in "T1F0":
        raise DamagedInput(f"{location}: {key} is {header[key]!r}, neither True nor False")
    return start in "T1"


def numbers(
    header: dict[str, str], key: str, count: int, location: Location, default: str = ""
) -> Float[np.ndarray, "count"]:
    try:
        values = np.array([float(text) for text in header.get(key, default).split()])
    except ValueError:
        values = np.array([])
    if values.shape != (count,) or not np.isfinite(values).all():
        raise DamagedInput(f"{location}: {key} is {header.get(key)!r}: {count} numbers are wanted")
    return values


def to_hounsfield(
    header: dict[str, str], data: bytearray | bytes, shape: tuple[int, ...], location: Location
) -> Int16[np.ndarray, "depth height width"]:
    if is_true(header, "CompressedData", location):
        try:
            data = zlib.decompress(data)
        except zlib.error as error:
            raise DamagedInput(f"{location}: the compressed voxels are damaged ({error}): replace the file") from error
    big = is_true(header, "BinaryDataByteOrderMSB", location)
    kind = np.dtype((">" if big else "<") + TYPES[header["ElementType"]])
    if len(data) != np.prod(shape) * kind.itemsize:
        raise DamagedInput(f"{location}: {len(data)} bytes of voxels, {np.prod(shape) * kind.itemsize} are wanted: "
                           "the file is cut short or belongs to another header")  # fmt: skip
    voxels = np.frombuffer(data, kind).reshape(shape)
    if kind.kind == "f" and not np.isfinite(voxels).all():
        raise DamagedInput(f"{location}: some voxels are not finite: replace the file")
    if kind == np.int16:
        # In place where the bytes allow it: a scan of 600 slices has 315 MB.
        return np.maximum(voxels, LOWEST_HU, out=voxels if voxels.flags.writeable else None)
    return np.clip(np.rint(voxels.astype(np.float64)), LOWEST_HU, np.iinfo(np.int16).max).astype(np.int16)
