"""Features of a whole split."""

import jax
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import augment, data
from aiseeme_jax.evaluate import features

VIEWS = augment.Views(size=16)


@pytest.fixture(scope="module")
def backbone(make_tiny_backbone):
    return make_tiny_backbone()


@pytest.fixture(scope="module")
def split():
    return data.from_arrays(np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3), np.uint8))


def test_rows_in_order_whatever_the_batch(backbone, split):
    directly = backbone(augment.central_view(split.images(), VIEWS), train=False)["pooled"]
    for batch_size in (8, 16, 64):
        found = features.extract(backbone, split, views=VIEWS, batch_size=batch_size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, directly, rtol=1e-4, atol=1e-5)
    assert np.abs(np.diff(found, axis=0)).max() > 1e-3, "rows that are all alike would prove nothing"


def test_nothing_in_the_backbone_changes(backbone, split):
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(backbone)))
    features.extract(backbone, split, views=VIEWS, batch_size=8)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(backbone)), before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_every_endpoint_is_that_of_a_direct_pass_averaged_over_positions(split, kind):
    body = tiny.backbone() if kind == "resnet" else tiny.vit()
    directly = body(augment.central_view(split.images(), VIEWS), train=False)
    assert set(directly) == {"stem", "stage1", "stage2", "stage3", "stage4", "pooled"}
    for endpoint, values in directly.items():
        found = features.extract(body, split, views=VIEWS, batch_size=8, endpoint=endpoint)
        mean = np.asarray(values).reshape(len(split), -1, values.shape[-1]).mean(axis=1)
        np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-5)


def test_an_unknown_endpoint_is_named(backbone, split):
    with pytest.raises(ValueError, match="no endpoint 'layer9': there are .*stage1.*pooled"):
        features.extract(backbone, split, views=VIEWS, batch_size=8, endpoint="layer9")
