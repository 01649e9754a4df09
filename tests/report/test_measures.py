"""`python -m aiseeme_jax metrics`: its tables, its page, its summary, and what it says of what is not there."""

import csv
import dataclasses
import functools

import numpy as np
import pytest
from report_runs import (
    CONFIG,
    FINDINGS,
    TWO_ARMS,
    Page,
    begin_run,
    make_findings,
    make_predictions,
    make_target,
    write_measurement,
    write_two_arms,
    write_two_kinds,
)
from sklearn import metrics as sk

from aiseeme_jax import data
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evidence import auc, subgroup_measures
from aiseeme_jax.jobs import metrics_command
from aiseeme_jax.report.measures import arms, groups
from aiseeme_jax.store import workdirs


def make_validation(predictions, rows=60):
    """Images of their own, on which the same classifier knows as much."""
    names = {"ids": [f"v{i}" for i in range(rows)], "groups": [f"other-{i // 2}" for i in range(rows)]}
    return dataclasses.replace(predictions, labels=predictions.labels[:rows], probs=predictions.probs[:rows], **names)


def write_arms(workdir, balanced="none", seeds=(0,)):
    """Curriculum and scratch on three classes, with validation; gives their predictions."""
    target = {**make_target("linear", (1.0,), seeds), "class_weight": balanced}
    begin_run(workdir, {**TWO_ARMS, "targets": [target]})
    made = {}
    for arm in ("curriculum", "scratch"):
        for seed in seeds:
            place = arm, "linear", 1.0, seed
            made[place] = make_predictions(*place)
            write_measurement(workdir, place, made[place], make_validation(made[place]), seconds=15.0, devices=2)
    return made


@pytest.fixture
def attributes(monkeypatch):
    """Gives the test images of a run sex, age and site."""

    def give(**tables):
        split = data.from_arrays(np.zeros((80, 4, 4, 3), np.uint8), name="derm_phantom/demo:test")
        ids = data.as_texts([f"i{i}" for i in range(80)])[::-1]
        split = dataclasses.replace(split, ids=ids, attributes={name: t[::-1] for name, t in tables.items()})
        monkeypatch.setattr(groups.data, "open_split", lambda name, part, data_dir: split)

    give(
        sex=data.as_texts(["female", "female", "male", "male"] * 19 + [""] * 4),
        age=np.repeat(np.arange(40, dtype=np.float32) * 2, 2),
        site=data.as_texts(["back"] * 80),
    )
    return give


def run(workdir, *arguments):
    metrics_command.main([str(workdir), *arguments])
    return {path.name: read_table(path) for path in (workdir / "metrics").glob("*.csv")}


