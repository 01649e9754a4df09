"""Distillation: its losses against NumPy and by hand, what each kind compares, what is frozen and what learns."""

import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import FrozenConfigDict

from aiseeme_jax import augment, distill, losses, pretext
from aiseeme_jax.distill import cassle, distances, features
from aiseeme_jax.task import Output, Task
from aiseeme_jax.training.state import split_state
from configs import base

N, D = 8, 5


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def huber(x):
    return x**2 / 2 if abs(x) <= 1 else abs(x) - 0.5


# References: loops over rows, as the papers write them, nothing shared with the implementation.


def reference_cosine(s, t):
    return np.mean([1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(s, t, strict=True)])


def reference_relational_distance(s, t):
    pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if i != j]
    one, other = (np.array([np.linalg.norm(x[i] - x[j]) for i, j in pairs]) for x in (s, t))
    return np.mean([huber(a - b) for a, b in zip(one / one.mean(), other / other.mean(), strict=True)])


def reference_relational_angle(s, t):
    def cosine(x, i, j, k):
        return unit(x[i] - x[j]) @ unit(x[k] - x[j])

    n = len(s)
    triples = [(i, j, k) for i in range(n) for j in range(n) for k in range(n) if len({i, j, k}) == 3]
    return np.mean([huber(cosine(s, *corners) - cosine(t, *corners)) for corners in triples])


def reference_similarity_preserving(s, t):
    s, t = s.reshape(len(s), -1), t.reshape(len(t), -1)
    return np.sum((unit(s @ s.T) - unit(t @ t.T)) ** 2) / len(s) ** 2


def reference_contrastive(p, z, temperature):
    p, z = unit(p), unit(z)
    terms = []
    for one, other in ((p, z), (z, p)):
        for i in range(len(one)):
            shares = [np.exp(one[i] @ row / temperature) for row in other]
            terms.append(-np.log(shares[i] / sum(shares)))
    return np.mean(terms)


def reference_prototypes(p, z, one, other, temperature):
    q, w = (unit(rows) @ unit(columns.T).T / temperature for rows, columns in ((p, one), (z, other)))
    return np.mean([-np.sum(softmax(w[i]) * np.log(softmax(q[i]))) for i in range(len(p))])


def reference_quadratic(w, a, f):
    return sum(f.flat[i] * (w.flat[i] - a.flat[i]) ** 2 for i in range(w.size)) / 2


