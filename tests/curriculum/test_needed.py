"""Supervised systems as targets: fields of their own, what their images must have, and networks in a row."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from short_runs import config, measurement_folders, stage

from aiseeme_jax import data, weights
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate import segment
from aiseeme_jax.evaluate.measurement import Measured, Protocol
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.store import artifacts
from configs import base

pytestmark = pytest.mark.usefixtures("tiny_in_the_table", "no_events")


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No fields."""


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Of how bright a predicted region must be."""

    above: float = 0.5

    def __post_init__(self):
        if not 0 < self.above < 1:
            raise UserError(f"system.above is {self.above}; it must lie in (0, 1)")


def check(target, train):
    PROTOCOLS["judge"].read_settings(target)


def outline(measurement, subject, directory, runtime):
    """As 'segment', with the decoder alone trained."""
    fields = ConfigDict({**measurement.target.to_dict(), "trained": "decoder"})
    return segment.measure(dataclasses.replace(measurement, target=fields), subject, directory, runtime)


def judge(measurement, subject, directory, runtime):
    """Classes by the area of the region that an earlier network predicts."""
    segmenter = weights.load_segmenter(measurement.needed["outline"])
    above = PROTOCOLS["judge"].read_settings(measurement.target).above
    found = {}
    for name in ("test", "validation"):
        share = (segmenter.predict(subject.splits[name].images()) > above).mean(axis=(1, 2))
        found[name] = np.stack([share, 1 - share, np.zeros_like(share)], axis=1)
    return Measured(found["test"], found["validation"], {"unlabelled": len(subject.splits["unlabelled"])})


PROTOCOLS = {
    "outline": Protocol("outline", True, lambda *given: None, outline, needs=data.MASKS, settings=Nothing),
    "judge": Protocol(
        "judge",
        False,
        check,
        judge,
        needs=data.Needs(masks=True, unlabelled=True),
        settings=Threshold,
        common=("test_views",),
        earlier={"outline": "outline"},
    ),
    "revise": Protocol("revise", False, lambda *given: None, judge, settings=Nothing, earlier={"judge": "judge"}),
}


@pytest.fixture(autouse=True)
def systems(monkeypatch):
    monkeypatch.setattr(protocols, "PROTOCOLS", {**protocols.PROTOCOLS, **PROTOCOLS})
    masks = np.zeros((24, tiny.SIZE, tiny.SIZE, 1), np.uint8)
    masks[:, 4:12, 4:12] = 1

    def open_split(name, split, data_dir):
        made = tiny.split(24, seed={"train": 0, "validation": 1, "test": 2}[split])
        labels = np.where(np.arange(24) < (4 if split == "train" else 0), -1, made.labels).astype(np.int32)
        return dataclasses.replace(made, labels=labels, segmentation=None if name == "bare" else masks)

    monkeypatch.setattr(data, "open_split", open_split)


def target(protocol, **changes):
    common = {"size": tiny.SIZE, "views": tiny.PLAIN}
    if protocol == "outline":
        common |= {"batch_size": 8, "duration": base.duration(steps=2)}
    return base.target(protocol, **{**common, **changes})


def plan(*targets, **changes):
    made = config((stage("rotation", 2),), targets=targets, baselines=(), **changes)
    return make_plan(made, DataSets(made))


def labels_of(made):
    return [piece.artifact.label.partition("-")[0] for piece in made.pieces()]


class TestPlan:
    def test_networks_in_a_row_are_planned_in_order_and_shared(self):
        outline = target("outline")
        chain = target("revise", judge=target("judge", outline=outline))
        made = plan(chain)
        assert labels_of(made) == ["00", "outline", "judge", "revise"]
        (last,) = made.arms[0].measurements
        assert list(last.needed) == ["judge"] and list(last.needed["judge"].needed) == ["outline"]
        assert curriculum.list_needed(last) == tuple(piece.artifact.key for piece in made.pieces()[1:3])
        assert len(plan(outline, chain).pieces()) == 4, "a target of its own is the same measurement"

    def test_each_share_and_seed_has_networks_of_its_own(self):
        made = plan(target("judge", outline=target("outline", fractions=(0.5,)), fractions=(0.5, 1.0), seeds=(1, 2)))
        needed = [(one.fraction, one.seed, one.needed["outline"]) for one in made.arms[0].measurements]
        assert all((earlier.fraction, earlier.seed) == (share, seed) for share, seed, earlier in needed)
        assert len({earlier.artifact.key for *_, earlier in needed}) == len(needed) == 3

    def test_a_key_has_the_fields_of_what_comes_before_and_no_label(self):
        def key(label="", above=0.5, **changes):
            made = plan(target("judge", label=label, above=above, outline=target("outline", **changes)))
            return made.arms[0].measurements[0].artifact.key

        assert key() == key(label="other")
        assert len({key(), key(above=0.6), key(batch_size=16), key(views={**tiny.PLAIN, "flip_horizontal": 0.1})}) == 4

    def test_two_of_one_system_are_told_apart_by_their_labels(self):
        several = [target("judge", outline=target("outline"), **more) for more in ({}, {"label": "high", "above": 0.9})]
        assert [one.name for one in plan(*several).arms[0].measurements] == ["judge", "judge+high"]
        with pytest.raises(UserError, match="a second target 'judge'; .* and of a system one of each `label`"):
            plan(several[0], several[0])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"above": 2.0}, r"targets\[0\] \(judge\): system.above is 2.0; it must lie in \(0, 1\)"),
            ({"label": "a:b"}, "label is 'a:b'; it may have letters, digits, and any of"),
            ({"data": "bare"}, r"targets\[0\] \(judge\): tiny:train has no segmentations: take a config"),
            ({"shots": 2}, "shots is 2; it counts labels of each class, and judge learns from labels and masks"),
        ],
    )
    def test_what_cannot_be_is_refused(self, changes, message):
        with pytest.raises(UserError, match=message):
            plan(target("judge", outline=target("outline"), **changes))

    def test_an_unknown_field_is_refused(self):
        for wrong in ({"below": 0.1}, {"layer_decay": 0.5}, {"optimizer": {"name": "sgd"}}):
            with pytest.raises(AttributeError, match=f"unknown field '{next(iter(wrong))}'"):
                target("judge", **wrong)

    def test_a_config_of_plain_values_makes_it_again(self):
        made = target("judge", above=0.25, outline=target("outline", batch_size=4))
        again = base.target_from_values(made.to_dict())
        assert again.to_dict() == made.to_dict() and again.earlier.outline.batch_size == 4


def test_images_have_what_is_needed():
    sets = DataSets(config())
    both = sets.target("tiny", needs=data.Needs(masks=True, unlabelled=True))
    assert {name: len(split) for name, split in both.items()} == {
        "train": 20,
        "validation": 24,
        "test": 24,
        "unlabelled": 4,
    }
    assert (both["unlabelled"].labels < 0).all() and "unlabelled" not in sets.target("tiny")
    partly = data.open_split("tiny", "train", "")
    masks = partly.segmentation.copy()
    masks[4:] = data.UNKNOWN
    with pytest.raises(UserError, match="of the images with a mask: no image of tiny:train is labelled"):
        data.take_needed(dataclasses.replace(partly, segmentation=masks), data.Needs(masks=True))
    masks[1] = data.UNKNOWN
    hidden = data.take_unlabelled(dataclasses.replace(partly, segmentation=masks), data.Needs(masks=True))
    assert list(hidden.ids) == ["0", "2", "3"]


def test_a_measurement_of_an_older_version_has_left_no_network(tmp_path):
    with pytest.raises(MissingFile, match="a measurement that trains a segmenter leaves one as network.safetensors$"):
        weights.load_segmenter(tmp_path)
    (tmp_path / artifacts.RECORD).touch()
    with pytest.raises(MissingFile, match=f"`.* store remove {tmp_path}` removes it, .* Then give this command again"):
        weights.load_segmenter(tmp_path)


@pytest.mark.slow
def test_a_network_reaches_the_measurement_that_needs_it(tmp_path):
    made = config((stage("rotation", 2),), targets=(target("judge", outline=target("outline")),), baselines=())
    curriculum.run(made, tmp_path / "run")
    (folder,) = [path for path in (tmp_path / "run" / "measurements").iterdir() if path.name.startswith("outline")]
    (judged,) = measurement_folders(tmp_path / "run").values()
    record = artifacts.read_record(judged)
    assert record["made_from"]["outline"]["hash"] == artifacts.read_record(folder)["network_hash"]
    assert record["unlabelled"] == 4
    segmenter = weights.load_segmenter(folder)
    images = tiny.images(3)
    probabilities = segmenter.predict(images)
    assert probabilities.shape == (3, tiny.SIZE, tiny.SIZE) and ((probabilities > 0) & (probabilities < 1)).all()
    np.testing.assert_allclose(probabilities[:1], segmenter.predict(images[:1], batch_size=1), atol=1e-6)
    with pytest.raises(UserError, match="this segmenter takes images of 3 channels, not of 1"):
        segmenter.predict(images[..., :1])
    with pytest.raises(UserError, match="network.safetensors is a segmenter, not a classifier of aiseeme_jax"):
        weights.load_network(folder, "classifier")
    segmenter.network.decoder.head.bias.set_value(jnp.ones(1))
    segmenter.save(folder)
    with pytest.raises(UserError, match="damaged, or not the one that its record tells of"):
        curriculum.run(made, tmp_path / "run")
