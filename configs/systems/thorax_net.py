"""Thorax-Net beside the plain network, from random weights and from a curriculum (docs/systems.md).

    python launch.py --config=configs/systems/thorax_net.py --workdir=runs/thorax        ResNet-50, 224 px, one GPU
    python launch.py --config=configs/systems/thorax_net.py:small --workdir=runs/small   ResNet-18 x 0.25, one CPU
    python launch.py --config=configs/systems/thorax_net.py:demo --workdir=runs/demo     synthetic images, no download

Each arm is measured by plain fine-tuning, and by Thorax-Net, whose first step is that fine-tuning. So its row differs
in the attention branch, and in that it is trained longer. The full size is on the official split of NIH ChestX-ray14,
in which no patient is torn.

What to expect: not measured yet. The paper's 0.788 is of a ResNet-152 from ImageNet weights on the same test images.
"""

from configs import base, recipes

# Of the learning rate of the other steps: published.
JOINT_RATE = 0.1


def get_config(variant: str = "full"):
    return recipes.choose("systems/thorax_net", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_config()
    config.data.name = "chestxray14/224"
    config.model.update({"name": "resnet50", "channels": 1})
    common = {"preset": "cxr", "size": 224}
    config.stages = (recipes.full_stage("moco_v2", **common),)
    config.targets = list_steps(rate=1e-4, epochs=(10, 5, 5), batch_size=64, seeds=(0, 1, 2), **common)
    config.baselines = ("scratch",)
    return config


def small():
    """On the two classes of the COVID-19 image data collection, which has masks of lungs, for one CPU core."""
    config = base.get_config()
    config.data.name = "covid_chestxray/64_covid_mask"
    make_narrow(config, stage_epochs=20, epochs=(15, 10, 5), seeds=(0, 1, 2), preset="cxr", size=48)
    return config


def demo():
    """On synthetic chest X-rays with three findings. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo of Thorax-Net on synthetic chest X-rays"
    config.data.update({"name": "cxr_phantom/demo_findings", "synthetic": True})
    make_narrow(config, stage_epochs=10, epochs=(10, 5, 5), seeds=(0,), preset="cxr", size=32)
    return config


def make_narrow(config, *, stage_epochs, epochs, seeds, **common):
    """A narrow ResNet-18, pretrained for a few epochs. The maps of its third stage have a quarter of the side."""
    config.model.update({"name": "resnet18", "width": 0.25, "stem": "small", "dtype": "float32", "channels": 1})
    config.stages = recipes.narrow_stages(epochs={"moco_v2": stage_epochs}, batch=64, **common)
    config.targets = list_steps(rate=1e-3, epochs=epochs, batch_size=64, seeds=seeds, hidden=64, **common)
    config.baselines = ("scratch",)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})


def list_steps(*, rate, epochs, hidden=512, **common):
    """Plain fine-tuning, and Thorax-Net.

    Args:
      rate: learning rate of fine-tuning and of the attention branch.
      epochs: of fine-tuning, of the attention branch, and of both together.
      hidden: channels before the last layer of the branch.
    """

    def training(rate, epochs):
        return {
            "duration": base.duration(epochs=epochs),
            "optimizer": {"name": "adamw", "learning_rate": rate, "weight_decay": 1e-2},
            **common,
        }

    plain, attention, joint = epochs
    classifier = base.target("finetune", **training(rate, plain))
    branch = base.target("thorax_attention", hidden=hidden, classifier=classifier, **training(rate, attention))
    return classifier, base.target("thorax_net", branch=branch, **training(JOINT_RATE * rate, joint))
