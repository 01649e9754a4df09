"""The curriculum on ISIC 2019: five pretext tasks in sequence on unlabelled dermoscopy, then the eight diagnoses.

    python launch.py --config=configs/isic_curriculum.py --workdir=runs/isic           ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/isic_curriculum.py:small --workdir=runs/small    ResNet-18 x 0.25, 64 px, two CPUs
    python launch.py --config=configs/isic_curriculum.py:demo --workdir=runs/demo      synthetic images, no download

The geometric tasks come first, since their features are best in early layers. Instance discrimination follows, from the
weakest method to the strongest. `recipes.py` says what is published and what is ours.

Other tasks, in their order, may follow the variant: `:small,tasks=rotation+byol`. Their lengths are not tuned.

What to expect, in balanced accuracy on test images:

full: not measured yet.

small: results/isic_small.md, on two CPU cores; the time was not measured. Chance is 0.125. With all labels the linear
probe gives 0.462 [0.406–0.512] after the curriculum and 0.377 [0.326–0.426] from scratch. MoCo v2 alone gives
0.510 [0.459–0.564]. Fine-tuned on all labels the curriculum gains nothing over training from scratch.

demo: results/demos.md, 2 min 45 s on two CPU cores. Chance is 0.167. kNN gives 0.327 [0.259–0.406] after the curriculum
and 0.158 [0.110–0.224] from scratch.
"""

from configs import base, recipes

TASKS = ("relative_location", "rotation", "npid", "moco_v2", "simclr")
# Of `small` and of `demo`
EPOCHS = dict(zip(TASKS, (5, 4, 8, 8, 10), strict=True))
DEMO_EPOCHS = {"rotation": 8, "moco_v2": 10, "simclr": 15}


def get_config(variant: str = "full"):
    return recipes.choose("isic_curriculum", {"full": full, "small": small, "demo": demo}, variant)


def full(tasks=TASKS):
    config = base.get_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    config.stages = tuple(recipes.full_stage(task, **common) for task in tasks)
    config.targets = recipes.full_targets(fractions=(0.01, 0.1, 1.0), **common)
    return config


def small(tasks=TASKS):
    """The same five tasks at a size for two CPU cores."""
    config = base.get_config()
    config.data.name = "isic2019/64"
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 64}
    config.stages = recipes.narrow_stages(tasks=tasks, epochs=EPOCHS, batch=128, **common)
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=6, **common)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})
    return config


def demo(tasks=tuple(DEMO_EPOCHS)):
    """Three stages on synthetic dermoscopy, in a few minutes. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo on synthetic dermoscopy"
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 32}
    config.stages = recipes.narrow_stages(tasks=tasks, epochs=DEMO_EPOCHS, batch=64, **common)
    config.targets = recipes.narrow_targets(fractions=(1.0,), finetune_epochs=8, **common)
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 50})
    return config
