"""SimCLR's training step in PyTorch, to compare with. This project does not install PyTorch."""

import numpy as np

from aiseeme_jax.models import vit

RESNETS = {"resnet18": (False, (2, 2, 2, 2)), "resnet50": (True, (3, 4, 6, 3))}
MODELS = (*RESNETS, *vit.ARCHITECTURES)
TEMPERATURE = 0.1


def make_backbone(nn, name: str, width: float, patch: int, size: int):
    """The network of this name with pooled features; returns the module and D."""
    return make_vit(nn, name, width, patch, size) if name in vit.ARCHITECTURES else make_resnet(nn, name, width)


def make_resnet(nn, name: str, width: float):
    """torchvision's ResNet (v1.5) with scaled channels."""
    bottleneck, depths = RESNETS[name]

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


def make_vit(nn, name: str, width: float, patch: int, size: int):
    """The ViT of `models.vit`: fixed positions, a class token, pre-norm blocks, the mean of the patches."""
    import torch

    features, blocks, heads = vit.ARCHITECTURES[name]
    features = 4 * heads * max(1, round(features * width / (4 * heads)))
    patch = vit.patch_size(patch, 2)
    places = torch.from_numpy(np.array(vit.positions((size // patch,) * 2, features)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(features, eps=1e-6) for _ in range(2))
            self.qkv, self.projection = nn.Linear(features, 3 * features), nn.Linear(features, features)
            wide = vit.EXPANSION * features
            self.mlp = nn.Sequential(nn.Linear(features, wide), nn.GELU(), nn.Linear(wide, features))

        def forward(self, x):
            qkv = self.qkv(self.norms[0](x)).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            attended = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
            x = x + self.projection(attended.transpose(1, 2).flatten(2))
            return x + self.mlp(self.norms[1](x))

    class ViT(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Conv2d(3, features, patch, patch)
            self.class_token = nn.Parameter(0.02 * torch.randn(features))
            self.register_buffer("places", places)
            self.blocks = nn.Sequential(*(Block() for _ in range(blocks)))
            self.norm = nn.LayerNorm(features, eps=1e-6)

        def forward(self, x):
            tokens = self.embedding(x).flatten(2).transpose(1, 2)
            tokens = tokens + self.places.to(tokens.dtype)
            first = self.class_token.to(tokens.dtype).expand(len(tokens), 1, features)
            return self.norm(self.blocks(torch.cat([first, tokens], dim=1)))[:, 1:].float().mean(dim=1)

    return ViT(), features


class TorchStep:
    """Steps of SimCLR in PyTorch, on ready views: forward, NT-Xent, backward, SGD.

    Args:
      views: float32 [2B, s, s, 3], the two views of an image side by side.
      half: whether products compute in bfloat16 (autocast; weights are float32).
      channels_last: the memory format; else channels first.
      compiled: whether `torch.compile` compiles the network.
    """

    def __init__(
        self,
        model: str,
        views: np.ndarray,
        *,
        width: float = 1.0,
        patch: int = 0,
        half: bool,
        channels_last: bool,
        compiled: bool = False,
    ):
        import torch

        self.torch, nn = torch, torch.nn
        # XLA chooses the fastest algorithm of each convolution, too.
        torch.backends.cudnn.benchmark = True
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        backbone, features = make_backbone(nn, model, width, patch, views.shape[1])
        projector = nn.Sequential(
            nn.Linear(features, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(inplace=True),
            nn.Linear(features, 128, bias=False),
            nn.BatchNorm1d(128),
        )
        form = torch.channels_last if channels_last else torch.contiguous_format
        self.model = nn.Sequential(backbone, projector).to(self.device, memory_format=form)
        self.call = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        images = torch.from_numpy(np.ascontiguousarray(views.transpose(0, 3, 1, 2)))
        self.images = images.to(self.device, memory_format=form)
        self.half = half

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
