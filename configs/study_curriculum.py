"""What an order of tasks is worth: the order that a search found, one made by hand, its reverse, single tasks, scratch.

    python launch.py --config=configs/study_curriculum.py --workdir=runs/curriculum  ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/study_curriculum.py:small --workdir=runs/small ResNet-18 x 0.25, 48 px, two CPUs
    python launch.py --config=configs/study_curriculum.py:demo --workdir=runs/demo   synthetic images, no download

All orders are of the same stages, and a single task shows as many images as they do together. So all arms but scratch
cost the same. Each is compared with the best single task, which validation images choose. Set ORDER to what a search
found (`configs/isic_order.py`) before you run it.

What to expect:

full: not measured yet.

small: not measured yet.

demo: not measured yet.
"""

from configs import base, recipes

# The order that a search found; until one did, the order made by hand with its two strongest tasks exchanged.
ORDER = ("relative_location", "rotation", "npid", "simclr", "moco_v2")
# From geometric tasks, which shape early layers, to instance discrimination, the weakest first.
BY_HAND = ("relative_location", "rotation", "npid", "moco_v2", "simclr")
SEEDS = (0, 1, 2)
FRACTIONS = (0.01, 0.1, 1.0)
# Of `small`: steps of each stage, of 128 images each, and epochs of fine-tuning.
SMALL_STEPS = 600
SMALL_FINETUNE_EPOCHS = 5


def get_config(variant: str = "full"):
    return recipes.choose("study_curriculum", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_study_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    config.targets = recipes.full_targets(fractions=FRACTIONS, **common)
    return compare(config, {task: recipes.full_stage(task, **common) for task in BY_HAND}, ORDER, BY_HAND)


def small():
    """The same at a size for two CPU cores. All stages are as long."""
    config = recipes.small_study()
    common = {"preset": "dermoscopy", "size": 48}
    stages = recipes.narrow_by_steps(dict.fromkeys(BY_HAND, SMALL_STEPS), batch=128, **common)
    config.targets = recipes.narrow_targets(fractions=FRACTIONS, finetune_epochs=SMALL_FINETUNE_EPOCHS, **common)
    config.targets[-1].seeds = (0, 1, 2)
    return compare(config, {stage.task: stage for stage in stages}, ORDER, BY_HAND)


def demo():
    """Two tasks on synthetic images. It shows that everything works, and proves nothing."""
    config = recipes.demo_study("Demo of the study of curricula on synthetic dermoscopy")
    common = {"preset": "dermoscopy", "size": 32}
    stages = recipes.narrow_by_steps({"rotation": 40, "simclr": 40}, batch=64, **common)
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=2, **common)
    made = compare(config, {stage.task: stage for stage in stages}, ("rotation", "simclr"), ("rotation", "simclr"))
    made.study.seeds = (0, 1)
    return made


def compare(config, stages, found, by_hand):
    """The arms: orders of the same stages, each task alone for as many images, scratch. Equal orders are one arm."""
    reverse = tuple(reversed(by_hand))
    orders = {"by hand": by_hand, "reverse": reverse}
    config.stages = tuple(stages[task] for task in found)
    with config.unlocked():
        config.curricula = base.ConfigDict(
            {name: tuple(stages[task] for task in order) for name, order in orders.items() if order != found}
        )
    config.lock()
    config.baselines = ("single", "scratch")
    config.single_budget = "total"
    config.study.seeds = SEEDS
    return config
