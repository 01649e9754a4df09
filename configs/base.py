"""Every field of a run, with its default and its meaning. A file of an experiment changes values, and adds no fields.

The fields of a pretext task are the keyword arguments of its class, with their defaults. `stage` puts them under
`fields`. Parts that several nodes have in common are in `nodes.py`, the fields of stages with members in `members.py`,
those of a search of a learning rate and a batch size in `tuning.py`, those of supervised systems in `system_fields.py`.
These five files, `recipes.py` and `evaluate.py` are no experiments. The others beside them say what to expect of them.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from aiseeme_jax import pretext
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate.measurement import COMMON_FIELDS
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.pretext import pacing
from configs.members import combined_fields
from configs.nodes import (
    change,
    common_fields,
    data_sets,
    distillation,
    duration,
    sample_pacing,
    several,
    training,
    views,
)
from configs.system_fields import system_fields
from configs.tuning import read_auto, tuning


def stopping(proxy: ConfigDict | None = None, **changes: Any) -> ConfigDict:
    """What may end a stage before its last step: stage(..., stop=stopping(proxy("knn", share=0.1), patience=3)).

    Args:
      proxy: of `proxy`: the stage ends when this score of its backbone does not improve any more, and leaves the
        backbone that scored best. 'rankme' and 'lidar' need no labels.
      **changes: fields, as in `stage`.
    """
    config = ConfigDict(
        {
            "proxy": ConfigDict() if proxy is None else proxy,
            "every": 1,  # epochs from one score to the next
            "patience": 3,  # scores in a row without an improvement
            "least": 0.0,  # what a score must rise by to be an improvement
            "seconds": placeholder(float),  # of training after which the stage ends; results then depend on the machine
        }
    )
    return change(config, changes)


def stage(task: str, *, size: int = 224, preset: str = "natural", **changes: Any) -> ConfigDict:
    """A pretext stage.

    Args:
      task: name in `pretext.TASKS`; or 'joint' or 'bandit' with `members`, which `docs/pacing.md` explains:
        stage("joint", members=(stage("rotation"), stage("moco_v2")), weights="famo").
      size: side of the views in pixels.
      preset: view preset of the modality: natural, dermoscopy, cxr, ct (volumes), ct_planes (HU), grey_planes.
      **changes: fields of the stage or of the task; dicts for nested nodes; `data` as `data_sets` takes it;
        `samples` as `sample_pacing` takes it; `members`, `weights` and `teacher` as `combined_fields` takes them.

    `learning_rate="auto"` and `batch_size="auto"` have them searched, as `tuning` says: see `docs/tuning.md`.

    Raises AttributeError that names an unknown field, UserError for members that cannot be, and for "auto" without a
    score to search by.
    """
    kind = pretext.task_class(task)
    config = training()
    config.task = task
    config.made_for = task  # the task of `fields` and `views`; never changed, so that a changed task is noticed
    if task in pacing.COMBINED:
        if (size, preset) != (224, "natural"):
            raise UserError(f"{task}: its members have views of their own: give `size` and `preset` to each of them")
        config.fields = combined_fields(task, changes, stage)
    else:
        config.fields = ConfigDict(pretext.task_fields(task))  # of the task
        config.views = views(kind.RECIPE, kind.FIXED, size=size, preset=preset)
    config.data = ()  # (data set, share of every batch), …; empty: config.data.name
    config.distill = distillation()  # or several: stage(..., distill=({"kind": "kl"}, {"kind": "l2_sp"}))
    config.task_weight = 1.0  # of the task's own loss beside the distillation
    # Batches for its Fisher information. 0 = an epoch, at most 100 batches, if a later stage is distilled by `ewc`.
    config.fisher_batches = 0
    config.seed = placeholder(int)  # None: derived from the run's seed and the stage's position
    config.samples = sample_pacing(changes.pop("samples", "all"))  # or samples="easiest"
    config.stop = stopping()  # nothing ends the stage early; or stop=stopping(...)
    config.tuning = tuning()  # learning rate and batch size are not searched; or tuning=tuning(...)
    has_views = "views" in config
    changes = read_auto(changes, functools.partial(proxy, "knn", size=size, preset=preset) if has_views else None)
    if isinstance(changes.get("distill"), tuple | list):
        config.distill = several(changes.pop("distill"))
    if "data" in changes:
        config.data = data_sets(changes.pop("data"))
    own = {key: changes.pop(key) for key in list(changes) if key in config.fields}
    config.fields.lock().update(own)
    return change(config, changes)


def target(protocol: str, *, size: int = 224, preset: str = "natural", **changes: Any) -> ConfigDict:
    """A measurement of a backbone on labelled data.

    Args:
      protocol: 'knn', 'linear', 'svm', 'finetune', 'segment', or a supervised system of `docs/systems.md`.
      size, preset: of its views, as in `stage`.
      **changes: fields, as in `stage`; of a system also those under `system`, and targets under `earlier` by their
        names; `imbalance` as `imbalance_method` takes it.
    """
    config = ConfigDict(
        {
            "protocol": protocol,
            "made_for": protocol,  # as in a stage
            # Shares of the labelled training images: nested, stratified, of whole groups. Validation always has all its
            # labels. So k, C and epoch are chosen on more labels than a fraction says.
            "fractions": (1.0,),
            "shots": 0,  # so many labelled training images of each class, instead of a share; 0: as fractions say
            "data": "",  # data set and config; empty: config.data.name
            "test_data": "",  # another data set, on whose test images is measured; empty: that of `data`
            "seeds": (0,),  # of the draw of the labels, and of fine-tuning
        }
    )
    if protocol in ("knn", "linear", "svm"):
        config.endpoint = "pooled"  # of the backbone: stem | stage1 … stage4, each averaged over its positions | pooled
    if protocol == "knn":
        config.neighbours = (5, 10, 20, 50, 100, 200, 500)  # chosen on validation
        config.temperature = 0.07  # of the votes
        config.class_weight = "balanced"  # balanced: votes over the number of training images of the class | none
    elif protocol == "linear":
        config.strengths = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the logistic regression, chosen on validation
        config.class_weight = "balanced"  # balanced | none
        config.max_iter = 1000  # of each fit
    elif protocol == "svm":
        config.strengths = (1e-2, 1e-1, 1.0, 10.0, 100.0)  # C of the machines, chosen on validation
        config.class_weight = "balanced"  # balanced | none
        config.max_iter = 2000  # of each machine
    elif protocol == "finetune":
        config.update(training())
        # all | norms: of the backbone only the scales and biases of its normalisation layers. The head always learns.
        config.trained = "all"
        # An epoch is always one of all labelled training images, also for the warm-up. So every fraction takes the same
        # number of steps, and is validated at the same steps.
        config.duration = duration(epochs=50)
        config.update(common_fields(COMMON_FIELDS, changes))
    elif protocol == "segment":
        config.update(training())
        config.trained = "all"  # backbone and decoder | decoder: the backbone stays as it is
        # Epochs are those of all images with a mask, as with finetune.
        config.duration = duration(epochs=50)
    else:
        config.update(system_fields(protocol, changes, functools.partial(target, size=size, preset=preset)))
    config.views = views(FineTuning.RECIPE, FineTuning.FIXED, size=size, preset=preset)
    return change(config, changes)


def proxy(name: str, *, size: int = 224, preset: str = "natural", **changes: Any) -> ConfigDict:
    """A score of backbones by which a search decides. `docs/search.md` explains them.

    Args:
      name: 'knn', 'linear', 'norms', 'rankme' or 'lidar'.
      size, preset: of its views, as in `stage`.
      **changes: fields, as in `stage`.
    """
    config = ConfigDict(
        {
            "proxy": name,
            "made_for": name,  # as in a stage
            "data": "",  # data set and config; empty: config.data.name
            "seed": 0,  # of the draw of images or labels, and of the resamples
        }
    )
    recipe = FineTuning.RECIPE
    if name in ("knn", "linear", "norms"):
        config.share = 1.0  # of the labelled training images
        config.validation_share = 1.0  # of the labelled validation images, on which it is scored
        config.metric = "auroc"  # auroc | average_precision; of classes also balanced_accuracy, macro_f1, accuracy, …
        config.class_weight = "balanced"  # balanced | none
        config.samples = 500  # resamples of the validation images, over groups, for the uncertainty
    if name == "knn":
        config.neighbours = 20
        config.temperature = 0.07  # of the votes
    elif name == "linear":
        config.strength = 0.1  # C of the logistic regression
        config.max_iter = 1000
    elif name == "norms":
        config.update(training())
        config.duration = duration(steps=100)
        config.batch_size = 64
        config.optimizer.update({"name": "adamw", "learning_rate": 1e-2})
    elif name in ("rankme", "lidar"):
        config.images = 2000 if name == "rankme" else 500  # of the validation split, at most one of each group
        config.samples = 20  # random halves of the images, for the uncertainty
        if name == "lidar":
            config.copies = 10  # random views of each image
            config.ridge = 1e-4  # added to the diagonal of the covariance within the views of an image
            recipe = pretext.task_class("simclr").RECIPE
    else:
        raise UserError(f"unknown proxy '{name}': known are knn, linear, norms, rankme, lidar")
    config.views = views(recipe, FineTuning.FIXED, size=size, preset=preset)
    return change(config, changes)


def search() -> ConfigDict:
    """The fields of a search for an order of tasks. `docs/search.md` explains them."""
    return ConfigDict(
        {
            "pool": ConfigDict(),  # name -> stage(...): what orders are made of
            # exhaustive | greedy | beam | ranked | transfer_matrix | similarity | bandit | surrogate | random
            "strategy": "greedy",
            "length": 3,  # of the longest order
            "repeat": False,  # whether an order may contain a task twice
            "stages": 0,  # so many may be trained, what orders have in common counted once; 0 = no limit
            "proxy": proxy("knn"),
            "margin": 1.0,  # greedy: a task must help by more than so many standard errors
            "width": 3,  # beam: orders that are kept of each length
            "batch": 4,  # surrogate, random: orders that are proposed at once
            "candidates": 27,  # bandit: orders at the start,
            "shortest": 1 / 9,  # trained for this share of the length;
            "keep": 3,  # one in so many is then trained so many times longer
            "finalists": 3,  # the best orders, trained again with other seeds
            "finalist_seeds": (1, 2),  # each in the place of config.seed
            # What is trained with those seeds beside them. reverse: the best order backwards | single: its best task
            # alone for as many images | random: a random order of its length
            "compare": ("reverse", "single", "random"),
            # Optuna's storage in which orders wait for workers: a file in the store (the workdir, or runtime.store), or
            # a URL, sqlite:///FILE, postgresql://HOST/DATABASE. Empty: none; workers then share the work by the claims
            # in the store alone.
            "storage": "search.journal",
        }
    )


def get_search_config() -> ConfigDict:
    """`get_config` with the fields of a search. Stages are in the pool; targets are those of the best order."""
    config = get_config()
    with config.unlocked():
        config.job = "search"
        config.search = search()
    return config.lock()


def study() -> ConfigDict:
    """The fields of a study. `docs/studies.md` explains them."""
    return ConfigDict(
        {
            "seeds": (0, 1, 2),  # of the pretrainings, each in the place of config.seed
            "vary": (),  # of variants(...); empty: the arms of the config as it is
            # The arm that others are compared with. Empty: the best single task, chosen on validation images, if
            # single_budget is total; else the first baseline; else the first arm.
            "reference": "",
            "reference_variant": "",  # the variant with which the same arm of the others is compared; empty: none
            "axis": "",  # what varies, in words, for the figure; empty: the field
        }
    )


def variants(changes: Mapping[str, Mapping[str, Any]], x: Mapping[str, float] | None = None) -> tuple[ConfigDict, ...]:
    """The variants of a study: name -> field -> value, such as {"1 %": {"data.share": 0.01}, …}.

    Args:
      changes: a field is written as on the command line, `stages[0].batch_size`, or with [*] for every entry,
        `stages[*].batch_size`. A mapping stands for fields of a node.
      x: the place of each variant on the axis of the figure; by default the value, where each variant changes one field
        to a number.
    """
    flat = {name: dict(_flatten(fields)) for name, fields in changes.items()}
    if x is None:
        single = [list(fields.values()) for fields in flat.values()]
        numeric = all(len(values) == 1 and type(values[0]) in (int, float) for values in single)
        x = {name: values[0] for name, values in zip(flat, single, strict=True)} if numeric else {}
    made = []
    for name, fields in flat.items():
        config = ConfigDict({"name": name, "x": placeholder(float), "changes": tuple(fields.items())})
        config.x = x.get(name)
        made.append(config.lock())
    return tuple(made)


def _flatten(fields: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _flatten(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def get_study_config() -> ConfigDict:
    """`get_config` with the fields of a study."""
    config = get_config()
    with config.unlocked():
        config.job = "study"
        config.study = study()
    return config.lock()


def from_values(values: Mapping[str, Any]) -> ConfigDict:
    """Makes a config of a run from the plain values of all its fields, as in `best_order.py` of a search."""
    config = get_config()
    parts = {"stages": map(stage_from_values, values["stages"]), "targets": map(target_from_values, values["targets"])}
    plain = {name: value for name, value in values.items() if name not in parts}
    return change(config, {**plain, **{name: tuple(made) for name, made in parts.items()}})


def stage_from_values(values: Mapping[str, Any]) -> ConfigDict:
    """A stage from the plain values of all its fields."""
    changes = _training_from_values(values)
    terms, stop, search = changes.pop("distill"), changes.pop("stop"), changes.pop("tuning")
    given: dict[str, Any] = {"distill": terms if "kind" in terms else ()}
    if changes["task"] in pacing.COMBINED:
        members = {name: _member_from_values(member) for name, member in values["fields"]["members"].items()}
        given |= {**changes.pop("fields"), "members": members}
    else:
        given["preset"] = _preset_of(values["views"])
    made = stage(changes["task"], **given)
    if "kind" not in terms:
        with made.unlocked():
            made.distill = several(terms.values())
    return change(
        made, {**changes, "stop": _judged_from_values(stopping, stop), "tuning": _judged_from_values(tuning, search)}
    )


def _judged_from_values(make: Callable[..., ConfigDict], values: Mapping[str, Any]) -> ConfigDict:
    """A node that has a proxy, from the plain values of all its fields."""
    judge = proxy_from_values(values["proxy"]) if values["proxy"] else None
    return make(judge, **{name: value for name, value in values.items() if name != "proxy"})


def _member_from_values(values: Mapping[str, Any]) -> ConfigDict:
    return change(stage(values["task"], preset=_preset_of(values["views"])), dict(values))


def proxy_from_values(values: Mapping[str, Any]) -> ConfigDict:
    """A proxy from the plain values of all its fields."""
    return change(proxy(values["proxy"], preset=_preset_of(values["views"])), _plain_training(values))


def target_from_values(values: Mapping[str, Any]) -> ConfigDict:
    """A target from the plain values of all its fields."""
    rest = {name: value for name, value in values.items() if name != "earlier"}
    earlier = {name: target_from_values(fields) for name, fields in values.get("earlier", {}).items()}
    made = target(values["protocol"], preset=_preset_of(values["views"]), **earlier)
    return change(made, _plain_training(rest))


def _plain_training(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a node that may have the fields of a training."""
    return _training_from_values(values) if "duration" in values else dict(values)


