"""Every loss as a plain function of arrays.

Contract: a loss sees the whole batch ("global view": no collectives, no axis names; `jit` over a sharded
batch gives the same number and the same gradient as one device), takes arrays of any float dtype, computes in
float32 (float64 stays float64) and returns a float32 scalar: the mean over the batch, in nats. No function
stops a gradient: what must not learn (keys, targets, teachers) is wrapped in `jax.lax.stop_gradient` by the
caller. Inputs must be finite.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_NORM_FLOOR = 1e-12
_BARLOW_EPSILON = 1e-5
_VICREG_EPSILON = 1e-4


def cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """Softmax cross-entropy, sum_i w[y_i] (-log p_i[y_i]) / sum_i w[y_i]; without weights the plain mean.

    Labels lie in 0 … classes-1; any other label makes the loss NaN, so that it cannot pass unseen.
    """
    logits = _wide(logits)
    losses = -_at_label(jax.nn.log_softmax(logits), labels)
    if weights is None:
        return jnp.mean(losses)
    weights = jnp.take(_wide(weights), labels, mode="clip")
    return jnp.sum(weights * losses) / jnp.sum(weights)


def binary_cross_entropy(logits: Float[Array, "*shape"], labels: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean over all elements of -log sigmoid(x) where the label is True, of -log sigmoid(-x) elsewhere."""
    _check_same_shape(logits=logits, labels=labels)
    return -jnp.mean(jax.nn.log_sigmoid(jnp.where(labels, 1, -1) * _wide(logits)))


