"""`prepare`: one call that writes a data set to disk, whole or not at all.

A prepared data set lies in `data_dir/<name>/<config>/<version>` as array_record files, with
`prepare_report.json` (counts per split and class, SHA-256 of the inputs). It is written to a temporary folder
beside it and renamed at the end, so a failed call leaves nothing that could be taken for a data set. What a power cut
leaves goes with the next preparation of the config.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

DATASETS = (
    "aptos2019",
    "chestxray14",
    "chexpert",
    "covid_chestxray",
    "covidx",
    "ct_patches",
    "cxr_phantom",
    "derm_phantom",
    "drive",
    "image_table",
    "isic2016",
    "isic2017",
    "isic2018",
    "isic2019",
    "kermany_pneumonia",
    "lidc_idri",
    "lidc_nodules",
    "luna16",
    "nodule_phantom",
    "rsna_pneumonia",
)


def prepare(
    name: str,
    *,
    data_dir: str | Path,
    manual_dir: str | Path | None = None,
    download: bool = False,
    max_damaged: float | None = None,
    max_megapixels: float | None = None,
    keep_splits: bool = False,
) -> tfds.core.DatasetBuilder:
    """Writes the data set `name` under `data_dir`, unless it is there already, and returns its builder.

    Args:
      name: data set and config, such as 'isic2019/64'; without a config, the data set's default one.
      data_dir: folder that receives the data set (never a hidden default in the home folder).
      manual_dir: folder that holds the official archives, for data sets that are made from archives.
      download: fetch the archives from their official addresses instead; nothing is fetched unasked.
      max_damaged: share of the inputs that may be damaged; None takes the builders' 0.001. Damaged inputs are left out
        and listed in the report.
      max_megapixels: the largest image that is decoded, of data sets of image files; None takes the builders' 100. A
        larger one counts as damaged.
      keep_splits: keep the splits that a table gives although identical images are in several of them.

    A second call for a data set that another process prepares waits until it is ready.

    Raises:
      ValueError: an unknown data set or config, input that is not as published, too much of it damaged, or a data set
        that is there and damaged; the message names it.
      FileNotFoundError: an archive, table or image is missing; the message says which and where to get it.
      OSError: the disk of `data_dir` is full or not writable; the message says which.
    """
    options = {"max_damaged": max_damaged, "max_megapixels": max_megapixels, "keep_splits": keep_splits or None}
    given = {option: value for option, value in options.items() if value is not None}
    with damage_named(Path(data_dir) / name):
        builder = make_builder(name, data_dir, download, **given)
    import tensorflow_datasets as tfds

    settings = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
    root = Path(data_dir) / builder.name
    try:
        builder.download_and_prepare(download_dir=Path(data_dir) / "downloads", download_config=settings)
    except BaseException:
        remove_if_no_dataset(root)
        raise
    finally:
        remove_empty_folders(Path(data_dir) / "downloads")
    return builder


@contextlib.contextmanager
def damage_named(root: Path) -> Iterator[None]:
    """Within it, what TFDS raises when it makes a builder of a data set whose descriptions are damaged names the file.

    Args:
      root: folder of the data set, or of one of its configs.
    """
    from tfds_builders.common.opening import DESCRIPTIONS, check_descriptions

    try:
        yield
    except Exception:
        for description in sorted(root.rglob(DESCRIPTIONS[0])):
            check_descriptions(description.parent)
        raise


def newest_version(name: str, data_dir: str | Path) -> Path | None:
    """The folder of the newest version of a prepared data set, or None if there is none.

    Args:
      name: data set and config, such as 'isic2019/64', or a data set alone if it has no configs.
      data_dir: the folder that it was prepared in.
    """
    found = (path.parent for path in (Path(data_dir).expanduser() / name).glob("*/dataset_info.json"))
    # A preparation that was killed leaves a folder that may have all of a data set but its name.
    versions = [path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))), default=None)


def make_builder(name: str, data_dir: str | Path, download: bool, **options: Any) -> tfds.core.DatasetBuilder:
    """The builder of `name`, with an error that lists what there is when there is no such data set or
    config.
    """
    dataset, _, config = name.partition("/")
    if dataset not in DATASETS:
        raise ValueError(
            f"unknown data set {dataset!r}{suggest(dataset, DATASETS)}: the known ones are {', '.join(DATASETS)}"
        )
    builder_class = find_builder_class(dataset)
    if foreign := options.keys() - builder_class.OPTIONS:
        raise ValueError(f"{dataset} has no use for {', '.join(sorted(foreign))}: leave it out")
    if config:
        builder_class.check_config(config)
    options |= {"download": True} if download and builder_class.CAN_DOWNLOAD else {}
    return builder_class(data_dir=data_dir, config=config or None, **options)


def find_builder_class(dataset: str) -> Any:
    """The class of the builder of one of DATASETS."""
    return importlib.import_module(f"tfds_builders.{dataset}").Builder


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean isic2019?)`, or '' if no known name is near."""
    found = difflib.get_close_matches(name.lower(), known, n=3)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def remove_if_no_dataset(root: Path) -> None:
    """Deletes the folder of a data set that holds no config, finished or being written by another process."""
    remove_empty_folders(root)
    if root.is_dir() and not [path for path in root.iterdir() if path.name != ".config"]:
        shutil.rmtree(root)


def remove_empty_folders(folder: Path) -> None:
    """Deletes `folder` and the folders below it as far as they hold no file: TFDS makes some in advance."""
    if not folder.is_dir():
        return
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
    if not any(folder.iterdir()):
        folder.rmdir()
