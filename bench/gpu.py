"""Everything about speed that is worth knowing of one GPU, in one command of some minutes.

    python -m bench.gpu                                              ResNet-50 and ViT-S/16, 224 px, batch 128, bfloat16
    python -m bench.gpu --resnet=resnet18 --width=0.125 --vit=vit_tiny --patch=8 --size=32 --batch=8 --task_size=32 \\
        --task_batch=8 --images=64 --steps=2 --rounds=2              a toy, for a CPU

It needs jax, flax, optax, orbax and safetensors, and to compare with it PyTorch, but not grain, clu, ml-collections,
TFDS or tensorflow. It prints each row when it is known, and writes all of them to `--out` (Markdown). If something
fails, its row says so and the rest goes on. What does not fit into `--minutes` is left out, and named.

Operations and bytes are those of this program. The operations are those of products and convolutions alone. The bytes
are what the operations of the compiled program read and write, if each does so once. A card's limit is the speed at
which it would do nothing but one of the two. The share of PyTorch's rows is of the same limit.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Both frameworks share one accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from aiseeme_jax import models, pretext
from bench import measure
from bench.gpu_parts import find_card, measure_networks, measure_pipeline, measure_tasks
from bench.gpu_report import Report

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch")
PARTS = (measure_networks, measure_pipeline, measure_tasks)


def describe_machine(options: argparse.Namespace, arguments: Sequence[str]) -> str:
    device = jax.devices()[0]
    card = find_card(options.dtype)
    said = (
        f"limits of the card: {card.operations / 1e12:.0f} TFLOP/s, {card.bytes / 1e9:.0f} GB/s"
        if card
        else f"the limits of '{device.device_kind}' in {options.dtype} are not known"
    )
    versions = measure.versions(*(package for package in PACKAGES if measure.is_installed(package)))
    command = " ".join(["python -m bench.gpu", *arguments])
    return f"# One GPU\n\n{versions}; {said}\n\n`{command}`"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnet", default="resnet50")
    parser.add_argument("--vit", default="vit_small")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--patch", type=int, default=0, help="of the ViT; 0: 16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16", choices=models.DTYPES)
    parser.add_argument("--images", type=int, default=2048, help="stored, in memory and on disk")
    parser.add_argument("--tasks", nargs="*", default=(), choices=sorted(pretext.TASKS), help="all, if none is named")
    parser.add_argument("--task_model", default="resnet18")
    parser.add_argument("--task_size", type=int, default=128)
    parser.add_argument("--task_batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="steps in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("gpu.md"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    report = Report(options.out, describe_machine(options, arguments), options.minutes)
    for part in PARTS:
        _, problem = report.attempt(part.__name__, lambda part=part: part(options, report), kind=part.__name__)
        if problem:
            report.note(report.begin(part.__name__), problem)
    end = report.begin("In the end")
    report.note(end, f"{report.seconds:.0f} s in all; peak memory of everything together: {measure.peak_memory()}")


if __name__ == "__main__":
    main()
