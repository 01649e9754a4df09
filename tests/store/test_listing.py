"""What lies in a store, and what the command `store` deletes of it."""

import pytest

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.jobs import store_command
from aiseeme_jax.store import workdirs
from aiseeme_jax.store.artifacts import FISHER, MAPS, MEASUREMENTS, STAGES, Artifact, Store
from aiseeme_jax.store.claims import claim
from aiseeme_jax.store.listing import list_store

FIRST, SECOND, OLD = (Artifact(STAGES, f"0{n}-rotation", {"number": n}) for n in range(3))
MEASURED = Artifact(MEASUREMENTS, "knn-100pct-seed0", {"number": 3})
OF_FIRST, OF_OLD = (Artifact(FISHER, stage.label, {"stage": stage.key}) for stage in (FIRST, OLD))


def finish(store, artifact, **made_from):
    folder = store.begin(artifact)
    (folder / "weights").write_bytes(bytes(1000))
    store.finish(artifact, {"made_from": {name: {"key": made.key, "hash": ""} for name, made in made_from.items()}})
    return folder


def leave_plan(workdir, *stages, measurements=(), store="."):
    entries = tuple(workdirs.StageEntry(stage.label, "rotation", 1, stage.key) for stage in stages)
    measured = tuple(workdirs.MeasurementEntry(one.label, "knn", 1.0, 0, one.key) for one in measurements)
    workdirs.write_plan(workdir, workdirs.WorkdirPlan(store, (workdirs.ArmEntry("curriculum", entries, measured),)))


@pytest.fixture
def workdir(tmp_path):
    """Of two stages, one not finished, a measurement, Fisher information, and leavings of another config."""
    store = Store(tmp_path / "run")
    for artifact in (FIRST, OLD, MEASURED):
        finish(store, artifact)
    finish(store, OF_FIRST, stage=FIRST)
    finish(store, OF_OLD, stage=OLD)
    store.begin(SECOND)
    leave_plan(tmp_path / "run", FIRST, SECOND, measurements=(MEASURED,))
    return tmp_path / "run"


def test_what_a_wanted_measurement_needs_is_wanted(workdir):
    baseline = Artifact(MEASUREMENTS, "finetune+none-100pct-seed0", {"number": 4})
    finish(Store(workdir), baseline)
    states = lambda: {entry.directory.name: entry.wanted for entry in list_store([workdir])}  # noqa: E731
    assert not states()[baseline.name]
    entry = workdirs.MeasurementEntry(MEASURED.label, "finetune", 1.0, 0, MEASURED.key, (baseline.key,))
    workdirs.write_plan(workdir, workdirs.WorkdirPlan(".", (workdirs.ArmEntry("curriculum", (), (entry,)),)))
    assert states()[baseline.name] and states()[MEASURED.name] and not states()[OLD.name]


def names(workdir):
    return {folder.name for folder in Store(workdir).folders()}


def test_every_artifact_is_listed_with_its_state_and_whether_it_is_wanted(workdir):
    found = {entry.directory.name: (entry.state, entry.wanted) for entry in list_store([workdir])}
    assert found == {
        FIRST.name: ("finished", True),
        SECOND.name: ("not finished", True),
        OLD.name: ("finished", False),
        MEASURED.name: ("finished", True),
        OF_FIRST.name: ("finished", True),
        OF_OLD.name: ("finished", False),
    }
    assert all(entry.bytes > 1000 for entry in list_store([workdir]) if entry.state == "finished")


def test_a_damaged_record_does_not_hide_the_rest(workdir):
    (workdir / STAGES / OLD.name / "record.json").write_text("{")
    states = {entry.directory.name: entry.state for entry in list_store([workdir])}
    assert states[OLD.name] == "damaged" and len(states) == 6


def test_the_list_as_it_is_printed(workdir, capsys):
    store_command.main(["list", str(workdir)])
    said = capsys.readouterr().out
    assert f"stages/{OLD.name}" in said and "finished, not wanted by the present config" in said
    assert said.splitlines()[-1].startswith("6 artifacts, ") and "; 2 not wanted, " in said


