"""Backbones: shapes, types, modes, initial weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from aiseeme_jax import models
from aiseeme_jax.models.resnet import Norm
from aiseeme_jax.weights import torchvision


def narrow(name="resnet18", **fields):
    fields = {"width": 0.125, "stem": "small", **fields}
    return models.make_backbone(name, rngs=nnx.Rngs(0), **fields)


def random_images(batch=4, size=16, channels=3, seed=0):
    generator = np.random.default_rng(seed)
    return jnp.asarray(generator.standard_normal((batch, size, size, channels)), jnp.float32)


def parameters(backbone):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(backbone, nnx.Param)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "features", "count"),
    # Parameters of torchvision's networks without their classifiers.
    [("resnet18", 512, 11_176_512), ("resnet34", 512, 21_284_672), ("resnet50", 2048, 23_508_032)],
)
def test_full_networks_have_the_published_size(name, features, count):
    backbone = nnx.eval_shape(lambda: models.make_backbone(name, rngs=nnx.Rngs(0)))
    assert backbone.features == features and parameters(backbone) == count


@pytest.mark.parametrize(("stem", "sides"), [("standard", (16, 16, 8, 4, 2)), ("small", (64, 64, 32, 16, 8))])
@pytest.mark.parametrize(("name", "expansion"), [("resnet18", 1), pytest.param("resnet50", 4, marks=pytest.mark.slow)])
def test_endpoints(name, expansion, stem, sides):
    backbone = narrow(name, stem=stem)
    ends = nnx.eval_shape(lambda m: m(jnp.zeros((2, 64, 64, 3)), train=False), backbone)
    channels = [8] + [expansion * c for c in (8, 16, 32, 64)]
    for end, side, count in zip(("stem", "stage1", "stage2", "stage3", "stage4"), sides, channels, strict=True):
        assert ends[end].shape == (2, side, side, count)
    assert ends["pooled"].shape == (2, backbone.features) and backbone.features == 64 * expansion


def test_width_is_rounded_to_multiples_of_eight():
    backbone = nnx.eval_shape(lambda: models.make_backbone("resnet18", width=0.3, rngs=nnx.Rngs(0)))
    assert backbone.stem_convolution.kernel.shape == (7, 7, 3, 16)  # 19.2
    assert backbone.features == 152  # 153.6


@pytest.mark.slow
def test_half_precision_keeps_weights_statistics_and_features_in_float32():
    backbone, exact = narrow(dtype="bfloat16"), narrow()
    ends = backbone(random_images(), train=True)
    assert ends["stage4"].dtype == jnp.bfloat16 and ends["pooled"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(backbone))} == {jnp.dtype("float32")}
    expected = exact(random_images(), train=True)["pooled"]
    np.testing.assert_allclose(ends["pooled"], expected, atol=0.05 * float(jnp.abs(expected).max()))


def test_running_averages_are_not_rounded_in_half_precision():
    backbone = narrow(dtype="bfloat16")
    norm = backbone.stem_norm
    norm.mean[...] = jnp.full(8, 100.3)
    x = jnp.full((1, 1, 1, 8), 100.0, jnp.bfloat16)
    np.testing.assert_allclose(norm(x, train=False).astype(jnp.float32), -0.3, rtol=0.01)


@pytest.mark.slow
def test_train_moves_the_averages_and_evaluation_uses_them():
    backbone, images = narrow(), random_images()
    before = jax.tree.map(jnp.copy, nnx.state(backbone, nnx.BatchStat))
    first = backbone(images, train=False)["pooled"]
    unmoved = nnx.state(backbone, nnx.BatchStat)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), before, unmoved)))
    backbone(images, train=True)
    moved = nnx.state(backbone, nnx.BatchStat)
    assert not any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), before, moved)))
    assert np.abs(np.asarray(backbone(images, train=False)["pooled"] - first)).max() > 1e-3


@pytest.mark.slow
def test_train_is_the_argument_and_not_the_mode_of_the_module():
    backbone, images = narrow(), random_images()
    expected = backbone(images, train=False)["pooled"]
    backbone.train()
    np.testing.assert_array_equal(backbone(images, train=False)["pooled"], expected)
    backbone.eval()
    assert np.abs(np.asarray(backbone(images, train=True)["pooled"] - expected)).max() > 1e-3


def averages_by_definition(batches):
    """Running mean and variance as PyTorch gathers them: a tenth of each batch's mean and unbiased variance."""
    mean, variance = np.zeros(batches[0].shape[-1]), np.ones(batches[0].shape[-1])
    for batch in batches:
        values = batch.astype(np.float64).reshape(-1, batch.shape[-1])
        mean, variance = 0.9 * mean + 0.1 * values.mean(axis=0), 0.9 * variance + 0.1 * values.var(axis=0, ddof=1)
    return mean, variance


