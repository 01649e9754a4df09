"""Numbers of the report by their definition, and what stands in which table."""

import dataclasses
import re

import numpy as np
import pytest
from report_runs import (
    ARMS,
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
    write_targets,
    write_two_arms,
    write_two_kinds,
)

from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import bootstrap, metrics
from aiseeme_jax.report import charts, names, tables
from aiseeme_jax.report.contents import read_contents
from aiseeme_jax.report.estimates import Estimates, Incomparable


@pytest.fixture(scope="module")
def estimates(workdir):
    return Estimates(read_contents(workdir))


def read_estimates(workdir):
    return Estimates(read_contents(workdir))


def by_definition(metric, runs):
    """Mean and interval over several seeds."""
    drawn = [bootstrap.draw(metric, p.labels, p.probs, groups=p.groups, **STATISTICS) for p in runs]
    ends = bootstrap.interval(drawn, STATISTICS["seed"])
    return np.mean([metric(p.labels, p.probs) for p in runs]), *ends


def ends_of(cell):
    return cell.value, cell.low, cell.high


class TestEstimates:
    def test_over_seeds_it_is_the_mean_with_the_interval_of_the_mean(self, estimates):
        cell = estimates.estimate("curriculum", "linear", 1.0, "auroc")
        runs = [make_predictions("curriculum", "linear", 1.0, seed) for seed in (0, 1)]
        np.testing.assert_allclose(ends_of(cell), by_definition(metrics.auroc, runs), rtol=1e-12)

    def test_of_one_seed_it_is_the_row_of_the_results(self, estimates):
        wanted = ("scratch", "knn", "auroc")
        row = next(row for row in estimates.contents.rows if (row.arm, row.target, row.metric) == wanted)
        assert ends_of(estimates.estimate("scratch", "knn", 1.0, "auroc")) == (row.value, row.low, row.high)

    def test_values_and_differences_over_seeds_are_made_in_one_way(self, tmp_path):
        """What is gained over an arm that is always wrong is all there is: both tables give one interval."""
        made = write_two_arms(tmp_path, seeds=(0, 1))
        for place, predictions in made.items():
            if place[0] == "scratch":
                wrong = np.float32(np.eye(3)[(predictions.labels + 1) % 3])
                write_measurement(tmp_path, place, dataclasses.replace(predictions, probs=wrong))
        estimates = read_estimates(tmp_path)
        cell = estimates.estimate("curriculum", "linear", 1.0, "balanced_accuracy")
        difference = estimates.estimate_difference("curriculum", "scratch", "linear")
        assert (difference.low, difference.high) == (cell.low, cell.high)
        assert difference.value == pytest.approx(cell.value, abs=1e-5)

    def test_seeds_of_different_test_images_have_a_mean_without_an_interval(self, tmp_path):
        made = write_two_arms(tmp_path, seeds=(0, 1))
        place = ("curriculum", "linear", 1.0, 1)
        write_measurement(tmp_path, place, dataclasses.replace(made[place], ids=[f"other-{i}" for i in range(80)]))
        cell = read_estimates(tmp_path).estimate("curriculum", "linear", 1.0, "auroc")
        assert cell.text.startswith("0.") and cell.interval == "[–]"

    def test_a_difference_is_over_the_seeds_that_both_arms_have(self, tmp_path):
        begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("linear", (1.0,), (0, 1))]})
        for arm, seeds in (("curriculum", (0, 1)), ("scratch", (1,))):
            for place in ((arm, "linear", 1.0, seed) for seed in seeds):
                write_measurement(tmp_path, place, make_predictions(*place))
        found = read_estimates(tmp_path).estimate_difference("curriculum", "scratch", "linear")
        first, second = (make_predictions(arm, "linear", 1.0, 1) for arm in ARMS[:2])
        expected = metrics.difference_ci(
            metrics.balanced_accuracy, first.labels, [first.probs], [second.probs], groups=first.groups, **STATISTICS
        )
        np.testing.assert_allclose(ends_of(found), expected, rtol=1e-12)

    def test_one_patient_has_values_without_intervals(self, tmp_path):
        write_two_arms(tmp_path, groups=["one"] * 80)
        assert not read_estimates(tmp_path).estimate_difference("curriculum", "scratch", "linear").bounded

    def test_numbers_have_three_decimals_and_a_real_minus(self, tmp_path):
        write_two_arms(tmp_path)
        cell = read_estimates(tmp_path).estimate_difference("scratch", "curriculum", "linear")
        assert re.fullmatch(r"−0\.\d{3}", cell.text) and re.fullmatch(r"\[−0\.\d{3} to −0\.\d{3}\]", cell.interval)


