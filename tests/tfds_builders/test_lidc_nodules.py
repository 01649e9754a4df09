"""Grouping, masks and planes of LIDC-IDRI's nodules against references written here."""

import itertools

import numpy as np
import pytest

from tfds_builders.common.damage import DamagedInput
from tfds_builders.common.geometry import AIR, NEAREST, patch
from tfds_builders.lidc_idri import clustering, masks, views
from tfds_builders.lidc_idri.annotations import Annotation, Outline
from tfds_builders.lidc_idri.nodules import Nodule, label_of

pytestmark = pytest.mark.slow

RATINGS = (3,) * 9


def outline(points, z=0.0, inclusion=True):
    return Outline(z, f"uid{z}", inclusion, np.array(points, np.int32))


def ring(x, y, radius, z=0.0, inclusion=True):
    return outline([(x - radius, y - radius), (x + radius, y - radius), (x + radius, y + radius),
                    (x - radius, y + radius)], z, inclusion)  # fmt: skip


def annotation(*outlines, session=0):
    return Annotation(session, "n", RATINGS, outlines)


def at_level(one):
    return int(one.z)


# Masks


def inside_by_angles(points, x, y):
    """Winding number by the sum of signed angles; pixels on an edge count as outside."""
    total = 0.0
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):
        a, b = np.array([x1 - x, y1 - y], float), np.array([x2 - x, y2 - y], float)
        cross, dot = a[0] * b[1] - a[1] * b[0], a @ b
        if cross == 0 and dot <= 0:
            return False
        total += np.arctan2(cross, dot)
    return round(total / (2 * np.pi)) != 0


@pytest.mark.parametrize("seed", range(8))
def test_interior_against_winding_numbers(seed):
    points = np.random.default_rng(seed).integers(0, 14, (7, 2)) - 3
    mask, (row, column) = masks.interior(points)
    for y, x in itertools.product(range(mask.shape[0]), range(mask.shape[1])):
        assert mask[y, x] == inside_by_angles(points, x + column, y + row)


def test_interior_by_pick():
    star = np.array([(0, 9), (4, 4), (9, 0), (13, 5), (20, 9), (13, 12), (9, 21), (5, 13)])
    step = np.roll(star, -1, 0) - star
    area = abs(np.sum(star[:, 0] * np.roll(star[:, 1], -1) - star[:, 1] * np.roll(star[:, 0], -1))) / 2
    boundary = np.gcd(abs(step[:, 0]), abs(step[:, 1])).sum()
    mask, corner = masks.interior(star)
    assert mask.sum() == area - boundary / 2 + 1 and corner == (0, 0)
    assert masks.interior(star[::-1])[0].sum() == mask.sum()


@pytest.mark.parametrize("points", [[(3, 3), (3, 3)], [(3, 3), (4, 4)], [(1, 1), (5, 1), (3, 1)]])
def test_what_encloses_nothing_is_empty(points):
    assert not masks.interior(np.array(points))[0].any()


def test_holes_are_subtracted_their_outline_stays():
    box = masks.consensus([annotation(ring(10, 20, 5), ring(10, 20, 2, inclusion=False))], at_level)
    assert box.corner == (0, 15, 5) and box.voxels.shape == (1, 11, 11)
    expected = np.zeros((11, 11), bool)
    expected[1:10, 1:10] = True
    expected[4:7, 4:7] = False
    assert (box.voxels[0] == expected).all()


