"""Cross-entropies with distributions as targets, and how such distributions are made."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aiseeme_jax.losses.arrays import check_positive, check_rows, check_same_shape, wide


def dino(
    student: Float[Array, "batch views prototypes"],
    teacher: Float[Array, "batch globals prototypes"],
    *,
    centre: Float[Array, " prototypes"],
    student_temperature: float,
    teacher_temperature: float,
) -> Float[Array, ""]:
    """Mean over images and pairs (teacher's view g, student's view v != g) of the cross-entropy H(P_g, P_v).

    P_g = softmax((teacher_g - centre) / teacher_temperature), P_v = softmax(student_v / student_temperature). View i of
    the teacher is view i of the student. The student has at least two views, and may have more than the teacher.
    Source: Caron et al., ICCV 2021 (arXiv 2104.14294), eq. 3 and algorithm 1.
    """
    target, log_p = _dino_distributions(student, teacher, centre, student_temperature, teacher_temperature)
    return _over_other_views(target, log_p)


def dino_losses(
    student: Float[Array, "batch views prototypes"],
    teacher: Float[Array, "batch globals prototypes"],
    *,
    centre: Float[Array, " prototypes"],
    student_temperature: float,
    teacher_temperature: float,
) -> Float[Array, " batch"]:
    """`dino` of each image."""
    target, log_p = _dino_distributions(student, teacher, centre, student_temperature, teacher_temperature)
    return _each_over_other_views(target, log_p)


def _dino_distributions(
    student: Array, teacher: Array, centre: Array, student_temperature: float, teacher_temperature: float
) -> tuple[Float[Array, "batch globals prototypes"], Float[Array, "batch views prototypes"]]:
    """P of the teacher's views, and log P of the student's."""
    check_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    views, of_teacher = student.shape[1], teacher.shape[1]
    if views < max(of_teacher, 2) or student.shape[::2] != teacher.shape[::2]:
        raise ValueError(
            f"the student gives {student.shape}, the teacher {teacher.shape}: images and prototypes must agree, and "
            "the student must have all views of the teacher and at least two"
        )
    target = jax.nn.softmax((wide(teacher) - wide(centre)) / teacher_temperature)
    return target, jax.nn.log_softmax(wide(student) / student_temperature)


def swapped_prediction(
    scores: Float[Array, "batch views prototypes"],
    codes: Float[Array, "batch globals prototypes"],
    *,
    temperature: float,
) -> Float[Array, ""]:
    """Mean over images and pairs (code of view g, scores of view v != g) of the cross-entropy H(code_g, P_v).

    P_v = softmax(scores_v / temperature). Code i is the code of view i. There are at least two views.
    Source: Caron et al., NeurIPS 2020 (arXiv 2006.09882), eqs. 1 and 2, over more views as in section 3.2.
    """
    return _over_other_views(wide(codes), _swapped_log_p(scores, codes, temperature))


def swapped_predictions(
    scores: Float[Array, "batch views prototypes"],
    codes: Float[Array, "batch globals prototypes"],
    *,
    temperature: float,
) -> Float[Array, " batch"]:
    """`swapped_prediction` of each image."""
    return _each_over_other_views(wide(codes), _swapped_log_p(scores, codes, temperature))


def _swapped_log_p(scores: Array, codes: Array, temperature: float) -> Float[Array, "batch views prototypes"]:
    check_positive(temperature=temperature)
    if scores.shape[1] < max(codes.shape[1], 2) or scores.shape[::2] != codes.shape[::2]:
        raise ValueError(
            f"there are scores {scores.shape} and codes {codes.shape}: images and prototypes must agree, and "
            "there must be a view for each code and at least two views"
        )
    return jax.nn.log_softmax(wide(scores) / temperature)


def sinkhorn(
    scores: Float[Array, "batch prototypes"], *, epsilon: float, iterations: int
) -> Float[Array, "batch prototypes"]:
    """Soft assignments. Rows sum to 1, and with more iterations columns approach batch / prototypes; at least two rows.

    Sinkhorn-Knopp on exp(scores / epsilon): each iteration first equalises the prototypes, then normalises the rows. It
    runs in log space, so that no score overflows and no prototype underflows.
    Source: Caron et al., NeurIPS 2020 (arXiv 2006.09882), eqs. 3 to 5; Cuturi, NeurIPS 2013.
    """
    check_positive(epsilon=epsilon)
    check_rows(2, "one row is assigned to all prototypes alike, whatever its scores", scores=scores)

    def iterate(_, log_plan):
        log_plan = log_plan - jax.nn.logsumexp(log_plan, axis=0, keepdims=True)
        return log_plan - jax.nn.logsumexp(log_plan, axis=1, keepdims=True)

    return jax.nn.softmax(jax.lax.fori_loop(0, iterations, iterate, wide(scores) / epsilon), axis=1)


def kl_distill(
    student: Float[Array, "batch dim"], teacher: Float[Array, "batch dim"], *, temperature: float
) -> Float[Array, ""]:
    """T^2 · mean_i KL( softmax(teacher_i / T) || softmax(student_i / T) ), not negative, 0 if both agree.

    The factor T^2 keeps the size of the gradient independent of T.
    Source: Hinton et al., 2015 (arXiv 1503.02531), section 2.
    """
    check_same_shape(student=student, teacher=teacher)
    check_positive(temperature=temperature)
    log_p = jax.nn.log_softmax(wide(teacher) / temperature)
    log_q = jax.nn.log_softmax(wide(student) / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def _over_other_views(
    wanted: Float[Array, "batch globals k"], log_p: Float[Array, "batch views k"]
) -> Float[Array, ""]:
    """Mean over images and pairs (g, v != g) of -sum_k wanted_g log p_v. View i is the same view in both."""
    targets, views = wanted.shape[1], log_p.shape[1]
    entropy = -jnp.einsum("ngk,nvk->gv", wanted, log_p, precision=jax.lax.Precision.HIGHEST) / len(log_p)
    other = ~jnp.eye(targets, views, dtype=bool)
    return jnp.sum(jnp.where(other, entropy, 0)) / (targets * (views - 1))


def _each_over_other_views(
    wanted: Float[Array, "batch globals k"], log_p: Float[Array, "batch views k"]
) -> Float[Array, " batch"]:
    """`_over_other_views` of each image."""
    targets, views = wanted.shape[1], log_p.shape[1]
    entropy = -jnp.einsum("ngk,nvk->ngv", wanted, log_p, precision=jax.lax.Precision.HIGHEST)
    other = ~jnp.eye(targets, views, dtype=bool)
    return jnp.sum(jnp.where(other, entropy, 0), axis=(1, 2)) / (targets * (views - 1))
