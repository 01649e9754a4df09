"""The way back from maps to images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aiseeme_jax import models

pytestmark = pytest.mark.slow


class Maps(nnx.Module):
    """A backbone whose maps are cut out of its images: a coarse one, a finer one."""

    channels, features, dimensions = 2, 2, 2

    def __call__(self, x, *, train):
        return {"stage1": x[:, ::2, ::2], "stage2": x[:, ::4, ::4], "pooled": x.mean(axis=(1, 2))}


def decoder_of(name: str, size: int, **options):
    """A decoder around a narrow ResNet, and the shape it gives; nothing is computed."""
    options = {"dimensions": 2, "skips": True, **options}
    dimensions = options["dimensions"]
    backbone = models.make_backbone(name, width=0.125, channels=1, dimensions=dimensions, rngs=nnx.Rngs(0))
    decoder = models.Decoder(backbone, size, 5, **options, rngs=nnx.Rngs(1))
    graph, state = nnx.split((backbone, decoder))

    def run(state, x):
        backbone, decoder = nnx.merge(graph, state)
        return decoder(backbone(x, train=False), train=False)

    x = jax.ShapeDtypeStruct((2, *[size] * dimensions, 1), jnp.float32)
    return decoder, jax.eval_shape(run, nnx.as_pure(state), x)


class TestSizes:
    def test_skips_lie_beside_the_map_of_their_size(self):
        decoder, result = decoder_of("resnet18", 64)
        steps = ((4, "stage3"), (8, "stage2"), (16, "stage1"), (32, None), (64, None))
        assert (decoder.start, decoder.steps, decoder.side) == ("stage4", steps, 64)
        assert result.shape == (2, 64, 64, 5) and result.dtype == jnp.float32
        inputs = [kernel.kernel.shape[-2:] for kernel in decoder.convolutions]
        assert inputs == [(64 + 32, 32), (32 + 16, 16), (16 + 8, 8), (8, 8), (8, 8)]

    def test_without_skips_all_comes_from_the_last_map(self):
        decoder, result = decoder_of("resnet18", 64, skips=False, stride=4)
        assert decoder.steps == ((4, None), (8, None), (16, None)) and result.shape == (2, 16, 16, 5)

    @pytest.mark.parametrize("skips", [True, False])
    def test_odd_sizes_come_out_as_they_went_in(self, skips):
        decoder, result = decoder_of("resnet18", 33, skips=skips)
        assert result.shape == (2, 33, 33, 5)
        assert [side for side, _ in decoder.steps] == ([3, 5, 9, 18, 33] if skips else [4, 8, 16, 32, 33])

    def test_volumes_and_half_precision(self):
        decoder, result = decoder_of("resnet18", 16, dimensions=3, dtype="bfloat16")
        assert result.shape == (2, 16, 16, 16, 5) and result.dtype == jnp.float32
        assert decoder.convolutions[0].kernel.shape[:3] == (3, 3, 3)


def by_hand(decoder: models.Decoder, coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """What a decoder with one step makes of its maps in training."""
    beside = np.concatenate([coarse.repeat(2, axis=1).repeat(2, axis=2), fine], axis=-1)
    kernel = np.asarray(decoder.convolutions[0].kernel, np.float64)
    padded = np.pad(beside, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = beside.shape[1]
    x = sum(padded[:, i : i + side, j : j + side] @ kernel[i, j] for i in range(3) for j in range(3))
    x = (x - x.mean(axis=(0, 1, 2))) / np.sqrt(x.var(axis=(0, 1, 2)) + 1e-5)
    return np.maximum(x, 0) @ np.asarray(decoder.head.kernel) + np.asarray(decoder.head.bias)


def test_a_step_repeats_concatenates_convolves_and_normalises():
    decoder = models.Decoder(Maps(), 8, 3, dimensions=2, skips=True, stride=2, rngs=nnx.Rngs(0))
    assert decoder.steps == ((4, "stage1"),)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 2)), jnp.float32)
    maps = Maps()(x, train=True)
    expected = by_hand(decoder, *(np.asarray(maps[name], np.float64) for name in ("stage2", "stage1")))
    np.testing.assert_allclose(decoder(maps, train=True), expected, atol=1e-4)
    alone = models.Decoder(Maps(), 8, 3, dimensions=2, skips=False, stride=2, rngs=nnx.Rngs(0))
    other = {**maps, "stage1": maps["stage1"] + 1}
    np.testing.assert_array_equal(alone(maps, train=True), alone(other, train=True))
