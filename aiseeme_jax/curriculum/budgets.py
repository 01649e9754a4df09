"""Budgets: a curriculum that is made shorter or longer, so that it costs what was asked for."""

from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from aiseeme_jax.errors import UserError


def fit_stages(
    stages: Sequence[ConfigDict], budget: ConfigDict, count: Callable[[ConfigDict], tuple[int, int]]
) -> tuple[ConfigDict, ...]:
    """The stages of a curriculum, each of them for the same share of its length, so that together they fit a budget.

    Args:
      budget: `config.budget`. Without steps and examples the stages stay as they are.
      count: a stage -> its steps, and the images that they show.
    """
    if not stages or (budget.steps is None and budget.examples is None):
        return tuple(stages)
    steps, images = map(sum, zip(*map(count, stages), strict=True))
    share = budget.steps / steps if budget.steps is not None else budget.examples / images
    return tuple(scale_stage(stage, share) for stage in stages)


def check_budget(budget: ConfigDict) -> None:
    """Raises UserError if a budget says two lengths, or none that can be."""
    given = {name: value for name, value in budget.items() if value is not None}
    if "steps" in given and "examples" in given:
        raise UserError("budget.steps and budget.examples are both set: a curriculum has one length")
    for name, value in given.items():
        if not value > 0:
            raise UserError(f"budget.{name} is {value}; it must be above 0")


def scale_stage(stage: ConfigDict, share: float) -> ConfigDict:
    """A stage that is trained for a share of its length, with a schedule of its own. A warm-up shrinks with it."""
    if share == 1:
        return stage
    made = stage.copy_and_resolve_references()
    for length in (made.duration, made.schedule.warmup):
        for unit, value in length.items():
            if value is not None:
                scaled = value * share
                # Steps and images are whole, and there is at least one of them.
                length[unit] = scaled if unit == "epochs" else max(round(scaled), min(value, 1))
    return made
