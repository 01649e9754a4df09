"""Several processes, and other numbers of devices, against one process on one machine."""

import shutil

import numpy as np
import pytest
import running
from running import phantom  # noqa: F401

from aiseeme_jax import weights
from aiseeme_jax.evaluate import results
from aiseeme_jax.store import artifacts
from aiseeme_jax.weights import tensors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_process(phantom, tmp_path_factory):  # noqa: F811
    """The workdir of one process with two devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    code, said = running.launch(workdir, phantom, devices=2)
    assert code == 0 and "on 2 x cpu" in said, said
    return workdir


def stage_weights(workdir, stage):
    return dict(tensors.read_weights(running.stage_folder(workdir, stage) / weights.BACKBONE))


def assert_close(one, other, tolerance, stages=("00-rotation", "01-moco_v2")):
    """Every stage's weights, relative to the size of each array."""
    for stage in stages:
        a, b = stage_weights(one, stage), stage_weights(other, stage)
        assert a.keys() == b.keys()
        for name in a:
            error = np.linalg.norm(a[name] - b[name]) / max(np.linalg.norm(b[name]), 1.0)
            assert error <= tolerance, f"{stage} {name}: {error:.2g}"


@pytest.fixture(scope="module")
def one_and_two(phantom, tmp_path_factory):  # noqa: F811
    """Workdirs of the curricula of kind 'shared': of one process with two devices, and of two with one each."""
    folder, config = tmp_path_factory.mktemp("shared"), "tests/tiny_config.py:shared"
    code, said = running.launch(folder / "one", phantom, devices=2, config=config)
    assert code == 0, said
    flags = ("--distributed", f"--coordinator=localhost:{running.free_port()}", "--num_processes=2")
    started = [running.start(folder / "two", phantom, *flags, f"--process_id={i}", config=config) for i in range(2)]
    for process in started:
        code, said = running.finish(process)
        assert code == 0, said
    return folder / "one", folder / "two"


def test_two_processes_come_to_the_same_clusters(one_and_two):
    """Of features that neither of them has made alone; otherwise they would train on different labels."""
    one, two = one_and_two
    assert_close(two, one, 1e-6, ("00-deepcluster", "01-clusterfit"))


def test_two_processes_find_the_same_learning_rate_and_batch_size(one_and_two):
    found = [artifacts.read_record(next(workdir.glob("tuning/*"))) for workdir in one_and_two]
    assert found[0]["tuning_hash"] == found[1]["tuning_hash"]
    one, two = ([(row["learning_rate"], row["batch_size"], row["state"]) for row in of["trials"]] for of in found)
    assert one == two and len(one) == 3
    assert_close(one_and_two[1], one_and_two[0], 1e-5, ("00-rotation",))


def test_an_error_that_one_process_notices_ends_all_of_them(one_process, phantom, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    shutil.copytree(one_process, workdir)
    artifacts.remove(running.stage_folder(workdir, "01-moco_v2"))
    # Noticed when the stage has been trained again, by the process that decides what comes next.
    (record,) = workdir.glob("measurements/*/record.json")
    record.write_text("{}")
    flags = ("--distributed", f"--coordinator=localhost:{running.free_port()}", "--num_processes=2")
    processes = [running.start(workdir, phantom, *flags, f"--process_id={i}") for i in range(2)]
    said = [running.finish(process) for process in processes]
    assert [code for code, _ in said] == [2, 2], said
    assert "record.json is damaged" in said[0][1] + said[1][1]


def test_who_has_lost_the_other_process_says_so_and_the_same_command_goes_on(
    one_process,
    phantom,  # noqa: F811
    tmp_path,
):
    workdir = tmp_path / "run"
    for victim, stage, step in ((1, "00-rotation", 22), (0, "01-moco_v2", 25), (None, "", 0)):
        flags = ("--distributed", f"--coordinator=localhost:{running.free_port()}", "--num_processes=2")
        processes = [running.start(workdir, phantom, *flags, f"--process_id={i}") for i in range(2)]
        if victim is None:
            break
        running.wait_for(processes[0], lambda stage=stage, step=step: running.logged(workdir, stage) >= step, "a step")
        processes[victim].kill()
        code, said = running.finish(processes[1 - victim])
        assert code == 2 and f"has lost process {victim} (process {processes[victim].pid} on " in said, said
        assert "The same command, for all processes, goes on" in said and "Traceback" not in said, said
        running.finish(processes[victim])
    ended = [running.finish(process) for process in processes]
    assert [code for code, _ in ended] == [0, 0] and all("on 2 x cpu" in said for _, said in ended), ended
    assert_close(workdir, one_process, 1e-6)
    found, expected = (results.load_predictions(next(w.glob("measurements/knn-*"))) for w in (workdir, one_process))
    np.testing.assert_allclose(found.probs, expected.probs, atol=1e-5)
    assert [row.metric for row in results.read_rows(workdir)] == [row.metric for row in results.read_rows(one_process)]


@pytest.fixture(scope="module")
def killed(phantom, tmp_path_factory):  # noqa: F811
    """The workdir of a run on two devices that was killed in its first stage."""
    workdir = tmp_path_factory.mktemp("killed") / "run"
    process = running.start(workdir, phantom, devices=2)
    running.wait_for(process, lambda: running.logged(workdir, "00-rotation") >= 21, "a checkpoint")
    process.kill()
    running.finish(process)
    return workdir


@pytest.mark.parametrize("devices", [1, 4])
def test_run_goes_on_with_another_number_of_devices(devices, killed, one_process, phantom, tmp_path):  # noqa: F811
    workdir = tmp_path / "run"
    shutil.copytree(killed, workdir)
    code, said = running.launch(workdir, phantom, devices=devices)
    assert code == 0 and f"on {devices} x cpu" in said, said
    # Sums in another order: each step adds a rounding error, and training spreads it.
    assert_close(workdir, one_process, 1e-2)
