"""Configs of every data set, from small files in the official format: prepared, opened, measured or viewed.

A config is named by its options, such as `224_3readers_mean`, which do not depend on each other. Here every value of
every option is in some config; with AISEEME_TEST_EVERY_CONFIG=1, every config is used. Of the phantoms, which draw
their images, those configs that draw few.
"""

import importlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from chest_sets import CheXpert, Nih, Rsna
from cxr_sets import collection, covidx, kaggle
from fundus_sets import Aptos, Drive
from isic_years import year_2016, year_2017, year_2018
from lidc_collection import Collection, draw_series
from luna_set import ten_folds
from ml_collections import ConfigDict
from nodule_crops import Crops
from official_format import CLASSES, Official, jpeg, png_mask
from opening import assert_opens
from own_table import clinic
from test_ct_patches import add as add_series

from aiseeme_jax import augment, data
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.data.prepared import open_split
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import features
from aiseeme_jax.evaluate.measurement import SPLITS, Measurement, Runtime, Subject
from configs import base
from tfds_builders import preparing

pytestmark = pytest.mark.slow

RUNTIME = Runtime(evaluation_batch=64, loading=data.Loading(), log_every=1, checkpoint_every=5, patience=10)
# They draw thousands of images. What sets them apart from `tiny` is the number of images and their size.
LARGE = {
    "derm_phantom": {"64"},
    "cxr_phantom": {"64", "confounded", "demo_findings"},
    "nodule_phantom": {"32", "graded", "views"},
}


def ct_series(folder: Path) -> Path:
    for number in range(1, 8):
        add_series(folder, number)
    return folder


def lidc(folder: Path) -> Path:
    folder.mkdir()
    made = Collection(folder)
    draw_series(made)
    return made.write()


def covidx_version(folder: Path, version: str) -> Path:
    files = covidx(folder, version)
    # The lists of the newer versions have a second underscore in their names.
    files.texts = {name.replace("xCXR", "x_CXR"): text for name, text in files.texts.items()}
    return files.write()


def clinic_with_masks(folder: Path) -> Path:
    """With masks that are white all over."""
    table = clinic(folder)
    for place, row in enumerate(table.rows):
        row["mask"] = f"masks/{place}.png"
        table.files[row["mask"]] = cv2.imencode(".png", np.full((24, 32), 255, np.uint8))[1].tobytes()
    return table.write()


def isic2019(folder: Path) -> Path:
    folder.mkdir()
    files = Official(folder)
    for number, (label, lesion) in enumerate(itertools.product(CLASSES, range(10))):
        files.add(f"ISIC_{number:07d}", label, f"HAM_{number:03d}{lesion}", jpeg(number))
        files.masks[f"ISIC_{number:07d}_segmentation.png"] = png_mask()
    return files.write()


# Data set -> function of (folder to write to, config): writes the official files, and returns the folder.
SOURCES: dict[str, Callable[[Path, str], Path]] = {
    "aptos2019": lambda folder, _: Aptos(folder).write(),
    "chestxray14": lambda folder, _: Nih(folder).write(),
    "chexpert": lambda folder, _: CheXpert(folder).write(),
    "covid_chestxray": lambda folder, _: collection(folder).write(),
    "covidx": lambda folder, config: covidx_version(folder, config.split("_")[1]),
    "ct_patches": lambda folder, _: ct_series(folder),
    "drive": lambda folder, _: Drive(folder).write(),
    "image_table": lambda folder, _: clinic_with_masks(folder),
    "isic2016": lambda folder, _: year_2016(folder).write(),
    "isic2017": lambda folder, _: year_2017(folder).write(),
    "isic2018": lambda folder, _: year_2018(folder).write(),
    "isic2019": lambda folder, _: isic2019(folder),
    "kermany_pneumonia": lambda folder, _: kaggle(folder).write(),
    "lidc_idri": lambda folder, _: lidc(folder),
    "lidc_nodules": lambda folder, _: Crops(folder).write(),
    "luna16": lambda folder, _: ten_folds(folder).write(),
    "rsna_pneumonia": lambda folder, _: Rsna(folder).write(),
}


def configs_of(name: str) -> list[str]:
    known = importlib.import_module(f"tfds_builders.{name}").Builder.builder_configs
    small = [config for config in known if config not in LARGE.get(name, ())]
    if os.environ.get("AISEEME_TEST_EVERY_CONFIG"):
        return small
    chosen, covered = [], set()
    # Those with most options first: they cover most.
    for config in sorted(small, key=lambda config: -config.count("_")):
        if options := set(config.split("_")) - covered:
            chosen.append(config)
            covered |= options
    return chosen + [config for config in small if "_" not in config][:1]


@pytest.mark.parametrize("name", preparing.DATASETS)
def test_configs_can_be_measured_or_pretrained_on(name, tmp_path):
    for config in configs_of(name):
        folder = tmp_path / "manual" / (config if name == "covidx" else "all")
        if name in SOURCES and not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            SOURCES[name](folder, config)
        options = {"max_damaged": 1.0} if name in SOURCES else {}
        builder = preparing.prepare(f"{name}/{config}", data_dir=tmp_path / "data", manual_dir=folder, **options)
        assert_opens(builder)
        parts = [part for part in SPLITS if part in builder.info.splits]
        splits = {part: data.each_picture(open_split(f"{name}/{config}", part, tmp_path / "data")) for part in parts}
        use(splits, tmp_path)


def use(splits: dict[str, data.Split], folder: Path) -> None:
    """Measures a network on the labels of a data set, or looks at its images as pretraining does.

    The latter if it has no labels, or so few images here that a split is missing or lacks a class.
    """
    channels, preset = splits["train"].shape[-1], choose_preset(splits["train"])
    size = {"size": 8, "preset": preset}
    views = {"mean": (0.5,) * channels, "std": (0.25,) * channels} if preset == "natural" else {}
    target = base.target("knn", views=views, neighbours=(1,), **size)
    labelled = find_labelled(splits)
    if labelled is None:
        rows = features.extract(tiny.Pixels(channels), splits["train"], views=target_views(target), batch_size=64)
        assert rows.shape == (len(splits["train"]), 6) and np.isfinite(rows).all()
        return
    measured = Subject("random", tiny.Pixels(channels), labelled)
    probs = protocols.measure(Measurement(target, 1.0, 0), measured, folder, RUNTIME).predictions.probs
    assert np.isfinite(probs).all() and len(probs) == len(labelled["test"])


def choose_preset(split: data.Split) -> str:
    if len(split.shape) == 4:
        return "ct"
    return "ct_planes" if split.dtype == np.int16 else "natural"


def target_views(target: ConfigDict) -> augment.AnyViews:
    return Measurement(target, 1.0, 0).views


def find_labelled(splits: dict[str, data.Split]) -> dict[str, data.Split] | None:
    """The labelled images of the three splits; None if they are too few to be measured on."""
    if set(splits) != set(SPLITS):
        return None
    try:
        found = {part: data.labelled(split) for part, split in splits.items()}
        protocols.check_labels(found)
    except UserError:
        return None
    return found
