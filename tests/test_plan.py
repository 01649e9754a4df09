"""What is judged before anything is trained: data, model, views, tasks and labels that do not go together."""

import numpy as np
import pytest
from tiny import tiny_in_the_table  # noqa: F401

from aiseeme_jax import data, evaluation, plan
from configs import base

pytestmark = pytest.mark.usefixtures("tiny_in_the_table")

SHAPES = {"colour": (16, 16, 3), "grey": (16, 16, 1), "volume": (8, 8, 8, 1)}
PRESETS = {"colour": "dermoscopy", "grey": "cxr", "volume": "ct"}


@pytest.fixture
def opened(monkeypatch):
    """Opens splits of 24 images of a kind, labelled unless told otherwise, in the place of prepared data sets."""

    def set_kind(kind, labels=None, class_names=("a", "b")):
        dtype = np.int16 if kind == "volume" else np.uint8
        labels = np.arange(24) % 2 if labels is None else labels

        def open_split(name, split, data_dir):
            return data.from_arrays(np.zeros((24, *SHAPES[kind]), dtype), labels, class_names=class_names, name=split)

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


@pytest.mark.parametrize("kind", SHAPES)
def test_what_goes_together_passes(kind, opened):
    plan.check(config(kind, ("npid", "moco_v2", "simclr")), opened(kind))


def test_geometric_tasks_go_with_grey_images(opened):
    plan.check(config("grey", ("rotation", "relative_location")), opened("grey"))


@pytest.mark.parametrize("task", ["rotation", "relative_location"])
def test_tasks_of_images_are_refused_on_volumes(task, opened):
    with pytest.raises(
        ValueError, match=rf"stages\[1\] \({task}\): {task} needs 2-D images, and views.dimensions is 3"
    ):
        plan.check(config("volume", ("npid", task)), opened("volume"))


def test_model_of_other_images_names_fields_and_values(opened):
    with pytest.raises(
        ValueError, match=r"model.channels 3, but set:train holds images \(16, 16, 1\): set .*channels=1"
    ):
        plan.check(config("grey", channels=3), opened("grey"))
    with pytest.raises(ValueError, match=r"model.dimensions is 2 .* holds volumes .*: set model.dimensions=3 and"):
        plan.check(config("volume", dimensions=2, views="grey"), opened("volume"))


def test_views_of_the_other_kind_name_the_presets_of_this_one(opened):
    stray = config("volume", views="grey")
    with pytest.raises(
        ValueError, match=r"stages\[0\] .*views.dimensions is 2, but model.dimensions 3: .* presets ct$"
    ):
        plan.check(stray, opened("volume"))
    stray.stages = ()
    with pytest.raises(ValueError, match=r"targets\[0\] \(knn\): views.dimensions is 2, but"):
        plan.check(stray, opened("volume"))
    with pytest.raises(ValueError, match="presets natural, dermoscopy, cxr"):
        plan.check(config("grey", views="volume"), opened("grey"))


def test_patience_and_the_weight_of_a_task_have_their_least_values(opened):
    split, made = opened("grey"), config("grey")
    made.stages[0].task_weight = -1.0
    with pytest.raises(ValueError, match=r"stages\[0\] \(npid\): task_weight is -1.0; it must be at least 0"):
        plan.check(made, split)
    made.stages[0].task_weight = 0.0
    plan.check(made, split)
    made.patience = 0
    with pytest.raises(ValueError, match="patience is 0; it must be at least 1"):
        plan.check(made, split)


class TestViTs:
    def test_views_must_consist_of_whole_patches(self, opened):
        model = {"name": "tiny_vit", "width": 1.0, "stem": "standard"}
        plan.check(config("colour", ("mae", "rotation"), patch=8, **model), opened("colour"))
        split, broken = opened("grey"), config("grey", ("npid",), patch=5, **model)
        for part, stages in ((r"stages\[0\] \(npid\)", broken.stages), (r"targets\[0\] \(knn\)", ())):
            broken.stages = stages
            with pytest.raises(ValueError, match=f"{part}: 16 px do not divide into patches of 5 px: .*model.patch"):
                plan.check(broken, split)

    def test_a_task_for_them_alone_names_them(self, opened):
        with pytest.raises(ValueError, match=r"stages\[1\] \(mae\): mae needs a ViT, .* vit_tiny, vit_small, vit_base"):
            plan.check(config("grey", ("rotation", "mae")), opened("grey"))


class TestLabels:
    def test_targets_need_them(self, opened):
        unlabelled = opened("grey", labels=[-1] * 24, class_names=())
        with pytest.raises(ValueError, match="train has no single label for each image: .* leave `targets` empty"):
            plan.check(config("grey"), unlabelled)
        pretraining = config("grey")
        pretraining.targets = ()
        plan.check(pretraining, unlabelled)

    def test_fine_tuning_is_judged_by_the_labelled_images(self, opened):
        split = opened("grey", labels=np.where(np.arange(24) < 12, 0, -1))
        made = config("grey")
        made.targets = (base.target("finetune", size=16, preset="cxr", batch_size=64, fractions=(0.5,)),)
        with pytest.raises(ValueError, match="a fraction of 6 labelled images is too few for 8 devices"):
            plan.check(made, split)

    def test_the_job_evaluate_is_judged_as_well(self, opened, tmp_path):
        opened("grey")
        wrong = [(config("grey", channels=3), "model.channels 3, but train holds images")]
        twice, unmeasured, unworkable = config("grey"), config("grey"), config("grey")
        twice.targets = 2 * twice.targets
        unmeasured.statistics.samples = 0
        unworkable.runtime.evaluation_batch = 0
        wrong.append((twice, r"targets\[1\]: a second target 'knn'; there can be one of each protocol"))
        wrong.append((unmeasured, "statistics.samples is 0; it must be at least 1"))
        wrong.append((unworkable, "runtime.evaluation_batch is 0; it must be at least 1"))
        for made, message in wrong:
            with pytest.raises(ValueError, match=message):
                evaluation.run(made, tmp_path / "run")
            assert not (tmp_path / "run").exists()

    def test_a_linear_probe_needs_two_classes(self, opened):
        split = opened("grey", labels=np.zeros(24, int))
        made = config("grey")
        plan.check(made, split)
        made.targets = (base.target("linear", size=16, preset="cxr"),)
        with pytest.raises(ValueError, match=r"targets\[0\] \(linear\): train has labels of one class; a linear probe"):
            plan.check(made, split)

    def test_a_test_split_of_one_patient_is_warned_of(self, opened, monkeypatch, caplog):
        split = opened("grey")
        plan.check(config("grey"), split)
        assert not caplog.messages
        alone = lambda *_: data.from_arrays(  # noqa: E731
            np.zeros((24, 16, 16, 1), np.uint8), np.arange(24) % 2, ["one"] * 24, ("a", "b"), name="set:test"
        )
        monkeypatch.setattr(data, "open_split", alone)
        plan.check(config("grey"), split)
        assert caplog.messages == ["set:test: all images are of one lesion or patient; no result will have an interval"]


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
            ("finetune", {"class_weight": "even"}, "unknown class_weight 'even'"),
            ("finetune", {"batch_size": 8, "duration": {"epochs": 0.0}}, "duration is 0"),
        ],
    )
    def test_a_wrong_field_is_told_before_anything_is_trained(self, opened, protocol, wrong, message):
        split, made = opened("grey"), config("grey")
        made.targets = (base.target(protocol, size=16, preset="cxr", **wrong),)
        with pytest.raises(ValueError, match=rf"targets\[0\] \({protocol}\): {message}"):
            plan.check(made, split)

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
            plan.check(made, split)
