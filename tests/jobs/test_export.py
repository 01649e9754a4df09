"""A folder with a model for PyTorch: what is in it, its preparation of images, and, where PyTorch is, its output."""

import dataclasses
import importlib.util
import json
import sys

import numpy as np
import pytest
import tiny
from flax import nnx
from small_classifiers import NAMES, VIEWS, make, make_volumes
from tiny import tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, models, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import export
from aiseeme_jax.models.classifier import ClassifierNetwork, CosineHead
from aiseeme_jax.weights.preprocessing import describe
from tfds_builders.common.storage import ImageStorage, VolumeStorage

pytestmark = pytest.mark.usefixtures("tiny_in_the_table")

STORED = ImageStorage(24, 3)
PLANES = augment.Views(size=tiny.SIZE, window=(-1000.0, 400.0))


def randomise(network: nnx.Module) -> nnx.Module:
    """Every weight and statistic is far from its start, so that each counts."""
    random = np.random.default_rng(0)
    state = nnx.state(network)
    for path, leaf in nnx.to_flat_state(state):
        value = np.asarray(leaf[...])
        moved = value + random.normal(0, 0.05, value.shape)
        leaf.set_value((np.abs(moved) + 0.5 if path[-1] in ("var", "scale") else moved).astype(value.dtype))
    nnx.update(network, state)
    return network


def save(tmp_path, classifier):
    weights.save_classifier(tmp_path / "classifier.safetensors", classifier)
    return tmp_path / "classifier.safetensors"


def run(tmp_path, *arguments):
    out = tmp_path / "handed on"
    export.main([*map(str, arguments), "--out", str(out)])
    return out, json.loads((out / "settings.json").read_text())


