"""The page of a study, from made-up measurements."""

import re

import numpy as np
import pytest
from report_runs import Page, without_script, words
from study_measurements import ARMS, make_outcomes, make_study, measure

from aiseeme_jax.report import study_page
from aiseeme_jax.report.dots import Dot, draw_dots
from aiseeme_jax.study.certainty import compare, list_values, summarise
from aiseeme_jax.study.tables import StudyTables

CONFIG = {"title": "A <b>study</b>", "data": {"name": "derm/64", "synthetic": True}, "model": {"name": "resnet18"}}


def render(study, made, missing=()):
    outcomes = make_outcomes(study, made)
    found = StudyTables(list_values(outcomes), summarise(outcomes), compare(outcomes))
    return study_page.render(study, outcomes, found, missing, CONFIG)


@pytest.fixture(scope="module")
def named():
    """Three arms that are equal but for noise and scratch, over three seeds, without variants."""
    made = [
        measure(arm, s, shift=1.5 - 0.7 * (arm == "single:a")) for arm in ARMS if arm != "single:b" for s in (0, 1, 2)
    ]
    return render(make_study(), made)


class TestPage:
    def test_says_of_each_comparison_whether_it_can_be_told_apart(self, named):
        text = words(named)
        assert re.search(
            r"kNN on all labels: balanced accuracy: curriculum is better than scratch: the diff.* \+0\.\d+", text
        )
        assert text.count("single:a cannot be told apart from scratch: the difference is") == 1
        assert "Bonferroni" in text and "Each arm is compared with scratch." in text

    def test_needs_no_network_and_escapes_names(self, named):
        assert not re.search(r"<script|src=|href=|@import|https?://", without_script(named))
        assert "A <b>study</b>" not in named and Page(named)
        assert "The images are synthetic" in named and "not complete" not in named

    def test_without_variants_has_a_dot_for_each_arm(self, named):
        figure = named[named.index("Means with 95") : named.index("What can be told apart")]
        assert figure.count('class="mark"') == 3 and figure.count('class="whisker"') == 3

    def test_over_decades_the_axis_is_logarithmic_with_a_line_for_each_arm(self):
        study = make_study(xs=(0.01, 0.1, 1.0), axis="share <of> images")
        arms = ("curriculum", "scratch")
        made = [measure(arm, s, variant=f"v{i}", shift=i / 3) for i in range(3) for arm in arms for s in (0, 1, 2)]
        page = render(study, made)
        (figure,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
        assert figure.count("<polyline") == 2 and "share &lt;of&gt; images" in figure
        xs = [
            float(x)
            for x in re.findall(r'<text x="([\d.]+)" y="181" text-anchor="middle">(?:0\.01|0\.1|1)</text>', figure)
        ]
        assert len(xs) == 3 and xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)

    def test_of_one_seed_says_that_no_pretraining_is_covered(self):
        page = render(make_study(seeds=(0,)), [measure(arm, 0) for arm in ARMS])
        assert "There is one pretraining seed: no interval covers another pretraining." in page

    def test_says_what_is_missing_and_shows_an_empty_study(self):
        page = render(make_study(), [], ["The training of curriculum, seed 1 diverged."])
        assert "This study is not complete." in page and "diverged" in page

    def test_says_which_backbones_are_the_same_for_every_seed(self):
        made = [measure("curriculum", s) for s in (0, 1)] + [measure("scratch", s, key="same") for s in (0, 1)]
        text = words(render(make_study(), made))
        assert "the variance over these seeds is 0: scratch, kNN." in text
        early = [measure("curriculum", 0), measure("scratch", 0)]
        assert "the variance over these seeds is 0" not in words(render(make_study(), early)), "others may follow"


def test_dots_without_a_value_are_left_out_and_long_names_are_cut():
    dots = [
        Dot("x" * 60, "tone-0", 0.5, 0.4, 0.6),
        Dot("b", "tone-1", 0.7, np.nan, np.nan),
        Dot("c", "", *3 * (np.nan,)),
    ]
    drawn = draw_dots(dots, label="<l>")
    assert drawn.count('class="mark"') == 2 and drawn.count("whisker") == 1 and "<l>" not in drawn
    assert f"<title>{'x' * 60}</title>" in drawn and f">{'x' * 33}…</text>" in drawn
    assert draw_dots(dots[2:], label="") == ""
