"""Folders of artifacts: found by key, whole or not finished, and never taken for another piece of work."""

import json

import pytest

from aiseeme_jax.errors import UserError
from aiseeme_jax.store import artifacts
from aiseeme_jax.store.artifacts import MEASUREMENTS, STAGES, Artifact, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


ROTATION = Artifact(STAGES, "00-rotation", {"seed": 0})


def finished(store, artifact=ROTATION, **record):
    store.begin(artifact)
    store.finish(artifact, {"made_from": {}, **record})
    return store.directory(artifact)


def test_the_name_of_a_folder_says_what_it_is_and_then_its_key(store):
    directory = finished(store)
    assert directory == store.root / "stages" / f"00-rotation-{ROTATION.key[:12]}"
    assert directory.name == ROTATION.name and len(ROTATION.key) == 64


def test_kind_and_content_make_the_key_and_the_label_does_not():
    assert Artifact(STAGES, "other", {"seed": 0}).key == ROTATION.key
    assert Artifact(STAGES, "00-rotation", {"seed": 1}).key != ROTATION.key
    assert Artifact(MEASUREMENTS, "00-rotation", {"seed": 0}).key != ROTATION.key


def test_an_artifact_is_found_under_any_label(store):
    directory = finished(store, Artifact(STAGES, "02-rotation", {"seed": 0}), steps=5)
    assert store.directory(ROTATION) == directory and store.record(ROTATION)["steps"] == 5


def test_it_is_not_finished_until_its_record_is_there(store):
    assert store.record(ROTATION) is None
    directory = store.begin(ROTATION)
    assert store.record(ROTATION) is None and json.loads((directory / "key.json").read_text())["content"] == {"seed": 0}
    store.finish(ROTATION, {"steps": 5})
    assert store.record(ROTATION)["steps"] == 5


def damage(path, how):
    text = path.read_text()
    damaged = {
        "half of it": text[: len(text) // 2],
        "a list": "[]",
        "a null": "null",
        "a text": '"x"',
        "a changed figure": text.replace('"steps": 5', '"steps": 6'),
        "nothing": "",
    }[how]
    assert damaged != text
    path.write_text(damaged)


@pytest.mark.parametrize("how", ["half of it", "a list", "a null", "a text", "a changed figure", "nothing"])
def test_a_damaged_record_is_named_with_the_command_that_removes_it(store, how):
    directory = finished(store, steps=5)
    damage(directory / "record.json", how)
    with pytest.raises(
        UserError, match=rf"{directory}/record.json is damaged .*`.* store remove {directory}` removes it"
    ):
        store.record(ROTATION)


def test_a_folder_with_another_piece_of_work_is_refused(store):
    directory, other = finished(store), finished(store, Artifact(STAGES, "01-simclr", {"seed": 1}))
    (directory / "record.json").write_bytes((other / "record.json").read_bytes())
    with pytest.raises(UserError, match="contains another piece of work than its name says"):
        store.record(ROTATION)


def test_a_record_of_another_format_is_named_as_such(store, monkeypatch):
    monkeypatch.setattr(artifacts, "FORMAT", 99)
    finished(store)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 99, and this version reads format 1"):
        store.record(ROTATION)


def test_a_removed_artifact_is_not_found(store):
    directory = finished(store)
    artifacts.remove(directory)
    assert store.record(ROTATION) is None and not directory.exists() and list(store.folders()) == []


class TestOlderVersions:
    @pytest.mark.parametrize("left", ["targets/curriculum", "arms/scratch", "before/1", "stages/00-rotation/done.json"])
    def test_a_workdir_is_refused_with_what_to_do(self, tmp_path, left):
        (tmp_path / left).mkdir(parents=True)
        with pytest.raises(UserError, match=r"was made by version 0.1 .* Use another --workdir.*--config.init="):
            artifacts.check_layout(tmp_path)

    def test_a_new_workdir_is_not_taken_for_an_old_one(self, store):
        finished(store)
        artifacts.check_layout(store.root)
        assert store.record(ROTATION) is not None
