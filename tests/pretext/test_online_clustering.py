"""SwAV and ODC: losses against NumPy, what time brings, how clusters are dissolved and halved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import pretext
from aiseeme_jax.pretext import odc
from aiseeme_jax.pretext.cluster_count import cluster_count
from aiseeme_jax.training.state import split_state

pytestmark = pytest.mark.slow


def softmax(x):
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


class TestSwAV:
    def views(self, seed):
        random = np.random.default_rng(seed)
        sizes = {"global": (16, 4, 4, 3), "local": (16, 2, 2, 3)}
        return {name: jnp.asarray(random.standard_normal(size), jnp.float32) for name, size in sizes.items()}

    def embed(self, task):
        """Compiled: views -> embeddings [8, 4, d] of the global and the local crops, not brought to length one."""
        graph, state = nnx.split(task)

        @jax.jit
        def run(views):
            merged = nnx.merge(graph, nnx.as_pure(state))
            crops = [merged.backbone(views[name], train=True)["pooled"] for name in ("global", "local")]
            rows = jnp.concatenate([rows.reshape(8, 2, -1) for rows in crops], axis=1)
            return merged.projector(rows.reshape(32, -1), train=True).reshape(8, 4, -1)

        return run

    def reference(self, task, embedded, queues):
        """Loss of embeddings [8, 4, d] of length one, in double precision."""
        directions = np.asarray(task.prototypes(), np.float64)
        terms = []
        for g in range(2):
            rows = embedded[:, g] if queues is None else np.concatenate([queues[g], embedded[:, g]])
            plan = np.exp(rows @ directions / task.epsilon)
            for _ in range(task.iterations):
                plan = plan / plan.sum(axis=0)
                plan = plan / plan.sum(axis=1, keepdims=True)
            for v in {0, 1, 2, 3} - {g}:
                log_p = np.log(softmax(embedded[:, v] @ directions / task.temperature))
                terms.append(-np.mean(np.sum(plan[-8:] * log_p, axis=1)))
        return np.mean(terms)

    # The share of the stage, and the first of the steps 0 to 7 that uses the queue.
    @pytest.mark.parametrize("start, first", [(0.5, 4), (0.0, 2), (1.0, 8)])
    def test_queue_of_the_last_embeddings_is_used_from_its_start_on_but_not_before_it_is_full(self, start, first):
        """Of eight steps of 8 images, with a queue of 16."""
        task = tiny.table_task("swav", prototypes=6, queue=16, queue_start=start)
        graph, params, rest = split_state(task)
        embed, past = self.embed(task), [np.zeros((0, 16))] * 2

        @jax.jit
        def step(rest, views, progress):
            task = nnx.merge(graph, params, rest)
            loss = task.loss(views, progress).loss
            task.after_update(progress + 1 / 8)
            return loss, split_state(task)[2]

        for done in range(8):
            views = self.views(done)
            used = [rows[-16:] for rows in past] if done >= first else None
            embedded = tiny.unit(embed(views))
            loss, rest = step(rest, views, jnp.float32(done / 8))
            assert float(loss) == pytest.approx(self.reference(task, embedded, used), rel=1e-4), done
            past = [np.concatenate([rows, embedded[:, g]]) for g, rows in enumerate(past)]

    def test_prototypes_have_length_one_and_learn_once_they_are_released(self):
        """Frozen for half of a stage of four steps; pushed about between the steps."""
        task = tiny.table_task("swav", frozen=0.5)
        graph, params, rest = split_state(task)

        @jax.jit
        def step(params, rest, views, progress):
            def loss(params):
                return nnx.merge(graph, params, rest).loss(views, progress).loss

            gradient = jax.grad(loss)(params)["directions"]
            merged = nnx.merge(graph, {**params, "directions": params["directions"] + 0.1}, rest)
            merged.after_update(progress + 1 / 4)
            return gradient, merged.frozen(progress)["directions"], *split_state(merged)[1:]

        for done, learns in enumerate((False, False, True, True)):
            before = params["directions"]
            np.testing.assert_allclose(np.linalg.norm(before, axis=0), 1, rtol=1e-6)
            gradient, frozen, params, rest = step(dict(params), rest, self.views(done), jnp.float32(done / 4))
            assert bool(frozen) != learns and np.any(gradient)
            np.testing.assert_allclose(params["directions"], tiny.unit((before + 0.1).T).T, atol=1e-6)

    def test_sizes_follow_from_the_data_and_are_checked(self):
        count = [
            cluster_count(pretext.task_class("swav"), "prototypes", 0, pretext.Setting(n, 8), 3000)
            for n in (10, 24, 25_331, 10**6)
        ]
        assert count == [5, 12, 197, 3000]
        task = tiny.table_task("swav")
        assert task.prototypes().shape == (16, 12) and task.queues[0].rows.shape == (8, 16)
        with pytest.raises(ValueError, match="swav: 13 prototypes for a split of 24 images; `prototypes` must lie"):
            tiny.table_task("swav", prototypes=13)
        with pytest.raises(ValueError, match="swav: a queue of 12 is no multiple of the batch of 8; change `queue`"):
            tiny.table_task("swav", queue=12)
        with pytest.raises(ValueError, match="swav: a split of 3 images is too small to cluster"):
            tiny.task(tiny.table_stage("swav", batch=2), tiny.Pixels(), images=3)


def compiled(task, change):
    """A function that makes the change to the task's state, compiled whole."""
    graph, params, rest = split_state(task)

    @jax.jit
    def run(rest):
        merged = nnx.merge(graph, params, rest)
        change(merged)
        return split_state(merged)[2]

    return lambda: nnx.update(task, run(split_state(task)[2]))