def read_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def find(rows, **wanted):
    (row,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return {name: _number(value) for name, value in row.items()}


def _number(cell):
    try:
        return float(cell) if cell else np.nan
    except ValueError:
        return cell


@pytest.fixture
def tables(tmp_path, attributes):
    made = write_arms(tmp_path)
    return run(tmp_path, "--against", "scratch"), made


@pytest.mark.slow
def test_the_ensemble_of_the_seeds_is_one_classifier(tmp_path, attributes):
    made = write_arms(tmp_path, seeds=(0, 1, 2))
    found = run(tmp_path, "--ensemble")
    runs = [made["curriculum", "linear", 1.0, seed] for seed in (0, 1, 2)]
    mean = np.mean([one.probs for one in runs], axis=0)
    row = find(found["metrics.csv"], arm="curriculum, ensemble of 3", metric="balanced_accuracy")
    assert row["value"] == pytest.approx(sk.balanced_accuracy_score(runs[0].labels, mean.argmax(axis=1)))
    assert row["low"] < row["value"] < row["high"]
    # Its temperature is its own: a mean of probabilities is less sure than they are.
    assert find(found["calibration.csv"], arm="curriculum, ensemble of 3", of="top label", state="temperature")
    assert {row["arm"] for row in found["metrics.csv"]} >= {"curriculum", "scratch", "scratch, ensemble of 3"}


def test_an_ensemble_of_one_is_refused(tmp_path, attributes):
    write_arms(tmp_path)
    with pytest.raises(UserError, match="--ensemble: every arm was measured once only; give the target or the study"):
        run(tmp_path, "--ensemble")


def test_every_table_is_written(tables):
    found, _ = tables
    assert set(found) == {
        "metrics.csv",
        "areas.csv",
        "operating_points.csv",
        "calibration.csv",
        "decision_curves.csv",
        "official_isic.csv",
        "subgroups.csv",
        "gaps.csv",
        "differences.csv",
    }


def test_numbers_are_those_of_the_stored_predictions(tables):
    found, made = tables
    test = made["curriculum", "linear", 1.0, 0]
    decided = test.probs.argmax(axis=1)
    kappa = find(found["metrics.csv"], arm="curriculum", metric="kappa")
    assert kappa["value"] == pytest.approx(sk.cohen_kappa_score(test.labels, decided), abs=1e-6)
    assert kappa["low"] < kappa["value"] < kappa["high"]
    assert kappa["pretraining_images"] == 0 and kappa["measuring_device_seconds"] == 30
    area = find(found["areas.csv"], arm="curriculum", of="MEL")
    areas = auc.measure_areas(test.labels == 0, test.probs[:, 0], test.groups)
    assert area["value"] == pytest.approx(areas.values[0], abs=1e-6)
    assert area["error"] == pytest.approx(np.sqrt(areas.covariance[0, 0]), rel=1e-5)
    assert (area["positives"], area["negatives"], area["groups"]) == (28, 52, 40)
    assert (area["low"], area["high"]) == pytest.approx(auc.logit_interval(area["value"], area["error"]), abs=1e-5)
    official = find(found["official_isic.csv"], arm="scratch", of="BCC", measure="sensitivity")
    test = made["scratch", "linear", 1.0, 0]
    assert official["value"] == pytest.approx(np.mean(test.probs[test.labels == 2, 2] > 0.5))


def test_thresholds_come_from_validation(tables):
    found, made = tables
    test = made["curriculum", "linear", 1.0, 0]
    validation = make_validation(test)
    rows = {"arm": "curriculum", "of": "MEL", "rule": "sensitivity >= 0.9 on validation"}
    sensitivity, specificity = (
        find(found["operating_points.csv"], **rows, measure=name) for name in ("sensitivity", "specificity")
    )
    threshold = np.sort(validation.probs[validation.labels == 0, 0])[::-1][int(np.ceil(0.9 * 20)) - 1]
    assert sensitivity["threshold"] == pytest.approx(threshold, rel=1e-5)
    called = test.probs[:, 0] >= threshold
    assert sensitivity["value"] == pytest.approx(called[test.labels == 0].mean(), abs=1e-6)
    assert specificity["value"] == pytest.approx(1 - called[test.labels != 0].mean(), abs=1e-6)


def test_calibration_before_and_after_beside_its_null(tables):
    found, made = tables
    before, after = (
        find(found["calibration.csv"], arm="curriculum", of="top label", state=state)
        for state in ("as stored", "temperature")
    )
    assert np.isnan(before["temperature"])
    assert after["temperature"] == pytest.approx(arms.recalibrate(*_pair(made)).temperature, rel=1e-5)
    for row in (before, after):
        assert 0 < row["ece_by_chance"] < row["ece_by_chance_95"]
        whole = row["reliability"] - row["resolution"] + row["uncertainty"] + row["within"]
        assert row["brier"] == pytest.approx(whole, abs=1e-5)
    assert not [row for row in found["calibration.csv"] if row["state"].startswith("frequencies")]


def _pair(made):
    validation = make_validation(made["curriculum", "linear", 1.0, 0])
    return validation.labels, validation.probs


def test_balanced_training_is_shifted_to_the_frequencies(tmp_path):
    write_arms(tmp_path, balanced="balanced")
    states = [row["state"] for row in run(tmp_path)["calibration.csv"]]
    assert list(dict.fromkeys(states)) == ["as stored", "temperature", "frequencies, temperature"]


@pytest.mark.parametrize(
    ("fields", "balanced"),
    [
        ({"class_weight": "balanced"}, True),
        ({"class_weight": "none"}, False),
        ({"imbalance": {"name": "inverse_frequency"}}, True),
        ({"imbalance": {"name": "focal", "gamma": 2.0}}, False),
        ({"imbalance": {"name": "logit_adjustment", "tau": 1.0}}, True),
        ({"imbalance": {"name": "logit_adjustment", "tau": 0.5}}, False),
        ({}, False),
    ],
)
def test_what_counts_as_balanced(fields, balanced):
    assert arms.trains_balanced(fields) == balanced


def test_decision_curves(tables):
    found, made = tables
    rows = [row for row in found["decision_curves.csv"] if row["of"] == "MEL" and row["arm"] == "curriculum"]
    thresholds = [float(row["threshold"]) for row in rows]
    assert len(rows) == 25 and thresholds == sorted(thresholds) and (thresholds[0], thresholds[-1]) == (0.02, 0.5)
    assert {row["state"] for row in rows} == {"temperature"}
    # Everybody is called at the lowest threshold.
    assert float(rows[0]["treat_all"]) == pytest.approx(0.35 - 0.65 * 0.02 / 0.98, abs=1e-5)


def test_subgroups_and_gaps(tables):
    found, made = tables
    test = made["curriculum", "linear", 1.0, 0]
    female = np.array(["female", "female", "male", "male"] * 20) == "female"
    female[76:] = False
    row = find(found["subgroups.csv"], arm="curriculum", attribute="sex", metric="auroc/MEL", subgroup="female")
    assert row["value"] == pytest.approx(sk.roc_auc_score(test.labels[female] == 0, test.probs[female, 0]), abs=1e-6)
    assert (row["images"], row["groups"]) == (38, 19)
    against = find(
        found["subgroups.csv"], arm="curriculum", attribute="sex", metric="auroc_against_others/MEL", subgroup="female"
    )
    rows = np.where(test.labels == 0, female, ~female)
    assert against["value"] == pytest.approx(sk.roc_auc_score(test.labels[rows] == 0, test.probs[rows, 0]), abs=1e-6)
    unknown = find(
        found["subgroups.csv"], arm="curriculum", attribute="sex", metric="balanced_accuracy", subgroup="unknown"
    )
    # Four images of two lesions lack a class.
    assert unknown["images"] == 4 and np.isnan(unknown["value"])
    excess = find(
        found["subgroups.csv"], arm="scratch", attribute="age", metric="excess_probability/BCC", subgroup="20–39"
    )
    assert excess["images"] == 20 and excess["decided"] == "temperature"
    gap = find(found["gaps.csv"], arm="curriculum", attribute="sex", metric="balanced_accuracy")
    assert {gap["highest"], gap["lowest"]} == {"female", "male"}
    assert 0 <= gap["by_chance"] < gap["by_chance_95"] and 0 < gap["p"] <= gap["p_holm"] <= 1
    odds = find(found["gaps.csv"], arm="curriculum", attribute="sex", metric="equalised_odds/BCC")
    parts = [
        find(found["gaps.csv"], arm="curriculum", attribute="sex", metric=f"{name}/BCC")["gap"]
        for name in ("sensitivity", "false_alarms")
    ]
    finite = [part for part in parts if np.isfinite(part)]
    assert odds["gap"] == max(finite) if finite else np.isnan(odds["gap"])
    # One site tells nobody apart.
    assert {row["attribute"] for row in found["gaps.csv"]} == {"sex", "age"}


def test_subgroups_of_two_attributes_intersect(tmp_path, attributes):
    made = write_arms(tmp_path)["curriculum", "linear", 1.0, 0]
    found = run(tmp_path, "--arm", "curriculum", "--by", "sex+site,sex", "--classes", "BCC", "--deals", "9")
    rows = [row for row in found["subgroups.csv"] if row["metric"] == "sensitivity/BCC"]
    assert [row["subgroup"] for row in rows if row["attribute"] == "sex+site"] == [
        *("female, back", "male, back", "unknown, back")
    ]
    # One site: the intersections are the sexes.
    of = {name: [row["value"] for row in rows if row["attribute"] == name] for name in ("sex", "sex+site")}
    assert of["sex"] == of["sex+site"]
    gap = find(found["gaps.csv"], attribute="sex+site", metric="auroc/BCC")
    female = np.array(["female", "female", "male", "male"] * 19 + [""] * 4)
    carried = [len(set(np.array(made.groups)[(female == sex) & (made.labels == 2)])) for sex in ("female", "male")]
    if min(carried) >= 10:
        assert gap["smallest_counted"] == min(carried)
    with pytest.raises(UserError, match="no attribute 'shoe': there are age, sex, site"):
        run(tmp_path, "--by", "sex+shoe")


def test_ppv_at_one_prevalence():
    present = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0], bool)
    called = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 0], bool)
    inside, everyone = np.arange(10) < 4, np.ones(10, bool)
    measure = functools.partial(subgroup_measures.measure_rate, known=everyone, present=present, called=called)
    weights = np.ones((1, 10))
    ppv = measure("ppv", prevalence=0.3, weights=weights, inside=inside)[0]
    same = measure("ppv_at_one_prevalence", prevalence=0.3, weights=weights, inside=inside)[0]
    assert ppv == pytest.approx(2 / 3)
    # Sensitivity 1 and false alarms 1/2, with three positives in ten.
    assert same == pytest.approx(0.3 / (0.3 + 0.7 * 0.5))


