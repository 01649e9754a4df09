"""The page says what was measured, escapes it, reads nothing from the network, and fits a narrow screen."""

import base64
import dataclasses
import re

import numpy as np
import pytest
from report_runs import (
    ARMS,
    CONFIG,
    FINDINGS,
    PNG,
    STATISTICS,
    TASKS,
    TWO_ARMS,
    Page,
    begin_run,
    make_findings,
    make_overlaps,
    make_predictions,
    make_stages,
    make_target,
    without_script,
    words,
    write_measurement,
    write_stage,
    write_targets,
    write_two_arms,
    write_two_kinds,
)

from aiseeme_jax import pretext, report
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import masks, metrics
from aiseeme_jax.pretext.momentum_contrast import MomentumContrast
from aiseeme_jax.report import charts, names, summary, tables
from aiseeme_jax.report.contents import read_contents
from aiseeme_jax.report.estimates import Cell, Estimates
from aiseeme_jax.report.measures.arms import collect_arms


def read_facts(workdir):
    return summary.list_facts(Estimates(read_contents(workdir)))


def test_the_page_is_whole_and_reads_nothing_from_the_network(page):
    parsed = Page(page)
    for tag, name, value in parsed.attributes:
        if name in ("src", "href", "srcset", "data", "action", "poster"):
            assert value.startswith("data:"), (tag, name, value)
    assert not re.search(r"<script|<link|<iframe|@import|url\(|https?://", without_script(page))


def test_text_is_escaped(page):
    assert "A &lt;b&gt;bold&lt;/b&gt; &amp; wild study" in page and "<b>bold</b>" not in page
    assert "NV &lt;i&gt;" in page and "NV <i>" not in page


def test_every_part_is_there(page):
    text = words(page)
    for part in (
        "synthetic",
        "80 test images of 40 lesions or patients, 3 classes",
        "rotation → moco_v2 → simclr",
        "Results on the test split",
        "Difference from scratch",
        "Fewer labels",
        "Confusion",
        "Pretraining",
        "Loss",
        "Views of each task",
        "1 min 20 s",
        "1,234",
        "Further metrics",
        "Linear probe: each class",
        "Start (UTC)2030-01-02 03:04:05Wall time1 min 20 sEnergy2 WhOutcomestopped",
        "Wall time–Energynot measuredOutcomehas not ended, or was killed",
        "Devices2 × abacus on node1Versionsjax 1.2.3Commit0123abc-changedCommandlaunch.py --config=<own>",
    ):
        assert part in text
    assert "This run is not complete" not in text and "classes occur" not in text
    assert page.count(base64.b64encode(PNG).decode()) == 5
    labels = [value for tag, name, value in Page(page).attributes if (tag, name) == ("svg", "aria-label")]
    assert len([x for x in labels if x.startswith("Loss of")]) == 5
    over_labels = [x for x in labels if x.endswith("balanced accuracy over share of labels")]
    assert len(over_labels) == 2, "knn has one share of the labels"
    assert "&#34;samples&#34;: 50" in page, "the config"


def test_numbers_of_the_tables_are_on_the_page(workdir, page):
    estimates, text = Estimates(read_contents(workdir)), words(page)
    cell = estimates.estimate("curriculum", "linear", 1.0, "auroc")
    assert f"{cell.text} {cell.interval}" in text
    tenth = estimates.estimate("scratch", "linear", 0.1, "balanced_accuracy")
    after = text.partition("Fewer labels")[2].partition("Confusion")[0]
    assert f"{tenth.text} {tenth.interval}" in after and "all labels" in after
    (table,) = tables.tabulate_metrics(estimates, ["balanced_accuracy"])
    best = [cell.text for _, cells in table.sections[0].rows for cell in cells if cell.best]
    assert set(best) <= set(Page(page).bold)


def test_the_difference_of_the_curriculum_is_in_the_summary_and_in_its_table(page):
    pair = [
        [make_predictions(arm, "finetune", 1.0, seed).probs for seed in (0, 1)] for arm in ("curriculum", "scratch")
    ]
    stored = make_predictions("curriculum", "finetune", 1.0, 0)
    value, low, high = metrics.difference_ci(
        metrics.balanced_accuracy, stored.labels, *pair, groups=stored.groups, **STATISTICS
    )
    expected = f"{value:+.3f} [{low:+.3f} to {high:+.3f}]".replace("-", "−")
    text = words(page)
    assert text.count(expected) == 2
    assert f"the curriculum minus scratch is {expected}" in text


