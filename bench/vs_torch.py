"""The same SimCLR step in this program and in PyTorch, in turns: forward, NT-Xent, backward, SGD, on ready views.

    python -m bench.vs_torch
    python -m bench.vs_torch --model=resnet50 --width=1 --size=224 --batch=256 --dtype=bfloat16

This project does not install PyTorch. Install it to run this benchmark. PyTorch runs in both of its memory formats, and
the faster one counts. `--compile` adds torch.compile.
"""

import argparse
import importlib.util
import os

# Both frameworks share one accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aiseeme_jax import models, pretext
from bench import measure, steps
from bench.torch_steps import MODELS, TEMPERATURE, TorchStep


def draw_views(batch: int, size: int) -> np.ndarray:
    """Noise [2B, s, s, 3], in the place of two views of each image."""
    return np.random.default_rng(0).standard_normal((2 * batch, size, size, 3), dtype=np.float32)


def make_step(model: str, views: np.ndarray, *, width: float, patch: int = 0, dtype: str, **options) -> steps.Step:
    """The step of SimCLR on ready views [2B, s, s, 3].

    Args:
      options: of `steps.compile_step`.
    """
    batch, size = len(views) // 2, views.shape[1]
    backbone = models.make_backbone(model, width=width, patch=patch, dtype=dtype, rngs=nnx.Rngs(0))
    setting = pretext.Setting(batch, batch, dtype)
    task = steps.make_task("simclr", backbone, size=size, preset="natural", setting=setting)
    assert task.temperature == TEMPERATURE
    ready = {"views": {"image": jnp.asarray(views)}}
    return steps.compile_step(steps.Ready(task), steps.Fields(batch), ready, steps_per_epoch=1000, **options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", choices=sorted(MODELS))
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--patch", type=int, default=0, help="of a ViT")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true", help="let PyTorch compile its model")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("PyTorch is not installed; `pip install torch` beside this project to compare")
    import torch

    views = draw_views(options.batch, options.size)
    network = {"width": options.width, "patch": options.patch}
    kind = {**network, "half": options.dtype == "bfloat16", "compiled": options.compile}
    formats = {
        f"PyTorch, {name}": TorchStep(options.model, views, channels_last=last, **kind)
        for name, last in (("channels first", False), ("channels last", True))
    }
    variants = {"aiseeme_jax": make_step(options.model, views, dtype=options.dtype, **network), **formats}
    speeds = measure.images_per_second(
        variants, images_per_step=options.batch, steps=options.steps, rounds=options.rounds
    )
    best = max(speeds[name] for name in formats)
    print(measure.versions("jax", "flax", "torch"))
    print(
        f"SimCLR step, {options.model} x {options.width:g}, {options.size} px, batch {options.batch}, {options.dtype}\n"
    )
    rows = [("", "images/s", "of the faster PyTorch")]
    rows += [(name, f"{speed:.0f}", f"{speed / best:.2f}") for name, speed in speeds.items()]
    print(measure.table(rows))
    print("\njax devices:", jax.device_count(), "; PyTorch threads:", torch.get_num_threads())


if __name__ == "__main__":
    main()
