"""BYOL, SimSiam, Barlow Twins, VICReg, DINO: losses against NumPy, where the gradient goes, what their state does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from aiseeme_jax import pretext
from aiseeme_jax.pretext import dino
from aiseeme_jax.training.state import make_state, split_state
from aiseeme_jax.training.step import train_step

pytestmark = pytest.mark.slow

FIRST, SECOND = "first", "second"


def both(module, views):
    """What a module gives for each view alone."""
    return [tiny.run(module, views[name]) for name in (FIRST, SECOND)]


def cosine(a, b):
    return np.mean(np.sum(tiny.unit(a) * tiny.unit(b), axis=1))


def gradient(task, views):
    graph, params, rest = split_state(task)
    return tiny.arrays(jax.jit(jax.grad(lambda p: nnx.merge(graph, p, rest).loss(views, 0.0).loss))(params))


def moved(module):
    """A copy of a module, whose own parameters are then moved."""
    copy = nnx.clone(module)
    nnx.update(module, jax.tree.map(lambda leaf: leaf + 0.1, nnx.state(module, nnx.Param)))
    return copy


class TestBYOL:
    def test_loss_is_the_squared_distance_of_predictions_from_targets_in_both_directions(self):
        task = tiny.table_task("byol")
        average = moved(task.encoder)
        views = tiny.noise(FIRST, SECOND)
        (_, target_1), (_, target_2) = both(average, views)
        predictions = [tiny.run(task.predictor, z) for _, z in both(task.encoder, views)]
        expected = 0
        for prediction, target in zip(predictions, (target_2, target_1), strict=True):
            expected += np.mean(np.square(tiny.unit(prediction) - tiny.unit(target)).sum(axis=1))
        assert float(tiny.loss(task, views).loss) == pytest.approx(expected, rel=1e-4)

    def test_average_learns_by_moving_alone(self):
        task = tiny.table_task("byol")
        names = gradient(task, tiny.noise(FIRST, SECOND))
        assert {name.split("'")[1] for name in names} == {"backbone", "encoder", "predictor"}
        assert all(leaf.any() for name, leaf in names.items() if "kernel" in name)

    def test_heads_are_as_published_for_a_resnet_50(self):
        class Wide(tiny.Pixels):
            def __init__(self):
                super().__init__(features=2048)

        task = nnx.eval_shape(lambda: tiny.table_task("byol", Wide()))
        shapes = [[layer.kernel.shape for layer in h.layers] for h in (task.encoder.projector, task.predictor)]
        assert shapes == [[(2048, 4096), (4096, 256)], [(256, 4096), (4096, 256)]]
        task = nnx.eval_shape(lambda: tiny.table_task("simsiam", Wide(), bottleneck=0))
        assert [layer.kernel.shape for layer in task.encoder.projector.layers] == [(2048, 2048)] * 3
        assert [layer.kernel.shape for layer in task.predictor.layers] == [(2048, 512), (512, 2048)]
        for name in ("barlow_twins", "vicreg"):
            task = nnx.eval_shape(lambda name=name: tiny.table_task(name, Wide()))
            shapes = [layer.kernel.shape for layer in task.encoder.projector.layers]
            assert shapes == [(2048, 8192), (8192, 8192), (8192, 8192)]
            assert all(layer.bias is None for layer in task.encoder.projector.layers)


class TestSimSiam:
    def test_gradient_is_that_of_predictions_of_projections_that_stand_still(self):
        task = tiny.table_task("simsiam")
        views = tiny.noise(FIRST, SECOND)
        (_, z1), (_, z2) = both(task.encoder, views)
        graph, params, rest = split_state(task)

        @jax.jit
        @jax.value_and_grad
        def expected(params):
            merged = nnx.merge(graph, params, rest)
            total = 0.0
            for name, still in ((FIRST, z2), (SECOND, z1)):
                p = merged.predictor(merged.encoder(views[name], train=True)[1], train=True)
                p, still = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (p, still))
                total -= jnp.mean(jnp.sum(p * still, axis=1)) / 2
            return total

        value, wanted = expected(params)
        assert float(tiny.loss(task, views).loss) == pytest.approx(float(value), rel=1e-5)
        wanted = tiny.arrays(wanted)
        for name, leaf in gradient(task, views).items():
            np.testing.assert_allclose(leaf, wanted[name], rtol=1e-3, atol=1e-5, err_msg=name)

    def test_projection_ends_in_a_normalisation_without_a_scale_and_the_predictor_in_a_bias(self):
        task = tiny.table_task("simsiam")
        last = task.encoder.projector.norms[-1]
        assert last.scale is None and last.bias is None
        assert task.predictor.norms[-1] is None and task.predictor.layers[-1].bias is not None

    def test_predictor_learns_at_the_peak_rate_when_all_else_has_come_to_rest(self):
        """A schedule that ends at 0 after one step: in the second only the predictor moves."""
        rest = {"name": "step", "milestones": (0.5,), "factor": 1e-9}
        stage = tiny.stage("simsiam", steps=2, bottleneck=8, schedule=rest)
        task = tiny.task(stage, tiny.Pixels())
        program, state = make_state(task, tiny.recipe(stage))
        states = [tiny.arrays(state.params)]
        for _ in range(2):
            state, metrics, _ = train_step(program, state, tiny.batch(), jax.random.key(0))
            states.append(tiny.arrays(state.params))
        assert float(metrics["learning_rate"]) < 1e-9
        for name in states[0]:
            first, second = (np.abs(states[i + 1][name] - states[i][name]).max() for i in range(2))
            assert first > 1e-6, name
            assert (second > 1e-6) == name.startswith("['predictor']"), name


class TestDecorrelation:
    def projections(self, task):
        views = tiny.noise(FIRST, SECOND)
        return views, [np.asarray(z, np.float64) for _, z in both(task.encoder, views)]

    def test_loss_of_barlow_twins_is_the_distance_of_the_cross_correlation_from_the_identity(self):
        task = tiny.table_task("barlow_twins", off_diagonal_weight=0.1)
        views, zs = self.projections(task)
        a, b = ((z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5) for z in zs)
        correlation = a.T @ b / 8
        squared = np.square(correlation - np.eye(24))
        expected = np.trace(squared) + 0.1 * (squared.sum() - np.trace(squared))
        assert float(tiny.loss(task, views).loss) == pytest.approx(expected, rel=1e-4)

    def test_loss_of_vicreg_is_its_three_terms(self):
        task = tiny.table_task("vicreg", invariance=3.0, variance=5.0, covariance=7.0, hidden=10)
        views, (a, b) = self.projections(task)
        expected = 3 * np.mean(np.square(a - b))
        for z in (a, b):
            covariance = np.cov(z, rowvar=False)
            expected += 5 * np.mean(np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4))) / 2
            expected += 7 * (np.square(covariance).sum() - np.square(np.diag(covariance)).sum()) / 10
        assert float(tiny.loss(task, views).loss) == pytest.approx(expected, rel=1e-4)


def crops():
    """Two global and two local crops of each of 8 images."""
    return {"global": tiny.noise("x", count=16)["x"], "local": tiny.noise("x", count=16, size=2, seed=1)["x"]}


class TestDINO:
    def test_loss_is_the_cross_entropy_over_pairs_of_different_views(self):
        task = tiny.table_task("dino", prototypes=20)
        average = moved(task.encoder)
        centre = np.random.default_rng(0).normal(size=20) / 10
        task.centre.set_value(jnp.asarray(centre, jnp.float32))
        views = crops()
        wanted = np.asarray(tiny.run(average, views["global"])[1], np.float64)
        seen = [np.asarray(tiny.run(task.encoder, views[name])[1], np.float64) for name in ("global", "local")]
        terms = []
        for image in range(8):
            student = np.concatenate([rows.reshape(8, 2, 20)[image] for rows in seen]) / 0.1
            for g, row in enumerate(wanted.reshape(8, 2, 20)[image]):
                p = softmax((row - centre) / 0.04)
                terms += [-np.sum(p * np.log(softmax(s))) for v, s in enumerate(student) if v != g]
        output = tiny.loss(task, views)
        assert len(terms) == 8 * 2 * 3
        assert float(output.loss) == pytest.approx(np.mean(terms), rel=1e-4)
        np.testing.assert_allclose(task.centre.get_value(), 0.9 * centre + 0.1 * wanted.mean(axis=0), atol=1e-5)

    def test_outputs_are_cosines_with_prototypes_of_any_length(self):
        head = tiny.table_task("dino").encoder.projector
        x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
        expected = tiny.unit(tiny.run(head.mlp, x)) @ tiny.unit(np.asarray(head.directions.get_value()).T).T
        np.testing.assert_allclose(tiny.run(head, x), expected, atol=1e-5)
        head.directions.set_value(7 * head.directions.get_value())
        np.testing.assert_allclose(tiny.run(head, x), expected, atol=1e-5)

    def test_teacher_warms_up_and_prototypes_thaw_with_the_progress_of_the_stage(self):
        task = tiny.table_task("dino", warmup=0.5, frozen=0.25)
        found = []
        for progress in map(jnp.float32, (0.0, 0.125, 0.25, 0.5, 1.0)):
            (frozen,) = (bool(flag) for flag in task.frozen(progress).values())
            found.append((pytest.approx(float(task.teacher_temperature(progress)), abs=1e-7), frozen))
        assert found == [(0.04, True), (0.0475, True), (0.055, False), (0.07, False), (0.07, False)]

    def test_the_stage_leaves_the_teacher_with_statistics_of_its_own(self):
        task = tiny.table_task("dino", tiny.Normed(), local_crops=0)
        student = tiny.arrays(task.backbone)
        moved(task.encoder)
        tiny.loss(task, {"global": tiny.noise("x", count=16, size=tiny.SIZE)["x"]})
        left = task.handed_over()
        np.testing.assert_array_equal(left.map.kernel[...], student["['map']['kernel']"])
        features = left.map(tiny.noise("x", count=16, size=tiny.SIZE)["x"].reshape(16, -1))
        np.testing.assert_allclose(left.norm.mean[...], 0.01 * features.mean(axis=0), rtol=1e-4, atol=1e-6)
        assert not np.allclose(left.norm.mean[...], task.backbone.norm.mean[...])

    def test_without_a_warm_up_the_teacher_has_its_temperature_from_the_start(self):
        task = tiny.table_task("dino", warmup=0.0, frozen=0.0)
        assert float(task.teacher_temperature(0.0)) == pytest.approx(0.07)
        assert not any(task.frozen(0.0).values())

    def test_local_crops_may_be_left_out(self):
        task = tiny.table_task("dino", local_crops=0, views=tiny.STILL)
        views = task.views(jax.random.key(0), tiny.batch())
        assert set(views) == {"global"} and np.isfinite(tiny.loss(task, views).loss)

    @pytest.mark.parametrize("images, expected", [(24, 16), (25_331, 1_266), (1_281_167, 64_058), (10**7, 65_536)])
    def test_prototypes_left_to_themselves_are_scaled_to_the_data_set(self, images, expected):
        assert dino.prototype_count(dino.DINO, 0, pretext.Setting(images, 8)) == expected

    @pytest.mark.parametrize("asked", [1, 25])
    def test_prototypes_that_do_not_fit_are_an_error(self, asked):
        with pytest.raises(ValueError, match=f"dino: {asked} prototypes .* 24 images; `prototypes` must lie between 2"):
            tiny.table_task("dino", prototypes=asked)


def softmax(x):
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()
