"""Durations, learning-rate schedules and optimizers by name, over optax.

Contract: the functions read config nodes by attribute (`configs/nodes.py` describes every field) and return
plain optax objects. A step counts completed updates, so `schedule(0)` is the rate of a stage's first update.
Parameters with at most one axis (biases, scales of norms) take neither weight decay nor the LARS adaptation.
A new optimizer or schedule is one function and one entry of its table.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from aiseeme_jax.errors import UserError

_UNITS = ("epochs", "steps", "examples")


def steps_of(duration: Any, *, steps_per_epoch: int, batch_size: int) -> int:
    """Number of steps of a duration given in epochs (may be a fraction), steps or examples.

    Examples round up to whole batches, epochs to the nearest step; a duration above 0 is at least one step.
    Raises UserError unless exactly one unit is set, to a number that is not negative.
    """
    given = {unit: getattr(duration, unit) for unit in _UNITS}
    given = {unit: value for unit, value in given.items() if value is not None}
    if len(given) != 1:
        listed = ", ".join(f"{unit}={value}" for unit, value in given.items()) or "none"
        raise UserError(f"a duration needs exactly one of {', '.join(_UNITS)}; set here: {listed}")
    ((unit, value),) = given.items()
    if not 0 <= value < math.inf or (unit != "epochs" and value != int(value)):
        kind = "number" if unit == "epochs" else "whole number"
        raise UserError(f"duration.{unit} is {value}; it must be a {kind} of at least 0")
    if unit == "epochs":
        steps = round(value * steps_per_epoch)
    else:
        steps = int(value) if unit == "steps" else math.ceil(value / batch_size)
    return max(steps, 1 if value > 0 else 0)


def make_schedule(
    config: Any, peak: float, total_steps: int, steps_per_epoch: int, batch_size: int, *, hold: int = 0
) -> optax.Schedule:
    """Linear warm-up to `peak`, then the schedule that `config.name` says, over `total_steps` updates.

    The warm-up of W steps starts at peak / (W + 1), since a first update at rate 0 would be wasted, and
    reaches the peak at step W. From there the rate stays at the peak for `hold` steps. The schedule then takes the
    rest of the steps, as that of a stage which is `hold` steps shorter. Raises UserError for an unknown name and for
    values that do not fit the stage.
    """
    if not 0 <= peak < math.inf:
        raise UserError(f"optimizer.learning_rate is {peak}; it must be at least 0 and finite")
    body = _named("schedule.name", config.name, SCHEDULES)
    warmup = steps_of(config.warmup, steps_per_epoch=steps_per_epoch, batch_size=batch_size)
    if warmup >= total_steps - hold:
        held = f" and {hold} steps at the peak follow it" if hold else ""
        raise UserError(
            f"schedule.warmup lasts {warmup} steps{held}, the whole stage {total_steps}: "
            "shorten the warm-up or lengthen the stage"
        )
    decay = body(config, peak, total_steps - hold, warmup)
    after_warmup = (lambda count: decay(jnp.maximum(count - hold, 0))) if hold else decay
    if warmup == 0:
        return after_warmup
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, after_warmup], [warmup])


def make_optimizer(
    config: Any,
    schedule: optax.Schedule,
    *,
    constant: tuple[str, ...] = (),
    factors: tuple[tuple[str, float], ...] = (),
) -> optax.GradientTransformation:
    """The optimizer that `config.name` says, at the rates of `schedule`; the global norm is clipped first.

    Args:
      constant: dotted names, from the top of the tree; the parameters under them learn at `config.learning_rate`
        throughout.
      factors: (dotted name, factor of the learning rate of the parameters under it).

    Raises UserError for an unknown name and for a field out of its range.
    """
    build = _named("optimizer.name", config.name, OPTIMIZERS)
    _check("weight_decay", config.weight_decay, config.weight_decay >= 0, "at least 0")
    _check("clip_norm", config.clip_norm, config.clip_norm >= 0, "at least 0 (0 is off)")
    optimizer = build(config, schedule)
    if constant:
        steady = build(config, optax.constant_schedule(config.learning_rate))
        optimizer = optax.multi_transform(
            {"constant": steady, "scheduled": optimizer}, functools.partial(_rates, constant)
        )
    if factors:
        # Updates of every optimizer are proportional to its rate, weight decay included.
        optimizer = optax.chain(optimizer, optax.stateless(functools.partial(_scale_updates, factors)))
    if config.clip_norm:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer


def _scale_updates(factors: tuple[tuple[str, float], ...], updates: Any, params: Any) -> Any:
    def scale(path, update):
        return update * math.prod(factor for name, factor in factors if _under(path, name))

    return jax.tree.map_with_path(scale, updates)


def scale_rate(rate: float, ratio: float, rule: str, optimizer: str) -> float:
    """A learning rate for batches that are `ratio` times larger.

    Args:
      rule: 'linear' (Goyal et al., arXiv 1706.02677, section 2.1), 'square_root' (for Adam: Malladi et al., arXiv
        2205.10287), 'none', or 'by_optimizer': the square root for AdamW, linear for the others.
      optimizer: its name.
    """
    if rule == "by_optimizer":
        rule = "square_root" if optimizer == "adamw" else "linear"
    return rate * ratio ** SCALING_EXPONENTS[rule]


def decayed(params: Any) -> Any:
    """Pytree of bools like `params`: True for the parameters that take weight decay and LARS adaptation."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def restarted(state: optax.OptState, fresh: optax.OptState, names: tuple[str, ...]) -> optax.OptState:
    """An optimizer's state in which what it remembers of the parameters under the dotted `names`, from the top of their
    tree, is as in `fresh`. The schedule's count of steps goes on.
    """

    def leaf(path, old, new):
        return new if any(_under(path, name) for name in names) else old

    return jax.tree.map_with_path(leaf, state, fresh)


