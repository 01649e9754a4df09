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
    wanted = [(0, budget.steps), (1, budget.examples)]
    for place, value in wanted:
        if value is not None and stages:
            share = value / sum(count(stage)[place] for stage in stages)
            return tuple(scale_stage(stage, share) for stage in stages)
    return tuple(stages)


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
