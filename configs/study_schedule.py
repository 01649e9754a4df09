"""Batch size, learning rate and length of a pretraining: SimCLR with one of them changed at a time.

    python launch.py --config=configs/study_schedule.py --workdir=runs/schedule      ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/study_schedule.py:small --workdir=runs/small   ResNet-18 x 0.25, 48 px, two CPUs
    python launch.py --config=configs/study_schedule.py:demo --workdir=runs/demo     synthetic images, no download

A changed batch size shows as many images, with a learning rate in proportion. Each variant is compared with the one
named 'as it is'. A rate at which the training diverges ends nothing; the report says which.

What to expect:

full: not measured yet.

small: not measured yet.

demo: not measured yet.
"""

from configs import base, recipes

PLAIN = "as it is"


def get_config(variant: str = "full"):
    return recipes.choose("study_schedule", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_study_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    config.stages = (recipes.full_stage("simclr", **common),)
    recipes.set_steps(config.stages[0], 10_000)
    config.targets = recipes.full_targets(fractions=(0.01, 0.1, 1.0), **common)
    return vary(config, factors=(0.25, 0.5, 2.0, 4.0))


def small():
    """The same at a size for two CPU cores."""
    config = recipes.small_study()
    common = {"preset": "dermoscopy", "size": 48}
    config.stages = recipes.narrow_by_steps({"simclr": 800}, batch=128, **common)
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=5, **common)[:2]
    return vary(config, factors=(0.25, 0.5, 2.0, 4.0))


def demo():
    """Half and double on synthetic images. It shows that everything works, and proves nothing."""
    config = recipes.demo_study("Demo of the study of schedules on synthetic dermoscopy")
    common = {"preset": "dermoscopy", "size": 32}
    config.stages = recipes.narrow_by_steps({"simclr": 40}, batch=64, **common)
    config.targets = recipes.narrow_targets(fractions=(1.0,), finetune_epochs=3, **common)[:1]
    return vary(config, factors=(0.5, 2.0))


def vary(config, *, factors):
    """One of batch, rate and length times each factor."""
    stage = config.stages[0]
    batch, rate, steps = stage.batch_size, stage.optimizer.learning_rate, stage.duration.steps
    changes = {PLAIN: {"stages[0].batch_size": batch}}
    for factor in factors:
        sized = {
            "stages[0].batch_size": round(batch * factor),
            "stages[0].optimizer.learning_rate": rate * factor,
            **length(steps / factor),
        }
        changes[f"batch {round(batch * factor)}"] = sized
    changes |= {f"rate × {factor:g}": {"stages[0].optimizer.learning_rate": rate * factor} for factor in factors}
    changes |= {f"length × {factor:g}": length(steps * factor) for factor in factors}
    config.baselines = ()
    config.study.update({"vary": base.variants(changes, x={}), "reference_variant": PLAIN})
    return config


def length(steps: float):
    """The fields of a length in steps, a tenth of them as warm-up."""
    return {"stages[0].duration.steps": round(steps), "stages[0].schedule.warmup.steps": max(1, round(steps / 10))}
