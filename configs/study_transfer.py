"""What a pretraining on one data set is worth on others: single tasks, pretrained on ISIC 2019, measured on several.

    python launch.py --config=configs/study_transfer.py --workdir=runs/transfer      ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/study_transfer.py:small --workdir=runs/small   ResNet-18 x 0.25, 48 px, two CPUs
    python launch.py --config=configs/study_transfer.py:demo --workdir=runs/demo     synthetic images, no download

Each task is an arm of its own, beside scratch. ISIC 2019 contains images of the earlier years. Where the run warns that
images of their validation or test splits are among those of the pretraining, make the list that it names and give it to
`--config.data.exclude`.

What to expect:

full: not measured yet.

small: not measured yet.

demo: not measured yet.
"""

from configs import base, recipes

TASKS = ("rotation", "npid", "moco_v2", "simclr")


def get_config(variant: str = "full"):
    return recipes.choose("study_transfer", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_study_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    stages = [recipes.full_stage(task, **common) for task in TASKS]
    return measure(config, stages, ("isic2019/224", "isic2018/224", "isic2016/224"), fractions=(0.1, 1.0), **common)


def small():
    """The same at a size for two CPU cores."""
    common = {"preset": "dermoscopy", "size": 48}
    stages = recipes.narrow_by_steps(dict.fromkeys(TASKS, 800), batch=128, **common)
    sets = ("isic2019/64", "isic2018/64", "isic2016/64")
    return measure(recipes.small_study(), stages, sets, fractions=(0.1, 1.0), **common)


def demo():
    """Two tasks, measured on two sets of synthetic images, `derm_phantom/demo` and `/tiny`. It proves nothing."""
    common = {"preset": "dermoscopy", "size": 32}
    stages = recipes.narrow_by_steps({"rotation": 40, "simclr": 40}, batch=64, **common)
    config = recipes.demo_study("Demo of the study of transfer on synthetic dermoscopy")
    return measure(config, stages, ("derm_phantom/demo", "derm_phantom/tiny"), fractions=(1.0,), **common)


def measure(config, stages, sets, *, fractions, **common):
    """Each stage alone, measured by kNN and a linear probe on each data set."""
    with config.unlocked():
        config.curricula = base.ConfigDict({stage.task: (stage,) for stage in stages})
    config.lock()
    config.targets = tuple(
        base.target(protocol, data=name, fractions=fractions, seeds=(0, 1, 2), **common)
        for name in sets
        for protocol in ("knn", "linear")
    )
    config.baselines = ("scratch",)
    return config
