"""A system in the style of SSAC on shares of the labels, beside the same classifier without nodules that have no label,
from random weights and from a curriculum (docs/systems.md).

    python launch.py --config=configs/systems/ssac.py --workdir=runs/ssac            ResNet-18, nine planes, one GPU
    python launch.py --config=configs/systems/ssac.py:small --workdir=runs/small     three real planes, two CPU cores
    python launch.py --config=configs/systems/ssac.py:demo --workdir=runs/demo       nine drawn planes, no download

The curriculum and the system use the same nodules without a label, so a row of the supervised classifier after the
curriculum stands against a row of the system from random weights. `multi_view` has the three kinds of patch and the
fusing layers of MV-KBC.

What to expect: not measured yet.
"""

from configs import base, recipes


def get_config(variant: str = "full"):
    return recipes.choose("systems/ssac", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_config()
    config.data.name = "lidc_idri/views_mean_all"
    config.model.update({"name": "resnet18", "stem": "small", "channels": 1})
    common = {"preset": "ct_planes", "size": 64}
    config.stages = (recipes.full_stage("moco_v2", **common),)
    adamw = {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2}
    training = {"batch_size": 32, "optimizer": adamw, "duration": base.duration(epochs=100), "seeds": (0, 1, 2)}
    config.targets = compare(fractions=(0.1, 1.0), views=recipes.NODULE_VIEWS, width=64, code=64, **training, **common)
    config.baselines = ("scratch",)
    config.runtime.evaluation_batch = 64
    return config


def small():
    """The same on three real planes of each nodule, at a size for two CPU cores."""
    config = base.get_config()
    common = {"preset": "grey_planes", "size": 32}
    recipes.narrow_nodules(config, data="lidc_nodules/64_3readers_all", epochs=20, **common)
    training = {**recipes.NARROW_NODULES, "duration": base.duration(epochs=20), "seeds": (0, 1, 2)}
    config.targets = compare(fractions=(0.1, 1.0), width=16, code=16, **training, **common)
    return config


def demo():
    """The same on nine planes of drawn nodules. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo of a system in the style of SSAC on synthetic lung nodules"
    config.data.synthetic = True
    common = {"preset": "ct_planes", "size": 16}
    recipes.narrow_nodules(config, data="nodule_phantom/views", epochs=3, **common)
    training = {**recipes.NARROW_NODULES, "duration": base.duration(epochs=4), "seeds": (0,)}
    config.targets = compare(fractions=(0.2,), width=16, code=16, **training, **common)
    return config


def compare(*, width, code, **common):
    """The classifier on labels alone, the system, and its form of several kinds of patch."""
    helped = {"width": width, "code": code, **common}
    several = {"kinds": ("OA", "HVV", "HS"), "fusion": "learned", "penalty": 2.0}
    return (
        base.target("ssac_style", label="supervised", unsupervised=False, **helped),
        base.target("ssac_style", **helped),
        base.target("ssac_style", label="multi_view", **several, **helped),
    )