def mse(prediction: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Mean of the squared differences over all elements."""
    _check_same_shape(prediction=prediction, target=target)
    return jnp.mean(jnp.square(_wide(prediction) - _wide(target)))


def masked_mse(
    prediction: Float[Array, "*shape"], target: Float[Array, "*shape"], mask: Bool[Array, "*shape"]
) -> Float[Array, ""]:
    """Mean of the squared differences over the elements where the mask, broadcast to them, is True; 0 if none is.

    Source: Pathak et al., CVPR 2016 (arXiv 1604.07379), eq. 1, as a mean.
    """
    _check_same_shape(prediction=prediction, target=target)
    mask = jnp.broadcast_to(mask, prediction.shape)
    squares = jnp.where(mask, jnp.square(_wide(prediction) - _wide(target)), 0)
    return jnp.sum(squares) / jnp.maximum(jnp.sum(mask, dtype=squares.dtype), 1)


def nt_xent(z1: Float[Array, "batch dim"], z2: Float[Array, "batch dim"], *, temperature: float) -> Float[Array, ""]:
    """Normalised-temperature cross-entropy of SimCLR; rows are L2-normalised here.

    With z the 2N rows of both views and j(i) the other view of row i,
    mean_i [ logsumexp_{k != i}(z_i·z_k / T) - z_i·z_j(i) / T ], a number in [0, log(2N - 1) + 2/T].
    Source: Chen et al., ICML 2020 (arXiv 2002.05709), eq. 1 and algorithm 1.
    """
    _check_same_shape(z1=z1, z2=z2)
    _check_positive(temperature=temperature)
    rows = _normalise(jnp.concatenate([_wide(z1), _wide(z2)]))
    similarity = _matmul(rows, rows.T) / temperature
    positive = jnp.sum(rows * jnp.roll(rows, z1.shape[0], axis=0), axis=1) / temperature
    others = jnp.where(jnp.eye(len(rows), dtype=bool), -jnp.inf, similarity)
    return jnp.mean(jax.nn.logsumexp(others, axis=1) - positive)


def info_nce(
    query: Float[Array, "batch dim"],
    key: Float[Array, "batch dim"],
    negatives: Float[Array, "negatives dim"] | Float[Array, "batch negatives dim"],
    *,
    temperature: float,
    mask: Bool[Array, "batch negatives"] | None = None,
) -> Float[Array, ""]:
    """InfoNCE against a queue or a memory bank; all rows come L2-normalised.

    mean_i [ logsumexp(q_i·k_i / T, q_i·n_1 / T, …, q_i·n_K / T) - q_i·k_i / T ], not negative. `negatives`
    [K, D] are shared by all queries, [N, K, D] are each query's own; `mask` is False where one does not count
    for a query, such as its own entry in a bank. Source: He et al., CVPR 2020 (arXiv
    1911.05722), eq. 1; Wu et al., CVPR 2018 (arXiv 1805.01978), eq. 2.
    """
    _check_same_shape(query=query, key=key)
    _check_positive(temperature=temperature)
    query, key, negatives = _wide(query), _wide(key), _wide(negatives)
    if negatives.ndim not in (2, 3) or negatives.shape[-1] != query.shape[1]:
        raise ValueError(
            f"negatives have shape {negatives.shape}; for queries {query.shape} they must be "
            f"[K, {query.shape[1]}] or [{query.shape[0]}, K, {query.shape[1]}]"
        )
    per_row = "nkd" if negatives.ndim == 3 else "kd"
    positive = jnp.sum(query * key, axis=1, keepdims=True)
    negative = jnp.einsum(f"nd,{per_row}->nk", query, negatives, precision=jax.lax.Precision.HIGHEST)
    if mask is not None:
        negative = jnp.where(mask, negative, -jnp.inf)
    logits = jnp.concatenate([positive, negative], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


def info_nce_in_batch(
    query: Float[Array, "batch dim"], key: Float[Array, "batch dim"], *, temperature: float
) -> Float[Array, ""]:
    """InfoNCE in which the keys of the other rows are the negatives; all rows come L2-normalised.

    mean_i [ logsumexp_j(q_i·k_j / T) - q_i·k_i / T ], not negative.
    Source: Chen et al., ICCV 2021 (arXiv 2104.02057), algorithm 1, without its factor 2 T.
    """
    _check_same_shape(query=query, key=key)
    _check_positive(temperature=temperature)
    logits = _matmul(_wide(query), _wide(key).T) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits))


def dense_correspondence(
    query: Float[Array, "batch places dim"], key: Float[Array, "batch keyplaces dim"]
) -> Int[Array, "batch places"]:
    """For each place of a query's map the place of its key's map with the most similar (cosine) features.

    Source: Wang et al., CVPR 2021 (arXiv 2011.09157), eq. 3.
    """
    similarity = jnp.einsum(
        "nsd,ntd->nst", _normalise(_wide(query)), _normalise(_wide(key)), precision=jax.lax.Precision.HIGHEST
    )
    return jnp.argmax(similarity, axis=-1)


def dense_info_nce(
    query: Float[Array, "batch places dim"],
    key: Float[Array, "batch keyplaces dim"],
    correspondence: Int[Array, "batch places"],
    negatives: Float[Array, "negatives dim"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """Mean over images and places of `info_nce`, the positive of a place being the one it corresponds to in the key.

    All rows come L2-normalised. Source: Wang et al., CVPR 2021 (arXiv 2011.09157), eq. 2.
    """
    dim = query.shape[-1]
    positive = jnp.take_along_axis(key, correspondence[:, :, None], axis=1)
    return info_nce(query.reshape(-1, dim), positive.reshape(-1, dim), negatives, temperature=temperature)


def negative_cosine(prediction: Float[Array, "batch dim"], target: Float[Array, "batch dim"]) -> Float[Array, ""]:
    """-mean_i cos(prediction_i, target_i), in [-1, 1]; rows are L2-normalised here.

    Source: Chen & He, CVPR 2021 (arXiv 2011.10566), eq. 1. The squared distance of BYOL (eq. 2) is 2 + 2 ·
    this.
    """
    _check_same_shape(prediction=prediction, target=target)
    return -jnp.mean(jnp.sum(_normalise(_wide(prediction)) * _normalise(_wide(target)), axis=-1))


def barlow_twins(
    z1: Float[Array, "batch dim"], z2: Float[Array, "batch dim"], *, off_diagonal_weight: float
) -> Float[Array, ""]:
    """sum_i (1 - C_ii)^2 + off_diagonal_weight · sum_{i != j} C_ij^2, not negative.

    C [dim, dim] is the cross-correlation over the batch of the two views, each dimension standardised with
    its mean and its biased variance (+ 1e-5). Source: Zbontar et al., ICML 2021 (arXiv 2103.03230), eqs. 1
    and 2.
    """
    _check_same_shape(z1=z1, z2=z2)
    correlation = _matmul(_standardise(_wide(z1)).T, _standardise(_wide(z2))) / z1.shape[0]
    diagonal = jnp.diagonal(correlation)
    return jnp.sum(jnp.square(1 - diagonal)) + off_diagonal_weight * _off_diagonal_energy(correlation)


def vicreg(
    z1: Float[Array, "batch dim"],
    z2: Float[Array, "batch dim"],
    *,
    invariance: float,
    variance: float,
    covariance: float,
) -> Float[Array, ""]:
    """invariance · mse(z1, z2) + variance · v + covariance · c, not negative; at least two rows.

    v: half of each view's mean over dimensions of max(0, 1 - sqrt(Var + 1e-4)); c: the squared off-diagonal
    elements of each view's covariance matrix, summed, over dim. Variances and covariances are unbiased (N -
    1). Source: Bardes et al., ICLR 2022 (arXiv 2105.04906), eqs. 1 to 6; the invariance term is the mean over
    rows and dimensions, as in their algorithm 1.
    """
    _check_same_shape(z1=z1, z2=z2)
    if z1.shape[0] < 2:
        raise ValueError(f"vicreg needs at least 2 rows to take a variance over, got {z1.shape[0]}")
    hinge, redundancy = 0.0, 0.0
    for rows in (_wide(z1), _wide(z2)):
        centred = rows - jnp.mean(rows, axis=0)
        matrix = _matmul(centred.T, centred) / (rows.shape[0] - 1)
        deviation = jnp.sqrt(jnp.diagonal(matrix) + _VICREG_EPSILON)
        hinge += jnp.mean(jax.nn.relu(1 - deviation)) / 2
        redundancy += _off_diagonal_energy(matrix) / rows.shape[1]
    return invariance * mse(z1, z2) + variance * hinge + covariance * redundancy


def dino(
    student: Float[Array, "batch views prototypes"],
    teacher: Float[Array, "batch globals prototypes"],
    *,
    centre: Float[Array, " prototypes"],
    student_temperature: float,
    teacher_temperature: float,
) -> Float[Array, ""]:
    """Mean over images and pairs (teacher's view g, student's view v != g) of the cross-entropy H(P_g, P_v).

    P_g = softmax((teacher_g - centre) / teacher_temperature), P_v = softmax(student_v / student_temperature); view i of
    the teacher is view i of the student, who has at least two and may have more.
    Source: Caron et al., ICCV 2021 (arXiv 2104.14294), eq. 3 and algorithm 1.
    """
    _check_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    views, seen = student.shape[1], teacher.shape[1]
    if views < max(seen, 2) or student.shape[::2] != teacher.shape[::2]:
        raise ValueError(
            f"the student gives {student.shape}, the teacher {teacher.shape}: images and prototypes must agree, and "
            "the student see all views of the teacher and at least two"
        )
    target = jax.nn.softmax((_wide(teacher) - _wide(centre)) / teacher_temperature)
    log_p = jax.nn.log_softmax(_wide(student) / student_temperature)
    return _over_other_views(target, log_p)


def swapped_prediction(
    scores: Float[Array, "batch views prototypes"],
    codes: Float[Array, "batch globals prototypes"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """Mean over images and pairs (code of view g, scores of view v != g) of the cross-entropy H(code_g, P_v).

    P_v = softmax(scores_v / temperature); code i is that of view i, and there are at least two views.
    Source: Caron et al., NeurIPS 2020 (arXiv 2006.09882), eqs. 1 and 2, over more views as in section 3.2.
    """
    _check_positive(temperature=temperature)
    if scores.shape[1] < max(codes.shape[1], 2) or scores.shape[::2] != codes.shape[::2]:
        raise ValueError(
            f"there are scores {scores.shape} and codes {codes.shape}: images and prototypes must agree, and there be "
            "a view for each code and at least two"
        )
    return _over_other_views(_wide(codes), jax.nn.log_softmax(_wide(scores) / temperature))


def sinkhorn(
    scores: Float[Array, "batch prototypes"], *, epsilon: float, iterations: int
) -> Float[Array, "batch prototypes"]:
    """Soft assignments: rows sum to 1 and, as iterations grow, columns to batch / prototypes.

    Sinkhorn-Knopp on exp(scores / epsilon): each iteration first evens out the prototypes, then normalises
    the rows. In log space, so no score is too large and no prototype dies of underflow. Source: Caron et al.,
    NeurIPS 2020 (arXiv 2006.09882), eqs. 3 to 5; Cuturi, NeurIPS 2013.
    """
    _check_positive(epsilon=epsilon)

    def iterate(_, log_plan):
        log_plan = log_plan - jax.nn.logsumexp(log_plan, axis=0, keepdims=True)
        return log_plan - jax.nn.logsumexp(log_plan, axis=1, keepdims=True)

    return jax.nn.softmax(jax.lax.fori_loop(0, iterations, iterate, _wide(scores) / epsilon), axis=1)


def kl_distill(
    student: Float[Array, "batch dim"], teacher: Float[Array, "batch dim"], *, temperature: float
) -> Float[Array, ""]:
    """T^2 · mean_i KL( softmax(teacher_i / T) || softmax(student_i / T) ), not negative, 0 where both agree.

    The factor T^2 keeps the size of the gradient independent of T.
    Source: Hinton et al., 2015 (arXiv 1503.02531), section 2.
    """
    _check_same_shape(student=student, teacher=teacher)
    _check_positive(temperature=temperature)
    log_p = jax.nn.log_softmax(_wide(teacher) / temperature)
    log_q = jax.nn.log_softmax(_wide(student) / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def class_balanced_weights(counts: Int[Array, " classes"], *, beta: float) -> Float[Array, " classes"]:
    """Weights (1 - beta) / (1 - beta^n_c), scaled to sum to the number of classes.

    beta 0 gives all ones, beta → 1 the inverse frequencies. A class without a single example gets weight 0
    and does not count as a class in the scaling. Source: Cui et al., CVPR 2019 (arXiv 1901.05555), eq. 4 and
    section 4.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta is {beta}; it must lie in [0, 1)")
    counts = _wide(counts)
    present = counts > 0
    # 1 - beta^n by expm1, the logarithm in double precision: the plain difference loses four digits at .9999.
    log_beta = math.log(beta) if beta > 0 else -math.inf
    weights = jnp.where(present, -1 / jnp.expm1(jnp.where(present, counts, 1) * log_beta), 0)
    return weights * jnp.sum(present) / jnp.sum(weights)


