"""Every pretext task of images alone, and pairs of tasks with every way to distil between them, on ISIC 2019.

    python launch.py --config=configs/pretext_tasks.py --workdir=runs/tasks              ResNet-18 x 0.25, each task
    python launch.py --config=configs/pretext_tasks.py:vit --workdir=runs/tasks_vit      ViT-Ti x 0.5, MAE
    python launch.py --config=configs/pretext_tasks.py:pairs --workdir=runs/pairs        ResNet-18 x 0.25, two stages

The sizes are for two CPU cores: 32 px, and the same few epochs for all. Each task, and each pair, is an arm beside
random weights. What two arms begin with is trained once.

What to expect, on frozen features of test images (results/pretext_tasks.md, two CPU cores that did other work beside):

resnet: every task is above random weights by all four measures. AUROC of the linear probe: 0.680 [0.652–0.708] of
random weights, 0.732 [0.706–0.758] (`swav`) to 0.822 [0.802–0.839] (`simclr`). The time was not measured.

vit: three epochs of MAE are not better than random weights, 0.844 [0.824–0.863] and 0.842 [0.822–0.862] in the AUROC of
the linear probe. The time was not measured.

pairs: distillation pays in one of the three pairs, SimCLR and then rotation. There `pfr` gains
+0.042 [+0.026 to +0.062] in the AUROC of the linear probe. 36 arms took about 80 minutes on one of the cores.
"""

from aiseeme_jax import pretext
from configs import base, recipes

SIZE = 32
EPOCHS = 3
VIT_TASKS = ("mae",)
RESNET_TASKS = tuple(name for name, task in pretext.TASKS.items() if 2 in task.DIMENSIONS and name not in VIT_TASKS)
PAIRS = (("rotation", "simclr"), ("relative_location", "moco_v2"), ("simclr", "rotation"))
# Weights are the published ones if there are any; others were chosen by the size of the term. None was tuned.
DISTILLATION = {
    "kl": {},
    "mse": {},
    "cosine": {},
    "relational": {"angle": 0.0},  # angles cost the cube of the batch
    "similarity_preserving": {"weight": 3000.0},
    "pfr": {},
    "cassle": {},
    "l2_sp": {"weight": 0.01},
    "ewc": {"weight": 100.0},
    "weight_average": {},
}


def get_config(variant: str = "resnet"):
    return recipes.choose("pretext_tasks", {"resnet": resnet, "vit": vit, "pairs": pairs}, variant)


def resnet():
    return several({task: _stages(task) for task in RESNET_TASKS}, name="resnet18", width=0.25)


def vit():
    return several({task: _stages(task) for task in VIT_TASKS}, name="vit_tiny", width=0.5, patch=4)


def pairs():
    """Pairs of stages, the second plain or distilled, and beside them the second task without the first."""
    named = {second: _stages(second) for _, second in PAIRS}
    for first, second in PAIRS:
        named[f"{first}-{second}"] = _stages(first, second)
        for kind, fields in DISTILLATION.items():
            named[f"{first}-{second}-{kind}"] = _stages(first, second, distill={"kind": kind, **fields})
    return several(named, name="resnet18", width=0.25)


def several(named, **model):
    """A config of curricula by their names, measured on frozen features."""
    config = base.get_config()
    config.data.name = "isic2019/64"
    config.model.update({"dtype": "float32", **model})
    config.curricula = base.ConfigDict(named).lock()
    common = {"preset": "dermoscopy", "size": SIZE}
    config.targets = (base.target("knn", **common), base.target("linear", **common))
    config.baselines = ("scratch",)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})
    return config


def _stages(*tasks, distill=None):
    """Stages of the same length. The last one is distilled."""
    made = [
        recipes.narrow_stages(preset="dermoscopy", size=SIZE, epochs={task: EPOCHS}, batch=128)[0] for task in tasks
    ]
    if distill:
        made[-1].distill.update(distill)
    return tuple(made)