class TestRunningAverages:
    """Few values of a channel, so that the unbiased variance is far from the biased one."""

    STEPS = 20

    def batches(self, *shape):
        generator = np.random.default_rng(0)
        return [generator.normal(2.0, 3.0, shape).astype(np.float32) for _ in range(self.STEPS)]

    @pytest.mark.parametrize("careful", [False, True])
    @pytest.mark.parametrize("shape", [(2, 3), (4, 2, 1, 3), (2, 1, 1, 1, 3)])
    def test_they_gather_the_unbiased_variance(self, shape, careful):
        norm = Norm(3, careful=careful, rngs=nnx.Rngs(0))
        batches = self.batches(*shape)
        for batch in batches:
            normalised = norm(jnp.asarray(batch), train=True)
        mean, variance = averages_by_definition(batches)
        np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
        np.testing.assert_allclose(norm.var[...], variance, rtol=1e-5)
        axes = tuple(range(len(shape) - 1))
        expected = (batch - batch.mean(axis=axes)) / np.sqrt(batch.var(axis=axes) + 1e-5)
        np.testing.assert_allclose(normalised, expected, atol=1e-3, err_msg="the batch itself has the biased one")

    def test_they_are_those_of_the_global_batch_on_eight_devices(self):
        rows = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
        graph, state = nnx.split(Norm(3, rngs=nnx.Rngs(0)))

        @jax.jit
        def step(state, batch):
            norm = nnx.merge(graph, state)
            norm(batch, train=True)
            return nnx.state(norm)

        batches = self.batches(8, 1, 1, 3)
        for batch in batches:
            state = step(state, jax.device_put(batch, rows))
        mean, variance = averages_by_definition(batches)
        np.testing.assert_allclose(state["mean"][...], mean, rtol=1e-5)
        np.testing.assert_allclose(state["var"][...], variance, rtol=1e-5)

    def test_one_value_of_a_channel_is_an_error_in_training_alone(self):
        norm = Norm(3, rngs=nnx.Rngs(0))
        with pytest.raises(
            ValueError, match=r"\(1, 1, 1, 3\) in training: a channel needs at least 2 values; raise the b"
        ):
            norm(jnp.ones((1, 1, 1, 3)), train=True)
        np.testing.assert_array_equal(norm.var[...], 1)
        np.testing.assert_allclose(norm(jnp.ones((1, 1, 1, 3)), train=False), 1, rtol=1e-5)

    @pytest.mark.slow
    def test_those_of_a_backbone_are_the_statistics_of_its_maps(self):
        backbone, images = narrow(), random_images(size=4)
        backbone(images, train=True)
        mean, variance = averages_by_definition([np.asarray(backbone.stem_convolution(images))])
        np.testing.assert_allclose(backbone.stem_norm.mean[...], mean, atol=1e-5)
        np.testing.assert_allclose(backbone.stem_norm.var[...], variance, rtol=1e-4)

    @pytest.mark.slow
    def test_backbone_and_head_gather_what_pytorch_gathers(self):
        torch = pytest.importorskip("torch")
        import torch_resnet

        network = torch_resnet.randomised("resnet18", 0.125, "small").train()
        backbone = narrow()
        torchvision.from_torchvision(backbone, {n: t.numpy().copy() for n, t in network.state_dict().items()})
        their_head = torch.nn.Sequential(torch.nn.Linear(64, 8, bias=False), torch.nn.BatchNorm1d(8))
        head = models.MLP(64, (), 8, final_norm=True, rngs=nnx.Rngs(0))
        head.layers[0].kernel.set_value(jnp.asarray(their_head[0].weight.detach().numpy().T))
        step = nnx.jit(lambda backbone, head, x: head(backbone(x, train=True)["pooled"], train=True))
        for images in self.batches(4, 8, 8, 3):
            step(backbone, head, jnp.asarray(images))
            with torch.no_grad():
                their_head(network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())))
        found = torchvision.to_torchvision(backbone)
        theirs = {n: t.numpy() for n, t in network.state_dict().items() if "running" in n}
        assert len(theirs) == 40
        for name, expected in theirs.items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(head.norms[0].var[...], their_head[1].running_var.numpy(), rtol=1e-3)
        np.testing.assert_allclose(head.norms[0].mean[...], their_head[1].running_mean.numpy(), atol=1e-3)

    def test_to_set_one_asks_nothing_of_the_array(self):
        """What is asked of a traced array takes as long as the program is so far."""
        norm, anything = Norm(3, rngs=nnx.Rngs(0)), object()
        for average in (norm.mean, norm.var):
            average[...] = anything
            assert average.get_value() is anything


@pytest.mark.slow
def test_blocks_start_as_the_identity():
    backbone = narrow()
    ends = backbone(random_images(), train=True)
    np.testing.assert_allclose(ends["stage1"], ends["stem"], atol=1e-6)


def test_convolutions_start_with_the_variance_of_he():
    kernel = np.asarray(narrow(width=0.25).stages[3][1].convolutions[1].kernel[...])
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)


def test_weights_are_a_function_of_the_seed():
    one, same, other = (
        models.make_backbone("resnet18", width=0.125, rngs=nnx.Rngs(seed)).stem_convolution.kernel[...]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_grey_images_have_a_backbone_of_their_own():
    backbone = narrow(channels=1)
    assert backbone.channels == 1
    assert backbone(random_images(channels=1), train=False)["pooled"].shape == (4, 64)
    with pytest.raises(ValueError, match=r"\[B, H, W, 1\], not \(4, 16, 16, 3\)"):
        backbone(random_images(), train=False)


@pytest.mark.slow
def test_config_makes_the_backbone_again():
    backbone = narrow("resnet50", dtype="bfloat16", channels=1)
    again = models.make_backbone(**backbone.config, rngs=nnx.Rngs(0))
    assert again.config == backbone.config
    assert nnx.graphdef(again) == nnx.graphdef(backbone)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "resnet19"}, "'resnet19': known are resnet14, resnet18, resnet34, resnet50"),
        ({"stem": "big"}, "'big': known are standard, small"),
        ({"width": 0.0}, "positive factor, not 0"),
        ({"dtype": "int32"}, "model.dtype is 'int32': known are float32, bfloat16"),
    ],
)
def test_unknown_options_are_named_with_the_known(fields, message):
    with pytest.raises(ValueError, match=message):
        narrow(**fields)
