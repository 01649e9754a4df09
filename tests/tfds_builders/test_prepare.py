"""`prepare`, the command line and `tfds build`: whole or nothing, once, and readable without tensorflow."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from aiseeme_jax.data import prepared_directory
from tfds_builders import prepare
from tfds_builders.__main__ import main
from tfds_builders.checking import check
from tfds_builders.common import locking
from tfds_builders.common.disks import DiskError, explained
from tfds_builders.common.leftovers import claimed
from tfds_builders.preparing import make_builder, newest_version

ROOT = Path(__file__).resolve().parents[2]

READ_WITHOUT_TENSORFLOW = """
import sys
import numpy as np
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
assert builder.info.features["label"].names[0] == "MEL-like"
example = builder.as_data_source("train")[0]
assert example["image"].dtype == np.uint8 and example["image"].shape == (32, 32, 3)
assert "tensorflow" not in sys.modules
"""


def python(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


def test_importing_the_package_is_light():
    light = python("-c", "import sys, tfds_builders; assert 'tensorflow_datasets' not in sys.modules")
    assert light.returncode == 0, light.stderr


@pytest.mark.slow
def test_prepared_data_is_read_without_tensorflow(tmp_path):
    builder = prepare("derm_phantom/tiny", data_dir=tmp_path)
    result = python("-c", READ_WITHOUT_TENSORFLOW, builder.data_dir)
    assert result.returncode == 0, result.stderr


def test_second_call_does_nothing(tmp_path):
    files = sorted(Path(prepare("derm_phantom/tiny", data_dir=tmp_path).data_dir).iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    again = prepare("derm_phantom/tiny", data_dir=tmp_path)
    assert [file.stat().st_mtime_ns for file in sorted(Path(again.data_dir).iterdir())] == times
    assert any(".array_record" in file.name for file in files)


@pytest.mark.slow
def test_a_failure_half_way_leaves_what_was_there_and_nothing_more(tmp_path, monkeypatch):
    prepare("derm_phantom/tiny", data_dir=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    from tfds_builders.derm_phantom import derm_phantom_dataset_builder as module

    drawn = []

    def fail_later(*arguments):
        drawn.append(arguments)
        if len(drawn) > 20:
            raise OSError("disk on fire")
        return original(*arguments)

    original = module.photograph
    monkeypatch.setattr(module, "photograph", fail_later)
    with pytest.raises(OSError, match="disk on fire"):
        prepare("derm_phantom/demo", data_dir=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_termination_leaves_what_was_there_and_nothing_more(tmp_path, monkeypatch):
    prepare("derm_phantom/tiny", data_dir=tmp_path)
    before = sorted(tmp_path.rglob("*"))
    from tfds_builders.derm_phantom import derm_phantom_dataset_builder as module

    drawn = []

    def terminate_later(*arguments):
        drawn.append(arguments)
        if len(drawn) == 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    original = module.photograph
    monkeypatch.setattr(module, "photograph", terminate_later)
    with pytest.raises(SystemExit) as ended:
        prepare("derm_phantom/demo", data_dir=tmp_path)
    assert ended.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_preparation_left_is_no_data_set_and_goes_with_the_next(tmp_path):
    config = tmp_path / "derm_phantom" / "tiny"
    stale, written = config / "incomplete.AAAAAA_1.0.0", config / "incomplete.BBBBBB_1.0.0"
    for folder in (stale, written):
        (folder / "extracted").mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    assert newest_version("derm_phantom/tiny", tmp_path) is None
    with pytest.raises(FileNotFoundError, match="not prepared"):
        prepared_directory("derm_phantom/tiny", tmp_path)
    with pytest.raises(FileNotFoundError, match="not prepared"):
        check(["derm_phantom/tiny"], tmp_path)
    with claimed(written) as mine:
        assert mine
        prepare("derm_phantom/tiny", data_dir=tmp_path)
    assert {path.name for path in config.iterdir()} == {"1.0.0", written.name}
    assert prepared_directory("derm_phantom/tiny", tmp_path) == config / "1.0.0"
    assert newest_version("derm_phantom/tiny", tmp_path) == config / "1.0.0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("isic2020/64", r"unknown data set 'isic2020' \(did you mean isic20.*the known ones are aptos2019, .*luna16"),
        ("Image_Tabel", r"did you mean image_table\?"),
        ("zzz", "unknown data set 'zzz': the known ones are"),
        ("isic2019/65", "no config '65'.*isic2019/64"),
    ],
)
def test_unknown_names(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        prepare(name, data_dir=tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_of_damage_that_is_none(tmp_path, share):
    with pytest.raises(ValueError, match="max_damaged is .*a share from 0 to 1"):
        prepare("derm_phantom/tiny", data_dir=tmp_path, max_damaged=share)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    make_builder("isic2019/64", tmp_path / "data", download=False)
    assert not list((tmp_path / "temporary").iterdir())


HOLD = """
import sys, time
from tfds_builders.common.locking import hold
with hold(__import__("pathlib").Path(sys.argv[1]), "x"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_that_another_process_holds_is_waited_for_until_that_process_dies(tmp_path, caplog):
    lock = tmp_path / "deep" / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "held\n"
        waiting = threading.Timer(0.3, other.kill)
        waiting.start()
        with locking.hold(lock, "isic2019/64"):
            assert other.wait() == -signal.SIGKILL and lock.is_file()
    assert caplog.messages == [
        f"isic2019/64 is being prepared by process {other.pid} on {socket.gethostname()}; waiting until it is ready"
    ]
    assert not lock.exists()


def test_what_another_process_prepared_meanwhile_is_ready(tmp_path, monkeypatch):
    """The second call finds the lock taken, and when it gets it the data set is there: nothing is done again."""
    first = prepare("derm_phantom/tiny", data_dir=tmp_path / "first")
    second = make_builder("derm_phantom/tiny", tmp_path / "second", download=False)

    @contextlib.contextmanager
    def hold(path, name):
        shutil.copytree(tmp_path / "first", tmp_path / "second", dirs_exist_ok=True)
        yield

    monkeypatch.setattr(locking, "hold", hold)
    monkeypatch.setattr(type(second), "_split_generators", None)
    second.download_and_prepare()
    assert second.info.splits["train"].num_examples == first.info.splits["train"].num_examples


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (OSError(errno.ENOSPC, "No room"), "the disk /, on .*is full.*; the data set takes about 6 GB while"),
        (RuntimeError("write() failed: No space left on device; writing x"), "is full .*were free when.*Make room"),
        (OSError(errno.EROFS, "Read-only file system"), r"cannot be written to \(Read-only file system"),
    ],
)
def test_a_disk_that_cannot_be_written_to_is_told_as_what_it_is(tmp_path, monkeypatch, failure, message):
    from tfds_builders.common import disks
    from tfds_builders.derm_phantom import derm_phantom_dataset_builder as module

    def fail(*arguments):
        raise failure

    monkeypatch.setattr(module, "photograph", fail)
    monkeypatch.setattr(disks, "mount_of", lambda folder: Path("/"))
    builder = make_builder("derm_phantom/tiny", tmp_path, download=False)
    builder.wanted_bytes = lambda: 6_000_000_000
    with pytest.raises(DiskError, match=message + ".*same command then prepares") as error:
        builder.download_and_prepare()
    assert str(tmp_path) in str(error.value)


