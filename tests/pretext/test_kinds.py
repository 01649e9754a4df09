"""Every task on the kinds of images it says it can be trained on, besides the colour images of the other tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from ml_collections import FrozenConfigDict

from aiseeme_jax import pretext
from configs import base

pytestmark = pytest.mark.slow

# Preset, and what is stored: [8, …].
STORED = {"grey": ("cxr", (16, 16, 1), np.uint8), "volume": ("ct", (16, 16, 16, 1), np.int16)}
STILL_VOLUMES = {"jitter_probability": 0.0, "blur_probability": 0.0, "noise_probability": 0.0, "right_angles": False}
# Predicts colours, and says so where there are none.
COLOURED = "colorization"
QUICK_STORED = [(name, "grey") for name in ("rotation", "moco_v2")]
QUICK_STORED += [(name, "volume") for name in ("npid",)]


def stored_task(name, kind, channels=1):
    """A task of the table on one kind of data, with a batch of it."""
    preset, shape, dtype = STORED[kind]
    calm = {"rotation": 0.0, "jitter_probability": 0.0, "blur_probability": 0.0} if kind == "grey" else STILL_VOLUMES
    fields = tiny.FIELDS.get(name, {})
    config = FrozenConfigDict(base.stage(name, size=16, preset=preset, views=calm, batch_size=8, **fields))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (8, *shape)) if kind == "grey" else random.integers(-1000, 400, (8, *shape))
    batch = {"image": jnp.asarray(images.astype(dtype)), "index": jnp.arange(8)}
    return tiny.task(config, tiny.table_body(name, channels=channels, dimensions=len(shape) - 1)), batch


@pytest.mark.parametrize(
    "name, kind",
    [
        pytest.param(name, kind, marks=[pytest.mark.slow] * ((name, kind) not in QUICK_STORED))
        for name, task in pretext.TASKS.items()
        for kind in STORED
        if name != COLOURED and len(STORED[kind][1]) - 1 in task.DIMENSIONS
    ],
)
def test_every_task_works_on_grey_images_and_if_it_says_so_on_volumes(name, kind):
    task, batch = stored_task(name, kind)
    views = jax.jit(task.views)(jax.random.key(0), batch)
    output = tiny.loss(task, views)
    assert jnp.isfinite(output.loss) and jnp.isfinite(output.features).all()
    assert output.images.ndim == batch["image"].ndim and output.images.shape[-1] == 1
    assert output.images.shape[0] == output.features.shape[0] and output.images.shape[0] % 8 == 0


@pytest.mark.parametrize("name", [name for name, task in pretext.TASKS.items() if task.DIMENSIONS == (2,)])
def test_tasks_of_images_refuse_volumes(name):
    with pytest.raises(ValueError, match=f"{name} needs 2-D images, and views.dimensions is 3"):
        stored_task(name, "volume")
