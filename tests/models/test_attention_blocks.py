"""Residual blocks with attention: the formula, the plain block, names of weights, keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import tiny_in_the_table  # noqa: F401

from aiseeme_jax import models, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.models import resnet
from aiseeme_jax.models.attention import spatial_softmax, weigh_input
from aiseeme_jax.training.optimizers import decayed

RANDOM = np.random.default_rng(0)


@nnx.jit
def run(body, images):
    return body(images, train=False)


def make_block(attention, scale, *, bottleneck):
    """A block with a projection and a residual that is not zero."""
    block = resnet.Block(
        8, 4, 2, bottleneck=bottleneck, attention=attention, scale=scale, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    block.norms[-1].scale.set_value(jnp.ones_like(block.norms[-1].scale[...]))
    return block


@nnx.jit
def pass_through(block, x):
    return block(x, train=True), block(x, train=False)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_scale_of_zero_is_the_plain_block_bit_for_bit(bottleneck):
    x = jnp.asarray(RANDOM.normal(size=(2, 6, 6, 8)), jnp.float32)
    plain, zero, more = (make_block(*how, bottleneck=bottleneck) for how in (("none", 0), ("arl", 0.0), ("arl", 9.0)))
    for found, expected, other in zip(*(pass_through(block, x) for block in (zero, plain, more)), strict=True):
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes() and not np.allclose(other, expected)


def test_attention_is_that_of_loops():
    residual, shortcut = (RANDOM.normal(size=(2, 3, 4, 5)).astype(np.float32) for _ in range(2))
    expected = np.zeros_like(residual)
    for image in range(2):
        for channel in range(5):
            exponentials = np.exp(residual[image, :, :, channel].astype(np.float64))
            expected[image, :, :, channel] = exponentials / exponentials.sum() * shortcut[image, :, :, channel]
    np.testing.assert_allclose(spatial_softmax(residual).sum(axis=(1, 2)), 1, rtol=1e-6)
    for kind, factor in (("arl", 0.5), ("arl_gain", 0.5 * 12)):
        found = weigh_input(jnp.asarray(residual), jnp.asarray(shortcut), jnp.float32(0.5), kind)
        np.testing.assert_allclose(found, factor * expected, rtol=1e-5)


def test_a_term_below_the_steps_of_bfloat16_is_not_lost():
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 8))
    added = {}
    for dtype in ("float32", "bfloat16"):
        block = resnet.Block(8, 8, 1, bottleneck=False, attention="arl_gain", dtype=dtype, rngs=nnx.Rngs(0))
        block.norms[-1].scale.set_value(jnp.full(8, 0.5))
        means = []
        for scale in (0.0, 1e-3):
            block.attention_scale.set_value(jnp.float32(scale))
            means.append(float(jnp.mean(run(block, jnp.asarray(x, dtype)), dtype=jnp.float32)))
        added[dtype] = means[1] - means[0]
    # Added in bfloat16, less than a tenth of it would be left.
    assert added["bfloat16"] == pytest.approx(added["float32"], rel=0.3)


def test_the_scale_learns_from_the_first_step_and_is_not_decayed():
    block = resnet.Block(8, 8, 1, bottleneck=False, attention="arl", dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray(RANDOM.normal(size=(2, 4, 4, 8)), jnp.float32)
    gradient = nnx.jit(nnx.grad(lambda block: jnp.sum(block(x, train=True) ** 2)))(block)
    assert abs(float(gradient.attention_scale.get_value())) > 1e-3, "though the residual starts at zero"
    assert not decayed(nnx.to_pure_dict(nnx.state(block, nnx.Param)))["attention_scale"]


@pytest.mark.parametrize("name, expected", [("resnet14", 8_020_034), ("resnet50", 23_512_130)])
def test_parameters_are_those_of_the_papers_table(name, expected):
    """With a head of two classes. The scales are not in the paper's count."""
    body = nnx.eval_shape(lambda: models.make_backbone(name, attention="arl", rngs=nnx.Rngs(0)))
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(body, nnx.Param))]
    blocks = sum(map(len, body.stages))
    assert sum(sizes) - blocks + 2048 * 2 + 2 == expected


