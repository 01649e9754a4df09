"""The command `attention`: what it refuses, and what it leaves of a finished run."""

import csv
import dataclasses

import numpy as np
import pytest
import short_runs
import tiny
from PIL import Image
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import data
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate import results
from aiseeme_jax.evidence import localisation, looking
from aiseeme_jax.jobs import attention_command, curriculum, store_command
from configs import base


def masks(count):
    """A disc somewhere else in each image; the first mask is empty, the second is full, the third is not known."""
    y, x = np.mgrid[: tiny.SIZE, : tiny.SIZE]
    random = np.random.default_rng(0)
    made = [np.hypot(y - random.uniform(4, 12), x - random.uniform(4, 12)) < 3 for _ in range(count)]
    made = np.stack(made).astype(np.uint8)
    made[0], made[1], made[2] = 0, 1, localisation.UNKNOWN
    return made[..., None]


@pytest.fixture
def masked(monkeypatch):
    """Splits in memory; those of the data set 'masked' have masks."""

    def open_split(name, split, data_dir):
        made = tiny.split(24, seed={"train": 0, "validation": 1, "test": 2}[split])
        return dataclasses.replace(made, segmentation=masks(24)) if name == "masked" else made

    monkeypatch.setattr(data, "open_split", open_split)


def make_config():
    """Two arms that train a stage, and one that does not; all are fine-tuned with two seeds."""
    length = {"batch_size": 8, "duration": base.duration(steps=2)}
    finetune = base.target("finetune", size=tiny.SIZE, views=tiny.PLAIN, fractions=(0.5, 1.0), seeds=(0, 1), **length)
    stages = (short_runs.stage("rotation", 2), short_runs.stage("npid", 2))
    few = {"components": 3, "iterations": 2, "descriptors": 100, "strengths": (1.0,), "weight_steps": 5}
    fisher = base.target("fisher_vector", size=tiny.SIZE, views=tiny.PLAIN, endpoint="stage1", **few)
    return short_runs.config(stages, targets=(finetune, fisher), baselines=("scratch",))


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_finished_run_is_looked_at(masked, no_events, tiny_in_the_table, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(attention_command, "SAMPLES", 40)
    curriculum.run(make_config(), tmp_path)
    arguments = [str(tmp_path), "--data", "masked", "--endpoint", "stage1", "--sanity"]
    capsys.readouterr()
    attention_command.main(arguments)
    shown, told = capsys.readouterr()
    assert "21 of 24 images have a mask" in told
    assert "rollout of curriculum is left out: it needs the attention of a ViT" in told
    assert "eigen_cam of scratch is left out" in told
    # Paths and costs may take more room.
    narrow = [line for line in shown.splitlines() if "/" not in line and "device" not in line]
    assert "centre prior 0.15" in shown and max(map(len, narrow)) <= 100

    rows, images = read(tmp_path / "attention.csv"), read(tmp_path / "attention_images.csv")
    methods = {(row["arm"], row["method"]) for row in rows if row["arm"]}
    with_class = {"grad_cam", "grad_cam++", "occlusion_mean", "occlusion_blur"}
    of_all = {*with_class, "fisher_foreground"}
    assert methods == {("curriculum", m) for m in {*of_all, "eigen_cam"}} | {("scratch", m) for m in of_all}
    # Two seeds of fine-tuning, on all labels.
    assert {r["run"] for r in images if r["method"] == "grad_cam"} == {"fine-tuning 0", "fine-tuning 1"}
    assert {float(r["area"]) > 0 for r in images} == {True}

    # The table follows from the scores of the images.
    def values(**wanted):
        return [float(r["energy"]) for r in images if all(r[k] == v for k, v in wanted.items())]

    place = {"arm": "curriculum", "method": "eigen_cam", "measure": "energy", "images": "all"}
    found = {(r["source"], r["against"]): float(r["value"]) for r in rows if all(r[k] == v for k, v in place.items())}
    own = np.mean(values(arm="curriculum", method="eigen_cam", source="network"))
    random = np.mean(values(arm="curriculum", method="eigen_cam", source="random weights"))
    prior = np.mean(values(source="centre prior 0.15"))
    assert found["network", ""] == pytest.approx(own, abs=1e-4)
    assert found["network", "random weights"] == pytest.approx(own - random, abs=1e-4)
    assert found["network", "centre prior 0.15"] == pytest.approx(own - prior, abs=1e-4)
    assert len(values(source="uniform map")) == 21
    uniform = [(r["energy"], r["area"]) for r in images if r["source"] == "uniform map"]
    assert all(float(a) == pytest.approx(float(b), abs=1e-5) for a, b in uniform)

    # Two stages of two steps of eight images; the two fine-tunings together.
    costs = {r["arm"]: [r[name] for name in results.COSTS[:2]] for r in rows}
    assert costs["curriculum"][0] == "32" and float(costs["curriculum"][1]) > 0
    assert costs["scratch"] == ["0", "0"] and costs[""] == ["", ""]
    assert "curriculum: pretraining 32 images, " in shown and "scratch: pretraining 0 images, 0 s" in shown

    between = [
        r for r in rows if r["against"] == "arm curriculum" and r["measure"] == "energy" and r["images"] == "all"
    ]
    assert {r["method"] for r in between} == of_all and all(r["arm"] == "scratch" for r in between)
    assert all(float(r["p_holm"]) >= float(r["p"]) for r in between)
    of = {r["source"]: float(r["value"]) for r in rows if r["measure"] == "spearman with random weights"
          and (r["arm"], r["method"]) == ("curriculum", "eigen_cam")}  # fmt: skip
    assert -1 <= of["random weights"] <= 1 and "    of two networks with random weights " in shown
    parts = [
        r["source"] for r in rows if (r["arm"], r["method"], r["measure"]) == ("curriculum", "grad_cam", "spearman")
    ]
    assert parts[0] == "random down to head" and parts[-1] == "random down to stem"

    assert_nothing_is_drawn_again(arguments, tmp_path, capsys, monkeypatch)
    with Image.open(tmp_path / "attention_eigen_cam.png") as picture:
        assert picture.width > 300 and picture.height > 300
    assert (tmp_path / "attention_grad_campp.png").exists()


def assert_nothing_is_drawn_again(arguments, workdir, capsys, monkeypatch):
    table = (workdir / "attention.csv").read_bytes()
    monkeypatch.setattr(looking.Network, "draw", lambda *_: pytest.fail("a map was drawn again"))
    attention_command.main([*arguments, "--no_pictures"])
    assert (workdir / "attention.csv").read_bytes() == table
    # Of the last use alone: one method, and no check.
    attention_command.main([*arguments[:-1], "--methods", "eigen_cam", "--no_pictures"])
    capsys.readouterr()
    store_command.main(["list", str(workdir)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("maps/")]
    kept = [line for line in lines if "not wanted" not in line]
    assert len(kept) == 4 and all(line.startswith("maps/eigen_cam-stage1-") for line in kept)
    assert sum("-sanity-" in line for line in lines) == 9 and any("occlusion_mean-random2-" in line for line in lines)
    store_command.main(["prune", "--yes", str(workdir)])
    assert len(list((workdir / "maps").glob("*"))) == 4
    attention_command.main([*arguments[:-1], "--methods", "eigen_cam", "--no_pictures"])
    file = next((workdir / "maps").glob("eigen_cam-stage1-*/maps.npz"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="maps.npz is not what was written; .*store remove"):
        attention_command.main([*arguments[:-1], "--methods", "eigen_cam", "--no_pictures"])


@pytest.mark.slow
def test_what_cannot_be_is_said(masked, no_events, tiny_in_the_table, tmp_path, monkeypatch):  # noqa: F811
    config = make_config()
    config.targets = (base.target("knn", size=tiny.SIZE, neighbours=(3,)),)
    curriculum.run(config, tmp_path)
    workdir = str(tmp_path)
    for arguments, message in [
        ((), "no segmentations"),
        (("--data", "masked", "--endpoint", "pooled"), "no maps at the endpoint 'pooled'"),
        (("--data", "masked", "--methods", "magic"), "unknown method 'magic'"),
        (("--data", "masked", "--arm", "other"), "no arm 'other': there are curriculum"),
        (("--data", "masked", "--arm", "scratch"), "no network"),
        (("--data", "masked", "--methods", "grad_cam"), "none of the methods grad_cam"),
        (("--images", "-1"), "--images is -1"),
    ]:
        with pytest.raises(UserError, match=message):
            attention_command.main([workdir, *arguments])
    with pytest.raises(MissingFile, match="no run was begun"):
        attention_command.main([str(tmp_path / "other")])
    empty = np.zeros((24, tiny.SIZE, tiny.SIZE, 1), np.uint8)
    monkeypatch.setattr("test_attention_command.masks", lambda count: empty)
    with pytest.raises(UserError, match="neither empty nor full"):
        attention_command.main([workdir, "--data", "masked"])
