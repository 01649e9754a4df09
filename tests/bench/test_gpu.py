"""`bench.gpu` on a toy without a GPU, what it counts, and its report."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from test_benchmarks import ONE_DEVICE, REPOSITORY

from bench import roofline
from bench.gpu_report import SKIPPED, Report

TOY = ["--resnet=tiny", "--vit=tiny_vit", "--task_model=tiny", "--patch=8", "--width=0.125", "--size=16", "--batch=4"]
TOY += ["--task_size=16", "--task_batch=4", "--images=16", "--steps=1", "--rounds=1"]


def read_tables(text: str) -> dict[str, list[list[str]]]:
    """Rows of each table of a report, by the beginning of its title."""
    tables = {}
    for part in text.split("\n## ")[1:]:
        rows = [line for line in part.splitlines() if line.startswith("|")][2:]
        tables[part.split()[0]] = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return tables


@pytest.mark.slow
def test_everything_runs_at_toy_size_without_grain_clu_ml_collections_and_tensorflow(tmp_path):
    out = tmp_path / "gpu.md"
    script = Path(__file__).with_name("gpu_without_extras.py")
    command = [sys.executable, script, *TOY, f"--out={out}", "--tasks", "rotation", "mae", "rotation3d"]
    done = subprocess.run(command, cwd=REPOSITORY, env=ONE_DEVICE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert text.startswith("# One GPU\n\n1 x cpu, ") and "jax " in text and "python -m bench.gpu --resnet=tiny" in text
    assert "--minutes" not in text and "Not measured" not in text
    networks, pipeline, tasks = (text.split(f"\n## {title}")[1] for title in ("SimCLR", "From", "All tasks"))
    tables = read_tables(text)
    own = [row for row in tables["SimCLR"] if row[0].startswith("aiseeme_jax")]
    assert own and all(float(cell) > 0 for row in own for cell in (row[1], row[3], row[-1]))
    # PyTorch is not there: its rows say so, and the rest is measured.
    missing = "failed: ModuleNotFoundError: No module named 'torch'"
    assert [row[1] == missing for row in tables["SimCLR"]] == [False, True, True]
    assert "aiseeme_jax, deterministic" in networks and "to compile it and make two steps" in networks
    assert [row[0] for row in tables["From"]] == [
        "step, views ready",
        "step with augmentation, one batch",
        "images in device memory",
        "images in host memory",
        "raw images on disk",
        "whole loop, images in device memory",
        "whole loop, raw images on disk",
    ]
    assert all(float(row[1]) > 0 for row in tables["From"]) and "Augmentation takes" in pipeline
    assert [row[:2] for row in tables["All"]] == [
        ["rotation", "tiny, 16 px"],
        ["mae", "tiny_vit, 16 px"],
        ["rotation3d", "tiny, volumes of 16"],
    ]
    assert all(float(cell) > 0 for row in tables["All"] for cell in (*row[2:6], *row[7:9])) and "| –" in tasks
    assert "peak memory of everything together" in text


def test_a_piece_that_fails_and_one_without_time_are_named(tmp_path):
    report = Report(tmp_path / "new" / "gpu.md", "# Head", minutes=60)
    table = report.begin("Part", "", "images/s")

    def fail():
        raise RuntimeError("out of memory | 3 GiB\nand a long tail")

    found, problem = report.attempt("first", fail, kind="step")
    assert found is None and problem == "failed: RuntimeError: out of memory \\| 3 GiB"
    report.add(table, "first", problem)
    assert report.attempt("second", lambda: 5, kind="step") == (5, "")
    report._longest["slow"] = 3601.0
    assert report.attempt("third", lambda: 5, kind="slow") == (None, SKIPPED)
    assert report.attempt("fourth", lambda: 5, kind="step") == (5, "")
    report.add(table, "third")
    report.note(table, "A note.")
    written = (tmp_path / "new" / "gpu.md").read_text()
    assert written.startswith("# Head\n\n## Part\n\n|")
    assert "| third | " in written and written.endswith("A note.\n\nNot measured, since the time was up: third.\n")


def test_nothing_begins_after_the_time(tmp_path):
    report = Report(tmp_path / "gpu.md", "# Head", minutes=0)
    assert report.attempt("first", lambda: 1 / 0, kind="step") == (None, SKIPPED)
    assert report.skipped == ["first"]


def count(function, *arguments) -> float:
    return roofline.count_operations(jax.jit(function).trace(*arguments).jaxpr)


def test_operations_of_products_convolutions_and_loops():
    assert count(lambda x, w: jnp.tanh(x @ w), jnp.ones((5, 7)), jnp.ones((7, 3))) == 2 * 5 * 7 * 3

    def repeat(x, w):
        return jax.lax.scan(lambda carry, _: (jax.jit(jnp.dot)(carry, w), None), x, None, length=4)[0]

    assert count(repeat, jnp.ones((5, 7)), jnp.ones((7, 7))) == 4 * 2 * 5 * 7 * 7
    branches = [lambda x: x @ x, lambda x: x @ x @ x]
    assert count(lambda i, x: jax.lax.switch(i, branches, x), 0, jnp.ones((3, 3))) == 2 * 2 * 27


@pytest.mark.parametrize("stride", [1, 2])
def test_operations_of_a_convolution_and_its_gradients_are_the_compilers(stride):
    """Without any other operation, so that the compiler counts the same."""

    def convolve(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=numbers)

    def gradients(x, w, change):
        return jax.vjp(convolve, x, w)[1](change)

    x, w = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 5))
    change = jnp.ones_like(convolve(x, w))
    for function, arguments in ((convolve, (x, w)), (gradients, (x, w, change))):
        wanted = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
        assert count(function, *arguments) == pytest.approx(wanted, rel=1e-3)


PROGRAM = """HloModule jit_step, is_scheduled=true