def focal(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    gamma: float,
    alpha: float | Float[Array, " classes"],
) -> Float[Array, ""]:
    """mean_i -alpha[y_i] (1 - p_i)^gamma log p_i, with p_i the softmax probability of the label.

    At least two classes; alpha is one number or one per class. gamma 0 and alpha 1 give `cross_entropy`.
    Labels as there. Source: Lin et al., ICCV 2017 (arXiv 1708.02002), eq. 5, with softmax in place of their
    sigmoid.
    """
    logits = _wide(logits)
    classes = logits.shape[1]
    log_probabilities = jax.nn.log_softmax(logits)
    log_p = _at_label(log_probabilities, labels)
    # log(1 - p) from the other classes: exact where p rounds to 1, and no power of zero in the gradient.
    others = jnp.where(jax.nn.one_hot(labels, classes, dtype=bool), -jnp.inf, log_probabilities)
    modulation = jnp.exp(gamma * jax.nn.logsumexp(others, axis=1))
    alpha = jnp.take(jnp.broadcast_to(_wide(alpha), (classes,)), labels, mode="clip")
    return jnp.mean(-alpha * modulation * log_p)


def _wide(x) -> Float[Array, "..."]:
    """The array in float32, or in float64 where it comes so."""
    x = jnp.asarray(x)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32) if floating else jnp.float32)


