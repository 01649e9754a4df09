"""The learning rate and the batch size of two pretext tasks on ISIC 2019, SimCLR and rotation, found by a search.

    python launch.py --config=configs/isic_tuning.py --workdir=runs/tuning          ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/isic_tuning.py:small --workdir=runs/small     ResNet-18 x 0.25, 48 px, two CPUs
    python launch.py --config=configs/isic_tuning.py:demo --workdir=runs/demo       synthetic images, no download

Each task is an arm of its own: it is searched in short trials, and then trained with what was found. Beside each of
them stands the same task without a search. `docs/tuning.md` explains the fields of a search.

What to expect:

full: not measured yet.

small: results/curriculum.md, 11 minutes on two CPU cores beside other work. AUROC of the linear probe: SimCLR 0.813
[0.792–0.832] with a search and 0.813 [0.794–0.832] without, rotation 0.771 [0.742–0.795] and 0.761 [0.736–0.788].

demo: not measured yet.
"""

from configs import base, recipes

TASKS = ("simclr", "rotation")


def get_config(variant: str = "full"):
    return recipes.choose("isic_tuning", {"full": full, "small": small, "demo": demo}, variant)


def full():
    config = base.get_config()
    config.data.name = "isic2019/224"
    common = {"preset": "dermoscopy", "size": 224}
    search = base.tuning(
        base.proxy("knn", **common),
        auto=("learning_rate", "batch_size"),
        batches=(128, 256, 512, 1024),
        share=0.1,
        trials=27,
        range_test=True,
        noise_scale=True,
    )
    compare(config, {task: recipes.full_stage(task, **common) for task in TASKS}, search)
    config.targets = recipes.full_targets(fractions=(0.01, 0.1, 1.0), **common)
    return config


def small():
    """The same at a size for two CPU cores."""
    config = base.get_config()
    config.data.name = "isic2019/64"
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 48}
    narrow(config, common, epochs=2, batches=(32, 64, 128), share=0.5, trials=6, rungs=2)
    config.targets = (base.target("knn", **common), base.target("linear", **common))
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 100})
    return config


def demo():
    """The same on synthetic dermoscopy. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo on synthetic dermoscopy"
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    common = {"preset": "dermoscopy", "size": 32}
    narrow(config, common, epochs=8, batches=(32, 64), share=0.5, trials=4, rungs=2, keep=2)
    config.targets = (base.target("knn", **common),)
    config.runtime.update({"residence": "device", "log_every": 10, "checkpoint_every": 50})
    return config


def narrow(config, common, *, epochs, **fields):
    """The arms at a size for CPUs, with both measurements before the first trial."""
    stages = recipes.narrow_stages(epochs=dict.fromkeys(TASKS, epochs), batch=64, **common)
    proxy = base.proxy("knn", **common)
    search = base.tuning(proxy, auto=("learning_rate", "batch_size"), range_test=True, noise_scale=True, **fields)
    compare(config, {stage.task: stage for stage in stages}, search)


def compare(config, stages, search):
    """Arms of one stage each, with the search and without it."""
    arms = {}
    for task, stage in stages.items():
        searched = stage.copy_and_resolve_references()
        with searched.unlocked():
            searched.tuning = search.copy_and_resolve_references().lock()
        arms |= {f"{task}, searched": (searched.lock(),), f"{task}, not searched": (stage,)}
    with config.unlocked():
        config.curricula = base.ConfigDict(arms).lock()
    config.baselines = ("scratch",)
