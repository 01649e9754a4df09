"""The commands `predict` and `embed` on a user's own files, and what a file says of its input."""

import csv
import dataclasses
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import SimpleITK
import tiny
from short_runs import config, stage
from small_classifiers import NAMES, VIEWS, make, make_volumes
from tiny import tiny_in_the_table  # noqa: F401

import tfds_builders
from aiseeme_jax import augment, data, weights
from aiseeme_jax.__main__ import main as run_command
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate.features import extract
from aiseeme_jax.jobs import curriculum, embed, own_images, predict
from aiseeme_jax.weights.preprocessing import describe
from configs import base
from tfds_builders.common.storage import ImageStorage, VolumeStorage

# Their names are those of modules there.
sys.path.insert(0, str(Path(__file__).parents[1] / "tfds_builders"))
import dicom_files  # noqa: E402
import own_table  # noqa: E402

pytestmark = pytest.mark.usefixtures("tiny_in_the_table")

STORED = ImageStorage(64, 3)
CUBES = VolumeStorage(tiny.SIZE, 1.5)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The pictures of a phantom as files, with a table, and image_table prepared of them: padded to 64, and 224."""
    folder, made = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("data")
    table = own_table.OwnTable(folder)
    for number in range(6):
        rows = {"label": NAMES[number % 2], "split": ("train", "validation", "test")[number // 2]}
        table.add(f"visit {number % 2}/ü {number}.png", own_table.picture(number, height=90, width=120), **rows)
    table.add("grey, one.png", own_table.picture(9, grey=True, height=70, width=70), label=NAMES[0], split="test")
    table.write()
    for size in ("64_pad", "224"):
        tfds_builders.prepare(f"image_table/{size}", data_dir=made, manual_dir=folder)
    return folder, made


def save(path, classifier):
    weights.save_classifier(path, classifier)
    return str(path)


def call(command, *arguments):
    """The exit code of a command."""
    try:
        command.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code
    return 0


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def probabilities(rows, kind="probability"):
    return np.array([[row[f"{kind} of {name}"] for name in NAMES] for row in rows], np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["64_pad", "224"])
def test_files_and_the_prepared_set_give_the_same_numbers(size, prepared, tmp_path):
    """At 224 pixels the data set stores JPEG."""
    folder, made = prepared
    splits = [data.open_split(f"image_table/{size}", part, made) for part in ("train", "validation", "test")]
    stored = splits[0].storage
    assert stored == (ImageStorage(64, 3, fit="pad") if size == "64_pad" else ImageStorage(224, 3, lossless=False))
    model = save(tmp_path / "classifier.safetensors", dataclasses.replace(make(), stored=stored))
    out = tmp_path / "predictions.csv"
    assert call(predict, model, "--images", folder, "--out", out) == 0
    rows = read(out)
    assert len(rows) == 7 and "grey, one.png" in {row["path"] for row in rows}
    assert read(tmp_path / "predictions.unreadable.csv") == []
    by_id = {name: image for split in splits for name, image in zip(split.ids.tolist(), split.images(), strict=True)}
    pixels = np.stack([by_id[row["path"]] for row in rows])
    for kind, calibrated in (("probability", True), ("uncalibrated probability", False)):
        expected = weights.load_classifier(model).predict(pixels, calibrated=calibrated)
        np.testing.assert_array_equal(probabilities(rows, kind), expected)
    assert [row["class"] for row in rows] == [NAMES[k] for k in probabilities(rows).argmax(axis=1)]
    # Features, of a backbone alone.
    body = make().network.backbone
    info = {"preprocessing": describe(VIEWS, 3, stored)}
    weights.export_backbone(body, tmp_path / "backbone.safetensors", info=info)
    out = tmp_path / "features.npz"
    assert call(embed, tmp_path / "backbone.safetensors", "--images", folder / "images.csv", "--out", out) == 0
    with np.load(out) as found:
        names, features = found["paths"].tolist(), found["features"]
    split = data.from_arrays(np.stack([by_id[name] for name in names]))
    assert len(names) == 7
    np.testing.assert_array_equal(features, extract(body, split, views=VIEWS, batch_size=64))


def test_the_set_with_a_size_behind_its_name(prepared):
    folder, made = prepared
    split = data.open_split("image_table/224@32", "test", made)
    assert split.storage == ImageStorage(224, 3, False, 32)
    files = [(folder / name).read_bytes() for name in split.ids.tolist()]
    np.testing.assert_array_equal([split.storage.read(file, "one") for file in files], split.images())


def test_what_cannot_be_read_is_listed_and_the_exit_code_says_so(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "images"
    (folder / "a" / "b c").mkdir(parents=True)
    whole = own_table.picture(0)
    (folder / "a" / "b c" / 'x,"y".PNG').write_bytes(whole)
    (folder / "cut.png").write_bytes(whole[:-60])
    (folder / "empty").write_bytes(b"")
    (folder / "notes.txt").write_text("none")
    dicom_files.radiograph(np.arange(400, dtype=np.uint16).reshape(20, 20)).save_as(folder / "without_ending")
    model = save(tmp_path / "m.safetensors", dataclasses.replace(make(), stored=STORED))
    out = tmp_path / "found" / "p.csv"
    monkeypatch.setattr(sys, "argv", ["aiseeme_jax", "predict", model, "--images", str(folder), "--out", str(out)])
    with pytest.raises(SystemExit) as end:
        run_command()
    assert end.value.code == own_images.SOME_UNREADABLE == 3
    assert [row["path"] for row in read(out)] == ["without_ending", 'a/b c/x,"y".PNG']
    unreadable = read(out.with_name("p.unreadable.csv"))
    assert [row["path"] for row in unreadable] == ["cut.png", "empty"] and all(row["reason"] for row in unreadable)
    told = capsys.readouterr()
    assert "1 files are no images by their names: .txt (1)" in told.out and "2 could not be read" in told.err


def test_a_table_names_images_and_what_is_missing_is_listed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "1.png").write_bytes(own_table.picture(1))
    (tmp_path / "t.csv").write_text(f"age;path\n61;sub/1.png\n5;sub\\1.png\n7;no.png\n8;{tmp_path / 'sub' / '1.png'}\n")
    listing = own_images.list_images(tmp_path / "t.csv", volumes=False)
    assert [image.name for image in listing.images] == ["sub/1.png", "sub\\1.png", str(tmp_path / "sub" / "1.png")]
    assert listing.unreadable == [own_images.Unreadable("no.png", "there is no such file")]


@pytest.mark.slow
def test_an_ensemble_is_the_mean_and_views_are_averaged(tmp_path):
    (tmp_path / "i").mkdir()
    for number in range(3):
        (tmp_path / "i" / f"{number}.png").write_bytes(own_table.picture(number))
    one = dataclasses.replace(make(), stored=STORED)
    other = dataclasses.replace(make(tiny.backbone(3)), stored=ImageStorage(32, 3), temperature=0.5)
    models = [save(tmp_path / f"{n}.safetensors", each) for n, each in enumerate((one, other))]
    out = tmp_path / "p.csv"
    assert call(predict, *models, "--images", tmp_path / "i", "--out", out, "--tta", "flip", "--batch", "2") == 0
    files = [(tmp_path / "i" / f"{number}.png").read_bytes() for number in range(3)]
    each = []
    for classifier in (one, other):
        pixels = jnp.asarray(np.stack([classifier.stored.read(file, "one") for file in files]))
        logits = [classifier.network(v, train=False)[0] for v in augment.evaluation_views(pixels, VIEWS, "flip")]
        scaled = [np.exp(np.asarray(z, np.float64) / classifier.temperature) for z in logits]
        each.append(np.mean([z / z.sum(axis=1, keepdims=True) for z in scaled], axis=0))
    np.testing.assert_allclose(probabilities(read(out)), np.mean(each, axis=0), atol=1e-5)
    strange = save(tmp_path / "s.safetensors", dataclasses.replace(one, class_names=("a", "b", "c")))
    with pytest.raises(UserError, match="models of an ensemble have the same classes"):
        predict.main([models[0], strange, "--images", str(tmp_path / "i"), "--out", str(out)])


def test_findings_are_those_from_one_half_on():
    classifier = dataclasses.replace(make(), kind="findings")
    assert predict.choose(classifier, np.array([0.7, 0.2, 0.5], np.float32)) == "MEL;läsion, andere"
    assert predict.choose(classifier, np.array([0.1, 0.2, 0.4], np.float32)) == ""


def write_volume(path, voxels, origin=(0.0, 0.0, 0.0)):
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((CUBES.spacing,) * 3)
    image.SetOrigin(origin)
    SimpleITK.WriteImage(image, str(path))


class TestVolumes:
    def test_cubes_and_places_in_a_scan(self, tmp_path):
        cubes = tiny.volumes(2)[..., 0]
        scan = np.full((30, 40, 50), -1000, np.int16)
        scan[5:21, 10:26, 20:36] = cubes[0]
        write_volume(tmp_path / "cube.mha", cubes[1])
        write_volume(tmp_path / "scan.mhd", scan, origin=(10.0, 20.0, 30.0))
        x, y, z = (start + 1.5 * (first + 7.5) for start, first in ((10, 20), (20, 10), (30, 5)))
        (tmp_path / "t.csv").write_text(f"path,x,y,z\ncube.mha,,,\nscan.mhd,{x},{y},{z}\nscan.mhd,,,\nscan.mhd,0,0,0\n")
        classifier = dataclasses.replace(make_volumes(), stored=CUBES)
        model = save(tmp_path / "c.safetensors", classifier)
        out = tmp_path / "p.csv"
        assert call(predict, model, "--images", tmp_path / "t.csv", "--out", out) == 3
        rows = read(out)
        assert [row["path"] for row in rows] == ["cube.mha", "scan.mhd"]
        np.testing.assert_array_equal(probabilities(rows), classifier.predict(cubes[::-1, ..., None]))
        reasons = [row["reason"] for row in read(tmp_path / "p.unreadable.csv")]
        assert "cubes of 24 mm: say where, in the columns x, y, z" in reasons[0] and "lies outside" in reasons[1]

    def test_a_series_of_dicom_files_in_a_folder(self, tmp_path):
        folder = tmp_path / "study" / "1"
        folder.mkdir(parents=True)
        cube = tiny.volumes(1)[0, ..., 0]
        for number, file in enumerate(dicom_files.ct_slices(cube, spacing=(1.5,) * 3)):
            file.save_as(folder / f"{number}")
        (tmp_path / "study" / "flat.png").write_bytes(own_table.picture(0))
        listing = own_images.list_images(tmp_path / "study", volumes=True)
        assert [image.name for image in listing.images] == [f"1/{dicom_files.SERIES}"]
        assert [one.name for one in listing.unreadable] == ["flat.png"] and "no volume" in listing.unreadable[0].reason
        ((_, (pixels,)),) = own_images.read_images(listing.images, [CUBES])
        np.testing.assert_array_equal(pixels[..., 0], cube)

    def test_flat_images_are_refused(self, tmp_path):
        (tmp_path / "i").mkdir()
        (tmp_path / "i" / "flat.png").write_bytes(own_table.picture(0))
        model = save(tmp_path / "c.safetensors", dataclasses.replace(make_volumes(), stored=CUBES))
        with pytest.raises(UserError, match="has no volumes .* which this model takes: its 1 other files are none"):
            predict.main([model, "--images", str(tmp_path / "i"), "--out", str(tmp_path / "p.csv")])
        old = save(tmp_path / "old.safetensors", make_volumes())
        with pytest.raises(UserError, match="--stored_size, and the mm between these with --spacing"):
            predict.main([old, "--images", str(tmp_path / "i"), "--out", str(tmp_path / "p.csv")])


def test_a_file_that_does_not_say_how_images_are_stored(tmp_path, capsys):
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "1.png").write_bytes(own_table.picture(1))
    model = save(tmp_path / "c.safetensors", make())
    out, where = tmp_path / "p.csv", ("--images", tmp_path / "i")
    assert call(predict, model, *where, "--out", out) == 0
    assert f"resized to {tiny.SIZE} x {tiny.SIZE}, the size of its views" in capsys.readouterr().err
    assert call(predict, model, *where, "--out", out, "--stored_size", "20") == 0
    pixels = ImageStorage(20, 3).read(own_table.picture(1), "one")
    np.testing.assert_array_equal(probabilities(read(out)), make().predict(pixels[None]))
    known = save(tmp_path / "k.safetensors", dataclasses.replace(make(), stored=STORED))
    with pytest.raises(UserError, match="--stored_size is 20, but .* says that its data set has 64"):
        call(predict, known, *where, "--out", out, "--stored_size", "20")
    bare = tmp_path / "backbone.safetensors"
    weights.export_backbone(tiny.backbone(), bare)
    with pytest.raises(UserError, match="does not say what the input of its backbone is: give the size"):
        call(embed, bare, *where, "--out", tmp_path / "f.npz")
    more = ("--size", tiny.SIZE, "--preset", "natural")
    assert call(embed, bare, *where, "--out", tmp_path / "f.npz", *more) == 0


def test_features_as_parquet_and_other_endings(tmp_path):
    import pyarrow.parquet

    embed.write_features(tmp_path / "f.parquet", ["a", "b\udcff"], np.arange(6, dtype=np.float32).reshape(2, 3))
    table = pyarrow.parquet.read_table(tmp_path / "f.parquet").to_pydict()
    assert table == {"path": ["a", "b\\xff"], "features": [[0, 1, 2], [3, 4, 5]]}
    with pytest.raises(UserError, match="its name ends in .npz or .parquet"):
        embed.main(["m", "--images", "i", "--out", "f.csv"])


def test_names_that_are_not_utf_8_keep_their_bytes(tmp_path):
    own_images.write_csv(tmp_path / "t.csv", ("path",), [("\udcff.png",)])
    assert (tmp_path / "t.csv").read_bytes() == b"path\n\xff.png\n"


def test_places_without_images(tmp_path):
    with pytest.raises(MissingFile, match="there is no file or folder at"):
        own_images.list_images(tmp_path / "none", volumes=False)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"has no images; 1 files are no images by their names: .txt \(1\)"):
        own_images.list_images(tmp_path, volumes=False)
    (tmp_path / "t.csv").write_text("file\n1.png\n")
    with pytest.raises(UserError, match="has no column path; it has file"):
        own_images.list_images(tmp_path / "t.csv", volumes=False)


@pytest.mark.slow
@pytest.mark.usefixtures("no_events")
def test_a_workdir_is_a_model(tmp_path, monkeypatch):
    def open_split(name, split, data_dir):
        made = tiny.split(24, seed=("train", "validation", "test").index(split))
        return dataclasses.replace(made, storage=ImageStorage(tiny.SIZE, 3))

    monkeypatch.setattr(data, "open_split", open_split)
    target = base.target("finetune", size=tiny.SIZE, duration=base.duration(steps=2), batch_size=8, seeds=(0, 1))
    curriculum.run(config((stage("rotation", 2),), targets=(target,)), tmp_path / "run")
    (tmp_path / "i").mkdir()
    (tmp_path / "i" / "1.png").write_bytes(own_table.picture(1))
    where = ("--images", tmp_path / "i")
    with pytest.raises(
        UserError, match="has 2 classifiers of the arm 'curriculum', of several targets or seeds"
    ) as told:
        call(predict, tmp_path / "run", *where, "--out", tmp_path / "p.csv")
    folders = str(told.value).split("\n    ")[1:]
    assert call(predict, *folders, *where, "--out", tmp_path / "p.csv") == 0
    pixels = ImageStorage(tiny.SIZE, 3).read(own_table.picture(1), "one")[None]
    expected = np.mean([weights.load_classifier(folder).predict(pixels) for folder in folders], axis=0)
    row = read(tmp_path / "p.csv")[0]
    assert [float(row[f"probability of {name}"]) for name in ("dark", "grey", "bright")] == pytest.approx(expected[0])
    with pytest.raises(UserError, match="say with --arm which arm is meant"):
        call(predict, tmp_path / "run", *where, "--out", tmp_path / "p.csv", "--arm", "none")
    assert call(embed, tmp_path / "run", *where, "--out", tmp_path / "f.npz") == 0
    backbone, info = weights.load_backbone(tmp_path / "run")
    with np.load(tmp_path / "f.npz") as found:
        made = backbone(info["preprocessing"].preprocess(pixels), train=False)["pooled"]
        np.testing.assert_allclose(found["features"], made, rtol=1e-5, atol=1e-6)