def test_the_page_says_what_intervals_and_shares_of_labels_cover(page):
    text = words(page)
    for said in (
        "each resample also draws the seeds, with replacement",
        "With one seed it covers the test images alone. It never covers another pretraining.",
        "k, C and the best step are chosen on all labels of the validation split",
        "Fine-tuning takes the same number of steps on every share",
        "Each image is decided for its class of highest probability.",
        "Balanced accuracy minus that of the same network without pretraining",
    ):
        assert said in text
    assert "acro AUROC" not in text and "each finding" not in text


def test_chance_is_named_and_drawn(page, workdir):
    text = words(page)
    assert "Balanced accuracy chance: 0.333" in text and "AUROC chance: 0.500" in text
    assert "Average precision chance" not in text, "it depends on how common a class is"
    assert page.count('class="chance"') == 2 and page.count(">chance</text>") == 2
    (table,) = tables.tabulate_metrics(Estimates(read_contents(workdir)), ["balanced_accuracy"])
    (section,) = table.sections
    # Here everything is better than chance: the scale begins there.
    assert section.zero == 0.0 and all(cell.left >= 0 for _, cells in section.rows for cell in cells if cell)
    worse = tables.make_section("", [("a", [Cell(0.2, 0.1, 0.3)])], chance=0.5)
    assert worse.zero == 100.0 and worse.rows[0][1][0].dot == 25.0


def test_the_findings_are_a_list_which_ends_with_what_everything_took(tmp_path):
    made = write_two_arms(tmp_path)
    for place, predictions in made.items():
        write_measurement(tmp_path, place, predictions, seconds=30.0, devices=2, joules=1800.0)
    page = report.write_report(tmp_path).read_text()
    listed = page.partition('<ul class="summary">')[2].partition("</ul>")[0]
    assert listed.count("<li>") == 3
    assert words(listed).endswith("took 2 min of device time; energy: 1 Wh.")


def test_a_loss_that_may_rise_is_explained(page):
    assert "The loss of moco_v2 may rise at first" in words(page)
    kinds = {task for task in pretext.TASKS if issubclass(pretext.task_class(task), MomentumContrast)}
    assert kinds <= names.QUEUED <= set(pretext.TASKS)


def test_stages_with_members_show_what_they_arrived_at(tmp_path):
    begin_run(tmp_path)
    runs = [["simclr", 20], ["<b>", 10], ["simclr", 10]]
    write_stage(tmp_path, "curriculum", 0, TASKS[0], pacing={
        "kind": "bandit", "members": ["<b>", "simclr"], "interval": 10, "runs": runs
    })  # fmt: skip
    weights = {"until": [0.5, 1.0], "weights": [[1.0, 1.0], [0.5, 1.5]], "mean": [0.75, 1.25]}
    write_stage(tmp_path, "curriculum", 1, TASKS[1], pacing={"kind": "joint", "members": ["a", "b"], **weights})
    write_stage(tmp_path, "curriculum", 2, TASKS[2])
    (_, members, shares), (_, _, over) = charts.draw_pacing(read_contents(tmp_path))
    assert [name for _, name in members] == ["<b>", "simclr"]
    first, second = read_lines(shares)
    # Four intervals, in which one member has all steps and the other none.
    assert [x for x, _ in first] == sorted({x for x, _ in first}) and len(first) == 4
    assert [y == min(y for _, y in first) for _, y in first] == [False, False, True, False]
    assert [y for _, y in second] == [first[2][1] if n != 2 else first[0][1] for n in range(4)]
    assert [len(line) for line in read_lines(over)] == [2, 2]
    page = report.write_report(tmp_path).read_text()
    assert "Share of steps of each member of rotation" in page and "Weight of each member of moco_v2" in page
    assert "&lt;b&gt;</li>" in page


def read_lines(svg):
    """The points of each line of a chart."""
    found = re.findall(r'<polyline points="([^"]+)"', svg)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in found]


