"""The report says what lies in the workdir, whole or half, and nothing leaves the page."""

import base64
import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest

from aiseeme_jax import report
from aiseeme_jax.evaluate import bootstrap, metrics, results
from aiseeme_jax.report import compare, summary, tables
from aiseeme_jax.report.contents import read_contents
from aiseeme_jax.report.measured import Measured
from aiseeme_jax.store import records

TASKS = ("rotation", "moco_v2", "simclr")
ARMS = ("curriculum", "scratch", "single:rotation", "single:moco_v2", "single:simclr")
TARGETS = {"knn": ((1.0,), (0,)), "linear": ((0.1, 1.0), (0, 1)), "finetune": ((0.1, 1.0), (0, 1))}
PNG = b"\x89PNG not really a picture"
STATISTICS = {"samples": 50, "seed": 0}
CONFIG = {
    "job": "curriculum",
    "title": "A <b>bold</b> & wild study",
    "data": {"name": "derm_phantom/demo", "synthetic": True},
    "model": {"name": "resnet18", "width": 0.25, "dimensions": 2, "stem": "small", "dtype": "float32"},
    "stages": [{"task": task} for task in TASKS],
    "targets": [{"protocol": t, "fractions": list(f), "seeds": list(s)} for t, (f, s) in TARGETS.items()],
    "curricula": {},
    "baselines": ["scratch", "single"],
    "statistics": STATISTICS,
    "fingerprint": "0" * 64,
}


def write_stage(workdir, arm, position, task, done=True):
    directory = records.stage_directory(workdir, arm, position, task)
    directory.mkdir(parents=True)
    lines = [json.dumps({"step": s, "loss": 2.0 / s, "effective_rank": 12.5}) for s in range(10, 500, 10)]
    lines += [json.dumps({"step": 490, "warning": "the features collapse"}), '{"step": 500, "lo']
    (directory / "metrics.jsonl").write_text("\n".join(lines))
    (directory / "views.png").write_bytes(PNG)
    if done:
        record = {
            "task": task,
            "steps": 500,
            "seconds": 80.0,
            "images_per_second": 1234.5,
            "final_loss": 0.004,
        }
        records.write_json(directory / "done.json", record)
    return directory


def make_predictions(arm, target, fraction, seed, names=("MEL", "NV <i>", "BCC")):
    rng = np.random.default_rng(1)
    member = np.repeat(np.arange(40), 2)
    labels = (np.arange(40) % 3)[member].astype(np.int32)
    rng = np.random.default_rng([ARMS.index(arm), list(TARGETS).index(target), int(100 * fraction), seed])
    strength = {"curriculum": 2.0, "scratch": 0.5}.get(arm, 1.0)
    logits = rng.normal(size=(len(labels), 3)) + strength * np.eye(3)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids, groups = [f"i{i}" for i in range(80)], [f"lesion-{g}" for g in member]
    return results.Predictions(labels, probs.astype(np.float32), ids, groups, names)


def write_predictions(workdir, made):
    """The predictions and the rows of (arm, target, fraction, seed) -> predictions."""
    rows = []
    for place, predictions in made.items():
        directory = records.target_directory(workdir, *place)
        results.save_predictions(directory, predictions)
        rows += results.rows_of(results.Run(*place, directory), predictions, **STATISTICS)
    results.write_rows(workdir, rows)


def write_two_arms(workdir, fraction=1.0, **changes):
    """Curriculum and scratch measured by one linear probe, with changed predictions."""
    target = {"protocol": "linear", "fractions": [fraction], "seeds": [0]}
    config = {**CONFIG, "stages": [], "baselines": ["scratch"], "targets": [target]}
    records.write_json(workdir / "config.json", config)
    places = [(arm, "linear", fraction, 0) for arm in ARMS[:2]]
    made = {place: dataclasses.replace(make_predictions(*place), **changes) for place in places}
    write_predictions(workdir, made)
    return made


def write_targets(workdir, arms=ARMS, targets=TARGETS):
    made = {}
    for arm in arms:
        for target in targets:
            fractions, seeds = TARGETS[target]
            for fraction, seed in ((f, s) for f in fractions for s in seeds):
                made[arm, target, fraction, seed] = make_predictions(arm, target, fraction, seed)
    write_predictions(workdir, made)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    records.write_json(workdir / "config.json", CONFIG)
    for position, task in enumerate(TASKS):
        write_stage(workdir, "curriculum", position, task)
    for task in TASKS[1:]:
        write_stage(workdir, f"single:{task}", 0, task)
    write_targets(workdir)
    return workdir


