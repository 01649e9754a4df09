"""A workdir belongs to one config: begun, gone on with, refused under another, finished."""

import json
import logging

import pytest

from aiseeme_jax import experiment
from configs import base


def config():
    made = base.get_config()
    tasks = ("rotation", "moco_v2", "simclr")
    made.stages = tuple(base.stage(task, duration=base.duration(epochs=4)) for task in tasks)
    made.targets = (base.target("knn"),)
    return made


def test_new_workdir_gets_the_resolved_config_and_its_fingerprint(tmp_path):
    assert experiment.begin(config(), tmp_path / "run") is False
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["stages"][0]["task"] == "rotation" and written["model"]["width"] == 1.0
    assert written["fingerprint"] == experiment.fingerprint(written) and len(written["fingerprint"]) == 64


def test_same_config_goes_on_and_a_finished_run_says_so(tmp_path, caplog):
    experiment.begin(config(), tmp_path)
    assert experiment.begin(config(), tmp_path) is False
    experiment.finish(tmp_path)
    with caplog.at_level(logging.INFO, logger="aiseeme_jax"):
        assert experiment.begin(config(), tmp_path) is True
    assert "is complete: nothing to do" in caplog.text and "report.html" in caplog.text


def test_changed_config_is_refused_with_every_field_and_both_values(tmp_path):
    experiment.begin(config(), tmp_path)
    before = (tmp_path / "config.json").read_text()
    changed = config()
    changed.seed = 7
    changed.stages[1].fields.temperature = 0.5
    changed.stages[0].duration.update({"epochs": None, "steps": 9})
    with pytest.raises(ValueError) as error:
        experiment.begin(changed, tmp_path)
    lines = str(error.value).splitlines()
    assert f"{tmp_path} was begun with another config" in lines[0]
    assert [line.strip() for line in lines[1:-1]] == [
        "seed: 0 -> 7",
        "stages[0].duration.epochs: 4.0 -> None",
        "stages[0].duration.steps: None -> 9",
        "stages[1].fields.temperature: 0.2 -> 0.5",
    ]
    assert "another --workdir" in lines[-1]
    assert (tmp_path / "config.json").read_text() == before


def test_stage_more_or_less_is_a_changed_config(tmp_path):
    experiment.begin(config(), tmp_path)
    shorter = config()
    shorter.stages = shorter.stages[:-1]
    with pytest.raises(ValueError, match=r"stages\[2\].*-> \(absent\)[\s\S]*and \d+ more"):
        experiment.begin(shorter, tmp_path)


def test_where_and_how_may_change_under_a_workdir(tmp_path):
    experiment.begin(config(), tmp_path)
    moved = config()
    moved.runtime.update({"data_dir": "elsewhere", "workers": 3, "residence": "stream", "checkpoint_every": 1})
    experiment.begin(moved, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["runtime"]["workers"] == 3


def test_fingerprint_covers_what_decides_the_result():
    resolved = json.loads(config().to_json_best_effort())
    assert experiment.fingerprint(resolved) == experiment.fingerprint({**resolved, "runtime": {}, "fingerprint": "x"})
    assert experiment.fingerprint(resolved) != experiment.fingerprint({**resolved, "seed": 1})


def test_files_of_excluded_images_count_by_their_content(tmp_path):
    first, copy, other = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    for path, text in ((first, "ISIC_1\n"), (copy, "ISIC_1\n"), (other, "ISIC_2\n")):
        path.write_text(text)

    def excluding(*files):
        made = config()
        made.data.exclude = tuple(map(str, files))
        return made

    experiment.begin(excluding(first), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["exclude"] == [str(first)]
    experiment.begin(excluding(copy), tmp_path / "run")
    for changed in (excluding(other), excluding(), excluding(first, other)):
        with pytest.raises(ValueError, match="data.exclude_sha256: "):
            experiment.begin(changed, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="data.exclude: no file at 'absent.txt'"):
        experiment.begin(excluding("absent.txt"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_flat_names_are_those_of_the_command_line():
    nested = {"a": {"b": 1}, "c": [{"d": [1, 2]}, {"d": []}], "e": None}
    assert experiment.flatten(nested) == {"a.b": 1, "c[0].d": [1, 2], "c[1].d": [], "e": None}


class TestAlone:
    def test_a_second_run_is_kept_out_until_the_first_has_ended(self, tmp_path):
        with experiment.alone(tmp_path / "run"):
            with pytest.raises(ValueError, match="another run is at work in .*run: wait for it, or use another"):
                with experiment.alone(tmp_path / "run"):
                    pass
            (tmp_path / "run" / "config.json").write_text("{}")
        with experiment.alone(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / "config.json").exists()

    def test_a_run_that_never_began_leaves_no_folder(self, tmp_path):
        with pytest.raises(RuntimeError), experiment.alone(tmp_path / "run"):
            raise RuntimeError
        assert not (tmp_path / "run").exists()
