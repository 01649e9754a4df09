"""Distances between a student and its teacher, as plain functions of arrays.

The contract is that of `aiseeme_jax.losses`: the whole batch, float32 scalars, no gradient stopped here. Rows are
images (each view one of them), or places of a map.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aiseeme_jax import losses
from aiseeme_jax.losses.arrays import check_same_shape, matmul, normalise, wide

# Vertices of triangles that are computed together.
_VERTICES = 8


def cosine(student: Float[Array, "rows dim"], teacher: Float[Array, "rows dim"]) -> Float[Array, ""]:
    """1 - mean_i cos(student_i, teacher_i), in [0, 2]."""
    return 1 + losses.negative_cosine(student, teacher)


def relational_distance(student: Float[Array, "rows s"], teacher: Float[Array, "rows t"]) -> Float[Array, ""]:
    """Mean over ordered pairs i != j of Huber(|s_i - s_j| / mu_s - |t_i - t_j| / mu_t), mu the mean over these pairs.

    At least two rows; their lengths may differ. Rotation, shift and scale of either side change nothing. The Huber
    function is quadratic up to 1. Source: Park et al., CVPR 2019 (arXiv 1904.05068), eqs. 5 to 8, as a mean in place of
    their sum. The authors' code also counts the n pairs i = j, whose term is 0.
    """
    _check_rows(student, teacher, 2)
    count = student.shape[0]
    relative = []
    for rows in (student, teacher):
        distance = _distances(wide(rows))[1]
        mean = jnp.sum(distance) / (count * (count - 1))
        relative.append(distance / jnp.where(mean > 0, mean, 1))
    return jnp.sum(_huber(relative[0] - relative[1])) / (count * (count - 1))


def relational_angle(student: Float[Array, "rows s"], teacher: Float[Array, "rows t"]) -> Float[Array, ""]:
    """Mean over triangles (i, j, k, all different, in any order) of Huber of the difference of cos(angle at j).

    At least three rows; their lengths may differ. Rotation, shift and scale of either side change nothing. The angle at
    a row that equals another row counts as a right angle. Time grows with the cube of the rows, memory with their
    square: triangles are taken by their vertex, a few vertices at a time. Source: Park et al., CVPR 2019 (arXiv
    1904.05068), eqs. 9 to 11, as a mean in place of their sum. The authors' code also counts the triangles with two
    corners alike.
    """
    _check_rows(student, teacher, 3)
    count = student.shape[0]
    sides = [_distances(wide(rows)) for rows in (student, teacher)]

    def at(vertex):
        found, wanted = (_cosines(products, distance, vertex) for products, distance in sides)
        # A corner that is taken twice makes no triangle.
        return jnp.sum(jnp.where(jnp.eye(count, dtype=bool), 0, _huber(found - wanted)))

    by_vertex = jax.lax.map(jax.checkpoint(at), jnp.arange(count), batch_size=min(_VERTICES, count))
    return jnp.sum(by_vertex) / (count * (count - 1) * (count - 2))


def similarity_preserving(student: Float[Array, "rows *s"], teacher: Float[Array, "rows *t"]) -> Float[Array, ""]:
    """|S - T|^2 / rows^2, S and T the matrices F F^T of the flattened features, their rows brought to length one.

    The features of the two may differ in shape. Rotation and scale of either side change nothing. Source: Tung & Mori,
    ICCV 2019 (arXiv 1907.09682), eqs. 1 to 4. At least two rows: one is as similar to itself as any other.
    """
    _check_rows(student, teacher, 2)
    flat = [wide(rows).reshape(rows.shape[0], -1) for rows in (student, teacher)]
    one, other = (normalise(matmul(rows, rows.T)) for rows in flat)
    return jnp.mean(jnp.square(one - other))


def contrastive(
    prediction: Float[Array, "rows dim"], target: Float[Array, "rows dim"], *, temperature: float
) -> Float[Array, ""]:
    """InfoNCE of predictions in targets and of targets in predictions, halved; rows are L2-normalised here.

    Source: Fini et al., CVPR 2022 (arXiv 2112.04215), with both views of all images in one matrix, as in their code.
    """
    prediction, target = normalise(wide(prediction)), normalise(wide(target))
    forth = losses.info_nce_in_batch(prediction, target, temperature=temperature)
    back = losses.info_nce_in_batch(target, prediction, temperature=temperature)
    return (forth + back) / 2


def prototype_cross_entropy(
    prediction: Float[Array, "rows dim"],
    target: Float[Array, "rows dim"],
    prototypes: Float[Array, "dim count"],
    target_prototypes: Float[Array, "dim count"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """Mean cross-entropy of softmax(cos(prediction_i, prototypes) / T) with the same of targets and their prototypes.

    Rows and prototypes (columns) are L2-normalised here. Source: Fini et al., CVPR 2022 (arXiv 2112.04215), for SwAV.
    """
    check_same_shape(prediction=prediction, target=target)

    def logits(rows, columns):
        return matmul(normalise(wide(rows)), normalise(wide(columns).T).T) / temperature

    wanted = jax.nn.softmax(logits(target, target_prototypes))
    return -jnp.mean(jnp.sum(wanted * jax.nn.log_softmax(logits(prediction, prototypes)), axis=-1))


def quadratic(
    weights: list[Float[Array, "..."]],
    teacher: list[Float[Array, "..."]],
    importance: list[Float[Array, "..."]] | None = None,
) -> Float[Array, ""]:
    """1/2 sum_i F_i (w_i - t_i)^2 over all elements of all arrays; F = 1 without `importance`."""
    total = jnp.zeros(())
    for position, (weight, start) in enumerate(zip(weights, teacher, strict=True)):
        check_same_shape(weight=weight, teacher=start)
        square = jnp.square(wide(weight) - wide(start))
        total += jnp.sum(square if importance is None else wide(importance[position]) * square)
    return total / 2


def _distances(rows: Float[Array, "n d"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Inner products of the centred rows, and distances; a distance lost in rounding is 0 and has no gradient."""
    # Centred, since products of rows far from 0 would round away what tells them apart.
    centred = rows - jnp.mean(rows, axis=0)
    products = matmul(centred, centred.T)
    squares = jnp.diagonal(products)
    sums = squares[:, None] + squares[None, :]
    squared = sums - 2 * products
    apart = (squared > 8 * jnp.finfo(rows.dtype).eps * sums) & ~jnp.eye(len(rows), dtype=bool)
    return products, jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)


def _cosines(products: Float[Array, "n n"], distance: Float[Array, "n n"], vertex) -> Float[Array, "n n"]:
    """cos of the angle that rows i and k make at `vertex`; 0 where one of them lies on it."""
    to = distance[vertex]
    inverse = jnp.where(to > 0, 1 / jnp.where(to > 0, to, 1), 0)
    column = products[vertex]
    inner = products - column[:, None] - column[None, :] + column[vertex]
    return inner * inverse[:, None] * inverse[None, :]


def _huber(difference: Float[Array, "..."]) -> Float[Array, "..."]:
    size = jnp.abs(difference)
    return jnp.where(size <= 1, jnp.square(difference) / 2, size - 0.5)


def _check_rows(student: Float[Array, "rows *s"], teacher: Float[Array, "rows *t"], least: int) -> None:
    if student.shape[0] != teacher.shape[0] or student.shape[0] < least:
        raise ValueError(
            f"the student has {student.shape[0]} rows, the teacher {teacher.shape[0]}; "
            f"they need as many, and at least {least}: raise `batch_size`"
        )
