"""Scores of maps against masks: values known by hand, blind guesses on real masks, masks that tell nothing."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from aiseeme_jax.evidence import localisation
from aiseeme_jax.evidence.localisation import MEASURES, UNKNOWN, centre_prior, score_map, score_maps


def scores(found, mask):
    return dict(zip(MEASURES, score_map(np.asarray(found, float), np.asarray(mask, np.uint8)), strict=True))


def disc(side, radius, centre=(0.5, 0.5)):
    y, x = np.mgrid[:side, :side] + 0.5
    return (np.hypot(y / side - centre[0], x / side - centre[1]) < radius).astype(np.uint8)


def test_a_uniform_map_scores_the_share_of_area():
    mask = disc(32, 0.3)
    area = mask.mean()
    found = scores(np.full((32, 32), 3.0), mask)
    assert found["energy"] == pytest.approx(area) and found["pointing"] == pytest.approx(area)
    assert found["lift"] == pytest.approx(1) and found["auroc"] == pytest.approx(0.5)
    # Half of all pixels, and as much of the mask.
    assert found["iou_50"] == pytest.approx(0.5 * area / (0.5 + area - 0.5 * area))


def test_an_all_zero_map_counts_as_uniform_and_is_found():
    mask = disc(16, 0.3)
    maps = np.stack([np.zeros((16, 16)), np.ones((16, 16))])
    rows = score_maps(maps, np.stack([mask, mask]))
    np.testing.assert_allclose(rows[0], rows[1])
    assert localisation.find_empty(maps).tolist() == [True, False]


def test_values_by_hand():
    mask = [[1, 1], [0, 0]]
    found = scores([[4, 1], [2, 1]], mask)
    assert found["energy"] == pytest.approx(5 / 8) and found["lift"] == pytest.approx(5 / 4)
    assert found["pointing"] == 1
    # Pairs inside > outside: 4 > 2, 4 > 1; equal: 1 = 1; less: 1 < 2.
    assert found["auroc"] == pytest.approx(2.5 / 4)
    # The two highest pixels, 4 and 2: one of the three in the union.
    assert found["iou_50"] == pytest.approx(1 / 3)
    # One pixel is chosen, which lies in the mask of two.
    assert found["iou_75"] == pytest.approx(1 / 2)


def test_ties_at_the_maximum_count_by_their_share():
    assert scores([[5, 5], [5, 0]], [[1, 0], [0, 0]])["pointing"] == pytest.approx(1 / 3)


def test_the_map_of_the_mask_is_perfect():
    mask = disc(32, 0.4)
    found = scores(mask, mask)
    assert found["energy"] == 1 and found["pointing"] == 1 and found["auroc"] == 1
    assert found["lift"] == pytest.approx(1 / mask.mean())


@pytest.mark.parametrize("value", [0, 1, UNKNOWN])
def test_empty_full_and_unknown_masks_tell_nothing(value):
    mask = np.full((8, 8), value, np.uint8)
    assert not localisation.tells_something(mask)
    assert np.isnan(score_map(np.ones((8, 8)), mask)).all()
    if value != 1:
        assert np.isnan(localisation.measure_distance(mask))


def test_unknown_pixels_count_nowhere():
    mask = np.array([[1, 0, UNKNOWN]], np.uint8)
    assert scores([[3, 1, 100]], mask) == scores([[3, 1]], [[1, 0]])
    assert localisation.share_inside(mask) == 0.5


@pytest.mark.parametrize("found", [np.full((4, 4), -1.0), np.full((4, 4), np.nan), np.ones((4, 5))])
def test_maps_that_are_none_are_refused(found):
    with pytest.raises(ValueError, match="map"):
        score_map(found, disc(4, 0.3))


def test_the_centre_prior_on_a_centred_disc():
    """1 - exp(-r^2 / 2 sd^2) of an endless Gaussian lies within r; the image ends at 3.3 sd."""
    side, sd, radius = 200, 0.15, 0.2
    found = scores(centre_prior((side, side), sd), disc(side, radius))
    assert found["energy"] == pytest.approx(1 - np.exp(-(radius**2) / (2 * sd**2)), abs=0.005)
    assert found["pointing"] == 1 and found["auroc"] == pytest.approx(1)
    assert localisation.measure_distance(disc(side, radius)) == pytest.approx(0, abs=1e-9)


def test_distance_is_in_sides_and_quarters_are_equal():
    assert localisation.measure_distance(disc(100, 0.1, (0.5, 0.8))) == pytest.approx(0.3, abs=0.01)
    quarters = localisation.quarter_by(np.arange(40.0)[::-1])
    assert np.bincount(quarters).tolist() == [10, 10, 10, 10] and quarters[0] == 3


def test_masks_are_exchanged_between_groups():
    groups = np.array(["a", "a", "a", "b", "c", "d"])
    others = localisation.pair_with_others(groups, 5, 0)
    assert others.shape == (5, 6) and (groups[others] != groups).all()
    with pytest.raises(ValueError, match="two groups"):
        localisation.pair_with_others(np.array(["a", "a"]), 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "archive, count, area, centre, energies",
    [
        ("isic2019/HAM10000_segmentations_lesion_tschandl.zip", 800, 0.27, 0.96, (0.67, 0.46, 0.37)),
        ("covid_chestxray/lung_masks.zip", 418, 0.37, 0.12, (0.60, 0.53, 0.47)),
    ],
)
def test_what_a_blind_centre_scores_on_real_masks(real_data, archive, count, area, centre, energies):
    """The numbers with which every network is compared; measured before on other draws of the same masks."""
    areas, points, found = [], [], []
    with zipfile.ZipFile(real_data / archive) as masks:
        names = sorted(name for name in masks.namelist() if name.endswith(".png"))
        for name in np.random.default_rng(0).permutation(names)[:count]:
            with Image.open(io.BytesIO(masks.read(name))) as picture:
                mask = (np.asarray(picture.convert("L").resize((64, 64), Image.Resampling.NEAREST)) > 127).astype("u1")
            areas.append(mask.mean())
            points.append(mask[31:33, 31:33].mean())
            priors = [centre_prior(mask.shape, sd) for sd in localisation.PRIORS]
            found.append([score_map(prior, mask)[0] for prior in priors])
    assert np.mean(areas) == pytest.approx(area, abs=0.02)
    assert np.mean(points) == pytest.approx(centre, abs=0.03)
    np.testing.assert_allclose(np.nanmean(found, axis=0), energies, atol=0.02)