def _training_from_values(values: Mapping[str, Any]) -> dict[str, Any]:
    schedule = {**values["schedule"], "warmup": duration(**values["schedule"]["warmup"])}
    return {**values, "duration": duration(**values["duration"]), "schedule": schedule}


def _preset_of(views: Mapping[str, Any]) -> str:
    """A preset of the same kind of views. All its values are replaced."""
    return "ct" if views["dimensions"] == 3 else "natural"


def get_config() -> ConfigDict:
    config = ConfigDict()
    # curriculum | evaluate: only measures the backbone at `init` | search: see get_search_config
    # | study: see get_study_config
    config.job = "curriculum"
    config.title = ""  # of the report; empty: the data set's name
    config.seed = 0

    config.data = ConfigDict()
    config.data.name = "isic2019/224"  # data set and config, for stages and targets that name no other
    config.data.synthetic = False  # the report says so
    # Stages are trained on this share of the images, of whole groups; smaller shares are part of larger ones. Targets
    # have all their images.
    config.data.share = 1.0
    config.data.share_seed = -1  # of the draw; -1: config.seed, so that each pretraining seed of a study draws anew
    config.data.exclude = ()  # CSV or text files of ids (image, group, series) that are left out of pretraining

    config.model = ConfigDict()
    config.model.name = "resnet50"  # resnet14 | resnet18 | resnet34 | resnet50 | vit_tiny | vit_small | vit_base
    config.model.width = 1.0  # multiplies the channels; in a ViT the features, not the number of heads
    config.model.channels = 3  # of the images
    config.model.dimensions = 2  # 2: images | 3: volumes; their views need a preset of volumes
    config.model.stem = "standard"  # of a ResNet: standard (7x7/2 and pool) | small (3x3/1)
    config.model.patch = 0  # of a ViT: side of a patch in pixels, a divisor of views.size; 0 = 16, for volumes 8
    config.model.attention = "none"  # of the blocks of a ResNet: none | arl | arl_gain, see docs/systems.md
    config.model.attention_scale = 0.001  # first value of the learnable scale of each block with attention: ours
    config.model.dtype = "bfloat16"  # of the computation; weights, losses and statistics are float32

    # scratch, a workdir or stage of this program, or a file of weights with torchvision's names (of a ViT with timm's)
    config.init = "scratch"
    config.imagenet = ""  # file of weights for the `imagenet` baseline
    config.stages = ()  # of stage(...)
    # Other curricula, each an arm: name -> tuple of stage(...). Stages that two arms have in common are trained once.
    config.curricula = ConfigDict()
    config.targets = ()  # of target(...)
    # Other arms: scratch, imagenet, single (each task without the stages before it, and each member of a joint stage or
    # bandit alone), single:TASK, weights (the curriculum with equal and with random weights, or random choices).
    config.baselines = ("scratch", "single")
    config.single_budget = "stage"  # a single task is trained as long as its stage | total: as the whole curriculum
    config.patience = 10  # so many non-finite steps in a row end a stage
    # What all stages of a curriculum cost together. All of them get the same share of their length; of the seconds each
    # gets its share by images, and ends when they are over. A single task gets what its stage gets, or the whole budget
    # if single_budget is total.
    config.budget = ConfigDict({"steps": placeholder(int), "examples": placeholder(int), "seconds": placeholder(float)})

    config.statistics = ConfigDict()
    config.statistics.samples = 1000  # bootstrap samples of the intervals, over groups (lesions, patients)
    config.statistics.seed = 0

    # Where and how the work is done. Results do not depend on these fields.
    config.runtime = ConfigDict()
    config.runtime.data_dir = "data"  # folder of the prepared data sets
    config.runtime.store = ""  # folder of the results, which runs can share; empty: the workdir
    config.runtime.residence = "stream"  # stream: batches are read from disk | device: the whole split is on the device
    config.runtime.workers = 0  # processes that read; 0 = threads of the main process
    config.runtime.log_every = 50  # steps
    config.runtime.checkpoint_every = 1000  # steps
    config.runtime.evaluation_batch = 256
    config.runtime.writers = ("tensorboard",)  # tensorboard | wandb | mlflow
    config.runtime.compiled_programs = "~/.cache/aiseeme_jax/programs"  # empty: they are not kept
    return config.lock()
