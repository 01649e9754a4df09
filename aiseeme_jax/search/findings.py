"""What a search found, as a file in its workdir, from which the report is made.

The file is made again by every run from the records in the store. It contains nothing that cannot be made again.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from aiseeme_jax.curriculum.costs import cost_of_stage, cost_of_work, sum_costs
from aiseeme_jax.curriculum.pieces import PlannedArm, PlannedScore, PlannedStage
from aiseeme_jax.errors import MissingFile, UserError
from aiseeme_jax.evaluate.proxies import Score, error_of_difference
from aiseeme_jax.search.certainty import Compared
from aiseeme_jax.search.trials import Outcome, Trial
from aiseeme_jax.store import records
from aiseeme_jax.store.artifacts import SCORES, STAGES, Store

FILE = "search.json"
FORMAT = 1
# Fewer trials than this at two lengths say nothing about the correlation of their ranks.
FEWEST_FOR_RANKS = 4


@dataclasses.dataclass(frozen=True)
class Node:
    """A trial in the tree of orders.

    Attributes:
      value: its score; None if it diverged.
      gain, error: its score minus that of the order without its last task, and the standard error of that.
    """

    order: tuple[str, ...]
    share: float
    value: float | None
    gain: float | None
    error: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """What stages and scores cost: how many stages, the images that these showed, and of both seconds times devices
    (restarts included) and joules.

    Joules are None if they were not measured.
    """

    stages: int
    images: int
    device_seconds: float
    joules: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A finalist, or what was trained beside the finalists. `behind` is the best order minus this one."""

    name: str
    part: str
    mean: tuple[float, float, float]
    behind: tuple[float, float, float] | None


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a search found.

    Attributes:
      strategy, proxy, metric: their names; the metric is '' if the proxy has none.
      best: the best order; empty while it is not known.
      nodes: all trials so far.
      cost, final_cost: of the search, and of what was trained with other seeds.
      stopped: whether the budget ended the search.
      ranks: for each pair of lengths, the rank correlation of the trials that were trained for both.
      compared: the finalists and what was trained beside them, the best first.
      sentences: how sure that is.
    """

    strategy: str
    proxy: str
    metric: str
    best: tuple[str, ...]
    nodes: tuple[Node, ...]
    cost: Cost
    final_cost: Cost
    stopped: bool
    ranks: tuple[tuple[float, float, float], ...]
    compared: tuple[Comparison, ...]
    sentences: tuple[str, ...]


def make_nodes(outcome: Outcome) -> tuple[Node, ...]:
    """The tree of the trials that a search has scored."""
    scores = outcome.scores
    return tuple(make_node(trial, score, scores[trial.beginning]) for trial, score in scores.items())


def make_node(trial: Trial, score: Score, earlier: Score | None = None) -> Node:
    """A trial in the tree.

    Args:
      earlier: the score of the order without its last task; without it nobody knows the gain.
    """
    value = _finite(score.value)
    if earlier is None:
        return Node(trial.order, trial.share, value, None, math.nan)
    gain = _finite(score.value - earlier.value) if trial.order else None
    return Node(trial.order, trial.share, value, gain, error_of_difference(score, earlier))


def correlate_ranks(outcome: Outcome) -> tuple[tuple[float, float, float], ...]:
    """(shorter share, longer share, Spearman's correlation) of the trials that were trained for two lengths."""
    by_share: dict[float, dict[tuple[str, ...], float]] = {}
    for trial, score in outcome.scores.items():
        if trial.order and math.isfinite(score.value):
            by_share.setdefault(trial.share, {})[trial.order] = score.value
    found = []
    shares = sorted(by_share)
    for shorter, longer in zip(shares, shares[1:], strict=False):
        both = [order for order in by_share[shorter] if order in by_share[longer]]
        if len(both) >= FEWEST_FOR_RANKS:
            values = [[by_share[share][order] for order in both] for share in (shorter, longer)]
            found.append((shorter, longer, float(spearmanr(*values).statistic)))
    return tuple(found)


def sum_cost(arms: Iterable[PlannedArm], store: Store, without: Iterable[PlannedArm] = ()) -> Cost:
    """The cost of the finished stages and scores of arms, each counted once; without those that belong to other arms.

    If the learning rate or the batch size of a stage was searched, that is part of its cost.
    """
    known = {piece.artifact.key for arm in without for piece in (*arm.stages, *arm.scores)}
    found: dict[str, PlannedStage | PlannedScore] = {
        piece.artifact.key: piece for arm in arms for piece in (*arm.stages, *arm.scores)
    }
    left = [piece.artifact for key, piece in found.items() if key not in known]
    finished = [(artifact, record) for artifact in left if (record := store.record(artifact))]
    stages = [cost_of_stage(record, artifact.content) for artifact, record in finished if artifact.kind == STAGES]
    total = sum_costs([*stages, *(cost_of_work(record) for artifact, record in finished if artifact.kind == SCORES)])
    joules = None if math.isnan(total.joules) or not finished else total.joules
    return Cost(len(stages), int(total.images), round(total.device_seconds, 1), joules)


def describe_compared(compared: Sequence[Compared], names: Mapping[Trial, str]) -> tuple[Comparison, ...]:
    """The comparison as it is stored."""
    return tuple(
        Comparison(
            names[one.trial],
            one.part,
            dataclasses.astuple(one.mean),
            None if one.behind is None else dataclasses.astuple(one.behind),
        )
        for one in compared
    )


def write_findings(workdir: Path, findings: Findings) -> None:
    """Writes search.json. Only the first process writes."""
    records.write_json(workdir / FILE, {"format": FORMAT, **dataclasses.asdict(findings)})


def read_findings(workdir: Path) -> Findings:
    """Reads search.json. Raises MissingFile if it is not there, UserError if it is damaged or of another format."""
    path = workdir / FILE
    if not path.exists():
        raise MissingFile(f"'{workdir}' is not the workdir of a search: it has no {FILE}")
    value: dict[str, Any] = records.read_json(path, remedy="the next run of the search writes it anew")
    if value.pop("format", None) != FORMAT:
        raise UserError(f"{path} is of another version of this program; run the search again in this workdir")
    cost = {name: Cost(**value[name]) for name in ("cost", "final_cost")}
    nodes = tuple(Node(**{**node, "order": tuple(node["order"])}) for node in value["nodes"])
    compared = tuple(
        Comparison(one["name"], one["part"], tuple(one["mean"]), one["behind"] and tuple(one["behind"]))
        for one in value["compared"]
    )
    plain = {name: tuple(value[name]) for name in ("best", "sentences")}
    ranks = tuple(map(tuple, value["ranks"]))
    return Findings(**{**value, **cost, **plain, "ranks": ranks, "nodes": nodes, "compared": compared})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
