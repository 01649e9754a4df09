"""Both ways of computing a convolution are the same convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aiseeme_jax.models.convolution import convolve, max_pool

LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize(
    ("side", "size", "stride", "by_product"),
    [(1, 3, 1, True), (2, 3, 1, True), (2, 3, 2, True), (4, 3, 2, True), (3, 3, 2, True),
     pytest.param(11, 7, 2, True, marks=pytest.mark.slow),
     (3, 3, 1, False), (6, 3, 2, False), (2, 1, 1, False), (2, 1, 2, False), (16, 7, 2, False)],
)  # fmt: skip
def test_convolution_is_that_of_xla(side, size, stride, by_product):
    generator = np.random.default_rng(0)
    maps = jnp.asarray(generator.standard_normal((2, side, side, 5)), jnp.float32)
    kernel = jnp.asarray(generator.standard_normal((size, size, 5, 4)), jnp.float32)
    strides, padding = (stride, stride), [(size // 2, size // 2)] * 2

    def ours(maps, kernel):
        return convolve(maps, kernel, strides, padding, dimension_numbers=LAYOUT)

    def reference(maps, kernel):
        return jax.lax.conv_general_dilated(maps, kernel, strides, padding, dimension_numbers=LAYOUT)

    assert ("conv_general_dilated" not in str(jax.make_jaxpr(ours)(maps, kernel))) == by_product
    np.testing.assert_allclose(ours(maps, kernel), reference(maps, kernel), atol=1e-4)
    for one, other in zip(
        jax.grad(lambda *a: jnp.sum(ours(*a) ** 2), (0, 1))(maps, kernel),
        jax.grad(lambda *a: jnp.sum(reference(*a) ** 2), (0, 1))(maps, kernel),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-2)


def test_oblong_maps():
    """Smaller than the kernel in one direction only is not small."""
    maps, kernel = jnp.ones((1, 2, 9, 1)), jnp.ones((3, 3, 1, 1))
    result = convolve(maps, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=LAYOUT)
    np.testing.assert_array_equal(result[0, :, :, 0], [[4.0, *[6.0] * 7, 4.0]] * 2)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 7), (8, 16)])
def test_pooling_is_that_of_xla(shape):
    maps = jnp.asarray(np.random.default_rng(0).standard_normal((2, *shape, 3)), jnp.float32)

    def reference(maps):
        return nnx.max_pool(maps, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    np.testing.assert_array_equal(max_pool(maps), reference(maps))
    ours, theirs = (jax.grad(lambda x, pool=pool: jnp.sum(pool(x) ** 2))(maps) for pool in (max_pool, reference))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
