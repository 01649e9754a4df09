"""Every experiment file: complete, locked, type-safe, with no field that nothing reads."""

import inspect
import json
import re
from pathlib import Path

import field_reads
import pytest
import tiny
from ml_collections import ConfigDict, FrozenConfigDict
from short_runs import config as short_config
from short_runs import splits, stage  # noqa: F401
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, data, distill, models, pretext, weights
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import imbalance
from aiseeme_jax.jobs import curriculum, search
from aiseeme_jax.pretext import pacing
from aiseeme_jax.study.variants import read_study
from aiseeme_jax.training import optimizers
from aiseeme_jax.training.samples import ORDERS
from configs import (
    base,
    cxr_curriculum,
    evaluate,
    isic_curriculum,
    isic_imbalance,
    isic_order,
    isic_pacing,
    isic_tuning,
    lidc_curriculum,
    pretext_tasks,
    study_architecture,
    study_curriculum,
    study_data_size,
    study_layers,
    study_schedule,
    study_transfer,
)
from configs.nodes import optimizer as default_optimizer

REPOSITORY = Path(__file__).resolve().parent.parent
VARIANTS = ("full", "small", "demo")
STUDIES = (
    study_architecture,
    study_curriculum,
    study_data_size,
    study_layers,
    study_schedule,
    study_transfer,
)
EXPERIMENTS = {module.__name__.split(".")[-1]: module for module in (isic_curriculum, cxr_curriculum, lidc_curriculum)}


def nodes(config, path=()):
    """Every node of a config with its path, those inside tuples included."""
    yield path, config
    if isinstance(config, ConfigDict):
        for key in config:
            yield from nodes(config[key], (*path, key))
    elif isinstance(config, tuple):
        for i, child in enumerate(config):
            yield from nodes(child, (*path, str(i)))


def everything():
    """A config with a stage of every task and every protocol."""
    config = base.get_config()
    config.stages = tuple(base.stage(task) for task in pretext.TASKS)
    config.targets = tuple(base.target(protocol) for protocol in protocols.PROTOCOLS)
    return config


def stages_of(config):
    """The stages of a curriculum, or those that a search may take."""
    return config.stages or tuple(config.search.pool.values())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("experiment", [*EXPERIMENTS.values(), isic_order], ids=[*EXPERIMENTS, "isic_order"])
class TestVariants:
    def test_is_locked_throughout(self, experiment, variant):
        for path, node in nodes(experiment.get_config(variant)):
            assert not isinstance(node, ConfigDict) or node.is_locked, ".".join(path)

    def test_is_plain_json_from_end_to_end(self, experiment, variant):
        config = experiment.get_config(variant)
        assert json.loads(config.to_json_best_effort()) == json.loads(json.dumps(config.to_dict(), default=vars_of))

    def test_every_length_schedule_optimizer_and_view_can_be_made(self, experiment, variant):
        config = experiment.get_config(variant)
        stages = stages_of(config)
        trained = [*stages, *(t for t in config.targets if t.protocol == "finetune")]
        assert len(trained) > len(stages) > 1
        for training in trained:
            frozen = FrozenConfigDict(training)
            sizes = {"steps_per_epoch": 100, "batch_size": frozen.batch_size}
            steps = optimizers.steps_of(frozen.duration, **sizes)
            peak = frozen.optimizer.learning_rate
            schedule = optimizers.make_schedule(frozen.schedule, peak, steps, *sizes.values())
            optimizers.make_optimizer(frozen.optimizer, schedule)
        for part in (*stages, *config.targets):
            views = augment.views_of(FrozenConfigDict(part).views)
            assert views.size == stages[0].views.size and len(views.mean) == config.model.channels
            assert views.dimensions == config.model.dimensions

    def test_every_task_is_one_for_such_images(self, experiment, variant):
        config = experiment.get_config(variant)
        assert all(config.model.dimensions in pretext.TASKS[stage.task].DIMENSIONS for stage in stages_of(config))

    def test_two_of_a_kind_share_nothing(self, experiment, variant):
        one, other = (stages_of(experiment.get_config(variant)) for _ in range(2))
        one[0].optimizer.learning_rate = 123.0
        assert other[0].optimizer.learning_rate != 123.0
        assert one[1].optimizer.learning_rate != 123.0


def vars_of(value):
    return value.to_dict()


