"""Fisher vectors beside the linear probe and fine-tuning, from random weights and from a curriculum (docs/systems.md).

    python launch.py --config=configs/systems/fisher_vector.py --workdir=runs/fisher       ResNet-50, 224 px, one GPU
    python launch.py --config=configs/systems/fisher_vector.py:small --workdir=runs/small  ResNet-18 x 0.25, one CPU
    python launch.py --config=configs/systems/fisher_vector.py:demo --workdir=runs/demo    synthetic images, no download

Each arm is measured by the linear probe of its pooled features, by plain, improved and foreground Fisher vectors of a
map, by the last of these after fine-tuning, and by fine-tuning itself. All have the same images and seeds, so what a
row of Fisher vectors gains over the probe is that of the encoding.

What to expect: not measured yet.
"""

from configs import base, recipes

# In the order in which each adds something to the one before.
ENCODINGS = ("fv", "ifv", "fgfv")


def get_config(variant: str = "full"):
    return recipes.choose("systems/fisher_vector", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_config()
    config.data.name = "isic2019/224"
    config.model.name = "resnet50"
    common = {"preset": "dermoscopy", "size": 224}
    config.stages = (recipes.full_stage("moco_v2", **common),)
    sgd = {"name": "sgd", "learning_rate": 0.01}
    training = {"batch_size": 64, "optimizer": sgd}
    config.targets = compare("stage4", training, seeds=(0, 1, 2), **common)
    config.baselines = ("scratch",)
    return config


def small():
    """The same at a size for one CPU core."""
    config = base.get_config()
    config.data.name = "isic2019/64"
    common = {"preset": "dermoscopy", "size": 48}
    make_narrow(config, stage_epochs=6, finetune_epochs=5, seeds=(0, 1, 2), batch=128, **common)
    return config


def demo():
    """The same on synthetic dermoscopy. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo of Fisher vectors on synthetic dermoscopy"
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    make_narrow(config, stage_epochs=10, finetune_epochs=10, seeds=(0,), batch=64, preset="dermoscopy", size=32)
    return config


def make_narrow(config, *, stage_epochs, finetune_epochs, seeds, batch, **common):
    """A narrow ResNet-18, pretrained for a few epochs, and every target.

    On images this small, the last map has four places or fewer: maps of the second stage have 6 x 6, or 4 x 4.
    """
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    config.stages = recipes.narrow_stages(epochs={"moco_v2": stage_epochs}, batch=batch, **common)
    training = {
        "duration": base.duration(epochs=finetune_epochs),
        "schedule": {"warmup": base.duration(epochs=1)},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2},
        "batch_size": 64,
    }
    size = {"dimensions": 32, "components": 16, "descriptors": 20_000, "iterations": 50}
    config.targets = compare("stage2", training, seeds=seeds, **size, **common)
    config.baselines = ("scratch",)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})


def compare(endpoint, training, *, seeds, preset, size, **encoder):
    """The linear probe, the Fisher vectors, and fine-tuning.

    Args:
      endpoint: whose map is encoded.
      training: fields of fine-tuning.
      **encoder: fields of all Fisher vectors.
    """
    common = {"preset": preset, "size": size, "seeds": seeds}
    finetune = base.target("finetune", **training, **common)
    fisher = {"endpoint": endpoint, **encoder, **common}
    return (
        base.target("linear", **common),
        *(base.target("fisher_vector", encoding=one, label=one, **fisher) for one in ENCODINGS),
        base.target("fisher_vector", backbone="finetuned", label="fgfv_finetuned", classifier=finetune, **fisher),
        finetune,
    )
