"""Resident memory of one process that trains many stages, as a search does.

    python -m bench.memory                          50 tiny stages
    python -m bench.memory --keep                   without giving freed memory back between two stages, to compare

Each stage has a seed of its own and is compiled anew, for nothing is kept of a finished stage. Wanted: flat.
"""

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.datasets import DataSets
from aiseeme_jax.curriculum.plan import make_plan
from aiseeme_jax.jobs import working
from aiseeme_jax.jobs.curriculum import choose_work
from aiseeme_jax.store.artifacts import Store
from bench import measure
from configs import base

TASKS = ("rotation", "simclr", "npid")
# Colour and blur take long to compile.
PLAIN = {"jitter_probability": 0.0, "blur_probability": 0.0, "grey_probability": 0.0, "solarise_probability": 0.0}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--stages", type=int, default=50)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--data", default="derm_phantom/tiny")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--keep", action="store_true", help="keep the memory that was freed")
    options = parser.parse_args(arguments)
    if options.keep:
        working.give_back_memory = lambda: None
    config = make_config(options)
    print(measure.versions("jax", "flax", "orbax-checkpoint"))
    print(f"{options.stages} stages of 2 steps, {' and '.join(TASKS)} in turn, {options.model} x 0.125, 16 px, batch 8")
    rows = [("after stage", "MiB resident"), ("0", f"{resident():.0f}")]
    with tempfile.TemporaryDirectory() as folder:
        for number in train(config, Path(folder)):
            rows.append((str(number), f"{resident():.0f}"))
    print(measure.table(rows))


def make_config(options: argparse.Namespace) -> ConfigDict:
    """A curriculum for each stage, so that none starts from another."""
    config = base.get_config()
    config.data.name, config.runtime.data_dir = options.data, options.data_dir
    config.model.update({"name": options.model, "width": 0.125, "stem": "small", "dtype": "float32"})
    config.baselines, config.targets = (), ()
    with config.unlocked():
        for number, task in enumerate(itertools.islice(itertools.cycle(TASKS), options.stages)):
            stage = base.stage(task, size=16, batch_size=8, duration=base.duration(steps=2), views=PLAIN, seed=number)
            config.curricula[f"stage{number}"] = (stage,)
    return config


def train(config: ConfigDict, folder: Path):
    """Trains the stages, and gives the number of each when it is finished and what it used is let go."""
    datasets = DataSets(config)
    plan, store = make_plan(config, datasets), Store(folder)
    make = choose_work(Context.of(config, store, datasets))
    for number, _ in enumerate(working.work_through(plan.pieces(), store, make), start=1):
        yield number


def resident() -> float:
    """Memory of this process in MiB, from Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
