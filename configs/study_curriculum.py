"""What an order of tasks is worth: the order that a search found, one made by hand, its reverse, single tasks, scratch.

    python launch.py --config=configs/study_curriculum.py --workdir=runs/curriculum  ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/study_curriculum.py:small --workdir=runs/small ResNet-18 x 0.25, 48 px, two CPUs
    python launch.py --config=configs/study_curriculum.py:xray --workdir=runs/xray   the same on chest X-rays
    python launch.py --config=configs/study_curriculum.py:demo --workdir=runs/demo   synthetic images, no download

All orders show as many images, and so does a single task. So all arms but scratch cost the same. Set FOUND to what a
search found (`configs/isic_order.py`) before you run it.

What to expect:

full: not measured yet.

small: results/curriculum.md, on one of two CPU cores; each of three seeds takes about 30 minutes of processor time.
AUROC of the linear probe on all labels: the found order 0.821 [0.785–0.856], SimCLR alone 0.828 [0.802–0.854], scratch
0.737 [0.709–0.765].

xray: results/curriculum.md, 37 minutes of processor time on one of two CPU cores. AUROC of the linear probe on all
labels: the found order 0.867 [0.850–0.884], SimCLR alone 0.863 [0.844–0.882], scratch 0.819 [0.796–0.842].

demo: not measured yet.
"""

from configs import base, recipes

# From geometric tasks, which shape early layers, to instance discrimination, the weakest first.
BY_HAND = ("relative_location", "rotation", "npid", "moco_v2", "simclr")
# The order that a search found at each size. None did for `full`: it is that by hand with its two strongest exchanged.
FOUND = ("relative_location", "rotation", "npid", "simclr", "moco_v2")
FOUND_SMALL = ("simclr", "moco_v2")
SEEDS = (0, 1, 2)
FRACTIONS = (0.01, 0.1, 1.0)
# Of `small`: epochs and batch of each stage, as in `isic_order.py:small`, and the images that a curriculum shows.
SMALL_EPOCHS, SMALL_BATCH, SMALL_IMAGES = 2, 64, 2 * 218 * 64


def get_config(variant: str = "full"):
    return recipes.choose("study_curriculum", {"full": full, "small": small, "xray": xray, "demo": demo}, variant)


def full():
    config = base.get_study_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    config.targets = recipes.full_targets(fractions=FRACTIONS, **common)
    stages = {task: recipes.full_stage(task, **common) for task in BY_HAND}
    return compare(config, stages, {"by hand": BY_HAND, "reverse": BY_HAND[::-1]}, FOUND)


def small():
    """At a size for two CPU cores. The stages are those of `isic_order.py:small`, so one store serves both."""
    return compare_small("dermoscopy", "isic2019/64")


def xray():
    """The order that was found on dermoscopy, on chest X-rays: pneumonia, by patient. Fine-tuning is left out."""
    config = compare_small("cxr", "kermany_pneumonia/64")
    config.model.channels = 1
    config.targets = config.targets[:2]
    return config


def compare_small(preset, data_set):
    """A study with three pretraining seeds. All arms but scratch show SMALL_IMAGES images."""
    config = recipes.small_study()
    config.data.name = data_set
    common = {"preset": preset, "size": 48}
    tasks = dict.fromkeys((*FOUND_SMALL, *BY_HAND), SMALL_EPOCHS)
    made = recipes.narrow_stages(epochs=tasks, batch=SMALL_BATCH, **common)
    config.targets = recipes.narrow_targets(fractions=FRACTIONS, finetune_epochs=2, **common)
    config = compare(config, {stage.task: stage for stage in made}, {"by hand": BY_HAND}, FOUND_SMALL)
    with config.unlocked():
        config.curricula.update({name: (stage,) for name, stage in pace_small(**common).items()})
    config.lock()
    config.budget.examples = SMALL_IMAGES
    config.baselines = ("single:simclr", "scratch")
    config.study.seeds = (1, 2, 3)
    config.study.reference = "single:simclr"
    return config


def pace_small(**common):
    """The tasks of the found order all in each step, with three weightings, and one at a time by a bandit."""
    common |= {"batch": SMALL_BATCH}
    # The shares of the warm-up are those of a single task that shows as many images.
    joint, bandit = SMALL_EPOCHS, SMALL_EPOCHS * len(FOUND_SMALL)
    make = recipes.narrow_combined
    weighed = {
        f"joint {name}": make("joint", FOUND_SMALL, epochs=joint, weights=name, **common)
        for name in ("equal", "random", "famo")
    }
    return {**weighed, "bandit": make("bandit", FOUND_SMALL, epochs=bandit, teacher="exp3s", interval=10, **common)}


def demo():
    """Two tasks on synthetic images. It shows that everything works, and proves nothing."""
    config = recipes.demo_study("Demo of the study of curricula on synthetic dermoscopy")
    common = {"preset": "dermoscopy", "size": 32}
    stages = recipes.narrow_by_steps({"rotation": 40, "simclr": 40}, batch=64, **common)
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=2, **common)
    orders = {"reverse": ("simclr", "rotation")}
    made = compare(config, {stage.task: stage for stage in stages}, orders, ("rotation", "simclr"))
    made.study.seeds = (0, 1)
    return made


def compare(config, stages, orders, found):
    """The arms: the order that was found, others, each task of it alone for as many images, scratch."""
    config.stages = tuple(stages[task] for task in found)
    with config.unlocked():
        config.curricula = base.ConfigDict(
            {name: tuple(stages[task] for task in order) for name, order in orders.items()}
        )
    config.lock()
    config.baselines = ("single", "scratch")
    config.single_budget = "total"
    config.study.seeds = SEEDS
    return config
