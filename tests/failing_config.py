"""A run that fails as its variant says, before anything is trained: bugs, and one judgement of the input."""

import tiny_config

from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import curriculum

FAILURES = {
    "type": lambda config: None + 1,
    "index": lambda config: [][0],
    "value": lambda config: int("x"),
    "attribute": lambda config: config.nonsense,
    "file": lambda config: open("/nowhere/at/all"),
    "judged": lambda config: judge(),
}


def judge():
    raise UserError("title is too long")


def get_config(kind: str):
    curriculum.make_plan = lambda config, datasets: FAILURES[kind](config)
    return tiny_config.get_config()