def draw(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


A, B, WIDE = draw(N, D, seed=0), draw(N, D, seed=1), draw(N, 2, 3, seed=2)
CASES = {
    "cosine": (distances.cosine, reference_cosine, (A, B)),
    "relational_distance": (distances.relational_distance, reference_relational_distance, (A, 3 * B[:, :3])),
    "relational_angle": (distances.relational_angle, reference_relational_angle, (A, 3 * B[:, :3])),
    "similarity_preserving": (distances.similarity_preserving, reference_similarity_preserving, (A, WIDE)),
    "contrastive": (
        lambda p, z: distances.contrastive(p, z, temperature=0.2),
        lambda p, z: reference_contrastive(p, z, 0.2),
        (A, B),
    ),
    "prototypes": (
        lambda p, z, one, other: distances.prototype_cross_entropy(p, z, one, other, temperature=0.1),
        lambda p, z, one, other: reference_prototypes(p, z, one, other, 0.1),
        (A, B, draw(D, 4, seed=3), draw(D, 4, seed=4)),
    ),
    "quadratic": (lambda w, a, f: distances.quadratic([w], [a], [f]), reference_quadratic, (A, B, A**2)),
}
each_loss = pytest.mark.parametrize("name", CASES)
PAIRED = ("cosine", "relational_distance", "relational_angle", "similarity_preserving", "contrastive")


def value(loss, *arrays):
    return float(jax.jit(loss)(*(jnp.asarray(array, jnp.float32) for array in arrays)))


class TestLosses:
    @pytest.mark.slow
    @each_loss
    def test_equals_the_reference_on_one_device_and_on_eight(self, name):
        loss, reference, arrays = CASES[name]
        narrow = tuple(jnp.asarray(array, jnp.float32) for array in arrays)
        function = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arrays)))))
        one, gradients = function(*narrow)
        assert one.dtype == jnp.float32 and one.shape == ()
        np.testing.assert_allclose(one, reference(*arrays), rtol=2e-5)
        rows = tuple(tiny.on_devices(array, 8) if len(array) == N else array for array in narrow)
        many, sharded = function(*rows)
        np.testing.assert_allclose(many, one, rtol=1e-5)
        for a, b in zip(gradients, sharded, strict=True):
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a)

    @each_loss
    def test_gradient_equals_finite_differences_of_the_reference(self, name):
        loss, reference, arrays = CASES[name]
        with jax.enable_x64(True):
            inputs = tuple(jnp.asarray(array) for array in arrays)
            gradients = jax.jit(jax.grad(loss, argnums=tuple(range(len(inputs)))))(*inputs)
            assert gradients[0].dtype == jnp.float64
        random = np.random.default_rng(0)
        for position, gradient in enumerate(gradients):
            direction = random.normal(size=gradient.shape)
            moved = [[a + h * direction if i == position else a for i, a in enumerate(arrays)] for h in (1e-6, -1e-6)]
            numeric = (reference(*moved[0]) - reference(*moved[1])) / 2e-6
            np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), numeric, rtol=1e-5, atol=1e-8)

    @pytest.mark.parametrize("name", PAIRED)
    def test_order_of_the_batch_does_not_matter(self, name):
        loss, _, (a, b) = CASES[name]
        order = np.random.default_rng(1).permutation(N)
        assert value(loss, a[order], b[order]) == pytest.approx(value(loss, a, b), rel=1e-5)

    @pytest.mark.parametrize("name", ["relational_distance", "relational_angle"])
    def test_rotation_shift_and_scale_do_not_matter_to_relations(self, name):
        loss, _, (a, b) = CASES[name]
        turn = np.linalg.qr(draw(D, D, seed=5))[0]
        assert value(loss, 7 * a @ turn + 3, 0.1 * b - 1) == pytest.approx(value(loss, a, b), rel=1e-4)

    def test_rotation_and_scale_do_not_matter_to_similarities(self):
        loss, _, (a, b) = CASES["similarity_preserving"]
        turn = np.linalg.qr(draw(D, D, seed=5))[0]
        assert value(loss, 7 * a @ turn, 0.1 * b) == pytest.approx(value(loss, a, b), rel=1e-4)

    def test_lengths_of_rows_do_not_matter_to_a_cosine(self):
        lengths = np.random.default_rng(2).uniform(0.1, 10, (N, 1))
        assert value(distances.cosine, A * lengths, B) == pytest.approx(value(distances.cosine, A, B), rel=1e-5)
        assert value(CASES["contrastive"][0], A * lengths, B) == pytest.approx(value(CASES["contrastive"][0], A, B))

    @pytest.mark.parametrize("name", PAIRED[:4])
    def test_is_zero_where_student_and_teacher_agree(self, name):
        loss = CASES[name][0]
        same, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(A), jnp.asarray(A))
        np.testing.assert_allclose(same, 0, atol=1e-6)
        np.testing.assert_allclose(gradient, 0, atol=1e-6)

    def test_hand_worked_values(self):
        """Of rows e1, e2, e3, -e1, most of them against the corners of a square."""
        rows = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]])
        square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
        root, e = math.sqrt(2), math.e
        # Rows 1 and 4 are 2 apart, all others sqrt 2; of the square rows 1 and 3, and 2 and 4, are sqrt 2 apart.
        mean, side = (5 * root + 2) / 6, (4 + 2 * root) / 6
        expected = (root / mean - 1 / side) ** 2 * 3 + 2 * (root / mean - root / side) ** 2 + (2 / mean - 1 / side) ** 2
        assert value(distances.relational_distance, rows, square) == pytest.approx(expected / 12, rel=1e-5)
        # Triangles 123 and 234 are equilateral, 124 and 134 right-angled at 2 and 3; those of the square are
        # right-angled at 2, 3, 1 and 4 in turn.
        expected = 4 * (root / 2 - 1 / 2) ** 2 + 2 / 4 + 4 / 2
        assert value(distances.relational_angle, rows, square) == pytest.approx(expected / 24, rel=1e-5)
        # Rows 1 and 4 are opposite for the one and alike for the other: (1, -1) against (1, 1), over sqrt 2, twice.
        assert value(distances.similarity_preserving, rows, np.abs(rows)) == pytest.approx(4 / 16, rel=1e-5)
        # Cosines with the next row are 0, 0, 0 and -1.
        assert value(distances.cosine, rows, np.roll(rows, 3, axis=0)) == pytest.approx(5 / 4)
        expected = (math.log(e + 2 + 1 / e) + math.log(e + 3)) / 2 - 1
        found = value(lambda p, z: distances.contrastive(p, z, temperature=1.0), rows, 2 * rows)
        assert found == pytest.approx(expected, rel=1e-5)
        # Prototypes e1, e2, e3: the entropies of softmax(1, 0, 0), three times, and of softmax(-1, 0, 0).
        axes = np.eye(3)
        found = value(lambda p, a: distances.prototype_cross_entropy(p, p, a, 2 * a, temperature=1.0), rows, axes)
        expected = 3 * (math.log(e + 2) - e / (e + 2)) + math.log(2 + 1 / e) + 1 / (2 * e + 1)
        assert found == pytest.approx(expected / 4, rel=1e-5)
        ones = np.ones((4, 3))
        assert distances.quadratic([ones], [0 * ones], [np.arange(12.0).reshape(4, 3)]) == 33
        assert distances.quadratic([ones, ones], [0 * ones, 3 * ones]) == 6 + 24

    @pytest.mark.parametrize("name", PAIRED)
    def test_rows_that_coincide_keep_a_finite_gradient(self, name):
        loss, _, (a, b) = CASES[name]
        function = jax.jit(jax.value_and_grad(loss))
        for student in (np.where(np.arange(N)[:, None] == 3, a[0], a), np.ones_like(a), np.zeros_like(a)):
            found, gradient = function(jnp.asarray(student, jnp.float32), jnp.asarray(b, jnp.float32))
            assert np.isfinite(found) and np.isfinite(gradient).all()

    def test_rows_far_from_zero_keep_their_relations(self):
        """Features after a ReLU: their products would round away what tells them apart."""
        for name in ("relational_distance", "relational_angle"):
            loss, _, (a, b) = CASES[name]
            assert value(loss, a + 300, b) == pytest.approx(value(loss, a, b), rel=1e-2)

    def test_too_few_rows_are_named(self):
        with pytest.raises(
            ValueError, match="the student has 2 rows, the teacher 2; they need as many, and at least 3"
        ):
            distances.relational_angle(A[:2], B[:2])
        with pytest.raises(ValueError, match="the student has 8 rows, the teacher 7"):
            distances.similarity_preserving(A, B[:7])