def test_half_of_the_readers_make_the_mask():
    """Of four readers, at two levels; two annotations of one reader are one vote."""
    readers = [
        annotation(ring(10, 10, 4, 5.0), ring(10, 10, 4, 6.0), session=0),
        annotation(ring(10, 10, 4, 5.0), session=1),
        annotation(ring(12, 10, 4, 5.0), session=2),
        annotation(ring(8, 10, 3, 5.0), session=3),
        annotation(ring(13, 10, 3, 6.0), session=3),
    ]
    box = masks.consensus(readers, at_level)
    votes = np.zeros((4, 2, 20, 20))
    for reader, level, x, radius in (
        (0, 0, 10, 4),
        (0, 1, 10, 4),
        (1, 0, 10, 4),
        (2, 0, 12, 4),
        (3, 0, 8, 3),
        (3, 1, 13, 3),
    ):
        votes[reader, level, 10 - radius + 1 : 10 + radius, x - radius + 1 : x + radius] = 1
    z, y, x = box.corner
    assert z == 5
    depth, height, width = box.voxels.shape
    assert (box.voxels == (votes.mean(0) >= 0.5)[:, y : y + height, x : x + width]).all()
    where = np.argwhere(votes.mean(0) >= 0.5) + [5, 0, 0]
    np.testing.assert_allclose(box.centroid(), where.mean(0))


def test_a_reversed_box_covers_the_same_voxels():
    random = np.random.default_rng(0)
    volume = np.zeros((9, 10, 11), bool)
    box = masks.Box(random.random((2, 3, 4)) < 0.5, (1, 5, 6))
    volume[1:3, 5:8, 6:10] = box.voxels
    turned = box.reversed(volume.shape, (True, False, True))
    again = np.zeros_like(volume)
    z, y, x = turned.corner
    again[z : z + 2, y : y + 3, x : x + 4] = turned.voxels
    assert (again == volume[::-1, :, ::-1]).all()


def test_diameter_is_in_plane_and_in_mm():
    one = annotation(ring(10, 10, 3, 0.0), ring(10, 10, 1, 5.0))
    other = annotation(outline([(0, 0), (8, 0), (4, 1)]), session=1)
    expected = [np.hypot(6 * 0.5, 6 * 0.8), 8 * 0.5]
    assert masks.diameter([one, other], (2.5, 0.8, 0.5)) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(("malignancy", "label"), [(1, "benign"), (2.5, "benign"), (3, None), (3.25, "malignant")])
def test_label_rule(malignancy, label):
    assert label_of(malignancy) == label


# Grouping


def members(annotations, spacing=(2.0, 0.5, 0.5), thickness=0.0, how=clustering.MM):
    return clustering.group(annotations, clustering.Grid(spacing, 0.0, thickness), how)


def test_grouping_is_by_distance_of_outlines_in_mm_and_transitive():
    # Outlines 4 columns (2 mm) apart are within the tolerance, 5 are not; the third joins through the second.
    row = [annotation(ring(x, 10, 2)) for x in (10, 18, 26, 35)]
    assert members(row).members == [[0, 1, 2], [3]]
    assert members(row, (2.5, 0.5, 0.5)).members == [[0, 1, 2, 3]]
    assert members(row, (2.0, 9.0, 0.4)).members == [[0, 1, 2, 3]]
    levels = [annotation(ring(10, 10, 2, z)) for z in (6.0, 0.0, 2.0)]
    assert members(levels).members == [[1, 2], [0]]
    assert members([]).members == []


@pytest.mark.parametrize(("step", "digits"), [(0.7, 9), (1.1, 9), (1.25, 1), (0.625, 1), (1.5, 0)])
def test_neighbouring_slices_are_one_spacing_apart_however_their_heights_are_written(step, digits):
    levels = [annotation(ring(10, 10, 2, round(-100.3 + step * i, digits))) for i in (0, 1, 2, 3, 5)]
    grid = clustering.Grid((step, 0.5, 0.5), -100.3)
    assert clustering.group(levels[:4], grid).members == [[0, 1, 2, 3]]
    assert clustering.group(levels[2:], grid).members == [[0, 1], [2]]


