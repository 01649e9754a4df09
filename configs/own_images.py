"""Your own images, from a table: pretext tasks on all of them, then the classes or findings that the table knows.

    python launch.py --config=configs/own_images.py --workdir=runs/own               ResNet-50, 224 px, bf16, one GPU
    python launch.py --config=configs/own_images.py:size=64 --workdir=runs/own64     ResNet-18 x 0.25, 64 px, two CPUs

After the colon stand arguments, with commas between them:

    size=64              side of the images in pixels, 64 or 224
    table=clinic_a       the data set of clinic_a.csv; without it that of images.csv
    fit=pad              or crop, if the data set was prepared so; without it images are squeezed
    preset=cxr           views of radiographs, or dermoscopy; without it natural
    tasks=rotation+byol  pretext tasks in their order

`docs/own_images.md` begins with the folder of images. What to expect depends on the images: nothing was measured, and
lengths and learning rates are not tuned. A batch has 64 images, which may be more than you have: lower it with
`--config.stages[0].batch_size=16`, and so on. A table without labels is for pretraining alone: `--config.targets="()"`.
"""

from aiseeme_jax.errors import UserError
from configs import base, recipes
from tfds_builders.common.storage import FITS

TASKS = ("rotation", "simclr")
SIZES = ("64", "224")
PRESETS = ("natural", "dermoscopy", "cxr")
# Images of a batch, and epochs of a stage at 64 px.
BATCH, EPOCHS = 64, 50


def get_config(arguments: str = ""):
    given = read_arguments(arguments)
    size = int(given["size"])
    config = base.get_config()
    config.title = "Own images"
    parts = [given["table"], given["size"], "" if given["fit"] == "squeeze" else given["fit"]]
    config.data.name = f"image_table/{'_'.join(filter(None, parts))}"
    config.baselines = ("scratch",)
    make = make_small if size == 64 else make_full
    return make(config, given["tasks"].split("+"), preset=given["preset"], size=size)


def read_arguments(arguments):
    """The arguments by their names. Raises UserError, with the known ones, for what is none."""
    known = {"size": "224", "table": "", "fit": "squeeze", "preset": "natural", "tasks": "+".join(TASKS)}
    choices = {"size": SIZES, "fit": FITS, "preset": PRESETS}
    found = dict(known)
    for argument in filter(None, arguments.split(",")):
        name, equals, value = argument.partition("=")
        if name not in known or not equals or not value:
            raise UserError(f"own_images has no argument '{argument}': known are {', '.join(f'{k}=…' for k in known)}")
        if value not in choices.get(name, (value,)):
            raise UserError(f"own_images: {name}={value}: known are {', '.join(choices[name])}")
        found[name] = value
    recipes.check_tasks(found["tasks"])
    return found


def make_full(config, tasks, **common):
    """For a GPU."""
    config.stages = tuple(recipes.full_stage(task, batch_size=BATCH, **common) for task in tasks)
    config.targets = recipes.full_targets(fractions=(1.0,), **common)
    config.targets[-1].seeds = (0,)
    return config


def make_small(config, tasks, **common):
    """For two CPU cores."""
    config.model.update({"name": "resnet18", "width": 0.25, "dtype": "float32"})
    config.stages = recipes.narrow_stages(tasks=tasks, epochs={}, others=EPOCHS, batch=BATCH, **common)
    config.targets = recipes.narrow_targets(fractions=(1.0,), finetune_epochs=20, **common)
    config.runtime.update({"residence": "device", "log_every": 20, "checkpoint_every": 200})
    return config
