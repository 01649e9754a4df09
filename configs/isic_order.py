"""A search for an order of pretext tasks on ISIC 2019: which tasks, in which sequence, for the eight diagnoses.

    python launch.py --config=configs/isic_order.py --workdir=runs/order           ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/isic_order.py:small --workdir=runs/small     ResNet-18 x 0.25, 48 px, two CPUs
    python launch.py --config=configs/isic_order.py:demo --workdir=runs/demo       synthetic images, no download

The same command, started again or on several machines with one workdir, goes on or shares the work. The best order is
the config `best_order.py` in the workdir. `docs/search.md` explains strategies, scores and costs.

What to expect:

full: not measured yet.

small: results/curriculum.md, with the strategies `greedy` and `surrogate` one after the other, 63 min 17 s of processor
time on one of two CPU cores. In AUROC on validation, kNN gives 0.702 from random weights. Both find SimCLR and then
MoCo v2, 0.771 [0.737–0.804] over three new seeds, which cannot be told apart from SimCLR alone for as many images.

demo: results/demos.md, 4 min 13 s of processor time on two CPU cores. In AUROC on validation, kNN gives 0.476 from
random weights. The best order is SimCLR alone, 0.528 [0.469–0.588] over two new seeds, which cannot be told apart from
SimCLR and then MoCo v2.
"""

from configs import base, recipes

POOL = ("relative_location", "rotation", "npid", "moco_v2", "simclr", "barlow_twins")


def get_config(variant: str = "full"):
    return recipes.choose("isic_order", {"full": full, "small": small, "demo": demo}, variant)


def full():
    """Five tasks of 20 epochs: a tenth of their published length, so that ranks are not those of full trainings."""
    config = base.get_search_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    stages = (recipes.full_stage(task, **common) for task in POOL[:-1])
    search(config, tuple(stages), **common)
    for stage in config.search.pool.values():
        stage.duration.epochs = 20.0
        stage.schedule.warmup.epochs = 1.0
        stage.schedule.warmup.steps = None
    config.targets = recipes.full_targets(fractions=(0.01, 0.1, 1.0), **common)
    return config


def small():
    """Six tasks at a size for two CPU cores, each for as many images."""
    config = base.get_search_config()
    config.data.name = "isic2019/64"
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 48}
    stages = recipes.narrow_stages(epochs=dict.fromkeys(POOL, 2), batch=64, **common)
    search(config, stages, **common)
    config.search.update({"strategy": "surrogate", "stages": 24, "finalists": 2, "finalist_seeds": (1, 2, 3)})
    config.targets = recipes.narrow_targets(fractions=(0.01, 0.1, 1.0), finetune_epochs=2, **common)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 100})
    return config


def demo():
    """Three tasks on synthetic dermoscopy, in a few minutes. It shows that everything works, and proves nothing."""
    config = base.get_search_config()
    config.title = "Demo on synthetic dermoscopy"
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 32}
    epochs = {"rotation": 8, "moco_v2": 8, "simclr": 8}
    search(config, recipes.narrow_stages(epochs=epochs, batch=64, **common), **common)
    config.search.update({"length": 2, "finalists": 2, "compare": ("reverse",)})
    config.targets = recipes.narrow_targets(fractions=(1.0,), finetune_epochs=8, **common)
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 50})
    return config


def search(config, stages, *, preset, size):
    """A search of these stages, each under the name of its task, by the neighbours on all labels."""
    with config.search.unlocked():
        config.search.pool = base.ConfigDict({stage.task: stage for stage in stages}).lock()
        config.search.proxy = base.proxy("knn", preset=preset, size=size)