def test_a_choice_on_validation_is_shown_with_its_score(tmp_path):
    made = write_two_arms(tmp_path)
    place = ("scratch", "linear", 1.0, 0)
    write_measurement(tmp_path, place, made[place], strength=1.0, validation_score=0.4321)
    text = words(report.write_report(tmp_path).read_text())
    assert "Chosen on validation" in text
    assert "scratchLinear probe100 %0C = 1 the largest triedBalanced accuracy0.432" in text


def test_a_half_finished_run_says_what_is_missing(tmp_path):
    begin_run(tmp_path)
    write_stage(tmp_path, "curriculum", 0, "rotation")
    write_stage(tmp_path, "curriculum", 1, "moco_v2", done=False)
    write_targets(tmp_path, arms=["curriculum", "scratch"], targets=["knn"])
    text = words(report.write_report(tmp_path).read_text())
    assert "This run is not complete." in text
    for sentence in read_contents(tmp_path).missing:
        assert sentence in text
    assert "moco_v2 not finished" in text.partition("Pretraining")[2]


def test_a_run_that_was_only_begun(tmp_path):
    begin_run(tmp_path)
    text = words(report.write_report(tmp_path).read_text())
    assert "Nothing has been measured yet." in text and "Stage rotation is not finished (not begun)." in text
    assert "Results on the test split" not in text and "Confusion" not in text


def test_one_patient_has_values_without_intervals(tmp_path):
    write_two_arms(tmp_path, groups=["one"] * 80)
    text = words(report.write_report(tmp_path).read_text())
    assert "80 test images of one lesion or patient (no intervals), 3 classes" in text
    cell = Estimates(read_contents(tmp_path)).estimate_difference("curriculum", "scratch", "linear")
    assert f"the curriculum minus scratch is {cell.text} [–]." in text and "nan" not in text


def test_a_class_may_have_any_name(tmp_path):
    write_two_arms(tmp_path, class_names=["a/b", '"><script>alert(1)</script>', "x | y & z"])
    page = report.write_report(tmp_path).read_text()
    assert "<script" not in without_script(page) and 'title="&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"' in page
    assert all(name in words(page) for name in ("a/b (14)", '"><script>alert(1)</script> (13)', "x | y & z (13)"))


def test_a_class_without_an_interval_is_a_dot_without_a_bar(tmp_path):
    made = write_two_arms(tmp_path)
    for place, drawn in made.items():
        groups = np.where(drawn.labels == 2, "lesion-2", drawn.groups)
        write_measurement(tmp_path, place, dataclasses.replace(drawn, groups=groups))
    page = report.write_report(tmp_path).read_text()
    assert "BCC (1)" in words(page) and re.search(r"0\.\d{3} \[–\]", words(page))
    assert len(re.findall(r'aria-hidden="true">(?:<u [^>]*></u>)?<b', page)) == 2 * len(tables.PER_CLASS)


def test_the_only_target_with_fewer_labels_is_named_over_its_numbers(tmp_path):
    begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("linear", (0.1, 1.0), (0, 1))]})
    write_targets(tmp_path, arms=ARMS[:2], targets=["linear"])
    text = words(report.write_report(tmp_path).read_text())
    assert "Time of measuring Linear probe: balanced accuracy chance: 0.333 curriculum 0." in text


def test_long_names_of_arms_leave_room_on_a_narrow_screen(page):
    narrow = page.partition("@media (max-width: 560px) {")[2].partition("@media")[0]
    (heads,) = re.findall(r"\.results tbody th\[scope=row\] \{([^}]*)\}", narrow)
    assert "max-width: 38vw" in heads and "white-space: normal" in heads
    assert "single:moco_<wbr>v2</th>" in page


def test_means_over_fewer_classes_than_there_are_say_so(tmp_path):
    write_two_arms(tmp_path, labels=np.minimum(make_predictions("scratch", "linear", 1.0, 0).labels, 1))
    text = words(report.write_report(tmp_path).read_text())
    assert "2 of 3 classes occur in the test images: means are over these" in text


def test_an_interval_around_zero_is_said_to_include_it(tmp_path):
    write_two_arms(tmp_path, probs=make_predictions("scratch", "linear", 1.0, 0).probs)
    text = words(report.write_report(tmp_path).read_text())
    assert "minus scratch is +0.000 [+0.000 to +0.000], an interval that includes 0" in text


