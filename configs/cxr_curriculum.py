"""The curriculum on chest X-rays: five pretext tasks in sequence on unlabelled images, then normal, bacterial or viral.

    python launch.py --config=configs/cxr_curriculum.py --workdir=runs/cxr             ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/cxr_curriculum.py:small --workdir=runs/small     ResNet-18 x 0.25, 64 px, two CPUs
    python launch.py --config=configs/cxr_curriculum.py:demo --workdir=runs/demo       synthetic images, no download

Order and lengths are those of `isic_curriculum.py`. The views follow the preset `cxr`.

Other tasks, in their order, may follow the variant: `:small,tasks=rotation+byol`. Their lengths are not tuned.

What to expect, in balanced accuracy on test images:

full: not measured yet.

small: results/cxr_small.md, on two CPU cores that did other work beside it; the five stages took 38, 122, 87, 105 and
250 s. Chance is 0.333. With all labels the linear probe gives 0.738 [0.712–0.765] after the curriculum and
0.664 [0.636–0.696] from scratch, fine-tuning 0.761 [0.736–0.785] and 0.715 [0.690–0.740].

demo: results/demos.md, 3 min 27 s on two CPU cores. Chance is 0.333. The linear probe gives 0.457 [0.377–0.531] after
the curriculum and 0.342 [0.277–0.412] from scratch.
"""

from configs import base, recipes

TASKS = ("relative_location", "rotation", "npid", "moco_v2", "simclr")
# Of `small` and of `demo`
EPOCHS = dict(zip(TASKS, (4, 3, 6, 6, 8), strict=True))
DEMO_EPOCHS = {"rotation": 8, "moco_v2": 10, "simclr": 15}


def get_config(variant: str = "full"):
    return recipes.choose("cxr_curriculum", {"full": full, "small": small, "demo": demo}, variant)


def full(tasks=TASKS):
    config = base.get_config()
    config.data.name = "kermany_pneumonia/224"
    config.model.channels = 1
    common = {"preset": "cxr", "size": 224}
    config.stages = tuple(recipes.full_stage(task, **common) for task in tasks)
    config.targets = recipes.full_targets(fractions=(0.01, 0.1, 1.0), **common)
    return config


def small(tasks=TASKS):
    """The same five tasks at a size for two CPU cores."""
    config = base.get_config()
    config.data.name = "kermany_pneumonia/64"
    config.model.update({"name": "resnet18", "width": 0.25, "channels": 1, "dtype": "float32"})
    common = {"preset": "cxr", "size": 64}
    config.stages = recipes.narrow_stages(tasks=tasks, epochs=EPOCHS, batch=128, **common)
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=6, **common)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})
    return config


def demo(tasks=tuple(DEMO_EPOCHS)):
    """Three stages on synthetic chest X-rays, in a few minutes. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo on synthetic chest X-rays"
    config.data.update({"name": "cxr_phantom/demo", "synthetic": True})
    config.model.update({"name": "resnet18", "width": 0.25, "channels": 1, "dtype": "float32"})
    common = {"preset": "cxr", "size": 32}
    config.stages = recipes.narrow_stages(tasks=tasks, epochs=DEMO_EPOCHS, batch=64, **common)
    config.targets = recipes.narrow_targets(fractions=(1.0,), finetune_epochs=20, **common)
    # With eight epochs, batches of 64 and a rate of 1e-3, fine-tuning stays near chance.
    config.targets[-1].update({"batch_size": 32})
    config.targets[-1].optimizer.learning_rate = 2e-3
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 50})
    return config
