"""The benchmarks run and report; what they measure is not tested."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from running import QUICK_TO_COMPILE, phantom  # noqa: F401
from tiny import tiny_in_the_table  # noqa: F401

from bench import coverage, finetune_together, measure, open_split, order_search, prepare, tasks, train_step

REPOSITORY = Path(__file__).resolve().parents[2]
# Without the tests' virtual devices.
ONE_DEVICE = {**os.environ, "XLA_FLAGS": QUICK_TO_COMPILE}
SMALL = ["--width=0.125", "--size=32", "--batch=8", "--steps=1", "--rounds=1"]


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_in_the_table")
def test_train_step_prints_its_table_and_compiles_once(phantom, capsys):  # noqa: F811
    train_step.main([*SMALL, "--model=tiny", "--data=derm_phantom/tiny", f"--data_dir={phantom}"])
    printed = capsys.readouterr().out
    for row in ("step, views ready", "step with augmentation", "residence=stream", "residence=device", "peak memory"):
        assert row in printed
    assert "no compilation after the first step" in printed


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_in_the_table")
def test_fine_tuning_together_is_compared_with_one_after_another(capsys):
    small = ["--width=0.125", "--size=16", "--stem=small", "--batch=8", "--rounds=1", "--members=2"]
    finetune_together.main([*small, "--model=tiny"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "vmap" in line or "map)" in line]
    assert [row[0].split(" (")[0].strip() for row in rows] == ["together", "in one program"]
    assert all(float(value) >= 0 for row in rows for cell in row[1:-1] for value in cell.split("–"))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_in_the_table")
def test_train_step_takes_volumes(tmp_path, capsys):
    import tfds_builders

    tfds_builders.prepare("nodule_phantom/tiny", data_dir=tmp_path)
    volumes = ["--dimensions=3", "--size=16", "--data=nodule_phantom/tiny", f"--data_dir={tmp_path}"]
    train_step.main([*SMALL, "--model=tiny", *volumes])
    assert "data nodule_phantom/tiny:train, (16, 16, 16, 1)" in capsys.readouterr().out


@pytest.mark.slow
def test_tasks_are_measured_beside_the_supervised_step_of_their_own_network(tiny_in_the_table, capsys):  # noqa: F811
    tasks.main(["simclr", "mae", "rotation3d", "--model=tiny", "--vit=tiny_vit", *SMALL])
    tables = capsys.readouterr().out.split("\n\n")[1:]
    networks = (("tiny, 32 px", "simclr"), ("tiny, volumes of 16", "rotation3d"), ("tiny_vit, 32 px", "mae"))
    for table, (network, name) in zip(tables, networks, strict=True):
        head, _, supervised, row = (line.strip("|").split("|") for line in table.strip().splitlines())
        assert [cells[0].strip() for cells in (head, supervised, row)] == [network, "supervised", name]
        assert all(float(cell) > 0 for cell in row[1:])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_vs_torch_prints_its_table():
    """In a process of its own, which PyTorch then does not share with the other tests."""
    command = [sys.executable, "-m", "bench.vs_torch", *SMALL]
    done = subprocess.run(command, cwd=REPOSITORY, env=ONE_DEVICE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "of the faster PyTorch" in done.stdout


@pytest.mark.slow
def test_prepare_prints_records_speed_and_memory_of_images_and_volumes(tmp_path, monkeypatch, capsys):
    for name, smaller in {"IMAGES": 40, "NIH_IMAGES": 50, "SERIES": 1, "SLICES": 48, "SIDE": 128}.items():
        monkeypatch.setattr(prepare, name, smaller)
    monkeypatch.setattr(prepare, "EMBEDDED", ("derm_phantom/tiny",))
    prepare.main([])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[4:]]
    titles = [
        "image_table/224, 40 JPEGs",
        "image_table/224, 160 JPEGs",
        "image_table/64, 50 small JPEGs",
        "ct_patches/64, 1 series",
        "ct_patches/64, 4 series",
    ]
    assert [row[0] for row in rows] == ["derm_phantom/tiny", *titles]
    assert [row[1] for row in rows[1:4]] == ["40", "160", "50"]
    for _, records, seconds, speed, before, peak in rows:
        assert float(records) > 0 and float(seconds) > 0 and float(speed) > 0 and float(peak) >= float(before) > 0


@pytest.mark.slow
def test_open_split_prints_seconds_and_memory_with_tables_and_without(tmp_path, capsys):
    open_split.main(["--rows=50", f"--data_dir={tmp_path}"])
    head, _, *rows = capsys.readouterr().out.strip().splitlines()[-4:]
    assert "fingerprint, s" in head
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:2] for row in cells] == [["from the records", "50"], ["from the file of tables", "50"]]
    assert all(float(cell.replace(",", "")) >= 0 for row in cells for cell in row[2:])


@pytest.mark.slow
def test_prepare_goes_on_after_a_data_set_that_fails(tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        prepare.main([f"image_table/64={tmp_path}", "derm_phantom/tiny="])
    assert ended.value.code == 1
    said = capfd.readouterr()
    assert "image_table/64:\n" in said.err and str(tmp_path) in said.err
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.out.splitlines()[4:]]
    assert rows[0][:2] == ["image_table/64", "failed"] and float(rows[1][1].replace(",", "")) > 0


def test_compilations_are_counted():
    function = jax.jit(lambda x: x * 3 + 1)
    with measure.count_compilations() as first:
        function(jnp.ones(3)).block_until_ready()
    with measure.count_compilations() as second:
        function(jnp.ones(3)).block_until_ready()
    assert first and not second


def test_every_variant_takes_its_turn():
    calls = []
    variants = {name: (lambda steps, name=name: calls.append((name, steps))) for name in ("a", "b")}
    speeds = measure.images_per_second(variants, images_per_step=4, steps=3, rounds=2)
    assert calls == [("a", 2), ("b", 2), ("a", 3), ("b", 3), ("a", 3), ("b", 3)]
    assert speeds.keys() == {"a", "b"}


def test_table_is_markdown():
    assert measure.table([("", "x"), ("long name", "1")]).splitlines() == [
        "|           | x |",
        "|-----------|---|",
        "| long name | 1 |",
    ]


def test_coverage_prints_a_row_for_each_interval(capsys, monkeypatch):
    monkeypatch.setattr(coverage, "TRUTH_PATIENTS", 300)
    coverage.main(["--patients", "20", "--simulations", "3", "--samples", "20"])
    head, *tables = capsys.readouterr().out.split("\n\n")
    assert head == "Coverage in percent (mean width); 3 simulations, standard error 12.6."
    assert [title.split(" (")[0] for title in tables[::2]] == ["20 patients, 2 classes", "20 patients, 4 classes"]
    for table in tables[1::2]:
        _, _, *rows = (line.strip("|").split("|") for line in table.strip().splitlines())
        assert [row[0].strip() for row in rows] == list(coverage.METHODS)
        shares = [float(cell.split("(")[0]) for row in rows for cell in row[1:] if "–" not in cell]
        assert len(shares) == 27 and {round(share / 100 * 3) for share in shares} <= {0, 1, 2, 3}


def test_coverage_of_a_study_prints_a_row_for_each_case(capsys):
    coverage.main(["--seeds", "2", "3", "--simulations", "20"])
    head, table = capsys.readouterr().out.split("\n\n")
    assert head.startswith("Coverage in percent; 20 simulations.")
    _, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines())
    assert [row[0] for row in rows] == list(coverage.SEED_CASES)
    assert all(50 <= float(cell) <= 100 for row in rows for cell in row[1:])


def test_order_search_prints_a_line_for_each_strategy_and_kind_of_table(capsys):
    order_search.main(["--tables=2", "--tasks=3", "--length=2", "--stages=9"])
    printed = capsys.readouterr().out
    assert all(printed.count(f" {strategy} ") == 3 for strategy in order_search.COMPARED)
    assert printed.count("0.00 ± 0.00") >= 3, "three tasks have nine orders: the best is among them"
