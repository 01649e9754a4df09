"""What the documents promise."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from running import QUICK_TO_COMPILE
from tiny import no_events  # noqa: F401

import aiseeme_jax
from aiseeme_jax import models, pretext, weights
from aiseeme_jax.store import workdirs
from aiseeme_jax.store.artifacts import STAGES, Artifact, Store

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()
ADDING = (REPOSITORY / "docs" / "adding_a_task.md").read_text()

# Without the tests' virtual devices.
ONE_DEVICE = {**os.environ, "XLA_FLAGS": QUICK_TO_COMPILE}


def code_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_the_example_task_trains_from_its_two_places(tmp_path, monkeypatch, no_events):  # noqa: F811
    names: dict = {}
    exec(code_blocks(ADDING)[0], names)
    monkeypatch.setitem(pretext.TASKS, "mirror", names["Mirror"])
    config = tiny.stage("mirror", steps=3, share=0.3, views={"jitter_probability": 0.0})
    assert config.fields.share == 0.3 and config.views.flip_horizontal == 0.0
    result = tiny.fit(tiny.task(config), config, tmp_path)
    assert result.record["steps"] == 3 and np.isfinite(result.record["final_loss"])


@pytest.mark.slow
def test_the_example_task_passes_the_tests_over_the_table(tmp_path):
    """In a copy of the repository, with the task in its two places and nowhere else."""
    for folder in ("aiseeme_jax", "configs", "tests"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "launch.py"):
        shutil.copy(REPOSITORY / file, tmp_path)
    task, line = code_blocks(ADDING)
    (tmp_path / "aiseeme_jax/pretext/mirror.py").write_text(task)
    table = tmp_path / "aiseeme_jax/pretext/__init__.py"
    imported, entries, rest = table.read_text().partition("_CLASSES: tuple[type[Task], ...] = (\n")
    table.write_text(f"{imported}from aiseeme_jax.pretext.mirror import Mirror\n\n{entries}{line}{rest}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/pretext", "tests/test_configs.py"]
    command += ["tests/distill", "-k", "mirror or TestBase or TestPretextTasks"]
    done = subprocess.run(command, cwd=tmp_path, env=ONE_DEVICE, capture_output=True, text=True)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and int(passed[1]) > 20, done.stdout[-5000:]


@pytest.mark.slow
def test_the_notebook_lines_work(tmp_path, monkeypatch):
    backbone = models.make_backbone("resnet18", width=0.125, rngs=nnx.Rngs(0))
    artifact = Artifact(STAGES, "00-rotation", {})
    store = Store(tmp_path / "runs/demo")
    found = weights.save_backbone(store.begin(artifact), backbone, {"task": "rotation"})
    store.finish(artifact, {"backbone_hash": found, "made_from": {}})
    stage = workdirs.StageEntry(artifact.label, "rotation", 1, artifact.key)
    plan = workdirs.WorkdirPlan(".", (workdirs.ArmEntry("curriculum", (stage,), ()),))
    workdirs.write_plan(tmp_path / "runs/demo", plan)
    monkeypatch.chdir(tmp_path)
    names: dict = {"images": np.zeros((2, 32, 32, 3), np.float32)}
    exec(code_blocks(README)[0], names)
    assert set(names["maps"]) == {"stem", "stage1", "stage2", "stage3", "stage4", "pooled"}
    again, info = aiseeme_jax.load_backbone("backbone.safetensors")
    assert weights.backbone_hash(again) == info["backbone_hash"] == names["info"]["backbone_hash"]


def test_every_make_target_and_file_named_in_the_readme_exists():
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|    )make ([a-z-]+)", README)) <= set(targets)
    links = re.findall(r"\]\(([^)]+)\)", README)
    missing = [link for link in links if not (REPOSITORY / link).exists()]
    assert links and not missing


def test_requirements_are_pinned_and_cuda_adds_only_jax():
    lines = [line for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    (version,) = [line.split("==")[1] for line in lines if line.startswith("jax==")]
    assert (REPOSITORY / "requirements-cuda.txt").read_text().split("\n")[:2] == [
        "-r requirements.txt",
        f"jax[cuda13]=={version}",
    ]


def test_the_core_imports_without_tensorflow_clu_or_tfds():
    """Training on a machine that has only jax and its friends must stay possible."""
    program = (
        "import sys\n"
        "for name in ('tensorflow', 'clu', 'tensorflow_datasets', 'grain.python'): sys.modules[name] = None\n"
        "import aiseeme_jax.training.loop, aiseeme_jax.pretext, aiseeme_jax.weights, aiseeme_jax.evaluate.metrics\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=ONE_DEVICE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# The demo's trainings cut to two epochs, in which everything happens that happens in eight.
SHORT = [f"--config.stages[{place}].duration.epochs=2.0" for place in range(3)]
SHORT.append("--config.targets[2].duration.epochs=2.0")


@pytest.mark.slow
def test_the_demo_end_to_end(tmp_path):
    """The commands of `make demo`, then once more: the second time there is nothing to do."""
    run = [sys.executable, "launch.py", "--config=configs/isic_curriculum.py:demo", f"--workdir={tmp_path / 'demo'}"]
    run += [f"--config.runtime.data_dir={tmp_path / 'data'}", *SHORT]
    prepare = [sys.executable, "-m", "tfds_builders", "prepare", "derm_phantom/demo", "--data_dir", tmp_path / "data"]
    subprocess.run(prepare, cwd=REPOSITORY, env=ONE_DEVICE, check=True)
    first = subprocess.run(run, cwd=REPOSITORY, env=ONE_DEVICE, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert f"done: results in {tmp_path / 'demo' / 'results.csv'}" in first.stderr
    assert "synthetic" in (tmp_path / "demo" / "report.html").read_text()
    second = subprocess.run(run, cwd=REPOSITORY, env=ONE_DEVICE, capture_output=True, text=True)
    assert second.returncode == 0 and "everything exists: nothing to train or measure" in second.stderr
    backbone, info = aiseeme_jax.load_backbone(tmp_path / "demo")
    assert info["task"] == "simclr"
    assert backbone(jax.numpy.zeros((1, 32, 32, 3)), train=False)["pooled"].shape == (1, backbone.features)
