"""`python -m aiseeme_jax report`: the page of one run again, and one page for several."""

import dataclasses

import pytest
from report_runs import (
    ARMS,
    CONFIG,
    TASKS,
    TWO_ARMS,
    Page,
    begin_run,
    make_predictions,
    make_stages,
    make_target,
    without_script,
    words,
    write_measurement,
    write_stage,
    write_two_arms,
)

from aiseeme_jax import report
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.jobs import report_command
from aiseeme_jax.report import several
from aiseeme_jax.report.contents import read_contents
from aiseeme_jax.report.estimates import Estimates


@pytest.fixture
def two(tmp_path):
    """A run, and another of another network with the same test images, whose scratch is that of the first."""
    first, second = tmp_path / "first", tmp_path / "second"
    write_two_arms(first)
    write_two_arms(second)
    begin_run(
        second, {**TWO_ARMS, "model": {**CONFIG["model"], "name": "resnet50"}, "targets": [make_target("linear")]}
    )
    place = "curriculum", "linear", 1.0, 0
    write_measurement(second, place, make_predictions("single:rotation", *place[1:]))
    return first, second


def test_arms_stand_side_by_side_with_the_numbers_of_their_runs(two, capsys):
    report_command.main(list(map(str, two)))
    page = two[0] / "runs.html"
    assert capsys.readouterr().out.strip() == str(page) and not (two[1] / "runs.html").exists()
    text = words(page.read_text())
    assert "2 runs: first, second" in text and "first: resnet18 × 0.25, float32" in text
    assert "second: resnet50 × 0.25, float32" in text and "80 test images of 40 lesions" in text
    for folder in two:
        estimates = Estimates(read_contents(folder))
        for arm in ARMS[:2]:
            cell = estimates.estimate(arm, "linear", 1.0, "auroc")
            assert f"{folder.name}: {arm} {cell.text} {cell.interval}" in text
        difference = estimates.estimate_difference("curriculum", "scratch", "linear")
        after = text.partition("Difference from scratch")[2].partition("Confusion")[0]
        assert f"{folder.name}: curriculum {difference.text} {difference.interval}" in after
    assert "same network without pretraining in the same run" in text
    assert "Configuration of first" in text and "Configuration of second" in text
    assert Page(page.read_text()) and "http" not in without_script(page.read_text())


def test_costs_and_stages_are_those_of_each_run(tmp_path):
    folders = tmp_path / "a", tmp_path / "b"
    for folder, devices in zip(folders, (1, 3), strict=True):
        begin_run(folder, {**CONFIG, "stages": make_stages("rotation"), "targets": [make_target("knn")]})
        write_stage(folder, "curriculum", 0, TASKS[0], devices=devices)
        write_measurement(folder, ("curriculum", "knn", 1.0, 0), make_predictions("curriculum", "knn", 1.0, 0))
    contents = several.read_several(folders)
    assert [contents.pretraining_cost(f"{name}: curriculum").device_seconds for name in "ab"] == [80.0, 240.0]
    assert [stage.title for stage in contents.stages] == ["a: curriculum: rotation", "b: curriculum: rotation"]
    assert any(sentence.startswith("b: No results of kNN") for sentence in contents.missing)


def test_intervals_are_those_of_the_first_config(two):
    begin_run(two[1], {**TWO_ARMS, "statistics": {"samples": 60, "seed": 3}, "targets": [make_target("linear")]})
    contents = several.read_several(two)
    alone = Estimates(read_contents(two[0])).estimate("scratch", "linear", 1.0, "auroc")
    found = [Estimates(contents).estimate(f"{name}: scratch", "linear", 1.0, "auroc") for name in ("first", "second")]
    assert found == [alone, alone]


def test_targets_are_named_by_their_data_where_runs_have_several(tmp_path):
    for name in ("derm/64", "skin/64"):
        folder = tmp_path / name.partition("/")[0]
        write_two_arms(folder)
        config = {**TWO_ARMS, "data": {"name": name, "synthetic": False}, "targets": [make_target("linear")]}
        begin_run(folder, config)
    contents = several.read_several([tmp_path / "derm", tmp_path / "skin"])
    assert contents.targets == ["linear:derm/64", "linear:skin/64"] == contents.measured_targets()
    assert contents.data_of("linear:skin/64") == "skin/64"
    assert "skin/64: 80 test images of 40 lesions or patients, 3 classes" in words(report.render(contents))


def test_a_target_that_differs_between_runs_is_said_to(two):
    fields = make_target("linear") | {"strengths": [5.0]}
    begin_run(two[1], {**TWO_ARMS, "targets": [fields]})
    assert several.describe_differing_targets(several.read_several(two)) == [
        "Linear probe is not the same in first and in second: strengths [0.1, 1.0] -> [5.0]."
    ]


def test_the_arms_of_a_study_are_compared_with_scratch_of_their_seed(two):
    contents = several.read_several(two)
    studied = dataclasses.replace(contents.runs_shown["second"], config={**CONFIG, "job": "study"})
    contents.runs_shown["second"] = studied
    assert contents.reference_of("second: curriculum, seed 1") == "second: scratch, seed 1"
    assert contents.reference_of("first: curriculum, x") == "first: scratch"


def test_the_page_of_one_run_is_written_again(two, capsys):
    report_command.main([str(two[0])])
    assert capsys.readouterr().out.split() == [str(two[0] / "results.csv"), str(two[0] / "report.html")]
    assert (two[0] / "report.html").read_text() == report.render(read_contents(two[0]))


def test_workdirs_are_told_apart_by_the_end_of_their_paths(tmp_path):
    assert several.name_workdirs([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    assert several.name_workdirs([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


def test_what_has_no_place_on_one_page_is_named(two, tmp_path):
    first, second = map(str, two)
    with pytest.raises(UserError, match="named twice"):
        report_command.main([first, first])
    with pytest.raises(UserError, match="--out is for the page of several runs"):
        report_command.main([first, "--out", "x.html"])
    with pytest.raises(MissingFile, match="there is no workdir"):
        report_command.main([first, str(tmp_path / "none")])
    place = "curriculum", "linear", 1.0, 0
    other = dataclasses.replace(make_predictions(*place), ids=[f"j{i}" for i in range(80)])
    write_measurement(two[1], place, other)
    with pytest.raises(UserError, match="measured by linear on test images with different ids"):
        report_command.main([first, second])
    begin_run(two[1], {**TWO_ARMS, "job": "search"})
    for arguments, message in (([first, second], "a search, which measures no test"), ([second], "writes its page")):
        with pytest.raises(UserError, match=message):
            report_command.main(arguments)
