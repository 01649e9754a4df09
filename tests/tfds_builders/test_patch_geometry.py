"""Patches against volumes whose values are known everywhere, and against SciPy."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from tfds_builders.common import geometry

SPACING = (2.5, 0.7, 0.6)


def ramp(shape: tuple[int, int, int], spacing=SPACING, gradient=(3, 5, -7)) -> np.ndarray:
    """HU that grows linearly with the position in mm; the spacing is chosen so that all are whole."""
    z, y, x = (np.arange(n) * step for n, step in zip(shape, spacing, strict=True))
    values = gradient[0] * z[:, None, None] + gradient[1] * y[:, None] + gradient[2] * x
    return np.rint(values).astype(np.int16)


def test_a_ramp_is_resampled_exactly():
    spacing, gradient = (4.0, 0.5, 0.5), (3, 6, -8)
    volume = ramp((20, 100, 100), spacing, gradient)
    centre = np.array([9.25, 50.3, 48.8])
    cube = geometry.patch(volume, spacing, centre, size=16, spacing_out=1.0)
    offsets = np.arange(16) - 7.5
    z, y, x = (at * step + offsets for at, step in zip(centre, spacing, strict=True))
    expected = gradient[0] * z[:, None, None] + gradient[1] * y[:, None] + gradient[2] * x
    assert cube.dtype == np.int16 and abs(cube - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("order", [geometry.LINEAR, geometry.NEAREST])
@pytest.mark.parametrize("centre", [(10.3, 20.7, 30.1), (0.0, 0.0, 0.0), (19.2, 2.0, 44.9), (-30.0, 10.0, 10.0)])
def test_against_scipy(order, centre):
    volume = np.random.default_rng(0).integers(-1000, 1000, (20, 40, 45)).astype(np.int16)
    cube = geometry.patch(volume, SPACING, centre, size=24, spacing_out=1.3, order=order, outside=-777)
    offsets = (np.arange(24) - 11.5) * 1.3
    grid = np.stack(np.meshgrid(*(at + offsets / s for at, s in zip(centre, SPACING, strict=True)), indexing="ij"))
    limits = np.array(volume.shape).reshape(3, 1, 1, 1)
    inside = ((grid >= -0.5) & (grid <= limits - 0.5)).all(0)
    reference = map_coordinates(volume.astype(np.float64), grid, order=order, mode="nearest")
    expected = np.where(inside, reference, -777)
    assert abs(cube - expected).max() <= (0.5 + 1e-2 if order else 0)


def test_sphere_keeps_its_volume_in_uneven_voxels():
    radius, centre = 11.0, np.array([22.0, 60.0, 70.0])
    z, y, x = (np.arange(n) * s for n, s in zip((40, 170, 230), SPACING, strict=True))
    at = centre * np.array([1.0, 0.7, 0.6])
    at[0] = 22.0 * SPACING[0]
    inside = (z[:, None, None] - at[0]) ** 2 + (y[:, None] - at[1]) ** 2 + (x - at[2]) ** 2 <= radius**2
    mask = geometry.patch(inside.astype(np.uint8), SPACING, centre, 64, 0.5, geometry.NEAREST)
    true = 4 / 3 * np.pi * radius**3
    assert mask.dtype == np.uint8 and abs(mask.sum() * 0.5**3 / true - 1) < 0.03
    image = geometry.patch(np.where(inside, 100, -900).astype(np.int16), SPACING, centre, 64, 1.0)
    assert abs((image > -400).sum() / true - 1) < 0.03
    # The middle of an even cube lies between its samples.
    assert abs(np.argwhere(image > -400).mean(0) - 31.5).max() < 0.2


def test_defaults_beyond_the_volume():
    volume = np.full((4, 4, 4), 50, np.int16)
    cube = geometry.patch(volume, (1, 1, 1), (1.5, 1.5, 1.5), 8)
    assert (cube[2:6, 2:6, 2:6] == 50).all() and (cube == 50).sum() == 64 and cube.min() == geometry.AIR
    mask = geometry.patch(volume.astype(np.uint8), (1, 1, 1), (1.5, 1.5, 1.5), 8, order=geometry.NEAREST)
    assert (mask == 50).sum() == 64 and mask.min() == 0


def test_only_the_needed_voxels_are_touched():
    """A volume of 4 TB that does not exist, but for one box."""
    box = np.arange(10**3, dtype=np.int16).reshape(10, 10, 10)

    class Remote(np.ndarray):
        def __getitem__(self, key):
            assert all(part.stop - part.start <= 10 for part in key)
            return box[tuple(slice(part.start - 5000, part.stop - 5000) for part in key)]

    volume = np.broadcast_to(np.int16(0), (12800,) * 3).view(Remote)
    cube = geometry.patch(volume, (1, 1, 1), (5004.5,) * 3, 10)
    assert (cube == box).all()


def test_world_and_voxels_are_inverse_for_any_direction():
    random = np.random.default_rng(0)
    direction = np.linalg.qr(random.normal(size=(3, 3)))[0]
    voxels = random.uniform(0, 100, (7, 3))
    world = geometry.to_world(voxels, (1, 2, 3), SPACING, direction)
    assert np.allclose(geometry.to_voxel(world, (1, 2, 3), SPACING, direction), voxels)
    assert np.allclose(geometry.to_world((2, 3, 4), (10, 20, 30), SPACING), (10 + 4 * 0.6, 20 + 3 * 0.7, 30 + 2 * 2.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(order=3), "order is 1"), (dict(size=0), "must be positive"), (dict(spacing_out=0.0), "must be positive")],
)
def test_impossible_patches(options, message):
    with pytest.raises(ValueError, match=message):
        geometry.patch(np.zeros((3, 3, 3), np.int16), (1, 1, 1), (1, 1, 1), **options)