def keep_frozen(frozen: Mapping[str, Bool[Array, ""]], old: Any, new: Any) -> Any:
    """`new`, but as in `old` under each dotted name whose flag is set.

    Applied to parameters, to their gradient and to an optimizer's state, it makes the optimizer treat a parameter that
    is released as one that it has never updated.
    """

    def leaf(path, before, after):
        for name, flag in frozen.items():
            after = jnp.where(flag, before, after) if _under(path, name) else after
        return after

    return jax.tree.map_with_path(leaf, old, new) if frozen else new


def _under(path: tuple[Any, ...], name: str) -> bool:
    """Whether a leaf of a tree of parameters, or of one within an optimizer's state, lies under a dotted name from the
    top of that tree. Such a tree is all dictionaries, and what holds it is not.
    """
    within = itertools.takewhile(lambda entry: isinstance(entry, jax.tree_util.DictKey), reversed(path))
    keys, wanted = [str(entry.key) for entry in within][::-1], name.split(".")
    return keys[: len(wanted)] == wanted


def _rates(names: tuple[str, ...], params: Any) -> Any:
    """Pytree like `params`: 'constant' for what lies under one of the names, 'scheduled' for the rest."""

    def rate(path, _):
        return "constant" if any(_under(path, name) for name in names) else "scheduled"

    return jax.tree.map_with_path(rate, params)


def _cosine(config: Any, peak: float, total_steps: int, warmup: int) -> optax.Schedule:
    """From the peak to final_scale · peak at `total_steps` (Loshchilov & Hutter, arXiv 1608.03983, eq. 5)."""
    if not 0 <= config.final_scale <= 1:
        raise UserError(f"schedule.final_scale is {config.final_scale}; it must lie in [0, 1]")
    return optax.cosine_decay_schedule(peak, total_steps - warmup, alpha=config.final_scale)


def _exponential(config: Any, peak: float, total_steps: int, warmup: int) -> optax.Schedule:
    """From the peak to final_scale · peak at `total_steps`, by the same factor in every step. It may rise."""
    if not 0 < config.final_scale < math.inf:
        raise UserError(f"schedule.final_scale is {config.final_scale}; of 'exponential' it must be above 0 and finite")
    return optax.exponential_decay(peak, total_steps - warmup, config.final_scale)