def test_too_few_deals_for_so_many_gaps_are_noted(tmp_path, attributes, capsys):
    write_arms(tmp_path)
    found = run(tmp_path, "--arm", "scratch", "--by", "sex", "--classes", "BCC", "--deals", "99")
    tested = sum(bool(row["p"]) for row in found["gaps.csv"])
    assert {row["metric"].partition("/")[2] for row in found["gaps.csv"]} == {"", "BCC"}
    assert f"{tested} gaps were tested with 99 deals" in capsys.readouterr().out
    run(tmp_path, "--arm", "scratch", "--by", "sex", "--classes", "BCC", "--deals", "999")
    assert "gaps were tested" not in capsys.readouterr().out


def test_differences_are_paired_and_adjusted(tables):
    found, made = tables
    one, two = (made[arm, "linear", 1.0, 0] for arm in ("curriculum", "scratch"))
    rows = found["differences.csv"]
    assert {row["against"] for row in rows} == {"scratch"} and {row["arm"] for row in rows} == {"curriculum"}
    row = find(rows, metric="auroc/MEL", method="Obuchowski")
    areas = auc.measure_areas(one.labels == 0, [one.probs[:, 0], two.probs[:, 0]], one.groups)
    difference, error = areas.contrast((1, -1))
    assert row["difference"] == pytest.approx(difference, abs=1e-6)
    assert row["p"] == pytest.approx(auc.compare_areas(difference, error)[1], rel=1e-4)
    assert row["p"] <= row["p_holm"] <= 1
    accuracy = find(rows, metric="accuracy", method="bootstrap")
    gained = np.mean(one.probs.argmax(1) == one.labels) - np.mean(two.probs.argmax(1) == two.labels)
    assert accuracy["difference"] == pytest.approx(gained, abs=1e-6)
    assert accuracy["low"] < gained < accuracy["high"]
    assert [row for row in rows if row["metric"] == "gap by sex: balanced_accuracy"]


