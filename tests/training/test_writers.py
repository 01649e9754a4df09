"""Writers beside TensorBoard, whose libraries are replaced by ones that note what they are asked for."""

import math
import sys
import threading
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import arm_writing
from aiseeme_jax.training import writers
from aiseeme_jax.training.telemetry import Telemetry


@pytest.fixture
def calls():
    return []


@pytest.fixture
def fake_wandb(monkeypatch, calls):
    def init(**options):
        calls.append(("init", options))
        note = lambda name: lambda *args, **options: calls.append((name, *args, options))  # noqa: E731
        summary = SimpleNamespace(update=note("summary"))
        return SimpleNamespace(
            log=note("log"), summary=summary, config=SimpleNamespace(update=note("config")), finish=note("finish")
        )

    module = ModuleType("wandb")
    module.init, module.Image, module.Settings = init, lambda image: ("image", image.shape), dict
    monkeypatch.setitem(sys.modules, "wandb", module)


@pytest.fixture
def fake_mlflow(monkeypatch, calls):
    class MlflowClient:
        """A tracking server that remembers its runs."""

        def __getattr__(self, name):
            return lambda *args, **options: calls.append((name, *args, options))

        def get_experiment_by_name(self, name):
            return runs and SimpleNamespace(experiment_id="7")

        def create_experiment(self, name):
            return "7"

        def search_runs(self, experiments, filter_string):
            return [run for folder, run in runs.items() if filter_string == f"tags.folder = '{folder}'"]

        def create_run(self, experiment, run_name, tags):
            run = SimpleNamespace(info=SimpleNamespace(run_id=f"{run_name} {len(runs)}"))
            calls.append(("create_run", experiment, run_name, tags["group"]))
            return runs.setdefault(tags["folder"], run)

    runs = {}
    module = ModuleType("mlflow")
    module.MlflowClient = MlflowClient
    monkeypatch.setitem(sys.modules, "mlflow", module)


def train(directory, start_step=0):
    """Two steps of a training, which write everything that there is."""
    options = {"total_steps": 4, "batch_size": 8, "title": "rotation", "start_step": start_step}
    with Telemetry(directory, **options) as run:
        run.images(start_step, {"views": np.zeros((2, 3, 3, 3))})
        for step in (start_step + 1, start_step + 2):
            run.log(step, {"loss": step / 2, "feature_std": math.nan})
        run.warn("odd")


def test_wandb_gets_a_run_for_each_training_which_a_restart_continues(fake_wandb, calls, tmp_path):
    with writers.use(("wandb",), "study"):
        train(tmp_path / "00-rotation")
        train(tmp_path / "00-rotation", start_step=2)
    first, second = (options for name, options in (call[:2] for call in calls) if name == "init")
    assert first["id"] == second["id"] and first["id"].startswith("00-rotation-")
    assert (first["group"], first["name"], first["resume"], second["resume"]) == ("study", "rotation", None, "allow")
    logged = [call for call in calls if call[0] == "log"]
    assert logged[0] == ("log", {"views": [("image", (3, 3, 3))] * 2}, {"step": 0})
    assert logged[1][1]["loss"] == 0.5 and [call[2]["step"] for call in logged] == [0, 1, 2, 2, 3, 4]
    assert ("summary", {"warning": "odd"}, {}) in calls and [call[0] for call in calls].count("finish") == 2


def test_mlflow_gets_a_run_for_each_training_which_a_restart_continues(fake_mlflow, calls, tmp_path):
    with writers.use(("mlflow",), "study"):
        train(tmp_path / "00-rotation")
        train(tmp_path / "00-rotation", start_step=2)
    assert [call for call in calls if call[0] == "create_run"] == [("create_run", "7", "rotation", "study")]
    losses = [call[1:] for call in calls if call[0] == "log_metric" and call[2] == "loss"]
    assert losses == [("rotation 0", "loss", step / 2, {"step": step}) for step in (1, 2, 3, 4)]
    assert not [call for call in calls if call[0] == "log_metric" and call[2] == "feature_std"], "not finite"
    pictures = [call[3]["artifact_file"] for call in calls if call[0] == "log_image"]
    assert pictures == ["views-0-0.png", "views-0-1.png", "views-2-0.png", "views-2-1.png"]
    assert ("log_text", "rotation 0", "odd", "warning-2.md", {}) in calls
    assert [call[0] for call in calls].count("set_terminated") == 2


