"""The protocols as they are asked for: what is judged, what is trained, and the same after a kill."""

import dataclasses

import numpy as np
import pytest
import tiny
from short_measurements import IMAGES, RUNTIME, Killed, splits, stopping_after, subject, target
from sklearn import metrics as sk
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import data, weights
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.protocols import Measurement
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import features, finetune, metrics
from aiseeme_jax.evaluate.labels import make_labels
from aiseeme_jax.training.state import make_state
from aiseeme_jax.weights.classifier import load_classifier, save_classifier
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table")
FINDINGS = ("dark", "grey", "bright")


def with_findings(split):
    """The three classes as findings that do not exclude each other, one of six not known."""
    bright = split.labels[:, None]
    labels = np.concatenate([bright < 1, bright == 1, bright > 0], axis=1).astype(np.float32)
    labels[np.arange(len(split)) % 2 == 0, np.arange(0, len(split), 2) // 2 % 3] = np.nan
    return dataclasses.replace(split, labels=labels, class_names=FINDINGS)


def subject_with_findings():
    return subject(splits={name: with_findings(split) for name, split in splits().items()})


def program(chosen, share, measured):
    """What the train step is compiled for."""
    measurement = Measurement(chosen, share, 0)
    recipe = finetune.recipe_for(measurement, measured, patience=1)
    return make_state(finetune.make_task(measurement, measured, RUNTIME), recipe)[0]


@pytest.mark.parametrize("unit", ["epochs", "steps", "examples"])
def test_every_share_of_the_labels_is_trained_for_the_steps_of_all(unit):
    lengths = {"epochs": (2, 1), "steps": (12, 6), "examples": (12 * 16, 6 * 16)}[unit]
    duration, warmup = (base.duration(**{unit: length}) for length in lengths)
    chosen, measured = target(duration=duration, schedule={"warmup": warmup}), subject()
    images = [len(measured.training_rows(Measurement(chosen, share, 0))) for share in (1.0, 0.25, 0.1)]
    assert images[0] == IMAGES and 16 < images[1] <= 32 and 8 <= images[2] < 16
    programs = [program(chosen, share, measured) for share in (1.0, 0.25, 0.1)]
    assert [each.fields.batch_size for each in programs] == [16, 16, 8], "no batch holds an image twice"
    assert {(each.total_steps, each.steps_per_epoch) for each in programs} == {(12, 6)}
    rates = [[float(each.schedule()(i)) for i in range(12)] for each in programs]
    assert rates[0] == rates[1] == rates[2] and np.argmax(rates[0]) == 6


@pytest.mark.parametrize("method", ["none", "balanced_sampling", "focal", "ccl"])
def test_shares_are_one_program_where_the_loss_depends_on_no_sizes(method):
    chosen, measured = target(imbalance=method), subject()
    whole, share = (program(chosen, fraction, measured) for fraction in (1.0, 0.5))
    assert whole == share and hash(whole) == hash(share)


@pytest.mark.parametrize("make", [subject, subject_with_findings])
def test_sizes_of_classes_are_those_of_the_share(make):
    measured, labels = make(), make().splits["train"].labels
    for share in (1.0, 0.25):
        measurement = Measurement(target(), share, 0)
        rows = measured.training_rows(measurement)
        task = finetune.make_task(measurement, measured, RUNTIME)
        weights = make_labels(labels[rows], 3).class_weights("balanced")
        np.testing.assert_allclose(task.table["weights"].get_value(), weights, rtol=1e-6)


def test_fields_of_lengths_are_steps_of_all_labels():
    lengths = finetune.lengths_for(target(schedule={"warmup": base.duration(epochs=0.5)}), IMAGES)
    assert dataclasses.astuple(lengths) == (12, 3, 6)


@pytest.mark.slow
def test_features_are_computed_once_for_equal_views(tmp_path, monkeypatch):
    extracted, extract, measured = [], features.extract, subject()
    monkeypatch.setattr(
        features, "extract", lambda *given, **options: extracted.append(1) or extract(*given, **options)
    )
    for protocol in ("knn", "linear", "knn"):
        protocols.measure(Measurement(target(protocol), 0.5, 0), measured, tmp_path, RUNTIME)
    assert len(extracted) == 3, "one for each split"
    protocols.measure(Measurement(target("knn", size=8), 1.0, 0), measured, tmp_path, RUNTIME)
    assert len(extracted) == 6
    assert not list(tmp_path.iterdir()), "frozen protocols leave no files"


@pytest.mark.parametrize("protocol", ["knn", "linear", pytest.param("finetune", marks=pytest.mark.slow)])
def test_findings_are_measured(protocol, tmp_path):
    """Brightness tells all three findings, so that even a random backbone ranks them."""
    measured = subject_with_findings()
    changes = {"neighbours": (3, 10)} if protocol == "knn" else {}
    changes |= {"duration": base.duration(epochs=8)} if protocol == "finetune" else {}
    outcome = protocols.measure(Measurement(target(protocol, **changes), 0.5, 0), measured, tmp_path, RUNTIME)
    labels, probs = outcome.predictions.labels, outcome.predictions.probs
    assert probs.shape == (24, 3) and 0 <= probs.min() and probs.max() <= 1
    known = np.isfinite(labels)
    areas = [sk.roc_auc_score(labels[k, c], probs[k, c]) for c, k in enumerate(known.T)]
    assert areas[0] > 0.8 and areas[2] > 0.8, areas
    assert outcome.chosen["validation_score"] > 0.7
    # What was chosen on validation is kept with the labels that chose it.
    kept = outcome.validation
    assert metrics.auroc(kept.labels, kept.probs) == pytest.approx(outcome.chosen["validation_score"], abs=1e-6)
    assert list(kept.ids) == list(measured.splits["validation"].ids)
    assert list(outcome.predictions.class_names) == list(FINDINGS)


@pytest.mark.slow
@pytest.mark.parametrize("make, method", [(subject, "logit_adjustment"), (subject_with_findings, "inverse_frequency")])
def test_the_trained_classifier_is_handed_on(make, method, tmp_path):
    """With what a method adds to the logits after training."""
    measured = make()
    outcome = protocols.measure(Measurement(target(imbalance=method), 1.0, 0), measured, tmp_path, RUNTIME)
    save_classifier(tmp_path / "c.safetensors", outcome.classifier)
    classifier, test = load_classifier(tmp_path / "c.safetensors"), measured.splits["test"]
    for each in (classifier, outcome.classifier):
        found = each.predict(test.images(), calibrated=False)
        np.testing.assert_allclose(found, outcome.predictions.probs, rtol=1e-4)
    assert classifier.class_names == tuple(test.class_names)
    assert classifier.temperature == outcome.chosen["temperature"]
    assert classifier.kind == make_labels(test.labels).KIND and classifier.info["images"] == IMAGES
    # What was measured stays as it was.
    tiny.assert_same(measured.backbone, tiny.backbone())


@pytest.mark.slow
def test_a_share_takes_all_steps_remembers_the_best_and_survives_a_kill(tmp_path, monkeypatch):
    """With class weights from the middle of the training on, and a head of cosines."""
    chosen = target(imbalance={"name": "ldam_drw", "deferred": 0.5})
    measured, measurement = subject(), Measurement(chosen, 0.25, 0)

    def measure(directory):
        return protocols.measure(measurement, measured, directory, RUNTIME)

    whole = measure(tmp_path / "whole")
    assert whole.chosen["steps"] == 12 and whole.chosen["best_step"] in (6, 12) and whole.chosen["images"] < 32
    with monkeypatch.context() as patch:
        patch.setattr(data, "Batches", stopping_after(8))
        with pytest.raises(Killed):
            measure(tmp_path / "killed")
    again = measure(tmp_path / "killed")
    np.testing.assert_array_equal(again.predictions.probs, whole.predictions.probs)
    same = ("best_step", "validation_score", "steps", "images", "temperature")
    assert {key: again.chosen[key] for key in same} == {key: whole.chosen[key] for key in same}
    assert again.classifier.hash() == whole.classifier.hash()
    assert weights.backbone_hash(again.classifier.network.backbone) != weights.backbone_hash(measured.backbone)


def test_a_frozen_protocol_is_asked_once_on_all_labels():
    asked = {one.name: target(one.name, seeds=(3, 4)) for one in protocols.MEASURES}
    assert {name: protocols.seeds_for(one, 1.0) for name, one in asked.items()} == {
        "knn": (3,),
        "linear": (3,),
        "svm": (3,),
        "finetune": (3, 4),
        "segment": (3, 4),
    }
    assert protocols.seeds_for(asked["knn"], 0.1) == (3, 4)
    assert protocols.seeds_for(target("svm", seeds=(3, 4), shots=2), 1.0) == (3, 4)


@pytest.mark.parametrize("shots, images", [(1, 3), (3, 9)])
def test_shots_are_so_many_images_of_each_class(shots, images, tmp_path):
    measured, measurement = subject(), Measurement(target("svm", shots=shots), 1.0, 5)
    assert len(measured.training_rows(measurement)) == images
    assert f"{shots} label" in str(measurement) and f"svm+{shots}shots" in str(measurement)
    other = Measurement(target("svm", shots=shots), 1.0, 6)
    assert not np.array_equal(measured.training_rows(measurement), measured.training_rows(other))
    assert protocols.measure(measurement, measured, tmp_path, RUNTIME).predictions.probs.shape == (24, 3)


@pytest.mark.slow
def test_norms_alone_can_be_trained_and_a_prediction_can_be_the_mean_over_views(tmp_path):
    measured = subject()
    shown = {name: target(trained="norms", test_views=name) for name in ("central", "flip")}
    one, mean = (protocols.measure(Measurement(t, 1.0, 0), measured, tmp_path / n, RUNTIME) for n, t in shown.items())
    assert one.classifier.hash() == mean.classifier.hash(), "views of test images are of no effect before"
    found, start = tiny.arrays(one.classifier.network.backbone), tiny.arrays(measured.backbone)
    moved = {name for name in start if not np.array_equal(found[name], start[name])}
    assert moved and all("norm" in name for name in moved)
    mirrored = data.from_arrays(measured.splits["test"].images()[:, :, ::-1], measured.splits["test"].labels)
    expected = (one.predictions.probs + one.classifier.predict(mirrored.images(), calibrated=False)) / 2
    np.testing.assert_allclose(mean.predictions.probs, expected, rtol=1e-4, atol=1e-6)


class TestCheckTarget:
    @pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"fractions": (1.0, 1.0)}, r"fractions are \(1.0, 1.0\); there must be some, each once"),
            ({"fractions": ()}, r"fractions are \(\); there must be some, each once and in \(0, 1\]"),
            ({"fractions": (0.5, 1.5)}, r"fractions are \(0.5, 1.5\)"),
            ({"seeds": ()}, r"seeds are \(\); there must be some"),
            ({"seeds": (-1,)}, r"seeds are \(-1,\); there must be some, each once, whole and not negative"),
            ({"seeds": (0, 0)}, r"seeds are \(0, 0\)"),
            ({"seeds": (0.5,)}, r"seeds are \(0.5,\)"),
        ],
    )
    def test_fields_of_every_target(self, protocol, wrong, message):
        with pytest.raises(UserError, match=message):
            protocols.check_target(target(protocol, **wrong), tiny.split(IMAGES))

    @pytest.mark.parametrize(
        ("protocol", "wrong", "message"),
        [
            ("knn", {"neighbours": ()}, r"neighbours are \(\); there must be some, each whole and at least 1"),
            ("knn", {"neighbours": (0, 5)}, r"neighbours are \(0, 5\)"),
            ("knn", {"neighbours": (2.5,)}, r"neighbours are \(2.5,\)"),
            ("knn", {"temperature": 0.0}, "temperature is 0.0; it must be positive"),
            ("knn", {"temperature": float("nan")}, "temperature is nan; it must be positive"),
            ("linear", {"strengths": ()}, r"strengths are \(\); there must be some, each positive"),
            ("linear", {"strengths": (0.0, 1.0)}, r"strengths are \(0.0, 1.0\)"),
            ("knn", {"class_weight": "even"}, "unknown class_weight 'even': known are balanced, none"),
            ("linear", {"class_weight": "even"}, "unknown class_weight 'even': known are balanced, none"),
            ("linear", {"max_iter": 0}, "max_iter is 0; it must be at least 1"),
            ("finetune", {"duration": {"epochs": 0.0}}, "duration is 0"),
            ("finetune", {"batch_size": 0}, "batch_size is 0; it must be at least 1"),
            ("finetune", {"fractions": (1.0, 0.05)}, "a fraction of 5 labelled images is too few for 8 devices"),
        ],
    )
    def test_fields_of_one_protocol(self, protocol, wrong, message):
        with pytest.raises(UserError, match=message):
            protocols.check_target(target(protocol, **wrong), tiny.split(IMAGES))

    @pytest.mark.parametrize(
        "protocol, wrong, message",
        [
            ("svm", {"shots": -1}, "shots is -1; it must be a whole number of labels of each class, or 0 for all"),
            ("knn", {"shots": 4, "fractions": (0.5,)}, r"shots is 4 and fractions are \(0.5,\); leave fractions at"),
            ("finetune", {"trained": "head"}, "trained is 'head'; known are all, norms"),
            ("segment", {"trained": "norms"}, "trained is 'norms'; known are all, decoder"),
            ("segment", {"batch_size": 0}, "batch_size is 0; it must be at least 1"),
            ("segment", {"shots": 4}, "shots is 4; it counts labels of each class, and segment learns from masks"),
            ("finetune", {"layer_decay": 0.0}, r"layer_decay is 0.0; it must lie in \(0, 1\]"),
            (
                "finetune",
                {"test_views": "ten"},
                "test_views is 'ten'; known are central, flip, right_angles, nine_",
            ),
        ],
    )
    def test_what_cannot_be_learnt_from_trained_or_tested(self, protocol, wrong, message):
        with pytest.raises(UserError, match=message):
            protocols.check_target(target(protocol, **wrong), tiny.split(IMAGES))

    def test_shots_of_findings_are_refused(self):
        split = dataclasses.replace(tiny.split(4), labels=np.float32([[0], [1], [0], [1]]), class_names=("opacity",))
        with pytest.raises(UserError, match="they need one class for each image, and tiny:train has findings"):
            protocols.check_target(target("linear", shots=1), split)

    def test_an_unknown_protocol(self):
        unknown = target("knn")
        unknown.protocol = "forest"
        with pytest.raises(UserError, match="unknown protocol 'forest': known are knn, linear, svm, finetune, segment"):
            protocols.check_target(unknown, tiny.split(IMAGES))


class TestCheckLabels:
    def test_findings_that_a_split_lacks_are_warned_of(self, caplog):
        opened = {name: with_findings(split) for name, split in splits().items()}
        protocols.check_labels(opened)
        assert not caplog.messages
        opened["test"].labels[:, 1] = np.nan
        protocols.check_labels(opened)
        lacking = "tiny:train has no image with, or no image without, the finding 'grey': it is not measured"
        assert caplog.messages == [lacking]

    @pytest.mark.parametrize("name", protocols.SPLITS)
    def test_a_split_without_any_finding_to_measure_is_refused(self, name):
        opened = {name: with_findings(split) for name, split in splits().items()}
        opened[name].labels[:] = 1
        message = r"no finding of tiny:train \(dark, grey, bright\) is present in some images and absent in others"
        with pytest.raises(UserError, match=message):
            protocols.check_labels(opened)

    def test_one_class_cannot_be_learnt(self):
        opened = splits()
        opened["train"].labels[:] = 2
        with pytest.raises(UserError, match="all 96 labelled images of tiny:train are of the class 'bright'; .* two"):
            protocols.check_labels(opened)