def term(kind: str, **changes) -> distill.Term:
    return distill.read_terms(base.distillation(kind=kind, **changes))[0]


class Blank(Task):
    """No loss of its own; a projector, where asked for."""

    def __init__(self, body: nnx.Module, *, form: str = "mse", projector: nnx.Module | None = None):
        super().__init__(body, augment.Views(**{**tiny.STILL, "size": tiny.SIZE}))
        self.EMBEDDING_DISTANCE = form
        if projector is not None:
            self.projector = projector

    def loss(self, views, progress):
        features = self.backbone(views["image"], train=True)["pooled"]
        return Output(jnp.zeros(()), {}, views["image"], features)


# Each of another colour: the mean of noise alone is nearly the same for all.
IMAGES = jnp.asarray(draw(N, tiny.SIZE, tiny.SIZE, 3, seed=6) + draw(N, 1, 1, 3, seed=7), jnp.float32)
VIEWS = {"image": IMAGES}


def distilled(task: Task, terms, *, progress: float = 0.0, fishers=None, **teachers):
    """What distillation with these terms adds to the loss of a task, and what it logs."""
    frozen = distill.attach_distillation(task, terms, teachers, fishers)
    return task.distillation(task, task.loss(VIEWS, 0.0), frozen, progress)


def endpoints(body, train: bool):
    return {name: np.asarray(x, np.float64) for name, x in body(IMAGES, train=train).items()}


