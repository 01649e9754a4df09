"""Measures a backbone, one of a run or a foreign one: kNN, linear probe, SVM on few labels, fine-tuning.

    python launch.py --config=configs/evaluate.py:dermoscopy --config.init=FILE --workdir=runs/measured
    python launch.py --config=configs/evaluate.py:cxr,64,frozen --config.init=FILE --workdir=runs/measured

After the colon stands the kind of images. Then may follow the side of the views in pixels, `frozen`, which leaves
fine-tuning out, and `masks`, which measures by segmentation instead, on the data set with masks. FILE is a workdir, a
stage's folder, or a file with torchvision's or timm's names, `.safetensors` or `.pth`. `config.model` says which
network it is. By default it is a ResNet-50, for volumes a 3-D ResNet-18. `--config.data.name` names another data set.
`--config.init=scratch` measures random weights, to compare with.
"""

import functools

from aiseeme_jax.errors import UserError
from configs import base, recipes

# Data set, preset and side of the views of each kind of images.
KINDS = {
    "dermoscopy": ("isic2019/{}", "dermoscopy", 224),
    "cxr": ("kermany_pneumonia/{}", "cxr", 224),
    "ct": ("lidc_idri/{}", "ct", 64),
    "own": ("image_table/{}", "natural", 224),
}
# Kinds whose data set has masks.
WITH_MASKS = ("dermoscopy", "own")
OPTIONS = ("frozen", "masks")
SEEDS, SHOTS = (0, 1, 2), (1, 8, 96)


def get_config(variant: str = "dermoscopy"):
    kind, *options = variant.split(",")
    made = {name: functools.partial(measure, name, options) for name in KINDS}
    return recipes.choose("evaluate", made, kind)


def measure(kind, options):
    """The config for a kind of images."""
    sizes = [int(option) for option in options if option.isdigit()]
    if len(sizes) > 1 or any(option not in OPTIONS and not option.isdigit() for option in options):
        raise UserError(
            f"after '{kind}' may follow a size of the views, 'frozen' and 'masks', not '{', '.join(options)}'"
        )
    if "masks" in options and kind not in WITH_MASKS:
        raise UserError(f"there are masks of {', '.join(WITH_MASKS)}, not of {kind}")
    data, preset, size = KINDS[kind]
    size = sizes[0] if sizes else size
    config = base.get_config()
    config.job = "evaluate"
    config.data.name = data.format(size)
    if kind == "ct":
        config.model.update({"name": "resnet18", "channels": 1, "dimensions": 3})
    listing = list_targets
    if "masks" in options:
        config.data.name += "_mask"
        listing = list_segmentations
    config.targets = listing(frozen="frozen" in options, preset=preset, size=size)
    return config


def list_segmentations(*, frozen, preset, size):
    """Segmentation with the whole network trained, unless it stays frozen, and with the decoder alone."""
    common = {"preset": preset, "size": size, "seeds": SEEDS, "batch_size": 64}
    adamw = {"name": "adamw", "learning_rate": 1e-3}
    trained = ("decoder",) if frozen else ("all", "decoder")
    return tuple(base.target("segment", trained=one, optimizer=adamw, **common) for one in trained)


def list_targets(*, frozen, preset, size):
    """The targets, in the order of their cost."""
    common = {"preset": preset, "size": size, "seeds": SEEDS}
    knn, linear, *finetuned = recipes.full_targets(fractions=(0.01, 0.1, 1.0), preset=preset, size=size)
    few = tuple(base.target("svm", shots=shots, **common) for shots in SHOTS)
    return (knn, linear, *few, *(() if frozen else finetuned))