def at(*degrees):
    """Rows of length one at these angles."""
    radians = np.deg2rad(degrees)
    return jnp.asarray(np.stack([np.cos(radians), np.sin(radians)], axis=1), jnp.float32)


class TestODC:
    def task(self, **fields):
        return tiny.table_task("odc", **{"dropout": 0.0, **fields})

    def views(self, task, index):
        return {**tiny.noise("image"), "index": jnp.asarray(index), "dropout": jax.random.key(0)}

    def test_loss_weighs_labels_by_the_root_of_cluster_sizes_and_the_memory_moves(self):
        task = self.task(momentum=0.25)
        labels = np.repeat([0, 1, 2, 3], [12, 6, 4, 2])
        task.labels.set_value(jnp.asarray(labels, jnp.int32))
        memory, centroids = (np.asarray(x.get_value(), np.float64) for x in (task.memory, task.centroids))
        index = np.array([23, 0, 13, 1, 18, 19, 2, 3])
        views = self.views(task, index)
        features = task.backbone(views["image"], train=True)["pooled"]
        embedded = tiny.run(task.projector, features)
        logits = np.asarray(task.head(embedded), np.float64)
        weights = 1 / np.sqrt(np.bincount(labels))[labels[index]]
        rows = -np.log(softmax(logits)[np.arange(8), labels[index]])
        output = tiny.loss(task, views)
        assert float(output.loss) == pytest.approx(np.average(rows, weights=weights), rel=1e-5)
        memory[index] = tiny.unit(0.25 * memory[index] + 0.75 * tiny.unit(embedded))
        np.testing.assert_allclose(task.memory.get_value(), memory, atol=1e-6)
        nearest = np.argmax(memory[index] @ centroids.T, axis=1)
        assert float(output.metrics["relabelled"]) == np.mean(nearest != labels[index]) > 0
        labels[index] = nearest
        np.testing.assert_array_equal(task.labels.get_value(), labels)

    def test_images_of_small_clusters_go_to_the_nearest_large_one(self):
        # Clusters of 3, 2, 1, 4 and none; the two small ones lie nearest to each other.
        memory = at(0, 2, 4, 40, 55, 50, 90, 92, 94, 96)
        labels = jnp.asarray([0, 0, 0, 1, 1, 2, 3, 3, 3, 3], jnp.int32)
        centroids = odc.means(memory, labels, jnp.zeros((5, 2)))
        merged = odc.dissolved(memory, labels, centroids, smallest=3)
        np.testing.assert_array_equal(merged, [0, 0, 0, 0, 3, 3, 3, 3, 3, 3])
        np.testing.assert_array_equal(odc.dissolved(memory, labels, centroids, smallest=1), labels)

    def test_empty_clusters_get_halves_of_the_largest_of_the_moment(self):
        # Three groups in one cluster, and another cluster; two are empty.
        memory = at(0, 60, 2, 4, 61, 3, 100, 1, 62, 101, 102, 200, 201)
        groups = np.array([0, 1, 0, 0, 1, 0, 2, 0, 1, 2, 2, 3, 3])
        labels = jnp.asarray(np.where(groups == 3, 2, 1), jnp.int32)
        labels, centroids = odc.refilled(memory, labels, odc.means(memory, labels, jnp.zeros((4, 2))))
        pairs = {(int(group), int(label)) for group, label in zip(groups, labels, strict=True)}
        assert len(pairs) == 4 and {label for _, label in pairs} == {0, 1, 2, 3} and (3, 2) in pairs
        for label in range(4):
            members = np.asarray(memory)[np.asarray(labels) == label]
            np.testing.assert_allclose(centroids[label], members.mean(axis=0), atol=1e-6)

    def test_equal_rows_are_halved_too(self):
        members = jnp.asarray([True, False, True, True, False, True, True])
        np.testing.assert_array_equal(np.flatnonzero(odc.halves(at(*[30] * 7), members)), [2, 5])
        assert odc.halves(at(30, 30), jnp.ones(2, bool)).sum() == 1

    def test_clusters_are_kept_in_order_at_every_step_and_centroids_at_every_third(self):
        task = self.task(interval=3, smallest=2, dimensions=2)
        # Cluster 3 holds one image, near cluster 2; cluster 0 falls into two groups.
        degrees = [*range(5), *range(40, 45), *range(80, 87), *range(120, 126), 118]
        groups = np.repeat([0, 1, 2, 3], [5, 5, 7, 7])
        memory, labels = at(*degrees), np.array([0] * 10 + [1] * 7 + [2] * 6 + [3])
        task.memory.set_value(memory)
        task.labels.set_value(jnp.asarray(labels, jnp.int32))
        stale = jnp.asarray(at(20, 83, 122, 118) / 2)
        task.centroids.set_value(stale)
        update = compiled(task, lambda t: t.after_update(jnp.float32(0)))
        for step in (1, 2, 3):
            update()
            found = np.asarray(task.labels.get_value())
            assert len(set(zip(groups, found, strict=True))) == 4 and len(set(found)) == 4
            centroids = np.asarray(task.centroids.get_value())
            mean = np.stack([np.asarray(memory)[found == k].mean(axis=0) for k in range(4)])
            np.testing.assert_allclose(centroids[[0, 3]], mean[[0, 3]], atol=1e-6)
            expected = mean if step == 3 else np.asarray(stale)
            np.testing.assert_allclose(centroids[[1, 2]], expected[[1, 2]], atol=1e-6)

    def test_starts_from_clusters_of_the_backbones_features(self):
        task = self.task()
        groups = np.random.default_rng(0).permutation(24) % 4
        features = 5 * np.eye(6)[groups] + 0.01 * np.random.default_rng(1).standard_normal((24, 6))
        features = jnp.asarray(features, jnp.float32)
        before = tiny.arrays(task)
        compiled(task, lambda t: t.at_epoch(features, jax.random.key(0)))()
        labels, memory = np.asarray(task.labels.get_value()), np.asarray(task.memory.get_value())
        assert len(set(zip(groups, labels, strict=True))) == 4 and len(set(labels)) == 4
        np.testing.assert_allclose(memory, tiny.unit(tiny.run(task.projector, features)), atol=1e-5)
        means = np.stack([memory[labels == k].mean(axis=0) for k in range(4)])
        np.testing.assert_allclose(task.centroids.get_value(), means, atol=1e-6)
        changed = {name for name, value in tiny.arrays(task).items() if value.tobytes() != before[name].tobytes()}
        assert changed == {"['centroids']", "['labels']", "['memory']"}

    def test_dropout_is_drawn_with_the_views_and_can_be_switched_off(self):
        for dropout, same in ((0.5, False), (0.0, True)):
            task = self.task(dropout=dropout)
            views = self.views(task, np.arange(8))
            other = {**views, "dropout": jax.random.key(1)}
            one, two = (float(tiny.loss(nnx.clone(task), v).loss) for v in (views, other))
            assert (one == two) == same

    def test_sizes_follow_from_the_data_and_are_checked(self):
        # Images of a cluster, and the size below which it is dissolved.
        assert [odc._smallest(odc.ODC, 0, mean) for mean in (2, 32, 128, 1000)] == [1, 5, 20, 20]
        task = self.task(clusters=0)
        assert task.clusters == 12 and task.smallest == 1
        with pytest.raises(ValueError, match="odc: 13 clusters for a split of 24 images; `clusters` must lie"):
            self.task(clusters=13)
        with pytest.raises(ValueError, match="odc: clusters of fewer than 7 images are dissolved, and the mean has 6"):
            self.task(smallest=7)
        with pytest.raises(ValueError, match="odc: centroids every 0 steps; `interval` must be at least 1"):
            self.task(interval=0)
