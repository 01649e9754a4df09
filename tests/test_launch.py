"""launch.py as a user starts it: killed, stopped, gone on with, and given what it cannot use."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import running
import tiny
from running import launch_forked, phantom  # noqa: F401

from aiseeme_jax import weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(phantom, tmp_path_factory):  # noqa: F811
    """The workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    code, said = running.launch(workdir, phantom, events=True)
    assert code == 0, said
    return workdir


def test_every_stage_leaves_tensorboard_events(whole):
    stages = [stage for stage in (whole / "stages").iterdir() if stage.is_dir()]
    assert len(stages) == 2 and all(list(stage.glob("events.out.tfevents.*")) for stage in stages)
    arms = {path.parent.name for path in (whole / "tensorboard").glob("*/events.out.tfevents.*")}
    assert arms == {"config", "curriculum"}


def test_however_it_is_stopped_it_ends_in_the_same_bits(whole, phantom, tmp_path):  # noqa: F811
    """One run: killed during a save in either stage, then stopped by either signal, and gone on with in other ways."""
    workdir = tmp_path / "run"
    kill_during_a_save(workdir, phantom, "00-rotation")
    kill_during_a_save(workdir, phantom, "01-moco_v2", "--config.runtime.residence=device")
    stop(workdir, phantom, signal.SIGTERM, 143)
    stop(workdir, phantom, signal.SIGINT, 130)
    code, said = running.launch(workdir, phantom, "--config.runtime.workers=2")
    assert code == 0 and re.search(r"moco_v2: goes on from step \d+ of 60\n", said), said
    assert running.outcome(workdir) == running.outcome(whole)
    assert not list(workdir.rglob("*.orbax-checkpoint-tmp"))


def kill_during_a_save(workdir, data_dir, stage, *flags):
    """With a checkpoint of every step one is nearly always being written."""
    process = running.start(workdir, data_dir, "--config.runtime.checkpoint_every=1", *flags)
    saving = f"stages/{stage}-*/checkpoints/*.orbax-checkpoint-tmp"
    enough = lambda: running.logged(workdir, stage) >= 5  # noqa: E731
    running.wait_for(process, lambda: enough() and any(workdir.glob(saving)), "a save")
    os.kill(process.pid, signal.SIGKILL)
    assert running.finish(process)[0] == -signal.SIGKILL
    assert not (running.stage_folder(workdir, stage) / "record.json").exists()


def stop(workdir, data_dir, number, expected):
    """A signal in the second stage, three steps after its start, saves at once."""
    before = running.logged(workdir, "01-moco_v2")
    process = running.start(workdir, data_dir, "--config.runtime.checkpoint_every=1000")
    running.wait_for(process, lambda: running.logged(workdir, "01-moco_v2") >= before + 3, "three steps")
    process.send_signal(number)
    code, said = running.finish(process)
    assert code == expected and "stopping after this step" in said, said
    stopped = re.search(r"stopped and saved at step (\d+) of 60; the same command goes on", said)
    saved = [path.name for path in (running.stage_folder(workdir, "01-moco_v2") / "checkpoints").iterdir()]
    assert stopped[1] in saved and before + 3 <= int(stopped[1]) < 60


def test_complete_run_says_so(whole, phantom):  # noqa: F811
    before = running.outcome(whole)
    code, said = running.launch(whole, phantom)
    assert code == 0 and "everything exists: nothing to train or measure" in said
    assert re.search(r"done: results in .*results\.csv, report in .*report\.html", said)
    assert running.outcome(whole) == before


def test_fields_inside_stages_can_be_set_from_the_command_line(phantom, tmp_path):  # noqa: F811
    flags = (
        "--config.stages[0].batch_size=16",
        "--config.stages[0].duration.steps=2",
        "--config.stages[1].fields.queue=16",
    )
    code, said = running.launch(tmp_path / "run", phantom, *flags, "--config.stages[1].duration.steps=2")
    assert code == 0, said
    assert "curriculum 0: rotation: 2 steps of 16 images" in said
    assert running.record(tmp_path / "run", "01-moco_v2")["steps"] == 2


def fails(workdir, data_dir, *flags, launch=running.launch, **options) -> str:
    """What a run says that must fail on its input: one message, no traceback."""
    code, said = launch(workdir, data_dir, *flags, **options)
    assert code not in (0, None) and code > 0, said
    assert "Traceback" not in said, said
    return said