@pytest.mark.parametrize("others, said", [(2, "beside scratch, single:rotation."), (9, "beside 9 arms.")])
def test_many_arms_are_counted_in_the_summary(workdir, others, said):
    contents = read_contents(workdir)
    arms = ["curriculum", "scratch", "single:rotation", *(f"single:{i}" for i in range(7))][: 1 + others]
    (run,) = contents.runs_of("scratch", "knn")
    runs = [dataclasses.replace(run, arm=arm) for arm in arms]
    contents = dataclasses.replace(contents, arms=arms, runs=runs)
    first, _ = summary.write_sentences(Estimates(contents), [])
    assert first == f"A backbone trained by the curriculum {' → '.join(TASKS)} was measured {said}"


class TestFindings:
    @pytest.fixture(scope="class")
    def two_kinds(self, tmp_path_factory):
        workdir = tmp_path_factory.mktemp("two_kinds")
        write_two_kinds(workdir)
        return workdir

    @pytest.fixture(scope="class")
    def text(self, two_kinds):
        return words(report.write_report(two_kinds).read_text())

    def test_the_summary_compares_by_the_macro_auroc(self, two_kinds, text):
        found = make_findings("curriculum", 1)
        value = metrics.auroc(found.labels, found.probs)
        assert f"kNN, cxr/64: best is curriculum with a macro AUROC of {value:.3f} [" in text
        assert "Linear probe: best is curriculum with a balanced accuracy of 0." in text
        difference = Estimates(read_contents(two_kinds)).estimate_difference("curriculum", "scratch", FINDINGS)
        assert text.count(f"the curriculum minus scratch is {difference.text} {difference.interval}") == 1

    def test_each_data_set_says_what_its_test_images_are(self, two_kinds):
        assert read_facts(two_kinds)[2:] == [
            "derm_phantom/demo: 80 test images of 40 lesions or patients, 3 classes",
            "cxr/64: 90 test images of 45 lesions or patients, 3 findings",
        ]

    def test_texts_name_the_metrics_of_both_kinds(self, text):
        assert "Balanced accuracy or macro AUROC minus that of the same network without pretraining" in text
        assert "Macro AUROC over the share of labelled training images." in text, "that target alone has several shares"
        assert "kNN, cxr/64: each finding" in text and "Linear probe: each class" in text
        assert "have the finding, or have images without it if those are fewer; with fewer than 10" in text

    def test_the_glossary_explains_the_mean_over_findings(self, text):
        glossary = text.partition("Macro AUROCWhere each image has several findings")[2]
        assert "of each finding among the images in which it is known" in glossary
        assert "mean over the findings that are present in some test images and absent in others" in glossary

    def test_there_is_confusion_of_classes_alone(self, text):
        assert "Confusion Linear probe: rows are the true class" in text
        assert text.partition("Confusion")[2].partition("Details")[0].count("Edema") == 0

    def test_a_run_of_findings_alone_says_nothing_of_balanced_accuracy(self, tmp_path):
        begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target(FINDINGS)]})
        for arm in ARMS[:2]:
            write_measurement(tmp_path, (arm, FINDINGS, 1.0, 0), make_findings(arm))
        text = words(report.write_report(tmp_path).read_text())
        assert "alanced accuracy" not in text and "Confusion" not in text
        assert "Macro AUROC minus that of the same network without pretraining" in text

    def test_a_finding_that_is_nowhere_present_is_said_to_be_left_out(self, tmp_path):
        begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target(FINDINGS)]})
        found = make_findings("scratch")
        labels = found.labels * np.float32([1, 1, 0])
        write_measurement(tmp_path, ("scratch", FINDINGS, 1.0, 0), dataclasses.replace(found, labels=labels))
        assert (
            "cxr/64: 2 of 3 findings are present in some test images, not in others: means are over these"
            in read_facts(tmp_path)
        )


def test_data_sets_of_pretraining_are_named_where_they_are_others(tmp_path, workdir):
    mixture = make_stages("simclr", data=[("isic2019/224", 0.7), ("derm_own/224", 0.3)])
    begin_run(tmp_path, {**CONFIG, "stages": make_stages("rotation") + mixture, "targets": []})
    assert "pretraining on derm_phantom/demo, isic2019/224, derm_own/224" in read_facts(tmp_path)
    assert not any(fact.startswith("pretraining") for fact in read_facts(workdir))