@pytest.mark.usefixtures("tiny_in_the_table")
class TestWeights:
    def make(self, **fields):
        return models.make_backbone("tiny", width=0.125, stem="small", **fields, rngs=nnx.Rngs(3))

    def test_a_file_has_torchvisions_names_and_the_scales(self, tmp_path):
        body = self.make(attention="arl", attention_scale=0.25)
        body.stages[0][0].attention_scale.set_value(jnp.float32(0.75))
        weights.export_backbone(body, tmp_path / "arl.safetensors")
        again, info = weights.load_backbone(tmp_path / "arl.safetensors")
        tiny.assert_same(again, body)
        assert info["model"]["attention"] == "arl" and info["model"]["attention_scale"] == 0.25
        plain = {**self.make().config}
        with pytest.raises(UserError, match="1 unexpected .layer1.0.attention_scale.* set model.attention as there"):
            weights.starting_backbone(plain, str(tmp_path / "arl.safetensors"), 0)
        other = {**plain, "attention": "arl_gain"}
        with pytest.raises(UserError, match="with attention 'arl', and model.attention is 'arl_gain': make them the"):
            weights.starting_backbone(other, str(tmp_path / "arl.safetensors"), 0)

    def test_a_plain_file_is_a_start_and_its_damage_is_noticed(self, tmp_path):
        plain, file = self.make(), tmp_path / "plain.safetensors"
        weights.export_backbone(plain, file)
        model = {**plain.config, "attention": "arl", "attention_scale": 0.5}
        started = weights.starting_backbone(model, str(file), 0)
        assert float(started.stages[0][0].attention_scale.get_value()) == 0.5
        np.testing.assert_array_equal(started.stem_convolution.kernel[...], plain.stem_convolution.kernel[...])
        content = bytearray(file.read_bytes())
        content[-9] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError, match="damaged: its weights do not have the hash in its header"):
            weights.starting_backbone(model, str(file), 0)


def test_fields_of_attention_are_in_keys_only_where_there_is_some():
    plain = {"name": "resnet18", "width": 1.0}
    assert models.describe_model({**plain, "attention": "none", "attention_scale": 0.5}) == plain
    some = {**plain, "attention": "arl", "attention_scale": 0.5}
    assert models.describe_model(some) == some


def test_what_cannot_be_is_refused():
    for wrong, message in (
        ({"attention": "se"}, "unknown model.attention 'se': known are none, arl, arl_gain"),
        ({"attention_scale": float("nan")}, "model.attention_scale is nan; it must be finite"),
    ):
        with pytest.raises(UserError, match=message):
            models.make_backbone("resnet14", **wrong, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="vit_tiny has no residual blocks .* leave model.attention at 'none'"):
        models.make_backbone("vit_tiny", attention="arl", rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_an_output_stride_of_16_has_the_map_of_32_at_every_second_pixel():
    fields = {"width": 0.125, "rngs": nnx.Rngs(0)}
    dense, sparse = (
        models.make_backbone("resnet18", output_stride=16, **fields),
        models.make_backbone("resnet18", **fields),
    )
    nnx.update(dense, nnx.state(sparse))
    for blocks in dense.stages:
        for block in blocks:
            block.norms[-1].scale.set_value(jnp.ones_like(block.norms[-1].scale[...]))
    nnx.update(sparse, nnx.state(dense))
    images = jnp.asarray(RANDOM.normal(size=(1, 96, 96, 3)), jnp.float32)
    found, expected = run(dense, images)["stage4"], run(sparse, images)["stage4"]
    assert found.shape[1:3] == (6, 6) and expected.shape[1:3] == (3, 3)
    np.testing.assert_allclose(found[:, ::2, ::2], expected, rtol=1e-4, atol=1e-5)
