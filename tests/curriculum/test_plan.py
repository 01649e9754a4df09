"""What is judged before anything is trained: data, model, views, tasks and labels that do not go together."""

import jax
import numpy as np
import pytest
from tiny import tiny_in_the_table  # noqa: F401

from aiseeme_jax import data, pretext, weights
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.errors import UserError
from aiseeme_jax.jobs import curriculum
from configs import base

pytestmark = pytest.mark.usefixtures("tiny_in_the_table")

SHAPES = {"colour": (16, 16, 3), "grey": (16, 16, 1), "volume": (8, 8, 8, 1)}
PRESETS = {"colour": "dermoscopy", "grey": "cxr", "volume": "ct"}


@pytest.fixture
def opened(monkeypatch):
    """Opens splits of 24 images of a kind, labelled unless told otherwise, in the place of prepared data sets.

    `others` are the labels of single splits.
    """

    def set_kind(kind, labels=None, class_names=("a", "b"), **others):
        dtype = np.int16 if kind == "volume" else np.uint8
        labels = np.arange(24) % 2 if labels is None else labels

        def open_split(name, split, data_dir):
            images, own = np.zeros((24, *SHAPES[kind]), dtype), others.get(split, labels)
            return data.from_arrays(images, own, class_names=class_names, name=split)

        monkeypatch.setattr(data, "open_split", open_split)
        return open_split("", "set:train", "")

    return set_kind


def config(kind, tasks=("npid",), views=None, **model):
    """A config for one kind of data, with views of that kind or of another one."""
    *space, channels = SHAPES[kind]
    made = base.get_config()
    size = {"dimensions": len(space), "channels": channels, **model}
    made.model.update({"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32", **size})
    common = {"size": 16, "preset": PRESETS[views or kind]}
    made.stages = tuple(base.stage(t, batch_size=8, duration=base.duration(steps=2), **common) for t in tasks)
    made.targets = (base.target("knn", **common),)
    return made


def check(made, split=None):
    """Judges a config against the splits that `opened` gives."""
    del split
    return make_plan(made, DataSets(made))


@pytest.mark.parametrize("kind", SHAPES)
def test_what_goes_together_is_planned(kind, opened):
    (arm, *_) = check(config(kind, ("npid", "moco_v2", "simclr")), opened(kind)).arms
    assert [stage.fields.task for stage in arm.stages] == ["npid", "moco_v2", "simclr"]
    assert [(stage.images, stage.total_steps) for stage in arm.stages] == [(24, 2)] * 3
    assert [measurement.name for measurement in arm.measurements] == ["knn"]


def test_geometric_tasks_go_with_grey_images(opened):
    plan = check(config("grey", ("rotation", "relative_location")), opened("grey"))
    assert len(plan.arms[0].stages) == 2


@pytest.mark.parametrize("task", ["rotation", "relative_location"])
def test_tasks_of_images_are_refused_on_volumes(task, opened):
    with pytest.raises(
        ValueError, match=rf"stages\[1\] \({task}\): {task} needs 2-D images, and views.dimensions is 3"
    ):
        check(config("volume", ("npid", task)), opened("volume"))


def test_model_of_other_images_names_fields_and_values(opened):
    with pytest.raises(ValueError, match=r"model.channels 3, but train holds images \(16, 16, 1\): set .*channels=1"):
        check(config("grey", channels=3), opened("grey"))
    with pytest.raises(ValueError, match=r"model.dimensions is 2 .* holds volumes .*: set model.dimensions=3 and"):
        check(config("volume", dimensions=2, views="grey"), opened("volume"))


def test_views_of_the_other_kind_name_the_presets_of_this_one(opened):
    stray = config("volume", views="grey")
    with pytest.raises(
        ValueError, match=r"stages\[0\] .*views.dimensions is 2, but model.dimensions 3: .* presets ct$"
    ):
        check(stray, opened("volume"))
    stray.stages = config("volume").stages
    with pytest.raises(ValueError, match=r"targets\[0\] \(knn\): views.dimensions is 2, but"):
        check(stray, opened("volume"))
    with pytest.raises(ValueError, match="presets natural, dermoscopy, cxr"):
        check(config("grey", views="volume"), opened("grey"))


def test_patience_and_the_weight_of_a_task_have_their_least_values(opened):
    split, made = opened("grey"), config("grey")
    made.stages[0].task_weight = -1.0
    with pytest.raises(ValueError, match=r"stages\[0\] \(npid\): task_weight is -1.0; it must be at least 0"):
        check(made, split)
    made.stages[0].task_weight = 0.0
    check(made, split)
    made.patience = 0
    with pytest.raises(ValueError, match="patience is 0; it must be at least 1"):
        check(made, split)