class TestPrune:
    def test_keeps_what_the_last_use_of_each_command_asked_for(self, workdir):
        store = Store(workdir)
        first, second = (Artifact(MAPS, f"eigen_cam-stage{n}", {"stage": n}) for n in (1, 2))
        for artifact in (first, second):
            finish(store, artifact)
        workdirs.write_request(workdir, "attention", [first, second])
        workdirs.write_request(workdir, "another", [OLD])
        workdirs.write_request(workdir, "attention", [second])
        store_command.main(["prune", "--yes", str(workdir)])
        assert {OLD.name, second.name} <= names(workdir) and first.name not in names(workdir)
        (workdir / "requests" / "attention.json").write_text("{")
        with pytest.raises(UserError, match="attention.json is damaged .*; delete it: the command of its name"):
            store_command.main(["prune", "--yes", str(workdir)])

    def test_deletes_what_nothing_asks_for_after_a_question(self, workdir, capsys, monkeypatch):
        before = names(workdir)
        asked = []
        for answer in ("", "n", "y"):
            monkeypatch.setattr("builtins.input", lambda question, answer=answer: asked.append(question) or answer)
            assert names(workdir) == before
            store_command.main(["prune", str(workdir)])
        assert names(workdir) == before - {OLD.name, OF_OLD.name}
        assert asked[0].startswith("Delete 2 artifacts that the present config does not ask for, ")
        said = capsys.readouterr().out
        assert said.count("nothing was deleted") == 2 and said.endswith("deleted 2\n")

    def test_has_nothing_to_ask_where_everything_is_wanted(self, workdir, capsys):
        store_command.main(["prune", "--yes", str(workdir)])
        store_command.main(["prune", str(workdir)])
        assert capsys.readouterr().out.endswith("nothing to delete\n")

    def test_leaves_what_somebody_is_making(self, workdir):
        with claim(workdir / STAGES / OLD.name):
            store_command.main(["prune", "--yes", str(workdir)])
            assert OLD.name in names(workdir) and OF_OLD.name not in names(workdir)

    def test_keeps_what_any_workdir_of_a_shared_store_asks_for(self, tmp_path):
        store = Store(tmp_path / "store")
        for artifact in (FIRST, OLD, MEASURED):
            finish(store, artifact)
        assert names(store.root) == {FIRST.name, OLD.name, MEASURED.name}
        leave_plan(tmp_path / "one", FIRST, store=str(store.root))
        leave_plan(tmp_path / "two", OLD, store=str(store.root))
        store_command.main(["prune", "--yes", str(tmp_path / "one")])
        assert names(store.root) == {FIRST.name, OLD.name}
        (tmp_path / "two" / "plan.json").unlink()
        with pytest.raises(
            UserError, match=f"cannot be found: {tmp_path}/two.*delete its entry: {store.root}/workdirs"
        ):
            store_command.main(["prune", "--yes", str(tmp_path / "one")])
        assert names(store.root) == {FIRST.name, OLD.name}

    def test_a_store_that_is_a_workdir_is_its_own_user(self, workdir, tmp_path):
        leave_plan(tmp_path / "second", OLD, store=str(workdir))
        store_command.main(["prune", "--yes", str(tmp_path / "second")])
        assert {FIRST.name, SECOND.name, MEASURED.name, OF_FIRST.name, OLD.name} <= names(workdir)

    def test_looks_again_after_the_answer(self, workdir, monkeypatch):
        def answer(question):
            leave_plan(workdir, FIRST, SECOND, OLD, measurements=(MEASURED,))
            return "y"

        monkeypatch.setattr("builtins.input", answer)
        before = names(workdir)
        store_command.main(["prune", str(workdir)])
        assert names(workdir) == before, "the plan asks for it now"

    def test_leaves_folders_that_are_no_artifacts(self, workdir):
        (workdir / STAGES / "my notes").mkdir()
        store_command.main(["prune", "--yes", str(workdir)])
        assert (workdir / STAGES / "my notes").exists()

    def test_says_what_to_do_where_nobody_can_answer(self, workdir, monkeypatch):
        def end(question):
            raise EOFError

        monkeypatch.setattr("builtins.input", end)
        with pytest.raises(UserError, match="nobody can answer here: --yes deletes without a question"):
            store_command.main(["prune", str(workdir)])

    def test_workdirs_of_different_stores_are_not_mixed(self, workdir, tmp_path):
        leave_plan(tmp_path / "other", OLD)
        with pytest.raises(UserError, match="these workdirs have different stores"):
            store_command.main(["prune", "--yes", str(workdir), str(tmp_path / "other")])

    def test_needs_a_workdir(self, tmp_path):
        with pytest.raises(MissingFile, match="is not the workdir of a run: it has no plan.json"):
            store_command.main(["prune", str(tmp_path)])


class TestRemove:
    def test_deletes_the_folders_that_are_named(self, workdir):
        store_command.main(["remove", "--yes", str(workdir / STAGES / FIRST.name)])
        assert FIRST.name not in names(workdir) and SECOND.name in names(workdir)

    def test_refuses_what_is_no_artifact(self, workdir, tmp_path):
        with pytest.raises(UserError, match="is not the folder of an artifact"):
            store_command.main(["remove", "--yes", str(workdir)])
        with pytest.raises(MissingFile, match="there is no folder"):
            store_command.main(["remove", "--yes", str(tmp_path / "absent")])

    def test_refuses_a_link_before_anything_is_deleted(self, workdir, tmp_path):
        folder = workdir / STAGES / FIRST.name
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=f"{FIRST.name} is a link: remove what it leads to"):
            store_command.main(["remove", "--yes", str(folder)])
        assert (folder / "record.json").exists()

    def test_a_folder_named_twice_is_deleted_once(self, workdir):
        folder = str(workdir / STAGES / FIRST.name)
        store_command.main(["remove", "--yes", folder, f"{folder}/"])
        assert FIRST.name not in names(workdir)

    def test_refuses_what_somebody_is_making(self, workdir):
        with claim(workdir / STAGES / FIRST.name), pytest.raises(UserError, match="is at work in .* stop it first"):
            store_command.main(["remove", "--yes", str(workdir / STAGES / FIRST.name)])


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3.4e6, "3.4 MB"), (999_960, "1.0 MB"), (5e12, "5.0 TB")],
)
def test_sizes_in_words(count, said):
    assert store_command.format_bytes(count) == said
