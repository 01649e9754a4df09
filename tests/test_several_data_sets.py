"""Pretraining on a mixture of data sets and measuring on others, from files on disk, killed and gone on with."""

import sys
from pathlib import Path

import pytest
import running
from running import phantom  # noqa: F401

import tfds_builders
from aiseeme_jax.evaluate import results

sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("data", "tfds_builders")]

pytestmark = pytest.mark.slow
CONFIG = {"config": "tests/transfer_config.py"}


@pytest.fixture(scope="module")
def four_sets(phantom, tmp_path_factory):  # noqa: F811
    """A folder with the phantoms, a data set of TFDS itself, and a table of own images."""
    import own_table
    import photographs
    import tensorflow_datasets as tfds

    tfds_builders.prepare("derm_phantom/demo", data_dir=phantom)
    own = own_table.clinic(tmp_path_factory.mktemp("own") / "clinic").write()
    tfds_builders.prepare("image_table/64", data_dir=phantom, manual_dir=own)
    counts = {"train": 40, "test": 12}
    made = photographs.Builder(
        counts=counts, sizes=[(20, 24), (30, 16)], labels=True, data_dir=phantom, file_format="array_record"
    )
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return phantom


@pytest.fixture(scope="module")
def whole(four_sets, tmp_path_factory):
    """The workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("transfer") / "run"
    code, said = running.launch(workdir, four_sets, **CONFIG)
    assert code == 0, said
    return workdir


def outcome(workdir):
    hashes = [running.record(workdir, label)["backbone_hash"] for label in ("00-rotation", "01-npid")]
    return [*hashes, running.read_results(workdir)]


def test_every_target_is_measured_on_its_own_data_set(whole):
    targets = {row.target for row in results.read_rows(whole)}
    assert targets == {"knn:image_table/64@16", "linear:derm_phantom/demo@16"}
    shown = running.record(whole, "00-rotation")["images_shown"]
    assert shown == {"derm_phantom/tiny@16": 112, "photographs@16": 48}, "20 batches of 8, seven to three"


def test_killed_in_either_stage_it_ends_in_the_same_bits(whole, four_sets, tmp_path):
    workdir = tmp_path / "run"
    for label, step in (("00-rotation", 7), ("01-npid", 23)):
        process = running.start(workdir, four_sets, "--config.runtime.checkpoint_every=5", **CONFIG)
        running.wait_for(process, lambda at=(label, step): running.logged(workdir, at[0]) >= at[1], f"step {step}")
        process.kill()
        running.finish(process)
        assert not (running.stage_folder(workdir, label) / "record.json").exists()
    code, said = running.launch(workdir, four_sets, **CONFIG)
    assert code == 0, said
    assert outcome(workdir) == outcome(whole)