class TestSmallBatches:
    """What is too small for a loss, a norm or a distillation is refused before anything is trained."""

    @pytest.fixture
    def plan(self, opened, monkeypatch):
        """Plans one stage on one device."""
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        split = opened("grey")

        def make(task, batch, size=16, **changes):
            made = config("grey", (task,), name="resnet18")
            changed = {"batch_size": batch, "duration": base.duration(steps=2), **changes}
            made.stages = (base.stage(task, size=size, preset="cxr", **changed),)
            return check(made, split)

        return make

    def test_a_task_that_compares_images(self, plan):
        message = r"stages\[0\] \(simclr\): simclr: a batch of 1 is too small: .* raise `batch_size` to at least 2"
        with pytest.raises(UserError, match=message):
            plan("simclr", 1)

    @pytest.mark.slow
    def test_norms_with_a_single_value(self, plan):
        message = r"stages\[0\] \({}\): batch normalisation of \(1, 1, 1, 64\) in training: .* at least 2 values"
        with pytest.raises(UserError, match=message.format("npid")):
            plan("npid", 1, size=8)
        with pytest.raises(UserError, match=message.format("moco_v2")):
            plan("moco_v2", 8, size=8, groups=8)
        plan("npid", 1, size=16)
        plan("rotation", 1, size=8)

    def test_a_distillation_that_compares_images(self, plan):
        distilled = {"distill": {"kind": "similarity_preserving"}}
        plan("rotation", 1, **distilled)
        made = config("grey", ("npid", "npid"))
        made.stages[1].distill.kind, made.stages[1].batch_size = "relational", 1
        with pytest.raises(UserError, match=r"stages\[1\] .* at least 3, and this stage gives 1; raise `batch_size`"):
            check(made)

    @pytest.mark.slow
    def test_fine_tuning(self, opened, monkeypatch):
        monkeypatch.setattr(jax, "device_count", lambda: 1)
        split, made = opened("grey"), config("grey", name="resnet18")
        for size, batch in ((8, 2), (16, 1)):
            made.targets = (base.target("finetune", size=size, preset="cxr", batch_size=batch),)
            check(made, split)
        made.targets = (base.target("finetune", size=8, preset="cxr", batch_size=1),)
        with pytest.raises(UserError, match=r"targets\[0\] \(finetune\): batch normalisation of \(1, 1, 1, 64\)"):
            check(made, split)


class TestViTs:
    def test_views_must_consist_of_whole_patches(self, opened):
        model = {"name": "tiny_vit", "width": 1.0, "stem": "standard"}
        check(config("colour", ("mae", "rotation"), patch=8, **model), opened("colour"))
        split, broken = opened("grey"), config("grey", ("npid",), patch=5, **model)
        for part in (r"stages\[0\] \(npid\)", r"targets\[0\] \(knn\)"):
            with pytest.raises(ValueError, match=f"{part}: 16 px do not divide into patches of 5 px: .*model.patch"):
                check(broken, split)
            broken.stages[0].views.size = 20

    def test_a_task_for_vits_only_says_so(self, opened):
        with pytest.raises(ValueError, match=r"stages\[1\] \(mae\): mae needs a ViT, .* vit_tiny, vit_small, vit_base"):
            check(config("grey", ("rotation", "mae")), opened("grey"))