BAD = {
    "unknown field": (
        "--config.nonsense=1",
        "unknown field 'nonsense' of config: known are baselines, budget, curricula",
    ),
    "unknown field of a stage": (
        "--config.stages[0].nonsense=1",
        r"unknown field 'nonsense' of config\.stages\[0\]: known are batch_size, data, distill",
    ),
    "unknown group": (
        "--config.stages[0].optimiser.name=sgd",
        r"unknown field 'optimiser' of config\.stages\[0\]: known are batch_size",
    ),
    "field of a field": ("--config.seed.nonsense=1", r"unknown field 'nonsense' of config\.seed: known are none"),
    "absent stage": ("--config.stages[2].seed=1", r"config\.stages has 2 entries: there is no config\.stages\[2\]"),
    "wrong type": ("--config.seed=abc", "flag --config.seed=abc: invalid literal for int"),
    "unknown flag": ("--workdri=runs", "Unknown command line flag 'workdri'"),
    "unknown job": ("--config.job=paint", "unknown job 'paint': known are curriculum"),
    "unknown optimizer": (
        "--config.stages[0].optimizer.name=adam",
        "optimizer.name is 'adam'; known: adamw, lars, sgd",
    ),
    "unknown schedule": (
        "--config.stages[0].schedule.name=linear",
        "schedule.name is 'linear'; known: constant, cosine",
    ),
    "unknown distillation": ("--config.stages[1].distill.kind=l1", "distill.kind is 'l1'; known: none, kl, mse"),
    "unknown backbone": ("--config.model.name=vgg", "unknown backbone 'vgg': known are resnet14, resnet18, resnet34"),
    "unknown task": ("--config.stages[0].task=puzzle", "unknown pretext task 'puzzle': known are"),
    "unknown protocol": (
        "--config.targets[0].protocol=forest",
        "unknown protocol 'forest': known are knn, linear, svm, fine",
    ),
    "unknown baseline": ("--config.baselines=('random',)", "unknown baseline 'random': known are scratch"),
    "imagenet without weights": (
        "--config.baselines=('imagenet',)",
        "baseline 'imagenet' needs --config.imagenet=FILE",
    ),
    "unknown residence": ("--config.runtime.residence=disk", "unknown runtime.residence 'disk': known are stream"),
    "batch larger than the split": (
        "--config.stages[0].batch_size=128",
        "a batch of 128 is larger than the split of 85",
    ),
    "two lengths": (
        "--config.stages[0].duration.epochs=2.0",
        "exactly one of epochs, steps, examples; set here: epochs",
    ),
    "absent init": ("--config.init=absent.pth", "init: no file or folder at 'absent.pth'"),
    "queue": ("--config.stages[1].fields.queue=12", "queue of 12 is no multiple of the batch of 8"),
    "probability": ("--config.stages[0].views.flip_vertical=1.5", "views.flip_vertical is a probability"),
    "argument that is no flag": ("surplus", "surplus"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(case, launch_forked, phantom, tmp_path):  # noqa: F811
    flag, message = BAD[case]
    workdir = tmp_path / "run"
    assert re.search(message, fails(workdir, phantom, flag, launch=launch_forked))
    assert not workdir.exists(), "the workdir now belongs to the mistake"


@pytest.mark.parametrize("kind", ["type", "index", "value", "attribute", "file"])
def test_a_bug_shows_its_traceback_whatever_the_type_of_its_error(kind, launch_forked, phantom, tmp_path):  # noqa: F811
    code, said = launch_forked(tmp_path / "run", phantom, config=f"tests/failing_config.py:{kind}")
    assert code == 1 and "Traceback" in said and "failing_config.py" in said


def test_an_error_of_the_input_shows_no_traceback(launch_forked, phantom, tmp_path):  # noqa: F811
    said = fails(tmp_path / "run", phantom, config="tests/failing_config.py:judged", launch=launch_forked)
    assert "error: title is too long\n(--debug shows where)" in said


def test_batch_that_does_not_divide_over_the_devices(phantom, tmp_path):  # noqa: F811
    said = fails(tmp_path / "run", phantom, "--config.stages[0].batch_size=9", devices=2)
    assert "a batch of 9 does not divide over 2 devices; change `batch_size`" in said


def test_a_task_may_lie_beside_the_config_file(launch_forked, tmp_path):  # noqa: F811
    """The example of the page about tasks."""
    page = (running.REPOSITORY / "docs" / "adding_a_task.md").read_text()
    task, config = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (folder := tmp_path / "mine").mkdir()
    (folder / "mirror.py").write_text(task)
    (file := folder / "config.py").write_text(config)
    said = fails(tmp_path / "run", tmp_path / "nowhere", config=str(file), launch=launch_forked)
    assert "error: stages[0] (mirror): the data set 'derm_phantom/demo' is not prepared" in said


def test_unknown_variant(launch_forked, phantom, tmp_path):  # noqa: F811
    said = fails(tmp_path / "run", phantom, config="configs/isic_curriculum.py:huge", launch=launch_forked)
    assert said.startswith("error: unknown variant 'huge' of isic_curriculum: known are full, small, demo\n")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("configs/absent.py", "'configs/absent.py' is not there"),
        ("configs", "'configs' is a folder"),
        ("README.md", "'README.md' is no config file"),
        ("configs/recipes.py", "'configs/recipes.py' is no config file"),
        ("", "'.' is a folder"),
    ],
)
def test_what_is_no_config_file_is_told_with_those_that_are(config, message, launch_forked, phantom, tmp_path):  # noqa: F811
    said = fails(tmp_path / "run", phantom, config=config, launch=launch_forked)
    assert f"error: --config: {message}. Config files are configs/base.py, configs/cxr_curriculum.py, " in said
    assert "configs/recipes.py" not in said.partition("Config files are")[2]


