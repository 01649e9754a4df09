"""Parameters of a backbone by their names."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax.models import layers


def names(network):
    return [".".join(map(str, path)) for path in nnx.to_flat_state(nnx.state(network, nnx.Param)).paths]


@pytest.mark.parametrize("make", [tiny.backbone, tiny.vit])
def test_what_is_outside_norms_and_within_is_everything(make):
    network = make()
    outside = layers.list_outside_norms(network)
    within = set(names(network)) - set(outside)
    assert outside and within and all("norm" in name for name in within)
    assert not any("norm" in name for name in outside)


@pytest.mark.parametrize("make", [tiny.backbone, tiny.vit])
def test_every_parameter_has_one_factor_that_grows_towards_the_head(make):
    network = make()
    factors = layers.scale_by_layer(network, 0.5)
    for name in names(network):
        found = [factor for start, factor in factors if f"{name}.".startswith(f"{start}.")]
        # The last norm of a ViT comes after its layers.
        assert len(found) == (0 if name.startswith("norm.") else 1), name
    count = len(network.layers)
    assert [factor for _, factor in factors] == sorted(factor for _, factor in factors)
    assert {factor for _, factor in factors} == {0.5 ** (count - place) for place in range(count)}


def test_the_first_layer_is_what_the_image_meets():
    assert tiny.backbone().layers[0] == ("stem_convolution", "stem_norm")
    assert tiny.vit().layers[0] == ("embedding", "class_token")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.state(tiny.vit(), nnx.Param)))
