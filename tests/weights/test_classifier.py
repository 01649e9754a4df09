"""A classifier as a file: it comes back as it was, PyTorch reads it, and a file of something else is named."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from small_classifiers import NAMES, VIEWS, make, make_volumes
from tiny import tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, models, weights
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.models.classifier import ClassifierNetwork, CosineHead
from aiseeme_jax.weights import tensors as files_of_tensors
from aiseeme_jax.weights.classifier import CLASSIFIER, load_classifier, save_classifier

pytestmark = pytest.mark.usefixtures("tiny_in_the_table")


@pytest.fixture(scope="module")
def images():
    return tiny.images(5, size=tiny.SIZE)


def save(tmp_path, classifier):
    path = tmp_path / CLASSIFIER
    save_classifier(path, classifier)
    return path


def rewrite(path, change):
    """Writes the file again with its header changed."""
    header, tensors = json.loads(files_of_tensors.read_metadata(path)["aiseeme"]), files_of_tensors.read_weights(path)
    change(header, tensors)
    files_of_tensors.write_safetensors(path, tensors, {"aiseeme": json.dumps(header)})


def make_cosine(**changes):
    """The same with a head of cosines."""
    plain = make(**changes)
    head = CosineHead(plain.network.backbone.features, 3, scale=30.0, rngs=nnx.Rngs(1))
    return dataclasses.replace(plain, network=ClassifierNetwork(plain.network.backbone, head))


class TestFile:
    @pytest.mark.parametrize("name", ["resnet", "vit", "volumes", "cosine"])
    def test_comes_back_as_it_was(self, name, tmp_path):
        makers = {"resnet": make, "vit": lambda: make(tiny.vit()), "volumes": make_volumes, "cosine": make_cosine}
        saved = makers[name]()
        digest = save_classifier(tmp_path / CLASSIFIER, dataclasses.replace(saved, info={"target": "finetune"}))
        found = load_classifier(tmp_path)
        tiny.assert_same(found.network, saved.network)
        for field in ("kind", "class_names", "views", "temperature"):
            assert getattr(found, field) == getattr(saved, field)
        assert found.info["target"] == "finetune" and found.info["classifier_hash"] == digest == found.hash()
        assert [path.name for path in tmp_path.iterdir()] == [CLASSIFIER]
        stored = tiny.volumes(3) if name == "volumes" else tiny.images(3)
        np.testing.assert_array_equal(found.predict(stored), saved.predict(stored))

    def test_the_hash_covers_all_that_predictions_depend_on(self):
        made = make()
        changes = [
            {"kind": "findings"},
            {"class_names": NAMES[::-1]},
            {"views": dataclasses.replace(VIEWS, size=24)},
            {"temperature": 1.8},
            {"network": make(tiny.backbone(1)).network},
        ]
        found = [dataclasses.replace(made, **change).hash() for change in changes]
        assert len({*found, made.hash()}) == 6
        assert dataclasses.replace(made, info={"seed": 1}).hash() == make().hash() == made.hash()

    def test_counts_as_its_backbone(self, tmp_path):
        made = make()
        backbone, info = weights.load_backbone(save(tmp_path, made))
        tiny.assert_same(backbone, made.network.backbone)
        assert info["backbone_hash"] == weights.backbone_hash(backbone)
        model = {**backbone.config, "patch": 0}
        tiny.assert_same(weights.starting_backbone(model, str(tmp_path / CLASSIFIER), seed=1), backbone)

    def test_a_folder_or_file_that_is_not_there(self, tmp_path):
        for path in (tmp_path, tmp_path / "absent.safetensors"):
            with pytest.raises(MissingFile, match=f"no classifier at '{tmp_path}.*safetensors': fine-tuning leaves"):
                load_classifier(path)

    def test_a_file_with_only_a_backbone(self, tmp_path):
        weights.export_backbone(tiny.backbone(), tmp_path / "b.safetensors")
        with pytest.raises(
            UserError, match="b.safetensors contains a backbone without a head: load it with `load_backb"
        ):
            load_classifier(tmp_path / "b.safetensors")

    def test_a_file_of_another_program(self, tmp_path):
        path = save(tmp_path, make())
        files_of_tensors.write_safetensors(path, files_of_tensors.read_weights(path))
        with pytest.raises(UserError, match=f"{path} was not written by aiseeme_jax.* as `init` of a config"):
            load_classifier(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda header, tensors: header.update(class_names=NAMES[::-1]), "not have the hash in its header"),
            (lambda header, tensors: header.update(temperature=2.0), "not have the hash in its header"),
            (lambda header, tensors: tensors["fc.bias"].__iadd__(1), "not have the hash in its header"),
            (lambda header, tensors: header.update(class_names=NAMES[:2]), r"header does not fit .*\(3, 8\) for 2"),
            (lambda header, tensors: header.update(kind="regression"), "header does not fit .*kind of labels 'regr"),
            (lambda header, tensors: header.pop("views"), "header does not fit its weights .*'views'"),
            (lambda header, tensors: tensors.pop("fc.weight"), "header does not fit its weights .*'fc.weight'"),
            (lambda header, tensors: tensors.pop("conv1.weight"), "header does not fit its weights .*conv1.weight"),
        ],
    )
    def test_damage_is_noticed(self, change, message, tmp_path):
        path = save(tmp_path, make())
        rewrite(path, change)
        with pytest.raises(UserError, match=f"{path} is damaged: .*{message}.*download it again"):
            load_classifier(path)

    def test_half_a_file_is_named(self, tmp_path):
        path = save(tmp_path, make())
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(UserError, match=f"{path} is not a whole safetensors file.*download it again"):
            load_classifier(path)

    def test_a_format_of_another_version(self, tmp_path):
        path = save(tmp_path, make())
        rewrite(path, lambda header, tensors: header.update(format=3))
        with pytest.raises(UserError, match="has format 3 and this version .* reads formats 1 and 2: use the ver"):
            load_classifier(path)


class TestPredict:
    def test_classes_by_the_definition(self, images):
        made = make()
        view = augment.central_view(jax.numpy.asarray(images), VIEWS)
        features = np.float64(made.network.backbone(view, train=False)["pooled"])
        logits = features @ np.float64(made.network.head.kernel[...]) + np.float64(made.network.head.bias[...])
        for temperature, calibrated in ((1.7, True), (1.0, False)):
            expected = np.exp(logits / temperature)
            found = made.predict(images, calibrated=calibrated)
            assert found.shape == (5, 3) and found.dtype == np.float32
            np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)
        assert np.abs(found - made.predict(images)).max() > 0.01

    def test_findings_are_probabilities_by_themselves(self, images):
        probs = {kind: np.float64(make(kind=kind).predict(images)) for kind in ("class", "findings")}
        odds = probs["findings"] / (1 - probs["findings"])
        np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), probs["class"], rtol=1e-4)
        assert np.abs(probs["findings"].sum(axis=1) - 1).max() > 0.01

    def test_the_batch_and_the_number_of_images_do_not_matter(self, images):
        made = make()
        whole = made.predict(images)
        for batch_size in (1, 3, 4, 100):
            np.testing.assert_allclose(made.predict(images, batch_size=batch_size), whole, rtol=1e-4)
        np.testing.assert_allclose(made.predict(images[3:4]), whole[3:4], rtol=1e-4)
        assert made.predict(images[:0]).shape == (0, 3)

    def test_images_of_any_size(self):
        assert make().predict(np.zeros((2, 40, 24, 3), np.uint8)).shape == (2, 3)

    @pytest.mark.parametrize(
        ("stored", "message"),
        [
            (np.zeros((2, 16, 16, 1), np.uint8), "takes images of 3 channels, not of 1"),
            (np.zeros((2, 16, 16, 3), np.float32), r"cannot take images float32 \(2, 16, 16, 3\): .* uint8 images"),
            (np.zeros((16, 16, 3), np.uint8), r"cannot take images uint8 \(16, 16, 3\): .* \[B, H, W, 1 or 3\]"),
            (np.zeros((2, 8, 8, 8, 1), np.int16), r"cannot take images int16 \(2, 8, 8, 8, 1\)"),
        ],
    )
    def test_other_images_are_refused(self, stored, message):
        with pytest.raises(UserError, match=message):
            make().predict(stored)

    def test_volumes_are_hounsfield_units(self):
        with pytest.raises(UserError, match="cannot take images uint8 .*int16 HU"):
            make_volumes().predict(np.zeros((2, 16, 16, 16, 1), np.uint8))


class TestPyTorch:
    """The state dict of a file, in networks that know nothing of this package."""

    def test_names_and_layout_are_those_of_torchvision(self, tmp_path):
        body = models.make_backbone("resnet18", width=0.125, rngs=nnx.Rngs(0))
        tensors = files_of_tensors.read_weights(save(tmp_path, make(body)))
        assert tensors["fc.weight"].shape == (3, 64) and tensors["fc.bias"].shape == (3,)
        # 20 convolutions and 20 norms of 5 tensors each, as torchvision's resnet18.
        assert len(tensors) == 20 * 6 + 2

    def test_names_and_layout_are_those_of_timm(self, tmp_path):
        tensors = files_of_tensors.read_weights(save(tmp_path, make(tiny.vit())))
        assert tensors["head.weight"].shape == (3, 24) and tensors["head.bias"].shape == (3,)
        assert tensors["pos_embed"].shape == (1, 1 + (tiny.SIZE // 4) ** 2, 24)

    @pytest.mark.parametrize("name", ["resnet18", "resnet50"])
    def test_a_resnet_gives_the_same_probabilities(self, name, tmp_path, images):
        torch = pytest.importorskip("torch")
        import torch_resnet

        made = make(models.make_backbone(name, width=0.25, rngs=nnx.Rngs(0)))
        network = torch_resnet.ResNet(name, 0.25, "standard", classes=3).eval()
        path = save(tmp_path, made)
        network.load_state_dict({n: torch.from_numpy(t) for n, t in files_of_tensors.read_weights(path).items()})
        with torch.no_grad():
            logits = network.fc(network(view_for_torch(torch, images)))
        probs = torch.softmax(logits / made.temperature, dim=1).numpy()
        np.testing.assert_allclose(made.predict(images), probs, rtol=1e-3, atol=1e-5)

    def test_a_vit_gives_the_same_probabilities(self, tmp_path, images):
        torch = pytest.importorskip("torch")
        import torch_vit

        made = make(tiny.vit())
        sizes = {"features": 24, "blocks": 2, "heads": 2, "patch": 4, "size": tiny.SIZE}
        network = torch_vit.ViT(**sizes, channels=3, dimensions=2, classes=3).eval()
        path = save(tmp_path, made)
        network.load_state_dict({n: torch.from_numpy(t) for n, t in files_of_tensors.read_weights(path).items()})
        with torch.no_grad():
            logits = network.head(network(view_for_torch(torch, images))[:, 1:].mean(dim=1))
        probs = torch.softmax(logits / made.temperature, dim=1).numpy()
        np.testing.assert_allclose(made.predict(images), probs, rtol=1e-3, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["resnet50", "vit_tiny"])
    def test_torchvision_and_timm_load_it_as_it_is(self, name, tmp_path):
        torch = pytest.importorskip("torch")
        library = pytest.importorskip("torchvision" if name == "resnet50" else "timm")
        views = dataclasses.replace(VIEWS, size=64)
        made = make(models.make_backbone(name, rngs=nnx.Rngs(0)), views=views)
        if name == "resnet50":
            network = library.models.resnet50(num_classes=3)
        else:
            pooling = {"global_pool": "avg", "fc_norm": False}
            network = library.create_model("vit_tiny_patch16_224", img_size=64, num_classes=3, **pooling)
        path = save(tmp_path, made)
        network.load_state_dict({n: torch.from_numpy(t) for n, t in files_of_tensors.read_weights(path).items()})
        stored = tiny.images(2, size=64)
        with torch.no_grad():
            logits = network.eval()(view_for_torch(torch, stored, views))
        probs = torch.softmax(logits / made.temperature, dim=1).numpy()
        np.testing.assert_allclose(made.predict(stored), probs, rtol=1e-3, atol=1e-5)


def view_for_torch(torch, stored, views=VIEWS):
    """The central view as PyTorch lays images out."""
    view = np.array(augment.central_view(jax.numpy.asarray(stored), views))
    return torch.from_numpy(view.transpose(0, 3, 1, 2).copy())