class TestKinds:
    @pytest.mark.parametrize("kind", ["kl", "mse", "cosine", "relational", "similarity_preserving", "l2_sp", "ewc"])
    def test_a_student_equal_to_its_teacher_has_nothing_to_learn(self, kind):
        added, _ = distilled(
            Blank(tiny.Pixels()), [term(kind)], previous=tiny.Pixels(), fishers={"previous": tiny.Pixels()}
        )
        np.testing.assert_allclose(added, 0, atol=1e-6)

    def test_each_compares_pooled_features_by_its_loss(self):
        student, teacher = tiny.Pixels(), tiny.Pixels(seed=1)
        s, t = endpoints(student, True)["pooled"], endpoints(teacher, False)["pooled"]
        p, q = softmax(t / 2), softmax(s / 2)
        expected = {
            "kl": 4 * np.mean(np.sum(p * np.log(p / q), axis=1)),
            "mse": np.mean((s - t) ** 2),
            "cosine": reference_cosine(s, t),
            "relational": reference_relational_distance(s, t) + 0.5 * reference_relational_angle(s, t),
            "similarity_preserving": reference_similarity_preserving(s, t),
        }
        terms = [dataclasses.replace(term(kind, temperature=2.0, angle=0.5), name=kind) for kind in expected]
        total, logged = distilled(Blank(student), terms, previous=teacher)
        for kind, value in expected.items():
            np.testing.assert_allclose(logged[f"distill_{kind}"], value, rtol=1e-4, err_msg=kind)
        np.testing.assert_allclose(total, sum(expected.values()), rtol=1e-4)

    def test_of_several_teachers_features_are_averaged_and_for_kl_probabilities(self):
        teachers = {"one": tiny.Pixels(seed=1), "other": tiny.Pixels(seed=2)}
        s = endpoints(tiny.Pixels(), True)["pooled"]
        both = [endpoints(teacher, False)["pooled"] for teacher in teachers.values()]
        _, logged = distilled(Blank(tiny.Pixels()), [term("mse", teachers=("one", "other"))], **teachers)
        np.testing.assert_allclose(logged["distill_loss"], np.mean((s - sum(both) / 2) ** 2), rtol=1e-5)
        p, q = (softmax(both[0] / 4) + softmax(both[1] / 4)) / 2, softmax(s / 4)
        _, logged = distilled(Blank(tiny.Pixels()), [term("kl", teachers=("one", "other"))], **teachers)
        np.testing.assert_allclose(logged["distill_loss"], 16 * np.mean(np.sum(p * np.log(p / q), axis=1)), rtol=1e-3)

    def test_maps_are_compared_place_by_place_averaged_or_whole(self):
        s, t = (endpoints(tiny.Pixels(seed=seed), True) for seed in (0, 1))
        places = [x["stage4"].reshape(-1, 6) for x in (s, t)]
        p, q = softmax(t["pooled"] / 4), softmax(s["pooled"] / 4)
        expected = {
            "mse": np.mean((places[0] - places[1]) ** 2),
            "cosine": reference_cosine(*places),
            "kl": 16 * np.mean(np.sum(p * np.log(p / q), axis=1)),
            "similarity_preserving": reference_similarity_preserving(s["stage4"], t["stage4"]),
        }
        terms = [dataclasses.replace(term(kind, endpoint="stage4"), name=kind) for kind in expected]
        _, logged = distilled(Blank(tiny.Pixels()), terms, previous=tiny.Pixels(seed=1))
        for kind, value in expected.items():
            np.testing.assert_allclose(logged[f"distill_{kind}"], value, rtol=1e-3, err_msg=kind)

    def test_teacher_goes_by_its_running_averages_and_a_second_look_leaves_the_students_alone(self):
        student, teacher = tiny.Normed(seed=0), tiny.Normed(seed=1)
        before = tiny.arrays(teacher)
        once = nnx.clone(student)
        once(IMAGES, train=True)
        task = Blank(student)
        output = task.loss(VIEWS, 0.0)
        seen = features.Endpoints(task, output, {"previous": teacher})
        np.testing.assert_allclose(seen.teacher("previous", "pooled"), teacher(IMAGES, train=False)["pooled"])
        tiny.assert_same(teacher, before)
        seen._student.clear()
        np.testing.assert_allclose(seen.student("pooled"), output.features, rtol=1e-5, atol=1e-6)
        tiny.assert_same(student, once)

    @pytest.mark.parametrize("schedule, halfway", [("constant", 2.0), ("linear", 1.5), ("cosine", 1.5)])
    def test_weight_goes_from_the_first_to_the_final_one(self, schedule, halfway):
        made = term("mse", weight=2.0, final_weight=1.0, schedule=schedule)
        last = 2.0 if schedule == "constant" else 1.0
        np.testing.assert_allclose([made.weight_at(p) for p in (0.0, 0.5, 1.0)], [2.0, halfway, last], rtol=1e-6)
        if schedule == "cosine":
            assert float(made.weight_at(0.25)) == pytest.approx(2 - (1 - math.cos(math.pi / 4)) / 2)

    @pytest.mark.slow
    def test_predictor_of_pfr_stands_before_the_student(self):
        task = Blank(tiny.Pixels())
        _, logged = distilled(task, [term("pfr")], previous=tiny.Pixels(features=4, seed=1))
        moved = task.distillation.distillers[0].predictor(
            endpoints(tiny.Pixels(), True)["pooled"].astype(np.float32), train=True
        )
        wanted = endpoints(tiny.Pixels(features=4, seed=1), False)["pooled"]
        np.testing.assert_allclose(logged["distill_loss"], reference_cosine(np.asarray(moved), wanted) - 1, rtol=1e-4)

    def test_predictors_are_four_times_as_wide_as_the_features_unless_told(self):
        for hidden, width in ((0, 24), (7, 7)):
            task = Blank(tiny.Pixels())
            distill.attach_distillation(task, [term("pfr", hidden=hidden)], {"previous": tiny.Pixels()})
            assert task.distillation.distillers[0].predictor.layers[0].kernel.get_value().shape == (6, width)


