"""Losses against NumPy in float64, hand-worked values, invariances, finite differences, shards, PyTorch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aiseeme_jax import losses

N, D, K, C = 16, 6, 5, 4


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


# References: loops over rows, as the papers write them, nothing shared with the implementation.


def reference_nt_xent(z1, z2, temperature):
    rows = unit(np.concatenate([z1, z2]))
    n = len(z1)
    terms = []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        denominator = sum(np.exp(rows[i] @ rows[k] / temperature) for k in range(2 * n) if k != i)
        terms.append(-np.log(np.exp(rows[i] @ rows[j] / temperature) / denominator))
    return np.mean(terms)


def reference_info_nce(query, key, negatives, temperature):
    terms = []
    for i in range(len(query)):
        own = negatives[i] if negatives.ndim == 3 else negatives
        positive = np.exp(query[i] @ key[i] / temperature)
        terms.append(-np.log(positive / (positive + sum(np.exp(query[i] @ row / temperature) for row in own))))
    return np.mean(terms)


def reference_info_nce_in_batch(query, key, temperature):
    terms = []
    for i in range(len(query)):
        shares = [np.exp(query[i] @ row / temperature) for row in key]
        terms.append(-np.log(shares[i] / sum(shares)))
    return np.mean(terms)


def reference_dense_correspondence(query, key):
    found = np.zeros(query.shape[:2], int)
    for image in range(len(query)):
        for place in range(query.shape[1]):
            cosines = [query[image, place] @ row / np.linalg.norm(row) for row in key[image]]
            found[image, place] = np.argmax(cosines)
    return found


def reference_dense_info_nce(query, key, correspondence, negatives, temperature):
    terms = []
    for image in range(len(query)):
        for place in range(query.shape[1]):
            q, k = query[image, place], key[image, correspondence[image, place]]
            positive = np.exp(q @ k / temperature)
            terms.append(-np.log(positive / (positive + sum(np.exp(q @ row / temperature) for row in negatives))))
    return np.mean(terms)


def reference_dino(student, teacher, centre, student_temperature, teacher_temperature):
    terms = []
    for image in range(len(student)):
        for g in range(teacher.shape[1]):
            p = softmax((teacher[image, g] - centre) / teacher_temperature)
            for v in range(student.shape[1]):
                if v != g:
                    terms.append(-np.sum(p * np.log(softmax(student[image, v] / student_temperature))))
    return np.mean(terms)


def reference_swapped_prediction(scores, codes, temperature):
    terms = []
    for image in range(len(scores)):
        for g in range(codes.shape[1]):
            for v in range(scores.shape[1]):
                if v != g:
                    terms.append(-np.sum(codes[image, g] * np.log(softmax(scores[image, v] / temperature))))
    return np.mean(terms)


def reference_negative_cosine(p, z):
    return -np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(p, z, strict=True)])


def reference_barlow_twins(z1, z2, off_diagonal_weight):
    a = (z1 - z1.mean(0)) / np.sqrt(z1.var(0) + 1e-5)
    b = (z2 - z2.mean(0)) / np.sqrt(z2.var(0) + 1e-5)
    total = 0.0
    for i in range(z1.shape[1]):
        for j in range(z1.shape[1]):
            c = np.mean(a[:, i] * b[:, j])
            total += (1 - c) ** 2 if i == j else off_diagonal_weight * c**2
    return total


def reference_vicreg(z1, z2, invariance, variance, covariance):
    total = invariance * np.mean((z1 - z2) ** 2)
    for z in (z1, z2):
        hinges = [max(0.0, 1 - math.sqrt(column.var(ddof=1) + 1e-4)) for column in z.T]
        total += variance * np.mean(hinges) / 2
        matrix = np.cov(z, rowvar=False)
        total += covariance * sum(matrix[i, j] ** 2 for i in range(D) for j in range(D) if i != j) / D
    return total


def reference_sinkhorn(scores, epsilon, iterations):
    plan = np.exp(scores / epsilon).T
    plan /= plan.sum()
    for _ in range(iterations):
        plan /= plan.sum(axis=1, keepdims=True) * plan.shape[0]
        plan /= plan.sum(axis=0, keepdims=True) * plan.shape[1]
    return (plan * plan.shape[1]).T


def reference_kl_distill(student, teacher, temperature):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=1))


def reference_focal(logits, labels, gamma, alpha):
    alpha = np.broadcast_to(alpha, logits.shape[1])
    p = softmax(logits)[np.arange(len(labels)), labels]
    return np.mean(-alpha[labels] * (1 - p) ** gamma * np.log(p))


def reference_cross_entropy(logits, labels, weights=None):
    p = softmax(logits)[np.arange(len(labels)), labels]
    return np.average(-np.log(p), weights=None if weights is None else weights[labels])


def reference_mse(prediction, target):
    return np.mean((prediction - target) ** 2)


def reference_masked_mse(prediction, target, mask):
    return np.mean(
        [(p - t) ** 2 for p, t, m in zip(prediction.ravel(), target.ravel(), mask.ravel(), strict=True) if m]
    )


def reference_binary_cross_entropy(logits, labels):
    p = 1 / (1 + np.exp(-logits))
    return -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))


def draw(*shape, seed=0, normalised=False):
    x = np.random.default_rng(seed).normal(size=shape)
    return unit(x) if normalised else x


LABELS = np.random.default_rng(9).integers(0, C, N).astype(np.int32)
CLASS_WEIGHTS = np.array([0.2, 1.0, 2.5, 0.7])
A, B = draw(N, D, seed=1), draw(N, D, seed=2)
Q, KEY = draw(N, D, seed=3, normalised=True), draw(N, D, seed=4, normalised=True)
LOGITS = 3 * draw(N, C, seed=5)
PLACES, KEY_PLACES = draw(N, 4, D, seed=10, normalised=True), draw(N, 3, D, seed=11, normalised=True)
CORRESPONDENCE = np.random.default_rng(12).integers(0, 3, (N, 4))
CENTRE = draw(D, seed=13)
MASK = draw(N, D, seed=17) > 0.5

# name -> (loss of the float arrays, reference of the same, float arrays, which of them carry the batch)
CASES = {
    "nt_xent": (
        lambda a, b: losses.nt_xent(a, b, temperature=0.2),
        lambda a, b: reference_nt_xent(a, b, 0.2),
        (A, B),
    ),
    "info_nce_shared": (
        lambda q, k, n: losses.info_nce(q, k, n, temperature=0.07),
        lambda q, k, n: reference_info_nce(q, k, n, 0.07),
        (Q, KEY, draw(2 * N, D, seed=6, normalised=True)),
    ),
    "info_nce_own": (
        lambda q, k, n: losses.info_nce(q, k, n, temperature=0.5),
        lambda q, k, n: reference_info_nce(q, k, n, 0.5),
        (Q, KEY, draw(N, K, D, seed=7, normalised=True)),
    ),
    "info_nce_in_batch": (
        lambda q, k: losses.info_nce_in_batch(q, k, temperature=0.2),
        lambda q, k: reference_info_nce_in_batch(q, k, 0.2),
        (Q, KEY),
    ),
    "dense_info_nce": (
        lambda q, k, n: losses.dense_info_nce(q, k, CORRESPONDENCE, n, temperature=0.2),
        lambda q, k, n: reference_dense_info_nce(q, k, CORRESPONDENCE, n, 0.2),
        (PLACES, KEY_PLACES, draw(2 * N, D, seed=14, normalised=True)),
    ),
    "dino": (
        lambda s, t: losses.dino(s, t, centre=CENTRE, student_temperature=0.5, teacher_temperature=0.3),
        lambda s, t: reference_dino(s, t, CENTRE, 0.5, 0.3),
        (draw(N, 5, D, seed=15), draw(N, 2, D, seed=16)),
    ),
    "swapped_prediction": (
        lambda s, q: losses.swapped_prediction(s, q, temperature=0.4),
        lambda s, q: reference_swapped_prediction(s, q, 0.4),
        (draw(N, 5, D, seed=15), softmax(draw(N, 2, D, seed=16))),
    ),
    "negative_cosine": (losses.negative_cosine, reference_negative_cosine, (A, B)),
    "barlow_twins": (
        lambda a, b: losses.barlow_twins(a, b, off_diagonal_weight=0.0051),
        lambda a, b: reference_barlow_twins(a, b, 0.0051),
        (A, A + 0.3 * B),
    ),
    "vicreg": (
        lambda a, b: losses.vicreg(a, b, invariance=25.0, variance=25.0, covariance=1.0),
        lambda a, b: reference_vicreg(a, b, 25.0, 25.0, 1.0),
        (0.5 * A, 0.8 * B),
    ),
    "kl_distill": (
        lambda s, t: losses.kl_distill(s, t, temperature=4.0),
        lambda s, t: reference_kl_distill(s, t, 4.0),
        (3 * A, 3 * B),
    ),
    "focal": (
        lambda x: losses.focal(x, LABELS, gamma=2.0, alpha=0.25),
        lambda x: reference_focal(x, LABELS, 2.0, 0.25),
        (LOGITS,),
    ),
    "focal_per_class": (
        lambda x: losses.focal(x, LABELS, gamma=0.5, alpha=CLASS_WEIGHTS),
        lambda x: reference_focal(x, LABELS, 0.5, CLASS_WEIGHTS),
        (LOGITS,),
    ),
    "cross_entropy": (
        lambda x: losses.cross_entropy(x, LABELS),
        lambda x: reference_cross_entropy(x, LABELS),
        (LOGITS,),
    ),
    "cross_entropy_weighted": (
        lambda x: losses.cross_entropy(x, LABELS, weights=CLASS_WEIGHTS),
        lambda x: reference_cross_entropy(x, LABELS, CLASS_WEIGHTS),
        (LOGITS,),
    ),
    "mse": (losses.mse, reference_mse, (A, B)),
    "masked_mse": (
        lambda a, b: losses.masked_mse(a, b, MASK),
        lambda a, b: reference_masked_mse(a, b, MASK),
        (A, B),
    ),
    "binary_cross_entropy": (
        lambda x: losses.binary_cross_entropy(x, MASK),
        lambda x: reference_binary_cross_entropy(x, MASK),
        (3 * A,),
    ),
    # An assignment is no scalar: its inner product with fixed numbers stands for it.
    "sinkhorn": (
        lambda s: jnp.sum(losses.sinkhorn(s, epsilon=0.05, iterations=3) * jnp.asarray(B)),
        lambda s: np.sum(reference_sinkhorn(s, 0.05, 3) * B),
        (0.2 * A,),
    ),
}
each_loss = pytest.mark.parametrize("name", CASES)


@each_loss
def test_equals_the_reference(name):
    loss, reference, arrays = CASES[name]
    value = jax.jit(loss)(*(jnp.asarray(array, jnp.float32) for array in arrays))
    assert value.dtype == jnp.float32 and value.shape == ()
    np.testing.assert_allclose(value, reference(*arrays), rtol=2e-5)


@each_loss
def test_gradient_equals_finite_differences_of_the_reference(name):
    loss, reference, arrays = CASES[name]
    with jax.enable_x64(True):
        inputs = tuple(jnp.asarray(array) for array in arrays)
        gradients = jax.jit(jax.grad(loss, argnums=tuple(range(len(inputs)))))(*inputs)
        assert gradients[0].dtype == jnp.float64
    rng = np.random.default_rng(0)
    for position, gradient in enumerate(gradients):
        direction = rng.normal(size=gradient.shape)

        def moved(step, position=position, direction=direction):
            return [a + step * direction if i == position else a for i, a in enumerate(arrays)]

        h = 1e-6
        numeric = (reference(*moved(h)) - reference(*moved(-h))) / (2 * h)
        np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), numeric, rtol=1e-5, atol=1e-8)


@each_loss
def test_eight_devices_equal_one(name):
    loss, _, arrays = CASES[name]
    devices = jax.devices()
    assert len(devices) == 8
    rows = NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec("data"))
    inputs = tuple(jnp.asarray(array, jnp.float32) for array in arrays)
    function = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(inputs)))))
    value, gradients = function(*inputs)
    sharded_value, sharded = function(*(jax.device_put(array, rows) for array in inputs))
    np.testing.assert_allclose(sharded_value, value, rtol=1e-5)
    for one, many in zip(gradients, sharded, strict=True):
        assert np.linalg.norm(one - many) <= 1e-5 * np.linalg.norm(one)


@each_loss
def test_bfloat16_is_computed_in_float32(name):
    loss, _, arrays = CASES[name]
    narrow = [jnp.asarray(array, jnp.bfloat16) for array in arrays]
    value = loss(*narrow)
    # The same rounded numbers in float32: no bit may be lost on the way.
    np.testing.assert_array_equal(value, loss(*(array.astype(jnp.float32) for array in narrow)))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, loss(*(jnp.asarray(a, jnp.float32) for a in arrays)), rtol=0.05, atol=0.01)


PAIRED = ["nt_xent", "negative_cosine", "barlow_twins", "vicreg", "mse", "kl_distill", "info_nce_in_batch"]


@pytest.mark.parametrize("name", PAIRED + ["info_nce_shared", "info_nce_own", "dino", "swapped_prediction"])
def test_order_of_the_batch_does_not_matter(name):
    loss, _, arrays = CASES[name]
    order = np.random.default_rng(1).permutation(N)
    shuffled = [array[order] if len(array) == N else array[::-1] for array in arrays]
    np.testing.assert_allclose(loss(*shuffled), loss(*arrays), rtol=1e-5)


def test_order_of_labelled_rows_places_and_crops_does_not_matter():
    order = np.random.default_rng(1).permutation(N)
    for loss in (losses.cross_entropy, lambda x, y: losses.focal(x, y, gamma=2.0, alpha=0.25)):
        np.testing.assert_allclose(loss(LOGITS[order], LABELS[order]), loss(LOGITS, LABELS), rtol=1e-5)
    dense, _, (query, key, negatives) = CASES["dense_info_nce"]
    places = np.array([2, 0, 3, 1])
    moved = losses.dense_info_nce(
        query[order][:, places], key[order], CORRESPONDENCE[order][:, places], negatives[::-1], temperature=0.2
    )
    np.testing.assert_allclose(moved, dense(query, key, negatives), rtol=1e-5)
    # Global crops may change places if teacher and student agree on it, local crops at will.
    dino, _, (student, teacher) = CASES["dino"]
    np.testing.assert_allclose(dino(student[:, [1, 0, 4, 2, 3]], teacher[:, ::-1]), dino(student, teacher), rtol=1e-5)


def test_shifts_of_logits_do_not_matter_to_a_softmax():
    dino, _, (student, teacher) = CASES["dino"]
    np.testing.assert_allclose(dino(student + 3, teacher - 2), dino(student, teacher), rtol=1e-4)
    kl, _, (student, teacher) = CASES["kl_distill"]
    np.testing.assert_allclose(kl(student + 3, teacher - 2), kl(student, teacher), rtol=1e-4)
    np.testing.assert_allclose(
        losses.cross_entropy(LOGITS + 3, LABELS), losses.cross_entropy(LOGITS, LABELS), rtol=1e-5
    )


def test_correspondence_is_that_of_the_most_similar_place_whatever_the_lengths():
    query, key = draw(N, 4, D, seed=10), draw(N, 3, D, seed=11)
    expected = reference_dense_correspondence(query, key)
    np.testing.assert_array_equal(losses.dense_correspondence(query, key), expected)
    lengths = np.random.default_rng(2).uniform(0.1, 10, (N, 3, 1))
    np.testing.assert_array_equal(losses.dense_correspondence(query, key * lengths), expected)


@pytest.mark.parametrize("name", ["nt_xent", "negative_cosine", "barlow_twins", "vicreg", "mse"])
def test_views_may_be_swapped(name):
    loss, _, (a, b) = CASES[name]
    np.testing.assert_allclose(loss(b, a), loss(a, b), rtol=1e-5)


@pytest.mark.parametrize("name", ["nt_xent", "negative_cosine"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_row_lengths_do_not_matter(name, scale):
    loss, _, (a, b) = CASES[name]
    lengths = scale * np.random.default_rng(2).uniform(0.5, 2, (N, 1))
    np.testing.assert_allclose(loss(a * lengths, b), loss(a, b), rtol=1e-5)


def test_shift_and_scale_of_a_dimension_do_not_matter_to_barlow_twins():
    loss, _, (a, b) = CASES["barlow_twins"]
    np.testing.assert_allclose(loss(30 * a + 5, b), loss(a, b), rtol=1e-3)


def test_shared_negatives_equal_the_same_ones_for_each_row():
    shared = draw(K, D, seed=8, normalised=True)
    own = np.broadcast_to(shared, (N, K, D))
    one, other = (losses.info_nce(Q, KEY, n, temperature=0.2) for n in (shared, own))
    np.testing.assert_allclose(one, other, rtol=1e-6)


# Hand-worked values on 4 x 3: the rows of two views are e1, e2, e3, -e1.
HAND = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]], np.float32)


@pytest.mark.slow
def test_hand_worked_values():
    e, z = math.e, HAND
    # Rows of e1 and -e1 meet 1 positive (cos 1), 4 others at cos 0, 2 at -1; rows of e2, e3 meet 6 at 0.
    expected = (math.log(e + 4 + 2 / e) + math.log(e + 6)) / 2 - 1
    np.testing.assert_allclose(losses.nt_xent(z, 2 * z, temperature=1.0), expected, rtol=1e-6)
    # One orthogonal negative for rows 1, 2 and 4; for row 3 it is the row itself.
    expected = (3 * math.log(1 + 1 / e) + math.log(2)) / 4
    np.testing.assert_allclose(losses.info_nce(z, z, z[2:3], temperature=1.0), expected, rtol=1e-6)
    # Rows e1 and -e1 meet cosines 1, 0, 0, -1; rows e2 and e3 meet 1, 0, 0, 0.
    expected = (math.log(e + 2 + 1 / e) + math.log(e + 3)) / 2 - 1
    np.testing.assert_allclose(losses.info_nce_in_batch(z, z, temperature=1.0), expected, rtol=1e-6)
    # Two images of two places, (e1, e2) and (e3, -e1): the second place of the first image is sent to e1, cosine 0;
    # the negative e3 is the third place itself.
    places, found = z.reshape(2, 2, 3), np.array([[0, 0], [0, 1]])
    expected = (2 * math.log(1 + 1 / e) + 2 * math.log(2)) / 4
    value = losses.dense_info_nce(places, places, found, z[2:3], temperature=1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(losses.dense_correspondence(places, 2 * places[:, ::-1]), [[1, 0], [1, 0]])
    assert losses.negative_cosine(z, np.roll(z, 3, axis=0)) == pytest.approx(1 / 4)
    assert losses.negative_cosine(z, 3 * z) == pytest.approx(-1)
    # Columns (1,0,0,-1), (0,1,0,0), (0,0,1,0): biased variances 1/2, 3/16, 3/16; C_23 = (-1/16) / (3/16).
    expected = 0.3 * 2 / 9
    np.testing.assert_allclose(losses.barlow_twins(z, z, off_diagonal_weight=0.3), expected, rtol=1e-3)
    # Unbiased: variances 2/3, 1/4, 1/4 and Cov_23 = -1/12.
    hinge = (1 - math.sqrt(2 / 3 + 1e-4) + 2 * (1 - math.sqrt(1 / 4 + 1e-4))) / 3
    expected = 5 * 1 + 7 * hinge + 11 * 2 * (2 / 144) / 3
    value = losses.vicreg(z, z + 1, invariance=5.0, variance=7.0, covariance=11.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # softmax of (log 2, 0, 0) is (1/2, 1/4, 1/4).
    logits = np.log(np.array([[2, 1, 1]] * 4))
    labels = np.array([0, 0, 1, 2])
    np.testing.assert_allclose(losses.cross_entropy(logits, labels), 1.5 * math.log(2), rtol=1e-6)
    weighted = losses.cross_entropy(logits, labels, weights=np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(weighted, (2 * 1 + 6 * 2) / 8 * math.log(2), rtol=1e-6)
    expected = 0.25 * (2 * 0.5**2 * 1 + 2 * 0.75**2 * 2) / 4 * math.log(2)
    np.testing.assert_allclose(losses.focal(logits, labels, gamma=2.0, alpha=0.25), expected, rtol=1e-6)
    # KL((1/2, 1/4, 1/4) || uniform) = log 3 - 3/2 log 2; logits twice as large at T = 2 say the same.
    expected = 4 * (math.log(3) - 1.5 * math.log(2))
    np.testing.assert_allclose(losses.kl_distill(0 * logits, 2 * logits, temperature=2.0), expected, rtol=1e-5)
    assert losses.mse(z, z + 2) == 4
    # Teacher: (1/2, 1/4, 1/4) and, once the centre is taken off, uniform. Student: uniform, then (1/2, 1/4, 1/4) twice.
    skewed, flat = np.log([2.0, 1.0, 1.0]), np.zeros(3)
    teacher = np.broadcast_to([skewed, flat], (4, 2, 3)) + 5 * skewed
    student = 2 * np.broadcast_to([flat, skewed, skewed], (4, 3, 3))
    value = losses.dino(student, teacher, centre=5 * skewed, student_temperature=2.0, teacher_temperature=1.0)
    pairs = 1.5 * math.log(2), 1.5 * math.log(2), math.log(3), 5 / 3 * math.log(2)
    np.testing.assert_allclose(value, sum(pairs) / 4, rtol=1e-6)
    # The same pairs: the codes are the teacher's shares.
    codes = np.broadcast_to([[0.5, 0.25, 0.25], [1 / 3] * 3], (4, 2, 3))
    value = losses.swapped_prediction(student, codes, temperature=2.0)
    np.testing.assert_allclose(value, sum(pairs) / 4, rtol=1e-6)


def test_bounds_are_reached():
    same = np.ones((N, D))
    # All rows alike: log of the 2N - 1 rows; a queue of K rows alike: log of K + 1.
    np.testing.assert_allclose(losses.nt_xent(same, same, temperature=0.1), math.log(2 * N - 1), rtol=1e-5)
    rows = unit(same)
    np.testing.assert_allclose(losses.info_nce(rows, rows, rows[:K], temperature=0.07), math.log(K + 1), rtol=1e-5)
    assert losses.kl_distill(A, A + 3, temperature=0.5) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["nt_xent", "negative_cosine", "barlow_twins", "vicreg"])
def test_zero_and_constant_rows_keep_a_finite_gradient(name):
    loss, _, (a, b) = CASES[name]
    function = jax.jit(jax.value_and_grad(loss))
    for first in (np.where(np.arange(N)[:, None] == 3, 0, a), np.zeros_like(a), np.ones_like(a)):
        value, gradient = function(jnp.asarray(first, jnp.float32), jnp.asarray(b, jnp.float32))
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.slow
def test_a_zero_row_gets_no_gradient():
    """A predictor that starts without a bias gives zero rows: at a floor of 1e-12 they would get a gradient of 1e12."""
    prediction = np.where(np.arange(N)[:, None] == 3, 0, A)
    for loss in (losses.negative_cosine, lambda a, b: losses.nt_xent(a, b, temperature=0.2)):
        gradient = jax.grad(loss)(jnp.asarray(prediction, jnp.float32), jnp.asarray(B, jnp.float32))
        assert not gradient[3].any() and gradient[2].any()


@pytest.mark.slow
def test_extreme_logits_stay_finite():
    logits, labels = jnp.array([[300.0, -300.0], [300.0, -300.0]]), jnp.array([0, 1])
    for loss in (
        losses.cross_entropy,
        lambda x, y: losses.focal(x, y, gamma=0.0, alpha=1.0),
        lambda x, y: losses.focal(x, y, gamma=0.5, alpha=1.0),
        lambda x, y: losses.kl_distill(x, -x, temperature=1.0),
        lambda x, y: losses.nt_xent(x, -x, temperature=0.001),
        lambda x, y: losses.dino(x[None], -x[None], centre=0 * x[0], student_temperature=0.1, teacher_temperature=0.04),
    ):
        value, gradient = jax.jit(jax.value_and_grad(loss))(logits, labels)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    assert losses.cross_entropy(logits, labels) == pytest.approx(300)


def test_focal_without_focus_is_cross_entropy():
    value = losses.focal(LOGITS, LABELS, gamma=0.0, alpha=1.0)
    np.testing.assert_allclose(value, losses.cross_entropy(LOGITS, LABELS), rtol=1e-6)


@pytest.mark.parametrize("label", [-1, C])
def test_a_label_that_is_no_class_cannot_pass_unseen(label):
    labels = np.where(np.arange(N) == 5, label, LABELS)
    assert np.isnan(losses.cross_entropy(LOGITS, labels))
    assert np.isnan(losses.focal(LOGITS, labels, gamma=2.0, alpha=0.25))


class TestSinkhorn:
    def test_equals_the_reference(self):
        plan = losses.sinkhorn(0.2 * A, epsilon=0.05, iterations=3)
        np.testing.assert_allclose(plan, reference_sinkhorn(0.2 * A, 0.05, 3), rtol=1e-4, atol=1e-7)

    def test_rows_sum_to_one_and_columns_even_out(self):
        plan = losses.sinkhorn(0.1 * A, epsilon=0.05, iterations=200)
        np.testing.assert_allclose(plan.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(plan.sum(axis=0), N / D, rtol=1e-3)
        np.testing.assert_allclose(losses.sinkhorn(A, epsilon=0.05, iterations=0).sum(axis=1), 1, rtol=1e-5)

    def test_scores_beyond_the_range_of_exp(self):
        # exp(50 / .05) is far beyond float32, and prototype 2 gets exp(-2000): it must still get its share.
        scores = np.zeros((6, 3), np.float32) + np.array([50.0, 0.0, -50.0])
        plan = losses.sinkhorn(scores, epsilon=0.05, iterations=3)
        np.testing.assert_allclose(plan, np.full((6, 3), 1 / 3), rtol=1e-5)

    def test_a_constant_added_to_all_scores_changes_nothing(self):
        plan, moved = (losses.sinkhorn(0.2 * A + c, epsilon=0.05, iterations=3) for c in (0, 2))
        np.testing.assert_allclose(moved, plan, rtol=1e-3, atol=1e-6)


class TestClassBalancedWeights:
    COUNTS = np.array([4522, 12875, 1, 239])

    @pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999])
    def test_equals_the_formula(self, beta):
        expected = (1 - beta) / (1 - beta ** self.COUNTS.astype(np.float64))
        expected *= len(expected) / expected.sum()
        weights = losses.class_balanced_weights(self.COUNTS, beta=beta)
        np.testing.assert_allclose(weights, expected, rtol=1e-5)
        assert weights.dtype == jnp.float32

    def test_beta_towards_one_is_inverse_frequency(self):
        expected = 1 / self.COUNTS
        weights = losses.class_balanced_weights(self.COUNTS, beta=1 - 1e-12)
        np.testing.assert_allclose(weights, 4 * expected / expected.sum(), rtol=1e-4)

    def test_a_class_without_examples_has_no_say(self):
        with_gap = losses.class_balanced_weights(np.array([10, 0, 30]), beta=0.9)
        without = losses.class_balanced_weights(np.array([10, 30]), beta=0.9)
        np.testing.assert_allclose(with_gap, [without[0], 0, without[1]], rtol=1e-6)

    @pytest.mark.parametrize("beta", [-0.1, 1.0, math.nan])
    def test_beta_out_of_range(self, beta):
        with pytest.raises(ValueError, match="beta"):
            losses.class_balanced_weights(self.COUNTS, beta=beta)


@pytest.mark.parametrize("name", PAIRED + ["info_nce_shared"])
def test_shapes_that_differ_are_named(name):
    loss, _, (first, *rest) = CASES[name]
    with pytest.raises(ValueError, match=rf"\({N}, {D}\).*\(1, {D}\)|\(1, {D}\).*\({N}, {D}\)"):
        loss(first[:1], *rest)


def test_a_mask_that_hides_all_gives_zero_and_one_for_each_row_is_broadcast():
    assert losses.masked_mse(A, B, np.zeros((N, D), bool)) == 0
    row = np.arange(N)[:, None] < 3
    np.testing.assert_allclose(losses.masked_mse(A, B, row), np.mean((A[:3] - B[:3]) ** 2), rtol=1e-5)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="temperature is 0"):
        losses.nt_xent(A, B, temperature=0)
    with pytest.raises(ValueError, match="epsilon is -1"):
        losses.sinkhorn(A, epsilon=-1.0, iterations=3)
    with pytest.raises(ValueError, match="negatives"):
        losses.info_nce(Q, KEY, np.ones((K, D + 1)), temperature=1.0)
    with pytest.raises(ValueError, match=r"the student gives \(16, 1, 6\), the teacher \(16, 2, 6\)"):
        losses.dino(A[:, None], np.stack([A, B], 1), centre=CENTRE, student_temperature=0.1, teacher_temperature=0.1)
    with pytest.raises(ValueError, match="teacher_temperature is 0"):
        losses.dino(A[:, None], A[:, None], centre=CENTRE, student_temperature=0.1, teacher_temperature=0)
    with pytest.raises(ValueError, match=r"scores \(16, 1, 6\) and codes \(16, 1, 6\)"):
        losses.swapped_prediction(A[:, None], A[:, None], temperature=0.1)
    with pytest.raises(ValueError, match=r"\(16, 0, 6\): without one, the loss is 0"):
        losses.info_nce(Q, KEY, np.ones((N, 0, D)), temperature=1.0)
    with pytest.raises(ValueError, match="of one class the focal loss is 0"):
        losses.focal(LOGITS[:, :1], LABELS, gamma=2.0, alpha=1.0)


# Losses that say nothing about a single row, and the names of their arrays.
COMPARING = {
    "nt_xent": (lambda a, b: losses.nt_xent(a, b, temperature=0.1), "z1"),
    "info_nce_in_batch": (lambda a, b: losses.info_nce_in_batch(a, b, temperature=0.1), "query"),
    "barlow_twins": (lambda a, b: losses.barlow_twins(a, b, off_diagonal_weight=0.1), "z1"),
    "vicreg": (lambda a, b: losses.vicreg(a, b, invariance=1.0, variance=1.0, covariance=1.0), "z1"),
    "sinkhorn": (lambda a, b: losses.sinkhorn(a, epsilon=0.05, iterations=3), "scores"),
}


@pytest.mark.parametrize("name", COMPARING)
def test_one_row_is_refused_where_rows_are_compared(name):
    loss, array = COMPARING[name]
    message = f"{array} has 1 rows; it must have at least 2: "
    with pytest.raises(ValueError, match=message):
        loss(A[:1], B[:1])
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(loss, A[:1], B[:1])
    assert np.isfinite(loss(A[:2], B[:2])).all()


def test_temperature_may_be_learned():
    gradient = jax.grad(lambda t: losses.nt_xent(A, B, temperature=t))(0.2)
    h = 1e-5
    numeric = (reference_nt_xent(A, B, 0.2 + h) - reference_nt_xent(A, B, 0.2 - h)) / (2 * h)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3)


def test_equal_pytorch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    a, b, logits = (torch.tensor(x) for x in (A, B, LOGITS))
    labels = torch.tensor(LABELS, dtype=torch.long)
    rows = functional.normalize(torch.cat([a, b]))
    similarity = (rows @ rows.T / 0.2).fill_diagonal_(-torch.inf)
    pairs = {
        functional.cross_entropy(similarity, torch.arange(2 * N).roll(N)): losses.nt_xent(A, B, temperature=0.2),
        functional.cross_entropy(logits, labels): losses.cross_entropy(LOGITS, LABELS),
        functional.cross_entropy(logits, labels, weight=torch.tensor(CLASS_WEIGHTS)): losses.cross_entropy(
            LOGITS, LABELS, weights=CLASS_WEIGHTS
        ),
        -functional.cosine_similarity(a, b).mean(): losses.negative_cosine(A, B),
        functional.mse_loss(a, b): losses.mse(A, B),
        9
        * functional.kl_div(
            functional.log_softmax(a / 3, 1), functional.softmax(b / 3, 1), reduction="batchmean"
        ): losses.kl_distill(A, B, temperature=3.0),
    }
    for theirs, ours in pairs.items():
        np.testing.assert_allclose(ours, theirs.item(), rtol=2e-5)
