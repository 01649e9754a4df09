"""Whole runs on arrays in memory, short enough for tests: configs, splits, and what they leave."""

import json

import pytest
import tiny

from aiseeme_jax import data
from configs import base


class Killed(BaseException):
    """Passes through everything, as a kill does."""


@pytest.fixture
def splits(monkeypatch):
    """Names of the splits opened, in the place of prepared data sets."""
    opened = []

    def open_split(name, split, data_dir):
        opened.append(split)
        return tiny.split(24, seed={"train": 0, "validation": 1, "test": 2}[split])

    monkeypatch.setattr(data, "open_split", open_split)
    return opened


def config(stages=None, **changes):
    made = base.get_config()
    made.model.update({"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32"})
    made.stages = stages or (stage("rotation", 4), stage("npid", 5, distill={"kind": "mse", "weight": 0.5}))
    made.targets = (base.target("knn", size=tiny.SIZE, neighbours=(3, 5), fractions=(0.5, 1.0), seeds=(0, 1)),)
    made.statistics.samples = 20
    made.runtime.update({"log_every": 2, "checkpoint_every": 2, "evaluation_batch": 24})
    made.update(changes)
    return made


def stage(task, steps, **changes):
    changes = {"optimizer": {"name": "adamw", "learning_rate": 1e-3}, "batch_size": 8, **changes}
    return base.stage(task, size=tiny.SIZE, views=tiny.PLAIN, duration=base.duration(steps=steps), **changes)


def record(workdir, name, arm=""):
    return json.loads((workdir / arm / "stages" / name / "done.json").read_text())
