"""Fixtures of the builders' tests: a small official data set, and reading of what was prepared."""

import json
from pathlib import Path

import pytest
from official_format import CLASSES, Official, jpeg
from opening import assert_opens


@pytest.fixture
def official(tmp_path) -> Official:
    """Ten lesions per class, every third with two photographs, and an image without lesion id, age, sex."""
    folder = tmp_path / "manual"
    folder.mkdir()
    data, number = Official(folder), 0
    for place, label in enumerate(CLASSES):
        for lesion in range(10):
            for _ in range(1 + (lesion % 3 == 0)):
                data.add(f"ISIC_{number:07d}", label, f"HAM_{place}{lesion:03d}", jpeg(number))
                number += 1
    data.add("ISIC_9000000_downsampled", "NV", "", jpeg(9000), age="", sex="")
    return data


@pytest.fixture
def read():
    """Function: examples of each split of a prepared data set, which the training code can open too."""
    import tensorflow_datasets as tfds

    def examples(builder) -> dict[str, list[dict]]:
        stored = tfds.builder_from_directory(builder.data_dir)
        assert_opens(stored)
        return {split: list(stored.as_data_source(split)) for split in ("train", "validation", "test")}

    return examples


@pytest.fixture
def report():
    """Function: the report beside a prepared data set."""
    return lambda builder: json.loads((Path(builder.data_dir) / "prepare_report.json").read_text())