def _matmul(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    """Matrix product in true float32: accelerators otherwise round the factors to 10 or 8 bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _normalise(rows: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Rows of length 1; a zero row, which has no direction, stays zero and gets no gradient."""
    squared_norm = jnp.sum(jnp.square(rows), axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.maximum(squared_norm, _NORM_FLOOR**2))
    return rows * jnp.where(squared_norm > _NORM_FLOOR**2, scale, 0)


def _standardise(rows: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
    return (rows - jnp.mean(rows, axis=0)) * jax.lax.rsqrt(jnp.var(rows, axis=0) + _BARLOW_EPSILON)


def _off_diagonal_energy(matrix: Float[Array, "dim dim"]) -> Float[Array, ""]:
    """Sum of the squared off-diagonal elements (masked, not a difference of sums, which would cancel)."""
    return jnp.sum(jnp.square(jnp.where(jnp.eye(matrix.shape[0], dtype=bool), 0, matrix)))


def _at_label(log_probabilities: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """Each row's value at its label, NaN where the label is no class (-1 would be the last one)."""
    labels = jnp.asarray(labels)
    classes = log_probabilities.shape[1]
    picked = jnp.take_along_axis(log_probabilities, jnp.clip(labels, 0, classes - 1)[:, None], axis=1)[:, 0]
    return jnp.where((labels >= 0) & (labels < classes), picked, jnp.nan)


def _over_other_views(
    wanted: Float[Array, "batch globals k"], log_p: Float[Array, "batch views k"]
) -> Float[Array, ""]:
    """Mean over images and pairs (g, v != g) of -sum_k wanted_g log p_v; view i of one is view i of the other."""
    seen, views = wanted.shape[1], log_p.shape[1]
    entropy = -jnp.einsum("ngk,nvk->gv", wanted, log_p, precision=jax.lax.Precision.HIGHEST) / len(log_p)
    other = ~jnp.eye(seen, views, dtype=bool)
    return jnp.sum(jnp.where(other, entropy, 0)) / (seen * (views - 1))


def _check_same_shape(**arrays: Array) -> None:
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes differ: {listed}")


def _check_positive(**numbers: float) -> None:
    """Names a number that is not positive; a traced one (a learned temperature) cannot be checked."""
    for name, number in numbers.items():
        if isinstance(number, int | float) and not number > 0:
            raise ValueError(f"{name} is {number}; it must be positive")