@pytest.fixture(scope="module")
def page(workdir):
    return report.write_report(workdir).read_text()


class Page(html.parser.HTMLParser):
    """Collects text and attributes, and fails on tags that do not close in order."""

    VOID = ("meta", "img", "line", "circle", "polyline", "br", "wbr")

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.rows, self.text, self.bold = [], [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop()[0] == tag

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if "style" not in tags and "pre" not in tags:
            self.text += data
            if self.open and "best" in self.open[-1][1].get("class", ""):
                self.bold.append(data)


def words(text):
    return " ".join(Page(text).text.replace("\u2060", "").split())


def test_the_page_is_whole_and_reads_nothing_from_the_network(page):
    parsed = Page(page)
    for tag, name, value in parsed.attributes:
        if name in ("src", "href", "srcset", "data", "action", "poster"):
            assert value.startswith("data:"), (tag, name, value)
    assert not re.search(r"<script|<link|<iframe|@import|url\(|https?://", page)


def test_text_is_escaped(page):
    assert "A &lt;b&gt;bold&lt;/b&gt; &amp; wild study" in page and "<b>bold</b>" not in page
    assert "NV &lt;i&gt;" in page and "NV <i>" not in page


def over_seeds(arm, target, fraction, metric):
    """Mean and interval over seeds 0 and 1 by the definition."""
    runs = [make_predictions(arm, target, fraction, seed) for seed in (0, 1)]
    drawn = [bootstrap.resampled(metric, p.labels, p.probs, groups=p.groups, **STATISTICS) for p in runs]
    ends = bootstrap.interval(bootstrap.mean_over_runs(drawn, STATISTICS["seed"]))
    return np.mean([metric(p.labels, p.probs) for p in runs]), *ends


def test_headline_gives_the_mean_over_seeds_with_the_interval_of_the_mean(page):
    value, low, high = over_seeds("curriculum", "linear", 1.0, metrics.auroc)
    assert f"{value:.3f} [{low:.3f}–{high:.3f}]" in words(page)


def test_values_and_differences_over_seeds_are_made_in_one_way(tmp_path):
    """What is gained over an arm that is always wrong is all there is: both tables give one interval."""
    rows = []
    for arm in ("curriculum", "scratch"):
        for seed in (0, 1):
            predictions = make_predictions("curriculum", "linear", 1.0, seed)
            if arm == "scratch":
                wrong = np.float32(np.eye(3)[(predictions.labels + 1) % 3])
                predictions = dataclasses.replace(predictions, probs=wrong)
            directory = records.target_directory(tmp_path, arm, "linear", 1.0, seed)
            results.save_predictions(directory, predictions)
            rows += results.rows_of(results.Run(arm, "linear", 1.0, seed, directory), predictions, **STATISTICS)
    results.write_rows(tmp_path, rows)
    measured = Measured(read_contents(tmp_path))
    cell = measured.over_seeds("curriculum", "linear", 1.0, "balanced_accuracy")
    difference = measured.difference("curriculum", "scratch", "linear")
    assert (difference.low, difference.high) == (cell.low, cell.high)
    assert difference.value == pytest.approx(cell.value, abs=1e-5)


def test_one_seed_keeps_the_interval_of_its_row(workdir):
    contents = read_contents(workdir)
    row = next(row for row in contents.rows if (row.arm, row.target, row.metric) == ("scratch", "knn", "auroc"))
    cell = Measured(contents).over_seeds("scratch", "knn", 1.0, "auroc")
    assert (cell.value, cell.low, cell.high) == (row.value, row.low, row.high)


def test_without_predictions_there_is_a_mean_over_seeds_and_no_interval(workdir):
    contents = dataclasses.replace(read_contents(workdir), runs=[])
    cell = Measured(contents).over_seeds("scratch", "linear", 1.0, "auroc")
    assert cell.text.startswith("0.") and cell.interval == "[–]"


def test_the_best_of_each_column_is_bold(workdir, page):
    section = tables.headline(Measured(read_contents(workdir)), ["balanced_accuracy"]).sections[0]
    assert [arm for arm, _ in section.rows] == list(ARMS), "curriculum first, then as configured"
    for column in range(len(TARGETS)):
        cells = [cells[column] for _, cells in section.rows]
        top = max(cell.value for cell in cells)
        assert [cell.best for cell in cells] == [cell.text == f"{top:.3f}" for cell in cells]
        assert f"{top:.3f}" in Page(page).bold


def test_differences_are_paired_over_stored_predictions(workdir, page):
    pair = [
        [make_predictions(arm, "finetune", 1.0, seed).probs for seed in (0, 1)] for arm in ("curriculum", "scratch")
    ]
    stored = make_predictions("curriculum", "finetune", 1.0, 0)
    value, low, high = metrics.difference_ci(
        metrics.balanced_accuracy, stored.labels, *pair, groups=stored.groups, **STATISTICS
    )
    expected = f"{value:+.3f} [{low:+.3f} to {high:+.3f}]".replace("-", "−")
    text = words(page)
    assert text.count(expected) == 2, "in the summary and in its table"
    assert f"the curriculum minus scratch is {expected}" in text


def test_every_part_is_there(page):
    text = words(page)
    for part in (
        "synthetic",
        "80 test images of 40 lesions or patients, 3 classes",
        "rotation → moco_v2 → simclr",
    ):
        assert part in text
    for part in (
        "Fewer labels",
        "Confusion",
        "Pretraining",
        "Loss",
        "What each task sees",
        "1 min 20 s",
        "1,234",
    ):
        assert part in text
    assert "This run is not complete" not in text and "classes occur" not in text
    assert page.count(base64.b64encode(PNG).decode()) == 5
    labels = [value for tag, name, value in Page(page).attributes if (tag, name) == ("svg", "aria-label")]
    assert len([x for x in labels if x.startswith("Loss of")]) == 5
    assert len([x for x in labels if x.startswith("Balanced accuracy of")]) == 2, "knn has one share of the labels"
    assert '"fingerprint"' in page or "&#34;fingerprint&#34;" in page


def test_the_page_says_what_intervals_and_shares_of_labels_cover(page):
    text = words(page)
    for said in (
        "each resample also draws the seeds, with replacement",
        "With one seed it covers the test images alone. It never covers another pretraining.",
        "k, C and the best step are chosen on all labels of the validation split",
        "Fine-tuning takes the same number of steps on every share",
        "Of the decision for the class of highest probability",
    ):
        assert said in text


def test_each_class_says_how_many_groups_hold_it(workdir):
    table = tables.per_class(Measured(read_contents(workdir)), "linear")
    assert list(table.columns.values()) == ["MEL (14)", "NV <i> (13)", "BCC (13)"]


def test_a_class_of_few_lesions_is_shown_without_an_interval(tmp_path):
    records.write_json(tmp_path / "config.json", {**CONFIG, "baselines": ["scratch"]})
    rows = []
    for arm in ("curriculum", "scratch"):
        for seed in (0, 1):
            drawn = make_predictions(arm, "linear", 1.0, seed)
            groups = np.where(drawn.labels == 2, "lesion-2", drawn.groups)
            predictions = dataclasses.replace(drawn, groups=groups)
            directory = records.target_directory(tmp_path, arm, "linear", 1.0, seed)
            results.save_predictions(directory, predictions)
            rows += results.rows_of(results.Run(arm, "linear", 1.0, seed, directory), predictions, **STATISTICS)
    results.write_rows(tmp_path, rows)
    page = report.write_report(tmp_path).read_text()
    for section in tables.per_class(Measured(read_contents(tmp_path)), "linear").sections:
        for _, cells in section.rows:
            assert [cell.bounded for cell in cells] == [True, True, False]
    assert "BCC (1)" in words(page) and re.search(r"0\.\d{3} \[–\]", words(page))
    assert page.count('aria-hidden="true"><b') == 2 * len(tables.PER_CLASS), "a dot and no bar"


def test_what_was_chosen_on_validation_is_shown_and_whether_at_an_end(tmp_path):
    grids = {"knn": {"neighbours": [5, 20, 200]}, "linear": {"strengths": [0.1, 1.0]}, "finetune": {}}
    targets = [{**target, **grids[target["protocol"]]} for target in CONFIG["targets"]]
    records.write_json(tmp_path / "config.json", {**CONFIG, "targets": targets})
    write_targets(tmp_path, arms=["curriculum"])
    chosen = {
        ("knn", 1.0, 0): {"neighbours": 200},
        ("linear", 1.0, 0): {"strength": 0.1},
        ("linear", 0.1, 1): {"strength": 1.0},
        ("finetune", 1.0, 0): {"best_step": 600, "steps": 654},
        ("finetune", 0.1, 1): {"best_step": 654, "steps": 654},
    }
    for place, record in chosen.items():
        directory = records.target_directory(tmp_path, "curriculum", *place)
        records.write_json(directory / "done.json", {**record, "validation_score": 0.4321})
    rows = tables.chosen_rows(read_contents(tmp_path))
    assert [(row["target"], row["labels"], row["choice"], row["note"]) for row in rows] == [
        ("Fine-tuning", "100 %", "step 600 of 654", ""),
        ("Fine-tuning", "10 %", "step 654 of 654", "the last"),
        ("kNN", "100 %", "k = 200", "the largest tried"),
        ("Linear probe", "100 %", "C = 0.1", "the smallest tried"),
        ("Linear probe", "10 %", "C = 1", "the largest tried"),
    ]
    text = words(report.write_report(tmp_path).read_text())
    assert "Chosen on validation" in text and "k = 200 the largest tried0.432" in text


@pytest.mark.parametrize(
    "value, note", [(5, "the smallest tried"), (20, ""), (200, "the largest tried"), (150, "the largest tried")]
)
def test_all_rows_as_neighbours_are_the_largest_k(value, note):
    assert tables._end_of_grid(value, (5, 20, 200)) == note
    assert tables._end_of_grid(value, (value,)) == ""


def test_confusion_sums_the_seeds(workdir):
    found = tables.confusions(read_contents(workdir))
    assert [entry["target"] for entry in found] == ["finetune", "linear", "knn"]
    counts = sum(
        metrics.confusion(p.labels, p.probs) for p in (make_predictions("scratch", "linear", 1.0, s) for s in (0, 1))
    )
    matrix = found[1]["matrices"][1]
    assert matrix["arm"] == "scratch"
    expected = np.round(100 * counts / counts.sum(axis=1, keepdims=True)).astype(int)
    np.testing.assert_array_equal([row for _, row in matrix["rows"]], expected)


def test_a_half_finished_run_says_what_is_missing(tmp_path):
    records.write_json(tmp_path / "config.json", CONFIG)
    write_stage(tmp_path, "curriculum", 0, "rotation")
    write_stage(tmp_path, "curriculum", 1, "moco_v2", done=False)
    write_targets(tmp_path, arms=["curriculum", "scratch"], targets=["knn"])
    text = words(report.write_report(tmp_path).read_text())
    assert "This run is not complete." in text
    assert "Stage moco_v2 is not finished (at step 490)." in text
    assert "Stage simclr is not finished (not begun)." in text
    assert "No results of knn on all labels for single:rotation, single:moco_v2, single:simclr." in text
    assert "No results of finetune on 10 % of the labels for any arm." in text
    assert "stage rotation" not in text.lower()


def test_a_seed_that_is_not_there_is_missing(workdir, tmp_path):
    records.write_json(tmp_path / "config.json", {**CONFIG, "stages": [], "baselines": ["scratch"]})
    rows = [row for row in results.read_rows(workdir) if row.arm in ARMS[:2]]
    lost = [("curriculum", 0.1, 1), ("curriculum", 1.0, 1)]
    results.write_rows(tmp_path, [row for row in rows if (row.arm, row.fraction, row.seed) not in lost])
    assert read_contents(tmp_path).missing == [
        # On all labels a linear probe gives the same whatever the seed, and is not asked for another.
        "No results of linear on 10 % of the labels with seed 1 for curriculum.",
        "No results of finetune on 10 % of the labels with seed 1 for curriculum.",
        "No results of finetune on all labels with seed 1 for curriculum.",
    ]
    results.write_rows(tmp_path, [row for row in rows if row.seed == 0 and row.arm == "scratch"])
    assert read_contents(tmp_path).missing[-2:] == [
        "No results of finetune on all labels for curriculum.",
        "No results of finetune on all labels with seed 1 for scratch.",
    ]


def test_a_third_of_the_labels_has_differences_and_confusion(tmp_path, capsys):
    write_two_arms(tmp_path, fraction=1 / 3)
    contents = read_contents(tmp_path)
    assert not contents.missing
    assert tables.differences(Measured(contents)) and tables.confusions(contents)
    compare.main([str(tmp_path), "scratch", "--fraction", "0.333333"])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert "Linear probe on 33.3333 % of the labels: AUROC" in head
    assert len(rows) == 2 and not any("| – |" in row for row in rows)
    (tmp_path / "results.csv").unlink()
    assert not read_contents(tmp_path).missing


def test_one_patient_has_values_without_intervals(tmp_path):
    write_two_arms(tmp_path, groups=["one"] * 80)
    text = words(report.write_report(tmp_path).read_text())
    assert "80 test images of one lesion or patient (no intervals), 3 classes" in text
    cell = Measured(read_contents(tmp_path)).difference("curriculum", "scratch", "linear")
    assert not cell.bounded
    assert f"the curriculum minus scratch is {cell.text} [–]." in text and "nan" not in text


def test_stages_of_other_curricula_are_told_apart(tmp_path):
    config = {**CONFIG, "stages": CONFIG["stages"][:1], "curricula": {"a-b": [{"task": "a"}, {"task": "b"}]}}
    records.write_json(tmp_path / "config.json", config)
    for arm, position, task in (("curriculum", 0, "rotation"), ("a-b", 0, "a"), ("a-b", 1, "b")):
        write_stage(tmp_path, arm, position, task, done=task != "b")
    write_stage(tmp_path, "single:rotation", 0, "rotation")
    contents = read_contents(tmp_path)
    assert [stage.title for stage in contents.stages] == ["rotation", "a-b: a", "a-b: b", "single:rotation"]
    assert "Stage a-b: b is not finished (at step 490)." in contents.missing
    assert 'alt="Sample views of a-b: b"' in report.write_report(tmp_path).read_text()


def test_fewer_labels_are_numbers_too(workdir, page):
    table = tables.fractions(Measured(read_contents(workdir)))
    assert list(table.columns.values()) == ["10 % of the labels", "all labels"]
    assert [section.title for section in table.sections] == ["Linear probe", "Fine-tuning"], "knn has one share"
    cell = dict(table.sections[0].rows)["scratch"][0]
    tenth = [make_predictions("scratch", "linear", 0.1, seed) for seed in (0, 1)]
    assert cell.value == pytest.approx(np.mean([metrics.balanced_accuracy(p.labels, p.probs) for p in tenth]), abs=1e-5)
    after = words(page).partition("Fewer labels")[2].partition("Confusion")[0]
    assert f"{cell.text} {cell.interval}" in after and "all labels" in after


def test_the_only_target_with_fewer_labels_is_named_over_its_numbers(tmp_path):
    records.write_json(tmp_path / "config.json", CONFIG)
    write_targets(tmp_path, arms=ARMS[:2], targets=["linear"])
    text = words(report.write_report(tmp_path).read_text())
    assert "all labels Linear probe curriculum 0." in text


def test_long_names_of_arms_leave_room_on_a_narrow_screen(workdir, page):
    narrow = page.partition("@media (max-width: 560px) {")[2].partition("@media")[0]
    (heads,) = re.findall(r"\.results tbody th\[scope=row\] \{([^}]*)\}", narrow)
    assert "max-width: 38vw" in heads and "white-space: normal" in heads
    assert "single:moco_<wbr>v2</th>" in page


def test_a_run_without_results_or_without_anything(tmp_path):
    assert "nothing was started in this folder" in words(report.write_report(tmp_path).read_text())
    records.write_json(tmp_path / "config.json", CONFIG)
    text = words(report.write_report(tmp_path).read_text())
    assert "Nothing has been measured yet." in text and "Stage rotation is not finished (not begun)." in text
    with pytest.raises(FileNotFoundError, match="no workdir at .*nowhere"):
        report.write_report(tmp_path / "nowhere")


def test_without_results_csv_the_predictions_serve(tmp_path):
    records.write_json(tmp_path / "config.json", CONFIG)
    write_targets(tmp_path)
    with_table = report.write_report(tmp_path).read_text()
    (tmp_path / "results.csv").unlink()
    assert words(report.write_report(tmp_path).read_text()) == words(with_table)


def damage_results(workdir):
    path = workdir / "results.csv"
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace(",0.", ",zero point ", 1)
    path.write_text("\n".join(lines))
    return r"results\.csv, line 5: "


def damage_metrics(workdir):
    path = next(workdir.glob("stages/00-*/metrics.jsonl"))
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:7]
    path.write_text("\n".join(lines))
    return r"00-rotation/metrics\.jsonl, line 3 is damaged"


