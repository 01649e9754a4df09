"""Whole runs on arrays in memory, short enough for tests: configs, splits, and what they leave."""

import pytest
import tiny

from aiseeme_jax import data
from aiseeme_jax.jobs import forecast
from aiseeme_jax.store import artifacts, workdirs
from configs import base


class Killed(BaseException):
    """Passes through everything, as a kill does."""


@pytest.fixture
def splits(monkeypatch):
    """Names of the splits opened, in the place of prepared data sets.

    The runs are on two devices: eight that share a processor do the same, and wait for one another.
    """
    opened = []
    tiny.use_devices(monkeypatch, 2)

    def open_split(name, split, data_dir):
        opened.append(split)
        return tiny.split(24, seed={"train": 0, "validation": 1, "test": 2}[split])

    monkeypatch.setattr(data, "open_split", open_split)
    return opened


@pytest.fixture
def quick_forecasts(monkeypatch):
    """Nothing is traced or compiled for a plan that is only printed."""
    monkeypatch.setattr(forecast.Forecaster, "shape", lambda self, stage: (None, None, None))
    monkeypatch.setattr(forecast.Forecaster, "_count_operations", lambda self, stage: 1e9)
    monkeypatch.setattr(forecast.memory, "measure_step", lambda program, state, batch: 5 * 2**20)
    monkeypatch.setattr(forecast, "_count_disk", lambda state: 3 * 2**20)
    monkeypatch.setattr(forecast, "measure_operations", lambda dtype: 1e9)


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


def stage_folders(workdir, arm="curriculum"):
    """The folders of an arm's stages, in their order; those that were not begun are left out."""
    plan = workdirs.read_plan(workdir)
    store = workdirs.open_store(workdir, plan)
    entry = next(entry for entry in plan.arms if entry.name == arm)
    found = [store.find("stages", stage.key[:12]) for stage in entry.stages]
    return [folder for folder in found if folder]


def stage_records(workdir, arm="curriculum"):
    """The records of an arm's finished stages, in their order."""
    found = [artifacts.read_record(folder) for folder in stage_folders(workdir, arm)]
    return [record for record in found if record]


def measurement_folders(workdir, arm="curriculum"):
    """The folders of an arm's measurements by target, fraction and seed."""
    plan = workdirs.read_plan(workdir)
    store = workdirs.open_store(workdir, plan)
    entry = next(entry for entry in plan.arms if entry.name == arm)
    found = {
        (one.target, one.fraction, one.seed): workdirs.find_measurement_folder(store, one) for one in entry.measurements
    }
    return {place: folder for place, folder in found.items() if folder}


def outcome(workdir):
    """Start and end of every finished stage, and the predictions of every measurement, by key."""
    found = {}
    for folder in sorted(workdir.glob("stages/*")) + sorted(workdir.glob("measurements/*")):
        record = artifacts.read_record(folder)
        if record:
            found[folder.name] = record.get("start_hash"), record["backbone_hash"], record.get("predictions_sha256")
    return found