NO_DEVICES = {
    "no GPU": ({"JAX_PLATFORMS": "cuda"}, (), "jax finds no device with JAX_PLATFORMS=cuda: unset it, or install jax"),
    "no such platform": ({"JAX_PLATFORMS": "abacus"}, (), "jax finds no device with JAX_PLATFORMS=abacus"),
    "no cluster": ({}, ("--distributed",), "--distributed finds no cluster here: start every process with"),
    "half a cluster": (
        {},
        ("--distributed", "--coordinator=localhost:1"),
        "--num_processes, --process_id must be given too",
    ),
    "no port": (
        {},
        ("--distributed", "--coordinator=localhost", "--num_processes=2", "--process_id=0"),
        "--coordinator=localhost is no HOST:PORT",
    ),
    "too many": (
        {},
        ("--distributed", "--coordinator=localhost:1", "--num_processes=2", "--process_id=2"),
        "--process_id=2 is not one of 0 … 1, for --num_processes=2",
    ),
    "no such host": (
        {},
        ("--distributed", "--coordinator=absent.invalid:1", "--num_processes=2", "--process_id=1"),
        "--coordinator=absent.invalid:1: no process listens there",
    ),
}


@pytest.mark.parametrize("case", NO_DEVICES)
def test_devices_and_processes_that_are_not_there(case, phantom, tmp_path):  # noqa: F811
    environment, flags, message = NO_DEVICES[case]
    assert message in fails(tmp_path / "run", phantom, *flags, environment=environment)


def test_addresses_in_a_network_and_files_are_no_workdirs(launch_forked, phantom, tmp_path):  # noqa: F811
    (tmp_path / "file").touch()
    assert "'gs://a/b' is an address in a network" in fails(
        tmp_path / "run", phantom, "--workdir=gs://a/b", launch=launch_forked
    )
    said = fails(tmp_path / "run", phantom, f"--workdir={tmp_path / 'file'}", launch=launch_forked)
    assert "there is a file at" in said and "where a folder belongs" in said


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(:", r"error: \S*own\.py, line 1: SyntaxError: invalid syntax\n"),
        ("def get_config():\n    return bse.get_config()", r"error: \S*own\.py, line 2: NameError: name 'bse' is not"),
        (
            "from configs import base\n\ndef get_config():\n    made = base.get_config()\n    made.nonsense = 1",
            r'error: \S*own\.py, line 5: Key "nonsense" does not exist and cannot be added since .* is locked\.\n',
        ),
    ],
)
def test_a_mistake_in_a_config_file_is_told_by_its_line(text, message, launch_forked, phantom, tmp_path):  # noqa: F811
    (tmp_path / "own.py").write_text(text)
    said = fails(tmp_path / "run", phantom, config=str(tmp_path / "own.py"), launch=launch_forked)
    assert re.search(message, said) and "Other fields" not in said


