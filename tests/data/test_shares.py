"""Shares of images for pretraining: nested, grouped, drawn by names."""

import numpy as np
import pytest

from aiseeme_jax.data import draw_share

GROUPS = np.repeat([f"patient {i}" for i in range(50)], np.arange(50) % 4 + 1)


def test_smaller_shares_are_part_of_larger_ones_and_near_to_what_is_asked():
    found = [set(draw_share(GROUPS, share, 3).tolist()) for share in (0.01, 0.1, 0.25, 0.5, 1.0)]
    assert all(small < large for small, large in zip(found, found[1:], strict=False))
    for share, rows in zip((0.1, 0.25, 0.5, 1.0), found[1:], strict=True):
        assert abs(len(rows) - share * len(GROUPS)) <= 2
    assert len(found[-1]) == len(GROUPS) and len(found[0]) >= 1


def test_a_group_is_taken_whole_or_not_at_all():
    rows = draw_share(GROUPS, 0.3, 0)
    inside, outside = set(GROUPS[rows]), set(np.delete(GROUPS, rows))
    assert inside and outside and not inside & outside


def test_follows_from_the_seed_and_the_names_alone():
    order = np.random.default_rng(0).permutation(len(GROUPS))
    shuffled = set(GROUPS[order][draw_share(GROUPS[order], 0.3, 0)])
    assert shuffled == set(GROUPS[draw_share(GROUPS, 0.3, 0)]) != set(GROUPS[draw_share(GROUPS, 0.3, 1)])


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_out_of_range(share):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        draw_share(GROUPS, share, 0)
