"""SimCLR, NPID and MoCo v2: losses against NumPy, and what their banks and queues hold after a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import augment, pretext
from aiseeme_jax.pretext import momentum_contrast
from aiseeme_jax.training.state import split_state


def make(name, body=None, *, batch=8, images=24, **fields):
    return tiny.task(tiny.stage(name, batch=batch, **fields), body or tiny.Linear(), images=images)


def info_nce(query, key, negatives, temperature, mask=None):
    """In double precision; `mask` [N, K] is False where a negative does not count."""
    negative = query @ negatives.T
    if mask is not None:
        negative = np.where(mask, negative, -np.inf)
    logits = np.concatenate([np.sum(query * key, axis=1, keepdims=True), negative], axis=1) / temperature
    return tiny.cross_entropy(logits, np.zeros(len(logits), int))


class TestSimCLR:
    @pytest.mark.slow
    def test_loss_is_nt_xent_of_the_two_views(self):
        task = make("simclr", temperature=0.2)
        views = task.views(jax.random.key(0), tiny.batch())
        z = nnx.clone(task).projector(task.backbone(views["image"], train=True)["pooled"], train=True)
        z = tiny.unit(z)
        logits = z @ z.T / 0.2
        np.fill_diagonal(logits, -np.inf)
        other_view = np.arange(len(z)) ^ 1
        assert float(task.loss(views, 0.0).loss) == pytest.approx(tiny.cross_entropy(logits, other_view), rel=1e-5)

    def test_the_two_views_of_an_image_differ(self):
        seen = make("simclr").views(jax.random.key(0), tiny.batch())["image"]
        assert all(not np.array_equal(seen[i], seen[i + 1]) for i in range(0, len(seen), 2))


class TestNPID:
    def query(self, task, views):
        return tiny.unit(task.projector(task.backbone(views["image"], train=True)["pooled"]))

    def test_loss_contrasts_with_every_entry_but_the_own(self):
        task = make("npid", temperature=0.1)
        views = task.views(jax.random.key(0), tiny.batch(start=4))
        bank, index = np.asarray(task.bank.get_value(), np.float64), np.arange(4, 12)
        others = np.arange(24)[None, :] != index[:, None]
        expected = info_nce(self.query(task, views), bank[index], bank, 0.1, others)
        assert float(task.loss(views, 0.0).loss) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.slow
    def test_own_entry_never_counts_as_a_drawn_negative(self):
        task = make("npid", images=4, negatives=2, temperature=0.1)
        batch = {"image": tiny.batch(1)["image"], "index": jnp.array([3])}
        drawn_own = 0
        for seed in range(12):
            views = task.views(jax.random.key(seed), batch)
            query = self.query(task, views)
            # The own entry is the query, the others are its opposite: as a negative it would give log 2 or more.
            task.bank.set_value(jnp.asarray(np.where(np.arange(4)[:, None] == 3, query, -query), jnp.float32))
            assert float(nnx.clone(task).loss(views, 0.0).loss) < 1e-6
            drawn_own += 3 in np.asarray(jax.random.randint(views["negatives"], (2,), 0, 4))
        assert drawn_own, "no draw held the own entry: the test tests nothing"

    @pytest.mark.slow
    def test_fewer_negatives_make_a_smaller_softmax(self):
        task = make("npid", negatives=5)
        uniform = jnp.broadcast_to(task.bank.get_value()[:1], task.bank.get_value().shape)
        task.bank.set_value(uniform)
        batch = {"image": tiny.batch(1)["image"], "index": jnp.array([23])}
        losses = {
            round(float(np.expm1(nnx.clone(task).loss(task.views(jax.random.key(seed), batch), 0.0).loss)))
            for seed in range(6)
        }
        assert max(losses) == 5 and min(losses) >= 3

    def test_step_moves_the_rows_of_the_batch_and_no_others(self):
        task = make("npid", momentum=0.25)
        before = np.asarray(task.bank.get_value())
        np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1, rtol=1e-5)
        index = np.array([17, 3, 5, 20, 0, 9, 23, 11])
        views = task.views(jax.random.key(0), {**tiny.batch(), "index": jnp.asarray(index, jnp.int32)})
        query = self.query(task, views)
        task.loss(views, 0.0)
        after = np.asarray(task.bank.get_value())
        np.testing.assert_allclose(after[index], tiny.unit(0.25 * before[index] + 0.75 * query), atol=1e-6)
        untouched = np.setdiff1d(np.arange(24), index)
        assert after[untouched].tobytes() == before[untouched].tobytes()

    def test_more_negatives_than_other_images_is_an_error(self):
        assert make("npid", images=24, negatives=23).negatives == 23
        with pytest.raises(ValueError, match="npid: 24 negatives, but the split has 23 other images; lower"):
            make("npid", images=24, negatives=24)


class TestMoCoV2:
    def keys(self, task, views):
        """Of the batch, while the moving average is still the encoder and batches leave no statistics."""
        return tiny.unit(task.encoder(views["key"], train=True)[1])

    def test_loss_contrasts_with_the_queue_of_before_the_step(self):
        task = make("moco_v2", queue=16, temperature=0.3)
        views = task.views(jax.random.key(0), tiny.batch())
        queue = np.asarray(task.queue.rows.get_value(), np.float64)
        query = tiny.unit(task.encoder(views["query"], train=True)[1])
        expected = info_nce(query, self.keys(task, views), queue, 0.3)
        assert float(task.loss(views, 0.0).loss) == pytest.approx(expected, rel=1e-5)

    def test_queue_takes_the_keys_in_turn_and_wraps(self):
        task = make("moco_v2", queue=16)
        kept = np.asarray(task.queue.rows.get_value())
        for step, place in enumerate((0, 8, 0)):
            views = task.views(jax.random.key(step), tiny.batch(start=8 * step))
            assert int(task.queue.position.get_value()) == place
            task.loss(views, 0.0)
            queue = np.asarray(task.queue.rows.get_value())
            np.testing.assert_allclose(queue[place : place + 8], self.keys(task, views), atol=1e-6)
            other = slice(8 - place, 16 - place)
            assert queue[other].tobytes() == kept[other].tobytes()
            kept = queue

    def test_keys_come_from_the_moving_average_which_after_update_moves(self):
        task = make("moco_v2", momentum=0.75)
        views = task.views(jax.random.key(0), tiny.batch())
        keys = self.keys(task, views)
        average = tiny.arrays(task.target.parameters(task.encoder))
        nnx.update(task.encoder, jax.tree.map(lambda x: x + 1, nnx.state(task.encoder, nnx.Param)))
        task.loss(views, 0.0)
        np.testing.assert_allclose(task.queue.rows.get_value()[:8], keys, atol=1e-6)
        task.after_update(jnp.float32(0.5))
        for name, value in tiny.arrays(task.target.parameters(task.encoder)).items():
            # The encoder stands one above the average.
            np.testing.assert_allclose(value, average[name] + 0.25, rtol=1e-5, atol=1e-6, err_msg=name)

    def test_no_gradient_reaches_the_keys(self):
        task = make("moco_v2")
        graph, params, rest = split_state(task)
        assert not any("target" in name or "queue" in name for name in tiny.arrays(params))
        views = task.views(jax.random.key(0), tiny.batch())

        def loss(image):
            return nnx.merge(graph, params, rest).loss({**views, "key": image}, 0.0).loss

        np.testing.assert_array_equal(jax.grad(loss)(views["key"]), 0)

    def test_keys_are_normalised_in_shuffled_groups(self):
        task = make("moco_v2", tiny.Normed(), groups=2)
        views = task.views(jax.random.key(0), tiny.batch())
        raw = np.asarray(task.backbone.map(views["key"].reshape(8, -1)), np.float64)
        expected = np.zeros((8, 128))
        for group in np.asarray(jax.random.permutation(views["shuffle"], 8)).reshape(2, 4):
            features = (raw[group] - raw[group].mean(axis=0)) / raw[group].std(axis=0)
            expected[group] = tiny.unit(task.encoder.projector(jnp.asarray(features, jnp.float32), train=True))
        task.loss(views, 0.0)
        np.testing.assert_allclose(task.queue.rows.get_value()[:8], expected, atol=1e-4)

    def test_running_statistics_are_those_of_the_queries(self):
        task = make("moco_v2", tiny.Normed(), groups=2)
        views = task.views(jax.random.key(0), tiny.batch())
        queries = np.asarray(task.backbone.map(views["query"].reshape(8, -1)))
        before = np.asarray(task.backbone.norm.mean.get_value())
        task.loss(views, 0.0)
        momentum = task.backbone.norm.momentum
        expected = momentum * before + (1 - momentum) * queries.mean(axis=0)
        np.testing.assert_allclose(task.backbone.norm.mean.get_value(), expected, rtol=1e-4, atol=1e-5)

    def test_sizes_that_do_not_fit_are_errors(self):
        with pytest.raises(ValueError, match="queue of 12 is no multiple of the batch of 8; change `queue`"):
            make("moco_v2", queue=12)
        with pytest.raises(ValueError, match="queue of 32 is longer than the split of 24 images; lower `queue`"):
            make("moco_v2", queue=32)
        with pytest.raises(ValueError, match="batch of 8 does not divide into 3 groups; change `groups`"):
            make("moco_v2", groups=3)

    @pytest.mark.parametrize(
        "images, batch, expected",
        [(24, 8, 8), (1000, 8, 248), (1000, 512, 512), (25_331, 256, 6_144), (10**6, 256, 65_536)],
    )
    def test_queue_left_to_itself_is_scaled_to_the_data_set(self, images, batch, expected):
        setting = pretext.Setting(images, batch)
        assert momentum_contrast.queue_size(pretext.task_class("moco_v2"), "queue", 0, setting, 65_536) == expected


def test_views_spec_is_the_stages():
    config = tiny.stage("simclr")
    assert tiny.task(config, tiny.Linear()).spec == augment.Views(**config.views)
