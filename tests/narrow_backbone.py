"""A small backbone with a history, for tests of files."""

import jax
import numpy as np
from flax import nnx

from aiseeme_jax import models

MODEL = {"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32", "channels": 3}


def narrow(seed: int = 0, dtype: str = "float32"):
    """A backbone of the table, with running statistics that are not those it was born with."""
    made = models.make_backbone(**{**MODEL, "dtype": dtype}, rngs=nnx.Rngs(seed))
    random = np.random.default_rng(seed)
    noise = lambda x: x + random.random(x.shape).astype(np.float32)  # noqa: E731
    nnx.update(made, jax.tree.map(noise, nnx.state(made, nnx.BatchStat)))
    return made
