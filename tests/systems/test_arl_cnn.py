"""ARL-CNN as a target: against the plain network, one network or one for each class, after a kill, bad input."""

import dataclasses

import numpy as np
import pytest
import tiny
from flax import nnx
from short_measurements import IMAGES, RUNTIME, Killed, splits, stopping_after, subject, target
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import data
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.protocols import Measurement
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import imbalance
from aiseeme_jax.store import checkpoints
from aiseeme_jax.systems import arl_cnn, one_against_rest
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table")
SHORT = {"optimizer": {"name": "adamw", "learning_rate": 1e-2}, "batch_size": 16, "duration": base.duration(steps=8)}


def measure(directory, **changes):
    chosen = target("arl_cnn", **{**SHORT, **changes})
    return protocols.measure(Measurement(chosen, 1.0, 0), subject(), directory, RUNTIME)


@pytest.mark.slow
def test_a_network_for_each_class_survives_a_kill_in_the_second(tmp_path, monkeypatch):
    tiny.use_devices(monkeypatch, 1)
    whole = measure(tmp_path / "whole", classes="one_against_rest")
    assert len(list(tmp_path.rglob("checkpoints"))) == 3
    checkpoints.drop_checkpoints(tmp_path / "whole")
    assert not list(tmp_path.rglob("checkpoints")) and len(list(tmp_path.rglob("metrics.jsonl"))) == 3
    found = whole.predictions
    scales = [one["attention_scales"]["1.0"] for one in whole.chosen["classes"].values()]
    assert len(set(scales)) == 3 and all(abs(scale - 0.001) > 1e-3 for scale in scales)
    assert found.probs.shape == (24, 3) and whole.classifier is None
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, rtol=1e-5)
    assert whole.chosen["steps"] == 24 and list(whole.chosen["classes"]) == ["dark", "grey", "bright"]
    assert whole.chosen["classes"]["bright"]["test_auroc"] > 0.8
    with monkeypatch.context() as patch:
        cut = iter((stopping_after(99), stopping_after(6)))
        patch.setattr(data, "Batches", lambda *args, **more: next(cut)(*args, **more))
        with pytest.raises(Killed):
            measure(tmp_path / "killed", classes="one_against_rest")
    again = measure(tmp_path / "killed", classes="one_against_rest")
    np.testing.assert_array_equal(again.predictions.probs, found.probs)


def test_scales_are_logged_with_their_gain():
    measured, chosen = subject(), target("arl_cnn", layer_decay=0.5, scale_rate=2.0)
    body = arl_cnn.add_attention(measured.backbone, "arl", 0.5)
    task = arl_cnn.AttentionFineTuning(
        body,
        Measurement(chosen, 1.0, 0).views,
        scale_rate=2.0,
        layer_decay=0.5,
        **tiny_head(),
    )
    found = {name: float(value) for name, value in task.describe_scales().items()}
    assert found == {"scale/1.0": 0.5, "gain/1.0": 0.5 * tiny.SIZE**2}
    assert ("backbone.stages.0.0.attention_scale", 2.0) in task.rate_factors and len(task.rate_factors) > 1


def tiny_head():
    return {"method": imbalance.make_method({"name": "none"}), "counts": (1, 1, 1), "rngs": nnx.Rngs(0)}


class TestOneAgainstRest:
    def test_a_class_or_a_finding_is_taken_by_itself(self):
        split = splits()["train"]
        alone = one_against_rest.one_class(split, 2)
        assert alone.class_names == ("rest", "bright") and (alone.labels == (split.labels == 2)).all()
        findings = np.stack([split.labels == 0, np.full(IMAGES, np.nan)], axis=1).astype(np.float32)
        many = dataclasses.replace(split, labels=findings, class_names=("dark", "odd"))
        assert one_against_rest.one_class(many, 0).labels.shape == (IMAGES, 1)

    def test_what_is_alike_in_all_images_is_refused(self):
        opened = splits()
        split = opened["validation"]
        opened["validation"] = dataclasses.replace(split, labels=np.minimum(split.labels, 1))
        chosen = target("arl_cnn", classes="one_against_rest")
        with pytest.raises(UserError, match="the images of tiny:train are all alike in 'bright': take 'softmax'"):
            arl_cnn.check_splits(chosen, opened)
        arl_cnn.check_splits(target("arl_cnn"), opened)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attention": "none"}, "system.attention is 'none'; known are arl, arl_gain"),
        ({"scale_rate": -1.0}, "system.scale_rate is -1.0; it must be at least 0 and finite"),
        ({"classes": "each"}, "system.classes is 'each'; known are softmax, one_against_rest"),
        ({"test_views": "ten"}, "test_views is 'ten'"),
        ({"imbalance": {"name": "ccl", "order": "static", "start": 0.67}}, "arl_cnn has none, so take another method"),
    ],
)
def test_fields_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        protocols.check_target(target("arl_cnn", **wrong), tiny.split(IMAGES))


def test_networks_that_have_no_such_blocks_are_refused():
    model = base.get_config().model
    for name, attention, message in (
        ("vit_tiny", "none", "model.name is 'vit_tiny'; arl_cnn puts attention into the blocks of a ResNet: resnet14"),
        ("resnet18", "arl_gain", "model.attention is 'arl_gain' and system.attention 'arl': make them the same"),
    ):
        model.update({"name": name, "attention": attention})
        with pytest.raises(UserError, match=message):
            arl_cnn.check_model(target("arl_cnn"), model)
