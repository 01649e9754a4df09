"""Measurements on arrays in memory, short enough for tests, and a kill in the middle of one."""

import tiny
from short_runs import Killed

from aiseeme_jax import data
from aiseeme_jax.curriculum.protocols import Runtime, Subject
from configs import base

IMAGES = 96
RUNTIME = Runtime(evaluation_batch=48, loading=data.Loading(), log_every=1, checkpoint_every=5, patience=10)


def target(protocol="finetune", **changes):
    common = {"size": tiny.SIZE, "views": tiny.PLAIN}
    if protocol == "finetune":
        common |= {"optimizer": {"name": "adamw", "learning_rate": 1e-3}}
        common |= {"batch_size": 16, "duration": base.duration(epochs=2)}
    return base.target(protocol, **{**common, **changes})


def splits():
    sizes = {"train": IMAGES, "validation": 24, "test": 24}
    return {name: tiny.split(size, seed=seed) for seed, (name, size) in enumerate(sizes.items())}


def subject(**changes):
    return Subject("curriculum", tiny.backbone(), **{"splits": splits(), **changes})


def stopping_after(steps):
    """`data.Batches` that are cut off by a kill after so many steps."""

    class Cut(data.Batches):
        def __call__(self, start_step=0):
            for count, batch in enumerate(super().__call__(start_step)):
                if count == steps:
                    raise Killed
                yield batch

    return Cut
