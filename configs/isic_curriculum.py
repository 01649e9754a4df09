"""The curriculum on ISIC 2019: five pretext tasks in sequence on unlabelled dermoscopy, then the eight diagnoses.

    python launch.py --config=configs/isic_curriculum.py --workdir=runs/isic           ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/isic_curriculum.py:small --workdir=runs/small    ResNet-18 x 0.25, 64 px, two CPUs
    python launch.py --config=configs/isic_curriculum.py:demo --workdir=runs/demo      synthetic images, no download

The papers do not publish their order, lengths or learning rates: those here are ours. Order: geometric tasks first,
whose features peak early in the network, then instance discrimination from the weakest to the strongest. Optimizers
and augmentation are OpenSelfSup's, learning rates scaled linearly with the batch.
"""

from configs import base
from configs.base import duration, stage, target


def get_config(variant: str = "full"):
    variants = {"full": full, "small": small, "demo": demo}
    if variant not in variants:
        raise ValueError(f"unknown variant '{variant}' of isic_curriculum: known are {', '.join(variants)}")
    return variants[variant]()


def full():
    config = base.get_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    sgd = {"name": "sgd", "weight_decay": 1e-4}
    lars = {"name": "lars", "weight_decay": 1e-6}
    step = {"name": "step", "milestones": (0.43, 0.71), "warmup": duration(epochs=5)}
    config.stages = (
        stage(
            "relative_location",
            duration=duration(epochs=200),
            batch_size=256,
            optimizer={**sgd, "learning_rate": 0.1},
            schedule=step,
            **common,
        ),
        stage(
            "rotation",
            duration=duration(epochs=200),
            batch_size=128,
            optimizer={**sgd, "learning_rate": 0.2},
            schedule=step,
            **common,
        ),
        stage("npid", batch_size=256, optimizer={**sgd, "learning_rate": 0.03}, schedule={"name": "step"}, **common),
        stage("moco_v2", batch_size=256, optimizer={**sgd, "learning_rate": 0.03}, **common),
        stage(
            "simclr",
            batch_size=512,
            optimizer={**lars, "learning_rate": 0.6},
            schedule={"warmup": duration(epochs=10)},
            **common,
        ),
    )
    config.targets = (
        target("knn", **common),
        target("linear", fractions=(0.01, 0.1, 1.0), seeds=(0, 1, 2), **common),
        target(
            "finetune",
            fractions=(0.01, 0.1, 1.0),
            seeds=(0, 1, 2),
            batch_size=64,
            optimizer={"name": "sgd", "learning_rate": 0.01},
            **common,
        ),
    )
    return config


def small():
    """The same five tasks at a size for two CPU cores."""
    config = base.get_config()
    config.data.name = "isic2019/64"
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    epochs = {"relative_location": 5, "rotation": 4, "npid": 8, "moco_v2": 8, "simclr": 10}
    config.stages = _narrow_stages(size=64, epochs=epochs, batch=128)
    config.targets = _narrow_targets(size=64, fractions=(0.1, 1.0), finetune_epochs=6)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})
    return config


def demo():
    """Synthetic dermoscopy, three stages, a few minutes on two CPU cores: shows that everything works, proves
    nothing.
    """
    config = base.get_config()
    config.title = "Demo on synthetic dermoscopy"
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    config.stages = _narrow_stages(size=32, epochs={"rotation": 8, "moco_v2": 10, "simclr": 15}, batch=64)
    config.targets = _narrow_targets(size=32, fractions=(1.0,), finetune_epochs=8)
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 50})
    return config


def _narrow_stages(*, size: int, epochs: dict[str, float], batch: int):
    """Stages for few epochs: AdamW at one rate throughout, since SGD at the published rates wants hundreds of them."""
    own = {
        # The published average of 0.999 spans more steps than these stages have.
        "moco_v2": {"momentum": 0.99},
    }
    return tuple(
        stage(
            task,
            size=size,
            preset="dermoscopy",
            batch_size=batch,
            duration=duration(epochs=length),
            optimizer={"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4},
            schedule={"warmup": duration(epochs=1)},
            **own.get(task, {}),
        )
        for task, length in epochs.items()
    )


def _narrow_targets(*, size: int, fractions: tuple[float, ...], finetune_epochs: int):
    common = {"preset": "dermoscopy", "size": size, "fractions": fractions}
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
