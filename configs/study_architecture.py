"""Which backbone a curriculum suits: the same stages with ResNets of two depths and widths, and a ViT.

    python launch.py --config=configs/study_architecture.py --workdir=runs/architecture 224 px, bf16, one GPU
    python launch.py --config=configs/study_architecture.py:small --workdir=runs/small  narrow networks, 48 px, 2 CPUs
    python launch.py --config=configs/study_architecture.py:demo --workdir=runs/demo    synthetic images, no download

All backbones have the same optimizer, AdamW, and as many steps. They differ in size and cost: the report shows device
time. Learning rates were not tuned for any of them.

What to expect:

full: not measured yet.

small: not measured yet.

demo: not measured yet.
"""

from configs import base, recipes

STAGES = ("rotation", "moco_v2", "simclr")


def get_config(variant: str = "full"):
    return recipes.choose("study_architecture", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_study_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    config.stages = recipes.narrow_by_steps(dict.fromkeys(STAGES, 20_000), batch=256, **common)
    config.targets = recipes.full_targets(fractions=(0.01, 0.1, 1.0), **common)
    return vary(
        config,
        {
            "ResNet-18": {"name": "resnet18"},
            "ResNet-50": {"name": "resnet50"},
            "ViT-S": {"name": "vit_small"},
        },
    )


def small():
    """Narrow networks for two CPU cores; the ViT has patches of 8 pixels."""
    config = recipes.small_study()
    common = {"preset": "dermoscopy", "size": 48}
    config.stages = recipes.narrow_by_steps(dict.fromkeys(STAGES, 500), batch=128, **common)
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=5, **common)
    return vary(
        config,
        {
            "ResNet-18 × 0.25": {"name": "resnet18", "width": 0.25},
            "ResNet-34 × 0.25": {"name": "resnet34", "width": 0.25},
            "ResNet-18 × 0.5": {"name": "resnet18", "width": 0.5},
            "ViT-Ti × 0.5, patch 8": {"name": "vit_tiny", "width": 0.5, "patch": 8},
        },
    )


def demo():
    """Two networks on synthetic images. It shows that everything works, and proves nothing."""
    config = recipes.demo_study("Demo of the study of architectures on synthetic dermoscopy")
    common = {"preset": "dermoscopy", "size": 32}
    config.stages = recipes.narrow_by_steps({"rotation": 40, "simclr": 40}, batch=64, **common)
    config.targets = recipes.narrow_targets(fractions=(1.0,), finetune_epochs=3, **common)[:2]
    networks = {"ResNet-18 × 0.25": {"width": 0.25}, "ResNet-18 × 0.5": {"width": 0.5}}
    return vary(config, networks)


def vary(config, networks):
    """The fields of the model."""
    config.baselines = ("scratch",)
    config.study.vary = base.variants({name: {"model": fields} for name, fields in networks.items()}, x={})
    config.study.reference_variant = next(iter(networks))
    return config