def test_other_failures_are_no_failure_of_the_disk(tmp_path):
    for failure in (OSError(errno.EACCES, "no", "/elsewhere/input.zip"), RuntimeError("x"), OSError(errno.EIO, "x")):
        with pytest.raises(type(failure)) as error, explained(tmp_path):
            raise failure
        assert error.value is failure
    with pytest.raises(DiskError, match="cannot be written to"), explained(tmp_path / "data"):
        raise OSError(errno.EACCES, "no", str(tmp_path))


@pytest.mark.slow
def test_command_line(tmp_path, capsys):
    assert main(["prepare", "derm_phantom/tiny", "--data_dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "train:" in shown and "NV-like" in shown and f"ready: {tmp_path}" in shown
    assert main(["prepare", "isic2019/64", "--data_dir", str(tmp_path), "--manual_dir", str(tmp_path / "no")]) == 1
    assert "error:" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["prepare", "derm_phantom/tiny"])


def test_ctrl_c_is_one_message(tmp_path, capsys, monkeypatch):
    def prepare(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[main.__module__], "prepare", prepare)
    assert main(["prepare", "derm_phantom/tiny", "--data_dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\ninterrupted: nothing half-written is left, and the same command begins anew\n"


def test_addresses_in_a_network_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "derm_phantom/tiny", "--data_dir", "gs://bucket/data"])
    assert "'gs://bucket/data' is an address in a network" in capsys.readouterr().err


TWO_WARNINGS = """
import logging, sys
from absl import logging as absl_logging
from tfds_builders import __main__, preparing
original = preparing.prepare

def prepare(*arguments, **options):
    absl_logging.warning("of a library")
    logging.getLogger("tfds_builders").warning("of ours")
    return original(*arguments, **options)

__main__.prepare = prepare
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_command_line_says_nothing_but_its_own(tmp_path):
    result = python("-c", TWO_WARNINGS, "prepare", "derm_phantom/tiny", "--data_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["train", "validation", "test", "ready"]
    assert result.stderr.count("\n") == 1 and "of ours" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["derm_phantom", "isic2019"])
def test_tfds_build(tmp_path, official, name):
    config = {"derm_phantom": "tiny", "isic2019": "64"}[name]
    command = Path(sys.executable).parent / "tfds"
    result = subprocess.run(
        [command, "build", f"tfds_builders/{name}", "--config", config, "--data_dir", tmp_path / "data",
         "--manual_dir", official.write()],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "data" / name / config / "1.0.0" / "prepare_report.json").is_file()