class TestCaSSLe:
    FORMS = {
        "contrastive": lambda p, z: reference_contrastive(p, z, 0.2),
        "cosine": lambda p, z: 2 * reference_cosine(p, z),
        "mse": lambda p, z: np.mean((p - z) ** 2),
        "invariance": lambda p, z: 25 * np.mean((p - z) ** 2),
        "cross_correlation": lambda p, z: 0.1 * float(losses.barlow_twins(p, z, off_diagonal_weight=0.005)),
    }

    @pytest.mark.parametrize("form", FORMS)
    def test_compares_predictions_with_the_projections_of_the_start(self, form):
        projector = nnx.Linear(6, 4, rngs=nnx.Rngs(3))
        task = Blank(tiny.Pixels(), form=form, projector=nnx.clone(projector))
        teacher = tiny.Pixels(seed=1)
        frozen = distill.attach_distillation(task, [term("cassle")], {"previous": teacher})
        nnx.update(task.projector, jax.tree.map(lambda x: 2 * x, nnx.state(task.projector)))
        _, logged = task.distillation(task, task.loss(VIEWS, 0.0), frozen, 0.0)
        embedded = task.projector(tiny.Pixels()(IMAGES, train=True)["pooled"])
        p = np.asarray(task.distillation.distillers[0].predictor(embedded, train=True), np.float64)
        z = np.asarray(projector(teacher(IMAGES, train=False)["pooled"]), np.float64)
        np.testing.assert_allclose(logged["distill_loss"], self.FORMS[form](p, z), rtol=1e-4)

    def test_prototypes_of_the_teacher_are_those_of_the_start(self):
        projector, teacher = nnx.Linear(6, 4, rngs=nnx.Rngs(3)), tiny.Pixels(seed=1)
        task = Blank(tiny.Pixels(), form="prototypes", projector=projector)
        start = draw(4, 5, seed=8)
        task.prototypes = lambda: jnp.asarray(start, jnp.float32)
        frozen = distill.attach_distillation(task, [term("cassle")], {"previous": teacher})
        task.prototypes = lambda: jnp.zeros((4, 5))
        _, logged = task.distillation(task, task.loss(VIEWS, 0.0), frozen, 0.0)
        distiller = task.distillation.distillers[0]
        p = distiller.predictor(projector(tiny.Pixels()(IMAGES, train=True)["pooled"]), train=True)
        z = projector(teacher(IMAGES, train=False)["pooled"])
        own = distiller.directions.get_value()
        expected = reference_prototypes(*(np.asarray(x, np.float64) for x in (p, z, own, start)), 0.1)
        np.testing.assert_allclose(logged["distill_loss"], expected, rtol=1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", pretext.TASKS)
    def test_every_task_of_the_table_can_be_kept_to_its_projections(self, name):
        stage = tiny.table_stage(name)
        task = tiny.task(stage, tiny.table_body(name))
        frozen = distill.attach_distillation(task, [term("cassle")], {"previous": tiny.table_body(name, seed=1)})
        views = jax.jit(task.views)(jax.random.key(0), tiny.table_batch(name))
        value, gradient = gradients(task, frozen, views, "distillation")
        assert np.isfinite(value)
        for path, leaf in tiny.arrays(gradient).items():
            assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path

    def test_a_task_without_a_projector_compares_features(self):
        task = Blank(tiny.Pixels(), form="contrastive")
        distill.attach_distillation(task, [term("cassle")], {"previous": tiny.Pixels()})
        assert task.distillation.distillers[0].distance == "mse"

    def test_fresh_norms_take_the_statistics_of_the_batch_and_keep_none(self):
        head = tiny.Normed(size=1, features=3)
        rows = jnp.asarray(draw(N, 1, 1, 3, seed=8), jnp.float32)

        class Head(nnx.Module):
            def __init__(self):
                self.inner = head

            def __call__(self, x, *, train):
                return self.inner(x, train=True)["pooled"]

        before = tiny.arrays(head)
        found = cassle.project(Head(), rows)
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-4)
        tiny.assert_same(head, before)

    def test_unknown_form_names_the_known_ones(self):
        task = Blank(tiny.Pixels(), form="hinge", projector=nnx.Linear(6, 4, rngs=nnx.Rngs(0)))
        with pytest.raises(
            ValueError, match="Blank: EMBEDDING_DISTANCE is 'hinge'; known are contrastive, cosine, mse"
        ):
            distill.attach_distillation(task, [term("cassle")], {"previous": tiny.Pixels()})