class TestFindings:
    """A target of findings is compared by its macro AUROC, and has no decisions."""

    @pytest.fixture
    def two_kinds(self, tmp_path):
        write_two_kinds(tmp_path)
        return read_estimates(tmp_path)

    def test_each_kind_of_labels_has_its_table_with_its_metrics(self, two_kinds):
        found = tables.tabulate_metrics(two_kinds, ("balanced_accuracy", "auroc", "average_precision"))
        assert [list(table.columns.values()) for table in found] == [["Linear probe"], ["kNN, cxr/64"]]
        titles = [[section.title for section in table.sections] for table in found]
        assert titles == [
            ["Balanced accuracy", "AUROC", "Average precision"],
            ["Macro AUROC", "Macro average precision"],
        ]
        cell = dict(found[1].sections[0].rows)["scratch"][0]
        predictions = make_findings("scratch", 1)
        assert cell.value == metrics.auroc(predictions.labels, predictions.probs) and cell.bounded
        further = tables.tabulate_metrics(two_kinds, ("macro_f1", "accuracy"))
        assert [list(table.columns) for table in further] == [["linear"]]

    def test_the_difference_from_scratch_is_that_of_the_macro_auroc(self, two_kinds):
        of_classes, of_findings = tables.tabulate_differences(two_kinds)
        assert [section.title for section in of_classes.sections] == ["Balanced accuracy"]
        assert [section.title for section in of_findings.sections] == ["Macro AUROC"]
        first, second = (make_findings(arm, 1) for arm in ARMS[:2])
        expected = metrics.difference_ci(
            metrics.auroc, first.labels, [first.probs], [second.probs], groups=first.groups, **STATISTICS
        )
        cell = dict(of_findings.sections[0].rows)["curriculum"][0]
        np.testing.assert_allclose(ends_of(cell), expected, rtol=1e-12)

    def test_fewer_labels_are_shown_by_the_macro_auroc(self, two_kinds):
        (section,) = tables.tabulate_fractions(two_kinds).sections
        assert section.title == "kNN, cxr/64: macro AUROC"
        tenth = make_findings("curriculum", 0)
        assert dict(section.rows)["curriculum"][0].value == metrics.auroc(tenth.labels, tenth.probs)
        ((title, chart),) = charts.draw_fractions(two_kinds)
        assert title == section.title and 'aria-label="kNN, cxr/64: macro AUROC over share of labels"' in chart

    def test_each_finding_says_how_many_patients_its_interval_rests_on(self, two_kinds):
        table = tables.tabulate_classes(two_kinds, FINDINGS)
        labels = make_findings("scratch").labels
        groups = np.array(make_findings("scratch").groups)
        rests_on = [min(len(set(groups[column == value])) for value in (0, 1)) for column in labels.T]
        assert list(table.columns.values()) == [
            f"{name} ({count})" for name, count in zip(("Edema", "Effusion", "Hernia"), rests_on, strict=True)
        ]
        assert rests_on[2] < bootstrap.MIN_GROUPS <= min(rests_on[:2])
        assert [section.title for section in table.sections] == ["AUROC", "Average precision"]
        for section in table.sections:
            assert [[cell.bounded for cell in cells] for _, cells in section.rows] == [[True, True, False]] * 2

    def test_a_target_of_classes_has_its_own_classes_alone(self, two_kinds):
        assert list(tables.tabulate_classes(two_kinds, "linear").columns) == ["MEL", "NV <i>", "BCC"]

    def test_there_is_no_confusion_of_findings(self, two_kinds):
        assert [entry["target"] for entry in tables.tabulate_confusions(two_kinds)] == ["linear"]

    def test_a_choice_says_by_which_metric_it_was_made(self, two_kinds):
        rows = tables.list_choices(two_kinds)
        assert {(row["target"], row["metric"], row["score"]) for row in rows} == {
            ("kNN, cxr/64", "Macro AUROC", "0.750")
        }

    def test_unknown_findings_are_equal_and_other_ones_are_not(self, tmp_path, two_kinds):
        assert two_kinds.have_same_images(two_kinds.contents.runs_of("curriculum", FINDINGS) * 2)
        place = ("scratch", FINDINGS, 1.0, 0)
        changed = make_findings("scratch", 1)
        known = np.nan_to_num(changed.labels, nan=0.0)
        write_measurement(tmp_path, place, dataclasses.replace(changed, labels=known))
        with pytest.raises(UserError, match="the same test images with different labels"):
            read_estimates(tmp_path).estimate_difference("curriculum", "scratch", FINDINGS)

    def test_a_metric_of_classes_is_none_of_theirs(self, two_kinds):
        with pytest.raises(Incomparable, match="there is no balanced_accuracy of labels of the kind 'findings'"):
            two_kinds.require_estimate("scratch", FINDINGS, 1.0, "balanced_accuracy")


def test_the_best_of_each_column_is_marked(estimates):
    (table,) = tables.tabulate_metrics(estimates, ["balanced_accuracy"])
    (section,) = table.sections
    assert [arm for arm, _ in section.rows] == list(ARMS), "curriculum first, then as configured"
    for column in range(len(TARGETS)):
        cells = [cells[column] for _, cells in section.rows]
        top = max(cell.value for cell in cells)
        assert [cell.best for cell in cells] == [cell.text == f"{top:.3f}" for cell in cells]


def test_a_share_of_the_labels_below_all_stands_in_the_heading(tmp_path):
    write_two_arms(tmp_path, fraction=0.1)
    (table,) = tables.tabulate_differences(read_estimates(tmp_path))
    assert list(table.columns.values()) == ["Linear probe (10 % of labels)"]