def _step(config: Any, peak: float, total_steps: int, warmup: int) -> optax.Schedule:
    """The peak, times `factor` from each milestone (a fraction of the stage, warm-up included) on."""
    milestones = tuple(config.milestones)
    if not all(0 < milestone < 1 for milestone in milestones):
        raise UserError(f"schedule.milestones are {milestones}; each is a fraction of the stage in (0, 1)")
    if not config.factor > 0:
        raise UserError(f"schedule.factor is {config.factor}; it must be positive")
    scales: dict[int, float] = {}
    for milestone in milestones:
        step = round(milestone * total_steps)
        if step < warmup:
            raise UserError(
                f"schedule.milestones: {milestone} of {total_steps} steps lies within the warm-up of {warmup} steps"
            )
        # In a very short stage several milestones can fall on one step: all of them count.
        scales[step - warmup] = scales.get(step - warmup, 1.0) * config.factor
    return optax.piecewise_constant_schedule(peak, scales)


def _constant(config: Any, peak: float, total_steps: int, warmup: int) -> optax.Schedule:
    return optax.constant_schedule(peak)


def _sgd(config: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum; the decay is an L2 penalty, added to the gradient before the momentum."""
    _check_momentum(config)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.sgd(schedule, momentum=config.momentum or None, nesterov=config.nesterov),
    )


def _lars(config: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
    """LARS (You et al., arXiv 1708.03888), the trust ratio taken over the gradient with its decay.

    Rate of a layer: trust_coefficient · |w| / |g + weight_decay · w|; the paper has |g| + weight_decay · |w|
    below, which differs by the angle between the two. Other than in SGD, the momentum sums what the rate was
    applied to.
    """
    _check_momentum(config)
    _check("trust_coefficient", config.trust_coefficient, config.trust_coefficient > 0, "positive")
    return optax.lars(
        schedule,
        weight_decay=config.weight_decay,
        weight_decay_mask=decayed,
        trust_coefficient=config.trust_coefficient,
        trust_ratio_mask=decayed,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def _adamw(config: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, rate · weight_decay · w (Loshchilov & Hutter, arXiv 1711.05101)."""
    for name in ("b1", "b2"):
        _check(name, getattr(config, name), 0 <= getattr(config, name) < 1, "in [0, 1)")
    return optax.chain(
        _adam(config.b1, config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(schedule),
    )


class _Moments(NamedTuple):
    count: Any
    mean: Any
    square: Any


def _adam(b1: float, b2: float, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1), which counts the steps of each parameter on its own.

    optax's has one count for all: the bias correction of a parameter that starts late, or anew, would be spent.
    """

    def init(params):
        count = jax.tree.map(lambda _: jnp.zeros((), jnp.int32), params)
        return _Moments(count, jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    def update(gradient, state, params=None):
        del params
        count = jax.tree.map(lambda n: n + 1, state.count)
        mean = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, gradient, state.mean)
        square = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g**2, gradient, state.square)
        direction = jax.tree.map(
            lambda n, m, v: m / (1 - b1**n) / (jnp.sqrt(v / (1 - b2**n)) + eps), count, mean, square
        )
        return direction, _Moments(count, mean, square)

    return optax.GradientTransformation(init, update)


SCALING_EXPONENTS = {"linear": 1.0, "square_root": 0.5, "none": 0.0}
SCALINGS = ("by_optimizer", *SCALING_EXPONENTS)
SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "exponential": _exponential,
    "step": _step,
}
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": _adamw,
    "lars": _lars,
    "sgd": _sgd,
}


def _named(field: str, name: str, table: dict[str, Callable]) -> Callable:
    if name not in table:
        raise UserError(f"{field} is '{name}'; known: {', '.join(table)}")
    return table[name]


def _check(field: str, value: float, valid: bool, wanted: str) -> None:
    if not valid:
        raise UserError(f"optimizer.{field} is {value}; it must be {wanted}")


def _check_momentum(config: Any) -> None:
    _check("momentum", config.momentum, 0 <= config.momentum < 1, "in [0, 1)")
