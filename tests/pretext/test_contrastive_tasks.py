"""MoCo v1 and v3, NNCLR, DenseCL: losses against NumPy, and what their queues and averages do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import pretext
from aiseeme_jax.pretext import nnclr

pytestmark = pytest.mark.slow


def in_batch(query, key, temperature):
    return tiny.cross_entropy(tiny.unit(query) @ tiny.unit(key).T / temperature, np.arange(len(query)))


def against(query, key, negatives, temperature):
    """InfoNCE of rows with shared negatives."""
    positive = np.sum(query * key, axis=-1, keepdims=True)
    return tiny.cross_entropy(np.concatenate([positive, query @ negatives.T], axis=1) / temperature, [0] * len(query))


def shifted(task):
    """The encoder of a task moved away from its average, and the average as a module of its own."""
    average = nnx.clone(task.encoder)
    nnx.update(task.encoder, jax.tree.map(lambda leaf: leaf + 0.1, nnx.state(task.encoder, nnx.Param)))
    return average


class TestMoCoV1:
    def test_loss_is_info_nce_of_a_linear_projection(self):
        task = tiny.table_task("moco_v1", queue=16, temperature=0.1)
        assert [layer.kernel.shape for layer in task.encoder.projector.layers] == [(6, 128)]
        average, queue = shifted(task), np.asarray(task.queue.rows.get_value())
        views = tiny.noise("query", "key")
        query = tiny.unit(tiny.run(task.encoder, views["query"])[1])
        keys = tiny.unit(tiny.run(average, views["key"])[1])
        expected = against(query, keys, queue, 0.1)
        assert float(tiny.loss(task, views).loss) == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(task.queue.rows.get_value()[:8], keys, atol=1e-6)
        assert int(task.queue.position.get_value()) == 8

    def test_messages_name_the_task(self):
        with pytest.raises(ValueError, match="moco_v1: a queue of 12 is no multiple of the batch of 8; change `queue`"):
            tiny.table_task("moco_v1", queue=12)
        with pytest.raises(ValueError, match="moco_v1: a batch of 8 does not divide into 0 groups; change `groups`"):
            tiny.table_task("moco_v1", groups=0)


class TestMoCoV3:
    def test_loss_is_two_temperatures_of_info_nce_in_both_directions(self):
        task = tiny.table_task("moco_v3", temperature=0.5)
        average = shifted(task)
        views = tiny.noise("first", "second")
        query, key = {}, {}
        for name in ("first", "second"):
            embedded = tiny.run(task.encoder, views[name])[1]
            query[name] = tiny.run(task.predictor, embedded)
            key[name] = tiny.run(average, views[name])[1]
        both = in_batch(query["first"], key["second"], 0.5) + in_batch(query["second"], key["first"], 0.5)
        assert float(tiny.loss(task, views).loss) == pytest.approx(both, rel=1e-4)

    def test_heads_end_in_a_normalisation_without_a_scale_but_for_the_predictor_of_a_resnet(self):
        task = tiny.table_task("moco_v3", layers=3, hidden=10)
        assert [layer.kernel.shape for layer in task.encoder.projector.layers] == [(6, 10), (10, 10), (10, 256)]
        assert task.predictor.norms[-1] is None
        of_vit = tiny.table_task("moco_v3", tiny.vit())
        for head in (task.encoder.projector, of_vit.encoder.projector, of_vit.predictor):
            assert head.norms[-1].scale is None and head.norms[-1].bias is None
        for head in (task.encoder.projector, task.predictor, of_vit.predictor):
            assert all(layer.bias is None for layer in head.layers)
        with pytest.raises(ValueError, match="moco_v3: a projection of 0 layers; it takes at least one: raise"):
            tiny.table_task("moco_v3", layers=0)


class TestNNCLR:
    def test_loss_contrasts_neighbours_with_the_predictions_of_the_other_view(self):
        task = tiny.table_task("nnclr", support=16, temperature=0.2)
        views = tiny.noise("first", "second")
        support = np.asarray(task.support.rows.get_value(), np.float64)
        neighbour, prediction, embedded = {}, {}, {}
        for name in ("first", "second"):
            z = tiny.run(task.encoder, views[name])[1]
            embedded[name] = tiny.unit(z)
            neighbour[name] = support[np.argmax(embedded[name] @ support.T, axis=1)]
            prediction[name] = tiny.run(task.predictor, z)
        expected = in_batch(neighbour["first"], prediction["second"], 0.2)
        expected += in_batch(neighbour["second"], prediction["first"], 0.2)
        assert float(tiny.loss(task, views).loss) == pytest.approx(expected / 2, rel=1e-4)
        kept = task.support.rows.get_value()
        np.testing.assert_allclose(kept[:8], embedded["first"], atol=1e-5)
        assert np.asarray(kept[8:]).tobytes() == support[8:].astype(np.float32).tobytes()

    def test_nearest_is_the_most_similar_row_and_stops_the_gradient(self):
        support = tiny.unit(np.random.default_rng(0).normal(size=(24, 5)))
        rows = tiny.unit(np.random.default_rng(1).normal(size=(7, 5)))
        expected = [support[np.argmin(np.square(support - row).sum(axis=1))] for row in rows]
        rows, support = jnp.asarray(rows, jnp.float32), jnp.asarray(support, jnp.float32)
        np.testing.assert_allclose(nnclr.nearest(rows, support), expected, rtol=1e-6)
        assert not jax.grad(lambda x: nnclr.nearest(x, support).sum())(rows).any()

    def test_support_set_is_scaled_to_the_data_and_checked_against_it(self):
        assert tiny.table_task("nnclr").support.rows.get_value().shape == (8, 256)
        setting = pretext.Setting(10**6, 4096)
        assert (
            pretext.momentum_contrast.queue_size(pretext.task_class("nnclr"), "support", 0, setting, 98_304) == 98_304
        )
        with pytest.raises(ValueError, match="nnclr: a queue of 32 is longer than the split of 24 images; lower `sup"):
            tiny.table_task("nnclr", support=32)


class TestDenseCL:
    def outputs(self, encoder, images):
        """Embeddings of the images, features and embeddings of each place."""
        _, whole, places, dense = tiny.run(encoder, images)
        return tiny.unit(whole), np.asarray(places, np.float64), np.asarray(dense, np.float64)

    def test_loss_is_the_mean_of_a_global_and_a_dense_info_nce(self):
        task = tiny.table_task("densecl", dense_weight=0.25, queue=16, temperature=0.3)
        average = shifted(task)
        queue, dense_queue = (np.asarray(q.rows.get_value(), np.float64) for q in (task.queue, task.dense_queue))
        views = tiny.noise("query", "key")
        query, query_places, query_dense = self.outputs(task.encoder, views["query"])
        key, key_places, key_dense = self.outputs(average, views["key"])
        assert query_places.shape == (8, 16, 6) and query_dense.shape == (8, 16, 128)
        whole = against(query, key, queue, 0.3)
        terms = []
        for image in range(8):
            match = np.argmax(tiny.unit(query_places[image]) @ tiny.unit(key_places[image]).T, axis=1)
            positive = tiny.unit(key_dense[image])[match]
            terms.append(against(tiny.unit(query_dense[image]), positive, dense_queue, 0.3))
        output = tiny.loss(task, views)
        assert float(output.metrics["global_loss"]) == pytest.approx(whole, rel=1e-5)
        assert float(output.metrics["dense_loss"]) == pytest.approx(np.mean(terms), rel=1e-4)
        assert float(output.loss) == pytest.approx(0.75 * whole + 0.25 * np.mean(terms), rel=1e-4)
        np.testing.assert_allclose(task.queue.rows.get_value()[:8], key, atol=1e-5)
        pooled = tiny.unit(key_dense.mean(axis=1))
        np.testing.assert_allclose(task.dense_queue.rows.get_value()[:8], pooled, atol=1e-5)

    def test_places_of_a_volume_lie_on_one_axis(self):
        task = tiny.table_task("densecl", tiny.Pixels(channels=1))
        volumes = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 3, 4, 1)), jnp.float32)
        pooled, _, places, dense = tiny.run(task.encoder, volumes)
        assert places.shape == (8, 24, 6) and dense.shape == (8, 24, 128)
        np.testing.assert_allclose(places.mean(axis=1), pooled, rtol=1e-5, atol=1e-6)
        views = {"query": volumes, "key": volumes[:, ::-1], "shuffle": jax.random.key(0)}
        assert np.isfinite(tiny.loss(task, views).loss)

    def test_messages_name_the_task(self):
        with pytest.raises(ValueError, match="densecl: a queue of 12 is no multiple of the batch of 8; change `queue`"):
            tiny.table_task("densecl", queue=12)


@pytest.mark.parametrize("name", ["moco_v3", "byol", "dino"])
def test_averages_that_follow_a_cosine_stand_still_at_the_end(name):
    task = tiny.table_task(name, momentum=0.5)
    average = tiny.arrays(task.target.parameters(task.encoder))
    shifted(task)
    task.after_update(jnp.float32(1.0))
    tiny.assert_same(tiny.arrays(task.target.parameters(task.encoder)), average)
    task.after_update(jnp.float32(0.5))
    for key, value in tiny.arrays(task.target.parameters(task.encoder)).items():
        # Half way momentum is half way to 1, and the encoder stands 0.1 above its average.
        np.testing.assert_allclose(value, average[key] + 0.25 * 0.1, rtol=1e-5, atol=1e-6, err_msg=key)
