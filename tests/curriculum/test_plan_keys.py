"""Keys of a plan: everything that an outcome depends on is in its key, and nothing else."""

import dataclasses
import functools

import pytest
import tiny
from ml_collections import ConfigDict
from short_runs import config, stage

from aiseeme_jax import data, weights
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.pieces import PlannedFisher, PlannedMeasurement, PlannedStage
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.errors import UserError
from configs import base

pytestmark = pytest.mark.usefixtures("tiny_in_the_table", "splits")


def plan(made=None):
    made = made or config()
    return make_plan(made, DataSets(made))


def keys(made=None, kind=PlannedStage, arm=None):
    """Keys of all pieces of a kind, or of those of one arm."""
    if arm is None:
        return [piece.artifact.key for piece in plan(made).pieces() if isinstance(piece, kind)]
    (found,) = [one for one in plan(made).arms if one.name == arm]
    return [stage.artifact.key for stage in found.stages]


def everything(made=None):
    return [piece.artifact.key for piece in plan(made).pieces()]


def leaves(node, path=()):
    """Every value of a node of a config: (path, value)."""
    for name in node:
        value = node[name]
        if isinstance(value, ConfigDict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


# What another value of a field may be, where adding to it makes none.
OTHER = {
    "optimizer.name": "sgd",
    "schedule.name": "step",
    "distill.kind": "cosine",
    "distill.schedule": "linear",
    "distill.endpoint": "stage4",
    "distill.teachers": (0,),
    "stop.seconds": 5.0,
    "stop.every": 2,
    "stop.proxy.metric": "accuracy",
    "stop.proxy.class_weight": "none",
    "stop.proxy.views.mean": (0.5, 0.5, 0.5),
    "stop.proxy.views.std": (0.5, 0.5, 0.5),
    "stop.proxy.views.crop_scale": (0.5, 0.9),
    "stop.proxy.views.crop_ratio": (0.9, 1.1),
    "stop.proxy.views.blur_sigma": (0.2, 1.0),
    "views.mean": (0.5, 0.5, 0.5),
    "views.std": (0.5, 0.5, 0.5),
    "views.crop_scale": (0.5, 0.9),
    "views.crop_ratio": (0.9, 1.1),
    "views.blur_sigma": (0.2, 1.0),
    "views.size": 12,
    "duration.steps": 7,
    "batch_size": 16,
    "schedule.milestones": (0.5,),
    "seed": 11,
    "data": (("another/set", 1.0),),
    "samples.order": "hardest",
    "samples.every": 2,
    "samples.start": 0.9,
    "samples.warmup": 0.4,
    "samples.until": 0.8,
}
# What cannot be changed alone: a task has its own fields, epochs or examples beside the steps are an error, and views
# fit the images. (0,) is the same teacher as 'previous'.
NOT_ALONE = {"task", "made_for", "duration.epochs", "duration.examples", "distill.teachers", "views.dimensions"}
NOT_ALONE |= {"schedule.warmup.epochs", "schedule.warmup.examples", "views.right_angles", "views.window"}
NOT_ALONE |= {f"stop.proxy.{name}" for name in ("proxy", "made_for", "data", "views.dimensions", "views.window")}


def change(node, path, value):
    """Another value of a field."""
    name = ".".join(path)
    for part in path[:-1]:
        node = node[part]
    if name in OTHER:
        other = OTHER[name]
    elif isinstance(value, bool):
        other = not value
    elif isinstance(value, int | float):
        other = 1 if path[-1] in ("warmup", "steps", "queue") else value / 2 if 0 < value <= 1 else value + 1
    else:
        raise AssertionError(f"say in OTHER what else {name} can be, now {value!r}")
    with node.unlocked(), node.ignore_type():
        node[path[-1]] = other


# Of 24 images as many as a batch of 16 at least.
PACED = {"order": "easiest", "start": 0.75, "until": 0.7}


def full_stage():
    """A stage whose fields are all read."""
    judge = base.proxy("knn", size=tiny.SIZE, neighbours=3, samples=5)
    return stage("npid", 9, distill={"kind": "mse", "weight": 0.5}, stop=base.stopping(judge), samples=PACED)


def stage_fields():
    node = full_stage()
    # What is searched is in a key only if something is: see tests/jobs/test_tuning.py.
    return [path for path, _ in leaves(node) if path[0] != "tuning" and ".".join(path) not in NOT_ALONE]


def full_config():
    return config((stage("rotation", 4), full_stage()), baselines=())


@functools.cache
def full_keys():
    return everything(full_config())


@pytest.mark.parametrize("path", stage_fields(), ids=".".join)
def test_every_field_of_a_stage_changes_its_key_and_that_of_what_follows(path):
    made, before = full_config(), full_keys()
    node = made.stages[1]
    change(node, path, dict(leaves(node))[path])
    after = everything(made)
    assert after[0] == before[0], "the stage before does not depend on it"
    if path == ("fisher_batches",):
        # The weights do not depend on it: it asks for Fisher information, which has a key of its own.
        assert set(before) < set(after) and len(keys(made, PlannedFisher)) == 1
    else:
        assert not set(after[1:]) & set(before[1:])


def test_pacing_is_in_a_key_where_images_are_paced_and_only_what_is_read_of_it():
    plain = keys(config((stage("npid", 9),), baselines=()))
    # All images: the other fields say nothing.
    assert keys(config((stage("npid", 9, samples={"order": "all", "start": 0.7}),), baselines=())) == plain
    found = [
        keys(config((stage("npid", 9, samples=samples),), baselines=()))
        for samples in (PACED, {**PACED, "order": "random"}, {**PACED, "order": "random", "every": 2, "passes": 2})
    ]
    assert plain != found[0] != found[1] == found[2]


def test_no_field_of_runtime_is_in_a_key(tmp_path):
    before = everything()
    made = config()
    made.runtime.update({"data_dir": str(tmp_path), "store": str(tmp_path), "residence": "device", "workers": 3})
    made.runtime.compiled_programs, made.runtime.writers = str(tmp_path), ()
    made.runtime.update({"log_every": 7, "checkpoint_every": 9, "evaluation_batch": 5})
    assert set(made.runtime) == {
        "data_dir", "store", "residence", "workers", "log_every", "checkpoint_every", "evaluation_batch",
        "compiled_programs", "writers",
    }  # fmt: skip
    assert everything(made) == before


@pytest.mark.parametrize(
    "changes", [{"title": "new"}, {"statistics": {"samples": 7, "seed": 3}}, {"data": {"synthetic": True}}]
)
def test_no_field_of_the_report_is_in_a_key(changes):
    made = config()
    made.update(changes)
    assert everything(made) == everything()


@pytest.mark.parametrize(
    "changes",
    [{"seed": 7}, {"patience": 3}, {"model": {"width": 0.25}}, {"data": {"name": "another/set"}}],
    ids=["seed", "patience", "model", "data"],
)
def test_what_all_stages_depend_on_changes_all_of_them(changes):
    made = config()
    made.update(changes)
    assert not set(keys(made)) & set(keys())


def test_the_fingerprint_of_the_images_is_in_the_key(monkeypatch):
    before = everything()
    real = data.open_split
    monkeypatch.setattr(data, "open_split", lambda *where: dataclasses.replace(real(*where), version="2.0.0"))
    assert not set(everything()) & set(before)


def test_the_excluded_images_are_in_the_key_and_their_file_is_not(tmp_path):
    for name, text in (("a.txt", "3\n"), ("b.txt", "3\n"), ("c.txt", "4\n")):
        (tmp_path / name).write_text(text)
    first, copy, other = (config(baselines=()) for _ in range(3))
    for made, name in ((first, "a.txt"), (copy, "b.txt"), (other, "c.txt")):
        made.data.exclude = (str(tmp_path / name),)
    assert keys(first) == keys(copy)
    assert len(set(keys(first)) | set(keys(other)) | set(keys(config(baselines=())))) == 6
    # Targets are measured on what they were measured on before.
    assert len(keys(first, PlannedMeasurement)) == 3


def test_the_content_of_a_file_of_weights_is_in_the_key(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        made = weights.starting_backbone(config().model, "scratch", seed)
        weights.export_backbone(made, tmp_path / f"{name}.safetensors")
    first, copy, other = (keys(config(init=str(tmp_path / f"{name}.safetensors"))) for name in "abc")
    assert first == copy and not set(first) & set(other)


def test_arms_share_what_they_have_in_common():
    opening, other = stage("rotation", 2), stage("npid", 3)
    distilled = stage("npid", 3, distill={"kind": "mse"})
    made = config(baselines=())
    made.stages = ()
    made.curricula = ConfigDict({"one": (opening, other), "two": (opening, distilled), "three": (opening,)})
    one, two, three = (keys(made, arm=name) for name in ("one", "two", "three"))
    assert one[0] == two[0] == three[0] and one[1] != two[1]
    assert len(keys(made)) == 3


def test_the_single_arm_of_the_first_task_is_the_first_stage():
    assert keys(arm="single:rotation") == keys(arm="curriculum")[:1]
    assert keys(arm="single:npid") != keys(arm="curriculum")[1:]


def test_an_arms_name_is_in_no_key():
    made = config(baselines=())
    named = config(baselines=())
    named.stages, named.curricula = (), ConfigDict({"another": made.stages})
    assert everything(named) == everything(made)


def test_random_weights_are_fine_tuned_from_another_start_with_each_seed():
    made = config(baselines=("scratch",), stages=(stage("rotation", 2),))
    made.targets = (base.target("finetune", size=tiny.SIZE, batch_size=8, seeds=(0, 1)),)
    starts = {arm.name: [one.start for one in arm.measurements] for arm in plan(made).arms}
    assert [start.seed for start in starts["scratch"]] == [0, 1]
    assert starts["curriculum"][0] is starts["curriculum"][1]


def test_on_all_labels_a_protocol_that_trains_nothing_has_no_seed():
    def targets(*seeds):
        made = config(baselines=())
        made.targets = (base.target("knn", size=tiny.SIZE, neighbours=(3,), fractions=(0.5, 1.0), seeds=seeds),)
        return keys(made, PlannedMeasurement)

    (half, whole), (other_half, same_whole) = targets(0), targets(7)
    assert half != other_half and whole == same_whole


class TestEndpoints:
    def measured(self, *endpoints):
        made = config((stage("rotation", 2),), baselines=())
        made.targets = tuple(base.target("knn", size=tiny.SIZE, neighbours=(3,), endpoint=e) for e in endpoints)
        return plan(made).arms[0].measurements

    def test_each_has_a_name_and_a_key_and_the_pooled_one_is_as_before(self):
        found = self.measured("pooled", "stem", "stage2")
        assert [one.name for one in found] == ["knn", "knn+stem", "knn+stage2"]
        assert len({one.artifact.key for one in found}) == 3
        assert [one.artifact.content["target"].get("endpoint") for one in found] == [None, "stem", "stage2"]

    def test_one_that_the_network_does_not_have_is_named_with_those_that_it_has(self):
        with pytest.raises(
            UserError, match=r"targets\[0\] \(knn\): endpoint is 'stage5'; the endpoints of tiny are pooled, stage1"
        ):
            self.measured("stage5")


class TestLabelsAndTests:
    """How many labels, what is trained of a backbone, and on what it is tested."""

    def measured(self, *targets):
        made = config((stage("rotation", 2),), baselines=())
        made.targets = targets
        return plan(made).arms[0].measurements

    def target(self, protocol, **changes):
        return base.target(protocol, size=tiny.SIZE, **({"batch_size": 8} if protocol == "finetune" else {}), **changes)

    def test_each_is_in_the_key_and_the_defaults_are_as_before(self):
        changes = ({}, {"trained": "norms"}, {"layer_decay": 0.5}, {"test_views": "flip"}, {"shots": 2})
        found = self.measured(*(self.target("finetune", **change) for change in changes))
        assert len({one.artifact.key for one in found}) == len(changes)
        assert not {"trained", "layer_decay", "test_views", "shots", "test_data"} & {
            *found[0].artifact.content["target"]
        }

    def test_shots_are_drawn_with_every_seed(self):
        found = self.measured(self.target("svm", seeds=(0, 1)), self.target("svm", seeds=(0, 1), shots=2))
        assert [(one.name, one.seed) for one in found] == [("svm", 0), ("svm+2shots", 0), ("svm+2shots", 1)]
        assert len({one.artifact.key for one in found}) == 3

    def test_another_data_set_can_be_tested_on(self):
        plain, other = self.measured(self.target("knn"), self.target("knn", test_data="b/1"))
        assert (other.name, other.set, other.test_set) == ("knn:isic2019/224>b/1", "isic2019/224", "b/1")
        assert plain.artifact.key != other.artifact.key
        assert (
            other.artifact.content["data"]["test_name"] == "b/1" and "test_name" not in plain.artifact.content["data"]
        )
        assert other.artifact.label == "knn-isic2019-224-b-1-100pct-seed0"

    def test_of_other_classes_it_is_refused(self, monkeypatch):
        open_split = data.open_split

        def others(name, split, data_dir):
            opened = open_split(name, split, data_dir)
            return opened if name != "b/1" else dataclasses.replace(opened, class_names=("dark", "bright", "grey"))

        monkeypatch.setattr(data, "open_split", others)
        message = (
            r"targets\[0\] \(knn\): test_data: .* has the classes dark, bright, grey, and .*, from which the target"
        )
        with pytest.raises(UserError, match=message):
            self.measured(self.target("knn", test_data="b/1"))


class TestImbalance:
    def measured(self, *methods, **changes):
        """The planned measurements of fine-tuning with methods against class imbalance."""
        made = config((stage("rotation", 2),), baselines=())
        made.targets = tuple(base.target("finetune", size=tiny.SIZE, batch_size=8, imbalance=m) for m in methods)
        made.update(changes)
        return plan(made)

    def test_every_field_of_a_method_is_in_the_key(self):
        methods = ("none", "ldam_drw", {"name": "ldam_drw", "max_margin": 0.3}, {"name": "ldam_drw", "deferred": 0.7})
        made = self.measured("inverse_frequency", *methods)
        found = made.arms[0].measurements
        assert len({one.artifact.key for one in found}) == 5
        assert [one.name for one in found] == [
            "finetune",
            "finetune+none",
            "finetune+ldam_drw",
            "finetune+ldam_drw(max_margin=0.3)",
            "finetune+ldam_drw(deferred=0.7)",
        ]
        assert found[3].artifact.label == "finetune+ldam_drw-max_margin=0.3-100pct-seed0"

    def test_one_method_twice_is_refused(self):
        with pytest.raises(
            UserError, match=r"targets\[1\]: a second target 'finetune\+focal'; .* method against imbalan"
        ):
            self.measured("focal", {"name": "focal", "gamma": 2.0})

    def test_a_baseline_is_planned_before_what_needs_it_and_shared_with_a_target_of_its_own(self):
        static = {"name": "ccl", "order": "static", "start": 0.67}
        made = self.measured(static)
        (needs_it,) = made.arms[0].measurements
        kinds = [piece.artifact.label for piece in made.pieces()]
        assert kinds == ["00-rotation", "finetune+none-100pct-seed0", needs_it.artifact.label]
        assert needs_it.inputs["baseline"].target.imbalance.name == "none"
        both = self.measured("none", static)
        assert len(both.pieces()) == 3 and both.arms[0].measurements[0].artifact.key in keys_of(made)
        assert keys_of(self.measured(static, patience=3)) != keys_of(made), "of other baselines follow other orders"

    def test_other_methods_need_none(self):
        made = self.measured("none", "ldam_drw", {"name": "ccl", "start": 0.67})
        assert all(not one.needed and "baseline" not in one.inputs for one in made.arms[0].measurements)


def keys_of(made):
    return [piece.artifact.key for piece in made.pieces()]


class TestFisher:
    def two(self, **later):
        return config((stage("rotation", 2), stage("rotation", 3, distill={"kind": "ewc", **later})), baselines=())

    def test_it_is_planned_before_the_stage_that_needs_it(self):
        pieces = plan(self.two()).pieces()
        kinds = [type(piece) for piece in pieces[:3]]
        assert kinds == [PlannedStage, PlannedFisher, PlannedStage]
        assert pieces[2].inputs["Fisher information of 00-rotation"] is not None
        assert pieces[1].batches == 3, "an epoch of 24 images in batches of 8"

    def test_it_is_shared_and_does_not_change_its_stage(self):
        plain = config((stage("rotation", 2),), baselines=())
        assert keys(self.two())[0] == keys(plain)[0]
        made = self.two()
        made.curricula = ConfigDict({"other": (made.stages[0], stage("npid", 3, distill={"kind": "ewc"}))})
        assert len(keys(made, PlannedFisher)) == 1


class TestData:
    def test_a_stage_and_a_target_may_name_their_own(self):
        made = config((stage("rotation", 2, data="a/1"), stage("npid", 2)), baselines=())
        made.targets = (
            base.target("knn", size=tiny.SIZE, neighbours=(3,)),
            base.target("knn", size=tiny.SIZE, neighbours=(3,), data="b/1"),
        )
        (arm,) = plan(made).arms
        assert [stage.sets for stage in arm.stages] == [(("a/1", 1.0),), (("isic2019/224", 1.0),)]
        assert [one.name for one in arm.measurements] == ["knn", "knn:b/1"]

    def test_the_shares_of_a_mixture_are_in_the_key(self):
        def mixed(**shares):
            return config((stage("rotation", 2, data={f"{name}/1": part for name, part in shares.items()}),))

        assert len({keys(mixed(a=0.5, b=0.5))[0], keys(mixed(a=0.7, b=0.3))[0], keys(mixed(a=1.0))[0]}) == 3

    def test_a_share_of_the_images_is_in_the_keys_of_stages_by_the_images_that_are_drawn(self):
        def share(value, seed=-1, run=0):
            made = config((stage("rotation", 2),), baselines=("scratch",), seed=run)
            made.data.update({"share": value, "share_seed": seed})
            return made

        whole, half, other = (keys(made) for made in (share(1.0), share(0.5), share(0.5, seed=3)))
        assert len({whole[0], half[0], other[0]}) == 3 and keys(share(1.0, seed=3)) == whole
        assert "share" not in str(plan(share(1.0)).pieces()[0].artifact.content["data"])
        assert keys(share(1.0), PlannedMeasurement)[-3:] == keys(share(0.5), PlannedMeasurement)[-3:], "of scratch"
        drawn = [plan(share(0.5, run=run)).arms[0].stages[0].artifact.content["data"] for run in (0, 1)]
        fixed = [plan(share(0.5, 3, run)).arms[0].stages[0].artifact.content["data"] for run in (0, 1)]
        assert drawn[0] != drawn[1] and fixed[0] == fixed[1]

    def test_a_mixture_has_a_share_of_each_of_its_sets(self):
        made = config((stage("rotation", 2, data={"a/1": 0.5, "b/1": 0.5}),), baselines=())
        made.data.share = 0.5
        assert plan(made).arms[0].stages[0].images == 24
