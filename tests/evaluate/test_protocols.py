"""Fine-tuning on a share of the labels: as long as on all of them, and the same after a kill."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import data
from aiseeme_jax.evaluate import finetune, protocols, results
from aiseeme_jax.store import records
from aiseeme_jax.training import loop
from aiseeme_jax.training.step import make_state
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table")
IMAGES = 96


class Killed(BaseException):
    """Nothing in the program catches it, as nothing catches SIGKILL."""


def target(**changes):
    changes = {"fractions": (1.0, 0.25, 0.1), "batch_size": 16, "duration": base.duration(epochs=2), **changes}
    adamw = {"name": "adamw", "learning_rate": 1e-3}
    return base.target("finetune", size=tiny.SIZE, views=tiny.PLAIN, optimizer=adamw, **changes)


def arm(*targets):
    config = base.get_config()
    config.model.update({"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32"})
    config.targets = targets
    config.statistics.samples = 20
    config.runtime.update({"log_every": 1, "checkpoint_every": 5, "evaluation_batch": 48})
    sizes = {"train": IMAGES, "validation": 24, "test": 24}
    splits = {name: tiny.split(size, seed=seed) for seed, (name, size) in enumerate(sizes.items())}
    return protocols.Arm(config, "curriculum", tiny.backbone(), splits)


@pytest.fixture
def asked_of_fit(monkeypatch, tmp_path):
    """What `loop.fit` is asked for: target -> a dict of its arguments for each fraction."""

    def ask(chosen):
        asked = []

        def fit(task, batches, recipe, folder, **_):
            asked.append({"task": task, "batches": batches, "recipe": recipe})
            raise Killed

        monkeypatch.setattr(loop, "fit", fit)
        measured = arm(chosen)
        for run in protocols.runs(measured.config, tmp_path, measured.name):
            with pytest.raises(Killed):
                protocols.PROTOCOLS["finetune"](measured, run)
        return asked

    return ask


@pytest.mark.parametrize("unit", ["epochs", "steps", "examples"])
def test_every_share_of_the_labels_is_trained_for_the_steps_of_all(unit, asked_of_fit):
    lengths = {"epochs": (2, 1), "steps": (12, 6), "examples": (12 * 16, 6 * 16)}[unit]
    duration, warmup = (base.duration(**{unit: length}) for length in lengths)
    asked = asked_of_fit(target(duration=duration, schedule={"warmup": warmup}))
    images = [len(each["batches"].split) for each in asked]
    assert images[0] == IMAGES and 16 < images[1] <= 32 and 8 <= images[2] < 16
    assert [each["recipe"].fields.batch_size for each in asked] == [16, 16, 8], "no batch holds an image twice"
    programs = [make_state(each["task"], each["recipe"])[0] for each in asked]
    assert {(program.total_steps, program.steps_per_epoch) for program in programs} == {(12, 6)}
    rates = [[float(program.schedule()(i)) for i in range(12)] for program in programs]
    assert rates[0] == rates[1] == rates[2] and np.argmax(rates[0]) == 6


def test_shares_of_equal_class_weights_are_one_program(asked_of_fit):
    whole, share = asked_of_fit(target(fractions=(1.0, 0.5), class_weight="none"))
    assert whole["recipe"] == share["recipe"]
    assert hash(whole["recipe"].fields) == hash(share["recipe"].fields)


def test_class_weights_are_those_of_the_share(asked_of_fit):
    for each in asked_of_fit(target()):
        labels = each["batches"].split.labels
        assert each["task"].class_weights == finetune.class_weights(labels, 3, "balanced")


@pytest.mark.slow
def test_a_share_takes_all_steps_remembers_the_best_and_survives_a_kill(tmp_path, monkeypatch):
    measured = arm(target(fractions=(0.25,)))
    monkeypatch.setattr(protocols, "target_splits", lambda config: measured.splits)

    def evaluate(workdir):
        protocols.evaluate_arm(measured.config, workdir, measured.name, tiny.backbone())
        directory = records.target_directory(workdir, measured.name, "finetune", 0.25, 0)
        return results.load_predictions(directory), json.loads((directory / "done.json").read_text())

    whole, record = evaluate(tmp_path / "whole")
    assert record["steps"] == 12 and record["best_step"] in (6, 12) and record["images"] < 32
    with monkeypatch.context() as patch:
        patch.setattr(data, "Batches", stopping_after(8))
        with pytest.raises(Killed):
            evaluate(tmp_path / "killed")
    again, record_again = evaluate(tmp_path / "killed")
    np.testing.assert_array_equal(again.probs, whole.probs)
    same = ("best_step", "validation_score", "steps", "images", "metrics")
    assert {key: record_again[key] for key in same} == {key: record[key] for key in same}


def stopping_after(steps):
    """`data.Batches` that are cut off by a kill after so many steps."""

    class Cut(data.Batches):
        def __call__(self, start_step=0):
            for count, batch in enumerate(super().__call__(start_step)):
                if count == steps:
                    raise Killed
                yield batch

    return Cut


def test_fields_of_lengths_are_steps_of_all_labels():
    lengths = protocols.finetune_lengths(target(schedule={"warmup": base.duration(epochs=0.5)}), IMAGES)
    assert dataclasses.astuple(lengths) == (12, 3, 6)
