"""Pacing on ISIC 2019: a bandit that chooses the next task, weights of all tasks at once, images by their loss.

    python launch.py --config=configs/isic_pacing.py --workdir=runs/pacing          ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/isic_pacing.py:small --workdir=runs/small     ResNet-18 x 0.25, 48 px, two CPUs
    python launch.py --config=configs/isic_pacing.py:demo --workdir=runs/demo       synthetic images, no download
    python launch.py --config=configs/isic_pacing.py:samples --workdir=runs/samples  as small, images within SimCLR

The curriculum is one stage, a bandit with Exp3.S. The other curricula are the other rules of choice, and joint stages
with every weighting. Beside them stand random choices, equal and random weights, each task alone, and no pretraining. A
joint step is a step of each task, so joint stages are shorter by the number of tasks, and all arms cost about as many
forward and backward passes. `samples` is another question: SimCLR alone, for equally many steps with all images, with
the easiest or the hardest first, and with as many random ones. `docs/pacing.md` explains the rules.

What to expect:

full: not measured yet.

small: not measured yet.

demo: not measured yet.

samples: results/curriculum.md, 6 min 31 s of processor time for `easiest` and `hardest`, on one of two CPU cores; the
other arms were not timed alone. In AUROC, the linear probe gives 0.750 [0.720–0.775] from random weights,
0.857 [0.840–0.873] with all images, 0.839 [0.818–0.856] with the easiest first, 0.822 [0.803–0.839] with the hardest
first, and 0.846 [0.827–0.862] with random ones, of one pretraining seed.
"""

from aiseeme_jax.pretext import pacing
from configs import base, recipes

TASKS = ("rotation", "moco_v2", "simclr")
TEACHERS = ("exp3s", "tscl_online", "tscl_window", "tscl_sampling")


def get_config(variant: str = "full"):
    return recipes.choose("isic_pacing", {"full": full, "small": small, "demo": demo, "samples": samples}, variant)


def full():
    config = base.get_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    members = tuple(base.stage(task, **common) for task in TASKS)
    training = {
        "batch_size": 256,
        "optimizer": {**recipes.SGD, "learning_rate": 0.03},
        "schedule": {"warmup": base.duration(epochs=5)},
    }
    compare(config, members, epochs=200, interval=200, **training)
    config.targets = recipes.full_targets(fractions=(0.01, 0.1, 1.0), **common)
    return config


def small():
    """The same at a size for two CPU cores."""
    config = base.get_config()
    config.data.name = "isic2019/64"
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    narrow(config, {"preset": "dermoscopy", "size": 48}, epochs=4, interval=40)
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=2, preset="dermoscopy", size=48)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})
    return config


def demo():
    """The same on synthetic dermoscopy. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo on synthetic dermoscopy"
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    narrow(config, {"preset": "dermoscopy", "size": 32}, epochs=4, interval=5)
    config.targets = (base.target("knn", preset="dermoscopy", size=32),)
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 50})
    return config


def samples():
    """SimCLR with all images, and with paced ones, at the size of `small`."""
    config = base.get_config()
    config.data.name = "isic2019/64"
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 48}
    training = recipes.narrow_training(4, batch=64)
    stages = {
        order: base.stage("simclr", samples={"order": order, "passes": 4}, **common, **training)
        for order in ("all", "easiest", "hardest", "random")
    }
    config.stages = (stages.pop("all"),)
    with config.unlocked():
        config.curricula = base.ConfigDict({order: (stage,) for order, stage in stages.items()}).lock()
    config.targets = recipes.narrow_targets(fractions=(0.1, 1.0), finetune_epochs=2, **common)[:2]
    config.baselines = ("scratch",)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})
    return config


def narrow(config, common, *, epochs, interval):
    """The arms at a size for CPUs."""
    members = tuple(base.stage(task, **common, **recipes.narrow_fields(task)) for task in TASKS)
    training = recipes.narrow_training(epochs, batch=64)
    del training["duration"]
    compare(config, members, epochs=epochs, interval=interval, **training)


def compare(config, members, *, epochs, interval, **training):
    """Bandits of as many epochs for each member as joint stages have."""
    bandits = {
        teacher: base.stage(
            "bandit",
            members=members,
            teacher=teacher,
            interval=interval,
            duration=base.duration(epochs=epochs * len(members)),
            **training,
        )
        for teacher in TEACHERS
    }
    joint = {
        f"joint_{name}": base.stage(
            "joint", members=members, weights=name, duration=base.duration(epochs=epochs), **training
        )
        for name in pacing.WEIGHTINGS
        if name != "fixed"
    }
    config.stages = (bandits.pop("exp3s"),)
    with config.unlocked():
        config.curricula = base.ConfigDict({name: (stage,) for name, stage in {**bandits, **joint}.items()}).lock()
    config.baselines = ("scratch", "single", "weights")
