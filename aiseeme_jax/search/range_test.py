"""The range test of learning rates: a short training whose rate rises from step to step (Smith, arXiv 1506.01186)."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import distill, seeds
from aiseeme_jax.task import Task
from aiseeme_jax.training.state import Recipe, make_state
from aiseeme_jax.training.step import Steps

# Share of the past in the smoothed loss. It is smaller than the usual 0.98, which lags half of a ramp of 100 steps
# behind; what lags behind is taken into account by LAG, the mean age of the losses in it, in steps.
SMOOTHING = 0.9
LAG = round(SMOOTHING / (1 - SMOOTHING))
# The test ends where the smoothed loss has left its best value by so many times that value: at 4 times it.
LEFT_BEHIND = 3
# Points at the ends that do not count: there the smoothed loss says little.
FIRST, LAST = 10, 1
# The search begins so far below the rate at which the loss falls most steeply.
BELOW = 10
# The ramp goes so far beyond the rates that the search may try.
BEYOND = 10


@dataclasses.dataclass(frozen=True)
class Range:
    """What a range test found.

    Attributes:
      resolved: whether the loss fell at all.
      steepest: the rate at which the smoothed loss falls most steeply, over the logarithm of the rate.
      low, high: bounds of a search: a tenth of that rate, and the rate at which the smoothed loss is lowest.
      steps: that were made.
    """

    resolved: bool
    steepest: float | None
    low: float | None
    high: float | None
    steps: int
    sentence: str


def smooth(losses: Iterable[float]) -> Float[np.ndarray, "n"]:
    """The moving average of losses, with the bias of its zero start corrected (Kingma & Ba, arXiv 1412.6980, 3)."""
    average, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**step))
    return np.array(smoothed)


def is_over(losses: list[float]) -> bool:
    """Whether the loss has left its best value behind, or is not finite.

    It has at four times the best value. Of a loss that may be negative, the distance counts in the same way.
    """
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    best = smoothed.min()
    return bool(smoothed[-1] > best + LEFT_BEHIND * abs(best))


def find_range(rates: Iterable[float], losses: Iterable[float]) -> Range:
    """What the losses of a ramp say. Losses that are not finite are left out."""
    pairs = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    inner = slice(FIRST, len(pairs) - LAST)
    tried = np.array([rate for rate, _ in pairs])[FIRST - LAG : max(0, len(pairs) - LAST - LAG)]
    smoothed = smooth([loss for _, loss in pairs])[inner]
    slopes = np.gradient(smoothed, np.log(tried)) if len(tried) > 1 else np.zeros(0)
    if not len(slopes) or not slopes.min() < 0:
        sentence = f"not resolved: in {len(pairs)} steps the loss did not fall."
        return Range(False, None, None, None, len(pairs), sentence)
    steepest, lowest = float(tried[slopes.argmin()]), float(tried[smoothed.argmin()])
    low = steepest / BELOW
    sentence = f"the loss falls most steeply at {steepest:.3g} and is lowest at {lowest:.3g}."
    return Range(True, steepest, low, max(lowest, steepest), len(pairs), sentence)


def run_range_test(
    task: Task,
    recipe: Recipe,
    batches: Callable[[int], Iterable[dict[str, Array]]],
    *,
    spread: float,
    steps: int,
    frozen: distill.FrozenTeachers | None = None,
) -> Range:
    """Makes a range test around the learning rate of a recipe.

    The task stays as it is: what is trained is a copy.

    Args:
      batches: start step -> iterator, as `data.Batches`.
      spread: the ramp goes ten times beyond this factor of the learning rate, on both sides.
      steps: of the ramp, if the loss does not leave its best value before.
    """
    factor = spread * BEYOND
    low = recipe.fields.optimizer.learning_rate / factor
    ramp = dataclasses.replace(recipe, fields=_with_ramp(recipe.fields, low, factor**2), total_steps=steps, hold=0)
    program, state = make_state(task, ramp, frozen)
    advance, schedule = Steps(program), program.schedule()
    key, losses = jax.random.key(seeds.derive(recipe.seed, "range test")), []
    for _, batch in zip(range(steps), batches(0), strict=False):
        state, metrics, _ = advance(state, batch, key)
        losses.append(float(metrics["loss"]))
        if is_over(losses):
            break
    return find_range([float(schedule(step)) for step in range(len(losses))], losses)


def _with_ramp(fields: Any, low: float, factor: float) -> FrozenConfigDict:
    made = ConfigDict(fields).copy_and_resolve_references()
    made.optimizer.learning_rate = low
    made.schedule.update({"name": "exponential", "final_scale": factor})
    made.schedule.warmup.update({"epochs": None, "steps": 0, "examples": None})
    return FrozenConfigDict(made)
