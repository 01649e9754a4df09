"""The cost of a step of each pretext task, compared with a supervised step of the same backbone.

    python -m bench.tasks                                                   a narrow ResNet-18 at 64 px, for CPUs
    python -m bench.tasks --model=resnet50 --width=1 --size=224 --batch=256 --dtype=bfloat16
    python -m bench.tasks simclr byol dino                                  only these

The views are made beforehand from noise. So a step is network, loss and update, without augmentation and disk.
`operations` are those of all products and convolutions, with every forward and backward pass, head and loss.
Both are relative to the supervised step. If the time is larger than the operations, the step costs more than its passes
explain. Tasks of volumes run on volumes of `--side`, with the same network in 3-D. Tasks that need a ViT run with
`--vit`. Each is compared with the supervised step of its own network.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from aiseeme_jax import augment, models, pretext
from aiseeme_jax.evaluate import imbalance
from aiseeme_jax.evaluate.supervised import FineTuning
from aiseeme_jax.task import Task
from bench import measure, steps
from bench.steps import Fields, Optimizer, Step

# Number of images that a task is told. Banks, queues and clusters depend on it.
IMAGES = 8192
CLASSES = 8
SUPERVISED = "supervised"
# Views are made once and not measured; none of this changes what the network does.
PLAIN = {"jitter_probability": 0.0, "blur_probability": 0.0}


@dataclasses.dataclass(frozen=True)
class Ground:
    """A network and its input, with which tasks are measured."""

    model: dict[str, Any]
    size: int
    dimensions: int
    preset: str

    def __str__(self) -> str:
        shown = f"{self.size} px" if self.dimensions == 2 else f"volumes of {self.size}"
        return f"{self.model['name']}, {shown}"


def grounds(options: argparse.Namespace, names: Sequence[str]) -> list[tuple[Ground, list[str]]]:
    """Groups the tasks by the network and input with which they are measured."""
    network = {"name": options.model, "width": options.width, "stem": options.stem}
    images = Ground(network, options.size, 2, "natural")
    volumes = Ground({**network, "stem": "small", "channels": 1}, options.side, 3, "ct")
    patches = Ground({"name": options.vit, "patch": options.patch}, options.size, 2, "natural")
    found = [(images, []), (volumes, []), (patches, [])]
    for name in names:
        place = 1 if 2 not in pretext.TASKS[name].DIMENSIONS else 0 if fits(name, options, images) else 2
        found[place][1].append(name)
    return [(ground, tasks) for ground, tasks in found if tasks]


def fits(name: str, options: argparse.Namespace, ground: Ground) -> bool:
    """Whether a task takes the network."""
    try:
        nnx.eval_shape(lambda: make_task(name, options, ground))
    except ValueError:
        return False
    return True


def make_step(name: str, options: argparse.Namespace, ground: Ground) -> Step:
    task = make_task(name, options, ground)
    shape = (options.batch, *[ground.size] * ground.dimensions, task.backbone.channels)
    low, high, kind = (0, 255, np.uint8) if ground.dimensions == 2 else (-999, 400, np.int16)
    pixels = np.random.default_rng(0).integers(low, high, shape, kind)
    indices = np.arange(options.batch, dtype=np.int32)
    batch = {"image": pixels, "index": indices, "label": indices % CLASSES}
    batch = jax.device_put(steps.make_views(task, batch))
    fields = Fields(options.batch, Optimizer("adamw"))
    return steps.compile_step(steps.Ready(task), fields, batch, steps_per_epoch=IMAGES // options.batch)


def make_task(name: str, options: argparse.Namespace, ground: Ground) -> Task:
    backbone = models.make_backbone(**ground.model, dtype=options.dtype, dimensions=ground.dimensions, rngs=nnx.Rngs(0))
    if name == SUPERVISED:
        spec = augment.make_views(ground.preset, ground.size, FineTuning.RECIPE, FineTuning.FIXED)
        spec = dataclasses.replace(spec, **PLAIN)
        method = imbalance.make_method({"name": "none"})
        return FineTuning(backbone, spec, method=method, counts=(1,) * CLASSES, rngs=nnx.Rngs(0))
    setting = pretext.Setting(IMAGES, options.batch, options.dtype)
    return steps.make_task(name, backbone, size=ground.size, preset=ground.preset, setting=setting, views=PLAIN)


def row(name: str, step: Step, supervised: Step, options: argparse.Namespace) -> tuple[str, ...]:
    speeds = measure.images_per_second(
        {SUPERVISED: supervised, name: step}, images_per_step=options.batch, steps=options.steps, rounds=options.rounds
    )
    time = speeds[SUPERVISED] / speeds[name]
    operations = step.operations / supervised.operations
    figures = (f"{speeds[name]:.0f}", f"{time:.2f}", f"{operations:.2f}", f"{time / operations:.2f}")
    return (name, *figures, f"{step.mebibytes:.0f}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help="all, if none is named")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--stem", default="standard")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--side", type=int, default=16, help="of volumes")
    parser.add_argument("--vit", default="vit_tiny", help="for tasks that need one")
    parser.add_argument("--patch", type=int, default=8, help="of the ViT")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=4, help="steps in a turn")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.tasks) - set(pretext.TASKS))
    if unknown:
        parser.error(f"unknown task {unknown[0]!r}: known are {', '.join(sorted(pretext.TASKS))}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    chosen = options.tasks or list(pretext.TASKS)
    print(measure.versions("jax", "flax"))
    print(f"{options.model} x {options.width:g}, batch {options.batch}, {options.dtype}, {IMAGES} images")
    for ground, names in grounds(options, chosen):
        supervised = make_step(SUPERVISED, options, ground)
        rows = [(str(ground), "images/s", "time", "operations", "time / operations", "MiB")]
        rows.append((SUPERVISED, "", "1", "1", "1", f"{supervised.mebibytes:.0f}"))
        rows += [row(name, make_step(name, options, ground), supervised, options) for name in names]
        print(f"\n{measure.table(rows)}", flush=True)


if __name__ == "__main__":
    main()
