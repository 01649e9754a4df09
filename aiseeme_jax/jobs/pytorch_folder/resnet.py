"""The residual network of this folder in plain PyTorch, with torchvision's names of weights.

It differs from torchvision's class only in what that cannot build: other widths and depths, a stem for small images,
volumes, images of other than three channels, and attention of the blocks.
"""

import torch
from torch import nn

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class Block(nn.Module):
    """Convolutions of sides 3, 3, or of a bottleneck 1, 3, 1, and the shortcut that is added before the last ReLU.

    With attention, the shortcut is added a second time, weighed by a softmax of the residual over the positions.
    `dilations` are those of two convolutions of side 3; a bottleneck has the first.
    """

    def __init__(self, dimensions, channels, filters, stride, bottleneck, dilations, attention):
        super().__init__()
        self.attention = attention
        self.features = 4 * filters if bottleneck else filters
        sides, strides = ((1, 3, 1), (1, stride, 1)) if bottleneck else ((3, 3), (stride, 1))
        self.count, before = len(sides), channels
        for number, (side, step) in enumerate(zip(sides, strides, strict=True), start=1):
            after = self.features if number == self.count else filters
            apart = 1 if side == 1 else dilations[0 if bottleneck else number - 1]
            layer = CONVOLUTION[dimensions](before, after, side, step, side // 2 * apart, apart, bias=False)
            self.add_module(f"conv{number}", layer)
            self.add_module(f"bn{number}", NORM[dimensions](after))
            before = after
        self.downsample = nn.Identity()
        if stride != 1 or channels != self.features:
            projection = CONVOLUTION[dimensions](channels, self.features, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, NORM[dimensions](self.features))
        if attention != "none":
            self.attention_scale = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        shortcut = self.downsample(x)
        for number in range(1, self.count + 1):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))
            if number < self.count:
                x = torch.relu(x)
        whole = x + shortcut
        if self.attention != "none":
            weights = x.flatten(2).softmax(dim=2)
            gain = weights.shape[2] if self.attention == "arl_gain" else 1
            whole = whole + self.attention_scale * gain * weights.reshape(x.shape) * shortcut
        return torch.relu(whole)


class Network(nn.Module):
    """`fc` of the means over all positions; by default these means, [B, D].

    Args:
      bottleneck: whether blocks have three convolutions.
      depths: blocks of each of the four stages.
      filters: channels inside of the blocks of each stage.
      stem: 'standard' (side 7, stride 2, then a pooling of stride 2) or 'small' (side 3, stride 1, no pooling).
      channels, dimensions: of the images (2) or volumes (3).
      dilated: the last stage has dilated convolutions instead of its stride.
      attention: of the blocks: 'none', 'arl', or 'arl_gain' (weights that are 1 in the mean).
    """

    def __init__(self, *, bottleneck, depths, filters, stem, channels, dimensions, dilated, attention):
        super().__init__()
        side, stride = (7, 2) if stem == "standard" else (3, 1)
        self.conv1 = CONVOLUTION[dimensions](channels, filters[0], side, stride, side // 2, bias=False)
        self.bn1 = NORM[dimensions](filters[0])
        self.maxpool = POOL[dimensions](3, 2, 1) if stem == "standard" else nn.Identity()
        features = filters[0]
        for stage in range(4):
            blocks = []
            for place in range(depths[stage]):
                apart = 2 if dilated and stage == 3 else 1
                stride = 2 if stage and not place and apart == 1 else 1
                # The convolution that would have the stride keeps its pixels together.
                dilations = (apart if place else 1, apart)
                blocks.append(Block(dimensions, features, filters[stage], stride, bottleneck, dilations, attention))
                features = blocks[-1].features
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Identity()

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.flatten(2).mean(dim=2))
