"""MetaImage volumes against SimpleITK, which writes them; and files that are not as they should be."""

import zipfile

import numpy as np
import pytest
import SimpleITK

from tfds_builders.common import geometry
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.locations import Location
from tfds_builders.common.metaimage import read_metaimage

HU = np.random.default_rng(0).integers(-3000, 2000, (5, 6, 7)).astype(np.int16)


def written(path, voxels=HU, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), compress=False):
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((0.6, 0.7, 2.5))
    image.SetOrigin((-100, -50.5, 30))
    image.SetDirection([float(value) for value in direction])
    SimpleITK.WriteImage(image, str(path), useCompression=compress)
    return image


@pytest.mark.parametrize("suffix", ["mhd", "mha"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "direction",
    [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1)],
    ids=["plain", "flipped", "turned"],
)
def test_against_simpleitk(tmp_path, suffix, compress, direction):
    path = tmp_path / f"1.2.3.{suffix}"
    image = written(path, direction=direction, compress=compress)
    series = read_metaimage(Location(path))
    assert series.voxels.dtype == np.int16 and (series.voxels == np.maximum(HU, -1024)).all()
    assert np.allclose(series.spacing, (2.5, 0.7, 0.6)) and series.series_uid == "1.2.3"
    world = geometry.to_world((1, 2, 4), series.origin, series.spacing, series.direction)
    assert np.allclose(world, image.TransformIndexToPhysicalPoint((4, 2, 1)))
    turned = series.oriented()
    place = np.rint(geometry.to_voxel(world, turned.origin, turned.spacing, turned.direction)).astype(int)
    assert turned.voxels[tuple(place)] == series.voxels[1, 2, 4]
    assert all(row[abs(row).argmax()] > 0 for row in turned.direction)


@pytest.mark.parametrize("offset", ["Offset", "Position", "Origin"])
@pytest.mark.parametrize("matrix", ["TransformMatrix", "Orientation", "Rotation"])
def test_synonyms_mean_what_they_mean_to_simpleitk(tmp_path, offset, matrix):
    path = tmp_path / "a.mhd"
    written(path, direction=(0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1))
    text = path.read_text()
    path.write_text(text.replace("Offset", offset).replace("TransformMatrix", matrix))
    series, image = read_metaimage(Location(path)), SimpleITK.ReadImage(str(path))
    world = geometry.to_world((1, 2, 4), series.origin, series.spacing, series.direction)
    assert np.allclose(world, image.TransformIndexToPhysicalPoint((4, 2, 1)))


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "float32", "float64"])
def test_other_types(tmp_path, kind):
    values = np.array([0, 1, 200]) if kind == "uint8" else np.array([0.4, 5.0, 40000.0])
    voxels = np.broadcast_to(values, (2, 2, 3)).astype(kind)
    written(tmp_path / "a.mhd", voxels)
    assert (read_metaimage(Location(tmp_path / "a.mhd")).voxels == np.rint(values).clip(max=32767)).all()


@pytest.mark.parametrize("suffix", ["mhd", "mha"])
@pytest.mark.parametrize("word", ["True", "true", "TRUE", "t", "1"])
def test_words_for_true_are_those_of_simpleitk(tmp_path, suffix, word):
    written(tmp_path / f"a.{suffix}", compress=True)
    data = (tmp_path / f"a.{suffix}").read_bytes()
    changed = data.replace(b"CompressedData = True", f"CompressedData = {word}".encode())
    (tmp_path / f"a.{suffix}").write_bytes(changed)
    series, image = (
        read_metaimage(Location(tmp_path / f"a.{suffix}")),
        SimpleITK.ReadImage(str(tmp_path / f"a.{suffix}")),
    )
    assert (series.voxels == np.maximum(SimpleITK.GetArrayFromImage(image), -1024)).all()


