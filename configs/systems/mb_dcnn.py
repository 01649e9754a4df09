"""MB-DCNN: coarse segmentation, mask-guided classification, enhanced segmentation, with their controls.

    python launch.py --config=configs/systems/mb_dcnn.py --workdir=runs/mb           ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/systems/mb_dcnn.py:small --workdir=runs/small  ResNet-18 x 0.25, 48 px, one CPU
    python launch.py --config=configs/systems/mb_dcnn.py:demo --workdir=runs/demo    synthetic images, no download

The images have masks and labels. Each arm is measured by the classifier with no mask, which is the plain one on these
images, with the mask that the coarse network predicts, with that of another image, and with the true one; by plain
fine-tuning on all images with a label, also those without a mask; and by coarse segmentation, by enhanced segmentation,
and by the same with a map of zeros. So both directions of help are differences: of the classifiers with and without a
mask, of the segmentations with and without the map. The coarse network and the classifier of an arm and seed are
trained once, whatever needs them.

What to expect: not measured yet.
"""

from configs import base, recipes

CONTROLS = ("none", "shuffled", "truth")


def get_config(variant: str = "full"):
    return recipes.choose("systems/mb_dcnn", {"full": full, "small": small, "demo": demo}, variant)


def full():
    """Rates and batches are those of the authors' code. It trains 500 epochs; here there are 50, which is ours."""
    config = base.get_config()
    config.data.name = "isic2017/224_mask"
    common = {"preset": "dermoscopy", "size": 224}
    config.stages = (recipes.full_stage("moco_v2", **common),)
    config.targets = compare(
        segmentation={"batch_size": 16, "duration": base.duration(epochs=50)},
        classification={"batch_size": 32, "duration": base.duration(epochs=50)},
        seeds=(0, 1, 2),
        rate=1e-4,
        **common,
    )
    config.baselines = ("scratch",)
    return config


def small():
    """The same at a size for one CPU core."""
    config = base.get_config()
    config.data.name = "isic2019/64_mask"
    make_narrow(config, stage_epochs=6, epochs=5, seeds=(0, 1, 2), preset="dermoscopy", size=48)
    return config


def demo():
    """The same on synthetic dermoscopy. It shows that everything works, and proves nothing."""
    config = base.get_config()
    config.title = "Demo of mutual bootstrapping on synthetic dermoscopy"
    config.data.update({"name": "derm_phantom/demo", "synthetic": True})
    make_narrow(config, stage_epochs=10, epochs=10, seeds=(0,), preset="dermoscopy", size=32)
    return config


def make_narrow(config, *, stage_epochs, epochs, seeds, **common):
    """A narrow ResNet-18, pretrained for a few epochs, and every target with a narrow decoder."""
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    config.stages = recipes.narrow_stages(epochs={"moco_v2": stage_epochs}, batch=64, **common)
    training = {"batch_size": 64, "duration": base.duration(epochs=epochs)}
    # At these sizes the last map has 3 x 3 or 2 x 2 positions: wider windows would see their centre alone.
    narrow = {"width": 32, "rates": (1, 2, 3)}
    config.targets = compare(
        segmentation=training, classification=training, seeds=seeds, rate=1e-3, coarse_fields=narrow, **common
    )
    config.baselines = ("scratch",)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})


def compare(*, segmentation, classification, rate, coarse_fields=None, **common):
    """Plain fine-tuning on all images with a label; on those with a mask too, the three networks and their controls."""
    adam = {"name": "adamw", "learning_rate": rate, "weight_decay": 0.0}
    segmenting = {"optimizer": adam, **segmentation, **common}
    classifying = {"optimizer": adam, "test_views": "nine_crops", **classification, **common}
    coarse = base.target("mb_dcnn_coarse", **segmenting, **(coarse_fields or {}))
    classifier = base.target("mb_dcnn_classifier", coarse=coarse, **classifying)
    controls = (
        base.target("mb_dcnn_classifier", coarse=coarse, mask=mask, label=mask, **classifying) for mask in CONTROLS
    )
    # Half the rate, as published.
    slower = {**segmenting, "optimizer": {**adam, "learning_rate": rate / 2}, "classifier": classifier}
    return (
        base.target("finetune", **classifying),
        classifier,
        *controls,
        coarse,
        base.target("mb_dcnn_enhanced", **slower),
        base.target("mb_dcnn_enhanced", class_map="zeros", label="zeros", **slower),
    )
