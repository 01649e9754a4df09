"""The demos on grey images and on volumes, from data set to report, in few steps."""

import pytest
from short_runs import stage_folders
from tiny import no_events, tiny_in_the_table  # noqa: F401

import tfds_builders
from aiseeme_jax import weights
from aiseeme_jax.evaluate import results
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.store import artifacts
from configs import cxr_curriculum, lidc_curriculum


def shorten(training):
    """Two steps of 16 images."""
    training.batch_size = 16
    training.duration.update({"epochs": None, "steps": 2})
    training.schedule.warmup.update({"epochs": None, "steps": 1})


@pytest.mark.slow
@pytest.mark.usefixtures("no_events", "tiny_in_the_table")
@pytest.mark.parametrize(
    "experiment, phantom", [(cxr_curriculum, "cxr_phantom/tiny"), (lidc_curriculum, "nodule_phantom/tiny")]
)
def test_demo_end_to_end(experiment, phantom, tmp_path):
    tfds_builders.prepare(phantom, data_dir=tmp_path / "data")
    config = experiment.get_config("demo")
    assert config.data.name == phantom.replace("tiny", "demo")
    config.data.name = phantom
    config.model.update({"name": "tiny", "width": 0.125})
    for training in (*config.stages, *(t for t in config.targets if t.protocol == "finetune")):
        shorten(training)
    config.stages[1].distill.kind = "kl"
    config.baselines = ("scratch",)
    config.statistics.samples = 20
    config.runtime.data_dir = str(tmp_path / "data")
    curriculum.run(config, tmp_path / "run")

    stages = stage_folders(tmp_path / "run")
    assert [artifacts.read_record(stage)["task"] for stage in stages] == [stage.task for stage in config.stages]
    assert all((stage / "views.png").exists() for stage in stages)
    backbone, _ = weights.load_backbone(tmp_path / "run")
    assert (backbone.dimensions, backbone.channels) == (config.model.dimensions, 1)
    measured = {(row.arm, row.target) for row in results.read_rows(tmp_path / "run")}
    assert measured == {(arm, t) for arm in ("curriculum", "scratch") for t in ("knn", "linear", "finetune")}
    assert "synthetic" in (tmp_path / "run" / "report.html").read_text()