def tasks_of(experiment, variant):
    return [stage.task for stage in experiment.get_config(variant).stages]


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_every_variant_trains_tasks_of_the_full_curriculum_in_their_order(experiment):
    whole = tasks_of(experiment, "full")
    assert tasks_of(experiment, "small") == whole
    chosen = tasks_of(experiment, "demo")
    assert len(chosen) > 1 and chosen == [task for task in whole if task in chosen]


def test_every_experiment_orders_its_tasks_alike():
    images = tasks_of(isic_curriculum, "full")
    assert tasks_of(cxr_curriculum, "full") == images
    volumes = tasks_of(lidc_curriculum, "full")
    assert images[-len(volumes) :] == volumes


# Experiment, and the names of its variants in the order of its docstring.
DOCUMENTED = {
    **dict.fromkeys([*EXPERIMENTS.values(), isic_order, isic_imbalance, isic_tuning, *STUDIES], VARIANTS),
    isic_pacing: (*VARIANTS, "samples"),
    pretext_tasks: ("resnet", "vit", "pairs"),
    study_curriculum: ("full", "small", "xray", "demo"),
}


@pytest.mark.parametrize("experiment", DOCUMENTED, ids=lambda module: module.__name__)
class TestDocstrings:
    def test_examples_are_commands_of_their_own(self, experiment):
        name, variants = experiment.__name__.split(".")[-1], DOCUMENTED[experiment]
        commands = [line for line in experiment.__doc__.splitlines() if "launch.py" in line]
        assert len(commands) == len(variants)
        for line, variant in zip(commands, variants, strict=True):
            file = f"{name}.py" + ("" if variant == variants[0] else f":{variant}")
            assert re.match(rf"    python launch.py --config=configs/{file} --workdir=\S+", line)

    def test_say_of_every_variant_what_to_expect_as_it_was_measured(self, experiment):
        """On which hardware, in what time, and numbers that are in the results; or that nothing was measured."""
        _, expected = experiment.__doc__.split("What to expect")
        head, *paragraphs = expected.split("\n\n")
        assert [text.partition(":")[0] for text in paragraphs] == list(DOCUMENTED[experiment])
        for text in paragraphs:
            if "not measured yet" in text:
                continue
            (page,) = re.findall(r"results/\w+\.md", text) or re.findall(r"results/\w+\.md", head)
            measured = (REPOSITORY / page).read_text()
            numbers = re.findall(r"[+\d.]+ \[[^]]+\]|\d+ min \d+ s", " ".join(text.split()))
            missing = [number for number in numbers if number not in measured]
            assert not missing, f"{page} has no {missing}"
            assert re.search("CPU cores|GPU", head + text) and re.search(r"\d s\b|minutes|time was not measured", text)


@pytest.mark.parametrize("name, experiment", EXPERIMENTS.items())
def test_unknown_variant_names_the_known_ones(name, experiment):
    with pytest.raises(ValueError, match=f"unknown variant 'smal' of {name}: known are full, small, demo"):
        experiment.get_config("smal")


class TestTasksAsAnArgument:
    @pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda module: module.__name__)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_are_trained_in_their_order(self, experiment, variant):
        found = experiment.get_config(f"{variant},tasks=vicreg+simclr+vicreg")
        assert [stage.task for stage in found.stages] == ["vicreg", "simclr", "vicreg"]
        plain = {stage.task: stage for stage in experiment.get_config(variant).stages}
        assert found.stages[1] == plain["simclr"]

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("small,tasks=rotation+spin", "unknown pretext task 'spin': known are barlow_twins, byol, "),
            ("small,tasks=", "unknown pretext task '': known are barlow_twins, byol, "),
            ("small,tasks=joint", "tasks=joint: 'joint' needs members"),
            ("small,order=rotation", "may follow tasks=ONE.ANOTHER, not 'order=rotation'"),
            ("small,tasks=rotation,tasks=byol", "may follow tasks=ONE.ANOTHER, not 'tasks=rotation,tasks=byol'"),
        ],
    )
    def test_what_they_cannot_be(self, argument, message):
        with pytest.raises(UserError, match=message):
            isic_curriculum.get_config(argument)

    def test_of_a_config_that_takes_none(self):
        with pytest.raises(UserError, match="'small' of isic_order takes no arguments, and 'small,tasks=byol' has"):
            isic_order.get_config("small,tasks=byol")


