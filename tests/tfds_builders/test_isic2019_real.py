"""The ISIC 2019 builder on the real archives and the full official tables, where they are at hand."""

from collections import Counter

import numpy as np
import pytest

from tfds_builders import prepare
from tfds_builders.common.splits import split_by_group
from tfds_builders.isic2019 import official

pytestmark = pytest.mark.slow

COUNTS = {
    "NV": 12875, "MEL": 4522, "BCC": 3323, "BKL": 2624, "AK": 867, "SCC": 628, "VASC": 253, "DF": 239
}  # fmt: skip


@pytest.fixture(scope="module")
def full_rows(real_data):
    folder = real_data / "isic2019" / "full_tables"
    return official.read_rows(folder / official.GROUND_TRUTH, folder / official.METADATA)


def test_counts_of_the_full_tables(full_rows):
    rows, damaged, notes = full_rows
    assert damaged == []
    assert Counter(row.label for row in rows) == COUNTS
    assert notes == {"left_out": [], "images_without_lesion_id": 2084}
    assert len({row.lesion_id for row in rows}) == 11847 + 2084
    assert sum(row.image_id.endswith("_downsampled") for row in rows) == 2074


def test_split_of_the_full_tables(full_rows):
    rows, _, _ = full_rows
    lesions, labels = np.array([row.lesion_id for row in rows]), np.array([row.label for row in rows])
    splits = split_by_group(lesions.tolist(), labels.tolist(), 2019, {"train": 0.7, "validation": 0.1, "test": 0.2})
    assert sum(map(len, splits.values())) == len(rows)
    assert not set(lesions[splits["train"]]) & set(lesions[splits["test"]])
    for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        counts = Counter(labels[splits[split]])
        assert all(abs(counts[name] - share * number) <= 3 for name, number in COUNTS.items())


def test_real_archive(real_data, tmp_path, read, report):
    """With masks; without them it goes through a curriculum in `test_real_data.py`."""
    builder = prepare("isic2019/64_mask", data_dir=tmp_path, manual_dir=real_data / "isic2019")
    splits = read(builder)
    assert sum(map(len, splits.values())) == 10015
    lesions = [{example["lesion_id"] for example in splits[split]} for split in splits]
    assert sum(map(len, lesions)) == len(set.union(*lesions)) == 7470
    pixels = [{example["image"].tobytes() for example in splits[split]} for split in splits]
    assert not pixels[0] & pixels[1] and not pixels[0] & pixels[2] and not pixels[1] & pixels[2]
    shares = [np.mean(example["mask"] > 0) for example in splits["test"] if example["has_mask"]]
    assert len(shares) == len(splits["test"]) and 0.1 < np.mean(shares) < 0.5
    assert report(builder)["images_with_mask"] == 10015
