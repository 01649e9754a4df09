"""Rubik's cube: order, half turns, gaps, and the loss over all three."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from aiseeme_jax.pretext import grid
from aiseeme_jax.pretext.permutations import max_hamming

pytestmark = pytest.mark.slow


def sigmoid_entropy(logits, labels) -> float:
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return float(-np.mean(np.where(labels, np.log(p), np.log(1 - p))))


def test_labels_are_what_was_done_to_the_cubes(monkeypatch):
    cubes = np.random.default_rng(0).normal(size=(16, 8, 4, 4, 4, 1)).astype(np.float32)
    monkeypatch.setattr(grid, "draw", lambda *_, **__: jnp.asarray(cubes))
    task = tiny.table_task("rubik", permutations=20)
    views = jax.tree.map(np.asarray, jax.jit(task.views)(jax.random.key(0), {"image": None}))
    orders = max_hamming(8, 20)[views["order"]]
    for image in range(16):
        for place in range(8):
            cube, (about_z, about_y) = cubes[image, orders[image, place]], views["turned"][image, place]
            cube = np.rot90(cube, 2, axes=(1, 2)) if about_z else cube
            cube = np.rot90(cube, 2, axes=(0, 2)) if about_y else cube
            seen = views["patches"][image, place]
            lost = seen != cube
            assert (seen[lost] == 0).all()
            assert (0.2 < lost.mean() < 0.8) if views["gaps"][image, place] else not lost.any()
    for name in ("turned", "gaps"):
        assert 0.35 < views[name].mean() < 0.65
    assert len(set(views["order"].tolist())) > 5


def test_loss_is_the_weighted_sum_over_three_answers():
    task = tiny.table_task("rubik", permutations=20, orientation=0.5, masking=2.0)
    views = jax.jit(task.views)(jax.random.key(0), tiny.table_batch("rubik"))
    assert views["patches"].shape == (8, 8, 6, 6, 6, 1)  # cells of 8
    output = tiny.loss(task, views)
    hidden = np.asarray(output.features, np.float64) @ np.asarray(task.hidden.layers[0].kernel)
    hidden = np.maximum((hidden - hidden.mean(axis=0)) / np.sqrt(hidden.var(axis=0) + 1e-5), 0).reshape(8, -1)
    order, turn, gap = (hidden @ np.asarray(h.kernel) for h in (task.order_head, task.turn_head, task.gap_head))
    expected = [
        tiny.cross_entropy(order, np.asarray(views["order"])),
        sigmoid_entropy(turn, np.asarray(views["turned"]).reshape(8, 16)),
        sigmoid_entropy(gap, views["gaps"]),
    ]
    parts = [float(output.metrics[f"{name}_loss"]) for name in ("order", "orientation", "masking")]
    np.testing.assert_allclose(parts, expected, rtol=1e-3)
    assert float(output.loss) == pytest.approx(parts[0] + 0.5 * parts[1] + 2 * parts[2], rel=1e-5)


def test_without_masking_no_cube_has_gaps():
    views = jax.jit(tiny.table_task("rubik", masking=0.0).views)(jax.random.key(0), tiny.table_batch("rubik"))
    assert not views["gaps"].any()


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match=r"rubik: a patch of 9 px does not fit a cell of 8 px \(views.size 16 / 2\)"):
        tiny.table_task("rubik", patch=9)
    with pytest.raises(ValueError, match="8 pieces have 2 to 40320 permutations to choose from, not 40321"):
        tiny.table_task("rubik", permutations=40_321)
    with pytest.raises(ValueError, match="rubik needs volumes, and views.dimensions is 2"):
        tiny.task(tiny.stage("rubik"), tiny.Pixels())
