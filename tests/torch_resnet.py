"""A plain PyTorch ResNet with torchvision's parameter names, of images or of volumes, to compare with."""

import torch
from torch import nn

PLANS = {"resnet18": (False, (2, 2, 2, 2)), "resnet50": (True, (3, 4, 6, 3))}


# Layers by the number of dimensions.
CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def convolution(dimensions, channels, filters, size, stride=1):
    return CONVOLUTION[dimensions](channels, filters, size, stride, size // 2, bias=False)


class Block(nn.Module):
    def __init__(self, dimensions, channels, filters, stride, bottleneck):
        super().__init__()
        self.out = filters * 4 if bottleneck else filters
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        widths = [channels, *[filters] * (len(sizes) - 1), self.out]
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        self.depth = len(sizes)
        for i in range(self.depth):
            setattr(self, f"conv{i + 1}", convolution(dimensions, widths[i], widths[i + 1], sizes[i], strides[i]))
            setattr(self, f"bn{i + 1}", NORM[dimensions](widths[i + 1]))
        self.downsample = None
        if stride != 1 or channels != self.out:
            self.downsample = nn.Sequential(
                convolution(dimensions, channels, self.out, 1, stride), NORM[dimensions](self.out)
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth + 1):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
            x = torch.relu(x if i < self.depth else x + shortcut)
        return x


class ResNet(nn.Module):
    def __init__(self, name, width, stem, dimensions=2, classes=10):
        super().__init__()
        bottleneck, depths = PLANS[name]
        filters = [int(c * width) for c in (64, 128, 256, 512)]
        size, stride = (7, 2) if stem == "standard" else (3, 1)
        self.conv1 = convolution(dimensions, 3 if dimensions == 2 else 1, filters[0], size, stride)
        self.bn1 = NORM[dimensions](filters[0])
        self.pool = POOL[dimensions](3, 2, 1) if stem == "standard" else nn.Identity()
        channels = filters[0]
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                blocks.append(Block(dimensions, channels, filters[stage], 2 if stage and not i else 1, bottleneck))
                channels = blocks[-1].out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        """Pooled features."""
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x.flatten(2).mean(dim=2)


def randomised(name, width, stem, seed=0, dimensions=2):
    """A network in evaluation mode whose norms are far from their starting values."""
    generator = torch.Generator().manual_seed(seed)
    network = ResNet(name, width, stem, dimensions).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, tuple(NORM.values())):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
                module.running_mean.normal_(0, 0.5, generator=generator)
                module.running_var.uniform_(0.3, 2.0, generator=generator)
    return network
