"""What the documents promise."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from running import QUICK_TO_COMPILE
from short_runs import quick_forecasts, splits  # noqa: F401
from tiny import no_events, own_tasks  # noqa: F401

import aiseeme_jax
import tfds_builders
from aiseeme_jax import pretext, weights
from aiseeme_jax.__main__ import COMMANDS
from aiseeme_jax.jobs import curriculum, requirements
from configs import base
from tfds_builders.derm_phantom.lesions import CLASSES

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()
TUNING = (REPOSITORY / "docs" / "tuning.md").read_text()
ADDING = (REPOSITORY / "docs" / "adding_a_task.md").read_text()

# Without the tests' virtual devices.
ONE_DEVICE = {**os.environ, "XLA_FLAGS": QUICK_TO_COMPILE}


def code_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_stages_of_the_page_about_searches_can_be_made():
    lines = code_blocks(TUNING)[0].splitlines()
    made = [eval(line, {name: getattr(base, name) for name in ("stage", "tuning", "proxy")}) for line in lines]
    assert [stage.tuning.auto for stage in made] == [
        ("learning_rate", "batch_size"),
        ("learning_rate",),
        ("batch_size",),
    ]
    assert [stage.tuning.proxy.proxy for stage in made] == ["knn", "knn", "lidar"]


@pytest.mark.slow
def test_the_example_task_trains_from_a_file_of_ones_own(tmp_path, monkeypatch, own_tasks, no_events):  # noqa: F811
    task, config = code_blocks(ADDING)
    (tmp_path / "mirror.py").write_text(task)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {}
    exec(config, names)
    made = names["get_config"]()
    assert [stage.task for stage in made.stages] == ["mirror", "simclr"] and "mirror" in pretext.REGISTERED
    config = tiny.stage("mirror", steps=3, share=0.3, views={"jitter_probability": 0.0})
    assert config.fields.share == 0.3 and config.views.flip_horizontal == 0.0
    result = tiny.fit(tiny.task(config), config, tmp_path)
    assert result.record["steps"] == 3 and np.isfinite(result.record["final_loss"])
    monkeypatch.delitem(sys.modules, "mirror")


@pytest.mark.slow
def test_the_example_task_passes_the_tests_over_the_table(tmp_path):
    """In a copy of the repository, with the task in its two places and nowhere else."""
    for folder in ("aiseeme_jax", "configs", "tests", "tfds_builders"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "launch.py"):
        shutil.copy(REPOSITORY / file, tmp_path)
    task, line = code_blocks(ADDING)[0], re.search(r"```\n( +Mirror,\n)```", ADDING)[1]
    (tmp_path / "aiseeme_jax/pretext/mirror.py").write_text(task)
    table = tmp_path / "aiseeme_jax/pretext/__init__.py"
    imported, entries, rest = table.read_text().partition("_CLASSES: tuple[type[Task], ...] = (\n")
    table.write_text(f"{imported}from aiseeme_jax.pretext.mirror import Mirror\n\n{entries}{line}{rest}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/pretext", "tests/test_configs.py"]
    command += ["tests/distill", "-k", "mirror or TestBase or TestPretextTasks"]
    done = subprocess.run(command, cwd=tmp_path, env=ONE_DEVICE, capture_output=True, text=True)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and int(passed[1]) > 20, done.stdout[-5000:]


def test_every_make_target_and_file_named_in_the_readme_exists():
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|    )make ([a-z-]+)", README)) <= set(targets)
    links = re.findall(r"\]\(([^)]+)\)", README)
    missing = [link for link in links if not (REPOSITORY / link).exists()]
    assert links and not missing


DOCUMENTS = [*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_prose_has_lines_of_at_most_120_characters_and_links_that_exist(document):
    text = document.read_text()
    assert [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")] == []
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document):
    """Those of the package by their path in it; `mirror.py` is the example of a task that is yet to be written."""
    named = set(re.findall(r"`(?:aiseeme_jax/)?([a-z_]+/[a-z_/]+\.py)`", document.read_text())) - {"pretext/mirror.py"}
    roots = (REPOSITORY / "aiseeme_jax", REPOSITORY)
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_requirements_are_pinned_and_cuda_adds_only_jax():
    lines = [line for line in (REPOSITORY / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    (version,) = [line.split("==")[1] for line in lines if line.startswith("jax==")]
    assert (REPOSITORY / "requirements-cuda.txt").read_text().split("\n")[:2] == [
        "-r requirements.txt",
        f"jax[cuda13]=={version}",
    ]
    assert requirements.COMMAND_FOR_GPUS.startswith("pip install 'jax[cuda13]==")


@pytest.mark.slow
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


def test_the_config_of_the_readme_can_be_done(splits, quick_forecasts, tmp_path, capsys):  # noqa: F811
    """It mixes data sets in a stage, distils, and measures on another data set; all of it is judged by the plan."""
    names: dict = {}
    exec(code_blocks(README)[0], names)
    config = names["get_config"]()
    for stage in config.stages:
        stage.batch_size, stage.optimizer.learning_rate = 8, 1e-3
    curriculum.run(config, tmp_path / "run", plan_only=True)
    said = capsys.readouterr().out
    assert re.search(r"00-rotation-\w+: not begun; .* of 0.7 isic2019/64 \+ 0.3 cifar10@64;", said)
    assert re.search(r"01-simclr-\w+: not begun; .* of isic2019/64;", said)
    assert len(re.findall(r"knn-isic2017-64-100pct-seed0-\w+: not begun", said)) == 4, "of four arms"


COMMAND_LINES = [line.strip() for line in README.splitlines() if line.startswith("    python ")]
# Commands within sentences.
COMMAND_LINES += [" ".join(found.split()) for found in re.findall(r"`(python -m [^`]+)`", README)]
# Those of the table.
TABLE = README[README.index("| `python -m aiseeme_jax …` |") :].partition("\n\n")[0]
COMMAND_LINES += [f"python -m aiseeme_jax {found}" for found in re.findall(r"\n\| `(\w+ [^`]+)`", TABLE)]


def test_every_command_of_the_readme_exists():
    configs = [found for line in COMMAND_LINES for found in re.findall(r"--config=configs/(\w+)\.py:?(\w*)", line)]
    for name, variant in configs:
        module = __import__(f"configs.{name}", fromlist=["get_config"])
        module.get_config(*([variant] if variant else []))
    sets = [found for line in COMMAND_LINES for found in re.findall(r"tfds_builders prepare ([a-z]\w+)", line)]
    subcommands = [found for line in COMMAND_LINES for found in re.findall(r"-m aiseeme_jax (\w+)", line)]
    benches = [found for line in COMMAND_LINES for found in re.findall(r"-m bench\.(\w+)", line)]
    assert min(map(len, (configs, sets, subcommands, benches))) > 0
    assert set(sets) <= set(tfds_builders.DATASETS) and set(subcommands) == set(COMMANDS)
    assert all((REPOSITORY / "bench" / f"{name}.py").exists() for name in benches)


def test_the_readme_lists_every_data_set_of_the_builders():
    table = README[README.index("## Data sets") : README.index("| any of TFDS |")]
    named = set(re.findall(r"`([a-z_0-9]+)`", "".join(line for line in table.splitlines() if line.startswith("|"))))
    assert set(tfds_builders.DATASETS) <= named


def test_fields_that_the_readme_sets_exist():
    fields = set(re.findall(r"--config\.([a-z_.]+)[=\[]", README))
    assert {"runtime.store", "data.exclude", "init", "stages"} <= fields
    for field in fields:
        node = base.get_config()
        for name in field.split("."):
            node = node[name]


# The demo's trainings cut to six steps; what happens between two epochs is tested with the loop.
TRAININGS = [*(f"--config.stages[{place}]" for place in range(3)), "--config.targets[2]"]
SHORT = [f"{training}.duration.epochs=0.5" for training in TRAININGS]
SHORT += [f"{training}.schedule.warmup.epochs=0.25" for training in TRAININGS]


def call(*command, **options) -> str:
    """What a command says that must succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPOSITORY, env=ONE_DEVICE, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def run_demo(workdir, *flags):
    """The command of `make demo` for `call`."""
    data_dir = workdir.parents[1] / "data"
    command = ["launch.py", "--config=configs/isic_curriculum.py:demo", f"--workdir={workdir}"]
    return [*command, f"--config.runtime.data_dir={data_dir}", *SHORT, *flags]


