"""Vision transformers: against NumPy and PyTorch, at any size, and their weights under timm's names, there and back."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import tiny_in_the_table  # noqa: F401

from aiseeme_jax import models, weights
from aiseeme_jax.models import vit
from aiseeme_jax.training import optimizers
from aiseeme_jax.weights import tensors, timm, torchvision

pytestmark = pytest.mark.slow


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shaken(**options):
    """A ViT none of whose weights is at its starting value."""
    backbone, random = tiny.vit(**options), np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + 0.2 * jnp.asarray(random.standard_normal(x.shape), jnp.float32), state(backbone))
    nnx.update(backbone, moved)
    return backbone


def state(backbone):
    return nnx.as_pure(nnx.state(backbone))


def run(backbone, images):
    return jax.jit(lambda x: backbone(x, train=True))(jnp.asarray(images))


@pytest.mark.parametrize(("space", "features"), [((2, 3), 12), ((4, 4), 20), ((2, 3, 2), 20), ((2, 2, 2), 18)])
def test_positions_are_sines_and_cosines_of_each_axis(space, features):
    axes, rows = len(space), []
    count = features // (2 * axes)
    for place in np.ndindex(*space):
        row = []
        for x in place[::-1]:
            rates = [10_000 ** (-k / count) for k in range(count)]
            row += [math.sin(x * rate) for rate in rates] + [math.cos(x * rate) for rate in rates]
        rows.append(row + [0.0] * (features - len(row)))
    np.testing.assert_allclose(vit.positions(space, features), rows, atol=1e-6)


def test_positions_by_hand_and_of_a_smaller_grid():
    expected = [math.sin(2), math.cos(2), math.sin(1), math.cos(1)]
    np.testing.assert_allclose(vit.positions((2, 3), 4)[5], expected, atol=1e-6)
    whole = np.asarray(vit.positions((4, 4), 12)).reshape(4, 4, 12)
    np.testing.assert_array_equal(vit.positions((2, 3), 12), whole[:2, :3].reshape(6, 12))


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 4, 2, 4, 1)])
def test_patches_come_row_by_row(shape):
    images, space = random_images(*shape), [side // 2 for side in shape[1:-1]]
    for number, place in enumerate(np.ndindex(*space)):
        cut = images[(slice(None), *(slice(2 * i, 2 * i + 2) for i in place))]
        np.testing.assert_array_equal(vit.patchify(jnp.asarray(images), 2)[:, number], cut.reshape(2, -1))


def normalised(x, norm):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-6)
    return scaled * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])


def product(x, layer):
    return x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...])


def test_a_block_is_attention_then_a_hidden_layer():
    block = shaken().blocks[0]
    x = random_images(2, 5, 24).astype(np.float64)
    expected = np.empty_like(x)
    for row in range(2):
        query, key, value = np.split(product(normalised(x[row], block.norms[0]), block.qkv), 3, axis=-1)
        attended = []
        for head in (slice(0, 12), slice(12, 24)):
            weights = np.exp(query[:, head] @ key[:, head].T / np.sqrt(12))
            attended.append(weights / weights.sum(axis=1, keepdims=True) @ value[:, head])
        middle = x[row] + product(np.concatenate(attended, axis=1), block.projection)
        hidden = product(normalised(middle, block.norms[1]), block.hidden)
        hidden *= (1 + np.vectorize(math.erf)(hidden / np.sqrt(2))) / 2
        expected[row] = middle + product(hidden, block.out)
    np.testing.assert_allclose(jax.jit(block)(jnp.asarray(x, jnp.float32)), expected, rtol=1e-4, atol=1e-4)


def test_endpoints_are_the_tokens_of_the_patches_after_each_quarter():
    backbone, images = shaken(), random_images(2, 8, 12, 3)
    ends = run(backbone, images)
    patches = np.asarray(vit.patchify(jnp.asarray(images), 4), np.float64)
    stem = product(patches, backbone.embedding) + np.asarray(vit.positions((2, 3), 24))
    np.testing.assert_allclose(ends["stem"].reshape(2, 6, 24), stem, rtol=1e-4, atol=1e-4)
    first = np.broadcast_to(np.asarray(backbone.class_token[...]), (2, 1, 24))
    depths = [jnp.asarray(np.concatenate([first, stem], axis=1), jnp.float32)]
    for block in backbone.blocks:
        depths.append(jax.jit(block)(depths[-1]))
    for name, depth in {"stage1": depths[0], "stage2": depths[1], "stage3": depths[1]}.items():
        np.testing.assert_allclose(ends[name].reshape(2, 6, 24), depth[:, 1:], rtol=1e-3, atol=1e-3)
    last = normalised(np.asarray(depths[2], np.float64), backbone.norm)[:, 1:]
    np.testing.assert_allclose(ends["stage4"].reshape(2, 6, 24), last, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ends["pooled"], last.mean(axis=1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    # As timm counts them, without classifier and positions.
    [("vit_tiny", 192, 5_486_592), ("vit_small", 384, 21_590_016), ("vit_base", 768, 85_647_360)],
)
def test_sizes_are_the_published_ones(name, features, parameters):
    backbone = nnx.eval_shape(lambda: models.make_backbone(name, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(state(backbone))) == parameters
    assert (backbone.patch, backbone.features, len(backbone.blocks)) == (16, features, 12)
    assert features // backbone.blocks[0].heads == 64


@pytest.mark.parametrize(
    ("options", "shape", "space"),
    [
        ({"patch": 0}, (2, 64, 32, 3), (4, 2)),
        ({"patch": 0, "channels": 1, "dimensions": 3}, (2, 16, 24, 8, 1), (2, 3, 1)),
    ],
)
def test_endpoints_are_maps_of_patches_of_16_pixels_or_8_voxels(options, shape, space):
    ends = nnx.eval_shape(lambda: tiny.vit(**options)(jnp.zeros(shape), train=False))
    maps = dict.fromkeys(("stem", "stage1", "stage2", "stage3", "stage4"), (2, *space, 24))
    assert {name: end.shape for name, end in ends.items()} == {**maps, "pooled": (2, 24)}


@pytest.mark.parametrize(("width", "features"), [(1, 24), (2, 48), (0.7, 16), (0.01, 8)])
def test_width_changes_the_features_and_leaves_the_heads(width, features):
    backbone = nnx.eval_shape(lambda: tiny.vit(width=width))
    assert backbone.features == features and backbone.blocks[0].heads == 2


def test_train_changes_nothing_and_bfloat16_little():
    backbone, images = shaken(), random_images(2, 8, 8, 3)
    exact = run(backbone, images)
    np.testing.assert_array_equal(jax.jit(lambda x: backbone(x, train=False))(images)["pooled"], exact["pooled"])
    half = tiny.vit(dtype="bfloat16")
    nnx.update(half, state(backbone))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state(half)))
    ends = run(half, images)
    assert ends.pop("pooled").dtype == jnp.float32 and all(end.dtype == jnp.bfloat16 for end in ends.values())
    scale = np.abs(exact["stage4"]).max()
    np.testing.assert_allclose(ends["stage4"].astype(np.float32), exact["stage4"], atol=0.05 * scale)


def test_weight_decay_passes_over_norms_biases_and_the_class_token():
    for path, taken in jax.tree_util.tree_leaves_with_path(optimizers.decayed(state(tiny.vit()))):
        assert taken == jax.tree_util.keystr(path).endswith("['kernel']")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "small"}, "a ViT has no stem 'small': .* for small images lower model.patch"),
        ({"width": 0.0}, "the width of a ViT is a positive factor, not 0"),
        ({"patch": -4}, "model.patch is -4; it must be at least 1, or 0 for 16"),
        ({"dimensions": 4}, r"a ViT has 2 dimensions \(images\) or 3 \(volumes\), not 4"),
        ({"name": "resnet18", "patch": 8}, "a ResNet has no patches: leave model.patch at 0, not 8"),
    ],
)
def test_options_that_a_model_does_not_have_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        models.make_backbone(**{"name": "vit_tiny", **options}, rngs=nnx.Rngs(0))


def test_images_of_another_kind_or_of_broken_patches_are_refused():
    with pytest.raises(ValueError, match=r"takes images \[B, H, W, 3\], not \(2, 8, 8, 1\)"):
        tiny.vit()(jnp.zeros((2, 8, 8, 1)), train=False)
    with pytest.raises(ValueError, match=r"takes volumes \[B, D, H, W, 1\], not \(2, 8, 8, 1\)"):
        tiny.vit(channels=1, dimensions=3)(jnp.zeros((2, 8, 8, 1)), train=False)
    with pytest.raises(ValueError, match="10 px do not divide into patches of 4 px: take views of a multiple of 4"):
        tiny.vit()(jnp.zeros((2, 8, 10, 3)), train=False)
    model = {"name": "vit_small", "patch": 0, "dimensions": 2}
    models.check_size(model, 224)
    models.check_size({**model, "name": "resnet18"}, 100)
    for size in (8, 100):
        with pytest.raises(ValueError, match=f"{size} px do not divide into patches of 16 px"):
            models.check_size(model, size)


class TestWeights:
    @pytest.mark.parametrize("options", [{}, {"channels": 1, "dimensions": 3}])
    def test_round_trip_is_exact(self, options):
        backbone, other = shaken(**options), tiny.vit(1, **options)
        timm.from_timm(other, timm.to_timm(backbone))
        tiny.assert_same(other, backbone)

    def test_names_and_layout_are_timms(self):
        backbone = shaken()
        tensors = timm.to_timm(backbone, size=16)
        assert tensors["patch_embed.proj.weight"].shape == (24, 3, 4, 4)
        kernel = np.asarray(backbone.embedding.kernel[...]).reshape(4, 4, 3, 24)
        np.testing.assert_array_equal(tensors["patch_embed.proj.weight"][5, 2, 1, 3], kernel[1, 3, 2, 5])
        assert tensors["blocks.1.attn.qkv.weight"].shape == (72, 24)
        assert tensors["pos_embed"].shape == (1, 17, 24) and (tensors["pos_embed"][0, 0] == 0).all()
        assert tensors["cls_token"].shape == (1, 1, 24)
        # 12 for each block; class token, positions, and weight and bias of embedding and norm.
        assert len(tensors) == 2 * 12 + 2 + 4
        with pytest.raises(ValueError, match="18 px do not divide into patches of 4 px"):
            timm.to_timm(backbone, size=18)

    def test_classifier_decoder_and_fixed_positions_may_be_there(self):
        backbone, other = shaken(), tiny.vit(1)
        extra = dict.fromkeys(("head.weight", "mask_token", "decoder_embed.bias"), np.zeros(3, np.float32))
        for size in (8, 20):
            timm.from_timm(other, {**timm.to_timm(backbone, size=size), **extra})
            tiny.assert_same(other, backbone)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"patch": 8}, r"tiny_vit \(width 1, patch 8, 3 channels\): .*misshaped.*model.patch: theirs is 4"),
            ({"width": 0.5}, "model.name or model.width: theirs has 24 features, this one 16"),
            ({"channels": 1}, "channels: theirs takes 3, this one 1"),
            ({"dimensions": 3}, r"weights of a 2-D network, and this one is 3-D \(model.dimensions\)"),
        ],
    )
    def test_weights_of_another_model_are_explained_and_nothing_changes(self, options, message):
        backbone = tiny.vit(**options)
        before = tiny.arrays(backbone)
        with pytest.raises(ValueError, match=message):
            timm.from_timm(backbone, timm.to_timm(shaken()))
        tiny.assert_same(backbone, before)

    def test_learnt_positions_and_other_networks_are_refused(self):
        backbone = tiny.vit()
        learnt = {**timm.to_timm(backbone), "pos_embed": random_images(1, 17, 24)}
        with pytest.raises(ValueError, match="fixed sines and cosines, and their pos_embed is something else"):
            timm.from_timm(backbone, learnt)
        with pytest.raises(ValueError, match=r"no patch_embed.proj.weight at all: .* not weights of a ViT"):
            timm.from_timm(backbone, torchvision.to_torchvision(tiny.backbone()))

    def test_files_keep_a_backbone_and_start_another(self, tmp_path, tiny_in_the_table):  # noqa: F811
        model = {"name": "tiny_vit", "patch": 4}
        backbone = models.make_backbone(**model, rngs=nnx.Rngs(0))
        weights.save_backbone(tmp_path, backbone, {"task": "mae"})
        again, info = weights.load_backbone(tmp_path)
        assert again.config == backbone.config == info["model"] and info["task"] == "mae"
        tiny.assert_same(again, backbone)
        weights.export_backbone(backbone, tmp_path / "elsewhere.safetensors", size=64)
        assert tensors.read_weights(tmp_path / "elsewhere.safetensors")["pos_embed"].shape == (1, 257, 24)
        tiny.assert_same(weights.starting_backbone(model, str(tmp_path / "elsewhere.safetensors"), 1), backbone)
        with pytest.raises(ValueError, match="init: .*no conv1.weight at all"):
            weights.starting_backbone({"name": "tiny", "width": 0.125}, str(tmp_path), 0)

    @pytest.mark.parametrize(("dimensions", "channels"), [(2, 3), (3, 1)])
    def test_tokens_are_those_of_pytorch(self, dimensions, channels, tmp_path):
        torch = pytest.importorskip("torch")
        import torch_vit

        sizes = {"patch": 4, "channels": channels, "dimensions": dimensions}
        features, blocks, heads = tiny.TINY_VIT
        network = torch_vit.ViT(features=features, blocks=blocks, heads=heads, size=16, **sizes)
        backbone = shaken(**sizes)
        weights.export_backbone(backbone, tmp_path / "b.safetensors", size=16)
        exported = tensors.read_weights(tmp_path / "b.safetensors")
        outcome = network.load_state_dict({n: torch.from_numpy(t) for n, t in exported.items()}, strict=False)
        assert set(outcome.missing_keys) == {"head.weight", "head.bias"} and not outcome.unexpected_keys
        images = random_images(2, *(16,) * dimensions, channels)
        with torch.no_grad():
            expected = network(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).numpy()[:, 1:]
        ends = run(backbone, images)
        np.testing.assert_allclose(ends["stage4"].reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
        torch.save(network.state_dict(), tmp_path / "network.pth")
        other = tiny.vit(1, **sizes)
        timm.from_timm(other, tensors.read_weights(tmp_path / "network.pth"))
        tiny.assert_same(other, backbone)