def test_the_page_is_well_formed_and_escaped(tmp_path, attributes, capsys):
    write_arms(tmp_path)
    run(tmp_path, "--against", "scratch", "--classes", "NV <i>")
    text = (tmp_path / "metrics" / "metrics.html").read_text()
    page = Page(text)
    assert "A &lt;b&gt;bold&lt;/b&gt;" in text and "NV <i>" not in text
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert any("Share that is right over mean probability. Top label: as stored" in label for label in labels)
    assert any("Top label: after temperature" in label for label in labels)
    assert "Net benefit of acting on NV <i> over the threshold" in labels
    assert "Balanced accuracy by sex" in labels and "Sensitivity of NV <i> by age" in labels
    assert "by chance" in page.text and "The images are synthetic" in page.text
    printed = capsys.readouterr().out
    assert max(map(len, printed.split("written in")[0].splitlines())) <= 100
    assert "Curriculum" not in printed and "curriculum, Linear probe: 80 test images, 40 lesions" in printed
    assert "Linear probe, minus scratch" in printed and "ECE, top label, after temperature" in printed


def test_several_label_seeds_are_averaged(tmp_path):
    made = write_arms(tmp_path, seeds=(0, 1))
    row = find(run(tmp_path, "--arm", "scratch")["metrics.csv"], arm="scratch", metric="accuracy")
    values = [np.mean(p.probs.argmax(1) == p.labels) for place, p in made.items() if place[0] == "scratch"]
    assert row["value"] == pytest.approx(np.mean(values), abs=1e-6)


