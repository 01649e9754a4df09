"""Which volumes can be Hounsfield units, and what a report says of unusual ones."""

import re

import numpy as np
import pytest

from tfds_builders.common.plausibility import doubts, no_hounsfield

SHAPE = (6, 12, 14)


def between(low, high):
    return np.random.default_rng(0).integers(low, high, SHAPE).astype(np.int16)


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (between(-1000, 1500), ""),
        (between(-150, 250), ""),  # a cube within the belly
        (np.minimum(between(-1024, 200), 100), ""),
        (between(0, 2), "only the values 0, 1, as of a segmentation"),
        (np.where(between(0, 2) > 0, -1000, 500).astype(np.int16), "only the values -1000, 500"),
        (between(0, 256), r"no value below -100 \(from 0 to 255\)"),
        (between(24, 4000), "no value below -100"),  # stored values without the intercept of -1024
        (np.minimum(between(-1024, 200), 1), r"no value above 1 \(from -1024 to 1\), so no tissue"),
    ],
)
def test_no_hounsfield(voxels, reason):
    assert re.match(f"no Hounsfield units: {reason}" if reason else "$", no_hounsfield(voxels))


def test_nothing_is_said_of_a_scan_with_padding_and_little_metal():
    voxels = between(-1000, 1500)
    voxels[:, :4], voxels[0, 0, :3] = -1024, 3071
    assert doubts(voxels) == []


def test_doubts():
    assert [line[:24] for line in doubts(between(-500, 300))] == ["no value below -500 HU: "]
    metal = between(-1000, 0)
    metal[:3] = 3001
    assert doubts(metal) == ["50% of the values are above 3000 HU, as only metal is"]
    metal[2, 0, 0] = 3000
    assert doubts(metal) == []
    low = between(-1000, 1000)
    low[:3], low[3, 0, 0] = -1024, -1024
    assert doubts(low) == [f"{low.size // 2 + 1} of {low.size} values were clipped to -1024"]
    high = between(-1000, 1000)
    high[0, 0, :2] = 32767
    assert doubts(high) == [f"2 of {high.size} values were clipped to 32767"]
