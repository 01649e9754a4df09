"""The parts of the time of a training step: network, augmentation, data.

    python -m bench.train_step                                          a narrow ResNet-18 at 64 px, for CPUs
    python -m bench.train_step --model=resnet50 --width=1 --size=224 --batch=256 --dtype=bfloat16 --data=isic2019/224

`--data=NAME --data_dir=DIR` reads a prepared data set. Without it, a synthetic one is prepared in a temporary folder.
`--dimensions=3` measures on volumes, with a 3-D backbone. `--size` is then their side.
"""

import argparse
import tempfile
from collections.abc import Sequence

import jax
from absl import flags
from flax import nnx
from ml_collections import FrozenConfigDict

from aiseeme_jax import augment, data, models, pretext
from aiseeme_jax.evaluate import features
from aiseeme_jax.task import Task
from aiseeme_jax.training import loop
from aiseeme_jax.training.state import Recipe, make_state
from aiseeme_jax.training.step import train_step
from bench import measure, steps
from bench.steps import Ready, forever
from configs import base


class Runner:
    """A task with its program and state. It runs a number of steps on any batches, and would compile for a new kind."""

    def __init__(self, task: Task, stage: FrozenConfigDict, steps_per_epoch: int):
        program, self.state = make_state(task, Recipe(stage, steps.TOTAL_STEPS, steps_per_epoch, seed=0))
        self.advance = train_step.of(program)
        self.key = jax.random.key(0)

    def __call__(self, batches, count: int) -> None:
        for _ in range(count):
            self.state, metrics, _ = self.advance(self.state, next(batches), self.key)
        jax.block_until_ready((self.state, metrics))


# Synthetic data set and view preset by the number of dimensions.
SYNTHETIC = {2: ("derm_phantom/64", "dermoscopy"), 3: ("nodule_phantom/32", "ct")}


def open_data(name: str, data_dir: str, dimensions: int) -> data.Split:
    if name:
        return data.open_split(name, "train", data_dir)
    import tfds_builders

    folder = tempfile.mkdtemp(prefix="bench-")
    phantom, _ = SYNTHETIC[dimensions]
    tfds_builders.prepare(phantom, data_dir=folder)
    return data.open_split(phantom, "train", folder)


def make_task(options: argparse.Namespace, split: data.Split) -> tuple[Task, FrozenConfigDict]:
    _, preset = SYNTHETIC[options.dimensions]
    stage = base.stage(options.task, size=options.size, preset=preset, batch_size=options.batch)
    frozen = FrozenConfigDict(stage)
    backbone = models.make_backbone(
        options.model,
        width=options.width,
        stem=options.stem,
        dtype=options.dtype,
        channels=split.shape[-1],
        dimensions=options.dimensions,
        rngs=nnx.Rngs(0),
    )
    setting = pretext.Setting(len(split), options.batch, options.dtype)
    spec = augment.views_of(frozen.views)
    return pretext.make_task(options.task, backbone, spec, setting, stage.fields, rngs=nnx.Rngs(0)), frozen


def whole_loop(options: argparse.Namespace, split: data.Split, batches: data.Batches) -> float:
    """Speed of `loop.fit` after its first log line, with batches from disk, logging and a checkpoint."""
    task, stage = make_task(options, split)
    callbacks = loop.Callbacks(
        lambda backbone: features.extract_from_batches(backbone, batches.in_order(), len(split), views=task.spec)
    )
    return steps.run_loop(
        task,
        stage,
        batches,
        steps=options.steps * options.rounds,
        steps_per_epoch=batches.steps_per_epoch,
        callbacks=callbacks,
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="simclr")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--stem", default="standard")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--dimensions", type=int, default=2, choices=sorted(SYNTHETIC))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--data", default="", help="prepared data set, such as isic2019/224")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10, help="steps in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    # grain's reading processes look at absl's flags.
    flags.FLAGS.mark_as_parsed()
    split = open_data(options.data, options.data_dir, options.dimensions)
    sources = {
        residence: data.Batches(
            split, batch_size=options.batch, seed=0, loading=data.Loading(residence, options.workers)
        )
        for residence in ("stream", "device")
    }
    per_epoch = sources["stream"].steps_per_epoch
    batch = next(sources["stream"](0))
    task, stage = make_task(options, split)
    ready = steps.make_views(task, batch)
    whole = Runner(task, stage, per_epoch)
    bare = Runner(Ready(make_task(options, split)[0]), stage, per_epoch)
    fixed, ready = forever(batch), forever(ready)
    streams = {residence: source(0) for residence, source in sources.items()}
    variants = {
        "step, views ready": lambda n: bare(ready, n),
        "step with augmentation": lambda n: whole(fixed, n),
        "batches from disk, residence=stream": lambda n: whole(streams["stream"], n),
        "batches from disk, residence=device": lambda n: whole(streams["device"], n),
    }
    for run in variants.values():
        run(2)
    with measure.count_compilations() as compiled:
        speeds = measure.images_per_second(
            variants, images_per_step=options.batch, steps=options.steps, rounds=options.rounds
        )
    if compiled:
        raise SystemExit(f"compiled again after the first step: {', '.join(compiled)}")
    for residence, batches in sources.items():
        speeds[f"whole loop, residence={residence}"] = whole_loop(options, split, batches)
    report(options, split, speeds)


def report(options: argparse.Namespace, split: data.Split, speeds: dict[str, float]) -> None:
    bare, step = speeds["step, views ready"], speeds["step with augmentation"]
    print(measure.versions("jax", "flax", "grain"))
    print(
        f"{options.task}, {options.model} x {options.width:g}, {options.stem} stem, {options.size} px, "
        f"batch {options.batch}, {options.dtype}; data {split.name}, {split.read([0]).shape[1:]}\n"
    )
    rows = [("", "images/s", "of the step with augmentation")]
    rows += [(name, f"{speed:.0f}", f"{speed / step:.1%}") for name, speed in speeds.items()]
    print(measure.table(rows))
    print(f"\naugmentation takes {1 - step / bare:.1%} of the step; no compilation after the first step")
    print(f"peak memory of all variants together: {measure.peak_memory()}")


if __name__ == "__main__":
    main()
