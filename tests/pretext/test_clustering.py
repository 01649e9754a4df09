"""Whitening and k-means against NumPy, and what becomes of clusters that lose their rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aiseeme_jax.pretext import clustering


def kmeans(rows, clusters, *, iterations=20, seed=0):
    run = jax.jit(clustering.kmeans, static_argnums=2, static_argnames="iterations")
    return jax.tree.map(
        np.asarray, run(jax.random.key(seed), jnp.asarray(rows, jnp.float32), clusters, iterations=iterations)
    )


def blobs(sizes=(12, 3, 20, 7, 8), seed=0):
    """Rows [50, 6] in tight blobs far apart, shuffled, and the blob of each."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return 10 * np.eye(6)[labels] + 0.01 * random.standard_normal((sum(sizes), 6)), labels


def assert_same_partition(found, labels):
    """Equal but for the names of the clusters."""
    pairs = set(zip(found.tolist(), labels.tolist(), strict=True))
    assert len(pairs) == len(set(found.tolist())) == len(set(labels.tolist()))


class TestWhitening:
    def test_is_that_of_the_principal_components(self):
        random = np.random.default_rng(0)
        rows = random.standard_normal((40, 6)) @ random.standard_normal((6, 6)) + 3
        found = np.asarray(jax.jit(clustering.whitened, static_argnums=1)(jnp.asarray(rows, jnp.float32), 4))
        left, _, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
        expected = left[:, :4] * np.sqrt(40)
        # The direction of an axis is anyone's choice.
        np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(found.T @ found / 40, np.eye(4), atol=1e-3)

    @pytest.mark.parametrize("shape, components", [((40, 6), 6), ((4, 6), 3)])
    def test_there_are_no_more_components_than_features_or_differences_of_rows(self, shape, components):
        rows = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
        assert clustering.whitened(rows, 256).shape == (shape[0], components)

    def test_what_does_not_vary_is_left_at_zero_and_not_blown_up(self):
        rows = np.random.default_rng(0).standard_normal((40, 6))
        rows[:, 2:] = 5.0
        found = np.asarray(clustering.whitened(jnp.asarray(rows, jnp.float32), 6))
        np.testing.assert_allclose(found[:, :2].std(axis=0), 1, rtol=1e-4)
        np.testing.assert_array_equal(found[:, 2:], 0)
        np.testing.assert_array_equal(clustering.whitened(jnp.ones((8, 3)), 3), 0)


class TestKMeans:
    @pytest.mark.parametrize("chunk", [4096, 16])
    def test_blobs_far_apart_are_found_exactly(self, chunk, monkeypatch):
        monkeypatch.setattr(clustering, "CHUNK", chunk)
        rows, labels = blobs()
        found = kmeans(rows, 5)
        assert_same_partition(found.labels, labels)
        for cluster in range(5):
            members = rows[found.labels == cluster]
            assert found.counts[cluster] == len(members)
            np.testing.assert_allclose(found.centroids[cluster], members.mean(axis=0), atol=1e-5)

    def test_ends_where_every_row_is_nearest_to_the_mean_of_its_own_cluster(self):
        rows = np.random.default_rng(0).standard_normal((50, 6))
        found = kmeans(rows, 5)
        means = np.stack([rows[found.labels == cluster].mean(axis=0) for cluster in range(5)])
        distances = np.square(rows[:, None] - means).sum(axis=2)
        np.testing.assert_array_equal(found.labels, distances.argmin(axis=1))
        np.testing.assert_allclose(found.centroids, means, atol=1e-5)

    def test_key_decides(self):
        rows = np.random.default_rng(0).standard_normal((50, 6))
        one, again, other = (kmeans(rows, 5, seed=seed).labels for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)

    def test_empty_clusters_are_filled_from_afar(self, monkeypatch):
        """All five centroids on one row: the first takes everything."""
        rows, labels = blobs()
        monkeypatch.setattr(clustering, "_seeds", lambda key, rows, clusters: jnp.tile(rows[:1], (clusters, 1)))
        assert_same_partition(kmeans(rows, 5).labels, labels)

    def test_an_empty_cluster_starts_at_the_farthest_row_a_second_one_at_the_next(self):
        rows = jnp.arange(8.0).reshape(4, 2)
        distances = jnp.array([0.0, 5.0, 9.0, 1.0])
        sums, counts = jnp.array([[0.0, 0.0], [6.0, 8.0], [0.0, 0.0]]), jnp.array([0.0, 4.0, 0.0])
        found = clustering._centroids(rows, distances, sums, counts)
        np.testing.assert_array_equal(found, [rows[2], [1.5, 2.0], rows[1]])

    def test_fewer_different_rows_than_clusters_leave_clusters_empty(self):
        rows = np.eye(6)[np.array([0, 1, 2] * 4)]
        found = kmeans(rows, 5)
        assert_same_partition(found.labels, np.array([0, 1, 2] * 4))
        assert np.isfinite(found.centroids).all() and found.counts.sum() == 12
        np.testing.assert_array_equal(np.bincount(found.labels, minlength=5), found.counts)