def test_pylidc_measures_voxels_with_the_slice_thickness():
    """By hand: of two outlines 3 columns apart, or 3 slices, the distance is 3, whatever the voxels' size in mm."""
    row = [annotation(ring(x, 10, 2)) for x in (10, 17, 24)]
    levels = [annotation(ring(10, 10, 2, z)) for z in (0.0, 6.0, 14.0)]
    how = {"how": clustering.PYLIDC}
    for spacing in ((2.0, 0.5, 0.5), (2.0, 9.0, 9.0)):
        assert members(row, spacing, 3.0, **how).members == [[0, 1, 2]]
        assert members(row, spacing, 2.9, **how).members == [[0], [1], [2]]
        assert members(levels, spacing, 3.0, **how).members == [[0, 1], [2]]
        assert members(levels, spacing, 2.5, **how).members == [[0], [1], [2]]
    # In mm they are 1.5 apart, or 6.
    assert members(row).members == [[0, 1, 2]] and members(levels).members == [[0], [1], [2]]
    assert members([], thickness=3.0, **how).members == []
    with pytest.raises(DamagedInput, match="no SliceThickness, at which pylidc's grouping begins"):
        members(row, **how)


def test_pylidc_shrinks_its_tolerance_too():
    """Two nodules 3 columns apart, three readers each; 4 * 0.9 * 0.9 = 3.24, once more 2.916."""
    both = [annotation(ring(x, 10, 2), session=s) for x in (10, 17) for s in range(3)]
    groups = members(both, thickness=4.0, how=clustering.PYLIDC)
    assert groups.members == [[0, 1, 2], [3, 4, 5]] and groups.tolerance == pytest.approx(2.916)


def test_distances_against_all_pairs():
    random = np.random.default_rng(3)
    points = [random.normal(0, 1, (12, 3)) + 3 * i for i in range(4)]
    found = clustering.least_distances(points, 4.0)
    for i, j in itertools.permutations(range(4), 2):
        least = np.linalg.norm(points[i][:, None] - points[j][None], axis=-1).min()
        assert found[i, j] == (pytest.approx(least) if least <= 4 else np.inf)


def test_more_annotations_than_readers_shrink_the_tolerance():
    """Two nodules 1.5 mm apart, three readers each: one group of six at 2 mm, two below 1.5 mm."""
    both = [annotation(ring(x, 10, 2), session=s) for x in (10, 17) for s in range(3)]
    groups = members(both)
    assert groups.members == [[0, 1, 2], [3, 4, 5]] and not groups.crowded
    assert groups.tolerance == pytest.approx(2 * 0.9**3)
    assert members(both[:4]).tolerance == 2


def test_what_cannot_be_parted_stays_together():
    groups = members([annotation(ring(10, 10, 2), session=s % 4) for s in range(5)])
    assert groups.members == [[0, 1, 2, 3, 4]] and groups.crowded and 0.1 <= groups.tolerance < 0.1 / 0.9


# Planes


def test_nine_planes_cut_a_cube_alike():
    assert len(views.PLANES) == 9
    normals = []
    for axes in views.PLANES.values():
        np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-12)
        normals.append(np.cross(*axes))
    normals = np.abs(np.round(np.stack(normals) @ np.stack(normals).T, 6))
    # No two planes are the same, and six of the normals lie half-way between two axes.
    assert (normals[~np.eye(9, dtype=bool)] < 1).all()
    diagonal = [axes for name, axes in views.PLANES.items() if "+" in name or "-" in name]
    assert sorted(np.count_nonzero(np.round(np.cross(*axes), 6)) for axes in diagonal) == [2] * 6


SPACING = (2.0, 0.5, 0.8)


def test_orthogonal_planes_are_those_of_the_cube():
    """With an odd size the middle planes of `patch` go through the centre."""
    voxels = np.random.default_rng(0).integers(-1000, 1000, (12, 40, 30), np.int16)
    centre, size = (5.3, 18.2, 14.6), 15
    cube = patch(voxels, SPACING, centre, size, 1.0)
    for name, middle in (("axial", cube[7]), ("coronal", cube[:, 7]), ("sagittal", cube[:, :, 7])):
        plane = views.sample_plane(voxels, SPACING, centre, views.PLANES[name], size, 1.0)
        assert abs(plane.astype(int) - middle).max() <= 1, name
    inside = (voxels > 0).astype(np.uint8)
    cube = patch(inside, SPACING, centre, size, 1.0, NEAREST)
    plane = views.sample_plane(inside, SPACING, centre, views.PLANES["axial"], size, 1.0, NEAREST)
    assert (plane == cube[7]).all()


