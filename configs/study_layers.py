"""In which layer the features are: kNN and a linear probe at every endpoint of a backbone, for tasks of several kinds.

    python launch.py --config=configs/study_layers.py --workdir=runs/layers        ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/study_layers.py:small --workdir=runs/small   ResNet-18 x 0.25, 48 px, two CPUs
    python launch.py --config=configs/study_layers.py:demo --workdir=runs/demo     synthetic images, no download

An endpoint is averaged over its positions, so that a probe of an early layer has few features. Geometric tasks are said
to be best in middle layers, instance discrimination in the last. A backbone is trained once for all endpoints.

What to expect:

full: not measured yet.

small: not measured yet.

demo: not measured yet.
"""

from configs import base, recipes

ENDPOINTS = ("stem", "stage1", "stage2", "stage3", "stage4")
TASKS = ("relative_location", "rotation", "moco_v2", "simclr")


def get_config(variant: str = "full"):
    return recipes.choose("study_layers", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_study_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    return compare(config, [recipes.full_stage(task, **common) for task in TASKS], fractions=(0.1, 1.0), **common)


def small():
    """The same at a size for two CPU cores."""
    common = {"preset": "dermoscopy", "size": 48}
    stages = recipes.narrow_by_steps(dict.fromkeys(TASKS, 800), batch=128, **common)
    return compare(recipes.small_study(), stages, fractions=(0.1, 1.0), **common)


def demo():
    """Two tasks on synthetic images. It shows that everything works, and proves nothing."""
    common = {"preset": "dermoscopy", "size": 32}
    stages = recipes.narrow_by_steps({"rotation": 60, "simclr": 60}, batch=64, **common)
    config = recipes.demo_study("Demo of the study of layers on synthetic dermoscopy")
    return compare(config, stages, fractions=(1.0,), **common)


def compare(config, stages, *, fractions, **common):
    """Each stage alone and scratch, measured at every endpoint. Averaged, stage 4 is the pooled features."""
    with config.unlocked():
        config.curricula = base.ConfigDict({stage.task: (stage,) for stage in stages})
    config.lock()
    config.baselines = ("scratch",)
    config.targets = tuple(
        base.target(protocol, fractions=fractions, seeds=(0, 1, 2), **common) for protocol in ("knn", "linear")
    )
    config.study.update(
        {
            "vary": base.variants(
                {name: {"targets[*].endpoint": name} for name in ENDPOINTS},
                x={name: float(place) for place, name in enumerate(ENDPOINTS)},
            ),
            "reference_variant": "stage4",
            "axis": "endpoint: stem, stage 1 to 4",
        }
    )
    return config
