"""Files are whole or not there, whatever happens while they are written."""

import contextlib
import errno
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from narrow_backbone import narrow
from small_disk import small_disk  # noqa: F401
from tiny import tiny_in_the_table  # noqa: F401

import aiseeme_jax
from aiseeme_jax import weights
from aiseeme_jax.errors import DiskError, UserError
from aiseeme_jax.evaluate import results
from aiseeme_jax.store import files, records

pytestmark = pytest.mark.usefixtures("tiny_in_the_table")


class TestText:
    def test_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "folder" / "record.json"
        records.write_text(path, "old")

        def full(_):
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            records.write_text(path, "new")
        assert path.read_text() == "old"
        monkeypatch.undo()
        records.write_text(path, "new")
        assert path.read_text() == "new" and [file.name for file in path.parent.iterdir()] == ["record.json"]

    def test_only_the_first_process_writes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        records.write_text(tmp_path / "a.json", "text")
        weights.save_backbone(tmp_path, narrow(), {})
        assert not list(tmp_path.iterdir())


WRITERS = {
    "text": ("record.json", lambda folder: records.write_text(folder / "record.json", "text")),
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
def test_a_file_is_synchronised_before_it_is_renamed_and_its_folder_after(kind, tmp_path, monkeypatch):
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
def test_a_file_that_cannot_be_synchronised_is_deleted(kind, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=f"{WRITERS[kind][0]} cannot be written: the disk is full"):
        WRITERS[kind][1](tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "passed"), [(errno.EINVAL, True), (errno.EBADF, False)])
def test_a_folder_must_be_synchronised_if_its_file_system_can_do_so(number, passed, tmp_path, monkeypatch):
    def fsync(file):
        if Path(os.readlink(f"/proc/self/fd/{file}")).is_dir():
            raise OSError(number, "told so")

    monkeypatch.setattr(os, "fsync", fsync)
    with contextlib.nullcontext() if passed else pytest.raises(OSError, match="told so"):
        records.write_text(tmp_path / "record.json", "text")
    assert (tmp_path / "record.json").read_text() == "text"


def test_a_folder_that_belongs_to_somebody_else_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="file cannot be used: there is a file where a folder belongs"):
        records.write_json(tmp_path / "file" / "record.json", {})


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "record.json").mkdir()
    with pytest.raises(DiskError, match="record.json cannot be used: there is a folder where a file belongs"):
        records.write_json(tmp_path / "record.json", {})


def test_leftovers_of_killed_processes_are_deleted(tmp_path):
    for name in (f".record.json.{32 * 'a'}.part", f".views.png.{32 * '0'}.part", ".hidden", "record.json", "1.part"):
        (tmp_path / name).touch()
    (tmp_path / f".probe.{32 * 'b'}.part" / "folder").mkdir(parents=True)
    files.delete_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "1.part", "record.json"]


