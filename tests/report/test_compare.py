"""`python -m aiseeme_jax compare`: arms subtracted over the same images and seeds, and why a cell is empty."""

import dataclasses
import errno
import re
import sys

import numpy as np
import pytest
from report_runs import (
    ARMS,
    CONFIG,
    FINDINGS,
    STATISTICS,
    TARGETS,
    TWO_ARMS,
    begin_run,
    make_findings,
    make_predictions,
    make_target,
    write_measurement,
    write_measurements,
    write_stage,
    write_two_arms,
    write_two_kinds,
)

from aiseeme_jax import __main__ as commands
from aiseeme_jax import report
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate import metrics, results
from aiseeme_jax.report import compare


@pytest.fixture
def whole_lines(capsys):
    """Runs the command, and gives the cells of each line that it prints."""

    def run(*arguments):
        compare.main(list(map(str, arguments)))
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.fixture
def lines(whole_lines):
    """Those of `whole_lines` without what each arm cost."""
    return lambda *arguments: [row[:-4] if len(row) > 1 else row for row in whole_lines(*arguments)]


def by_definition(metric, arms, runs_of):
    """The text of a paired difference of two arms."""
    runs = [runs_of(arm) for arm in arms]
    probs = [[found.probs for found in several] for several in runs]
    first = runs[0][0]
    value, low, high = metrics.difference_ci(metric, first.labels, *probs, groups=first.groups, **STATISTICS)
    return f"{value:+.3f} [{low:+.3f} to {high:+.3f}]".replace("-", "−")


def test_arms_are_subtracted_over_the_same_images_and_seeds(workdir, lines):
    head, _, reference, *others = lines(workdir, "single:simclr", "single:*")
    assert head[1:3] == ["kNN: Balanced accuracy", "kNN: AUROC"] and len(head) == 1 + 2 * len(TARGETS)
    assert reference[0] == "single:simclr, as it is"
    assert [row[0] for row in others] == ["single:rotation", "single:moco_v2"]
    arms = ("single:moco_v2", "single:simclr")
    runs_of = lambda arm: [make_predictions(arm, "linear", 1.0, seed) for seed in (0, 1)]  # noqa: E731
    assert others[1][4] == by_definition(metrics.auroc, arms, runs_of)


def test_what_each_arm_cost_stands_beside_it(tmp_path, whole_lines):
    begin_run(tmp_path, {**CONFIG, "targets": [make_target("linear")], "baselines": ["scratch"]})
    for position, stage in enumerate(CONFIG["stages"]):
        write_stage(tmp_path, "curriculum", position, stage["task"], devices=2)
    for arm in ARMS[:2]:
        write_measurement(tmp_path, (arm, "linear", 1.0, 0), make_predictions(arm, "linear", 1.0, 0), seconds=20.0)
    head, _, reference, gain = whole_lines(tmp_path, "scratch")
    # The key of a made-up stage has no batch size.
    assert head[-4:] == ["images shown", "device time", "energy", "time of measuring"]
    assert reference[-4:] == ["0", "0 s", "0 Wh", "20 s"] and gain[-4:] == ["–", "8 min", "not measured", "20 s"]
    report.write_results(tmp_path)
    costs = {row.arm: [getattr(row, name) for name in results.COSTS] for row in results.read_rows(tmp_path)}
    np.testing.assert_equal(costs["scratch"], [0, 0, 0, 20, np.nan])
    np.testing.assert_equal(costs["curriculum"], [np.nan, 480, np.nan, 20, np.nan])


def test_all_others_are_compared_unless_told_otherwise(workdir, lines):
    assert [row[0] for row in lines(workdir, "scratch")[3:]] == [arm for arm in ARMS if arm != "scratch"]


def test_a_share_of_the_labels_can_be_asked_for(workdir, lines):
    head, _, reference, gain = lines(workdir, "scratch", "curriculum", "--fraction", "0.1")
    assert head[1:] == [
        f"{target} on 10 % of the labels: {metric}"
        for target in ("Linear probe", "Fine-tuning")
        for metric in ("Balanced accuracy", "AUROC")
    ], "knn was measured on all labels alone"
    runs_of = lambda arm: [make_predictions(arm, "finetune", 0.1, seed) for seed in (0, 1)]  # noqa: E731
    assert gain[3] == by_definition(metrics.balanced_accuracy, ARMS[:2], runs_of)
    with pytest.raises(UserError, match="no target was measured with --fraction 0.2: there are 0.1, 1$"):
        compare.main([str(workdir), "scratch", "--fraction", "0.2"])


def test_a_third_of_the_labels_is_asked_for_as_it_reads(tmp_path, lines):
    write_two_arms(tmp_path, fraction=1 / 3)
    head, _, *rows = lines(tmp_path, "scratch", "--fraction", "0.333333")
    assert "Linear probe on 33.3333 % of the labels: AUROC" in head
    assert len(rows) == 2 and not any("–" in row for row in rows)