def test_an_arm_is_one_run_with_its_settings(fake_wandb, fake_mlflow, calls, tmp_path):
    points = {100: {"linear:b/64/auroc": 0.75}, 10: {"linear:b/64/auroc": 0.5}}
    with writers.use(("wandb", "mlflow"), "study"):
        arm_writing.write_run(tmp_path / "arm", "curriculum", hparams={"width": 0.5}, points=points)
    assert ("config", {"width": 0.5}, {"allow_val_change": True}) in calls
    assert ("set_tag", "curriculum 0", "width", 0.5, {}) in calls
    assert [call[1:] for call in calls if call[0] == "log"] == [
        ({"linear:b/64/auroc": 0.5}, {"step": 10}),
        ({"linear:b/64/auroc": 0.75}, {"step": 100}),
    ]
    assert ("log_metric", "curriculum 0", "linear_b/64/auroc", 0.75, {"step": 100}) in calls


def test_writers_end_with_their_block_and_none_may_be_wanted(fake_wandb, calls, tmp_path):
    with writers.use((), "study"):
        train(tmp_path / "a")
    assert not calls and (tmp_path / "a" / "metrics.jsonl").exists()
    assert writers._used.get()[0] == ("tensorboard",)


class FailingService:
    """A writer of a service that answers when `answer` is set, and not as one would wish."""

    def __init__(self, answer):
        answer.wait()
        self.got = []

    def write_scalars(self, step, scalars):
        if step == 1:
            raise ConnectionError("the wire is cut")
        self.got.append(step)
        if step == 3:
            raise ConnectionError("and again")

    def close(self):
        self.got.append("close")


def test_a_service_that_fails_neither_ends_nor_delays_a_training(monkeypatch, caplog):
    monkeypatch.setattr(writers, "CLOSING_SECONDS", 0.01)
    monkeypatch.setattr(writers, "PENDING", 5)
    answer, opened = threading.Event(), []
    writer = writers.QueuedWriter("mlflow of rotation", lambda: opened.append(FailingService(answer)) or opened[0])
    for step in (1, 2, 3, 4):
        writer.write_scalars(step, {"loss": 1.0})
    assert not writer.lost
    writer.close()
    assert writer.lost and not opened
    writer.write_scalars(5, {"loss": 1.0})
    # It answers after all: what waited is written, as far as it had room.
    answer.set()
    writer._thread.join(60)
    assert opened[0].got == [2, 3, 4, "close"]
    said = "mlflow of rotation does not get everything: it does not answer. The run goes on; its own files are complete"
    assert caplog.messages == [said]


def test_the_first_error_of_a_service_is_told_once(fake_mlflow, monkeypatch, caplog, tmp_path):
    answer = threading.Event()
    answer.set()
    monkeypatch.setitem(writers.WRITERS, "mlflow", lambda *given: FailingService(answer))
    monkeypatch.setitem(writers.WRITERS, "wandb", lambda *given: 1 / 0)
    with writers.use(("mlflow", "wandb"), "study"):
        opened = writers.open_writers(tmp_path, "rotation", 0)
        for writer in opened:
            for step in (1, 2, 3):
                writer.write_scalars(step, {"loss": 1.0})
            writer.close()
    assert all(writer.lost for writer in opened)
    assert sorted(message.partition(". The run")[0] for message in caplog.messages) == [
        "mlflow of rotation does not get everything: ConnectionError('the wire is cut')",
        "wandb of rotation does not get everything: ZeroDivisionError('division by zero')",
    ]


def test_what_is_not_known_or_not_installed_is_told(monkeypatch):
    writers.check_writers(("tensorboard",))
    with pytest.raises(UserError, match="runtime.writers has 'abacus': known are tensorboard, wandb, mlflow"):
        writers.check_writers(("tensorboard", "abacus"))
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="has 'wandb', which is not installed: pip install wandb"):
        writers.check_writers(("wandb",))