def test_pretraining_seeds_of_a_study_are_a_level_of_their_own(tmp_path):
    """Two pretraining seeds that differ much have a longer interval than two label seeds of one that differ as much."""
    write_arms(tmp_path, seeds=(0, 1))
    plan = workdirs.read_plan(tmp_path)
    by_label = find(run(tmp_path, "--arm", "scratch")["metrics.csv"], metric="accuracy")
    (entry,) = [arm for arm in plan.arms if arm.name == "scratch"]
    split = [
        dataclasses.replace(entry, name=f"scratch, seed {i}", measurements=(dataclasses.replace(one, seed=0),))
        for i, one in enumerate(entry.measurements)
    ]
    workdirs.write_plan(tmp_path, dataclasses.replace(plan, arms=tuple(split)))
    workdirs.write_config(tmp_path, {**workdirs.read_config(tmp_path), "job": "study"})
    found = run(tmp_path)
    (row,) = [row for row in found["metrics.csv"] if row["metric"] == "accuracy"]
    assert row["arm"] == "scratch"
    assert float(row["value"]) == pytest.approx(by_label["value"])
    assert float(row["high"]) - float(row["low"]) > by_label["high"] - by_label["low"]


def test_findings_that_are_not_known_and_measurements_of_before(tmp_path, capsys):
    write_two_kinds(tmp_path)
    found = run(tmp_path, "--target", FINDINGS, "--fraction", "1")
    assert "official_isic.csv" not in found and "operating_points.csv" not in found
    labels = make_findings("curriculum", 1).labels
    area = find(found["areas.csv"], arm="curriculum", of="Effusion")
    assert area["positives"] + area["negatives"] == np.isfinite(labels[:, 1]).sum()
    assert {row["of"] for row in found["calibration.csv"]} == {"class-wise", "Edema", "Effusion", "Hernia"}
    assert {row["state"] for row in found["calibration.csv"]} == {"as stored"}
    printed = capsys.readouterr().out
    assert "no thresholds from validation, and no calibration by it. It was measured before" in printed
    assert "no subgroups, since" in printed


def test_a_temperature_that_fine_tuning_fitted_is_used_without_validation(tmp_path):
    begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("linear")]})
    place = "curriculum", "linear", 1.0, 0
    write_measurement(tmp_path, place, make_predictions(*place), temperature=2.0)
    found = run(tmp_path)
    assert find(found["calibration.csv"], of="top label", state="temperature")["temperature"] == 2
    assert "operating_points.csv" not in found


