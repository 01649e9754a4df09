"""What lies on disk: whole or not at all, named by its hash, found again."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import tiny_in_the_table  # noqa: F401

import aiseeme_jax
from aiseeme_jax import data, models, weights
from aiseeme_jax.evaluate import results
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.store import checkpoints, records
from aiseeme_jax.weights import torchvision

MODEL = {"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32", "channels": 3}

pytestmark = pytest.mark.usefixtures("tiny_in_the_table")


def narrow(seed: int = 0, dtype: str = "float32"):
    """A backbone of the table, with running statistics that are not those it was born with."""
    made = models.make_backbone(**{**MODEL, "dtype": dtype}, rngs=nnx.Rngs(seed))
    random = np.random.default_rng(seed)
    noise = lambda x: x + random.random(x.shape).astype(np.float32)  # noqa: E731
    nnx.update(made, jax.tree.map(noise, nnx.state(made, nnx.BatchStat)))
    return made


class TestText:
    def test_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "folder" / "done.json"
        records.write_text(path, "old")

        def full(_):
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            records.write_text(path, "new")
        assert path.read_text() == "old"
        monkeypatch.undo()
        records.write_text(path, "new")
        assert path.read_text() == "new" and [file.name for file in path.parent.iterdir()] == ["done.json"]

    def test_only_the_first_process_writes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        records.write_text(tmp_path / "a.json", "text")
        weights.save_backbone(tmp_path, narrow(), {})
        assert not list(tmp_path.iterdir())


WRITERS = {
    "text": ("done.json", lambda folder: records.write_text(folder / "done.json", "text")),
    "backbone": ("backbone.safetensors", lambda folder: weights.save_backbone(folder, narrow(), {})),
    "export": ("w.safetensors", lambda folder: aiseeme_jax.export_backbone(narrow(), folder / "w.safetensors")),
    "Fisher": ("fisher.safetensors", lambda folder: weights.save_fisher(folder, narrow(), narrow())),
    "predictions": (
        "predictions.npz",
        lambda folder: results.save_predictions(
            folder, results.Predictions(np.zeros(2, np.int32), np.ones((2, 2)) / 2, "ab", "ab", "xy")
        ),
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_files_are_on_the_disk_before_they_have_their_name_and_their_folder_after(kind, tmp_path, monkeypatch):
    name, write = WRITERS[kind]
    place = tmp_path / "stage" / name
    synced, real = [], os.fsync

    def fsync(number):
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        synced.append((path.is_dir() and path.name, place.exists()))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "stage")
    assert synced == [(False, False), ("stage", True), (tmp_path.name, True)]
    assert [path.name for path in place.parent.iterdir()] == [name]


@pytest.mark.parametrize("kind", WRITERS)
def test_file_that_cannot_be_put_on_the_disk_is_not_there(kind, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        WRITERS[kind][1](tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "passed"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_folder_that_cannot_be_synced_is_an_error_unless_its_file_system_knows_no_such_thing(
    number, passed, tmp_path, monkeypatch
):
    def fsync(file):
        if Path(os.readlink(f"/proc/self/fd/{file}")).is_dir():
            raise OSError(number, "told so")

    monkeypatch.setattr(os, "fsync", fsync)
    with contextlib.nullcontext() if passed else pytest.raises(OSError, match="told so"):
        records.write_text(tmp_path / "done.json", "text")
    assert (tmp_path / "done.json").read_text() == "text"


class TestHash:
    def test_depends_on_names_shapes_types_and_bytes(self):
        tree = {"a": np.arange(4, dtype=np.float32), "b": np.zeros(2)}
        others = [
            {"c": tree["a"], "b": tree["b"]},
            {**tree, "a": tree["a"].reshape(2, 2)},
            {**tree, "a": tree["a"].view(np.int32)},
            {**tree, "a": np.nextafter(tree["a"], 9)},
        ]
        hashes = [weights.tree_hash(t) for t in (tree, *others)]
        assert len(set(hashes)) == 5 and all(len(h) == 64 for h in hashes)
        assert weights.tree_hash({"b": tree["b"], "a": tree["a"]}) == hashes[0]

    def test_of_a_backbone_covers_running_statistics_too(self):
        one = narrow()
        before = weights.backbone_hash(one)
        assert weights.backbone_hash(narrow()) == before
        one.stem_norm.mean.set_value(one.stem_norm.mean.get_value() + 1)
        assert weights.backbone_hash(one) != before

    def test_does_not_depend_on_the_devices_the_weights_lie_on(self):
        leaf = jnp.arange(16.0)
        spread = tiny.on_devices(leaf, 8)
        assert weights.tree_hash({"a": leaf}) == weights.tree_hash({"a": spread})


class TestBackbone:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_comes_back_bit_by_bit(self, tmp_path, dtype):
        saved = narrow(dtype=dtype)
        weights.save_backbone(tmp_path, saved, {"task": "simclr"})
        loaded, info = aiseeme_jax.load_backbone(tmp_path)
        tiny.assert_same(loaded, saved)
        assert info["task"] == "simclr" and info["model"] == saved.config
        assert info["backbone_hash"] == weights.backbone_hash(saved) == weights.backbone_hash(loaded)
        assert [path.name for path in tmp_path.iterdir()] == ["backbone.safetensors"]

    def test_is_found_in_a_workdir_a_stage_and_a_file(self, tmp_path):
        for position, task in enumerate(("rotation", "simclr", "npid")):
            stage = records.stage_directory(tmp_path, "curriculum", position, task)
            curriculum.hand_over(stage, narrow(position), {"task": task})
        (tmp_path / "stages" / "02-npid" / records.DONE).unlink()  # as if killed just before
        for path, seed in (
            (tmp_path, 1),
            (str(tmp_path), 1),
            (tmp_path / "stages" / "00-rotation", 0),
            (tmp_path / "stages" / "01-simclr" / "backbone.safetensors", 1),
        ):
            tiny.assert_same(aiseeme_jax.load_backbone(path)[0], narrow(seed))

    def finish(self, workdir, arm, *tasks, seed=0):
        for position, task in enumerate(tasks):
            directory = records.stage_directory(workdir, arm, position, task)
            curriculum.hand_over(directory, narrow(seed + position), {"task": task})

    def test_of_a_workdir_is_that_of_the_arm_asked_for(self, tmp_path):
        self.finish(tmp_path, "curriculum", "rotation", "simclr")
        self.finish(tmp_path, "single:simclr", "simclr", seed=5)
        for arm, seed in ((None, 1), ("curriculum", 1), ("single:simclr", 5)):
            tiny.assert_same(aiseeme_jax.load_backbone(tmp_path, arm)[0], narrow(seed))
        with pytest.raises(
            ValueError, match=r"no finished stage of an arm 'npid' .*: there are curriculum, single.simclr"
        ):
            aiseeme_jax.load_backbone(tmp_path, arm="npid")
        with pytest.raises(ValueError, match="00-rotation' is no workdir: it has no arm 'curriculum'"):
            aiseeme_jax.load_backbone(tmp_path / "stages" / "00-rotation", arm="curriculum")

    def test_without_a_curriculum_there_must_be_one_arm_or_it_must_be_named(self, tmp_path):
        self.finish(tmp_path, "plain", "rotation", "npid")
        tiny.assert_same(aiseeme_jax.load_backbone(tmp_path)[0], narrow(1))
        self.finish(tmp_path, "distilled", "rotation", seed=5)
        with pytest.raises(ValueError, match="holds several arms: say `arm`, .* There are distilled, plain"):
            aiseeme_jax.load_backbone(tmp_path)
        tiny.assert_same(aiseeme_jax.load_backbone(tmp_path, arm="distilled")[0], narrow(5))

    def test_export_is_an_init_of_the_same_bits(self, tmp_path):
        exported = narrow()
        aiseeme_jax.export_backbone(exported, tmp_path / "weights.safetensors")
        tiny.assert_same(weights.starting_backbone(MODEL, str(tmp_path / "weights.safetensors"), 5), exported)
        tiny.assert_same(aiseeme_jax.load_backbone(tmp_path / "weights.safetensors")[0], exported)

    def test_scratch_is_decided_by_the_seed(self):
        one, again, other = (weights.starting_backbone(MODEL, "scratch", seed) for seed in (5, 5, 6))
        tiny.assert_same(one, again)
        tiny.assert_different(one, other)

    def test_init_that_is_not_there_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="init: no file or folder at '.*absent.pth'"):
            weights.starting_backbone(MODEL, str(tmp_path / "absent.pth"), 0)

    def test_damaged_file_is_an_error(self, tmp_path):
        weights.save_backbone(tmp_path, narrow(), {})
        path = tmp_path / weights.BACKBONE
        whole = path.read_bytes()
        for cut in (len(whole) // 2, 4):
            path.write_bytes(whole[:cut])
            with pytest.raises(ValueError, match="backbone.safetensors is not a whole safetensors file"):
                aiseeme_jax.load_backbone(tmp_path)
        flipped = bytearray(whole)
        flipped[-10] ^= 1
        path.write_bytes(bytes(flipped))
        with pytest.raises(ValueError, match="backbone.safetensors is damaged: its weights do not have the hash"):
            aiseeme_jax.load_backbone(tmp_path)

    def test_what_to_do_about_damage_depends_on_whose_the_file_is(self, tmp_path):
        stage = tmp_path / "stages" / "00-rotation"
        curriculum.hand_over(stage, narrow(), {"task": "rotation"})
        path, loose = stage / weights.BACKBONE, tmp_path / "loose.safetensors"
        whole = path.read_bytes()
        anew = f"; delete the folder {stage} and run again: its stage is then trained anew"
        for cut in (len(whole) - 10, len(whole) // 2):
            path.write_bytes(whole[:cut] + bytes(10 * (cut > len(whole) // 2)))
            loose.write_bytes(path.read_bytes())
            for read in (aiseeme_jax.load_backbone, lambda file: weights.any_backbone(file, MODEL)):
                with pytest.raises(ValueError, match=anew):
                    read(path)
                with pytest.raises(ValueError, match="; copy or download it again"):
                    read(loose)
        with pytest.raises(ValueError, match=f"init: .*{anew}"):
            weights.starting_backbone(MODEL, str(stage), 0)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"00-rotation has lost its backbone.safetensors{anew}"):
            aiseeme_jax.load_backbone(stage)

    def test_foreign_file_is_an_error_that_says_what_it_is_good_for(self, tmp_path):
        path = tmp_path / "foreign.safetensors"
        torchvision.write_safetensors(path, torchvision.to_torchvision(narrow()))
        with pytest.raises(ValueError, match="was not written by aiseeme_jax, .* use it as `init`"):
            aiseeme_jax.load_backbone(path)

    def test_nothing_there_is_an_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no file or folder at '.*absent'"):
            aiseeme_jax.load_backbone(tmp_path / "absent")
        with pytest.raises(FileNotFoundError, match="holds no finished stage: run the curriculum first"):
            aiseeme_jax.load_backbone(tmp_path)


class TestStore:
    state = {"weights": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.int32(7), "none": None}

    def on_devices(self, offset: int = 0):
        return jax.tree.map(lambda x: jnp.asarray(x + offset), self.state)

    def test_newest_checkpoint_comes_back_on_every_device(self, tmp_path):
        with checkpoints.Checkpoints(tmp_path) as store:
            for step in range(4):
                store.save(step, self.on_devices(step), {"seconds": step / 2, "text": "x"})
        with checkpoints.Checkpoints(tmp_path) as store:
            state, record = store.restore(self.on_devices(), data.data_mesh())
        tiny.assert_same(state, self.on_devices(3))
        assert record == {"seconds": 1.5, "text": "x"}
        assert state["weights"].sharding.is_fully_replicated and len(state["weights"].sharding.device_set) == 8

    def test_only_the_last_few_are_kept(self, tmp_path):
        with checkpoints.Checkpoints(tmp_path, keep=2) as store:
            for step in range(5):
                store.save(step, self.on_devices(step), {})
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]

    def test_state_may_be_overwritten_while_it_is_being_written(self, tmp_path):
        overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
        big = jnp.arange(2.0**20)
        with checkpoints.Checkpoints(tmp_path) as store:
            store.save(1, {"big": big}, {})
            big = overwrite(big)
            store.wait()
            state, _ = store.restore({"big": big}, data.data_mesh())
        np.testing.assert_array_equal(state["big"], np.arange(2.0**20))

    def test_what_a_kill_left_half_written_is_cleared_away(self, tmp_path):
        with checkpoints.Checkpoints(tmp_path) as store:
            store.save(1, self.on_devices(), {})
        half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
        half.mkdir()
        (half / "part").write_text("half")
        with checkpoints.Checkpoints(tmp_path) as store:
            state, _ = store.restore(self.on_devices(), data.data_mesh())
            tiny.assert_same(state, self.on_devices())
            store.save(2, self.on_devices(2), {})
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]

    @pytest.mark.parametrize(
        "change, difference",
        [
            ({"weights": np.zeros((2, 4), np.float32)}, r"weights: \(2, 3\) float32 -> \(2, 4\) float32"),
            ({"weights": np.zeros((2, 3), np.int32)}, r"weights: \(2, 3\) float32 -> \(2, 3\) int32"),
            ({"more": np.zeros(2, np.float32)}, r"more: \(absent\) -> \(2,\) float32"),
            ({"weights": None}, r"weights: \(2, 3\) float32 -> \(absent\)"),
        ],
    )
    def test_a_checkpoint_of_another_version_is_not_called_damaged(self, tmp_path, change, difference):
        with checkpoints.Checkpoints(tmp_path) as store:
            store.save(1, self.on_devices(), {})
        with checkpoints.Checkpoints(tmp_path) as store:
            with pytest.raises(ValueError, match=f"checkpoints/1 does not fit .*Do not delete it.* {difference}"):
                store.restore(jax.tree.map(jnp.asarray, {**self.state, **change}), data.data_mesh())

    # Orbax gives up a read with others under way.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("file", ["_METADATA", "manifest.ocdbt"])
    def test_a_damaged_checkpoint_is_called_so_and_may_be_deleted(self, tmp_path, file):
        with checkpoints.Checkpoints(tmp_path) as store:
            store.save(1, self.on_devices(1), {})
            store.save(2, self.on_devices(2), {})
        (tmp_path / "checkpoints" / "2" / "state" / file).write_text("{")
        with checkpoints.Checkpoints(tmp_path) as store:
            with pytest.raises(ValueError, match="checkpoints/2 is damaged; delete it to go on from an earlier"):
                store.restore(self.on_devices(), data.data_mesh())
        shutil.rmtree(tmp_path / "checkpoints" / "2")
        with checkpoints.Checkpoints(tmp_path) as store:
            tiny.assert_same(store.restore(self.on_devices(), data.data_mesh())[0], self.on_devices(1))

    def test_empty_folder_has_nothing_to_restore(self, tmp_path):
        with checkpoints.Checkpoints(tmp_path) as store:
            assert store.restore(self.on_devices(), data.data_mesh()) is None


def test_folders_of_arms_and_targets(tmp_path):
    assert records.stage_directory(tmp_path, "curriculum", 1, "npid") == tmp_path / "stages" / "01-npid"
    arm = tmp_path / "arms" / "single-npid"
    assert records.stage_directory(tmp_path, "single:npid", 0, "npid") == arm / "stages" / "00-npid"
    expected = tmp_path / "targets" / "single-npid" / "knn" / "fraction-0.1-seed-3"
    assert records.target_directory(tmp_path, "single:npid", "knn", 0.1, 3) == expected
    assert records.target_directory(tmp_path, "scratch", "knn", 1, 0).name == "fraction-1-seed-0"


class TestData:
    def test_images_of_a_run_are_noted_once_and_stay(self, tmp_path):
        train, test = {"images": 85, "version": "1.0.0"}, {"images": 20, "version": "1.0.0"}
        records.hold_to_data(tmp_path, {"pretraining": train})
        records.hold_to_data(tmp_path, {"pretraining": train, "targets": test})
        noted = (tmp_path / "data.json").read_text()
        assert json.loads(noted) == {"pretraining": train, "targets": test}
        with pytest.raises(ValueError) as error:
            records.hold_to_data(tmp_path, {"pretraining": train, "targets": {**test, "images": 839}})
        assert f"{tmp_path} was begun with other images for its targets; then and now: images 20 -> 839." in str(
            error.value
        )
        assert "runtime.data_dir" in str(error.value) and (tmp_path / "data.json").read_text() == noted

    def test_differences_are_told_by_name(self):
        one, other = {"a": {"b": 1, "c": "f" * 64}, "d": 2}, {"a": {"b": 3, "c": "e" * 64}, "e": 4}
        assert records.differences(one, one) == ""
        told = "b 1 -> 3, c ffffffffffff -> eeeeeeeeeeee, d 2 -> (none), e (none) -> 4"
        assert records.differences(one, other) == told


def test_done_is_the_record_or_none(tmp_path):
    assert records.read_done(tmp_path) is None
    records.write_json(tmp_path / records.DONE, {"steps": 3})
    assert records.read_done(tmp_path) == {"steps": 3} == json.loads((tmp_path / "done.json").read_text())
