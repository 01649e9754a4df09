"""Two short stages on the smallest embedded data set, for tests that start `launch.py` as a user does."""

from functools import partial

import tiny
from ml_collections import ConfigDict

from aiseeme_jax import models
from aiseeme_jax.models import resnet
from configs import base

# A network of one block compiles several times faster than the smallest of the table.
resnet.ARCHITECTURES["tiny"] = tiny.TINY
models.BACKBONES = {**models.BACKBONES, "tiny": partial(models.ResNet, "tiny")}


def get_config(kind: str = ""):
    """As said above.

    Of kind 'shared' two curricula of what several processes must agree on: the two tasks that look at the whole split
    at once, and a stage whose learning rate and batch size are searched.
    """
    config = base.get_config()
    config.data.name = "derm_phantom/tiny"
    config.model.update({"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32"})
    config.stages = (stage("rotation", 30), stage("moco_v2", 60, distill={"kind": "mse"}))
    if kind == "shared":
        judge = base.proxy("knn", size=tiny.SIZE, neighbours=3, samples=5)
        search = base.tuning(judge, auto=("learning_rate", "batch_size"), batches=(8, 16), trials=2, rungs=2, keep=2)
        clustered = (stage("deepcluster", 40), stage("clusterfit", 20))
        config.stages = ()
        config.curricula = ConfigDict({"clustered": clustered, "tuned": (stage("rotation", 16, tuning=search),)})
    config.targets = (base.target("knn", size=tiny.SIZE, neighbours=(3, 5)),)
    config.baselines = ()
    config.statistics.samples = 20
    config.runtime.update({"log_every": 1, "checkpoint_every": 20, "evaluation_batch": 16})
    return config


def stage(task: str, steps: int, **changes):
    adamw = {"name": "adamw", "learning_rate": 1e-3}
    length = base.duration(steps=steps)
    return base.stage(task, size=tiny.SIZE, views=tiny.PLAIN, batch_size=8, duration=length, optimizer=adamw, **changes)