@pytest.mark.slow
def test_the_demo_does_what_the_readme_says(tmp_path, monkeypatch):
    """One run for all that is asked of it: it takes a minute or more."""
    workdir = tmp_path / "runs" / "demo"
    call("-m", "tfds_builders", "prepare", "derm_phantom/demo", "--data_dir", tmp_path / "data")
    check_end(workdir, call(*run_demo(workdir)))
    check_files(workdir)
    check_nothing_is_made_twice(workdir)
    check_commands(workdir)
    check_new_images(workdir)
    check_lines_of_python(workdir, monkeypatch, tmp_path)


def check_end(workdir, said):
    assert f"done: results in {workdir / 'results.csv'}, report in {workdir / 'report.html'}" in said
    assert "synthetic" in (workdir / "report.html").read_text()


def check_files(workdir):
    rows = [line.split(" | ") for line in README.splitlines() if line.startswith("| `")]
    top = {name for row in rows for name in re.findall(r"`([\w.]+)`", row[0]) if "." in name}
    assert top == {"report.html", "results.csv", "MODEL_CARD.md", "config.json", "plan.json", "run.json"}
    assert all((workdir / name).exists() for name in top)
    for kind, pattern in (("stages", "*"), ("measurements", "finetune-*")):
        (row,) = (row for row in rows if row[0].startswith(f"| `{kind}/"))
        for folder in (workdir / kind).glob(pattern):
            if folder.is_dir():
                missing = [name for name in re.findall(r"`([\w.]+)`", row[1]) if not (folder / name).exists()]
                assert not missing, f"{folder} has no {missing}"