class TestLabels:
    def test_targets_need_labels(self, opened):
        unlabelled = opened("grey", labels=[-1] * 24, class_names=())
        with pytest.raises(ValueError, match="train has no single label for each image: .* leave `targets` empty"):
            check(config("grey"), unlabelled)
        pretraining = config("grey")
        pretraining.targets = ()
        check(pretraining, unlabelled)

    def test_fine_tuning_is_checked_with_the_labelled_images(self, opened):
        split = opened("grey", labels=np.where(np.arange(24) < 12, np.arange(24) % 2, -1))
        made = config("grey")
        made.targets = (base.target("finetune", size=16, preset="cxr", batch_size=64, fractions=(0.5,)),)
        with pytest.raises(ValueError, match="a fraction of 6 labelled images is too few for 8 devices"):
            check(made, split)

    def test_the_job_evaluate_is_checked_too(self, opened, tmp_path):
        opened("grey")
        wrong = [(config("grey", channels=3), "model.channels 3, but train holds images")]
        twice, unmeasured, unworkable = config("grey"), config("grey"), config("grey")
        twice.targets = 2 * twice.targets
        unmeasured.statistics.samples = 0
        unworkable.runtime.evaluation_batch = 0
        wrong.append((twice, r"targets\[1\]: a second target 'knn'; there can be one of each protocol"))
        wrong.append((unmeasured, "statistics.samples is 0; it must be at least 1"))
        wrong.append((unworkable, "runtime.evaluation_batch is 0; it must be at least 1"))
        other = config("grey")
        other.targets[0].protocol = "linear"
        wrong.append((other, r"targets\[0\] \(linear\): protocol was changed to 'linear'"))
        for made, message in wrong:
            with pytest.raises(ValueError, match=message):
                curriculum.run(made, tmp_path / "run")
            assert not (tmp_path / "run").exists()

    def test_a_test_split_of_one_patient_is_warned_of(self, opened, monkeypatch, caplog):
        split = opened("grey")
        check(config("grey"), split)
        assert not caplog.messages
        alone = lambda *_: data.from_arrays(  # noqa: E731
            np.zeros((24, 16, 16, 1), np.uint8), np.arange(24) % 2, ["one"] * 24, ("a", "b"), name="set:test"
        )
        monkeypatch.setattr(data, "open_split", alone)
        check(config("grey"), split)
        assert caplog.messages == ["set:test: all images are of one lesion or patient; no result will have an interval"]

    def test_one_class_cannot_be_learnt(self, opened):
        split = opened("grey", labels=[1] * 24)
        with pytest.raises(ValueError, match="targets: all 24 labelled images of train are of the class 'b'; .* two"):
            check(config("grey"), split)
        pretraining = config("grey")
        pretraining.targets = ()
        check(pretraining, split)

    def test_classes_that_a_split_lacks_are_named_once(self, opened, caplog):
        names = ("a", "b", "c")
        check(config("grey"), opened("grey", labels=np.arange(24) % 3, class_names=names))
        assert not caplog.messages
        check(config("grey"), opened("grey", class_names=names, validation=np.arange(24) % 3, test=[1] * 24))
        assert caplog.messages == [
            "train has no image of the class 'c': it cannot be learnt",
            "test has no image of the class 'a': it is not measured",
            "test has no image of the class 'c': it is not measured",
        ]
        caplog.clear()
        check(config("grey"), opened("grey", validation=[0] * 24))
        assert caplog.messages == ["validation has no image of the class 'b': it does not count in what is chosen"]


class TestTargets:
    @pytest.mark.parametrize(
        "protocol, wrong, message",
        [
            ("knn", {"fractions": (1.0, 1.0)}, r"fractions are \(1.0, 1.0\); there must be some, each once"),
            ("knn", {"fractions": ()}, r"fractions are \(\); there must be some, each once and in \(0, 1\]"),
            ("knn", {"fractions": (0.5, 1.5)}, r"fractions are \(0.5, 1.5\); there must be some, each once and in"),
            ("knn", {"seeds": (-1,)}, r"seeds are \(-1,\); there must be some, each once, whole and not negative"),
            ("knn", {"seeds": (0, 0)}, r"seeds are \(0, 0\); there must be some, each once"),
            ("knn", {"seeds": (0.5,)}, r"seeds are \(0.5,\); there must be some, each once, whole"),
            ("knn", {"neighbours": ()}, r"neighbours are \(\); there must be some, each whole and at least 1"),
            ("knn", {"neighbours": (0, 5)}, r"neighbours are \(0, 5\); there must be some, each whole and at least 1"),
            ("knn", {"temperature": 0.0}, "temperature is 0.0; it must be positive"),
            ("knn", {"temperature": float("nan")}, "temperature is nan; it must be positive"),
            ("linear", {"strengths": ()}, r"strengths are \(\); there must be some, each positive"),
            ("linear", {"strengths": (0.0, 1.0)}, r"strengths are \(0.0, 1.0\); there must be some, each positive"),
            ("linear", {"max_iter": 0}, "max_iter is 0; it must be at least 1"),
            ("knn", {"class_weight": "even"}, "unknown class_weight 'even'"),
            ("linear", {"class_weight": "even"}, "unknown class_weight 'even'"),
            ("finetune", {"batch_size": 8, "imbalance": {"name": "ccl", "start": 0.3}}, "imbalance.start is 0.3: of"),
            ("finetune", {"batch_size": 8, "imbalance": {"name": "focal", "gamma": -1.0}}, "imbalance.gamma is -1.0"),
            ("finetune", {"batch_size": 8, "duration": {"epochs": 0.0}}, "duration is 0"),
        ],
    )
    def test_a_wrong_field_is_named_before_anything_is_trained(self, opened, protocol, wrong, message):
        split, made = opened("grey"), config("grey")
        made.targets = (base.target(protocol, size=16, preset="cxr", **wrong),)
        with pytest.raises(ValueError, match=rf"targets\[0\] \({protocol}\): {message}"):
            check(made, split)

    @pytest.mark.parametrize(
        "field, value, message",
        [
            ("samples", 0, "statistics.samples is 0; it must be at least 1"),
            ("seed", -1, "statistics.seed is -1; it must be at least 0"),
        ],
    )
    def test_statistics(self, opened, field, value, message):
        split, made = opened("grey"), config("grey")
        made.statistics[field] = value
        with pytest.raises(ValueError, match=f"^{message}$"):
            check(made, split)