def test_tables_of_an_earlier_command_are_deleted(tmp_path, attributes):
    write_arms(tmp_path)
    assert "differences.csv" in run(tmp_path, "--against", "scratch")
    assert "differences.csv" not in run(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arm", "nobody"], "no arm 'nobody': there are curriculum, scratch"),
        (["--against", "nobody"], "no arm 'nobody'"),
        (["--arm", "scratch", "--against", "scratch"], "no other arm was measured as 'scratch' was"),
        (["--target", "knn"], "no target 'knn' was measured: there are linear"),
        (["--fraction", "0.5"], "the shares of the labels are 1"),
        (["--classes", "AK"], "no class or finding 'AK': there are BCC, MEL, NV <i>"),
        (["--by", "scanner"], "has no attribute 'scanner': there are age, sex, site"),
        (["--thresholds", "0.5"], "write two numbers, as in 0.02:0.5"),
        (["--thresholds", "0.5:0.2"], "they must grow, and lie between 0 and 1"),
        (["--least", "90"], "the least sensitivity is 90"),
        (["--deals", "0"], "deals are 0; there must be at least 1"),
    ],
)
def test_bad_input_is_named(tmp_path, attributes, arguments, message):
    write_arms(tmp_path)
    with pytest.raises(UserError, match=message):
        run(tmp_path, *arguments)
    assert not (tmp_path / "metrics").exists()


def test_what_cannot_be_read_is_named(tmp_path, attributes):
    with pytest.raises(MissingFile, match="no run was begun"):
        run(tmp_path)
    begin_run(tmp_path, CONFIG)
    with pytest.raises(UserError, match="nothing has been measured yet"):
        run(tmp_path)
    write_two_arms(tmp_path, ids=[f"other{i}" for i in range(80)])
    with pytest.raises(UserError, match="lacks 80 of the 80 test images"):
        run(tmp_path, "--by", "sex")


def test_arms_with_other_test_images_are_not_subtracted(tmp_path):
    begin_run(tmp_path, {**TWO_ARMS, "targets": [make_target("linear")]})
    for arm, start in (("curriculum", "i"), ("scratch", "j")):
        made = make_predictions(arm, "linear", 1.0, 0)
        made = dataclasses.replace(made, ids=[f"{start}{i}" for i in range(80)])
        write_measurement(tmp_path, (arm, "linear", 1.0, 0), made)
    with pytest.raises(UserError, match="measured on test images with different ids"):
        run(tmp_path, "--against", "scratch")


def test_a_curve_below_zero_is_drawn_below_zero(tmp_path):
    """A rare class that the model calls at random: acting on it costs more than it finds."""
    target = {**make_target("linear"), "class_weight": "none"}
    begin_run(tmp_path, {**TWO_ARMS, "targets": [target]})
    made = make_predictions("curriculum", "linear", 1.0, 0)
    labels = np.where(np.arange(80) < 2, 2, np.arange(80) % 2).astype(np.int32)
    probs = np.full((80, 3), [0.3, 0.3, 0.4], np.float32)
    write_measurement(tmp_path, ("curriculum", "linear", 1.0, 0), dataclasses.replace(made, labels=labels, probs=probs))
    found = run(tmp_path, "--classes", "BCC", "--thresholds", "0.1:0.3")
    rows = [row for row in found["decision_curves.csv"] if row["of"] == "BCC"]
    assert all(float(row["net_benefit"]) < 0 for row in rows)
    svg = (
        (tmp_path / "metrics" / "metrics.html").read_text().split("Net benefit of acting on BCC")[1].split("</svg>")[0]
    )
    # Of the two lines the one of nobody is above that of the model, and above means a smaller y.
    nobody, model = (float(part.split(",")[1].split()[0]) for part in svg.split('points="')[1:])
    assert nobody < model