def test_a_workdir_of_an_older_version_is_named(launch_forked, phantom, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    (workdir / "targets" / "curriculum").mkdir(parents=True)
    assert "was made by version 0.1 of this program" in fails(workdir, phantom, launch=launch_forked)


def test_two_runs_in_one_workdir_share_the_work(whole, phantom, tmp_path):  # noqa: F811
    """The second one waits for what the first is making, and makes what nobody is making."""
    workdir = tmp_path / "run"
    processes = [running.start(workdir, phantom) for _ in range(2)]
    said = []
    for process in processes:
        code, messages = running.finish(process)
        assert code == 0, messages
        said.append(messages)
    assert running.outcome(workdir) == running.outcome(whole)
    for title in ("curriculum 0: rotation: 30 steps", "curriculum 1: moco_v2: 60 steps"):
        assert sum(messages.count(title) for messages in said) == 1
    assert any(re.search(r"waiting for 0\d-\w+-[0-9a-f]{12}, which process \d+ on ", messages) for messages in said)


def test_who_waits_takes_over_from_a_run_that_is_killed(whole, phantom, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    first = running.start(workdir, phantom, "--config.runtime.checkpoint_every=5")
    running.wait_for(first, lambda: running.logged(workdir, "00-rotation") >= 12, "step 12")
    # Held up, so that the second one finds it at work.
    first.send_signal(signal.SIGSTOP)
    second = running.start(workdir, phantom)
    running.wait_for(second, lambda: "waiting for 00-rotation" in second.log.read_text(), "it waits")
    first.kill()
    running.finish(first)
    code, said = running.finish(second)
    assert code == 0, said
    assert running.outcome(workdir) == running.outcome(whole)


def test_data_set_that_is_not_prepared(launch_forked, tmp_path):  # noqa: F811
    said = fails(tmp_path / "run", tmp_path / "nowhere", launch=launch_forked)
    assert f"python -m tfds_builders prepare derm_phantom/tiny --data_dir {tmp_path}/nowhere" in said


def test_a_changed_field_trains_what_follows_from_it_alone(whole, phantom, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    changed = "--config.stages[1].optimizer.learning_rate=0.002"
    code, said = running.launch(workdir, phantom, changed, "--plan")
    assert code == 0 and "to train: 1 stages, 60 steps" in said
    code, said = running.launch(workdir, phantom, changed)
    assert code == 0 and "curriculum 1: moco_v2: 60 steps" in said and "rotation: 30 steps" not in said, said
    assert (workdir / "results.csv").read_bytes() != (whole / "results.csv").read_bytes()
    code, said = running.launch(workdir, phantom)
    assert code == 0 and "everything exists: nothing to train or measure" in said
    assert (workdir / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    assert "runtime.log_every is 0; it must be at least 1" in fails(workdir, phantom, "--config.runtime.log_every=0")


def test_a_stage_that_diverged_continues_as_the_message_says(whole, phantom, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    said = fails(workdir, phantom, "--config.stages[1].optimizer.learning_rate=1e38")
    assert "not finite for 10 steps in a row" in said and "under the same --workdir" in said
    finished = (running.stage_folder(workdir, "00-rotation") / "record.json").read_text()
    code, said = running.launch(workdir, phantom)
    assert code == 0, said
    assert "rotation: 30 steps" not in said
    assert (running.stage_folder(workdir, "00-rotation") / "record.json").read_text() == finished
    backbones = {artifact["backbone_hash"] for artifact in map(read, workdir.glob("stages/*/record.json"))}
    assert backbones == {running.record(whole, label)["backbone_hash"] for label in ("00-rotation", "01-moco_v2")}


def read(path):
    return json.loads(path.read_text())


def test_damaged_init(launch_forked, phantom, tmp_path):  # noqa: F811
    path = tmp_path / "weights.safetensors"
    weights.export_backbone(tiny.backbone(), path)
    path.write_bytes(path.read_bytes()[:1000])
    said = fails(tmp_path / "run", phantom, f"--config.init={path}", launch=launch_forked)
    assert "weights.safetensors is not a whole safetensors file" in said


def test_init_of_another_model(launch_forked, phantom, tmp_path):  # noqa: F811
    weights.export_backbone(tiny.backbone(), tmp_path / "other.safetensors")
    said = fails(
        tmp_path / "run",
        phantom,
        f"--config.init={tmp_path / 'other.safetensors'}",
        "--config.model.name=resnet18",
        launch=launch_forked,
    )
    assert "these weights do not fit resnet18 (width 0.125" in said and "missing" in said


LOST = """
import gc, signal, sys, time
from aiseeme_jax.jobs import launch

def interrupt(*_):
    gc.callbacks.remove(interrupt)
    signal.raise_signal(signal.SIGINT)

sys.unraisablehook = launch.repeat_signal
gc.callbacks.append(interrupt)
try:
    gc.collect()
    time.sleep(60)
except KeyboardInterrupt:
    print("arrived")
"""


def test_a_ctrl_c_that_arrives_while_memory_is_freed_is_not_lost():
    """Python passes over an exception there."""
    done = subprocess.run([sys.executable, "-c", LOST], cwd=running.REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "arrived\n" and not done.stderr
