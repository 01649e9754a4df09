"""DeepCluster and ClusterFit: what is clustered and when, what an image counts, what starts anew, what a kill costs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import short_runs
import tiny
from flax import nnx
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, data, weights
from aiseeme_jax.evaluate import features
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.training.state import make_state
from aiseeme_jax.training.step import at_epoch, train_step
from configs import base

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_events")]

ADAMW = {"name": "adamw", "learning_rate": 1e-3}
# The blob of each of the 24 images.
BLOBS = np.arange(24) * 7 % 24 // 8
SLOW = pytest.mark.slow


def stage(name, **changes):
    """Two epochs of three steps; an equal stage is not compiled anew."""
    return tiny.stage(name, **{"clusters": 3, "optimizer": ADAMW, **changes})


def make(name, body=None, *, images=24, **changes):
    return tiny.task(stage(name, **changes), body or tiny.Normed(), images=images)


def blobs(features: int = 6):
    """Features of 24 images in three blobs. All but two are 0: whitening would make as much of noise in them."""
    angles = 2 * np.pi * BLOBS / 3 + 0.01 * np.random.default_rng(0).standard_normal(24)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.pad(rows, ((0, 0), (0, features - 2))).astype(np.float32)


def cluster(task, rows):
    """`task.at_epoch`, compiled whole."""
    graph, state = nnx.split(task)

    def run(state, rows):
        merged = nnx.merge(graph, state)
        merged.at_epoch(rows, jax.random.key(0))
        return nnx.as_pure(nnx.state(merged))

    nnx.update(task, jax.jit(run)(nnx.as_pure(state), jnp.asarray(rows, jnp.float32)))


def labels(task) -> np.ndarray:
    return np.asarray(task.labels.get_value())


def is_blobs(found) -> bool:
    return len(set(zip(found.tolist(), BLOBS.tolist(), strict=True))) == 3 == len(set(found.tolist()))


class TestLoss:
    def log_likelihoods(self, task, views):
        logits = np.asarray(task.head(task.backbone(views["image"], train=True)["pooled"]), np.float64)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -np.log(shares[np.arange(len(logits)), labels(task)[np.asarray(views["index"])]])

    def prepared(self, name):
        """A task whose clusters hold 15, 6 and 3 images, with views of all of them."""
        task = make(name, tiny.Linear())
        found = np.repeat(np.arange(3), (15, 6, 3)).astype(np.int32)
        task.labels.set_value(jnp.asarray(found))
        task.counts.set_value(jnp.asarray([15.0, 6.0, 3.0]))
        task.head.kernel.set_value(100 * task.head.kernel.get_value())
        return task, {"image": jnp.asarray(tiny.images(24) / 255, jnp.float32), "index": jnp.arange(24)}

    def test_of_deepcluster_counts_every_cluster_alike(self):
        task, views = self.prepared("deepcluster")
        each = self.log_likelihoods(task, views)
        output = tiny.loss(task, views)
        expected = np.mean([each[:15].mean(), each[15:21].mean(), each[21:].mean()])
        assert float(output.loss) == pytest.approx(expected, rel=1e-5)
        assert float(output.metrics["largest_cluster"]) == 15 / 24
        # A batch of some of the clusters: one over the size of the cluster, and the weights sum to one.
        rows = np.array([0, 15, 16, 3])
        weights = np.array([1 / 15, 1 / 6, 1 / 6, 1 / 15])
        some = {name: value[rows] for name, value in views.items()}
        assert float(tiny.loss(task, some).loss) == pytest.approx(
            np.sum(weights * each[rows]) / weights.sum(), rel=1e-5
        )

    def test_of_clusterfit_counts_every_image_alike(self):
        task, views = self.prepared("clusterfit")
        expected = self.log_likelihoods(task, views).mean()
        assert float(tiny.loss(task, views).loss) == pytest.approx(expected, rel=1e-5)

    def test_before_the_first_clustering_labels_are_indices_modulo_the_clusters(self):
        np.testing.assert_array_equal(labels(make("deepcluster")), np.arange(24) % 3)
        np.testing.assert_array_equal(make("deepcluster").counts.get_value(), [8, 8, 8])


class TestClustering:
    @pytest.mark.parametrize("name", ["deepcluster", pytest.param("clusterfit", marks=SLOW)])
    def test_features_far_apart_become_the_labels(self, name):
        task = make(name)
        body, before = tiny.arrays(task.backbone), tiny.arrays(task.head)
        cluster(task, blobs())
        assert is_blobs(labels(task))
        np.testing.assert_array_equal(task.counts.get_value(), [8, 8, 8])
        tiny.assert_same(task.backbone, body)
        tiny.assert_different(task.head, before)

    @SLOW
    @pytest.mark.parametrize("name, found", [("deepcluster", True), ("clusterfit", False)])
    def test_deepcluster_whitens(self, name, found):
        """A feature that varies widely beside two that tell the blobs: whitened, all count alike."""
        angles, noise = 2 * np.pi * BLOBS / 3, np.random.default_rng(1).uniform(-10, 10, 24)
        task = make(name)
        cluster(task, np.stack([np.full(24, 50), noise, np.cos(angles), np.sin(angles)], axis=1))
        assert is_blobs(labels(task)) == found

    @pytest.mark.parametrize("name", ["adamw", pytest.param("sgd", marks=SLOW), pytest.param("lars", marks=SLOW)])
    def test_optimizer_forgets_the_layer_that_starts_anew_and_nothing_else(self, name):
        config = stage("deepcluster", optimizer={**ADAMW, "name": name})
        task = tiny.task(config, tiny.Normed())
        program, state = make_state(task, tiny.recipe(config))
        batch = next(data.Batches(tiny.split(), batch_size=8, seed=0)(0))
        state, _, _ = train_step(program, state, batch, jax.random.key(0))
        before = tiny.arrays(state.optimizer)
        state = at_epoch(program, state, blobs(), jax.random.key(1))
        after = tiny.arrays(state.optimizer)
        heads = [name for name in before if "'head'" in name]
        assert heads and all(before[name].any() and not after[name].any() for name in heads)
        others = [name for name in before if name not in heads]
        assert any("'backbone'" in name for name in others)
        tiny.assert_same({name: after[name] for name in others}, {name: before[name] for name in others})

    @SLOW
    def test_clusterfit_from_scratch_keeps_the_labels_and_draws_the_weights(self, tiny_in_the_table):  # noqa: F811
        body = tiny.backbone(seed=3)
        given = tiny.arrays(body)
        task = make("clusterfit", body, scratch=True)
        cluster(task, blobs(body.features))
        assert is_blobs(labels(task))
        found = tiny.arrays(task.backbone)
        kernels = [name for name in given if "kernel" in name]
        assert found.keys() == given.keys() and all((found[name] != given[name]).any() for name in kernels)


class TestInTheLoop:
    @pytest.mark.parametrize("name, times", [("deepcluster", 2), pytest.param("clusterfit", 1, marks=SLOW)])
    def test_each_epoch_or_the_first_begins_with_the_features_of_its_backbone(self, name, times, tmp_path):
        def gather(body):
            seen.append(tiny.arrays(body))
            return blobs()

        seen = []
        config = stage(name)
        task = tiny.task(config, tiny.Normed())
        start = tiny.arrays(task.backbone)
        result = tiny.fit(task, config, tmp_path, gather_features=gather)
        assert len(seen) == times
        tiny.assert_same(seen[0], start)
        if times > 1:
            tiny.assert_different(seen[1], start)
        # After six steps the features are others, and the labels those of the last clustering.
        assert is_blobs(labels(result.task))

    def test_a_loop_without_features_is_refused(self, tmp_path):
        config = stage("deepcluster")
        with pytest.raises(
            ValueError, match="test: DeepCluster needs the features of the whole split: give `gather_features`"
        ):
            tiny.fit(tiny.task(config, tiny.Linear()), config, tmp_path, gather_features=None)

    @pytest.mark.parametrize(
        "name, last, every",
        [
            # The clustering of the second epoch comes before the fourth step: killed right after it, with the newest
            # checkpoint at the border, and before; a step later, with none; and in the first epoch.
            ("deepcluster", 3, 3),
            pytest.param("deepcluster", 3, 2, marks=SLOW),
            pytest.param("deepcluster", 4, 5, marks=SLOW),
            pytest.param("clusterfit", 1, 2, marks=SLOW),
        ],
    )
    def test_killed_run_clusters_again_to_the_same_bits(self, name, last, every, tmp_path):
        config = stage(name)
        whole = self.fit(config, tmp_path / "whole", every=every)
        with pytest.raises(Killed):
            self.fit(config, tmp_path / "killed", last=last, every=every)
        tiny.assert_same(self.fit(config, tmp_path / "killed", every=every).task, whole.task)

    @pytest.mark.parametrize("name", ["deepcluster", pytest.param("clusterfit", marks=SLOW)])
    def test_labels_in_the_middle_of_an_epoch_are_those_of_the_checkpoint(self, name, tmp_path):
        config = stage(name)
        whole = self.fit(config, tmp_path / "whole", every=5)
        with pytest.raises(Killed):
            self.fit(config, tmp_path / "killed", last=5, every=5)
        resumed = self.fit(config, tmp_path / "killed", every=5, gather_features=never)
        tiny.assert_same(resumed.task, whole.task)

    def fit(self, config, directory, *, last=None, every, **options):
        source = data.Batches(tiny.split(), batch_size=8, seed=0)

        def batches(start):
            yield from itertools.islice(source(start), None if last is None else last - start)
            raise Killed

        task = tiny.task(config, tiny.Normed())
        return tiny.fit(task, config, directory, batches=batches, checkpoint_every=every, **options)


class Killed(Exception):
    pass


def never(body):
    raise AssertionError("features are gathered in the middle of an epoch")


@SLOW
@pytest.mark.parametrize("residence", ["stream", "device"])
def test_stages_of_a_curriculum_cluster_the_split_as_it_lies(residence, tmp_path, monkeypatch, tiny_in_the_table):  # noqa: F811
    """21 images in batches of 8: the pass over the split ends with a part of a batch."""
    seen = []
    gathered = features.extract_from_batches
    monkeypatch.setattr(features, "extract_from_batches", lambda *a, **k: seen.append(gathered(*a, **k)) or seen[-1])
    config = base.get_config()
    config.model.update({"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32"})
    length = {"duration": base.duration(steps=2), "batch_size": 8, "views": tiny.PLAIN, "optimizer": ADAMW}
    config.stages = tuple(base.stage(name, size=tiny.SIZE, **length) for name in ("clusterfit", "deepcluster"))
    config.targets, config.baselines = (), ()
    config.runtime.residence = residence
    split = tiny.split(21)
    monkeypatch.setattr(data, "open_split", lambda *_: split)
    curriculum.run(config, tmp_path / "run")
    start = weights.starting_backbone(config.model, "scratch", config.seed)
    bodies = [start, weights.load_backbone(short_runs.stage_folders(tmp_path / "run")[0])[0]]
    for body, found, part in zip(bodies, seen, config.stages, strict=True):
        spec = augment.views_of(part.views.to_dict())
        expected = body(augment.central_view(split.images(), spec), train=False)["pooled"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


class TestSizes:
    @pytest.mark.parametrize("name, most", [("deepcluster", 10_000), ("clusterfit", 16_000)])
    def test_derived_one_for_128_images(self, name, most):
        for images, expected in ((25_600, 200), (2_000, 16), (24, 12), (10**7, most)):
            assert jax.eval_shape(lambda n=images: make(name, images=n, clusters=0)).clusters == expected

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(
            ValueError, match="deepcluster: 13 clusters for a split of 24 images.*between 2 and half of them, 12"
        ):
            make("deepcluster", clusters=13)
        with pytest.raises(ValueError, match="clusterfit: 0 iterations of k-means; `iterations` must be at least 1"):
            make("clusterfit", iterations=0)
        with pytest.raises(ValueError, match="deepcluster: 0 components; `components` must be at least 1"):
            make("deepcluster", components=0)