def gradients(task, frozen, views, part: str | None = None):
    """Value and gradient of what a keeper adds, in all parameters of the task, or in one part of them."""
    graph, params, rest = split_state(task)
    frozen_graph, state = nnx.split(frozen)

    def added(learning, views):
        made = nnx.merge(graph, learning if part is None else {**params, part: learning}, rest)
        return made.distillation(made, made.loss(views, 0.0), nnx.merge(frozen_graph, nnx.as_pure(state)), 0.5)[0]

    found, gradient = jax.jit(jax.value_and_grad(added))(params if part is None else params[part], views)
    return float(found), gradient


class TestGradient:
    @pytest.mark.slow
    def test_all_kinds_on_eight_devices_are_those_of_one_and_reach_what_learns(self):
        task = Blank(tiny.Pixels(), form="contrastive", projector=nnx.Linear(6, 4, rngs=nnx.Rngs(3)))
        terms = [dataclasses.replace(term(kind), name=kind) for kind in distill.KINDS]
        terms += [dataclasses.replace(term("mse", endpoint="stage4"), name="map")]
        teacher, fisher = tiny.Pixels(seed=1), {"previous": tiny.Pixels(seed=2)}
        frozen = distill.attach_distillation(task, terms, {"previous": teacher}, fisher)
        one, gradient_1 = gradients(task, frozen, tiny.on_devices(VIEWS, 1))
        eight, gradient_8 = gradients(task, frozen, tiny.on_devices(VIEWS, 8))
        assert eight == pytest.approx(one, rel=1e-5)
        found, expected = tiny.arrays(gradient_8), tiny.arrays(gradient_1)
        size, error = (
            np.sqrt(sum(np.sum(np.square(leaf)) for leaf in tree))
            for tree in (expected.values(), [found[name] - expected[name] for name in expected])
        )
        assert error <= 1e-5 * size
        learning = [name for name, leaf in expected.items() if np.abs(leaf).max() > 1e-6]
        for part in ("backbone", "projector", "distillation"):
            assert any(part in name for name in learning), part

    def test_of_weight_penalties_is_exact(self):
        student, teacher, fisher = (tiny.Pixels(seed=seed) for seed in range(3))
        w, a, f = (tiny.arrays(nnx.as_pure(nnx.state(body))) for body in (student, teacher, fisher))
        for kind, expected in {
            "l2_sp": {name: w[name] - a[name] for name in w},
            "ewc": {name: f[name] * (w[name] - a[name]) for name in w},
        }.items():
            task = Blank(nnx.clone(student))
            frozen = distill.attach_distillation(
                task, [term(kind, weight=3.0)], {"previous": teacher}, {"previous": fisher}
            )
            value, gradient = gradients(task, frozen, tiny.on_devices(VIEWS, 1))
            found = tiny.arrays(gradient["backbone"])
            half = sum(np.sum(expected[name] * (w[name] - a[name])) for name in w) / 2
            assert value == pytest.approx(3 * half, rel=1e-5)
            for name in w:
                np.testing.assert_allclose(found[name], 3 * expected[name], rtol=1e-5, atol=1e-7)

    def test_penalties_of_several_teachers_are_averaged(self):
        teachers = {"one": tiny.Pixels(seed=1), "other": tiny.Pixels(seed=2)}
        both, _ = distilled(Blank(tiny.Pixels()), [term("l2_sp", teachers=("one", "other"))], **teachers)
        each = [distilled(Blank(tiny.Pixels()), [term("l2_sp")], previous=teacher)[0] for teacher in teachers.values()]
        np.testing.assert_allclose(both, sum(each) / 2, rtol=1e-6)


class Regression(Blank):
    """Every image is asked for 1: a loss that is a sum over images."""

    def loss(self, views, progress):
        output = super().loss(views, progress)
        return dataclasses.replace(output, loss=jnp.mean(jnp.square(output.features - 1)))


