"""Checkpoints of a training: whole, the newest first, and told apart from those of another program."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from small_disk import small_disk  # noqa: F401

from aiseeme_jax import data
from aiseeme_jax.errors import DiskError, UserError
from aiseeme_jax.store import checkpoints


class TestCheckpoints:
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

    def test_half_written_checkpoints_of_a_killed_run_are_deleted(self, tmp_path):
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

    def two(self, folder, **arrays):
        """Two checkpoints in a folder, the newer one to be damaged; gives its folder."""
        with checkpoints.Checkpoints(folder) as store:
            store.save(1, {**self.on_devices(1), **arrays}, {"seconds": 1.0})
            store.save(2, {**self.on_devices(2), **arrays}, {"seconds": 2.0})
        return folder / "checkpoints" / "2"

    @pytest.mark.parametrize("file", ["state/_METADATA", "state/manifest.ocdbt", "record/metadata"])
    def test_a_damaged_checkpoint_is_named_with_what_lets_the_run_go_on(self, tmp_path, file):
        newest = self.two(tmp_path)
        (newest / file).write_text("{")
        goes_on = f"{newest} is damaged: `rm -r {newest}` deletes it, .* goes on from the checkpoint of step 1"
        with checkpoints.Checkpoints(tmp_path) as store:
            with pytest.raises(UserError, match=goes_on):
                store.restore(self.on_devices(), data.data_mesh())
        shutil.rmtree(newest)
        with checkpoints.Checkpoints(tmp_path) as store:
            tiny.assert_same(store.restore(self.on_devices(), data.data_mesh())[0], self.on_devices(1))
        (tmp_path / "checkpoints" / "1" / file).write_text("{")
        with checkpoints.Checkpoints(tmp_path) as store:
            with pytest.raises(UserError, match="checkpoints/1` deletes it, and then the same command goes on anew"):
                store.restore(self.on_devices(), data.data_mesh())

    def test_a_flipped_bit_of_an_array_is_noticed(self, tmp_path):
        noise = {"noise": jnp.asarray(np.random.default_rng(0).random(5000), jnp.float32)}
        newest = self.two(tmp_path, **noise)
        file = max((newest / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        file.write_bytes(damaged)
        with checkpoints.Checkpoints(tmp_path) as store:
            with pytest.raises(UserError, match=f"{newest} is damaged: .* do not have the hash in its record"):
                store.restore({**self.on_devices(), **noise}, data.data_mesh())

    def test_a_changed_figure_of_a_record_is_noticed(self, tmp_path):
        file = self.two(tmp_path) / "record" / "metadata"
        file.write_text(file.read_text().replace('"seconds": 2.0', '"seconds": 3.0'))
        with checkpoints.Checkpoints(tmp_path) as store:
            with pytest.raises(UserError, match="checkpoints/2 is damaged: .*its record is not whole: its checksum"):
                store.restore(self.on_devices(), data.data_mesh())

    def test_a_damaged_file_of_orbax_beside_a_step_may_be_deleted(self, tmp_path):
        file = self.two(tmp_path) / "_CHECKPOINT_METADATA"
        file.write_text("[]")
        with pytest.raises(UserError, match=f"{file} is damaged: delete this file"):
            checkpoints.Checkpoints(tmp_path)
        file.unlink()
        with checkpoints.Checkpoints(tmp_path) as store:
            assert store.restore(self.on_devices(), data.data_mesh())[1] == {"seconds": 2.0}

    def test_a_checkpoint_for_which_there_is_no_room_is_none(self, small_disk):  # noqa: F811
        noise = jnp.asarray(np.random.default_rng(0).random(100_000, np.float32))
        small_disk.change("size=1m")
        with checkpoints.Checkpoints(small_disk.path / "stage") as store:
            store.save(1, {"noise": noise}, {})
            store.wait()
            small_disk.change("size=500k")
            with pytest.raises(DiskError, match=r"the disk is full. Of the .*, and 400.0 kB were wanted"):
                store.save(2, {"noise": noise}, {})
                store.wait()
        small_disk.change("size=2m")
        with checkpoints.Checkpoints(small_disk.path / "stage") as store:
            store.save(3, {"noise": noise + 1}, {})
            store.wait()
            tiny.assert_same(store.restore({"noise": noise}, data.data_mesh())[0], {"noise": noise + 1})
        assert sorted(path.name for path in (small_disk.path / "stage" / "checkpoints").iterdir()) == ["1", "3"]

    def test_a_disk_that_became_read_only_is_told_before_orbax_begins(self, small_disk):  # noqa: F811
        """Its threads would wait for minutes, and the process for them."""
        small_disk.change("size=1m")
        with checkpoints.Checkpoints(small_disk.path / "stage") as store:
            small_disk.change("ro")
            with pytest.raises(DiskError, match="the disk is read-only"):
                store.save(1, self.on_devices(), {})
            small_disk.change("rw")

    def test_empty_folder_has_nothing_to_restore(self, tmp_path):
        with checkpoints.Checkpoints(tmp_path) as store:
            assert store.restore(self.on_devices(), data.data_mesh()) is None
