"""Opening what a builder prepared as training and evaluation do."""

from pathlib import Path
from typing import Any

import numpy as np

from aiseeme_jax import data
from aiseeme_jax.data.prepared import PIXELS


def assert_opens(builder: Any) -> None:
    """Every split opens; its tables and its first image are those of the stored rows."""
    folder = Path(builder.data_dir)
    root = folder.parents[1] if builder.builder_config is None else folder.parents[2]
    name = folder.parent.relative_to(root).as_posix()
    for part, info in builder.info.splits.items():
        split = data.open_split(name, part, root)
        stored = builder.as_data_source(part)
        first, last = stored[0], stored[len(stored) - 1]
        pixels = next(key for key in PIXELS if key in first)
        assert len(split) == info.num_examples and split.own_ids and split.own_groups
        assert [split.ids[0], split.ids[-1]] == [first["image_id"].decode(), last["image_id"].decode()]
        np.testing.assert_array_equal(split.read(np.array([0]))[0], first[pixels])
        if split.kind != "none":
            label = "label" if split.kind == "class" else "labels"
            np.testing.assert_array_equal(split.labels[[0, -1]], np.array([first[label], last[label]], np.float32))
        if split.segmentation is not None:
            mask = split.read_segmentation(np.array([0]))[0]
            known = first.get("has_mask", True)
            np.testing.assert_array_equal(mask, first["mask"] > 0 if known else np.full_like(mask, 255))
        single = data.each_picture(split)
        assert len(single) == len(split) * split.pictures and single.shape == split.shape[-len(single.shape) :]
