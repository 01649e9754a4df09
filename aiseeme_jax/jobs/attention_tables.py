"""The tables of the command `attention`: attention.csv, attention_images.csv, and what the terminal shows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, make_dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from aiseeme_jax.curriculum.costs import Cost, fill_columns
from aiseeme_jax.evaluate.results import COSTS
from aiseeme_jax.evidence.localisation import MEASURES, MEDIANS, PRIORS, quarter_by
from aiseeme_jax.evidence.looking import Cases, Looked
from aiseeme_jax.evidence.paired import Estimate, Resamples, adjust_holm
from aiseeme_jax.evidence.sanity import PASSES_BELOW

OWN, RANDOM, SHUFFLED, UNIFORM = "network", "random weights", "masks of other images", "uniform map"
PRIOR_NAMES = {f"centre prior {sd:g}": sd for sd in PRIORS}
ALL = "all"
QUARTERS = tuple(f"distance quarter {i}" for i in range(1, 5))
# Arms are compared with the first one by it.
PRIMARY = "energy"
SIMILARITY, EMPTY = "spearman with random weights", "share of empty maps"


@dataclass(frozen=True)
class Row:
    """One line of attention.csv.

    Attributes:
      source: whose maps or masks: OWN, or a baseline.
      images: ALL, or a quarter of them by the distance of the mask from the centre.
      against: of a difference, what is taken away; else ''.
      p, p_holm: of a difference, two-sided; adjusted over the arms and methods of one measure, for those between arms.
      pretraining_images and all after it: of an arm, what its pretraining cost (a mean over its seeds), and the
        fine-tunings of its classifiers.
    """

    arm: str
    method: str
    source: str
    measure: str
    images: str
    against: str
    count: int
    value: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    pretraining_images: float = math.nan
    pretraining_device_seconds: float = math.nan
    pretraining_joules: float = math.nan
    measuring_device_seconds: float = math.nan
    measuring_joules: float = math.nan


NUMBERS = ("value", "low", "high", "p", "p_holm", *COSTS)
IMAGE_NUMBERS = ("area", "distance", "empty", *MEASURES, "spearman")
ImageRow = make_dataclass(
    "ImageRow",
    [*((name, str) for name in ("arm", "method", "run", "source", "id", "group", "quarter")),
     *((name, float) for name in IMAGE_NUMBERS)],
    frozen=True,
)  # fmt: skip

# By arm and method, of each run.
Found = Mapping[tuple[str, str], Mapping[str, Looked]]


class Tables:
    """Rows of everything that was found on the same cases.

    Args:
      samples, seed: of the bootstrap.
      costs: what the pretraining and the fine-tunings of each arm cost.
    """

    def __init__(
        self, cases: Cases, found: Found, samples: int, seed: int, costs: Mapping[str, tuple[Cost, Cost]] | None = None
    ):
        self.cases, self.found = cases, found
        self.costs = {arm: fill_columns(*spent) for arm, spent in (costs or {}).items()}
        self.baselines = {name: cases.score_prior(sd) for name, sd in PRIOR_NAMES.items()}
        self.baselines[UNIFORM] = cases.score_prior(None)
        quarters = quarter_by(cases.distances)
        self.quarters = quarters
        self.subsets = {ALL: np.arange(len(cases)), **{QUARTERS[q]: np.flatnonzero(quarters == q) for q in range(4)}}
        self.subsets = {name: rows for name, rows in self.subsets.items() if len(rows)}
        self.resamples = {name: Resamples(cases.groups[rows], samples, seed) for name, rows in self.subsets.items()}

    def rows(self) -> list[Row]:
        """All rows of attention.csv."""
        made = [row for name in self.subsets for row in self._rows_of(name)]
        for (arm, method), runs in self.found.items():
            made += self._checks(arm, method, list(runs.values()))
        return [replace(row, **self.costs.get(row.arm, {})) for row in _adjust(made)]

    def image_rows(self) -> Iterator[Any]:
        """All rows of attention_images.csv."""
        for name, scores in self.baselines.items():
            yield from self._image_rows("", "", "", name, scores)
        for (arm, method), runs in self.found.items():
            for run, one in runs.items():
                place = arm, method, run
                yield from self._image_rows(*place, OWN, one.own, one.empty, one.similarity)
                yield from self._image_rows(*place, RANDOM, one.random, one.random_empty)
                yield from self._image_rows(*place, SHUFFLED, one.shuffled)

    def _rows_of(self, subset: str) -> Iterator[Row]:
        for name, scores in self.baselines.items():
            yield from self._values(subset, "", "", name, [scores])
        first: dict[str, tuple[str, list[np.ndarray]]] = {}
        for (arm, method), runs in self.found.items():
            own = [one.own for one in runs.values()]
            sides = {RANDOM: [one.random for one in runs.values()], SHUFFLED: [one.shuffled for one in runs.values()]}
            yield from self._values(subset, arm, method, OWN, own)
            for name, scores in sides.items():
                yield from self._values(subset, arm, method, name, scores)
            for name, scores in {**sides, **{n: [s] * len(own) for n, s in self.baselines.items()}}.items():
                yield from self._differences(subset, arm, method, name, own, scores)
            reference, theirs = first.setdefault(method, (arm, own))
            if reference != arm:
                yield from self._differences(subset, arm, method, f"arm {reference}", *_pair(own, theirs))

    def _values(self, subset: str, arm: str, method: str, source: str, runs: Sequence[np.ndarray]) -> Iterator[Row]:
        rows, resamples = self.subsets[subset], self.resamples[subset]
        for m, measure in enumerate(MEASURES):
            found = resamples.estimate([run[rows, m] for run in runs], median=measure in MEDIANS)
            yield _make_row(Row(arm, method, source, measure, subset, "", 0, 0), found)

    def _differences(
        self, subset: str, arm: str, method: str, against: str, own: Sequence[np.ndarray], others: Sequence[np.ndarray]
    ) -> Iterator[Row]:
        rows, resamples = self.subsets[subset], self.resamples[subset]
        for m, measure in enumerate(MEASURES):
            sides = ([run[rows, m] for run in side] for side in (own, others))
            found = resamples.compare(*sides, median=measure in MEDIANS)
            yield _make_row(Row(arm, method, OWN, measure, subset, against, 0, 0), found)

    def _checks(self, arm: str, method: str, runs: Sequence[Looked]) -> Iterator[Row]:
        count = len(self.cases)
        resamples = self.resamples[ALL]
        place = Row(arm, method, OWN, SIMILARITY, ALL, "", count, 0)
        sides = {OWN: [one.similarity for one in runs], RANDOM: [one.random_similarity for one in runs]}
        for source, similarities in sides.items():
            if all(np.isfinite(one).any() for one in similarities):
                yield _make_row(replace(place, source=source), resamples.estimate(similarities, median=True))
        yield replace(place, measure=EMPTY, value=float(np.mean([one.empty for one in runs])))
        yield replace(place, measure=EMPTY, source=RANDOM, value=float(np.mean([one.random_empty for one in runs])))
        for part in runs[0].cascade:
            value = float(np.mean([one.cascade[part] for one in runs if part in one.cascade]))
            yield replace(place, measure="spearman", source=f"random down to {part}", value=value)

    def _image_rows(
        self,
        arm: str,
        method: str,
        run: str,
        source: str,
        scores: Float[np.ndarray, "n m"],
        empty: np.ndarray | None = None,
        similarity: np.ndarray | None = None,
    ) -> Iterator[Any]:
        cases, nothing = self.cases, np.full(len(self.cases), np.nan)
        empty = nothing if empty is None else empty.astype(float)
        similarity = nothing if similarity is None else similarity
        for i in range(len(cases)):
            numbers = cases.areas[i], cases.distances[i], empty[i], *scores[i], similarity[i]
            names = str(cases.ids[i]), str(cases.groups[i]), str(self.quarters[i] + 1)
            yield ImageRow(arm, method, run, source, *names, *map(float, numbers))


def write_summary(rows: Sequence[Row], method: str, endpoint: str) -> Iterator[str]:
    """Lines for the terminal: energy of all arms by one method, beside the baselines, and that of the outer quarter."""
    index = {(r.arm, r.method, r.source, r.measure, r.images, r.against): r for r in rows}
    arms = list(dict.fromkeys(r.arm for r in rows if r.method == method))
    strong = next(iter(PRIOR_NAMES))
    for images in (ALL, QUARTERS[-1]):
        uniform = index.get(("", "", UNIFORM, PRIMARY, images, ""))
        if uniform is None:
            continue
        far = "all images" if images == ALL else "the quarter farthest off centre"
        yield f"{method}{endpoint}, {far} ({uniform.count}): energy inside the mask"
        yield f"  {'':28}{'energy':20}{'- random weights':22}{'- ' + strong:22}{'lift':>6}"
        for arm in arms:
            own, lift = (index[arm, method, OWN, measure, images, ""] for measure in (PRIMARY, "lift"))
            against = [index[arm, method, OWN, PRIMARY, images, name] for name in (RANDOM, strong)]
            cells = f"{_show(own):20}{_show(against[0], '+'):22}{_show(against[1], '+'):22}{lift.value:6.2f}"
            yield f"  {arm[:26]:28}{cells}"
        for name in (*PRIOR_NAMES, UNIFORM):
            row, lift = (index["", "", name, measure, images, ""] for measure in (PRIMARY, "lift"))
            yield f"  {name:28}{_show(row):64}{lift.value:6.2f}"
        yield ""
    yield from _write_checks(rows, method, arms)


def _write_checks(rows: Sequence[Row], method: str, arms: Sequence[str]) -> Iterator[str]:
    for arm in arms:
        mine = [r for r in rows if (r.arm, r.method) == (arm, method)]
        found = {(r.measure, r.source): r.value for r in mine}
        line = f"  {arm[:26]:28}"
        if (SIMILARITY, OWN) in found:
            similarity = found[SIMILARITY, OWN]
            failed = "" if similarity < PASSES_BELOW else f", not below {PASSES_BELOW:g}"
            line += f"similarity to random weights {similarity:+.2f}{failed}; "
        line += f"empty maps {100 * found[EMPTY, OWN]:.0f} %"
        yield line
        if (SIMILARITY, RANDOM) in found:
            yield f"    of two networks with random weights {found[SIMILARITY, RANDOM]:+.2f}"
        cascade = [f"{r.source.split()[-1]} {r.value:+.2f}" for r in mine if r.measure == "spearman"]
        if cascade:
            yield f"    random down to {', '.join(cascade)}"
    yield ""


def _show(row: Row, sign: str = "") -> str:
    number = f"{row.value:{sign}.2f}"
    if math.isnan(row.low):
        return f"{number} [–]"
    return f"{number} [{row.low:{sign}.2f}, {row.high:{sign}.2f}]"


def _make_row(place: Row, found: Estimate) -> Row:
    fields = asdict(found)
    return replace(place, count=fields.pop("images"), **fields)


def _pair(own: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Runs in pairs if there are as many, else the mean over the runs of each side."""
    if len(own) == len(theirs):
        return list(own), list(theirs)
    return [np.mean(own, axis=0)], [np.mean(theirs, axis=0)]


def _adjust(rows: list[Row]) -> list[Row]:
    """Adds Holm's p to the differences between arms: a family is one measure on one set of images."""
    families: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        if row.against.startswith("arm "):
            families.setdefault((row.measure, row.images), []).append(i)
    for members in families.values():
        for i, p in zip(members, adjust_holm([rows[i].p for i in members]), strict=True):
            rows[i] = replace(rows[i], p_holm=p)
    return rows
