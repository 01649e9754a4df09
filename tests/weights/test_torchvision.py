"""Weights under torchvision's names, there and back, and against PyTorch where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aiseeme_jax import models
from aiseeme_jax.errors import UserError
from aiseeme_jax.weights import tensors, torchvision


def make(name="resnet18", seed=0, **fields):
    return models.make_backbone(name, rngs=nnx.Rngs(seed), **{"width": 0.125, **fields})


def shaken(**fields):
    """A backbone whose norms are not at their starting values."""
    backbone = make(**fields)
    generator = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: x + jnp.asarray(generator.uniform(0.1, 0.5, x.shape), jnp.float32), nnx.state(backbone)
    )
    nnx.update(backbone, state)
    return backbone


def same(one, other):
    pairs = zip(jax.tree.leaves(nnx.state(one)), jax.tree.leaves(nnx.state(other)), strict=True)
    return all((np.asarray(a) == np.asarray(b)).all() for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_round_trip_is_exact(name, tmp_path):
    backbone, other = shaken(name=name), make(name=name, seed=1)
    assert not same(backbone, other)
    path = tmp_path / "new folder" / "weights.safetensors"
    tensors.write_safetensors(path, torchvision.to_torchvision(backbone), {"made by": "a test"})
    torchvision.from_torchvision(other, tensors.read_weights(path))
    assert same(backbone, other)
    assert tensors.read_metadata(path) == {"made by": "a test"}
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]


@pytest.mark.slow
def test_layout_and_names_are_those_of_pytorch():
    tensors = torchvision.to_torchvision(make("resnet50"))
    assert tensors["conv1.weight"].shape == (8, 3, 7, 7)
    assert tensors["layer1.0.downsample.0.weight"].shape == (32, 8, 1, 1)
    assert tensors["layer4.2.conv2.weight"].shape == (64, 64, 3, 3)
    assert tensors["layer4.2.bn3.running_var"].shape == (256,)
    # 53 convolutions and 53 norms of 5 tensors each, as torchvision's resnet50 without fc.
    assert len(tensors) == 53 * 6
    assert all(t.dtype == (np.int64 if n.endswith("tracked") else np.float32) for n, t in tensors.items())


def test_tensors_are_copies():
    backbone = make()
    tensors = torchvision.to_torchvision(backbone)
    tensors["bn1.weight"][:] = 7
    assert (np.asarray(backbone.stem_norm.scale[...]) == 1).all()


def test_classifier_is_ignored():
    tensors = torchvision.to_torchvision(shaken())
    backbone = make()
    torchvision.from_torchvision(backbone, {**tensors, "fc.weight": np.zeros((8, 64)), "fc.bias": np.zeros(8)})
    taken = torchvision.to_torchvision(backbone)
    assert taken.keys() == tensors.keys() and all((taken[name] == tensors[name]).all() for name in tensors)


def refused(backbone, tensors):
    before = jax.tree.map(np.asarray, nnx.state(backbone))
    with pytest.raises(ValueError) as caught:
        torchvision.from_torchvision(backbone, tensors)
    after = jax.tree.map(np.asarray, nnx.state(backbone))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), before, after)))
    return str(caught.value)


def test_tensors_that_do_not_fit_are_named_and_nothing_changes():
    tensors = torchvision.to_torchvision(shaken())
    del tensors["layer2.0.conv1.weight"]
    tensors["neck.weight"] = np.zeros(3, np.float32)
    tensors["bn1.bias"] = np.zeros(9, np.float32)
    message = refused(make(), tensors)
    assert "1 missing (layer2.0.conv1.weight)" in message
    assert "1 unexpected (neck.weight)" in message
    assert "1 misshaped (bn1.bias is (9,) instead of (8,))" in message
    assert "resnet18 (width 0.125, stem 'standard', 3 channels)" in message


def test_long_lists_are_counted_and_cut():
    message = refused(make("resnet34"), torchvision.to_torchvision(make("resnet18")))
    assert "80 missing (" in message and ", ...)" in message and len(message) < 500
    assert "another ResNet (model.name)" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"stem": "small"}, "model.stem: theirs is 3x3, that is 'small'"),
        ({"width": 0.5}, "model.width: their first layer has 32 channels, so width 0.5"),
        ({"channels": 1}, "channels: theirs takes 1, this one 3"),
    ],
)
def test_another_stem_width_or_number_of_channels_is_explained(fields, hint):
    assert hint in refused(make(), torchvision.to_torchvision(make(**fields)))


def test_weights_of_something_else_are_recognised():
    assert "not weights of a ResNet" in refused(make(), {"encoder.weight": np.zeros(3)})


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder_q.", "module.encoder_q.", "module.backbone."])
def test_prefixes_of_trainers_are_taken_off(prefix, tmp_path):
    backbone, other = shaken(), make(seed=1)
    given = {prefix + name: tensor for name, tensor in torchvision.to_torchvision(backbone).items()}
    rest = {f"{prefix.split('.')[0]}_k.{name}": np.zeros_like(t) for name, t in given.items()}
    tensors.write_safetensors(tmp_path / "w.safetensors", {**given, **rest, "queue": np.zeros(3)})
    torchvision.from_torchvision(other, tensors.read_weights(tmp_path / "w.safetensors"))
    assert same(backbone, other)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at .*missing.safetensors"):
        tensors.read_weights(tmp_path / "missing.safetensors")
    (tmp_path / "weights.npz").touch()
    with pytest.raises(ValueError, match=r"weights.npz.*\.safetensors, \.pt or \.pth"):
        tensors.read_weights(tmp_path / "weights.npz")
    whole = tmp_path / "whole.safetensors"
    tensors.write_safetensors(whole, torchvision.to_torchvision(make()))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged.safetensors is not a whole safetensors file"):
        tensors.read_weights(damaged)
    tensors.write_safetensors(tmp_path / "empty.safetensors", {})
    with pytest.raises(ValueError, match="empty.safetensors contains no tensors"):
        tensors.read_weights(tmp_path / "empty.safetensors")


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors.write_safetensors(path, {"a": np.ones(3, np.float32)})
    with pytest.raises(Exception, match=r"\w"):
        tensors.write_safetensors(path, {"a": np.array(["text"])})
    np.testing.assert_array_equal(tensors.read_weights(path)["a"], np.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_torch_files_without_torch_say_so(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "w.pth").touch()
    with pytest.raises(UserError, match="w.pth needs PyTorch"):
        tensors.read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(("name", "width"), [("resnet18", 0.5), ("resnet50", 0.25)])
@pytest.mark.parametrize(("stem", "size"), [("standard", 64), ("standard", 57), ("small", 20)])
def test_features_are_those_of_pytorch(name, width, stem, size, tmp_path):
    torch = pytest.importorskip("torch")
    import torch_resnet

    network = torch_resnet.randomised(name, width, stem)
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, tmp_path / "network.pth")
    backbone = make(name, width=width, stem=stem)
    torchvision.from_torchvision(backbone, tensors.read_weights(tmp_path / "network.pth"))
    images = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    features = np.asarray(backbone(jnp.asarray(images), train=False)["pooled"])
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max(), rtol=1e-4)
    # And the way out: PyTorch takes every tensor, by name and shape.
    exported = {n: torch.from_numpy(t) for n, t in torchvision.to_torchvision(backbone).items()}
    outcome = network.load_state_dict(exported, strict=False)
    assert set(outcome.missing_keys) == {"fc.weight", "fc.bias"} and not outcome.unexpected_keys


def test_torch_files_that_hold_no_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="list.pt contains a list"):
        tensors.read_weights(tmp_path / "list.pt")
    (tmp_path / "damaged.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged.pt is not a readable PyTorch checkpoint"):
        tensors.read_weights(tmp_path / "damaged.pt")


def test_half_precision_torch_weights_are_read_as_float32(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"conv1.weight": torch.full((2,), 0.5, dtype=torch.bfloat16)}, tmp_path / "half.pt")
    assert tensors.read_weights(tmp_path / "half.pt")["conv1.weight"].dtype == np.float32