def test_images_kept_out_of_pretraining_are_counted(tmp_path):
    begin_run(tmp_path)
    write_stage(tmp_path, "curriculum", 0, "rotation", excluded=1234)
    assert "1,234 images kept out of pretraining" in read_facts(tmp_path)


def test_warnings_of_the_data_sets_are_told_once(tmp_path, page):
    begin_run(tmp_path)
    for position, task in enumerate(("rotation", "moco_v2")):
        warnings = ["own/64: images in several of the given splits: 1, such as <a> (train) and b (test)"]
        write_stage(tmp_path, "curriculum", position, task, data_warnings=warnings)
    text = report.render(read_contents(tmp_path))
    assert text.count("own/64: images in several of the given splits: 1, such as &lt;a&gt; (train) and b (test)") == 1
    assert "Warnings of the data sets" in text and "Warnings of the data sets" not in page


class TestMasks:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        """Curriculum and scratch by a linear probe, and by segmentation with two seeds."""
        workdir = tmp_path_factory.mktemp("masks")
        targets = [make_target("linear"), make_target("segment", (1.0,), (0, 1))]
        begin_run(workdir, {**TWO_ARMS, "targets": targets})
        for arm in ARMS[:2]:
            write_measurement(workdir, (arm, "linear", 1.0, 0), make_predictions(arm, "linear", 1.0, 0))
            for seed in (0, 1):
                chosen = {"best_step": 20, "steps": 30, "validation_score": 0.7}
                write_measurement(workdir, (arm, "segment", 1.0, seed), make_overlaps(arm, seed), **chosen)
        return workdir

    def test_are_rows_of_results(self, folder):
        rows = [row for row in read_contents(folder).rows if row.target == "segment"]
        names = ["jaccard", "dice", "threshold_jaccard", "hausdorff95", "hausdorff95_undefined"]
        assert [row.metric for row in rows[:5]] == names and len(rows) == 20
        found = make_overlaps("scratch", 1)
        row = next(row for row in rows if (row.arm, row.seed, row.metric) == ("scratch", 1, "dice"))
        assert row.value == pytest.approx(masks.dice(found).mean()) and row.low < row.value < row.high

    def test_the_page_has_a_table_of_them_and_a_sentence(self, folder):
        text = words(report.write_report(folder).read_text())
        estimates = Estimates(read_contents(folder))
        best = estimates.estimate("curriculum", "segment", 1.0, "jaccard")
        assert f"Segmentation: best is curriculum with a Jaccard index of {best.text}" in text
        difference = estimates.estimate_difference("curriculum", "scratch", "segment")
        assert difference.value > 0 and f"the curriculum minus scratch is {difference.text}" in text
        assert "Threshold Jaccard index" in text and "95 % Hausdorff distance" in text
        assert "60 test images of 30 lesions or patients, with masks" in text
        assert "step 20 of 30" in text and "80 test images of 40 lesions or patients, 3 classes" in text

    def test_of_a_distance_the_smallest_is_the_best(self, folder):
        estimates = Estimates(read_contents(folder))
        table = tables.tabulate_metrics(estimates, ("jaccard", "hausdorff95"))[0]
        for section, larger in zip(table.sections, (True, False), strict=True):
            cells = {arm: cell for arm, (cell,) in section.rows}
            assert (cells["curriculum"].value > cells["scratch"].value) == larger
            assert cells["curriculum"].best and not cells["scratch"].best
        assert tables.tabulate_classes(estimates, "segment") is None
        assert [found["target"] for found in tables.tabulate_confusions(estimates)] == ["linear"]

    def test_a_run_of_masks_alone_says_nothing_of_balanced_accuracy(self, tmp_path):
        begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("segment")]})
        for arm in ARMS[:2]:
            write_measurement(tmp_path, (arm, "segment", 1.0, 0), make_overlaps(arm))
        text = words(report.write_report(tmp_path).read_text())
        assert "Jaccard index" in text and "alanced accuracy" not in text and "AUROC" not in text
        assert read_facts(tmp_path)[2:] == ["60 test images of 30 lesions or patients, with masks"]
        with pytest.raises(UserError, match="nothing has been measured yet that gives probabilities"):
            collect_arms(read_contents(tmp_path), ["*"], (), None)