def damage_record(workdir):
    path = next(workdir.glob("stages/00-*/done.json"))
    path.write_text("{")
    return r"00-rotation/done\.json is damaged"


@pytest.mark.parametrize("damage", [damage_results, damage_metrics, damage_record])
def test_damage_is_named_and_the_old_page_stays(tmp_path, damage):
    records.write_json(tmp_path / "config.json", CONFIG)
    write_stage(tmp_path, "curriculum", 0, "rotation")
    write_targets(tmp_path, arms=["curriculum"], targets=["knn"])
    before = report.write_report(tmp_path).read_text()
    message = damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        report.write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == before


def test_means_over_fewer_classes_than_there_are_say_so(tmp_path):
    records.write_json(tmp_path / "config.json", CONFIG)
    directory = records.target_directory(tmp_path, "scratch", "knn", 1.0, 0)
    predictions = make_predictions("scratch", "knn", 1.0, 0)
    fewer = dataclasses.replace(predictions, labels=np.minimum(predictions.labels, 1))
    results.save_predictions(directory, fewer)
    text = words(report.write_report(tmp_path).read_text())
    assert "2 of 3 classes occur in the test images: means are over these" in text


def test_an_interval_around_zero_is_said_to_include_it(tmp_path):
    records.write_json(tmp_path / "config.json", {**CONFIG, "baselines": ["scratch"]})
    same = make_predictions("scratch", "knn", 1.0, 0)
    write_predictions(tmp_path, {(arm, "knn", 1.0, 0): same for arm in ("curriculum", "scratch")})
    text = words(report.write_report(tmp_path).read_text())
    assert "minus scratch is +0.000 [+0.000 to +0.000], an interval that includes 0" in text


