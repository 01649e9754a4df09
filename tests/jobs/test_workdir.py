"""A workdir has one config and one run at a time: begun, gone on with, finished."""

import json
import logging

import pytest

from aiseeme_jax.jobs import workdir as workdir_
from configs import base


def config():
    made = base.get_config()
    tasks = ("rotation", "moco_v2", "simclr")
    made.stages = tuple(base.stage(task, duration=base.duration(epochs=4)) for task in tasks)
    made.targets = (base.target("knn"),)
    return made


def test_new_workdir_gets_the_resolved_config_and_its_fingerprint(tmp_path):
    assert workdir_.begin(config(), tmp_path / "run") is False
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["stages"][0]["task"] == "rotation" and written["model"]["width"] == 1.0
    assert written["fingerprint"] == workdir_.fingerprint(written) and len(written["fingerprint"]) == 64


def test_same_config_goes_on_and_a_finished_run_says_so(tmp_path, caplog):
    workdir_.begin(config(), tmp_path)
    assert workdir_.begin(config(), tmp_path) is False
    workdir_.finish(tmp_path)
    with caplog.at_level(logging.INFO, logger="aiseeme_jax"):
        assert workdir_.begin(config(), tmp_path) is True
    assert "is complete: nothing to do" in caplog.text and "report.html" in caplog.text


@pytest.mark.parametrize("name", ["stages", "arms", "targets", "done.json"])
def test_results_without_a_config_belong_to_nobody(name, tmp_path):
    workdir_.check_unclaimed(tmp_path / "absent")
    workdir_.check_unclaimed(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"holds {name} but no config.json, .* restore config.json, or use another"):
        workdir_.check_unclaimed(tmp_path)


def test_fingerprint_covers_what_decides_the_result():
    resolved = json.loads(config().to_json_best_effort())
    assert workdir_.fingerprint(resolved) == workdir_.fingerprint({**resolved, "runtime": {}, "fingerprint": "x"})
    assert workdir_.fingerprint(resolved) != workdir_.fingerprint({**resolved, "seed": 1})


def test_differences_are_those_of_the_result():
    old, new = (workdir_.resolve(config()) for _ in range(2))
    new["runtime"]["workers"], new["seed"], new["targets"] = 3, 7, []
    found = workdir_.differences({**old, "fingerprint": "x"}, new)
    assert found["seed"] == (0, 7) and found["targets"] == ("(absent)", [])
    assert found["targets[0].protocol"] == ("knn", "(absent)")
    assert not [path for path in found if path.startswith("runtime") or path == "fingerprint"]


def test_a_path_is_within_a_field_and_those_above_it():
    assert workdir_.is_within("stages[1].fields.hidden", ["stages[1]"])
    assert workdir_.is_within("stages[1].task", ["stages"]) and workdir_.is_within("seed", ["a", "seed"])
    assert not workdir_.is_within("stages[10].task", ["stages[1]"])
    assert not workdir_.is_within("data.exclude_sha256", ["data.exclude"])


def test_what_is_set_aside_lies_beside_its_config_by_number(tmp_path):
    workdir_.begin(config(), tmp_path)
    workdir_.finish(tmp_path)
    for number in ("1", "2"):
        stage = tmp_path / "stages" / "00-rotation"
        stage.mkdir(parents=True)
        (stage / "metrics.jsonl").write_text(number)
        assert workdir_.set_aside(tmp_path, [stage]) == tmp_path / "before" / number
        assert not stage.exists() and not (tmp_path / "done.json").exists()
        assert (tmp_path / "before" / number / "stages/00-rotation/metrics.jsonl").read_text() == number
        assert (tmp_path / "before" / number / "config.json").exists()


def test_flat_names_are_those_of_the_command_line():
    nested = {"a": {"b": 1}, "c": [{"d": [1, 2]}, {"d": []}], "e": None}
    assert workdir_.flatten(nested) == {"a.b": 1, "c[0].d": [1, 2], "c[1].d": [], "e": None}


class TestAlone:
    def test_a_second_run_is_kept_out_until_the_first_has_ended(self, tmp_path):
        with workdir_.alone(tmp_path / "run"):
            with pytest.raises(ValueError, match="another run is at work in .*run: wait for it, or use another"):
                with workdir_.alone(tmp_path / "run"):
                    pass
            (tmp_path / "run" / "config.json").write_text("{}")
        with workdir_.alone(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / "config.json").exists()

    def test_a_workdir_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="the workdir .*file cannot be made or written to: File exists"):
            with workdir_.alone(tmp_path / "file"):
                pass

    def test_a_run_that_never_began_leaves_no_folder(self, tmp_path):
        with pytest.raises(RuntimeError), workdir_.alone(tmp_path / "run"):
            raise RuntimeError
        assert not (tmp_path / "run").exists()