def test_each_class_says_how_many_groups_have_it(estimates):
    table = tables.tabulate_classes(estimates, "linear")
    assert list(table.columns.values()) == ["MEL (14)", "NV <i> (13)", "BCC (13)"]
    assert [section.title for section in table.sections] == [names.METRICS[name] for name in tables.PER_CLASS]


def test_a_class_of_few_lesions_is_shown_without_an_interval(tmp_path):
    made = write_two_arms(tmp_path, seeds=(0, 1))
    for place, drawn in made.items():
        groups = np.where(drawn.labels == 2, "lesion-2", drawn.groups)
        write_measurement(tmp_path, place, dataclasses.replace(drawn, groups=groups))
    table = tables.tabulate_classes(read_estimates(tmp_path), "linear")
    assert table.columns["BCC"] == "BCC (1)"
    for section in table.sections:
        for _, cells in section.rows:
            assert [cell.bounded for cell in cells] == [True, True, False]


def test_what_was_chosen_on_validation_and_whether_at_an_end(tmp_path):
    begin_run(tmp_path)
    write_targets(tmp_path, arms=["curriculum"])
    chosen = {
        ("knn", 1.0, 0): {"neighbours": 200},
        ("linear", 1.0, 0): {"strength": 0.1},
        ("linear", 0.1, 1): {"strength": 1.0},
        ("finetune", 1.0, 0): {"best_step": 600, "steps": 654},
        ("finetune", 0.1, 1): {"best_step": 654, "steps": 654},
    }
    for place, record in chosen.items():
        predictions = make_predictions("curriculum", *place)
        write_measurement(tmp_path, ("curriculum", *place), predictions, **record, validation_score=0.4321)
    rows = tables.list_choices(read_estimates(tmp_path))
    assert [(row["target"], row["labels"], row["choice"], row["note"]) for row in rows] == [
        ("kNN", "100 %", "k = 200", "the largest tried"),
        ("Linear probe", "10 %", "C = 1", "the largest tried"),
        ("Linear probe", "100 %", "C = 0.1", "the smallest tried"),
        ("Fine-tuning", "10 %", "step 654 of 654", "the last"),
        ("Fine-tuning", "100 %", "step 600 of 654", ""),
    ]
    assert {(row["metric"], row["score"]) for row in rows} == {("Balanced accuracy", "0.432")}


@pytest.mark.parametrize(
    "value, note", [(5, "the smallest tried"), (20, ""), (200, "the largest tried"), (150, "the largest tried")]
)
def test_all_rows_as_neighbours_are_the_largest_k(value, note):
    assert tables._describe_place(value, (5, 20, 200)) == note
    assert tables._describe_place(value, (value,)) == ""


def test_confusion_sums_the_seeds(estimates):
    found = tables.tabulate_confusions(estimates)
    assert [entry["target"] for entry in found] == ["finetune", "linear", "knn"]
    counts = sum(
        metrics.confusion(p.labels, p.probs) for p in (make_predictions("scratch", "linear", 1.0, s) for s in (0, 1))
    )
    matrix = found[1]["matrices"][1]
    assert matrix["arm"] == "scratch"
    expected = np.round(100 * counts / counts.sum(axis=1, keepdims=True)).astype(int)
    np.testing.assert_array_equal([row for _, row in matrix["rows"]], expected)


def test_fewer_labels_are_numbers_too(estimates):
    table = tables.tabulate_fractions(estimates)
    assert list(table.columns.values()) == ["10 % of the labels", "all labels"]
    titles = [section.title for section in table.sections]
    assert titles == ["Linear probe: balanced accuracy", "Fine-tuning: balanced accuracy"], "knn has one share"
    cell = dict(table.sections[0].rows)["scratch"][0]
    tenth = [make_predictions("scratch", "linear", 0.1, seed) for seed in (0, 1)]
    assert cell.value == pytest.approx(np.mean([metrics.balanced_accuracy(p.labels, p.probs) for p in tenth]))


def test_stages_show_their_length_speed_and_health(workdir):
    first, *_, last = tables.list_stages(read_contents(workdir))
    assert (first["arm"], first["task"], last["arm"]) == ("curriculum", "rotation", "single:simclr")
    assert (first["steps"], first["time"], first["speed"]) == ("500", "1 min 20 s", "1,234")
    assert (first["loss"], first["rank"], first["std"], first["state"]) == ("0.004", "12.5", "–", "")


def test_a_difference_needs_both_arms(tmp_path):
    begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("linear")]})
    place = ("curriculum", "linear", 1.0, 0)
    write_measurements(tmp_path, {place: make_predictions(*place)})
    assert tables.tabulate_differences(read_estimates(tmp_path)) == []


@pytest.mark.parametrize(
    "name, shown",
    [
        ("knn", "kNN"),
        ("knn:other/64", "kNN, other/64"),
        ("finetune:derm_phantom/demo", "Fine-tuning, derm_phantom/demo"),
    ],
)
def test_a_target_is_shown_in_words(name, shown):
    assert names.describe_target(name) == shown