def test_all_planes_sample_a_linear_volume_exactly():
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip((20, 60, 40), SPACING, strict=True)), indexing="ij")
    voxels = (10 * z + 7 * y - 4 * x).astype(np.float32)
    centre, size = np.array((10.0, 30.0, 20.0)), 8
    offsets = np.arange(size) - (size - 1) / 2
    for axes in views.PLANES.values():
        plane = views.sample_plane(voxels, SPACING, centre, axes, size, 1.0)
        points = centre * SPACING + offsets[:, None, None] * axes[0] + offsets[None, :, None] * axes[1]
        np.testing.assert_allclose(plane, np.rint(points @ (10, 7, -4)), atol=1)


def test_beyond_the_volume_is_air():
    voxels = np.zeros((4, 4, 4), np.int16)
    plane = views.sample_plane(voxels, (1, 1, 1), (0, 1.5, 1.5), views.PLANES["coronal"], 6, 1.0)
    assert (plane[:2] == AIR).all() and (plane[:, [0, -1]] == AIR).all() and (plane[3:, 1:5] == 0).all()


def ball(shape=(24, 60, 50), centre=(11, 31, 22), radius=9.0):
    grids = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    distance = sum(((g - c) * s) ** 2 for g, c, s in zip(grids, centre, SPACING, strict=True))
    inside = distance <= radius**2
    where = np.argwhere(inside)
    low, high = where.min(0), where.max(0) + 1
    return masks.Box(inside[tuple(map(slice, low, high))], tuple(low.tolist()))


def test_nodule_patches_divide_the_image_into_inside_and_outside():
    box = ball()
    voxels = np.random.default_rng(1).integers(-900, 400, (24, 60, 50), np.int16)
    patches, mask, sides = views.nodule_patches(voxels, box, SPACING, box.centroid(), 32)
    assert patches.shape == (9, 32, 32, 3) and mask.shape == (9, 32, 32, 1)
    overall, texture, shape = np.moveaxis(patches.astype(int), -1, 0)
    assert (texture + shape == overall).all()
    inside = mask[..., 0] == 1
    assert (texture[~inside] == 0).all() and (shape[inside] == 0).all() and (texture == overall)[inside].all()
    # The square is as tight as the voxels, of up to 2 mm, allow about the ball of 18 mm; the area is a disc's.
    assert (abs(sides - 18) <= 2).all()
    np.testing.assert_allclose(inside.mean((1, 2)) * sides**2, np.pi * 81, rtol=0.1)


def test_views_and_masks_agree():
    box = ball()
    voxels = np.full((24, 60, 50), -850, np.int16)
    z, y, x = box.corner
    depth, height, width = box.voxels.shape
    voxels[z : z + depth, y : y + height, x : x + width][box.voxels] = 50
    images, mask = views.nine_views(voxels, box, SPACING, box.centroid(), 48, 0.5)
    assert images.shape == mask.shape == (9, 48, 48, 1) and mask.dtype == np.uint8
    # Linear and nearest interpolation part at the middle grey level, up to ties.
    assert ((images > -400) == (mask == 1)).mean() > 0.97
    np.testing.assert_allclose(mask.sum((1, 2, 3)) * 0.25, np.pi * 81, rtol=0.1)


def test_a_plane_that_misses_the_nodule_still_has_a_patch():
    box = masks.Box(np.zeros((1, 3, 3), bool), (3, 4, 4))
    middle, side = views.square_about(box, (1, 1, 1), (3, 5, 5), views.PLANES["axial"])
    assert side == views.LEAST_SIDE and middle.tolist() == [3, 5, 5]


def test_reach_is_to_the_far_side_of_the_farthest_voxel():
    voxels = np.zeros((3, 4, 5), bool)
    voxels[0, 1, 1] = voxels[2, 1, 3] = True
    box = masks.Box(voxels, (7, 8, 9))
    nodule = Nodule(0, (), box, box.centroid(), 1, 1.0)
    assert nodule.centre == (8, 9, 11) and nodule.reach((2.0, 0.5, 0.5)) == 3.0
