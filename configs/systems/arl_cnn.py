"""ARL-CNN beside the plain network, from random weights and from a curriculum (docs/systems.md).

    python launch.py --config=configs/systems/arl_cnn.py --workdir=runs/arl          ResNet-50, 224 px, one GPU
    python launch.py --config=configs/systems/arl_cnn.py:small --workdir=runs/small  ResNet-14 x 0.25, 48 px, one CPU
    python launch.py --config=configs/systems/arl_cnn.py:demo --workdir=runs/demo    synthetic images, no download

Each arm is measured by plain fine-tuning, by one network with attention for all classes, and by a network with
attention for each class against the rest, as the paper has it. All have the same images, steps, learning rates and test
crops, so a row differs from that of `finetune` in the attention, or in the way the classes are told apart. To start
from ImageNet weights, give a file: `--config.imagenet=FILE --config.baselines="('scratch','imagenet')"`.

What to expect: not measured yet.
"""

from configs import base, recipes


def get_config(variant: str = "full"):
    return recipes.choose("systems/arl_cnn", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_config()
    config.data.name = "isic2017/224"
    # In bfloat16 the term of the attention, which starts as a millionth of its block's input, would be rounded away.
    config.model.update({"name": "resnet50", "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 224}
    config.stages = (recipes.full_stage("moco_v2", **common),)
    # The paper's recipe is not known. This is ours, but for the nine crops.
    sgd = {"name": "sgd", "learning_rate": 0.01}
    config.targets = compare(
        batch_size=32, optimizer=sgd, duration=base.duration(epochs=100), seeds=(0, 1, 2), **common
    )
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
    config.title = "Demo of attention residual learning on synthetic dermoscopy"
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    make_narrow(config, stage_epochs=10, finetune_epochs=10, seeds=(0,), batch=64, preset="dermoscopy", size=32)
    return config


def make_narrow(config, *, stage_epochs, finetune_epochs, seeds, batch, **common):
    """A narrow ResNet-14, pretrained for a few epochs, and every target."""
    config.model.update({"name": "resnet14", "width": 0.25, "dtype": "float32"})
    config.stages = recipes.narrow_stages(epochs={"moco_v2": stage_epochs}, batch=batch, **common)
    adamw = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2}
    config.targets = compare(
        duration=base.duration(epochs=finetune_epochs),
        schedule={"warmup": base.duration(epochs=1)},
        optimizer=adamw,
        batch_size=64,
        seeds=seeds,
        **common,
    )
    config.baselines = ("scratch",)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})


def compare(**common):
    """Plain fine-tuning, and the system in its two ways; all else is the same."""
    common = {"test_views": "nine_crops", **common}
    return (
        base.target("finetune", **common),
        base.target("arl_cnn", **common),
        base.target("arl_cnn", classes="one_against_rest", label="one_against_rest", **common),
    )