@pytest.mark.parametrize("others, said", [(2, "beside scratch, single:rotation."), (9, "beside 9 arms.")])
def test_many_arms_are_counted_in_the_summary(workdir, others, said):
    arms = ["curriculum", "scratch", "single:rotation", *(f"single:{i}" for i in range(7))][: 1 + others]
    rows = [results.Row(arm, "knn", 1.0, 0, "balanced_accuracy", 0.5, 0.4, 0.6) for arm in arms]
    contents = dataclasses.replace(read_contents(workdir), arms=arms, rows=rows, targets=["knn"])
    assert summary.sentences(Measured(contents), None)[0].endswith(said)


class TestCompare:
    def lines(self, capsys):
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]

    def test_arms_are_subtracted_over_the_same_images_and_seeds(self, workdir, capsys):
        compare.main([str(workdir), "single:simclr", "single:*"])
        head, _, reference, *others = self.lines(capsys)
        assert head[1:3] == ["kNN: Balanced accuracy", "kNN: AUROC"] and len(head) == 1 + 2 * len(TARGETS)
        assert reference[0] == "single:simclr, as it is"
        assert [row[0] for row in others] == ["single:rotation", "single:moco_v2"]
        runs = [[make_predictions(arm, "linear", 1.0, seed) for seed in (0, 1)] for arm in ("single:moco_v2", ARMS[-1])]
        probs = [[found.probs for found in several] for several in runs]
        first = runs[0][0]
        value, low, high = metrics.difference_ci(metrics.auroc, first.labels, *probs, groups=first.groups, **STATISTICS)
        assert others[1][4] == f"{value:+.3f} [{low:+.3f} to {high:+.3f}]".replace("-", "−")

    def test_all_others_are_compared_unless_told_otherwise(self, workdir, capsys):
        compare.main([str(workdir), "scratch"])
        assert [row[0] for row in self.lines(capsys)[3:]] == [arm for arm in ARMS if arm != "scratch"]

    def test_a_share_of_the_labels_can_be_asked_for(self, workdir, capsys):
        compare.main([str(workdir), "scratch", "curriculum", "--fraction", "0.1"])
        head, _, reference, gain = self.lines(capsys)
        assert head[1:] == [
            f"{target} on 10 % of the labels: {metric}"
            for target in ("Linear probe", "Fine-tuning")
            for metric in ("Balanced accuracy", "AUROC")
        ], "knn was measured on all labels alone"
        runs = [[make_predictions(arm, "finetune", 0.1, seed) for seed in (0, 1)] for arm in ("curriculum", "scratch")]
        probs = [[found.probs for found in several] for several in runs]
        first = runs[0][0]
        value, low, high = metrics.difference_ci(
            metrics.balanced_accuracy, first.labels, *probs, groups=first.groups, **STATISTICS
        )
        assert gain[3] == f"{value:+.3f} [{low:+.3f} to {high:+.3f}]".replace("-", "−")
        with pytest.raises(SystemExit):
            compare.main([str(workdir), "scratch", "--fraction", "0.2"])
        assert "no target was measured with --fraction 0.2: there are 0.1, 1" in capsys.readouterr().err

    def test_what_is_undefined_is_one_cell_and_a_line_that_says_why(self, tmp_path, capsys):
        write_two_arms(tmp_path, labels=np.zeros(80, np.int32))
        compare.main([str(tmp_path), "scratch"])
        head, _, reference, gain, _, *notes = self.lines(capsys)
        assert head[1:] == ["Linear probe: Balanced accuracy", "Linear probe: AUROC"]
        assert reference[1].startswith("0.") and gain[1].startswith("+0.")
        assert reference[2] == gain[2] == "–"
        reason = "Linear probe: auroc is undefined: the labels hold only class [0]"
        assert notes == [[f"{arm}, {reason}"] for arm in ("scratch", "curriculum")]

    def test_values_without_intervals_say_why(self, tmp_path, capsys):
        write_two_arms(tmp_path, groups=["one"] * 80)
        compare.main([str(tmp_path), "scratch"])
        *_, gain, _, first, second = self.lines(capsys)
        assert re.fullmatch(r"\+0\.\d{3} \[–\]", gain[1])
        reason = "no interval [–], for too few lesions or patients, or predictions"
        assert [first, second] == [[f"Linear probe: {name}: {reason}"] for name in ("Balanced accuracy", "AUROC")]

    def test_what_was_not_measured_is_said(self, tmp_path, capsys):
        made = {(arm, "knn", 1.0, 0): make_predictions(arm, "knn", 1.0, 0) for arm in ARMS[:2]}
        made["curriculum", "linear", 1.0, 0] = make_predictions("curriculum", "linear", 1.0, 0)
        made["scratch", "finetune", 1.0, 0] = make_predictions("scratch", "finetune", 1.0, 0)
        other = make_predictions("curriculum", "finetune", 1.0, 0)
        ids = [f"other-{i}" for i in range(80)]
        made["curriculum", "finetune", 1.0, 0] = dataclasses.replace(other, ids=ids)
        write_predictions(tmp_path, made)
        compare.main([str(tmp_path), "scratch"])
        _, _, reference, gain, _, *notes = self.lines(capsys)
        assert reference[3] == gain[3] == gain[5] == "–" != gain[1]
        assert notes == [
            ["scratch, Linear probe: there are no results of scratch"],
            ["curriculum, Linear probe: there are no predictions of scratch"],
            ["curriculum, Fine-tuning: curriculum and scratch were measured on different test images"],
        ]

    def test_nothing_measured_is_one_message(self, tmp_path, capsys):
        records.write_json(tmp_path / "config.json", CONFIG)
        with pytest.raises(SystemExit):
            compare.main([str(tmp_path), "scratch"])
        assert "nothing has been measured yet" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [["sim*"], ["scratch", "sim*"]])
    def test_an_unknown_arm_names_the_known_ones(self, workdir, arguments, capsys):
        with pytest.raises(SystemExit):
            compare.main([str(workdir), *arguments])
        assert f"no arm 'sim*': there are {', '.join(ARMS)}" in capsys.readouterr().err

    def save(self, workdir, arm, predictions, seed=0):
        directory = records.target_directory(workdir, arm, "linear", 1.0, seed)
        results.save_predictions(directory, predictions)
        return results.rows_of(results.Run(arm, "linear", 1.0, seed, directory), predictions, **STATISTICS)

    def test_other_order_of_rows_is_the_same_difference(self, tmp_path, capsys):
        shuffled = np.random.default_rng(0).permutation(80)
        cells = []
        for name, order in (("as_is", np.arange(80)), ("shuffled", shuffled)):
            curriculum, scratch = (make_predictions(arm, "linear", 1.0, 0) for arm in ARMS[:2])
            rows = {key: np.asarray(getattr(scratch, key))[order] for key in ("labels", "probs", "ids", "groups")}
            rows = self.save(tmp_path / name, "scratch", dataclasses.replace(scratch, **rows))
            results.write_rows(tmp_path / name, rows + self.save(tmp_path / name, "curriculum", curriculum))
            compare.main([str(tmp_path / name), "scratch"])
            cells.append(self.lines(capsys)[3][1:])
        assert cells[0] == cells[1] and "–" not in cells[0]

    @pytest.mark.parametrize("what", ["class_names", "labels", "groups"])
    def test_same_images_with_other_classes_labels_or_groups_name_both_folders(self, what, tmp_path, capsys):
        """Stored with another order of classes the same predictions once differed by 0.8."""
        stored = make_predictions("curriculum", "linear", 1.0, 0)
        changed = {"class_names": stored.class_names[::-1], "labels": 2 - stored.labels, "groups": stored.ids}
        changed = dataclasses.replace(stored, **{what: changed[what]})
        rows = self.save(tmp_path, "curriculum", stored) + self.save(tmp_path, "scratch", changed)
        results.write_rows(tmp_path, rows)
        with pytest.raises(SystemExit):
            compare.main([str(tmp_path), "scratch"])
        said = capsys.readouterr().err
        folders = [str(records.target_directory(tmp_path, arm, "linear", 1.0, 0)) for arm in ARMS[:2]]
        assert all(folder in said for folder in folders)
        assert f"the same test images with different {what.replace('_', ' ')}" in said
        with pytest.raises(ValueError, match=what.replace("_", " ")):
            report.write_report(tmp_path)

    def test_an_empty_cell_says_why(self, tmp_path, capsys):
        write_targets(tmp_path, arms=ARMS[:2], targets=("knn",))
        rows = results.read_rows(tmp_path)
        stored = make_predictions("curriculum", "linear", 1.0, 0)
        rows += self.save(tmp_path, "curriculum", stored)
        rows += self.save(tmp_path, "scratch", dataclasses.replace(stored, ids=[f"other-{i}" for i in range(80)]))
        rows += self.save(tmp_path, ARMS[2], stored, seed=1)
        results.write_rows(tmp_path, rows)
        compare.main([str(tmp_path), "scratch"])
        lines = [" ".join(line) for line in self.lines(capsys)]
        assert lines[5] == ""
        assert lines[6:] == [
            "curriculum, Linear probe: curriculum and scratch were measured on different test images",
            "single:rotation, kNN: there are no predictions of single:rotation",
            "single:rotation, Linear probe: single:rotation and scratch have no seed in common",
        ]

    def test_a_metric_without_meaning_on_the_test_images_says_so(self, tmp_path, capsys):
        rows = []
        for arm in ARMS[:2]:
            drawn = make_predictions(arm, "linear", 1.0, 0)
            rows += self.save(tmp_path, arm, dataclasses.replace(drawn, labels=np.zeros(80, np.int32)))
        results.write_rows(tmp_path, rows)
        compare.main([str(tmp_path), "scratch"])
        assert self.lines(capsys)[-1] == [
            "curriculum, Linear probe: auroc is undefined: the labels hold only class [0]"
        ]

    def test_seeds_that_one_arm_lacks_are_left_out(self, tmp_path):
        for arm, seeds in (("curriculum", (0, 1)), ("scratch", (1,))):
            for seed in seeds:
                self.save(tmp_path, arm, make_predictions(arm, "linear", 1.0, seed), seed)
        found = Measured(read_contents(tmp_path)).difference("curriculum", "scratch", "linear")
        pair = [[make_predictions(arm, "linear", 1.0, 1)] for arm in ARMS[:2]]
        first = pair[0][0]
        probs = [[p.probs for p in runs] for runs in pair]
        bootstrap_of_config = {"groups": first.groups, "samples": 1000, "seed": 0}
        expected = metrics.difference_ci(metrics.balanced_accuracy, first.labels, *probs, **bootstrap_of_config)
        np.testing.assert_allclose((found.value, found.low, found.high), expected, rtol=1e-12)

    def test_damaged_predictions_are_one_message(self, tmp_path, capsys):
        write_targets(tmp_path, arms=ARMS[:2], targets=("knn",))
        damaged = records.target_directory(tmp_path, "scratch", "knn", 1.0, 0) / "predictions.npz"
        damaged.write_bytes(b"no archive")
        with pytest.raises(SystemExit):
            compare.main([str(tmp_path), "curriculum"])
        assert f"{damaged} is damaged" in capsys.readouterr().err
