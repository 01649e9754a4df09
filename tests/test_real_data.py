"""The real archive through the builder and a curriculum of a few steps."""

import csv

import pytest
from short_runs import stage_records

import tfds_builders
from aiseeme_jax.jobs import curriculum
from configs import isic_curriculum
from configs.base import duration, stage, target


@pytest.mark.slow
def test_isic_archive_to_results(real_data, tmp_path):
    tfds_builders.prepare("isic2019/64", data_dir=tmp_path / "data", manual_dir=real_data / "isic2019")
    config = isic_curriculum.get_config("small")
    config.model.width = 0.125
    common = {"size": 32, "preset": "dermoscopy"}
    few = {"batch_size": 16, "duration": duration(steps=3), "schedule": {"warmup": duration(steps=1)}}
    config.stages = (
        stage("rotation", **few, **common),
        stage("npid", distill={"kind": "kl"}, **few, **common),
    )
    config.targets = (target("knn", **common),)
    config.baselines = ("scratch",)
    config.statistics.samples = 20
    config.runtime.update({"data_dir": str(tmp_path / "data"), "residence": "stream"})
    curriculum.run(config, tmp_path / "run")

    first, second = stage_records(tmp_path / "run")
    assert [second["start_hash"]] == [first["backbone_hash"]] == list(second["teachers"].values())
    with open(tmp_path / "run" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["arm"] for row in rows} == {"curriculum", "scratch"}
    assert any(row["metric"] == "auroc/MEL" for row in rows)
    assert "isic2019/64" in (tmp_path / "run" / "report.html").read_text()
