"""What losses share: precision, normalisation, checks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_NORM_FLOOR = 1e-12


def wide(x) -> Float[Array, "..."]:
    """The array in float32, or in float64 if it is float64."""
    x = jnp.asarray(x)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32) if floating else jnp.float32)


def matmul(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    """Matrix product in full float32. Otherwise accelerators round the factors to 10 or 8 bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def normalise(rows: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Scales rows to length 1, in float32 or wider. A zero row has no direction: it stays zero and gets no gradient."""
    rows = wide(rows)
    squared_norm = jnp.sum(jnp.square(rows), axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.maximum(squared_norm, _NORM_FLOOR**2))
    return rows * jnp.where(squared_norm > _NORM_FLOOR**2, scale, 0)


def image_means(values: Float[Array, "rows *rest"], images: int) -> Float[Array, " images"]:
    """Of rows that are image-major, the mean of all values of each image."""
    return jnp.mean(values.reshape(images, -1), axis=1)


def image_shares(
    values: Float[Array, "rows *rest"], weights: Float[Array, "rows *rest"], images: int
) -> Float[Array, " images"]:
    """Of rows that are image-major, what each image adds to the weighted mean sum(w v) / sum(w) of all values.

    The mean of the shares is that weighted mean. Without any weight they are 0.
    """
    weighted = jnp.sum((weights * values).reshape(images, -1), axis=1)
    return images * weighted / jnp.where(jnp.any(weights > 0), jnp.sum(weights), 1)


def check_same_shape(**arrays: Array) -> None:
    """Raises ValueError unless all arrays have the same shape."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes differ: {listed}")


def check_rows(least: int, why: str, **arrays: Array) -> None:
    """Raises ValueError, which says why, unless arrays have at least so many rows. Shapes are known while tracing."""
    for name, array in arrays.items():
        if jnp.shape(array)[0] < least:
            raise ValueError(f"{name} has {jnp.shape(array)[0]} rows; it must have at least {least}: {why}")


def check_positive(**numbers: float) -> None:
    """Raises ValueError for a number that is not positive. A traced one (a learnt temperature) cannot be checked."""
    for name, number in numbers.items():
        if isinstance(number, int | float) and not number > 0:
            raise ValueError(f"{name} is {number}; it must be positive")