class TestFisher:
    def per_image(self, task, batch, key):
        """Gradients of the loss of each image by itself."""
        image = task.views(key, batch)["image"]
        graph, weights = nnx.split(task.backbone)

        @jax.jit
        def gradient(weights, image):
            def loss(weights):
                return jnp.mean(jnp.square(nnx.merge(graph, weights)(image[None], train=True)["pooled"] - 1))

            return jax.grad(loss)(weights)

        return [tiny.arrays(gradient(nnx.as_pure(weights), one)) for one in image]

    @pytest.mark.slow
    @pytest.mark.parametrize("count", [1, 4])
    def test_equals_squared_gradients_of_the_images(self, count):
        """Of batches of one image: their mean. Of larger ones: B times the square of their mean gradient."""
        task, key = Regression(tiny.Pixels()), jax.random.key(5)
        batches = [tiny.batch(count, start=count * n) for n in range(3)]
        found = tiny.arrays(distill.estimate_fisher(task, batches, key))
        by_batch = [self.per_image(task, batch, jax.random.fold_in(key, n)) for n, batch in enumerate(batches)]
        for name, value in found.items():
            means = [np.mean([image[name] for image in images], axis=0, dtype=np.float64) for images in by_batch]
            np.testing.assert_allclose(value, count * np.mean(np.square(means), axis=0), rtol=1e-4, atol=1e-9)
            assert (value >= 0).all() and value.any()

    def test_leaves_the_task_as_it_was_and_is_the_same_again(self):
        task = Regression(tiny.Normed())
        before = tiny.arrays(task)
        one, again = (distill.estimate_fisher(task, [tiny.batch()], jax.random.key(0)) for _ in range(2))
        tiny.assert_same(task, before)
        tiny.assert_same(one, again)
        with pytest.raises(ValueError, match="at least one batch"):
            distill.estimate_fisher(task, [], jax.random.key(0))


class TestAverage:
    def test_ends_are_the_bits_of_either_and_the_middle_lies_between(self):
        one, other = tiny.Normed(seed=0), tiny.Normed(seed=1)
        other.norm.mean.set_value(other.norm.mean.get_value() - 1)
        tiny.assert_same(distill.average_weights(one, [other], 0.0), one)
        tiny.assert_same(distill.average_weights(one, [other], 1.0), other)
        a, b, found = (tiny.arrays(body) for body in (one, other, distill.average_weights(one, [other], 0.25)))
        for name in a:
            np.testing.assert_allclose(found[name], 0.75 * a[name] + 0.25 * b[name], rtol=1e-6)

    def test_of_several_is_with_their_mean(self):
        bodies = [tiny.Normed(seed=seed) for seed in range(3)]
        a, b, c, found = map(tiny.arrays, (*bodies, distill.average_weights(bodies[0], bodies[1:], 0.5)))
        for name in a:
            np.testing.assert_allclose(found[name], a[name] / 2 + (b[name] + c[name]) / 4, rtol=1e-5, atol=1e-7)


class TestTerms:
    def test_none_distils_nothing(self):
        assert distill.read_terms(base.distillation()) == ()
        assert distill.read_terms(FrozenConfigDict({"kind": "none"})) == ()
        task = Blank(tiny.Pixels())
        assert distill.attach_distillation(task, (), {}) is None
        assert distill.attach_distillation(task, [term("weight_average")], {"previous": tiny.Pixels()}) is None
        assert task.distillation is None

    def test_several_go_by_their_kinds(self):
        stage = base.stage("rotation", distill=({"kind": "kl"}, {"kind": "ewc", "weight": 10.0}, {"kind": "kl"}))
        found = distill.read_terms(FrozenConfigDict(stage).distill)
        assert {term.name: (term.kind, term.weight) for term in found} == {
            "kl": ("kl", 1.0),
            "ewc": ("ewc", 10.0),
            "kl_2": ("kl", 1.0),
        }
        assert [term.name for term in distill.read_terms(base.stage("rotation", distill={"kind": "mse"}).distill)] == [
            "loss"
        ]

    def test_unknown_kind_names_the_known_ones(self):
        known = "none, kl, mse, cosine, relational, similarity_preserving, pfr, cassle, l2_sp, ewc, weight_average"
        with pytest.raises(ValueError, match=f"distill.kind is 'l1'; known: {known}"):
            term("l1")

    @pytest.mark.parametrize(
        "field, value, message",
        [
            ("weight", -1.0, "distill.weight is -1.0; it must be at least 0"),
            ("final_weight", math.nan, "distill.final_weight is nan"),
            ("schedule", "steep", "distill.schedule is 'steep'; it must be one of constant, linear, cosine"),
            ("teachers", (), r"distill.teachers is \(\); it must be one or more, each once"),
            ("teachers", ("previous", "previous"), "each once"),
            ("temperature", 0.0, "distill.temperature is 0.0; it must be positive with kind 'kl'"),
            ("angle", -2.0, "distill.angle is -2.0"),
            ("hidden", -1, "distill.hidden is -1"),
            ("share", 1.5, r"distill.share is 1.5; it must be in \[0, 1\]"),
        ],
    )
    def test_field_out_of_range_is_named(self, field, value, message):
        with pytest.raises(ValueError, match=message):
            term("kl", **{field: value})

    @pytest.mark.parametrize("kind", ["cassle", "l2_sp", "ewc", "weight_average"])
    def test_kinds_without_a_choice_of_endpoint_say_so(self, kind):
        with pytest.raises(
            ValueError, match=f"distill.endpoint is 'stage4'; it must be left at 'pooled' with kind '{kind}'"
        ):
            term(kind, endpoint="stage4")

    def test_a_new_kind_is_one_entry(self, monkeypatch):
        class Dot(features.Features):
            def compare(self, student, teacher):
                return jnp.sum(student * teacher)

        monkeypatch.setitem(distill.KINDS, "dot", Dot)
        found, _ = distilled(Blank(tiny.Pixels()), [term("dot")], previous=tiny.Pixels(seed=1))
        s, t = (endpoints(tiny.Pixels(seed=seed), True)["pooled"] for seed in (0, 1))
        np.testing.assert_allclose(found, np.sum(s * t), rtol=1e-4)


