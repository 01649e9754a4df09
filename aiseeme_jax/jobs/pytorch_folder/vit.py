"""The vision transformer of this folder in plain PyTorch, with timm's names of weights.

It differs from timm's class only in what that cannot build: other widths, and volumes.
"""

import torch
from torch import nn

CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}


class Attention(nn.Module):
    def __init__(self, features, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x):
        batch, count, features = x.shape
        qkv = self.qkv(x).reshape(batch, count, 3, self.heads, features // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, features))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, features, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(features, eps=1e-6), nn.LayerNorm(features, eps=1e-6)
        self.attn = Attention(features, heads)
        layers = {"fc1": nn.Linear(features, 4 * features), "act": nn.GELU(), "fc2": nn.Linear(4 * features, features)}
        self.mlp = nn.Sequential()
        for name, layer in layers.items():
            self.mlp.add_module(name, layer)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Network(nn.Module):
    """`head` of the mean of the normalised patches, without the class token; by default this mean, [B, D].

    Args:
      features, blocks, heads: D, the depth, and the heads of each attention.
      patch, size: sides in pixels or voxels of a patch and of the input; `pos_embed` is for this size alone.
      channels, dimensions: of the images (2) or volumes (3).
    """

    def __init__(self, *, features, blocks, heads, patch, size, channels, dimensions):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = CONVOLUTION[dimensions](channels, features, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, features))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** dimensions, features))
        self.blocks = nn.Sequential(*(Block(features, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.head = nn.Identity()

    def forward(self, x):
        patches = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 1:].mean(dim=1))
