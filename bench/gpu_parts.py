"""The parts of `bench.gpu`. Each adds its tables to the report."""

import argparse
import functools
import gc
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from aiseeme_jax import data, models, pretext
from aiseeme_jax.task import Task
from bench import measure, roofline, steps, tasks, vs_torch
from bench.gpu_report import Report, Table
from bench.torch_steps import TorchStep

LIMIT = ("GFLOP an image", "MB an image", "limit, images/s", "of the limit")
OURS = "aiseeme_jax"
# One task of each family first, so that a short run has them: transformations, puzzles, reconstruction, masking, a
# bank, a queue, negatives in the batch, a moving average, covariances, several crops, clusters, volumes.
FAMILIES = (
    "rotation",
    "jigsaw",
    "inpainting",
    "mae",
    "npid",
    "moco_v2",
    "simclr",
    "byol",
    "barlow_twins",
    "dino",
    "deepcluster",
    "odc",
    "rotation3d",
)
# Stored images are larger than views, as prepared data sets of photographs are.
STORED = 8 / 7
DETERMINISTIC = {"xla_gpu_deterministic_ops": True}

Runner = Callable[[int], None]


def measure_networks(options: argparse.Namespace, report: Report) -> None:
    """The step of both networks, beside PyTorch's, and of the ResNet with operations that give the same bits always."""
    measure_network(options.resnet, 0, options, report, deterministic=True)
    measure_network(options.vit, options.patch, options, report)


def measure_network(
    model: str, patch: int, options: argparse.Namespace, report: Report, *, deterministic: bool = False
) -> None:
    title = f"SimCLR step, {model} x {options.width:g}, {options.size} px, batch {options.batch}, views ready"
    table = report.begin(title, "", "images/s", "of PyTorch's best", *LIMIT, "MiB")
    views = vs_torch.draw_views(options.batch, options.size)
    network = {"width": options.width, "patch": patch}

    def make_own(chosen: dict[str, bool] | None = None) -> steps.Step:
        return vs_torch.make_step(model, views, dtype=options.dtype, options=chosen, **network)

    def make_torch(compiled: bool) -> TorchStep:
        half = options.dtype == "bfloat16"
        return TorchStep(model, views, half=half, channels_last=True, compiled=compiled, **network)

    makers: dict[str, Callable[[], Runner]] = {
        OURS: make_own,
        **({f"{OURS}, deterministic": lambda: make_own(DETERMINISTIC)} if deterministic else {}),
        "PyTorch, channels last, eager": lambda: make_torch(False),
        "PyTorch, channels last, torch.compile": lambda: make_torch(True),
    }
    made, problems = make_runners(report, table, makers, of=model)
    speeds = take_turns(report, made, problems, options)
    best = max((speed for name, speed in speeds.items() if "PyTorch" in name), default=None)
    own = made.get(OURS)
    for name in makers:
        if name not in speeds:
            report.add(table, name, problems[name])
            continue
        speed = speeds[name]
        ratio = f"{speed / best:.2f}" if best else "–"
        memory = "" if "PyTorch" in name else roofline.show_number(made[name].mebibytes)
        report.add(table, name, f"{speed:.0f}", ratio, *compare(own, speed, options), memory)
    del own, made
    free_memory()


def measure_pipeline(options: argparse.Namespace, report: Report) -> None:
    """What augmentation, the feed and the loop add to a step."""
    stored = round(options.size * STORED)
    title = f"From stored images to an update: SimCLR, {options.resnet}, images of {stored} px, views of {options.size}"
    table = report.begin(title, "", "images/s", "of the step on one batch")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        feeds = make_feeds(options, stored, Path(folder))
        fake = next(feeds["images in device memory"](0))
        made: dict[str, Runner] = {}
        step, problem = report.attempt("the step with augmentation", lambda: make_whole(options, fake), kind="step")
        if problem:
            report.add(table, "step with augmentation", problem)
            return
        bare, problem = report.attempt("the step, views ready", lambda: make_bare(options, fake), kind="step")
        if bare:
            made["step, views ready"] = bare
        else:
            report.add(table, "step, views ready", problem)
        made["step with augmentation, one batch"] = step
        for name, feed in feeds.items():
            made[name] = functools.partial(run_on, step, feed(0))
        problems: dict[str, str] = {}
        speeds = take_turns(report, made, problems, options)
        base = speeds.get("step with augmentation, one batch")
        loops = {name: feeds[name] for name in ("images in device memory", "raw images on disk")}
        for name, feed in loops.items():
            title = f"whole loop, {name}"
            speed, problem = report.attempt(title, lambda feed=feed: run_loop(options, feed), kind="loop")
            speeds |= {title: speed} if speed else {}
            problems |= {title: problem} if problem else {}
        for name in (*made, *[f"whole loop, {name}" for name in loops]):
            if name in speeds:
                report.add(table, name, f"{speeds[name]:.0f}", f"{speeds[name] / base:.1%}" if base else "–")
            else:
                report.add(table, name, problems[name])
        if base and "step, views ready" in speeds:
            share = 1 - base / speeds["step, views ready"]
            report.note(table, f"Augmentation takes {share:.1%} of the step. The step needs {step.mebibytes:.0f} MiB.")
        made.clear()
    free_memory()


def run_on(step: steps.Step, batches: Iterator[dict[str, jax.Array]], count: int) -> None:
    step(count, batches)


