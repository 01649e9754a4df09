"""The job `evaluate`, and what measuring owes to config and workdir, on arrays in memory."""

import json

import numpy as np
import pytest
import tiny
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import data, weights
from aiseeme_jax.evaluate import finetune, recording, results
from aiseeme_jax.jobs import evaluate
from aiseeme_jax.store import records
from aiseeme_jax.training import loop
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")


@pytest.fixture
def splits(monkeypatch):
    monkeypatch.setattr(data, "open_split", lambda name, split, data_dir: tiny.split(24, seed=len(split)))


@pytest.fixture
def starts(monkeypatch):
    """Hashes of the backbones that fine-tuning began with; no step is made."""
    found = []

    def fit(task, *_, **__):
        found.append(weights.backbone_hash(task.backbone))
        return loop.Result(task, {})

    monkeypatch.setattr(loop, "fit", fit)
    monkeypatch.setattr(finetune, "predict_logits", lambda network, split, **_: np.zeros((len(split), 3), np.float32))
    return found


def config(*targets, **changes):
    made = base.get_config()
    made.job = "evaluate"
    made.model.update({"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32"})
    made.targets = targets or (base.target("knn", size=tiny.SIZE, neighbours=(3,)),)
    made.statistics.samples = 20
    made.update(changes)
    return made


def tuned(**changes):
    return base.target("finetune", size=tiny.SIZE, batch_size=8, seeds=(0, 1), **changes)


def test_a_config_that_cannot_be_run_claims_no_workdir(tmp_path):
    wrong = config()
    wrong.targets[0].fractions = (2.0,)
    for broken, message in (
        (wrong, r"targets\[0\] \(knn\): fractions are \(2.0,\)"),
        (config(init="absent.pth"), "init: no file or folder at 'absent.pth'"),
        (config(patience=0), "patience is 0; it must be at least 1"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            evaluate.run(broken, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_fine_tuning_of_random_weights_has_a_start_for_each_seed(starts, tmp_path):
    evaluate.run(config(tuned()), tmp_path / "run")
    assert len(starts) == len(set(starts)) == 2


def test_fine_tuning_of_trained_weights_has_one(starts, tmp_path):
    weights.export_backbone(tiny.backbone(), tmp_path / "weights.safetensors")
    evaluate.run(config(tuned(), init=str(tmp_path / "weights.safetensors")), tmp_path / "run")
    assert starts == [weights.backbone_hash(tiny.backbone())] * 2


def test_changed_statistics_are_applied_to_stored_predictions(starts, tmp_path, monkeypatch):
    evaluate.run(config(tuned()), tmp_path)
    (first, second) = recording.runs(config(tuned()), tmp_path, "init")
    assert records.read_done(first.directory)["statistics"] == {"samples": 20, "seed": 0}
    changed = config(tuned())
    changed.statistics.seed = 5
    monkeypatch.setattr(recording, "_measure", None)
    evaluate.run(changed, tmp_path)
    for run in (first, second):
        found = results.Run("init", "finetune", 1.0, run.seed, run.directory)
        expected = results.rows_of(found, results.load_predictions(run.directory), samples=20, seed=5)
        written = [row for row in results.read_rows(tmp_path) if row.seed == run.seed]
        np.testing.assert_allclose([r.low for r in written], [r.low for r in expected], rtol=1e-5, equal_nan=True)
        assert records.read_done(run.directory)["statistics"] == {"samples": 20, "seed": 5}
    assert json.loads((tmp_path / "config.json").read_text())["statistics"]["seed"] == 5
    assert (tmp_path / "done.json").exists()
