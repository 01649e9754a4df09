"""MODEL_CARD.md: its fields for Hugging Face, its numbers, what it takes from builders, and what it does not know."""

import dataclasses
import re

import numpy as np
import pytest
import yaml
from report_runs import (
    ARMS,
    CONFIG,
    FINDINGS,
    TASKS,
    begin_run,
    make_findings,
    make_overlaps,
    make_predictions,
    make_stages,
    make_target,
    stage_artifact,
    write_measurement,
    write_stage,
    write_targets,
)
from test_measures import attributes, make_validation  # noqa: F401
from test_measures import run as measure_run

from aiseeme_jax.curriculum.costs import Cost
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.jobs import card_command
from aiseeme_jax.report.card import datasets, evaluation, page
from aiseeme_jax.report.card.markdown import write_yaml
from aiseeme_jax.report.contents import read_contents
from aiseeme_jax.report.estimates import Estimates
from aiseeme_jax.store import records
from aiseeme_jax.store.artifacts import KEY, STAGES, Store

MADE_WITH = {"device": "NVIDIA H200", "versions": {"python": "3.11.2", "jax": "0.10.2"}}
FIELDS = {"batch_size": 64, "fields": {}, "views": {"size": 48, "mean": [0.5], "std": [0.25], "window": []}}


def set_key(workdir, arm, position, task, **content):
    """What the key of a stage is made of, as a plan writes it."""
    folder = Store(workdir).find(STAGES, stage_artifact(arm, position, task).key[:12])
    records.write_json(folder / KEY, {"key": "k", "kind": STAGES, "content": content})


