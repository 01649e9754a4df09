"""Fuse-TSD beside each of its three descriptions alone, from random weights and from a curriculum (docs/systems.md).

    python launch.py --config=configs/systems/fuse_tsd.py --workdir=runs/fuse          ResNet-50, nine planes, one GPU
    python launch.py --config=configs/systems/fuse_tsd.py:small --workdir=runs/small   three real planes, two CPU cores
    python launch.py --config=configs/systems/fuse_tsd.py:demo --workdir=runs/demo     nine drawn planes, no download

Texture and shape do not depend on the backbone: their rows are the same in every arm. `fuse_tsd+finetuned` has the deep
features of the network that is fine-tuned first, and that network stands beside it as `finetune`, with a prediction for
each plane. It runs on images with masks too: `--config.data.name=isic2019/64_mask`, with the preset and the channels
of that kind.

What to expect: not measured yet.
"""

from configs import base, recipes


def get_config(variant: str = "full"):
    return recipes.choose("systems/fuse_tsd", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_config()
    config.data.name = "lidc_idri/views_mean"
    config.model.update({"name": "resnet50", "channels": 1})
    common = {"preset": "ct_planes", "size": 64}
    config.stages = (recipes.full_stage("moco_v2", **common),)
    sgd = {"name": "sgd", "learning_rate": 0.01}
    training = {"batch_size": 64, "optimizer": sgd, "duration": base.duration(epochs=50)}
    config.targets = compare(training, seeds=(0, 1, 2), **common)
    config.baselines = ("scratch",)
    return config


def small():
    """The same on three real planes of each nodule, at a size for two CPU cores."""
    config = base.get_config()
    common = {"preset": "grey_planes", "size": 32}
    recipes.narrow_nodules(config, data="lidc_nodules/64_3readers", epochs=20, **common)
    training = {**recipes.NARROW_NODULES, "duration": base.duration(epochs=10)}
    config.targets = compare(training, seeds=(0, 1, 2), **common)
    return config


def demo():
    """The same on nine planes of drawn nodules. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo of Fuse-TSD on synthetic lung nodules"
    config.data.synthetic = True
    common = {"preset": "ct_planes", "size": 16}
    recipes.narrow_nodules(config, data="nodule_phantom/views", epochs=3, **common)
    training = {**recipes.NARROW_NODULES, "duration": base.duration(epochs=2)}
    config.targets = compare(training, seeds=(0,), **common)
    return config


def compare(training, *, seeds, **common):
    """The network that is fine-tuned, the system with its features and with those of the backbone as it is, and each
    description alone.
    """
    network = base.target("finetune", seeds=seeds, **training, **common)
    shown = {"seeds": seeds, **common}
    return (
        network,
        base.target("fuse_tsd", label="finetuned", deep="finetuned", network=network, **shown),
        base.target("fuse_tsd", **shown),
        *(base.target("fuse_tsd", label=kind, features=(kind,), **shown) for kind in ("texture", "shape", "deep")),
    )
