"""Sorting on disk: TFDS's own order, its own check of keys, no handle left open and no file left behind."""

import os
import subprocess
import sys

import numpy as np
import pytest
from tensorflow_datasets.core import shuffle

from tfds_builders.common import sorting


def shuffled(folder, records, in_memory=None):
    shuffler = shuffle.Shuffler(folder, hash_salt="salt")
    for key, data in records.items():
        shuffler.add(key, data)
    assert shuffler._in_memory is (in_memory is None)
    return list(shuffler)


@pytest.fixture
def records():
    random = np.random.default_rng(0)
    return {f"image {number}": random.bytes(number % 50) for number in range(3000)}


def test_the_order_is_that_of_memory(tmp_path, records, monkeypatch):
    expected = shuffled(tmp_path, records)
    monkeypatch.setattr(sorting, "IN_MEMORY", 1000)
    with sorting.within_little_memory():
        assert shuffled(tmp_path, records, in_memory=1000) == expected
    assert sorted(data for _, data in expected) == sorted(records.values())
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc to count open files in")
def test_no_file_stays_open(tmp_path, records, monkeypatch):
    monkeypatch.setattr(sorting, "IN_MEMORY", 1000)
    before = len(os.listdir("/proc/self/fd"))
    with sorting.within_little_memory():
        shuffler = shuffle.Shuffler(tmp_path, hash_salt="salt")
        for key, data in records.items():
            shuffler.add(key, data)
        assert len(list(tmp_path.iterdir())) > 900
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_key_given_twice_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sorting, "IN_MEMORY", 1)
    with sorting.within_little_memory():
        shuffler = shuffle.Shuffler(tmp_path, hash_salt="salt")
        for data in (b"one", b"other"):
            shuffler.add("same", data)
        with pytest.raises(shuffle.DuplicatedKeysError):
            list(shuffler)


def test_tfds_has_its_own_values_back():
    before = shuffle.MAX_MEM_BUFFER_SIZE, shuffle._Bucket
    with pytest.raises(RuntimeError), sorting.within_little_memory():
        assert (shuffle.MAX_MEM_BUFFER_SIZE, shuffle._Bucket) == (sorting.IN_MEMORY, sorting.Bucket)
        raise RuntimeError
    assert (shuffle.MAX_MEM_BUFFER_SIZE, shuffle._Bucket) == before


@pytest.mark.slow
def test_tensorflow_is_not_imported(tmp_path):
    code = """
import sys
import tfds_builders
from tfds_builders.common import sorting
sorting.IN_MEMORY = 10_000
builder = tfds_builders.prepare("derm_phantom/tiny", data_dir=sys.argv[1])
assert builder.info.splits["train"].num_examples
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