def test_an_unfinished_file_counts_as_a_leftover(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.write_whole(tmp_path / "record.json") as beside:
        beside.touch()
        assert files.LEFT_OVER.fullmatch(beside.name)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_two_processes_of_one_number_do_not_meet(tmp_path, monkeypatch):
    """As in two containers that share a disk."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with files.write_whole(tmp_path / "a") as one, files.write_whole(tmp_path / "a") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a").read_text() == "one"


def test_files_that_a_library_gives_to_its_owner_alone_follow_the_umask(tmp_path):
    records.write_text(tmp_path / "plain", "text")
    weights.save_backbone(tmp_path, narrow(), {})
    modes = {(tmp_path / name).stat().st_mode for name in ("plain", "backbone.safetensors")}
    assert len(modes) == 1


class Wrapped(Exception):
    """The error of a library that hides that of the system."""


def wrap(error):
    """As clu and orbax raise again what happened in one of their threads."""
    outer = Wrapped("a thread failed")
    outer.__cause__ = Wrapped("the thread says so")
    outer.__cause__.__context__ = error
    return outer


class TestDiskErrors:
    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (OSError(errno.ENOSPC, "full"), "PLACE cannot be written: the disk is full. Of the .* are free"),
            (OSError(errno.EDQUOT, "full"), "PLACE cannot be written: a quota on this disk is used up"),
            (OSError(errno.EROFS, "no", "/other"), "/other cannot be written: the disk is read-only"),
            (PermissionError(errno.EACCES, "no", "/other"), "/other cannot be used: this user has no right"),
            (IsADirectoryError(errno.EISDIR, "no", "/other"), "/other cannot be used: there is a folder where a file"),
            (OSError(errno.EIO, "no"), "PLACE cannot be used: the disk fails"),
            (ValueError('RESOURCE_EXHAUSTED: "/a/b": No space left on device'), "PLACE cannot be written: the disk is"),
            (RuntimeError("IoError(Os { code: 30, message: Read-only file system })"), "the disk is read-only"),
        ],
    )
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_are_told_whoever_raises_them(self, error, message, wrapped, tmp_path):
        place = tmp_path / "absent" / "file"
        with pytest.raises(DiskError, match=message.replace("PLACE", str(place))) as told:
            with files.explain_disk_errors(place):
                raise wrap(error) if wrapped else error
        assert "the same command then goes on" in str(told.value)

    @pytest.mark.parametrize(
        "error",
        [FileNotFoundError(errno.ENOENT, "no", "x"), ValueError("x"), KeyboardInterrupt(), UserError("read me")],
    )
    def test_others_pass(self, error, tmp_path):
        with pytest.raises(type(error)) as raised, files.explain_disk_errors(tmp_path):
            raise error
        assert raised.value is error

    def test_a_full_disk_is_told_with_its_place_and_figures(self, small_disk):  # noqa: F811
        path = small_disk.path / "folder" / "weights.safetensors"
        with pytest.raises(DiskError) as told:
            weights.tensors.write_safetensors(path, {"w": np.ones(100_000, np.float32)})
        assert f"{path} cannot be written: the disk is full" in str(told.value)
        assert f"Of the 65.5 kB at {small_disk.path}, " in str(told.value)
        assert "are free, and 400.0 kB were wanted" in str(told.value)
        assert not list(path.parent.iterdir())

    def test_a_disk_without_room_for_another_file_is_told(self, small_disk):  # noqa: F811
        small_disk.change("size=1m", "nr_inodes=2")
        records.write_text(small_disk.path / "one", "text")
        with pytest.raises(DiskError, match="but it can hold no more files"):
            records.write_text(small_disk.path / "two", "text")

    def test_a_disk_that_became_read_only_is_told(self, small_disk):  # noqa: F811
        small_disk.change("ro")
        with pytest.raises(DiskError, match=f"read-only: make it writable \\({small_disk.path}\\)"):
            records.write_text(small_disk.path / "file", "text")


class TestPaths:
    @pytest.mark.parametrize("path", ["gs://bucket/run", Path("gs://bucket/run"), "s3://x", "hdfs://host:1/x"])
    def test_addresses_are_refused(self, path):
        with pytest.raises(UserError, match="--workdir: .* is an address in a network"):
            files.check_folder(path, "--workdir")

    @pytest.mark.parametrize("path", ["", "runs/a:b", "/tmp/x", "a:/b", "gs:"])
    def test_other_names_are_not(self, path):
        files.check_folder(path, "--workdir")

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="runtime.store: there is a file at .*file', where a folder belongs"):
            files.check_folder(tmp_path / "file", "runtime.store")


class TestRecords:
    def test_come_back_without_their_checksum(self, tmp_path):
        records.write_json(tmp_path / "a.json", {"steps": 3, "teachers": {"x": [1.5, None]}})
        found = records.read_json(tmp_path / "a.json", remedy="")
        assert found == {"steps": 3, "teachers": {"x": [1.5, None]}}
        assert {**found, "checksum": json.loads((tmp_path / "a.json").read_text())["checksum"]} == json.loads(
            (tmp_path / "a.json").read_text()
        )

    def test_an_edited_file_is_an_error_with_the_remedy(self, tmp_path):
        records.write_json(tmp_path / "a.json", {"steps": 3})
        (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text().replace("3", "4", 1))
        with pytest.raises(UserError, match="a.json is damaged .*edited.*; pull the plug"):
            records.read_json(tmp_path / "a.json", remedy="pull the plug")

    def test_a_folder_in_the_place_of_a_record_is_told(self, tmp_path):
        with pytest.raises(DiskError, match=f"{tmp_path} cannot be used: there is a folder where a file belongs"):
            records.read_json(tmp_path, remedy="")

    def test_differences_are_described_by_name(self):
        one, other = {"a": {"b": 1, "c": "f" * 64}, "d": 2}, {"a": {"b": 3, "c": "e" * 64}, "e": 4}
        assert records.describe_differences(one, one) == ""
        told = "b 1 -> 3, c ffffffffffff -> eeeeeeeeeeee, d 2 -> (none), e (none) -> 4"
        assert records.describe_differences(one, other) == told
