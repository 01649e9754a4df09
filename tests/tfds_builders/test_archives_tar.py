"""Tar archives: read once and in their own order, a unit of work each; cut, climbing and linked ones are refused."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from chest_sets import write_tar

from tfds_builders.common.archives import Archive, find_archive
from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.records import Place, Record
from tfds_builders.common.scan import Scanner

# Noise, so that gzip has nothing to shorten.
DATA = {f"images/{name}.png": np.random.default_rng(i).bytes(3000) for i, name in enumerate("dbca")}


@pytest.fixture
def tar(tmp_path) -> Path:
    path = tmp_path / "images_001.tar.gz"
    write_tar(path, {**DATA, "images/readme.txt": b"x", "images/._a.png": b"x"})
    return path


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz"])
def test_only_images_are_members_whatever_the_suffix(tar, tmp_path, suffix):
    path = tmp_path / f"other.{suffix}"
    path.write_bytes(tar.read_bytes())
    assert find_archive(tmp_path, "other") == path
    archive = Archive(path, (".png",))
    assert archive.sequential and archive.members == {name: f"images/{name}.png" for name in "dbca"}


def test_stream_is_in_the_archives_own_order(tar):
    archive = Archive(tar, (".png",))
    assert list(archive.stream(["a", "b", "d"])) == [(name, DATA[f"images/{name}.png"]) for name in "dba"]
    assert archive.read("c") == DATA["images/c.png"]


def test_names_by_path_drop_the_archives_own_folder(tmp_path):
    write_tar(tmp_path / "small.tar.gz", {"small/p1/x.png": b"1", "small/p2/x.png": b"2", "other/x.png": b"3"})
    archive = Archive(tmp_path / "small.tar.gz", (".png",), by_path=True)
    assert dict(archive.stream(archive.members)) == {"p1/x.png": b"1", "p2/x.png": b"2", "other/x.png": b"3"}


def test_a_worker_opens_it_again(tar):
    archive = pickle.loads(pickle.dumps(Archive(tar, (".png",))))
    assert dict(archive.stream("bd")) == {name: DATA[f"images/{name}.png"] for name in "bd"}


def test_a_stream_holds_one_image_at_a_time(tar, monkeypatch):
    """What is handed out is read only when it is asked for, so memory does not grow with the archive."""
    read = []
    whole = tarfile.TarFile.extractfile
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda self, item: read.append(item.name) or whole(self, item))
    stream = Archive(tar, (".png",)).stream("abcd")
    for number, name in enumerate("dbca", 1):
        assert next(stream)[0] == name and len(read) == number


def test_a_tar_file_is_one_unit_of_work(tar, tmp_path):
    for name in "dbca":
        (tmp_path / "more" / f"{name}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "more" / f"{name}.png").write_bytes(b"x")
    archives = {"tar": Archive(tar, (".png",)), "folder": Archive(tmp_path / "more", (".png",))}
    places = [Place(key, name) for name in "abcd" for key in archives]
    records = {number: Record(f"{place}", "g", place) for number, place in enumerate(places)}
    scanner = Scanner(archives, 64, 1, True)
    units = scanner.units(records)
    assert [[position for position, _ in unit] for unit in units] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [record.image.name for _, record, _ in scanner.stream(units[0])] == list("dbca")


@pytest.mark.parametrize("keep", [0.2, 0.7, 0.99])
def test_a_cut_file_is_named_at_once(tar, keep):
    tar.write_bytes(tar.read_bytes()[: int(tar.stat().st_size * keep)])
    with pytest.raises(ValueError, match="images_001.tar.gz is not a whole tar file .*download it again"):
        Archive(tar, (".png",))


def test_what_is_damaged_after_listing_is_an_error_of_each_image(tar):
    archive = Archive(tar, (".png",))
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    found = dict(archive.stream("abcd"))
    assert found["d"] == DATA["images/d.png"] and found.keys() == set("abcd")
    assert isinstance(found["a"], DamagedInput)
    with pytest.raises(DamagedInput, match="images/a.png cannot be read .*download the archive again"):
        raise found["a"]


def test_no_tar_file_at_all(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(ValueError, match="a.tar.gz is not a whole tar file"):
        Archive(tmp_path / "a.tar.gz", (".png",))


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/x.png", "C:\\x.png"])
def test_members_that_climb_out_are_refused(tmp_path, name):
    write_tar(tmp_path / "a.tar", {name: b"x"})
    with pytest.raises(ValueError, match="points out of the archive"):
        Archive(tmp_path / "a.tar", (".png",))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(tmp_path, kind):
    link = tarfile.TarInfo("images/x.png")
    link.type, link.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.addfile(link, io.BytesIO())
    with pytest.raises(ValueError, match="is a link"):
        Archive(tmp_path / "a.tar.gz", (".png",))


def test_an_image_twice_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar.gz", {"a/x.png": b"1", "b/x.png": b"2"})
    with pytest.raises(ValueError, match="holds x twice"):
        Archive(tmp_path / "a.tar.gz", (".png",))