class TestChangedNames:
    """A name changed on the command line leaves the fields and views of the old one."""

    @pytest.mark.parametrize("was, now", [("rotation", "npid"), ("npid", "simclr"), ("rotation", "rotation3d")])
    def test_another_task_is_refused(self, was, now, opened):
        changed = config("grey", ("simclr", was))
        changed.stages[1].task = now
        message = rf"stages\[1\] \({now}\): task was changed to '{now}', .* '{was}': write stage\('{now}', …\) in"
        with pytest.raises(ValueError, match=message):
            check(changed, opened("grey"))

    def test_another_protocol_is_refused(self, opened):
        changed = config("grey")
        changed.targets[0].protocol = "linear"
        message = r"targets\[0\] \(linear\): protocol was changed to 'linear', .*'knn': write target\('linear', …\) in"
        with pytest.raises(ValueError, match=message):
            check(changed, opened("grey"))

    def test_an_unknown_name_lists_the_known_ones(self, opened):
        changed = config("grey")
        changed.stages[0].task = "guesswork"
        with pytest.raises(ValueError, match="unknown pretext task 'guesswork': known are barlow_twins, byol"):
            check(changed, opened("grey"))
        changed = config("grey")
        changed.targets[0].protocol = "forest"
        with pytest.raises(ValueError, match="unknown protocol 'forest': known are knn, linear, svm, finetune"):
            check(changed, opened("grey"))


def test_without_stages_there_must_be_other_curricula_or_weights(opened, tmp_path):
    split, empty = opened("grey"), config("grey")
    stages, empty.stages = empty.stages, ()
    with pytest.raises(ValueError, match="no stages: there is nothing to pretrain. Set `stages` or `curricula`"):
        check(empty, split)
    empty.curricula = base.ConfigDict({"one": stages})
    check(empty, split)
    given = config("grey")
    given.stages, given.init = (), str(tmp_path / "weights.safetensors")
    weights.export_backbone(weights.starting_backbone(given.model, "scratch", 0), given.init)
    check(given, split)


class TestWhatLibrariesRefuse:
    def broken(self, monkeypatch, error):
        class Broken(pretext.TASKS["npid"]):
            def __init__(self, *arguments, **fields):
                raise error

        monkeypatch.setitem(pretext.TASKS, "npid", Broken)
        return config("grey", ("simclr", "npid"))

    def test_a_value_that_a_library_refuses_is_the_users_to_mend(self, opened, monkeypatch):
        made = self.broken(monkeypatch, ValueError("shapes must be 1D"))
        with pytest.raises(UserError, match=r"stages\[1\] \(npid\): shapes must be 1D"):
            check(made, opened("grey"))

    @pytest.mark.parametrize("error", [KeyError("bug"), TypeError("unsupported operand"), ZeroDivisionError("x")])
    def test_any_other_error_keeps_its_traceback_and_says_what_was_checked(self, opened, monkeypatch, error):
        made = self.broken(monkeypatch, error)
        with pytest.raises(type(error)) as caught:
            check(made, opened("grey"))
        assert caught.value is error and "while stages[1] (npid) of the config was checked" in error.__notes__

    @pytest.mark.parametrize("dtype", ["float16", "int32", "float99"])
    def test_types_that_networks_do_not_compute_in(self, dtype, opened):
        with pytest.raises(ValueError, match=f"model.dtype is '{dtype}': known are float32, bfloat16"):
            check(config("grey", dtype=dtype), opened("grey"))