@pytest.mark.parametrize("key", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
@pytest.mark.parametrize("word", ["True", "true", "1", "False", "false", "0"])
def test_byte_order_is_that_of_simpleitk(tmp_path, key, word):
    written(tmp_path / "a.mhd")
    text = (tmp_path / "a.mhd").read_text()
    (tmp_path / "a.mhd").write_text(text.replace("BinaryDataByteOrderMSB = False", f"{key} = {word}"))
    series, image = read_metaimage(Location(tmp_path / "a.mhd")), SimpleITK.ReadImage(str(tmp_path / "a.mhd"))
    assert (series.voxels == np.maximum(SimpleITK.GetArrayFromImage(image), -1024)).all()


@pytest.mark.parametrize("word", ["LOCAL", "Local", "local"])
def test_voxels_behind_the_header(tmp_path, word):
    written(tmp_path / "a.mha")
    data = (tmp_path / "a.mha").read_bytes().replace(b"ElementDataFile = LOCAL", f"ElementDataFile = {word}".encode())
    (tmp_path / "a.mha").write_bytes(data)
    image = SimpleITK.ReadImage(str(tmp_path / "a.mha"))
    voxels = read_metaimage(Location(tmp_path / "a.mha")).voxels
    assert (voxels == np.maximum(SimpleITK.GetArrayFromImage(image), -1024)).all()


def test_in_a_zip_file(tmp_path):
    written(tmp_path / "a.mhd")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.mhd", "a.raw"):
            archive.write(tmp_path / name, f"subset0/{name}")
    series = read_metaimage(Location(tmp_path / "a.zip", "subset0/a.mhd"))
    assert (series.voxels == np.maximum(HU, -1024)).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ElementDataFile = a.raw", "", "no ElementDataFile"),
        ("ElementDataFile = a.raw", "ElementDataFile = ../a.raw", "is not beside it"),
        ("ElementDataFile = a.raw", "ElementDataFile = b.raw", "b.raw cannot be opened"),
        ("DimSize = 7 6 5", "DimSize = 7 6", "DimSize is '7 6': 3 numbers are wanted"),
        ("DimSize = 7 6 5", "DimSize = 7 6 6", "420 bytes of voxels, 504 are wanted"),
        ("DimSize = 7 6 5", "DimSize = 7 6 -5", "is impossible"),
        ("NDims = 3", "NDims = 2", "NDims is '2'"),
        ("MET_SHORT", "MET_LONG", "ElementType is 'MET_LONG'"),
        ("ElementSpacing = 0.59", "ElementSpacing = nan 0.59", "ElementSpacing is"),
        ("TransformMatrix = 1 0 0", "TransformMatrix = 1 1 0", "is impossible"),
        ("CompressedData = False", "CompressedData = True", "compressed voxels are damaged"),
        ("CompressedData = False", "CompressedData = yes", "CompressedData is 'yes', neither True nor False"),
        ("BinaryDataByteOrderMSB = False", "BinaryDataByteOrderMSB =", "MSB is '', neither True nor False"),
        ("BinaryData = True", "BinaryData = false", "only binary voxels are read"),
        ("ElementDataFile = a.raw", "ElementDataFile = LIST", "names several files"),
        ("NDims = 3", "NDims = 3\nModality = MET_MOD_MR", "Modality is 'MET_MOD_MR'"),
        ("NDims = 3", "NDims = 3\nElementToIntensityFunctionSlope = 2", "Slope is '2', but only 1"),
    ],
)
def test_damage(tmp_path, old, new, message):
    written(tmp_path / "a.mhd")
    text = (tmp_path / "a.mhd").read_text()
    assert old in text
    (tmp_path / "a.mhd").write_text(text.replace(old, new))
    with pytest.raises(DamagedInput, match=message):
        read_metaimage(Location(tmp_path / "a.mhd"))


def test_no_header_and_values_that_are_not_finite(tmp_path):
    (tmp_path / "a.mhd").write_bytes(b"\xff" * 10**6)
    with pytest.raises(DamagedInput, match="no MetaImage header"):
        read_metaimage(Location(tmp_path / "a.mhd"))
    written(tmp_path / "b.mhd", np.full((2, 2, 2), np.nan, np.float32))
    with pytest.raises(DamagedInput, match="not finite"):
        read_metaimage(Location(tmp_path / "b.mhd"))
