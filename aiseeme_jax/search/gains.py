"""Whether the similarity of two tasks predicts what the second adds after the first, on the trials of a search."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from aiseeme_jax.errors import UserError
from aiseeme_jax.evidence.similarity import cka
from aiseeme_jax.search.findings import Node, read_findings
from aiseeme_jax.search.planning import name_order
from aiseeme_jax.search.scoring import FEATURES
from aiseeme_jax.store import artifacts, workdirs
from aiseeme_jax.store.keys import shorten

FEWEST = 4
SAMPLES = 2000
# With up to 7 tasks all ways to rename them are tried.
MOST_RENAMINGS = math.factorial(7)


@dataclass(frozen=True)
class Pair:
    """Two tasks that a search trained one after the other.

    Attributes:
      similarity: unbiased linear CKA of the backbones of each alone, on validation images.
      gain, error: score of both minus that of the first alone, and its standard error over other validation images.
    """

    first: str
    then: str
    similarity: float
    gain: float
    error: float


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of similarity and gain over n pairs.

    Attributes:
      low, high: percentiles over bootstrap samples of the pairs. Pairs share tasks, so the interval is too narrow.
      p: two-sided, from renaming the tasks on the side of the similarity.
    """

    value: float
    low: float
    high: float
    n: int
    p: float


def read_similarities(folders: Sequence[Path]) -> tuple[dict[tuple[str, str], float], list[Pair]]:
    """CKA of all pairs of tasks that were scored alone, and the pairs that were trained one after the other.

    Searches in `folders` count together, a pair that several of them have once.

    Raises MissingFile for a folder without a search. Raises UserError if two searches gave one pair different gains, or
    if there are fewer than 4 pairs.
    """
    similarities: dict[tuple[str, str], float] = {}
    pairs: dict[tuple[str, str], Pair] = {}
    for folder in folders:
        found, more = _read_search(folder)
        similarities |= found
        for pair in more:
            known = pairs.setdefault((pair.first, pair.then), pair)
            if not math.isclose(known.gain, pair.gain, abs_tol=1e-9):
                raise UserError(
                    f"'{folder}' gives {pair.first} > {pair.then} another gain than the searches before it: their "
                    "trials are not the same, so name the workdir of one search"
                )
    if len(pairs) < FEWEST:
        raise UserError(
            f"there are {len(pairs)} pairs of tasks of which both were trained alone and one after the other: a "
            f"correlation needs at least {FEWEST}. A search with the strategy 'surrogate' or 'random' trains more"
        )
    return similarities, list(pairs.values())


def correlate(similarities: Mapping[tuple[str, str], float], pairs: Sequence[Pair], *, seed: int) -> Correlation:
    """Whether pairs that are alike gain more, or less."""
    x, y = (np.array([getattr(pair, name) for pair in pairs]) for name in ("similarity", "gain"))
    value = _spearman(x, y)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(pairs), size=(SAMPLES, len(pairs)))
    samples = [_spearman(x[rows], y[rows]) for rows in drawn]
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    renamed = [
        _spearman(np.array([similarities[names[pair.first], names[pair.then]] for pair in pairs]), y)
        for names in _rename(sorted({name for pair in similarities for name in pair}), generator)
    ]
    p = float(np.mean(np.abs(renamed) >= abs(value) - 1e-12))
    return Correlation(value, float(low), float(high), len(pairs), p)


def describe_correlation(found: Correlation) -> str:
    """'Spearman's correlation is …', with the number of pairs."""
    verdict = "" if found.p < 0.05 else " So these trials do not show that similarity predicts the gain."
    return (
        f"Over {found.n} pairs of tasks, Spearman's correlation of the similarity of two tasks and the gain of the "
        f"second after the first is {found.value:.2f} [{found.low:.2f}, {found.high:.2f}], p = {found.p:.3f} if the "
        f"tasks are renamed.{verdict}"
    )


def _rename(tasks: Sequence[str], generator: np.random.Generator):
    """Ways to rename tasks: all of them, or some by chance, with the true one among them."""
    if math.factorial(len(tasks)) <= MOST_RENAMINGS:
        orders = itertools.permutations(tasks)
    else:
        orders = itertools.chain([tasks], (generator.permutation(tasks) for _ in range(MOST_RENAMINGS)))
    return (dict(zip(tasks, order, strict=True)) for order in orders)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return float(spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else float("nan")


def _read_search(folder: Path) -> tuple[dict[tuple[str, str], float], list[Pair]]:
    nodes = {node.order: node for node in read_findings(folder).nodes if node.share == 1}
    features = _read_features(folder, [order for order in nodes if len(order) == 1])
    similarities = {
        (one, other): cka(features[one], features[other]) for one, other in itertools.product(features, repeat=2)
    }
    pairs = [
        Pair(*order, similarities[order], node.gain, node.error)
        for order, node in nodes.items()
        if _is_pair(order, node) and order in similarities
    ]
    return similarities, pairs


def _is_pair(order: tuple[str, ...], node: Node) -> bool:
    return len(set(order)) == len(order) == 2 and node.gain is not None and math.isfinite(node.gain)


def _read_features(folder: Path, orders: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
    """The features of validation images that the scores of these orders left, by the only task of each."""
    plan = workdirs.read_plan(folder)
    store = workdirs.open_store(folder, plan)
    scores = {arm.name: arm.scores[0] for arm in plan.arms if arm.scores}
    found = {}
    for order in orders:
        entry = scores.get(name_order(order))
        directory = entry and store.find(artifacts.SCORES, shorten(entry.key))
        # A trial that diverged has none.
        if directory and (directory / FEATURES).exists():
            found[order[0]] = np.load(directory / FEATURES, allow_pickle=False)
    return found
