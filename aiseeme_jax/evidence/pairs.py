"""Every measure of two representations by its name, with its null value and, where there is one, an interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from aiseeme_jax.evidence import relations
from aiseeme_jax.evidence.canonical import permuted, pwcca, svcca, turn_into_rows
from aiseeme_jax.evidence.networks import Compared, Layer
from aiseeme_jax.evidence.similarity import cka, rbf_cka

CKA = "cka"


@dataclass(frozen=True)
class Measure:
    """A measure of features [N, D] and [N, E] of the same images.

    Attributes:
      symmetric: whether both orders of the sides give the same.
      ends: the values of what is alike and of what is not, for the colours of a picture.
      note: its null value, and what distorts it.
    """

    compute: Callable[[ArrayLike, ArrayLike], float]
    words: str
    note: str
    symmetric: bool = True
    ends: tuple[float, float] = (1.0, 0.0)


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        CKA: Measure(
            cka,
            "linear CKA",
            "0 for independent features, by the unbiased estimate; it follows the leading components and outliers",
        ),
        "rbf_cka": Measure(rbf_cka, "RBF CKA", "0 for independent features, by the unbiased estimate"),
        "svcca": Measure(
            svcca,
            "SVCCA",
            "far above 0 for independent features unless there are 20 images for each component: see the null value",
        ),
        "pwcca": Measure(
            pwcca,
            "PWCCA, with the first as reference",
            "far above 0 for independent features unless there are 20 images for each feature: see the null value",
            symmetric=False,
        ),
        "rsa": Measure(relations.rsa, "RSA", "0 for independent features; the interval is over images"),
        "procrustes": Measure(
            relations.procrustes,
            "Procrustes distance",
            "0 for alike, and below 2 for independent features: see the null value",
            ends=(0.0, 2.0),
        ),
        "neighbours": Measure(
            relations.neighbour_overlap,
            f"overlap of {relations.NEIGHBOURS} neighbours",
            f"by chance {relations.NEIGHBOURS} / (images - 1)",
        ),
    }
)


@dataclass(frozen=True)
class PairRow:
    """A line of similarity.csv: a measure of two layers. `low`, `high` and `null` are NaN where there is none."""

    measure: str
    network_a: str
    endpoint_a: str
    network_b: str
    endpoint_b: str
    images: int
    value: float
    low: float
    high: float
    null: float


def list_cka(compared: Compared) -> list[PairRow]:
    """CKA of all pairs of layers, maps flattened. Its null value is 0."""
    return [
        _row(CKA, one, other, compared, float(compared.cka[i, j]), null=0.0)
        for i, one in enumerate(compared.layers)
        for j, other in enumerate(compared.layers[i:], start=i)
    ]


def measure_pairs(compared: Compared, names: Sequence[str], *, seed: int) -> list[PairRow]:
    """Other measures of all pairs of networks at each endpoint, on features averaged over the positions of a map."""
    found = []
    turned = {layer: turn_into_rows(features) for layer, features in compared.features.items()} if names else {}
    for name in names:
        pairs = {
            (one, other): None
            for endpoint in compared.endpoints()
            for i, one in enumerate(compared.at(endpoint))
            for j, other in enumerate(compared.at(endpoint))
            if (i < j if MEASURES[name].symmetric else i != j)
        }
        found += [_measure(name, one, other, compared, turned, seed) for one, other in pairs]
    return found


def _measure(
    name: str, one: Layer, other: Layer, compared: Compared, turned: Mapping[Layer, ArrayLike], seed: int
) -> PairRow:
    """One measure of two layers. What no rotation changes is computed on fewer features, for raw pixels are many."""
    x, y = (turned if name in ("svcca", "procrustes") else compared.features)[one], compared.features[other]
    y = turned[other] if name in ("svcca", "pwcca", "procrustes") else y
    if name == "rsa":
        found = relations.rsa_interval(x, y, seed=seed)
        return _row(name, one, other, compared, found.value, null=0.0, low=found.low, high=found.high)
    compute = MEASURES[name].compute
    if name in ("svcca", "pwcca", "procrustes"):
        null = permuted(compute, x, y, seed=seed, draws=1)
    else:
        null = relations.NEIGHBOURS / (compared.images - 1) if name == "neighbours" else 0.0
    return _row(name, one, other, compared, compute(x, y), null=null)


def _row(
    measure: str,
    one: Layer,
    other: Layer,
    compared: Compared,
    value: float,
    *,
    null: float,
    low: float = np.nan,
    high: float = np.nan,
) -> PairRow:
    names = one.network, one.endpoint, other.network, other.endpoint
    return PairRow(measure, *names, compared.images, value, low, high, null)
