"""Backbones of volumes: the same network with a depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aiseeme_jax import models, weights
from aiseeme_jax.models import convolution
from aiseeme_jax.weights import torchvision

pytestmark = pytest.mark.slow

LAYOUT = ("NDHWC", "DHWIO", "NDHWC")


def make(name="resnet18", seed=0, **fields):
    fields = {"width": 0.125, "stem": "small", "channels": 1, "dimensions": 3, **fields}
    return models.make_backbone(name, rngs=nnx.Rngs(seed), **fields)


def random_volumes(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "size", "stride"),
    [((1, 1, 1), 3, 1), ((2, 2, 2), 3, 2), ((2, 5, 6), 3, 1), ((5, 4, 6), 3, 2), ((4, 5, 3), 1, 2), ((6, 4, 4), 5, 1)],
)
def test_convolution_is_that_of_xla(shape, size, stride):
    volumes = jnp.asarray(random_volumes(2, *shape, 3))
    kernel = jnp.asarray(random_volumes(size, size, size, 3, 4))
    strides, padding = (stride,) * 3, [(size // 2, size // 2)] * 3

    def ours(volumes, kernel):
        return convolution.convolve(volumes, kernel, strides, padding, dimension_numbers=LAYOUT)

    def reference(volumes, kernel):
        return jax.lax.conv_general_dilated(volumes, kernel, strides, padding, dimension_numbers=LAYOUT)

    np.testing.assert_allclose(ours(volumes, kernel), reference(volumes, kernel), atol=1e-3)
    ours, theirs = (
        jax.jit(jax.grad(lambda *a, f=f: jnp.sum(f(*a) ** 2), (0, 1)))(volumes, kernel) for f in (ours, reference)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * float(jnp.abs(other).max()))


def test_only_a_cpu_convolves_a_volume_plane_by_plane(monkeypatch):
    volumes, kernel = jnp.zeros((1, 4, 4, 4, 1)), jnp.zeros((3, 3, 3, 1, 2))
    for backend, count in (("cpu", 3), ("gpu", 1)):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        program = jax.make_jaxpr(
            lambda x, k: convolution.convolve(x, k, (1, 1, 1), [(1, 1)] * 3, dimension_numbers=LAYOUT)
        )(volumes, kernel)
        assert str(program).count("conv_general_dilated[") == count


def test_pooling_is_that_of_xla():
    volumes = jnp.asarray(random_volumes(2, 5, 4, 7, 3))
    expected = nnx.max_pool(volumes, (3, 3, 3), strides=(2, 2, 2), padding=((1, 1),) * 3)
    np.testing.assert_array_equal(convolution.max_pool(volumes), expected)


@pytest.mark.parametrize(("stem", "sides"), [("standard", (8, 8, 4, 2, 1)), ("small", (32, 32, 16, 8, 4))])
@pytest.mark.parametrize(("name", "expansion"), [("resnet18", 1), ("resnet50", 4)])
def test_endpoints_have_a_depth(name, expansion, stem, sides):
    backbone = make(name, stem=stem)
    ends = nnx.eval_shape(lambda m: m(jnp.zeros((2, 32, 32, 32, 1)), train=False), backbone)
    channels = [8] + [expansion * c for c in (8, 16, 32, 64)]
    for end, side, count in zip(("stem", "stage1", "stage2", "stage3", "stage4"), sides, channels, strict=True):
        assert ends[end].shape == (2, side, side, side, count)
    assert ends["pooled"].shape == (2, backbone.features) and backbone.features == 64 * expansion


def test_depth_multiplies_the_parameters_of_every_window():
    count = lambda b: sum(leaf.size for leaf in jax.tree.leaves(nnx.state(b, nnx.Param)))  # noqa: E731
    flat, deep = (nnx.eval_shape(lambda d=d: make("resnet18", width=1.0, dimensions=d)) for d in (2, 3))
    windows = sum(k.size for k in jax.tree.leaves(nnx.state(flat, nnx.Param)) if k.ndim == 4 and k.shape[0] == 3)
    assert count(deep) == count(flat) + 2 * windows


def test_config_makes_the_backbone_again_and_a_file_keeps_it(tmp_path):
    backbone = make("resnet50")
    assert backbone.config["dimensions"] == backbone.dimensions == 3
    assert models.make_backbone("resnet18", rngs=nnx.Rngs(0)).config["dimensions"] == 2
    weights.export_backbone(backbone, tmp_path / "b.safetensors")
    again, info = weights.load_backbone(tmp_path / "b.safetensors")
    assert again.config == backbone.config == info["model"]
    assert weights.backbone_hash(again) == weights.backbone_hash(backbone)


def test_other_shapes_and_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"takes volumes \[B, D, H, W, 1\], not \(2, 8, 8, 1\)"):
        make()(jnp.zeros((2, 8, 8, 1)), train=False)
    with pytest.raises(ValueError, match=r"takes images \[B, H, W, 1\], not \(2, 8, 8, 8, 1\)"):
        make(dimensions=2)(jnp.zeros((2, 8, 8, 8, 1)), train=False)
    with pytest.raises(ValueError, match=r"2 dimensions \(images\) or 3 \(volumes\), not 4"):
        make(dimensions=4)


class TestTorchFormat:
    def test_round_trip_is_exact_and_kernels_have_five_axes(self):
        backbone, other = make(stem="standard"), make(stem="standard", seed=1)
        tensors = torchvision.to_torchvision(backbone)
        assert tensors["conv1.weight"].shape == (8, 1, 7, 7, 7)
        assert tensors["layer2.0.downsample.0.weight"].shape == (16, 8, 1, 1, 1)
        assert tensors.keys() == torchvision.to_torchvision(make(dimensions=2)).keys()
        kernel = np.asarray(backbone.stem_convolution.kernel[...])
        np.testing.assert_array_equal(tensors["conv1.weight"][3, 0, 1, 2, 4], kernel[1, 2, 4, 0, 3])
        torchvision.from_torchvision(other, tensors)
        assert weights.backbone_hash(other) == weights.backbone_hash(backbone)

    def test_weights_of_images_are_refused_with_an_explanation(self):
        with pytest.raises(ValueError, match=r"resnet18 \(.*, 3-D\): .*2-D network, .* 3-D \(model.dimensions\)"):
            torchvision.from_torchvision(make(), torchvision.to_torchvision(make(dimensions=2)))
        with pytest.raises(ValueError, match="weights of a 3-D network, and this one is 2-D"):
            torchvision.from_torchvision(make(dimensions=2), torchvision.to_torchvision(make()))

    def test_another_stem_is_explained(self):
        with pytest.raises(ValueError, match="model.stem: theirs is 7x7x7, that is 'standard'"):
            torchvision.from_torchvision(make(), torchvision.to_torchvision(make(stem="standard")))

    @pytest.mark.parametrize(("name", "stem", "size"), [("resnet18", "standard", 17), ("resnet50", "small", 6)])
    def test_features_are_those_of_pytorch(self, name, stem, size):
        torch = pytest.importorskip("torch")
        import torch_resnet

        network = torch_resnet.randomised(name, 0.25, stem, dimensions=3)
        backbone = make(name, width=0.25, stem=stem)
        torchvision.from_torchvision(backbone, {n: t.numpy() for n, t in network.state_dict().items()})
        volumes = random_volumes(2, size, size, size, 1)
        with torch.no_grad():
            expected = network(torch.from_numpy(volumes.transpose(0, 4, 1, 2, 3).copy())).numpy()
        features = np.asarray(backbone(jnp.asarray(volumes), train=False)["pooled"])
        np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max(), rtol=1e-4)
