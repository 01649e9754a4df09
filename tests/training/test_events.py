"""TensorBoard events: what arrives, and that a time line stays one across kills."""

import builtins
import math

import numpy as np
import pytest
from small_disk import small_disk  # noqa: F401

from aiseeme_jax.errors import DiskError
from aiseeme_jax.jobs import arm_writing
from aiseeme_jax.store.files import explain_disk_errors
from aiseeme_jax.training import events
from aiseeme_jax.training.telemetry import Telemetry


@pytest.mark.slow
class TestEvents:
    """What TensorBoard's own reader finds in a folder."""

    def read(self, directory):
        accumulation = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        settings = {"size_guidance": {"tensors": 0, "images": 0}, "purge_orphaned_data": False}
        return accumulation.EventAccumulator(str(directory), **settings).Reload()

    def scalars(self, directory, name):
        import tensorflow

        # In the order of steps: two files of one second and one process are read in the order of their names.
        found = self.read(directory).Tensors(name)
        return sorted((event.step, float(tensorflow.make_ndarray(event.tensor_proto))) for event in found)

    @pytest.fixture(autouse=True)
    def needs_clu(self):
        pytest.importorskip("tensorflow")
        pytest.importorskip("clu")

    def test_scalars_images_and_warnings_arrive(self, tmp_path):
        with make(tmp_path) as run:
            run.images(1, {"views": np.array([np.nan, -1.0, 0.5, 2.0]).reshape(1, 2, 2, 1).repeat(3, axis=-1)})
            for step in (1, 2, 3):
                run.log(step, {"loss": 1 / step, "feature_std": math.nan})
            run.warn("odd")
        assert self.scalars(tmp_path, "loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
        assert [step for step, _ in self.scalars(tmp_path, "images_per_second")] == [2, 3]
        assert all(math.isnan(value) for _, value in self.scalars(tmp_path, "feature_std"))
        assert {"views", "warning"} <= set(self.read(tmp_path).Tags()["tensors"])

    def test_a_full_disk_is_told(self, small_disk):  # noqa: F811
        """clu raises in its thread, and again at the next call."""
        noise = np.random.default_rng(0).random((1, 128, 128, 3))
        with pytest.raises(DiskError, match=f"{small_disk.path}/stage cannot be written: the disk is full"):
            with explain_disk_errors(small_disk.path / "stage"), make(small_disk.path / "stage") as run:
                for step in range(1, 9):
                    run.images(step, {"views": noise})
                    run.log(step, {"loss": 1.0})

    def test_tags_may_contain_anything_and_a_run_without_steps_has_settings_and_texts(self, tmp_path):
        name = "knn:a/64/<b>A & B</b>"
        for value in (0.25, 0.5):
            arm_writing.write_run(
                tmp_path, "arm", texts={"config": "{}"}, hparams={"arm": "a", "width": 0.5}, points={3: {name: value}}
            )
        assert self.scalars(tmp_path, name) == [(3, 0.5)]
        tags = set(self.read(tmp_path).Tags()["tensors"])
        assert "config" in tags and any("hparams" in tag for tag in self.plugins(tmp_path))

    def plugins(self, directory):
        return self.read(directory).summary_metadata

    def test_a_resumed_run_goes_on_from_its_checkpoint(self, tmp_path):
        with make(tmp_path) as run:
            run.images(0, {"views": np.zeros((1, 2, 2, 3))})
            for step in (10, 20, 30):
                run.log(step, {"loss": float(step)})
        with make(tmp_path, start_step=20) as run:
            run.log(30, {"loss": 0.5})
        assert self.scalars(tmp_path, "loss") == [(10, 10.0), (20, 20.0), (30, 0.5)]
        assert len(self.read(tmp_path).Tensors("views")) == 1

    def test_a_run_from_the_start_forgets_all(self, tmp_path):
        for loss in (3.0, 4.0):
            with make(tmp_path) as run:
                run.log(1, {"loss": loss})
        assert self.scalars(tmp_path, "loss") == [(1, 4.0)]

    def test_what_a_kill_tore_is_dropped(self, tmp_path):
        with make(tmp_path) as run:
            run.log(1, {"loss": 1.0})
        (file,) = tmp_path.glob(events.FILES)
        with file.open("ab") as stream:
            stream.write(file.read_bytes()[:20])
        with make(tmp_path, start_step=1) as run:
            run.log(2, {"loss": 2.0})
        assert self.scalars(tmp_path, "loss") == [(1, 1.0), (2, 2.0)]

    def test_an_error_in_the_run_loses_no_events(self, tmp_path):
        with pytest.raises(ZeroDivisionError), make(tmp_path) as run:
            run.log(1, {"loss": 2.0})
            raise ZeroDivisionError
        assert self.scalars(tmp_path, "loss") == [(1, 2.0)]


def make(directory, **fields):
    return Telemetry(directory, **{"total_steps": 100, "batch_size": 32, "title": "rotation", **fields})


def test_without_tensorflow_the_run_goes_on(tmp_path, monkeypatch, caplog):
    real_import = builtins.__import__

    def no_clu(name, *args, **kwargs):
        if name.split(".")[0] in ("clu", "tensorflow"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_clu)
    events._warn_once.cache_clear()
    for _ in range(2):
        with make(tmp_path) as run:
            run.log(1, {"loss": 1.0})
            run.images(1, {"views": np.zeros((1, 2, 2, 3))})
            run.warn("odd")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    (text,) = caplog.messages
    assert "No module named" in text and "pip install clu tensorboard tensorflow-cpu" in text
