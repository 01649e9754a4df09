"""The measures of collapse against their definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aiseeme_jax.training.health import HEALTH_ROWS, collapse_warning, feature_health


def measure(features, **options) -> dict[str, float]:
    return {name: float(value) for name, value in feature_health(jnp.asarray(features, **options)).items()}


class TestFeatureHealth:
    rng = np.random.default_rng(0)

    def test_isotropic_cloud(self):
        health = measure(self.rng.normal(size=(512, 32)))
        assert health["feature_std"] == pytest.approx(1, abs=0.02)
        assert 31 < health["effective_rank"] <= 32
        assert collapse_warning(health) is None

    def test_it_follows_the_definitions(self):
        features = self.rng.normal(size=(40, 8)) * np.arange(1, 9) + 3
        health = measure(features)
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        assert health["feature_std"] == pytest.approx(unit.std(axis=0).mean() * math.sqrt(8), rel=1e-4)
        values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
        shares = values / values.sum()
        assert health["effective_rank"] == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-4)

    @pytest.mark.parametrize("constant", [0.0, 1.0, 1234.5])
    def test_constant_features(self, constant):
        features = constant * self.rng.normal(size=(1, 64)) + np.zeros((100, 1))
        health = measure(features)
        assert health["feature_std"] == pytest.approx(0, abs=1e-5)
        assert health["effective_rank"] == 0
        assert "collapse" in collapse_warning(health)

    def test_a_single_direction(self):
        health = measure(self.rng.normal(size=(100, 1)) * self.rng.normal(size=(1, 64)))
        assert health["effective_rank"] == pytest.approx(1, abs=1e-4)
        assert "single direction" in collapse_warning(health)

    def test_two_equal_directions(self):
        health = measure(np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]], np.float32))
        assert health["effective_rank"] == pytest.approx(2, rel=1e-5)

    def test_scale_does_not_matter(self):
        features = self.rng.normal(size=(64, 16))
        one, other = measure(features), measure(1e4 * features)
        assert one == pytest.approx(other, rel=1e-4)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_features_that_are_not_finite(self, bad):
        features = self.rng.normal(size=(16, 8))
        features[3, 2] = bad
        assert collapse_warning(measure(features)) == "the features are not finite"

    def test_bfloat16_and_shards(self):
        features = self.rng.normal(size=(64, 16)).astype(np.float32)
        assert measure(features, dtype=jnp.bfloat16) == pytest.approx(measure(features), rel=0.02)
        rows = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
        assert measure(jax.device_put(features, rows)) == pytest.approx(measure(features), rel=1e-5)

    def test_only_the_first_rows_are_measured(self):
        features = self.rng.normal(size=(HEALTH_ROWS + 100, 4))
        assert measure(features) == pytest.approx(measure(features[:HEALTH_ROWS]), rel=1e-5)
