"""How much data a backbone needs: MoCo v2 on 1 to 100 % of ISIC 2019, measured on shares of the labels.

    python launch.py --config=configs/study_data_size.py --workdir=runs/data_size    ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/study_data_size.py:small --workdir=runs/small  ResNet-18 x 0.25, 48 px, two CPUs
    python launch.py --config=configs/study_data_size.py:demo --workdir=runs/demo    synthetic images, no download

Every share is trained for as many steps, so that the amount of data varies and the cost does not. Each pretraining seed
draws shares of its own, of whole lesions. So the intervals also cover the draw.

What to expect:

full: not measured yet.

small: results/curriculum.md, 30 minutes of processor time on one of two CPU cores. AUROC of the linear probe on all
labels: 0.807 [0.762–0.853] with 1 % of the images, 0.804 [0.780–0.828] with all, 0.744 [0.716–0.772] with random
weights.

demo: not measured yet.
"""

from configs import base, recipes

SHARES = {"1 %": 0.01, "5 %": 0.05, "10 %": 0.1, "25 %": 0.25, "50 %": 0.5, "100 %": 1.0}


def get_config(variant: str = "full"):
    return recipes.choose("study_data_size", {"full": full, "small": small, "demo": demo}, variant)


def full():
    """One per cent of ISIC 2019 is fewer images than a batch of 256, so that the batch is 128."""
    config = base.get_study_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    config.stages = (recipes.full_stage("moco_v2", batch_size=128, **common),)
    recipes.set_steps(config.stages[0], 25_000)
    config.targets = recipes.full_targets(fractions=(0.01, 0.1, 1.0), **common)
    return vary(config, SHARES)


def small():
    """The same at a size for two CPU cores: as many steps as in `study_curriculum.py:small`, no fine-tuning."""
    config = recipes.small_study()
    common = {"preset": "dermoscopy", "size": 48}
    config.stages = recipes.narrow_by_steps({"moco_v2": 436}, batch=64, **common)
    config.targets = recipes.narrow_targets(fractions=(0.01, 0.1, 1.0), finetune_epochs=5, **common)[:2]
    return vary(config, SHARES)


def demo():
    """Three shares of synthetic images. It shows that everything works, and proves nothing."""
    config = recipes.demo_study("Demo of the study of data size on synthetic dermoscopy")
    common = {"preset": "dermoscopy", "size": 32}
    config.stages = recipes.narrow_by_steps({"simclr": 60}, batch=32, **common)
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=3, **common)[:2]
    return vary(config, {name: SHARES[name] for name in ("10 %", "50 %", "100 %")})


def vary(config, shares):
    """The share of the images that the stages are trained on."""
    config.baselines = ("scratch",)
    config.study.update(
        {
            "vary": base.variants({name: {"data.share": share} for name, share in shares.items()}),
            "reference_variant": "100 %",
            "axis": "share of the images",
        }
    )
    return config
