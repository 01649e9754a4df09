"""The trainings that experiments share, for each task, at published length and for two CPU cores.

The papers do not publish the order of tasks, their lengths or learning rates. Those here are ours. Optimizers and
augmentation are those of OpenSelfSup, with learning rates scaled linearly with the batch, except for this: biases and
norms have no weight decay. In relative location the head has the same weight decay as the rest, images are flipped, and
a view is 0.7 to 1 of the image, a little stretched, instead of 255 of 292 pixels.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from aiseeme_jax import pretext
from aiseeme_jax.errors import UserError
from configs.base import duration, get_study_config, stage, target

SGD = {"name": "sgd", "weight_decay": 1e-4}
LARS = {"name": "lars", "weight_decay": 1e-6}


def choose(experiment: str, variants: Mapping[str, Callable[..., ConfigDict]], variant: str) -> ConfigDict:
    """The config of a variant.

    Args:
      variants: functions by their names. After the name of one that takes `tasks`, these may follow, in the order of
        training: "small,tasks=rotation+byol".

    Raises UserError, with the known names, for an unknown variant or task, and for an argument that it does not take.
    """
    name, *arguments = variant.split(",")
    if name not in variants:
        raise UserError(f"unknown variant '{name}' of {experiment}: known are {', '.join(variants)}")
    if not arguments:
        return variants[name]()
    if "tasks" not in inspect.signature(variants[name]).parameters:
        raise UserError(f"'{name}' of {experiment} takes no arguments, and '{variant}' has {', '.join(arguments)}")
    key, _, tasks = arguments[0].partition("=")
    if len(arguments) > 1 or key != "tasks":
        raise UserError(f"after '{name}' of {experiment} may follow tasks=ONE+ANOTHER, not '{','.join(arguments)}'")
    check_tasks(tasks)
    return variants[name](tasks=tuple(tasks.split("+")))


def check_tasks(tasks: str) -> None:
    """Raises UserError unless tasks are known ones with + between them."""
    for task in tasks.split("+"):
        pretext.task_class(task)
        if task in pretext.COMBINED:
            raise UserError(f"tasks={tasks}: '{task}' needs members: write a config file with base.stage('{task}', …)")


def full_stage(task: str, *, preset: str, size: int, batch_size: int | None = None) -> ConfigDict:
    """A stage of 200 epochs for a ResNet on one accelerator. With another batch size the learning rate is scaled.

    A task that is not in the table below has the defaults of `nodes.training`, which were not tuned for it.
    """
    step = {"name": "step", "milestones": (0.43, 0.71), "warmup": duration(epochs=5)}
    own = {
        "relative_location": {"batch_size": 256, "optimizer": {**SGD, "learning_rate": 0.1}, "schedule": step},
        "rotation": {"batch_size": 128, "optimizer": {**SGD, "learning_rate": 0.2}, "schedule": step},
        "npid": {"batch_size": 256, "optimizer": {**SGD, "learning_rate": 0.03}, "schedule": {"name": "step"}},
        "moco_v2": {"batch_size": 256, "optimizer": {**SGD, "learning_rate": 0.03}},
        "simclr": {
            "batch_size": 512,
            "optimizer": {**LARS, "learning_rate": 0.6},
            "schedule": {"warmup": duration(epochs=10)},
        },
    }
    made = stage(task, preset=preset, size=size, duration=duration(epochs=200), **own.get(task, {}))
    if batch_size is not None:
        made.optimizer.learning_rate *= batch_size / made.batch_size
        made.batch_size = batch_size
    return made


def full_targets(*, preset: str, size: int, fractions: tuple[float, ...]) -> tuple[ConfigDict, ...]:
    """kNN on all labels; the linear probe and fine-tuning on shares of them, with three seeds each.

    Fine-tuning takes as many steps on each share as on all labels. So three shares cost three times as much.
    """
    common = {"preset": preset, "size": size}
    shares = {"fractions": fractions, "seeds": (0, 1, 2), **common}
    sgd = {"name": "sgd", "learning_rate": 0.01}
    return (
        target("knn", **common),
        target("linear", **shares),
        target("finetune", batch_size=64, optimizer=sgd, **shares),
    )


def narrow_stages(
    *,
    preset: str,
    size: int,
    epochs: Mapping[str, float],
    batch: int,
    tasks: Iterable[str] | None = None,
    others: float = 8,
) -> tuple[ConfigDict, ...]:
    """Stages of few epochs, with AdamW at one rate. SGD at the published rates needs hundreds of epochs.

    Args:
      epochs: of each task.
      tasks: of the stages; by default those of `epochs`. One that is not in `epochs` has `others`.
    """
    return tuple(
        stage(task, size=size, preset=preset, **narrow_training(epochs.get(task, others), batch), **narrow_fields(task))
        for task in (epochs if tasks is None else tasks)
    )


def narrow_training(epochs: float, batch: int) -> dict[str, Any]:
    """Length, batch, optimizer and schedule of `narrow_stages`."""
    return {
        "batch_size": batch,
        "duration": duration(epochs=epochs),
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4},
        "schedule": {"warmup": duration(epochs=1)},
    }


def narrow_fields(task: str) -> dict[str, Any]:
    """What a task of `narrow_stages` has of its own."""
    # The published moving averages, of 0.996 or 0.999, span more steps than these stages have.
    own: dict[str, dict[str, Any]] = {name: {"momentum": 0.99} for name in ("moco_v1", "moco_v2", "densecl")}
    own |= {name: {"momentum": 0.98} for name in ("byol", "moco_v3", "dino")}
    # With eight local crops, this would be four times the work of any other task.
    own["dino"] |= {"local_crops": 2, "hidden": 512}
    own["swav"] = {"local_crops": 2}
    return own.get(task, {})


def narrow_combined(
    kind: str, tasks: Sequence[str], *, preset: str, size: int, epochs: float, batch: int, **changes
) -> ConfigDict:
    """A stage 'joint' or 'bandit' of these tasks. A sixth of it is the warm-up."""
    members = tuple(stage(task, size=size, preset=preset, **narrow_fields(task)) for task in tasks)
    training = {**narrow_training(epochs, batch), "schedule": {"warmup": duration(epochs=epochs / 6)}}
    return stage(kind, members=members, **training, **changes)


# Views of patches of nodules: turns by any angle, shifts by up to a tenth of the side, flips.
NODULE_VIEWS = {
    "rotation": 180.0,
    "right_angles": False,
    "crop_scale": (0.64, 1.0),
    "crop_ratio": (1.0, 1.0),
    "flip_horizontal": 0.5,
    "flip_vertical": 0.5,
    "jitter_probability": 0.0,
}
# What the systems of nodules have in common at a size for two CPU cores.
NARROW_NODULES = {
    "batch_size": 32,
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2},
    "schedule": {"warmup": duration(epochs=1)},
    "views": NODULE_VIEWS,
}


def narrow_nodules(config: ConfigDict, *, data: str, preset: str, size: int, epochs: float) -> None:
    """Data, a narrow ResNet of one channel, and a stage of few epochs, for systems of planes of nodules.

    Args:
      epochs: of the stage.
    """
    config.data.name = data
    config.model.update({"name": "resnet18", "width": 0.25, "stem": "small", "dtype": "float32", "channels": 1})
    config.stages = narrow_stages(epochs={"moco_v2": epochs}, batch=128, preset=preset, size=size)
    config.baselines = ("scratch",)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200, "evaluation_batch": 64})


def narrow_targets(
    *, preset: str, size: int, fractions: tuple[float, ...], finetune_epochs: int
) -> tuple[ConfigDict, ...]:
    """kNN, linear probe and fine-tuning on each share of the labels. Fine-tuning takes few epochs."""
    common = {"preset": preset, "size": size, "fractions": fractions}
    return (
        target("knn", seeds=(0, 1, 2), **common),
        target("linear", seeds=(0, 1, 2), **common),
        target(
            "finetune",
            duration=duration(epochs=finetune_epochs),
            batch_size=64,
            optimizer={"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2},
            schedule={"warmup": duration(epochs=1)},
            **common,
        ),
    )


def small_study() -> ConfigDict:
    """The model, data and runtime of a study at a size for two CPU cores: ISIC 2019, ResNet-18 x 0.25, 48 pixels."""
    config = get_study_config()
    config.data.name = "isic2019/64"
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})
    return config


def demo_study(title: str) -> ConfigDict:
    """The same on synthetic dermoscopy, with two pretraining seeds. It shows that everything works, proves nothing."""
    config = get_study_config()
    config.title = title
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    config.study.seeds = (0, 1)
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 50})
    return config


def narrow_by_steps(steps: Mapping[str, int], *, preset: str, size: int, batch: int) -> tuple[ConfigDict, ...]:
    """`narrow_stages` whose lengths are steps, so that they do not depend on the number of images."""
    made = narrow_stages(preset=preset, size=size, epochs=dict.fromkeys(steps, 1), batch=batch)
    for one in made:
        set_steps(one, steps[one.task])
    return made


def set_steps(stage: ConfigDict, steps: int) -> None:
    """Gives a stage a length in steps, a tenth of them as warm-up."""
    stage.duration.update({"epochs": None, "steps": steps, "examples": None})
    stage.schedule.warmup.update({"epochs": None, "steps": max(1, steps // 10), "examples": None})
