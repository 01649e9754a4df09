"""A backbone that compiles in a moment, with what evaluation relies on: endpoints, running statistics."""

import jax.numpy as jnp
import pytest
from flax import nnx


class TinyBackbone(nnx.Module):
    features = 8
    channels = 3

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)

    def __call__(self, x, *, train):
        stage = nnx.relu(self.norm(self.conv(x), use_running_average=not train))
        return {"stage1": stage, "pooled": jnp.mean(stage, axis=(1, 2))}


@pytest.fixture(scope="session")
def make_tiny_backbone():
    return lambda: TinyBackbone(nnx.Rngs(0))