def load_module(folder, name, monkeypatch):
    """A file of the folder, as a program there imports it."""
    for other in ("network", "preprocessing"):
        monkeypatch.delitem(sys.modules, other, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location(f"exported_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestFolder:
    def test_of_a_classifier(self, tmp_path, capsys):
        saved = dataclasses.replace(make(), stored=STORED)
        out, settings = run(tmp_path, save(tmp_path, saved))
        names = {"README.md", "check.npz", "classifier.safetensors", "load.py", "network.py", "preprocessing.py"}
        assert {path.name for path in out.iterdir()} == names | {"settings.json"}
        assert settings["class_names"] == list(NAMES) and settings["temperature"] == 1.7
        assert "python" in (told := capsys.readouterr().out) and "classifier of MEL, NV, läsion, andere" in told
        found = weights.load_classifier(out / "classifier.safetensors")
        tiny.assert_same(found.network, saved.network)
        with np.load(out / "check.npz") as known:
            image, made, output = known["image"], known["input"], known["output"]
        assert image.dtype == np.uint8 and image.shape[:2] == (30, 36)
        stored = STORED.make(image)
        np.testing.assert_allclose(output, saved.predict(stored[None]), rtol=1e-4)
        np.testing.assert_array_equal(
            made[0], np.moveaxis(np.asarray(augment.central_view(stored[None], VIEWS))[0], -1, 0)
        )
        readme = (out / "README.md").read_text()
        assert (
            "width 0.125, stem small" in readme and "squeezed to 24 x 24" in readme and "torchvision safe" not in readme
        )
        assert len(readme.splitlines()) < 20

    def test_of_a_backbone(self, tmp_path):
        body = tiny.vit()
        info = {"preprocessing": describe(VIEWS, 3, STORED)}
        weights.export_backbone(body, tmp_path / "b.safetensors", info=info)
        out, settings = run(tmp_path, tmp_path / "b.safetensors")
        assert settings["head"]["kind"] == "none" and settings["kind"] == "features"
        with np.load(out / "check.npz") as known:
            expected = body(info["preprocessing"].preprocess(known["image"]), train=False)["pooled"]
            np.testing.assert_allclose(known["output"], expected, rtol=1e-4, atol=1e-6)
        backbone, found = weights.load_backbone(out)
        tiny.assert_same(backbone, body)
        assert found["preprocessing"] == info["preprocessing"]

    def test_of_the_backbone_of_a_classifier(self, tmp_path):
        out, settings = run(tmp_path, save(tmp_path, make()), "--backbone")
        assert settings["weights"] == "backbone.safetensors" and settings["class_names"] == []
        assert "not known, and matters" in (out / "README.md").read_text()

    def test_in_bfloat16_the_expected_output_is_of_float32_and_the_difference_is_told(self, tmp_path):
        body = models.make_backbone("resnet18", width=0.125, stem="small", dtype="bfloat16", rngs=nnx.Rngs(0))
        saved = make(body)
        out, settings = run(tmp_path, save(tmp_path, saved))
        with np.load(out / "check.npz") as known:
            difference = np.abs(known["output"] - saved.predict(known["image"][None])).max()
        assert 1e-5 < difference < 0.1
        assert (
            f"in bfloat16, and its output on that image differs from float32 by at most {difference:.1e}"
            in (out / "README.md").read_text()
        )

    def test_a_file_that_does_not_say_its_input_and_a_folder_that_is_not_empty(self, tmp_path):
        weights.export_backbone(tiny.backbone(), tmp_path / "b.safetensors")
        with pytest.raises(
            UserError, match="what the input of its backbone is: give the size of its views with --size"
        ):
            run(tmp_path, tmp_path / "b.safetensors")
        out, settings = run(tmp_path, tmp_path / "b.safetensors", "--size", tiny.SIZE, "--preset", "natural")
        assert settings["preprocessing"]["size"] == tiny.SIZE
        with pytest.raises(UserError, match="handed on' is not empty: name a new folder"):
            run(tmp_path, tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("views", "channels", "stored"),
    [
        (VIEWS, 3, STORED),
        (VIEWS, 1, ImageStorage(20, 1, lossless=False, fit="pad")),
        (VIEWS, 3, ImageStorage(40, 3, lossless=False, resized=28, fit="crop")),
        (VIEWS, 3, ImageStorage(None, 3)),
        (VIEWS, 3, None),
        (augment.VolumeViews(size=tiny.SIZE), 1, VolumeStorage(24, 1.0)),
        (PLANES, 1, None),
    ],
    ids=["squeezed", "grey and JPEG", "JPEG and resized", "as files", "unknown", "volumes", "planes"],
)
def test_the_preparation_is_ours(views, channels, stored, monkeypatch):
    """The stored bytes are the same; the input differs by rounding alone."""
    entry = describe(views, channels, stored)
    module = load_module(export.TEMPLATES, "preprocessing", monkeypatch)
    random = np.random.default_rng(1)
    if views.window:
        space = (24,) * views.dimensions
        images = [random.integers(-1500, 900, (*space, 1)).astype(np.int16)]
    else:
        shapes = [(61, 35, 3), (24, 24, 3), (9, 50, 1)]
        images = [random.integers(0, 256, shape).astype(np.uint8) for shape in shapes]
        if stored is not None:
            for image in images:
                pixels = module._store(module._match_channels(image, channels), json.loads(json.dumps(entry["stored"])))
                ours = (
                    stored.make(pixels)
                    if pixels.shape == image.shape and stored.size is None
                    else entry._prepare(image)
                )
                np.testing.assert_array_equal(pixels, ours)
    made = module.preprocess(images, json.loads(json.dumps(entry)))
    expected = np.moveaxis(np.asarray(entry.preprocess(images)), -1, 1)
    assert made.dtype == np.float32 and made.shape == expected.shape
    np.testing.assert_allclose(made, expected, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="an image is"):
        module.preprocess([images[0].astype(np.float32)], entry)


def cosine():
    plain = make()
    head = CosineHead(plain.network.backbone.features, 3, scale=30.0, rngs=nnx.Rngs(1))
    return dataclasses.replace(plain, network=ClassifierNetwork(plain.network.backbone, head))


def volumes_of(name, **options):
    body = models.make_backbone(name, channels=1, dimensions=3, **options, rngs=nnx.Rngs(0))
    return make(body, views=augment.VolumeViews(size=16), kind="findings", stored=VolumeStorage(16, 1.0))


MADE = {
    "resnet50, dilated": lambda: make(
        models.make_backbone("resnet50", width=0.25, output_stride=16, rngs=nnx.Rngs(0)), stored=STORED
    ),
    "resnet18 grey, dilated": lambda: make(
        models.make_backbone("resnet18", width=0.125, channels=1, output_stride=16, rngs=nnx.Rngs(0))
    ),
    "resnet14 volumes with attention": lambda: volumes_of(
        "resnet14", width=0.125, stem="small", attention="arl_gain", attention_scale=0.5
    ),
    "attention": lambda: make(tiny.backbone(attention="arl", attention_scale=5.0)),
    "vit": lambda: make(tiny.vit(), stored=ImageStorage(24, 3, lossless=False)),
    "vit volumes": lambda: volumes_of("vit_tiny", width=0.25),
    "cosine": cosine,
    "tiny volumes": make_volumes,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_pytorch_gives_the_same_output(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    made = MADE[name]()
    randomise(made.network)
    out, settings = run(tmp_path, save(tmp_path, made))
    assert settings["network"]["module"] == "network"
    load = load_module(out, "load", monkeypatch)
    model = load.load()
    load.check(model)
    assert "the output differs by" in capsys.readouterr().out
    with np.load(out / "check.npz") as known:
        again = load.predict(model, [known["image"], known["image"]])
        np.testing.assert_allclose(again[1], known["output"][0], rtol=1e-3, atol=1e-6)
    with open(out / "settings.json", "w") as file:
        json.dump({**settings, "temperature": 3.0 * settings["temperature"]}, file)
    if name != "vit volumes":
        return
    changed = load_module(out, "load", monkeypatch)
    with pytest.raises(SystemExit, match="this is not the network that was exported"):
        changed.check(changed.load())


def test_torchvision_builds_what_it_has_alone():
    def module_of(name, **options):
        body = models.make_backbone(name, rngs=nnx.Rngs(0), **options)
        known = describe(VIEWS, body.channels, None)
        return export.describe_network(export.Exported(body, None, "features", (), 1.0, known, {}))["module"]

    assert module_of("resnet18") == "torchvision.models"
    others = ({"attention": "arl"}, {"output_stride": 16}, {"channels": 1}, {"stem": "small"}, {"width": 0.5})
    assert {module_of("resnet18", **one) for one in others} | {module_of("resnet14")} == {"network"}


@pytest.mark.slow
def test_torchvision_gives_the_same_output(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    made = make(models.make_backbone("resnet18", rngs=nnx.Rngs(0)), stored=STORED)
    randomise(made.network)
    out, settings = run(tmp_path, save(tmp_path, made))
    assert settings["network"]["module"] == "torchvision.models" and not (out / "network.py").exists()
    load = load_module(out, "load", monkeypatch)
    load.check(load.load())


@pytest.mark.slow
def test_onnx_gives_the_same_output(tmp_path, monkeypatch):
    for library in ("torch", "onnxscript"):
        pytest.importorskip(library)
    onnxruntime = pytest.importorskip("onnxruntime")
    made = make(stored=STORED)
    randomise(made.network)
    out, _ = run(tmp_path, save(tmp_path, made))
    load = load_module(out, "load", monkeypatch)
    load.write_onnx(load.load(), str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    with np.load(out / "check.npz") as known:
        (found,) = session.run(None, {"x": np.concatenate([known["input"]] * 3)})
        np.testing.assert_allclose(found, np.repeat(known["output"], 3, axis=0), rtol=1e-3)
