"""The same SimCLR step in this program and in PyTorch, in turns: forward, NT-Xent, backward, SGD, on ready views.

    python -m bench.vs_torch
    python -m bench.vs_torch --model=resnet50 --width=1 --size=224 --batch=256 --dtype=bfloat16

This project does not install PyTorch. Install it to run this benchmark. PyTorch runs in both of its memory formats, and
the faster one counts. `--compile` adds torch.compile.
"""

import argparse
import os

# Both frameworks share one accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import FrozenConfigDict

from aiseeme_jax import augment, models, pretext
from bench import measure
from bench.train_step import Ready, Runner, forever
from configs import base

ARCHITECTURES = {"resnet18": (False, (2, 2, 2, 2)), "resnet50": (True, (3, 4, 6, 3))}
TEMPERATURE = 0.1


def torch_resnet(nn, name: str, width: float):
    """torchvision's ResNet (v1.5) with scaled channels, ending in pooled features; returns the module and D."""
    bottleneck, depths = ARCHITECTURES[name]

    class Block(nn.Module):
        def __init__(self, inside: int, filters: int, stride: int):
            super().__init__()
            out = filters * 4 if bottleneck else filters
            plan = [(inside, filters, 1, 1), (filters, filters, 3, stride), (filters, out, 1, 1)]
            plan = plan if bottleneck else [(inside, filters, 3, stride), (filters, filters, 3, 1)]
            layers = []
            for i, (a, b, size, step) in enumerate(plan):
                layers += [nn.Conv2d(a, b, size, step, size // 2, bias=False), nn.BatchNorm2d(b)]
                layers += [nn.ReLU(inplace=True)] if i < len(plan) - 1 else []
            self.body, self.relu = nn.Sequential(*layers), nn.ReLU(inplace=True)
            same = stride == 1 and inside == out
            projection = [] if same else [nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)]
            self.identity = nn.Sequential(*projection)

        def forward(self, x):
            return self.relu(self.body(x) + self.identity(x))

    filters = [max(8, 8 * round(c * width / 8)) for c in (64, 128, 256, 512)]
    layers = [nn.Conv2d(3, filters[0], 7, 2, 3, bias=False), nn.BatchNorm2d(filters[0]), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool2d(3, 2, 1)]
    inside = filters[0]
    for stage, depth in enumerate(depths):
        for i in range(depth):
            layers.append(Block(inside, filters[stage], 2 if stage and not i else 1))
            inside = filters[stage] * (4 if bottleneck else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), inside


class TorchRunner:
    """SimCLR in PyTorch, on ready views [2B, 3, s, s]."""

    def __init__(self, torch, options: argparse.Namespace, views: np.ndarray, *, channels_last: bool):
        self.torch, nn = torch, torch.nn
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        backbone, width = torch_resnet(nn, options.model, options.width)
        projector = nn.Sequential(
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, 128, bias=False),
            nn.BatchNorm1d(128),
        )
        form = torch.channels_last if channels_last else torch.contiguous_format
        self.model = nn.Sequential(backbone, projector).to(self.device, memory_format=form)
        self.call = torch.compile(self.model) if options.compile else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
        images = torch.from_numpy(np.ascontiguousarray(views.transpose(0, 3, 1, 2)))
        self.images = images.to(self.device, memory_format=form)
        self.half = options.dtype == "bfloat16"

    def loss(self):
        torch = self.torch
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.half):
            z = self.call(self.images)
        z = torch.nn.functional.normalize(z.float())
        scores = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        # Views lie side by side: the partner of 2i is 2i + 1.
        partner = torch.arange(len(z), device=z.device) ^ 1
        return torch.nn.functional.cross_entropy(scores, partner)

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            self.loss().backward()
            self.optimizer.step()
        if self.device == "cuda":
            self.torch.cuda.synchronize()


def jax_runner(options: argparse.Namespace, views: np.ndarray):
    stage = base.stage("simclr", size=options.size, batch_size=options.batch, temperature=TEMPERATURE)
    frozen = FrozenConfigDict(stage)
    backbone = models.make_backbone(
        options.model, width=options.width, stem="standard", dtype=options.dtype, rngs=nnx.Rngs(0)
    )
    setting = pretext.Setting(options.batch, options.batch, options.dtype)
    spec = augment.views_of(frozen.views)
    task = pretext.make_task("simclr", backbone, spec, setting, stage.fields, rngs=nnx.Rngs(0))
    runner = Runner(Ready(task), frozen, 1000)
    batches = forever({"views": {"image": jnp.asarray(views)}})
    return lambda steps: runner(batches, steps)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", choices=sorted(ARCHITECTURES))
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true", help="let PyTorch compile its model")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    options = parse()
    try:
        import torch
    except ImportError:
        raise SystemExit("PyTorch is not installed; `pip install torch` beside this project to compare") from None
    shape = (2 * options.batch, options.size, options.size, 3)
    views = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    formats = {
        f"PyTorch, {name}": TorchRunner(torch, options, views, channels_last=last)
        for name, last in (("channels first", False), ("channels last", True))
    }
    variants = {"aiseeme_jax": jax_runner(options, views), **formats}
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
