"""The curriculum on lung nodules in CT: three pretext tasks in sequence on volumes, then benign or malignant.

    python launch.py --config=configs/lidc_curriculum.py --workdir=runs/lidc           3-D ResNet-18, 64 mm, one GPU
    python launch.py --config=configs/lidc_curriculum.py:small --workdir=runs/small    x 0.25, half the voxels, two CPUs
    python launch.py --config=configs/lidc_curriculum.py:demo --workdir=runs/demo      synthetic nodules, no download

Instance discrimination from the weakest method to the strongest, as in `isic_curriculum.py`. The views follow the
preset `ct`. Batches are smaller than those of images, and learning rates with them. A nodule about which the readers
are undecided has no label: it is used for pretraining, and left out of the targets.

Other tasks, in their order, may follow the variant: `:small,tasks=rotation+byol`. Their lengths are not tuned.

What to expect, in balanced accuracy on test volumes:

full: not measured yet.

small: not measured yet.

demo: results/demos.md, 3 min 45 s on two CPU cores. Chance is 0.5. The linear probe gives 0.626 [0.532–0.704] after the
curriculum and 0.528 [0.443–0.613] from scratch.
"""

from configs import base, recipes

TASKS = ("npid", "moco_v2", "simclr")
# Of `small` and of `demo`
EPOCHS = dict(zip(TASKS, (20, 20, 25), strict=True))
DEMO_EPOCHS = {"moco_v2": 8, "simclr": 10}
VOLUMES = {"channels": 1, "dimensions": 3}


def get_config(variant: str = "full"):
    return recipes.choose("lidc_curriculum", {"full": full, "small": small, "demo": demo}, variant)


def full(tasks=TASKS):
    config = base.get_config()
    config.data.name = "lidc_idri/64"
    config.model.update({"name": "resnet18", **VOLUMES})
    common = {"preset": "ct", "size": 64}
    config.stages = tuple(recipes.full_stage(task, batch_size=128, **common) for task in tasks)
    # About 800 nodules have a label. A hundredth of them would be eight.
    config.targets = recipes.full_targets(fractions=(0.1, 1.0), **common)
    config.runtime.evaluation_batch = 64
    return config


def small(tasks=TASKS):
    """The same tasks at a size for two CPU cores."""
    config = base.get_config()
    config.data.name = "lidc_idri/32"
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32", **VOLUMES})
    common = {"preset": "ct", "size": 32}
    config.stages = recipes.narrow_stages(tasks=tasks, epochs=EPOCHS, others=20, batch=64, **common)
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=12, **common)
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 100, "evaluation_batch": 64})
    return config


def demo(tasks=tuple(DEMO_EPOCHS)):
    """Two stages on synthetic nodules, in a few minutes. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo on synthetic lung nodules"
    config.data.update({"name": "nodule_phantom/demo", "synthetic": True})
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32", **VOLUMES})
    common = {"preset": "ct", "size": 16}
    config.stages = recipes.narrow_stages(tasks=tasks, epochs=DEMO_EPOCHS, batch=32, **common)
    config.targets = recipes.narrow_targets(fractions=(1.0,), finetune_epochs=6, **common)
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 50, "evaluation_batch": 64})
    return config
