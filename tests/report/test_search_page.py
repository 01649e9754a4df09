"""The page of a search, from made-up findings."""

import re

import pytest
from report_runs import without_script

from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.report import search_page, tree
from aiseeme_jax.search import findings
from aiseeme_jax.search.findings import Comparison, Cost, Findings, Node
from aiseeme_jax.search.trials import START, Outcome, Trial

CONFIG = {"title": "", "data": {"name": "derm/64", "synthetic": False}}
SCORES = {"": 0.5, "a": 0.7, "b": 0.6, "ab": 0.72, "ac": 0.69, "ba": 0.75}


def outcome(scores=SCORES, share=1.0):
    found = {Trial(tuple(name), share if name else 1.0): Score(value) for name, value in scores.items()}
    return Outcome(found, len(found) - 1, False)


def made(**changes):
    known = {
        "strategy": "beam",
        "proxy": "knn",
        "metric": "auroc",
        "best": ("b", "a"),
        "nodes": findings.make_nodes(outcome()),
        "cost": Cost(5, 6400, 75.0),
        "final_cost": Cost(2, 1280, 30.0),
        "stopped": False,
        "ranks": ((1 / 3, 1.0, -0.25),),
        "compared": (
            Comparison("b > a", "finalist", (0.75, 0.7, 0.8), None),
            Comparison("a > b", "reverse", (0.72, 0.7, 0.74), (0.03, -0.01, 0.07)),
        ),
        "sentences": ("The best order is b > a.", "It cannot be told apart from its reverse, a > b."),
    }
    return Findings(**{**known, **changes})


class TestPage:
    def test_shows_how_sure_it_is_and_what_it_cost(self):
        page = search_page.render(made(), CONFIG)
        assert "It cannot be told apart from its reverse, a &gt; b." in page
        assert "+0.030" in page and "[−0.010 to +0.070]" in page
        assert "5 stages, 6,400 images, 1 min 15 s of one device" in page
        assert "Rank correlation of orders with 33 % of their length and with full length: −0.25." in page
        assert "synthetic" not in page.partition("Details")[0] and "not complete" not in page

    def test_needs_no_network_and_no_script(self):
        page = search_page.render(made(), CONFIG)
        assert not re.search(r"<script|src=|href=|@import|https?://", without_script(page))

    def test_of_a_search_that_goes_on_says_the_best_so_far(self):
        page = search_page.render(made(best=(), compared=(), sentences=()), CONFIG)
        assert "This search is not complete.</strong> The best order so far is b &gt; a." in page

    def test_says_that_images_are_synthetic_and_that_the_budget_was_spent(self):
        page = search_page.render(made(stopped=True), {"title": "Demo", "data": {"name": "x", "synthetic": True}})
        assert "The images are synthetic" in page and "The budget of stages ended the search." in page

    def test_orders_are_listed_from_the_best_with_the_gain_of_their_last_task(self):
        page = search_page.render(made(), CONFIG).partition("Best orders")[2]
        listed = re.findall(
            r'<th scope="row">([^<]+)</th><td class="number">([\d.]+)</td><td class="number">(\S+)', page
        )
        assert listed[0] == ("b &gt; a", "0.750", "+0.150") and listed[3] == ("a &gt; c", "0.690", "−0.010")
        assert [float(value) for _, value, _ in listed] == sorted((0.7, 0.6, 0.72, 0.69, 0.75), reverse=True)


class TestTree:
    def test_has_a_node_for_each_stage_and_the_best_order_in_colour(self):
        drawn = tree.draw_tree(findings.make_nodes(outcome()), ("b", "a"), "tree")
        assert drawn.count("<circle") == 6 and drawn.count("<path") == 5
        marked = re.findall(r'<g class="tone-curriculum"><title>([^<]*)</title>', drawn)
        assert marked == ["start 0.500", "b 0.600", "b &gt; a 0.750"]

    def test_a_line_is_the_wider_the_more_its_task_gains_and_dashed_if_it_loses(self):
        drawn = tree.draw_tree(findings.make_nodes(outcome()), (), "tree")
        lines = re.findall(r'stroke-width="([\d.]+)"( stroke-dasharray)?', drawn)
        widths = sorted(float(width) for width, _ in lines)
        assert widths[-1] == tree.WIDEST and widths[0] < 1.3
        assert [width for width, dashed in lines if dashed] == ["1.2"]

    def test_no_two_orders_lie_in_one_place(self):
        places = tree.place_nodes(findings.make_nodes(outcome()))
        assert len(set(places.values())) == len(places)
        assert places[("b",)].x < places[("b", "a")].x and places[("b",)].y == places[("b", "a")].y

    def test_of_many_orders_the_best_are_drawn_each_with_what_it_begins_with(self):
        many = {"": 0.5} | {chr(i): i / 1000 for i in range(100, 300)} | {chr(100) + "a": 0.9}
        shown = tree.choose_nodes(findings.make_nodes(outcome(many)), (chr(100), "a"))
        assert len(shown) == tree.MOST_NODES and {(chr(100),), (chr(100), "a"), (chr(299),)} <= set(shown)
        assert all(order[:-1] in shown for order in shown if order)

    def test_a_diverged_stage_says_so(self):
        drawn = tree.draw_tree(findings.make_nodes(outcome({"": 0.5, "a": float("nan"), "b": 0.6})), ("b",), "tree")
        assert "a diverged" in drawn

    def test_names_are_escaped(self):
        assert "<b>" not in tree.draw_tree([Node(("<b>",), 1.0, 0.5, None, 0.0)], (), "<b>")

    def test_shorter_stages_have_a_tree_of_their_own(self):
        short = findings.make_nodes(outcome({"": 0.5, "a": 0.6}, share=1 / 3))
        page = search_page.render(made(nodes=(*made().nodes, short[1])), CONFIG)
        assert "<h2>Orders</h2>" in page and "<h2>Orders, stages of 33 % of their length</h2>" in page


class TestFindings:
    def test_are_the_same_after_they_were_written(self, tmp_path):
        findings.write_findings(tmp_path, made())
        assert findings.read_findings(tmp_path) == made()

    def test_gain_is_that_over_the_order_without_its_last_task(self):
        nodes = {node.order: node for node in findings.make_nodes(outcome())}
        assert nodes[("b", "a")].gain == pytest.approx(0.15) and nodes[("a",)].gain == pytest.approx(0.2)
        assert nodes[()].gain is None

    def test_ranks_are_compared_where_both_lengths_have_enough_orders(self):
        scores = {"": 0.0, "a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
        full = outcome(scores).scores
        short = {Trial(one.order, 0.5): Score(-s.value) for one, s in full.items() if one != START}
        assert findings.correlate_ranks(Outcome({**full, **short}, 0, False)) == ((0.5, 1.0, pytest.approx(-1)),)
        short.popitem()
        assert findings.correlate_ranks(Outcome({**full, **short}, 0, False)) == ()

    def test_a_folder_without_them_and_another_format_are_named(self, tmp_path):
        with pytest.raises(MissingFile, match="is not the workdir of a search: it has no search.json"):
            findings.read_findings(tmp_path)
        findings.records.write_json(tmp_path / "search.json", {"format": 0})
        with pytest.raises(UserError, match="is of another version of this program"):
            findings.read_findings(tmp_path)
