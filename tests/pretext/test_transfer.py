"""From every task to every other: the weights one stage leaves are those the next one starts from."""

import jax
import pytest
import tiny
from flax import nnx
from tiny import tiny_in_the_table  # noqa: F401

from aiseeme_jax import pretext, weights

# Tasks by the backbone they can share.
KINDS = {
    "images": [name for name in pretext.TASKS if not tiny.of_volumes(name) and name not in tiny.OF_VITS],
    "volumes": [name for name in pretext.TASKS if tiny.of_volumes(name)],
    "patches": [*tiny.OF_VITS, "rotation", "simclr", "byol"],
}


def task_on(kind: str, name: str, backbone=None) -> pretext.Task:
    """A task of the table around a backbone, or the kind's own."""
    if backbone is None:
        backbone = tiny.vit() if kind == "patches" else tiny.table_backbone(name)
    return tiny.table_task(name, backbone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_weights_arrive_untouched_over_all_pairs(kind, tmp_path, tiny_in_the_table):  # noqa: F811
    for number, first in enumerate(KINDS[kind]):
        made = task_on(kind, first)
        # Weights of its own for each, as after a training.
        parameters = nnx.state(made.backbone, nnx.Param)
        nnx.update(made.backbone, jax.tree.map(lambda x, by=0.01 * (number + 1): x + by, parameters))
        left = weights.backbone_hash(made.backbone)
        weights.save_backbone(tmp_path / first, made.backbone, {"task": first})
        for second in KINDS[kind]:
            backbone, info = weights.load_backbone(tmp_path / first)
            assert info["backbone_hash"] == left
            assert weights.backbone_hash(task_on(kind, second, backbone).backbone) == left, (first, second)