def write_run(workdir, **config):
    """A finished curriculum of three tasks that started from a file, on two devices; scratch beside it."""
    begin_run(workdir, {**CONFIG, "baselines": ["scratch"], "seed": 7, "init": "/home/somebody/w.pth", **config})
    sets = [{"name": "isic2019/64", "version": "1.0.0", "images": 700}]
    for position, task in enumerate(TASKS):
        stage = {"devices": 2, "made_with": MADE_WITH, "excluded": 3, "backbone_hash": f"hash{position}"}
        write_stage(workdir, "curriculum", position, task, **stage)
        start = {"start": {"file": "ab12"}} if position == 0 else {"start": {"stage": "k"}}
        set_key(
            workdir, "curriculum", position, task, fields=FIELDS, data=sets, seed=5, distill=[{"kind": "pfr"}], **start
        )
    write_targets(workdir, arms=ARMS[:2])
    return workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Tests only read it."""
    return write_run(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def card(workdir):
    return page.write_card(workdir).read_text()


def read_fields(card):
    return yaml.safe_load(card.split("---\n")[1])


def find_row(card, *starts):
    """The first line of a table that begins with some cells."""
    start = f"| {' | '.join(starts)} |"
    return next(line for line in card.splitlines() if line.startswith(start)).strip("| ").split(" | ")


def test_hugging_face_reads_its_fields(workdir, card):
    fields = read_fields(card)
    assert fields["license"] == "unknown" and fields["library_name"] == "aiseeme_jax"
    assert {"medical", "synthetic-data", "resnet18", *TASKS} <= set(fields["tags"])
    assert set(fields["datasets"]) == {"isic2019", "derm_phantom"}
    (model,) = fields["model-index"]
    assert model["name"] == "A <b>bold</b> & wild study: curriculum"
    named = {one["task"]["name"]: one for one in model["results"]}
    assert set(named) == {
        *("kNN", "Linear probe", "Linear probe, 10 % of the labels", "Fine-tuning", "Fine-tuning, 10 % of the labels")
    }
    result = named["Linear probe, 10 % of the labels"]
    assert result["dataset"] == {"name": "derm_phantom/demo", "type": "derm_phantom", "split": "test"}
    cell = Estimates(read_contents(workdir)).estimate("curriculum", "linear", 0.1, "auroc")
    (auroc,) = (one for one in result["metrics"] if one["type"] == "roc_auc")
    assert auroc["value"] == pytest.approx(cell.value, abs=1e-4)
    assert auroc["name"] == f"AUROC (95 % interval {cell.interval.strip('[]')})"


def test_yaml_is_read_as_it_was_meant():
    value = {
        "a": "yes: 'no' # \"x\"\n- y",
        "b": [1, 2.5, None, True, {"c": ["ü", "null"], "d": {"e": "1.0"}}],
        "f": {"g": [{"h": [], "i": "–"}]},
    }
    del value["f"]["g"][0]["h"]
    assert yaml.safe_load("\n".join(write_yaml(value))) == value


def test_every_part_is_there(card):
    for heading in (
        *("Intended use", "Data", "curriculum", "Limits", "Citations of the data sets"),
        *("# Metrics on test images", "# Calibration", "# Gaps between subgroups", "# Cost", "# How to load it"),
    ):
        assert f"\n##{'' if heading.startswith('#') else ' '}{heading}\n" in card
    assert "not a medical device" in card and "The images are synthetic" in card
    assert "A resnet18 of 0.25 times the usual width, trained in float32, for images of 48 pixels a side." in card
    assert "weights of a file with the SHA-256 ab12. The seed of the run is 7." in card
    assert 'load_backbone(WORKDIR, arm="curriculum")' in card and "`hash2`" in card
    assert "the mean (0.5) is subtracted and the result is divided by (0.25)" in card
    assert "<b>" not in card.split("---\n", 2)[2] and "A &lt;b>bold&lt;/b> &amp; wild study" in card


def test_numbers_have_intervals_sizes_and_costs(workdir, card):
    cell = Estimates(read_contents(workdir)).estimate("curriculum", "finetune", 1.0, "balanced_accuracy")
    row = find_row(card, "Fine-tuning", "all labels", "Balanced accuracy")
    # Three stages of 500 steps of 64 images, and of 80 seconds on two devices.
    assert row[3:] == [cell.text, cell.interval.strip("[]"), "80", "40", "2", "96,000", "8 min", "not measured"]
    assert "96,000 images shown, 8 min of one device (480 device-seconds)" in card
    assert "- Hardware: 2 × NVIDIA H200." in card and "python 3.11.2, jax 0.10.2" in card
    stage = find_row(card, "1", "moco_v2")
    assert stage[2:] == ["isic2019/64", "pfr", "500", "32,000", "2 min 40 s", "not measured", "5"]


def test_data_licences_and_citations_are_those_of_the_builders(card):
    assert find_row(card, "isic2019/64")[1:] == ["1.0.0", "pretraining", "700", "not recorded"]
    assert find_row(card, "derm_phantom/demo")[1:] == ["not known: fill in", "test", "80", "40"]
    assert "`isic2019/64`. Licence: CC BY-NC 4.0 (verify at https://challenge" in card
    assert "**Synthetic.** Every image is drawn by a program" in card
    assert "@article{tschandl2018ham10000," in card and card.count("@misc{derm_phantom,") == 1
    assert "3 images were kept out of pretraining." in card


def test_every_builder_says_its_licence_or_that_it_is_synthetic():
    import tfds_builders

    for name in tfds_builders.DATASETS:
        found = datasets.describe_data_set(f"{name}/64")
        assert found.citations.startswith("@"), name
        known = found.licence != datasets.UNKNOWN
        assert known or name == "image_table" or any("Synthetic" in text for text in found.warnings), name
    assert datasets.describe_data_set("cifar10@64") == datasets.Described("cifar10@64")


def test_no_folder_of_the_machine_is_named(workdir, card):
    assert str(workdir) not in card and "/home" not in card and "/tmp" not in card


def test_limits_follow_from_facts(card, tmp_path):
    limits = card.partition("## Limits")[2].partition("\n## ")[0]
    assert "do not cover another pretraining" in limits and "Measured with one seed" in limits
    assert "One test split has 40 lesions or patients alone (80 images)" in limits
    assert "not shown to be better" not in limits, "the curriculum is far above scratch"
    equal = write_run(tmp_path, targets=[make_target("knn")])
    for arm in ARMS[:2]:
        write_measurement(equal, (arm, "knn", 1.0, 0), make_predictions("scratch", "knn", 1.0, 0))
    text = page.write_card(equal).read_text()
    assert "kNN: curriculum is not shown to be better than the same network without pretraining (balanced" in text


def test_calibration_is_beside_what_chance_makes(card):
    row = find_row(card, "kNN", "ECE, top label")
    error, chance, most = map(float, row[2:])
    assert 0 < error < 1 and 0 < chance < most


def test_gaps_are_those_of_the_command_and_only_of_these_predictions(tmp_path, attributes):  # noqa: F811
    write_run(tmp_path, targets=[make_target("linear", (1.0,), (0,))])
    place = "curriculum", "linear", 1.0, 0
    made = make_predictions(*place)
    write_measurement(tmp_path, place, made, make_validation(made))
    assert "Not measured: `python -m aiseeme_jax metrics WORKDIR`" in page.write_card(tmp_path).read_text()
    attributes(sex=np.array(["female", "male"] * 40))
    measure_run(tmp_path, "--arm", "curriculum", "--deals", "20")
    text = page.write_card(tmp_path).read_text()
    after = text.partition("### Gaps between subgroups")[2].partition("### Cost")[0]
    (gap,) = {line.split(" | ")[0] for line in after.splitlines() if line.startswith("| sex")}
    assert gap == "| sex" and "gaps." in after and "Not measured" not in after
    changed = dataclasses.replace(made, probs=made.probs[:, ::-1])
    write_measurement(tmp_path, place, changed, make_validation(changed))
    assert "measured before the predictions changed; run" in page.write_card(tmp_path).read_text()


def test_many_probabilities_are_not_calibrated_while_a_card_is_written(workdir, monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_VALUES", 10)
    lines = list(evaluation.write_calibration(workdir, read_contents(workdir), "curriculum"))
    assert lines[0] == (
        "Not measured, since there are many test images: kNN, Linear probe, Fine-tuning. "
        "`python -m aiseeme_jax metrics WORKDIR` measures it."
    )


def test_findings_have_a_card_too(tmp_path):
    targets = [make_target(FINDINGS)]
    begin_run(tmp_path, {**CONFIG, "stages": make_stages("rotation"), "targets": targets, "baselines": []})
    write_stage(tmp_path, "curriculum", 0, "rotation")
    write_measurement(tmp_path, ("curriculum", FINDINGS, 1.0, 0), make_findings("curriculum"))
    text = page.write_card(tmp_path).read_text()
    assert find_row(text, "kNN, cxr/64", "all labels", "Macro AUROC")[5:8] == ["90", "45", "1"]
    assert find_row(text, "kNN, cxr/64", "ECE, class-wise")
    assert "Of cxr/64, too few lesions or patients carry an interval of their own for: Hernia (" in text
    assert "- Hardware: not recorded." in text


def test_masks_have_a_card_too(tmp_path):
    begin_run(tmp_path, {**CONFIG, "stages": make_stages("rotation"), "targets": [make_target("segment")]})
    write_stage(tmp_path, "curriculum", 0, "rotation")
    write_measurement(tmp_path, ("curriculum", "segment", 1.0, 0), make_overlaps("curriculum"))
    text = page.write_card(tmp_path).read_text()
    assert find_row(text, "Segmentation", "all labels", "Jaccard index")[5:8] == ["60", "30", "1"]
    assert "Not measured: there are no probabilities of classes or findings." in text
    (result,) = yaml.safe_load(text.split("---")[1])["model-index"][0]["results"]
    assert result["task"]["type"] == "image-segmentation"


def test_named_curricula_share_one_card(tmp_path):
    begin_run(tmp_path, {**CONFIG, "curricula": {"short": make_stages("rotation")}, "baselines": ["single"]})
    for position, task in enumerate(TASKS):
        write_stage(tmp_path, "curriculum", position, task)
    write_stage(tmp_path, "short", 0, "rotation", done=False)
    for task in TASKS[1:]:
        write_stage(tmp_path, f"single:{task}", 0, task)
    text = page.write_card(tmp_path).read_text()
    assert "\n## curriculum\n" in text and "\n## short\n" not in text, "it is not finished"
    assert "This run is not complete" not in text and "The run is not complete" in text
    assert "model-index" not in read_fields(text) and "Nothing was measured." in text
    card_command.main([str(tmp_path), "--arm", "single:*"])
    text = (tmp_path / page.CARD).read_text()
    assert re.findall(r"\n## (single:\w+)\n", text) == [f"single:{task}" for task in TASKS]
    with pytest.raises(UserError, match="short: not finished"):
        card_command.main([str(tmp_path), "--arm", "short"])
    with pytest.raises(UserError, match="no arm 'else' was trained: there are curriculum"):
        card_command.main([str(tmp_path), "--arm", "else"])


def test_what_has_no_card_is_named(tmp_path):
    with pytest.raises(MissingFile, match="no run was begun"):
        card_command.main([str(tmp_path)])
    begin_run(tmp_path, {**CONFIG, "job": "search"})
    with pytest.raises(UserError, match="the workdir of a search, .*: end the search first; it writes .*best_order.py"):
        card_command.main([str(tmp_path)])
    (tmp_path / "best_order.py").write_text("")
    with pytest.raises(UserError, match=f"aiseeme_jax train --config={tmp_path}/best_order.py --workdir=OTHER`"):
        card_command.main([str(tmp_path)])
    begin_run(tmp_path)
    with pytest.raises(UserError, match="has no finished curriculum"):
        card_command.main([str(tmp_path)])


def test_the_card_of_an_arm_of_a_study(tmp_path):
    workdir = write_run(tmp_path, job="study")
    with pytest.raises(UserError, match="a study, .*no winner: name those .* --arm. There are curriculum"):
        card_command.main([str(workdir)])
    card_command.main([str(workdir), "--arm", "curriculum"])
    text = (workdir / page.CARD).read_text()
    assert "## curriculum" in text and "The seed of the run" not in text
    assert find_row(text, "Fine-tuning", "all labels", "Balanced accuracy")


def test_costs_count_joint_members_and_searches(tmp_path):
    begin_run(tmp_path, {**CONFIG, "stages": make_stages("joint", "simclr"), "baselines": ["scratch"]})
    search = {"images": 1000, "device_seconds": 50.0, "batch_size": 32}
    write_stage(tmp_path, "curriculum", 0, "joint", devices=4)
    set_key(tmp_path, "curriculum", 0, "joint", fields={"batch_size": 8, "fields": {"members": {"a": {}, "b": {}}}})
    write_stage(tmp_path, "curriculum", 1, "simclr", tuning=search | {"trials": [], "score": "", "sentences": []})
    set_key(tmp_path, "curriculum", 1, "simclr", fields=FIELDS)
    cost_of = read_contents(tmp_path).pretraining_cost
    assert cost_of("curriculum").words == ("25,000", "7 min 30 s", "not measured")
    assert 500 * 8 * 2 + 500 * 32 + 1000 == 25_000 and 80 * 4 + 80 + 50 == 450
    assert cost_of("scratch") == Cost(0, 0, 0) and cost_of("scratch").words == ("0", "0 s", "0 Wh")
    assert Cost(*[float("nan")] * 3).words == ("–", "–", "not measured")
    write_stage(tmp_path, "curriculum", 0, "joint", devices=4, joules=7200.0)
    write_stage(tmp_path, "curriculum", 1, "simclr", joules=1800.0, tuning={**search, "joules": 900.0})
    assert cost_of("curriculum").energy == "not measured", "the contents are as they were read"
    assert read_contents(tmp_path).pretraining_cost("curriculum").energy == "2.75 Wh"