def test_each_target_has_the_metrics_of_its_labels(tmp_path, lines):
    write_two_kinds(tmp_path)
    head, _, _, gain = lines(tmp_path, "scratch")
    assert head[1:] == [
        "Linear probe: Balanced accuracy",
        "Linear probe: AUROC",
        "kNN, cxr/64: Macro AUROC",
        "kNN, cxr/64: Macro average precision",
    ]
    runs_of = lambda arm: [make_findings(arm, 1)]  # noqa: E731
    assert gain[3] == by_definition(metrics.auroc, ARMS[:2], runs_of)
    assert gain[4] == by_definition(metrics.average_precision, ARMS[:2], runs_of)
    head, *_ = lines(tmp_path, "scratch", "--fraction", "0.1")
    assert head[1] == "kNN, cxr/64 on 10 % of the labels: Macro AUROC" and len(head) == 3


def test_other_order_of_rows_is_the_same_difference(tmp_path, lines):
    cells = []
    for name, order in (("as_is", np.arange(80)), ("shuffled", np.random.default_rng(0).permutation(80))):
        made = write_two_arms(tmp_path / name)
        place = ("scratch", "linear", 1.0, 0)
        rows = {key: np.asarray(getattr(made[place], key))[order] for key in ("labels", "probs", "ids", "groups")}
        write_measurement(tmp_path / name, place, dataclasses.replace(made[place], **rows))
        cells.append(lines(tmp_path / name, "scratch")[3][1:])
    assert cells[0] == cells[1] and "–" not in cells[0]


class TestEmptyCells:
    def test_what_is_undefined_is_one_cell_and_a_line_that_says_why(self, tmp_path, lines):
        write_two_arms(tmp_path, labels=np.zeros(80, np.int32))
        head, _, reference, gain, _, *notes = lines(tmp_path, "scratch")
        assert head[1:] == ["Linear probe: Balanced accuracy", "Linear probe: AUROC"]
        assert reference[1].startswith("0.") and gain[1].startswith("+0.")
        assert reference[2] == gain[2] == "–"
        reason = "Linear probe: auroc is undefined: the labels hold only class [0]"
        assert notes == [[f"{arm}, {reason}"] for arm in ("scratch", "curriculum")]

    def test_values_without_intervals_say_why(self, tmp_path, lines):
        write_two_arms(tmp_path, groups=["one"] * 80)
        *_, gain, _, first, second = lines(tmp_path, "scratch")
        assert re.fullmatch(r"\+0\.\d{3} \[–\]", gain[1])
        reason = "no interval [–], for there are too few lesions or patients"
        assert [first, second] == [[f"Linear probe: {name}: {reason}"] for name in ("Balanced accuracy", "AUROC")]

    def test_what_was_not_measured_is_said(self, tmp_path, lines):
        begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target(name) for name in TARGETS]})
        made = {(arm, "knn", 1.0, 0): make_predictions(arm, "knn", 1.0, 0) for arm in ARMS[:2]}
        made["curriculum", "linear", 1.0, 0] = make_predictions("curriculum", "linear", 1.0, 0)
        made["scratch", "finetune", 1.0, 0] = make_predictions("scratch", "finetune", 1.0, 0)
        other = make_predictions("curriculum", "finetune", 1.0, 0)
        ids = [f"other-{i}" for i in range(80)]
        made["curriculum", "finetune", 1.0, 0] = dataclasses.replace(other, ids=ids)
        write_measurements(tmp_path, made)
        _, _, reference, gain, _, *notes = lines(tmp_path, "scratch")
        assert reference[3] == gain[3] == gain[5] == "–" != gain[1]
        assert notes == [
            ["scratch, Linear probe: there are no results of scratch"],
            ["curriculum, Linear probe: there are no predictions of scratch"],
            ["curriculum, Fine-tuning: curriculum and scratch were measured on different test images"],
        ]

    def test_arms_without_a_seed_in_common(self, tmp_path, lines):
        begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("linear", (1.0,), (0, 1))]})
        places = [("curriculum", "linear", 1.0, 0), ("scratch", "linear", 1.0, 1)]
        write_measurements(tmp_path, {place: make_predictions(*place) for place in places})
        *_, gain, _, note = lines(tmp_path, "scratch")
        assert gain[1:] == ["–", "–"]
        assert note == ["curriculum, Linear probe: curriculum and scratch have no seed in common"]


