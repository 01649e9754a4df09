"""The page of a search: the tree of its orders, how sure the ranking is, what it cost."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiseeme_jax.curriculum.costs import Cost
from aiseeme_jax.evaluate.over_seeds import format_number
from aiseeme_jax.report.estimates import Cell
from aiseeme_jax.report.templates import REPORT, load_template
from aiseeme_jax.report.tree import MOST_NODES, draw_tree
from aiseeme_jax.search import findings
from aiseeme_jax.search.findings import Findings, Node, read_findings
from aiseeme_jax.store import records, workdirs

# Orders in the table.
LISTED = 40
PARTS = {"finalist": "", "reverse": "reverse", "single": "one task, as many images", "random": "random"}


def write_search_report(workdir: Path) -> Path:
    """Writes `workdir/report.html` of a search, whole or not at all, and returns its path."""
    records.write_text(workdir / REPORT, render(read_findings(workdir), workdirs.read_config(workdir)))
    return workdir / REPORT


def render(found: Findings, config: dict[str, Any]) -> str:
    """The page as HTML."""
    ranked = rank_nodes(found.nodes)
    best = found.best or (ranked[0].order if ranked else ())
    shares = sorted({node.share for node in found.nodes if node.order}, reverse=True)
    trees = [(share, [node for node in found.nodes if node.share == share]) for share in shares]
    return load_template("search.html.jinja").render(
        title=config["title"] or config["data"]["name"],
        synthetic=bool(config["data"]["synthetic"]),
        found=found,
        best=" > ".join(best),
        score=f"{found.proxy}, {found.metric}" if found.metric else found.proxy,
        costs=[("Search", found.cost), ("Comparison", found.final_cost)],
        describe_cost=describe_cost,
        trees=[
            (name_share(share), draw_tree(nodes, best, f"Tree of orders{name_share(share)}")) for share, nodes in trees
        ],
        most_nodes=MOST_NODES,
        count=sum(bool(node.order) for node in found.nodes),
        ranked=[(" > ".join(node.order), f"{node.value:.3f}", describe_gain(node)) for node in ranked[:LISTED]],
        compared=[
            (one.name, PARTS[one.part], _cell(one.mean), _cell(one.behind, signed=True)) for one in found.compared
        ],
        ranks=[(name_length(a), name_length(b), f"{value:.2f}".replace("-", "−")) for a, b, value in found.ranks],
        config=json.dumps(config, indent=2),
    )


def rank_nodes(nodes: Sequence[Node]) -> list[Node]:
    """The orders whose stages have their full length, the best first."""
    whole = [node for node in nodes if node.order and node.share == 1 and node.value is not None]
    return sorted(whole, key=lambda node: (-node.value, len(node.order)))


def describe_cost(cost: findings.Cost) -> str:
    """'12 stages, 48,000 images, 20 min 10 s of one device, energy: 21 Wh'."""
    spent = Cost(cost.images, cost.device_seconds, math.nan if cost.joules is None else cost.joules)
    return f"{cost.stages} stages, {cost.images:,} images, {spent.time} of one device, energy: {spent.energy}"


def describe_gain(node: Node) -> str:
    """What the last task of an order gains, with its standard error."""
    return "" if node.gain is None else f"{format_number(node.gain, signed=True)} ± {format_number(node.error)}"


def name_share(share: float) -> str:
    """The length of stages in a title: nothing for the full one."""
    return "" if share == 1 else f", stages of {name_length(share)}"


def name_length(share: float) -> str:
    return "full length" if share == 1 else f"{100 * share:.0f} % of their length"


def _cell(interval: Sequence[float] | None, signed: bool = False) -> Cell | None:
    return None if interval is None else Cell(*interval, signed=signed)
