"""MV-KBC beside the plain backbone, from random weights and from a curriculum (docs/systems.md).

    python launch.py --config=configs/systems/mv_kbc.py --workdir=runs/mv_kbc          ResNet-50, nine planes, one GPU
    python launch.py --config=configs/systems/mv_kbc.py:small --workdir=runs/small     three real planes, two CPU cores
    python launch.py --config=configs/systems/mv_kbc.py:demo --workdir=runs/demo       nine drawn planes, no download

The plain backbone is one network on the patches of appearance, whose probabilities are averaged over the planes. Both
have the same planes, crops, steps and learning rates. `small` has three neighbouring axial planes in place of nine.

What to expect: not measured yet.
"""

from configs import base, recipes


def get_config(variant: str = "full"):
    return recipes.choose("systems/mv_kbc", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_config()
    config.data.name = "lidc_idri/views_mean"
    config.model.update({"name": "resnet50", "channels": 1})
    common = {"preset": "ct_planes", "size": 224}
    config.stages = (recipes.full_stage("moco_v2", **common),)
    # The published optimizer, batch and length; its decay of the learning rate is another one.
    sgd = {"name": "sgd", "learning_rate": 1e-4, "weight_decay": 0.0}
    training = {"batch_size": 16, "optimizer": sgd, "duration": base.duration(epochs=100), "seeds": (0, 1, 2)}
    config.targets = compare(hidden=(2048, 1024), views=recipes.NODULE_VIEWS, **training, **common)
    config.baselines = ("scratch",)
    config.runtime.evaluation_batch = 16
    return config


def small():
    """The same on three real planes of each nodule, at a size for two CPU cores."""
    config = base.get_config()
    common = {"preset": "grey_planes", "size": 32}
    recipes.narrow_nodules(config, data="lidc_nodules/64_3readers", epochs=20, **common)
    training = {**recipes.NARROW_NODULES, "duration": base.duration(epochs=20), "seeds": (0, 1, 2)}
    config.targets = compare(hidden=(64,), **training, **common)
    return config


def demo():
    """The same on nine planes of drawn nodules. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo of MV-KBC on synthetic lung nodules"
    config.data.synthetic = True
    common = {"preset": "ct_planes", "size": 16}
    recipes.narrow_nodules(config, data="nodule_phantom/views", epochs=3, **common)
    training = {**recipes.NARROW_NODULES, "duration": base.duration(epochs=4), "seeds": (0,)}
    config.targets = compare(hidden=(64,), **training, **common)
    return config


def compare(*, hidden, **common):
    """The plain backbone, and the system; all else is the same."""
    plain = {"kinds": ("OA",), "fusion": "mean", "hidden": (), "dropout": 0.0, "penalty": 1.0}
    return (
        base.target("mv_kbc", label="plain", **plain, **common),
        base.target("mv_kbc", hidden=hidden, **common),
    )