class TestErrors:
    """What the user can mend is one message, and nothing is printed."""

    def test_nothing_measured(self, tmp_path):
        begin_run(tmp_path, CONFIG)
        with pytest.raises(UserError, match="^nothing has been measured yet$"):
            compare.main([str(tmp_path), "scratch"])

    @pytest.mark.parametrize("arguments", [["sim*"], ["scratch", "sim*"]])
    def test_an_unknown_arm_names_the_known_ones(self, workdir, arguments):
        with pytest.raises(UserError, match=re.escape(f"no arm 'sim*': there are {', '.join(ARMS)}")):
            compare.main([str(workdir), *arguments])

    @pytest.mark.parametrize("what", ["class_names", "labels", "groups"])
    def test_same_images_with_other_classes_labels_or_groups_name_both_folders(self, what, tmp_path):
        """Stored with another order of classes the same predictions once differed by 0.8."""
        stored = make_predictions("curriculum", "linear", 1.0, 0)
        changed = {"class_names": stored.class_names[::-1], "labels": 2 - stored.labels, "groups": stored.ids}
        changed = dataclasses.replace(stored, **{what: changed[what]})
        begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("linear")]})
        made = {("curriculum", "linear", 1.0, 0): stored, ("scratch", "linear", 1.0, 0): changed}
        folders = write_measurements(tmp_path, made).values()
        message = f"the same test images with different {what.replace('_', ' ')}"
        with pytest.raises(UserError, match=message) as raised:
            compare.main([str(tmp_path), "scratch"])
        assert all(str(folder) in str(raised.value) for folder in folders)
        with pytest.raises(UserError, match=message):
            report.write_report(tmp_path)

    def test_damaged_predictions(self, tmp_path):
        made = write_two_arms(tmp_path)
        damaged = write_measurement(tmp_path, ("scratch", "linear", 1.0, 0), next(iter(made.values())))
        (damaged / "predictions.npz").write_bytes(b"no archive")
        with pytest.raises(UserError, match=f"{damaged}/predictions.npz is damaged"):
            compare.main([str(tmp_path), "curriculum"])

    def test_no_workdir(self, tmp_path):
        with pytest.raises(MissingFile, match="there is no workdir at .*nowhere"):
            compare.main([str(tmp_path / "nowhere"), "scratch"])

    def test_the_command_prints_the_message_and_ends_with_code_2(self, tmp_path, capsys, monkeypatch):
        write_two_arms(tmp_path)
        monkeypatch.setattr(sys, "argv", ["aiseeme_jax", "compare", str(tmp_path), "none"])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert ended.value.code == 2
        printed = capsys.readouterr()
        assert printed.err == "error: no arm 'none': there are curriculum, scratch\n" and printed.out == ""

    @pytest.mark.parametrize(
        ("raised", "code", "message"),
        [
            (KeyboardInterrupt(), 130, "\ninterrupted\n"),
            (
                PermissionError(errno.EACCES, "no", "/a/record.json"),
                2,
                "error: /a/record.json cannot be used: this user",
            ),
        ],
    )
    def test_what_ends_the_command_is_one_message(self, raised, code, message, tmp_path, capsys, monkeypatch):
        def read(folder):
            raise raised

        monkeypatch.setattr(compare, "read_contents", read)
        monkeypatch.setattr(sys, "argv", ["aiseeme_jax", "compare", str(tmp_path), "scratch"])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert ended.value.code == code and capsys.readouterr().err.startswith(message)

    def test_addresses_in_a_network_are_refused(self, capsys, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["aiseeme_jax", "compare", "gs://bucket/run", "scratch"])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert ended.value.code == 2 and "'gs://bucket/run' is an address in a network" in capsys.readouterr().err


def test_a_bar_in_the_name_of_an_arm_begins_no_cell():
    assert compare._write_line("a|b", ["1"]) == "| a\\|b | 1 |"


def test_one_target_of_findings_is_enough(tmp_path, lines):
    begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target(FINDINGS)]})
    write_measurements(tmp_path, {(arm, FINDINGS, 1.0, 0): make_findings(arm) for arm in ARMS[:2]})
    head, _, reference, gain = lines(tmp_path, "scratch", "curr*")
    assert head[1] == "kNN, cxr/64: Macro AUROC" and gain[0] == "curriculum" and gain[1].startswith("+0.")


def test_runs_are_compared_with_each_other(tmp_path, lines):
    """Arms of two workdirs, paired on the same test images."""
    for name in ("first", "second"):
        write_two_arms(tmp_path / name)
    moved = write_two_arms(tmp_path / "second", seeds=(0,))
    arguments = ("first: curriculum", "second: *", "--with", tmp_path / "second")
    found = lines(tmp_path / "first", *arguments)
    assert [row[0] for row in found[2:]] == [
        "first: curriculum, as it is",
        "second: curriculum",
        "second: scratch",
    ]
    assert found[3][1] == "+0.000 [+0.000 to +0.000]", "the same predictions"
    runs_of = lambda arm: [moved[arm, "linear", 1.0, 0]]  # noqa: E731
    assert found[4][1] == by_definition(metrics.balanced_accuracy, ("scratch", "curriculum"), runs_of)


def test_a_narrow_terminal_gets_a_table_for_each_metric(workdir, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(compare.sys.stdout, "isatty", lambda: True, raising=False)
    compare.main([str(workdir), "scratch", "curriculum"])
    said = capsys.readouterr().out.splitlines()
    assert max(map(len, said)) <= 80 and not any("|" in line for line in said)
    assert said[0] == "kNN: Balanced accuracy" and said[1].startswith("  scratch, as it is  0.")
    assert said[2].startswith("  curriculum         +0.") and said[3:5] == ["", "kNN: AUROC"]
    monkeypatch.setenv("COLUMNS", "1000")
    compare.main([str(workdir), "scratch", "curriculum"])
    assert capsys.readouterr().out.startswith("| arm | ")
    assert compare._read_line(compare._write_line("a|b", ["c", "–"])) == ["a|b", "c", "–"]