%fused (p.0: f32[8,4], p.1: bf16[4]) -> f32[8,4] {
  %p.0 = f32[8,4]{1,0} parameter(0)
  %p.1 = bf16[4]{0} parameter(1)
  ROOT %add.0 = f32[8,4]{1,0} add(%p.0, %p.0)
}

%body (t: (f32[8,4])) -> (f32[8,4]) {
  %t = (f32[8,4]{1,0}) parameter(0)
  %g = f32[8,4]{1,0} get-tuple-element(%t), index=0
  %n = f32[8,4]{1,0} negate(%g)
  ROOT %r = (f32[8,4]{1,0}) tuple(%n)
}

ENTRY %main (x: f32[8,4], y: bf16[4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %y = bf16[4]{0} parameter(1)
  %f = f32[8,4]{1,0} fusion(%x, %y), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/add"}
  %c = (f32[8,4]{1,0}, /*index=1*/u8[100]{0}) custom-call(%f, %f), custom_call_target="__cudnn$convForward"
  %e = f32[8,4]{1,0} get-tuple-element(%c), index=0
  %u = (f32[8,4]{1,0}) tuple(%e)
  %w = (f32[8,4]{1,0}) while(%u), condition=%test, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %o = f32[8,4]{1,0} get-tuple-element(%w), index=0
}
"""


def test_bytes_of_a_program_with_a_library_call_and_a_loop():
    """Without the scratch space of the library."""
    array = 8 * 4 * 4
    fusion, call, loop = array + 4 * 2 + array, 2 * array + array, 3 * 2 * array
    assert roofline.count_bytes(PROGRAM) == fusion + call + loop


def test_bytes_are_those_of_the_compiler_where_it_knows_them():
    compiled = jax.jit(lambda x, w: jax.nn.relu(x @ w) @ w).lower(jnp.ones((64, 128)), jnp.ones((128, 128))).compile()
    assert roofline.count_bytes(compiled.as_text()) == pytest.approx(
        compiled.cost_analysis()["bytes accessed"], rel=0.01
    )


@pytest.mark.parametrize(
    "name, operations, moved",
    [
        ("NVIDIA H200", 989e12, 4800e9),
        ("NVIDIA H100 80GB HBM3", 989e12, 3350e9),
        ("NVIDIA H100 PCIe", 756e12, 2000e9),
        ("NVIDIA A100-SXM4-40GB", 312e12, 1555e9),
        ("NVIDIA A100-SXM4-80GB", 312e12, 2039e9),
        ("NVIDIA A100 80GB PCIe", 312e12, 1935e9),
        ("NVIDIA L40S", 362e12, 864e9),
    ],
)
def test_cards_are_known_by_the_names_of_the_driver(name, operations, moved):
    card = roofline.find_card(name)
    assert (card.operations, card.bytes) == (operations, moved)


def test_unknown_cards_have_no_limit():
    assert roofline.find_card("cpu") is None
    assert roofline.describe(1e9, 1e6, 2, 100.0, None) == ("0.5", "0.5", "–", "–")


def test_the_nearer_limit_counts():
    card = roofline.Card(1e12, 1e9)
    # 4 ms for the operations, 10 ms for the bytes.
    assert roofline.describe(4e9, 10e6, 8, 400.0, card) == ("0.5", "1.25", "800 (bytes)", "50%")
    assert roofline.describe(40e9, 10e6, 8, 50.0, card) == ("5", "1.25", "200 (operations)", "25%")
