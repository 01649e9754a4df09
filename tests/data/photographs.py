"""A TFDS builder as any other, of images and classes: it knows nothing of groups and ids."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Noise, named 'photographs'.

    Args:
      counts: images of each split.
      sizes: height and width of the images, in turn.
      labels: whether there is a class.
    """

    name = "photographs"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, counts: Mapping[str, int], sizes: Sequence[tuple[int, int]], labels: bool, **options: Any):
        self.counts, self.sizes, self.labels = counts, sizes, labels
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        height, width = self.sizes[0] if len(self.sizes) == 1 else (None, None)
        features = {
            "image": tfds.features.Image(shape=(height, width, 3), encoding_format="png"),
            "file_name": tfds.features.Text(),
        }
        if self.labels:
            features["label"] = tfds.features.ClassLabel(names=["cat", "dog"])
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in self.counts.items()}

    def _generate_examples(self, split, count):
        random = np.random.default_rng(len(split))
        for number in range(count):
            shape = (*self.sizes[number % len(self.sizes)], 3)
            row = {"image": random.integers(0, 256, shape, np.uint8), "file_name": f"{split}{number}.png"}
            yield number, row | ({"label": number % 2} if self.labels else {})
