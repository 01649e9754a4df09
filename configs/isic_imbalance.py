"""Methods against class imbalance on ISIC 2019, whose largest class has fifty times the images of its smallest.

    python launch.py --config=configs/isic_imbalance.py --workdir=runs/imbalance        ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/isic_imbalance.py:small --workdir=runs/small      ResNet-18 x 0.25, 48 px, one CPU
    python launch.py --config=configs/isic_imbalance.py:demo --workdir=runs/demo        synthetic images, no download

One backbone is pretrained, and fine-tuned once with each method (`docs/measuring.md`). All have the same images, steps
and learning rates, so the rows of the report differ in the method alone. The learning rates are those that the other
experiments use, and were not tuned for any method.

What to expect, in balanced accuracy on test images:

full: not measured yet.

small: results/imbalance.md, 16 min 40 s of CPU time on one of two CPU cores. Chance is 0.125. Without correction
0.258 [0.241–0.278], by the default 0.501 [0.455–0.545], with balanced batches 0.541 [0.500–0.590], with the self-paced
class-wise curriculum 0.257 [0.239–0.276].

demo: results/imbalance.md, 6 min 6 s on two CPU cores that did other work too. Chance is 0.167. Without correction
0.254 [0.223–0.282], by the default 0.309 [0.258–0.361].
"""

from collections.abc import Mapping
from typing import Any

from configs import base, recipes

# Every method with its defaults, and logit adjustment and the class-wise curriculum also in their second form.
METHODS: tuple[str | Mapping[str, Any], ...] = (
    "none",
    "inverse_frequency",
    "balanced_sampling",
    "class_balanced",
    "focal",
    "ldam_drw",
    "logit_adjustment",
    {"name": "logit_adjustment", "mode": "loss"},
    "balanced_softmax",
    "ccl",
    {"name": "ccl", "order": "static"},
)


def get_config(variant: str = "full"):
    return recipes.choose("isic_imbalance", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    config.stages = (recipes.full_stage("moco_v2", **common),)
    sgd = {"name": "sgd", "learning_rate": 0.01}
    config.targets = compare(METHODS, batch_size=64, optimizer=sgd, seeds=(0, 1, 2), **common)
    config.baselines = ()
    return config


def small():
    """The same at a size for one CPU core."""
    config = base.get_config()
    config.data.name = "isic2019/64"
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 48}
    config.stages = recipes.narrow_stages(epochs={"moco_v2": 6}, batch=128, **common)
    config.targets = compare(METHODS, **narrow(finetune_epochs=5), **common)
    config.baselines = ()
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})
    return config


def demo():
    """One stage and all methods on synthetic dermoscopy. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo of class imbalance on synthetic dermoscopy"
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 32}
    config.stages = recipes.narrow_stages(epochs={"moco_v2": 10}, batch=64, **common)
    config.targets = compare(METHODS, **narrow(finetune_epochs=10), **common)
    config.baselines = ()
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 50})
    return config


def compare(methods, **common):
    """A target of fine-tuning for each method; all else is the same."""
    return tuple(base.target("finetune", imbalance=method, **common) for method in methods)


def narrow(finetune_epochs: int) -> dict[str, Any]:
    """Fine-tuning of a narrow network in few epochs, as `recipes.narrow_targets` has it."""
    return {
        "duration": base.duration(epochs=finetune_epochs),
        "batch_size": 64,
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2},
        "schedule": {"warmup": base.duration(epochs=1)},
    }