class TestCheck:
    def check(self, kind, *teachers, **changes):
        made = dict(zip(("one", "other"), teachers, strict=False))
        distill.check_term(term(kind, **changes), tiny.Pixels(), made, tiny.SIZE, rows=8)

    @pytest.mark.parametrize(
        "kind, angle, least",
        [("relational", 0.0, 2), ("relational", 1.0, 3), ("similarity_preserving", 0.0, 2), ("pfr", 0.0, 3)]
        + [("cassle", 0.0, 3), ("mse", 0.0, 1), ("l2_sp", 0.0, 1)],
    )
    def test_rows_that_a_batch_must_give(self, kind, angle, least):
        fields = {"teachers": ("one",), "angle": angle}
        compared = (term(kind, **fields), tiny.Pixels(), {"one": tiny.Pixels(seed=1)}, tiny.SIZE)
        distill.check_term(*compared, rows=least)
        if least > 1:
            message = f"distill.kind '{kind}' .* at least {least}, and this stage gives {least - 1}; raise `batch_size`"
            with pytest.raises(ValueError, match=message):
                distill.check_term(*compared, rows=least - 1)

    def test_narrower_teachers_fit_the_kinds_that_compare_no_features_one_by_one(self):
        fitting = set()
        for kind in (*distill.KINDS, distill.AVERAGING):
            self.check(kind, tiny.Pixels(), tiny.Pixels(seed=1))
            with contextlib.suppress(ValueError):
                self.check(kind, tiny.Pixels(features=4))
                fitting.add(kind)
        assert fitting == {"relational", "similarity_preserving", "pfr"}

    def test_endpoint_the_backbone_lacks(self):
        with pytest.raises(
            ValueError, match="distill.endpoint is 'stage9'; the backbone of the stage has pooled, stage4"
        ):
            self.check("mse", tiny.Pixels(), endpoint="stage9")

    @pytest.mark.parametrize("kind", ["kl", "mse", "cosine", "cassle"])
    def test_features_of_another_size(self, kind):
        with pytest.raises(ValueError, match=rf"'pooled' of one: \(1, 4\); kind '{kind}' needs \(1, 6\) here"):
            self.check(kind, tiny.Pixels(features=4))

    @pytest.mark.parametrize("kind", ["l2_sp", "ewc", "weight_average"])
    def test_weights_of_another_model(self, kind):
        with pytest.raises(
            ValueError, match=rf"weights of one: 2 arrays \(4,\), \(3, 4\); kind '{kind}' needs 2 arrays"
        ):
            self.check(kind, tiny.Pixels(features=4))

    def test_teachers_to_average_that_differ(self):
        with pytest.raises(ValueError, match=r"'pooled' of other: \(1, 5\); kind 'relational' needs \(1, 4\)"):
            self.check("relational", tiny.Pixels(features=4), tiny.Pixels(features=5))

    def test_teacher_of_other_images(self):
        with pytest.raises(
            ValueError, match="images of one: 2-D with 1 channels; kind 'mse' needs 2-D with 3 channels"
        ):
            self.check("mse", tiny.Pixels(channels=1))
