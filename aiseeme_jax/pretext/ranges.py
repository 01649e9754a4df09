"""What a task's own fields must lie between. A UserError names the task and the field."""

from aiseeme_jax.errors import UserError
from aiseeme_jax.task import Task


def check_positive(task: Task, **fields: float) -> None:
    """Temperatures: above 0."""
    for name, value in fields.items():
        if not value > 0:
            raise UserError(f"{task.NAME}: `{name}` must be above 0, not {value}")


def check_shares(task: Task, **fields: float) -> None:
    """Shares, momenta, probabilities: from 0 to 1."""
    for name, value in fields.items():
        if not 0 <= value <= 1:
            raise UserError(f"{task.NAME}: `{name}` must lie between 0 and 1, not {value}")


def check_dropout(task: Task, share: float) -> None:
    """The share that dropout sets to 0: it must leave something."""
    if not 0 <= share < 1:
        raise UserError(f"{task.NAME}: `dropout` must be at least 0 and below 1, not {share}")


def check_at_least(task: Task, least: float, **fields: float) -> None:
    """Sizes, counts and weights."""
    for name, value in fields.items():
        if not value >= least:
            raise UserError(f"{task.NAME}: `{name}` must be at least {least}, not {value}")
