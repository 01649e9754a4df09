"""Sheets of sample views: where what is shown."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from aiseeme_jax import augment
from aiseeme_jax.curriculum import pictures
from aiseeme_jax.task import Task

STILL = augment.VolumeViews(size=8, crop_scale=(1.0, 1.0), window=(0.0, 1000.0))


def test_of_an_image_itself_and_its_view():
    task = Task(tiny.Pixels(), augment.Views(**{**tiny.STILL, "size": 8}))
    images = tiny.images(2, size=16)
    sheet = pictures.draw_views(task, jnp.asarray(images), seed=0)
    cell = 16 + 2 * pictures.GAP
    assert sheet.shape == (2 * cell, 2 * cell, 3)
    np.testing.assert_allclose(sheet[2:18, 2:18], images[0] / 255, atol=1e-6)
    view = augment.to_display(augment.central_view(jnp.asarray(images), task.spec), task.spec)
    np.testing.assert_allclose(sheet[cell + 6 : cell + 14, cell + 6 : cell + 14], view[1], atol=1e-5)


@pytest.mark.slow
def test_of_a_volume_its_central_slices(tmp_path):
    volumes = np.random.default_rng(0).integers(0, 1000, (2, 8, 8, 8, 1)).astype(np.int16)
    task = Task(tiny.Pixels(1), dataclasses.replace(STILL, flip_z=1.0))
    sheet = pictures.draw_views(task, jnp.asarray(volumes), seed=0)
    cell = 8 + 2 * pictures.GAP
    assert sheet.shape == (2 * cell, 6 * cell, 1)
    unit = volumes / 1000
    places = [(0, unit[1, 4]), (1, unit[1, :, 4]), (2, unit[1, :, :, 4]), (3, unit[1, 3]), (4, unit[1, ::-1, 4])]
    for column, expected in places:
        found = sheet[cell + 2 : cell + 10, column * cell + 2 : column * cell + 10]
        np.testing.assert_allclose(found, expected, atol=1e-4)
    saved = pictures.save_views(tmp_path, task, jnp.asarray(volumes), seed=0)
    assert saved.shape == (2 * cell, 6 * cell, 3) and (tmp_path / "views.png").exists()