class TestPretextTasks:
    def test_every_task_of_images_is_compared(self):
        compared = {name for variant in ("resnet", "vit") for name in pretext_tasks.get_config(variant).curricula}
        assert compared == {name for name, task in pretext.TASKS.items() if 2 in task.DIMENSIONS}

    def test_pairs_are_plain_and_of_every_kind_of_distillation_beside_the_second_task_alone(self):
        curricula = pretext_tasks.get_config("pairs").curricula
        for first, second in pretext_tasks.PAIRS:
            kinds = {"none", *distill.KINDS, distill.AVERAGING}
            named = [stages for name, stages in curricula.items() if name.startswith(f"{first}-{second}")]
            assert all([stage.task for stage in stages] == [first, second] for stages in named)
            assert all(stages[0].distill.kind == "none" for stages in named)
            assert {stages[1].distill.kind for stages in named} == kinds and len(named) == len(kinds)
            assert [stage.task for stage in curricula[second]] == [second]

    @pytest.mark.parametrize("variant", ["resnet", "vit", "pairs"])
    def test_is_locked_throughout(self, variant):
        for path, node in nodes(pretext_tasks.get_config(variant)):
            assert not isinstance(node, ConfigDict) or node.is_locked, ".".join(path)


@pytest.mark.parametrize("variant", VARIANTS)
class TestImbalance:
    def test_every_method_is_compared_and_all_else_is_the_same(self, variant):
        targets = isic_imbalance.get_config(variant).targets
        assert {target.imbalance.name for target in targets} == set(imbalance.METHODS)
        rest = [{name: value for name, value in target.items() if name != "imbalance"} for target in targets]
        assert all(fields == rest[0] for fields in rest)
        assert len({imbalance.describe(target.imbalance) for target in targets}) == len(targets)

    def test_is_locked_throughout(self, variant):
        for path, node in nodes(isic_imbalance.get_config(variant)):
            assert not isinstance(node, ConfigDict) or node.is_locked, ".".join(path)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("experiment", STUDIES, ids=lambda module: module.__name__)
