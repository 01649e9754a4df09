"""A run that fails as its variant says, before anything is trained: bugs, and one judgement of the input."""

import tiny_config

from aiseeme_jax.curriculum import plan

FAILURES = {
    "type": lambda config: None + 1,
    "index": lambda config: [][0],
    "value": lambda config: int("x"),
    "attribute": lambda config: config.nonsense,
    "judged": lambda config: judged(),
}


def judged():
    raise ValueError("title is too long")


def get_config(kind: str):
    plan.check = lambda config, split: FAILURES[kind](config)
    return tiny_config.get_config()