def make_feeds(options: argparse.Namespace, stored: int, folder: Path) -> dict[str, Callable[[int], Iterator]]:
    """Batches of noise from device memory, from host memory, and from a file of raw pixels, from any step on."""
    shape = (options.images, stored, stored, 3)
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    np.save(folder / "pixels.npy", pixels)
    mapped = np.load(folder / "pixels.npy", mmap_mode="r")
    feeds = {}
    for name, images, residence in (
        ("images in device memory", pixels, "device"),
        ("images in host memory", pixels, "stream"),
        ("raw images on disk", mapped, "stream"),
    ):
        loading = data.Loading(residence)
        batches = data.Batches(data.from_arrays(images), batch_size=options.batch, seed=0, loading=loading)
        feeds[name] = lambda start, batches=batches: batches.of_rows(draw_rows(options, start))
    return feeds


def draw_rows(options: argparse.Namespace, start: int) -> Iterator[np.ndarray]:
    """Positions of the images of each step, drawn with replacement."""
    random = np.random.default_rng(start)
    while True:
        yield random.integers(0, options.images, options.batch)


def make_simclr(options: argparse.Namespace) -> Task:
    backbone = models.make_backbone(options.resnet, width=options.width, dtype=options.dtype, rngs=nnx.Rngs(0))
    setting = pretext.Setting(options.images, options.batch, options.dtype)
    return steps.make_task("simclr", backbone, size=options.size, preset="natural", setting=setting)


def make_whole(options: argparse.Namespace, batch: dict[str, jax.Array]) -> steps.Step:
    fields = steps.Fields(options.batch)
    made = steps.compile_step(make_simclr(options), fields, batch, steps_per_epoch=options.images // options.batch)
    made(2)
    return made


def make_bare(options: argparse.Namespace, batch: dict[str, jax.Array]) -> steps.Step:
    task = make_simclr(options)
    ready = steps.make_views(task, batch)
    made = steps.compile_step(steps.Ready(task), steps.Fields(options.batch), ready, steps_per_epoch=100)
    made(2)
    return made


def run_loop(options: argparse.Namespace, feed: Callable[[int], Iterator]) -> float:
    count = max(options.steps * options.rounds, 4)
    per_epoch = options.images // options.batch
    return steps.run_loop(
        make_simclr(options), steps.Fields(options.batch), feed, steps=count, steps_per_epoch=per_epoch
    )


def measure_tasks(options: argparse.Namespace, report: Report) -> None:
    """The step of every pretext task, views ready, beside the supervised step of the same network."""
    title = f"All tasks, {options.task_model}, {options.task_size} px, batch {options.task_batch}, views ready"
    head = ("", "network", "images/s", "time", "operations", "time / operations", "MiB", *LIMIT)
    table = report.begin(f"{title}; time and operations relative to the supervised step", *head)
    choice = tasks.parse(
        [
            f"--model={options.task_model}",
            f"--width={options.width}",
            f"--size={options.task_size}",
            f"--batch={options.task_batch}",
            f"--dtype={options.dtype}",
            f"--patch={options.patch or 16}",
            f"--vit={options.vit}",
            f"--steps={options.steps}",
            f"--rounds={options.rounds}",
        ]
    )
    supervised: dict[str, steps.Step] = {}

    def measure_one(name: str) -> tuple[str, ...]:
        ((ground, _),) = tasks.grounds(choice, [name])
        if str(ground) not in supervised:
            supervised[str(ground)] = tasks.make_step(tasks.SUPERVISED, choice, ground)
        made = tasks.make_step(name, choice, ground)
        cells = tasks.row(name, made, supervised[str(ground)], choice)[1:]
        limits = roofline.describe(made.operations, made.bytes, choice.batch, float(cells[0]), find_card(choice.dtype))
        return (str(ground), *cells, *limits)

    for name in options.tasks or (*FAMILIES, *(name for name in pretext.TASKS if name not in FAMILIES)):
        cells, problem = report.attempt(name, lambda name=name: measure_one(name), kind="task")
        report.add(table, name, *(cells or (problem,)))
    supervised.clear()
    free_memory()


def make_runners(
    report: Report, table: Table, makers: dict[str, Callable[[], Runner]], *, of: str
) -> tuple[dict[str, Runner], dict[str, str]]:
    """What could be made and has run twice, and what went wrong with the others."""

    def make(maker: Callable[[], Runner]) -> Runner:
        runner = maker()
        runner(2)
        return runner

    made, problems = {}, {}
    for name, maker in makers.items():
        begun = report.seconds
        runner, problem = report.attempt(f"{name} ({of})", lambda maker=maker: make(maker), kind="step")
        if problem:
            problems[name] = problem
            free_memory()
        else:
            made[name] = runner
            report.note(table, f"- {name}: {report.seconds - begun:.0f} s to compile it and make two steps")
    return made, problems


def take_turns(
    report: Report, made: dict[str, Runner], problems: dict[str, str], options: argparse.Namespace
) -> dict[str, float]:
    """Images per second, all measured in turns. If one fails, all problems say so."""
    work = lambda: measure.images_per_second(  # noqa: E731
        made, images_per_step=options.batch, steps=options.steps, rounds=options.rounds
    )
    speeds, problem = report.attempt(" and ".join(made), work, kind="turns") if made else ({}, "")
    problems |= dict.fromkeys(made, problem) if problem else {}
    return speeds or {}


def compare(own: steps.Step | None, speed: float, options: argparse.Namespace) -> tuple[str, ...]:
    """A speed beside the limit of our program."""
    if own is None:
        return ("–",) * len(LIMIT)
    return roofline.describe(own.operations, own.bytes, options.batch, speed, find_card(options.dtype))


def find_card(dtype: str) -> roofline.Card | None:
    """The card that jax uses. The table knows bfloat16 alone."""
    return roofline.find_card(jax.devices()[0].device_kind) if dtype == "bfloat16" else None


def free_memory() -> None:
    """Lets go of programs and arrays that nobody holds, in both frameworks."""
    gc.collect()
    jax.clear_caches()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