class TestStudies:
    def test_every_variant_can_be_applied_and_is_plain_json(self, experiment, variant):
        config = experiment.get_config(variant)
        study = read_study(config)
        assert len(study.runs) == len(study.variants) * len(study.seeds) and len(study.seeds) > 1
        assert len(study.seeds) == 3 or variant == "demo"
        assert json.loads(config.to_json_best_effort()) == json.loads(json.dumps(config.to_dict(), default=vars_of))

    def test_is_locked_throughout(self, experiment, variant):
        for path, node in nodes(experiment.get_config(variant)):
            assert not isinstance(node, ConfigDict) or node.is_locked, ".".join(path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_arm_of_the_study_of_curricula_shows_as_many_images(variant):
    config = study_curriculum.get_config(variant)
    shown = [config.stages, *config.curricula.values()]
    assert config.single_budget == "total" and any(name.startswith("single") for name in config.baselines)
    if config.budget.examples is not None:
        return
    assert all(sorted(s.task for s in stages) == sorted(s.task for s in config.stages) for stages in shown)
    tasks = {stage.task: stage for stage in config.stages}
    assert all(stage == tasks[stage.task] for stages in shown for stage in stages)


@pytest.mark.parametrize("variant", VARIANTS)
class TestPacing:
    def test_every_rule_is_compared_at_the_same_length(self, variant):
        config = isic_pacing.get_config(variant)
        stages = [*config.stages, *(stage for stages in config.curricula.values() for stage in stages)]
        rules = {(stage.task, (stage.fields.get("weights") or stage.fields.teacher).name) for stage in stages}
        assert rules >= {("joint", name) for name in pacing.WEIGHTINGS if name != "fixed"}
        assert rules >= {("bandit", f"tscl_{name}") for name in ("online", "window", "sampling")}
        assert ("bandit", "exp3s") in rules and {"weights", "single"} <= set(config.baselines)
        # A joint step is a step of each member.
        epochs = {task: {stage.duration.epochs for stage in stages if stage.task == task} for task in pacing.COMBINED}
        (bandit,), (joint,) = epochs["bandit"], epochs["joint"]
        assert bandit == joint * len(config.stages[0].fields.members)

    def test_is_locked_throughout(self, variant):
        for path, node in nodes(isic_pacing.get_config(variant)):
            assert not isinstance(node, ConfigDict) or node.is_locked, ".".join(path)


class TestEvaluate:
    @pytest.mark.parametrize("kind", evaluate.KINDS)
    def test_measures_one_kind_of_images_by_every_protocol_that_needs_labels(self, kind):
        of_labels = {one.name for one in protocols.MEASURES if one.needs == data.LABELS}
        whole, frozen = (evaluate.get_config(variant) for variant in (kind, f"{kind},32,frozen"))
        assert whole.job == "evaluate" and {one.protocol for one in whole.targets} == of_labels
        assert {one.protocol for one in frozen.targets} == of_labels - {"finetune"}
        assert {one.views.size for one in frozen.targets} == {32} and frozen.data.name.endswith("/32")
        assert {one.views.dimensions for one in whole.targets} == {whole.model.dimensions}

    def test_measures_by_masks_where_they_are_asked_for(self):
        made = evaluate.get_config("dermoscopy,64,masks")
        assert made.data.name == "isic2019/64_mask"
        assert [(one.protocol, one.trained) for one in made.targets] == [("segment", "all"), ("segment", "decoder")]
        frozen = evaluate.get_config("own,masks,frozen")
        assert [one.trained for one in frozen.targets] == ["decoder"] and frozen.data.name == "image_table/224_mask"
        with pytest.raises(UserError, match="there are masks of dermoscopy, own, not of ct"):
            evaluate.get_config("ct,masks")

    @pytest.mark.parametrize("options", ["64,32", "thawed", "64,frozen,6x"])
    def test_what_it_does_not_know_is_named(self, options):
        with pytest.raises(UserError, match=f"after 'cxr' may follow a size of .* not '{options.replace(',', ', ')}'"):
            evaluate.get_config(f"cxr,{options}")

    def test_an_unknown_kind_names_the_known_ones(self):
        with pytest.raises(UserError, match="unknown variant 'mri' of evaluate: known are dermoscopy, cxr, ct, own"):
            evaluate.get_config("mri")


@pytest.mark.parametrize("variant", VARIANTS)
class TestTuning:
    def test_each_task_stands_beside_itself_without_a_search(self, variant):
        arms = isic_tuning.get_config(variant).curricula
        assert {name.partition(",")[0] for name in arms} == set(isic_tuning.TASKS) and len(arms) == 4
        for task in isic_tuning.TASKS:
            (searched,), (plain,) = arms[f"{task}, searched"], arms[f"{task}, not searched"]
            assert searched.tuning.auto == ("learning_rate", "batch_size") and not plain.tuning.auto
            assert searched.batch_size in searched.tuning.batches
            different = [name for name in plain if name != "tuning" and plain[name] != searched[name]]
            assert different == []

    def test_is_locked_throughout(self, variant):
        for path, node in nodes(isic_tuning.get_config(variant)):
            assert not isinstance(node, ConfigDict) or node.is_locked, ".".join(path)


def test_paced_images_are_compared_at_the_same_length():
    config = isic_pacing.get_config("samples")
    stages = [*config.stages, *(stage for stages in config.curricula.values() for stage in stages)]
    assert [stage.samples.order for stage in stages] == list(ORDERS)
    rest = [{name: value for name, value in stage.items() if name != "samples"} for stage in stages]
    assert all(fields == rest[0] for fields in rest)
    for path, node in nodes(config):
        assert not isinstance(node, ConfigDict) or node.is_locked, ".".join(path)


def test_batches_of_volumes_have_learning_rates_to_scale():
    for images, volumes in zip(
        isic_curriculum.get_config("full").stages[2:], lidc_curriculum.get_config("full").stages, strict=True
    ):
        shares = [stage.optimizer.learning_rate / stage.batch_size for stage in (images, volumes)]
        assert shares[0] == pytest.approx(shares[1]) and volumes.batch_size < images.batch_size


class TestBase:
    @pytest.mark.parametrize("task", pretext.TASKS)
    def test_every_number_of_a_task_can_be_changed_by_its_name(self, task):
        fields = base.stage(task).fields
        for name, value in fields.items():
            if isinstance(value, int | float):
                other = (not value) if isinstance(value, bool) else value + 1
                assert base.stage(task, **{name: other}).fields.to_dict() == {**fields.to_dict(), name: other}

    def test_fields_of_model_and_views_are_what_their_makers_take(self):
        # A system that segments changes the output stride of a network.
        taken = inspect.signature(models.make_backbone).parameters.keys() - {"rngs", "output_stride"}
        assert set(everything().model) == taken
        for part in (*everything().stages, *everything().targets):
            assert set(part.views) == set(augment.Views.__dataclass_fields__)
        for part in (base.stage("simclr", preset="ct"), base.target("knn", preset="ct")):
            assert set(part.views) == set(augment.VolumeViews.__dataclass_fields__) and part.views.dimensions == 3

    def test_views_are_the_tasks_recipe_within_what_the_modality_allows(self):
        natural, lesion = (base.stage("simclr", preset=preset).views for preset in ("natural", "dermoscopy"))
        assert natural.hue == pretext.TASKS["simclr"].RECIPE["hue"] > lesion.hue
        assert lesion.right_angles and not natural.right_angles
        assert not base.stage("rotation", preset="dermoscopy").views.right_angles, "the answer would be drawn at random"

    def test_changes_reach_fields_of_stage_task_and_nested_nodes(self):
        stage = base.stage(
            "simclr", temperature=0.5, batch_size=64, optimizer={"name": "lars"}, duration=base.duration(steps=3)
        )
        assert (stage.fields.temperature, stage.batch_size, stage.optimizer.name) == (0.5, 64, "lars")
        assert stage.duration.to_dict() == {"epochs": None, "steps": 3, "examples": None}
        assert stage.optimizer.momentum == default_optimizer().momentum
        target = base.target("knn", neighbours=(3,))
        assert target.neighbours == (3,)

    @pytest.mark.parametrize("where", ["stage", "target", "nested", "run"])
    def test_unknown_field_is_an_error_that_names_it(self, where):
        with pytest.raises((AttributeError, KeyError), match="nonsense"):
            {
                "stage": lambda: base.stage("simclr", nonsense=1),
                "target": lambda: base.target("knn", nonsense=1),
                "nested": lambda: base.stage("simclr", optimizer={"nonsense": 1}),
                "run": lambda: base.get_config().update({"nonsense": 1}),
            }[where]()

    @pytest.mark.parametrize("where", ["stage", "task", "nested", "run"])
    def test_wrong_type_is_an_error(self, where):
        with pytest.raises(TypeError):
            {
                "stage": lambda: base.stage("simclr", batch_size="many"),
                "task": lambda: base.stage("simclr", temperature="hot"),
                "nested": lambda: base.stage("simclr", optimizer={"learning_rate": "high"}),
                "run": lambda: base.get_config().update({"seed": "abc"}),
            }[where]()

    def test_unknown_names_name_the_known_ones(self):
        with pytest.raises(ValueError, match="unknown pretext task 'guesswork': known are"):
            base.stage("guesswork")
        with pytest.raises(ValueError, match="unknown protocol 'forest': known are knn, linear, svm, finetune"):
            base.target("forest")
        with pytest.raises(
            ValueError,
            match="unknown view preset 'x-ray': known are ct, ct_planes, cxr, dermoscopy, grey_planes, natural",
        ):
            base.stage("simclr", preset="x-ray")

    @pytest.mark.parametrize("length", [{}, {"epochs": 2.0, "steps": 3}])
    def test_length_needs_exactly_one_unit(self, length):
        with pytest.raises(ValueError, match="a duration needs exactly one of epochs, steps, examples"):
            optimizers.steps_of(base.duration(**length), steps_per_epoch=5, batch_size=4)


def add_unread(node):
    """Gives a node of a config a field that nothing reads."""
    with node.unlocked():
        node.nonsense = 0


def judged():
    """What may end a stage early, with all its fields."""
    return base.stopping(base.proxy("knn", size=tiny.SIZE, neighbours=3, samples=4), patience=9, seconds=1e6)


@pytest.mark.slow
@pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")
def test_every_field_is_read_in_a_run(tmp_path):
    """Recorded in a run of every optimizer, schedule and protocol. Fields that nothing reads are added, and found."""
    weights.export_backbone(tiny.backbone(), tmp_path / "imagenet.safetensors")
    step = {"name": "step", "milestones": (0.5,)}
    mixed = {"a/1": 0.5, "b/1": 0.5}
    made = short_config(
        (
            stage(
                "rotation",
                6,
                optimizer={"name": "sgd", "clip_norm": 1.0},
                schedule=step,
                stop=judged(),
                samples={"order": "hardest", "until": 0.9},
            ),
            stage("npid", 3, optimizer={"name": "lars"}, schedule={"name": "constant"}, data=mixed, stop=judged()),
            stage("npid", 3, distill=({"kind": "kl"}, {"kind": "ewc", "teachers": (0,)}), stop=judged()),
        ),
        baselines=("imagenet", "single:rotation"),
        imagenet=str(tmp_path / "imagenet.safetensors"),
        single_budget="total",
    )
    made.targets = (
        base.target("knn", size=tiny.SIZE, neighbours=(3,)),
        base.target("linear", size=tiny.SIZE, strengths=(1.0,)),
        base.target("finetune", size=tiny.SIZE, duration=base.duration(steps=2), batch_size=8, imbalance="ldam_drw"),
    )
    trained = [*made.stages, made.targets[2]]
    for node in (made, made.runtime, *trained, *(part.optimizer for part in trained)):
        add_unread(node)
    with field_reads.recorded() as reads:
        curriculum.run(made, tmp_path / "run")
    # Of a search, the next test.
    fields = [path for path, _ in nodes(made) if path and ".".join(path) not in NAMED and "tuning" not in path]
    dead = {".".join(path) for path in fields if not is_read(made, path, reads)}
    parts = [
        f"{part}.{node}" for part in ("stages.0", "stages.1", "stages.2", "targets.2") for node in ("", "optimizer.")
    ]
    assert dead == {"nonsense", "runtime.nonsense", *(f"{part}nonsense" for part in parts)}


@pytest.mark.slow
@pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")
def test_every_field_of_a_search_is_read(tmp_path):
    made = base.get_search_config()
    made.model.update({"name": "tiny", "width": 0.125, "stem": "small", "dtype": "float32"})
    with made.search.unlocked():
        made.search.pool = base.ConfigDict({"rotation": stage("rotation", 2)}).lock()
        made.search.proxy = base.proxy("knn", size=tiny.SIZE, samples=4)
    made.search.update({"length": 1, "finalist_seeds": ()})
    for node in (made.search, made.search.proxy):
        add_unread(node)
    with field_reads.recorded() as reads:
        search.run(made, tmp_path / "run")
    inside = [path for path, _ in nodes(made.search) if path and path[0] != "pool" and "views" not in path]
    dead = {".".join(path) for path in inside if not is_read(made.search, path, reads)}
    assert dead == {"nonsense", "proxy.nonsense"}


@pytest.mark.slow
@pytest.mark.usefixtures("no_events", "tiny_in_the_table", "splits")
def test_every_field_of_a_search_of_a_learning_rate_is_read(tmp_path):
    judge = base.proxy("knn", size=tiny.SIZE, neighbours=3, samples=4)
    both = {"auto": ("learning_rate", "batch_size"), "batches": (8, 16), "share": 1.0, "rungs": 1}
    whole = base.tuning(judge, **both, sampler="grid", points=2, pruner="none", trials=1, round=1)
    halved = base.tuning(
        judge, **{**both, "rungs": 2}, keep=2, trials=2, range_test=True, range_steps=30, noise_scale=True,
        noise_batches=1,
    )  # fmt: skip
    stages = tuple(stage("rotation", 4, batch_size=16, tuning=search) for search in (whole, halved))
    made = short_config(stages, baselines=(), targets=())
    for one in made.stages:
        add_unread(one.tuning)
    with field_reads.recorded() as reads:
        curriculum.run(made, tmp_path / "run")
    for one in made.stages:
        inside = [path for path, _ in nodes(one.tuning) if path and "views" not in path]
        assert [".".join(path) for path in inside if not is_read(one.tuning, path, reads)] == ["nonsense"]


def test_every_field_of_a_study_is_read():
    made = study_data_size.get_config("demo")
    for node in (made.study, *made.study.vary):
        add_unread(node)
    with field_reads.recorded() as reads:
        read_study(made)
    inside = [path for path, _ in nodes(made.study) if path]
    dead = {".".join(path) for path in inside if not is_read(made.study, path, reads)}
    assert dead == {"nonsense", *(f"vary.{place}.nonsense" for place in range(3))}


# What a user names: not fields, but names of terms.
NAMED = {"stages.2.distill.kl", "stages.2.distill.ewc"}
# `made_for` is there to be compared by a check, which counts as no reading.
CHECKED_ONLY = {"made_for"}


def is_read(config, path, reads):
    """Whether a field was read in any node like its own, or in one made of such a node and more fields.

    Places in tuples count as read.
    """
    *parents, name = path
    node = config
    for part in parents:
        node = node[int(part)] if isinstance(node, tuple) else node[part]
    if isinstance(node, tuple) or name in CHECKED_ONLY:
        return True
    return any(name == field and names >= set(node) for names, field in reads)