def check_nothing_is_made_twice(workdir):
    assert "everything exists: nothing to train or measure" in call(*run_demo(workdir))
    assert "20 pieces of work, 20 of which exist" in call(*run_demo(workdir, "--plan"))
    changed = "--config.stages[2].optimizer.learning_rate=0.002"
    assert "to train: 2 stages," in call(*run_demo(workdir, "--plan", changed))


def check_commands(workdir):
    assert "20 artifacts, " in call("-m", "aiseeme_jax", "store", "list", workdir)
    assert call("-m", "aiseeme_jax", "store", "prune", workdir).endswith("nothing to delete\n")
    table = call("-m", "aiseeme_jax", "compare", workdir, "scratch")
    assert "| scratch, as it is | " in table and "\n| single:simclr | " in table


def check_new_images(workdir):
    """The last command of `make demo`."""
    (command,) = re.findall(r"\$\(BIN\)/python (-m aiseeme_jax predict .*)", (REPOSITORY / "Makefile").read_text())
    call(*command.replace("runs/demo", str(workdir)).split())
    rows = (workdir / "new_images.csv").read_text().splitlines()
    assert len(rows) == 7 and {row.split(",")[0] for row in rows[1:]} == {f"{name}.png" for name in CLASSES}


def check_lines_of_python(workdir, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict = {"images": np.zeros((2, 32, 32, 3), np.float32), "pixels": np.zeros((2, 48, 48, 3), np.uint8)}
    names["folder"] = next(workdir.glob("measurements/finetune-*"))
    exec(code_blocks(README)[1], names)
    assert set(names["maps"]) == {"stem", "stage1", "stage2", "stage3", "stage4", "pooled"}
    again, info = aiseeme_jax.load_backbone("backbone.safetensors")
    assert weights.backbone_hash(again) == info["backbone_hash"] == names["info"]["backbone_hash"]
    assert names["info"]["task"] == "simclr"
    assert names["probabilities"].shape == (2, 6) and np.allclose(names["probabilities"].sum(axis=1), 1)
