"""Heads against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aiseeme_jax import models
from aiseeme_jax.models import heads


def batch(count=16, length=12):
    return np.random.default_rng(0).standard_normal((count, length)).astype(np.float32)


def standardised(x):
    return (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("hidden", [(), (20,), (20, 9)])
def test_head_is_linear_norm_relu(hidden, norm, final_norm):
    head = models.MLP(12, hidden, 5, norm=norm, final_norm=final_norm, rngs=nnx.Rngs(0))
    x = expected = batch()
    for i, layer in enumerate(head.layers):
        normed = norm if i < len(hidden) else final_norm
        assert (layer.bias is None) == normed
        expected = expected @ np.asarray(layer.kernel[...])
        expected = standardised(expected) if normed else expected + np.asarray(layer.bias[...])
        expected = np.maximum(expected, 0) if i < len(hidden) else expected
    out = head(jnp.asarray(x), train=True)
    assert out.shape == (16, 5)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_a_head_about_to_collapse_is_still_normalised():
    """A mean of three thousand deviations: E[x²] - E[x]² has no digit left of the variance in float32."""
    head = models.MLP(12, (), 12, final_norm=True, rngs=nnx.Rngs(0))
    head.layers[0].kernel.set_value(jnp.eye(12))
    x = 300 + 0.1 * batch(4096)
    np.testing.assert_allclose(head(jnp.asarray(x), train=True).std(axis=0), 1, atol=1e-3)


def test_evaluation_uses_running_averages():
    head = models.MLP(12, (20,), 5, norm=True, rngs=nnx.Rngs(0))
    x = jnp.asarray(batch())
    one = head(x[:1], train=False)
    np.testing.assert_allclose(head(x, train=False)[:1], one, atol=1e-5)


def test_half_precision_gives_float32():
    head = models.MLP(12, (20,), 5, norm=True, dtype="bfloat16", rngs=nnx.Rngs(0))
    assert head(jnp.asarray(batch()), train=True).dtype == jnp.float32
    assert head.layers[0].kernel.dtype == jnp.float32


def test_the_last_layer_may_lack_norm_scale_or_bias():
    bare = models.MLP(12, (20,), 5, norm=True, final_norm=True, final_affine=False, rngs=nnx.Rngs(0))
    assert bare.norms[0].scale is not None and bare.norms[1].scale is None and bare.norms[1].bias is None
    out = bare(jnp.asarray(batch()), train=True)
    np.testing.assert_allclose(out, standardised(np.asarray(out)), atol=1e-3)
    unbiased = models.MLP(12, (20,), 5, final_bias=False, rngs=nnx.Rngs(0))
    assert unbiased.layers[0].bias is not None and unbiased.layers[1].bias is None


def test_activation_is_applied_between_the_layers():
    head = models.MLP(12, (20,), 5, activation=jnp.tanh, rngs=nnx.Rngs(0))
    first, last = head.layers
    expected = np.tanh(batch() @ first.kernel[...] + first.bias[...]) @ last.kernel[...] + last.bias[...]
    np.testing.assert_allclose(head(jnp.asarray(batch()), train=True), expected, atol=1e-4)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    x = jnp.full((100, 100), 3.0)
    dropped = np.asarray(heads.drop(jax.random.key(0), x, 0.25))
    assert set(np.unique(dropped)) == {0.0, 4.0} and abs((dropped == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(heads.drop(jax.random.key(0), x, 0.0), x)
