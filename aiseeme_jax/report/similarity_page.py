"""The page of a comparison of networks: heat maps, how features lie, and gains of a search over similarity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from aiseeme_jax.curriculum.costs import HEADS
from aiseeme_jax.evidence import geometry
from aiseeme_jax.evidence.networks import PIXELS, Compared
from aiseeme_jax.evidence.pairs import CKA, MEASURES, PairRow
from aiseeme_jax.evidence.similarity import expect_biased
from aiseeme_jax.report.heatmap import Point, draw_heatmap, draw_points
from aiseeme_jax.report.templates import load_template
from aiseeme_jax.search.gains import Pair
from aiseeme_jax.store import records

PAGE = "similarity.html"


@dataclass(frozen=True)
class Gains:
    """The pairs of tasks of a search, and what their correlation says."""

    pairs: Sequence[Pair]
    sentence: str


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
      data: name of the data set and split.
      own_groups: whether the data set knows lesions or patients; without, copies of an image may be among the images.
      rows: all measures of all pairs.
      measures: those beside CKA.
      geometry: rows of geometry.csv.
      levels: sentences on floor and ceiling.
      layered: networks of which all layers are compared.
      missing: names of arms that are not finished.
      gains: of a search; None if they were not asked for.
      costs: what the pretraining of each arm cost, under `costs.HEADS`.
    """

    title: str
    data: str
    own_groups: bool
    compared: Compared
    rows: Sequence[PairRow]
    measures: Sequence[str]
    geometry: Sequence[Any]
    levels: Sequence[str]
    layered: Sequence[str]
    missing: Sequence[str]
    gains: Gains | None
    costs: Mapping[str, Sequence[str]]


def write_page(path: Path, page: Page) -> None:
    """Writes the page whole or not at all."""
    records.write_text(path, render(page))


def render(page: Page) -> str:
    """The page as HTML."""
    compared = page.compared
    return load_template("similarity.html.jinja").render(
        page=page,
        images=compared.images,
        maps=[(endpoint, draw_endpoint(compared, endpoint)) for endpoint in reversed(compared.endpoints())],
        bias=describe_bias(page),
        layers=list(draw_layers(page)),
        further=[(MEASURES[name], list(draw_measure(page, name))) for name in page.measures],
        geometry=[row for row in page.geometry],
        columns=list(geometry.NOTES),
        notes=geometry.NOTES,
        cost_heads=HEADS,
        scatter=draw_gains(page.gains) if page.gains else None,
        number=lambda value: "–" if np.isnan(value) else f"{value:.2f}".replace("-", "−"),
    )


def draw_endpoint(compared: Compared, endpoint: str) -> Markup:
    """CKA of all pairs of networks at one of their layers."""
    layers = compared.at(endpoint)
    names = [layer.network for layer in layers]
    return draw_heatmap(compared.cka_between(layers, layers), names, names, label=f"CKA of networks at {endpoint}")


def draw_layers(page: Page) -> Iterator[tuple[str, Markup]]:
    """CKA of all pairs of layers, for each pair of the networks that are layered and for each with itself."""
    compared = page.compared
    for place, one in enumerate(page.layered):
        for other in page.layered[place:]:
            rows, columns = compared.of(one), compared.of(other)
            title = f"{one}, with itself" if one == other else f"{one} (down), {other} (across)"
            names = [[layer.endpoint for layer in side] for side in (rows, columns)]
            yield title, draw_heatmap(compared.cka_between(rows, columns), *names, label=f"CKA of layers: {title}")


def draw_measure(page: Page, name: str) -> Iterator[tuple[str, Markup, str]]:
    """Another measure of all pairs of networks at each endpoint, with the range of its null values in words."""
    measure = MEASURES[name]
    for endpoint in reversed(page.compared.endpoints()):
        layers = page.compared.at(endpoint)
        found = {
            ((row.network_a, row.endpoint_a), (row.network_b, row.endpoint_b)): row
            for row in page.rows
            if row.measure == name
        }
        values = np.full((len(layers), len(layers)), measure.ends[0])
        nulls = []
        for i, one in enumerate(layers):
            for j, other in enumerate(layers):
                if i != j:
                    pair = (one.network, one.endpoint), (other.network, other.endpoint)
                    row = found[pair] if pair in found else found[pair[::-1]]
                    values[i, j] = row.value
                    nulls.append(row.null)
        names = [layer.network for layer in layers]
        yield (
            endpoint,
            draw_heatmap(values, names, names, label=f"{measure.words} at {endpoint}", ends=measure.ends),
            f"{min(nulls):.2f} to {max(nulls):.2f}",
        )


def describe_bias(page: Page) -> str:
    """What biased CKA of independent features would be, of as many images and dimensions as the networks have."""
    ratios = [row.participation_ratio for row in page.geometry if row.network != PIXELS]
    widths = [row.dimensions for row in page.geometry if row.network != PIXELS]
    images = page.compared.images
    even, found = expect_biased(images, max(widths), max(widths)), expect_biased(images, *[np.nanmedian(ratios)] * 2)
    return (
        f"It is unbiased: for independent features it is 0 in the mean. The biased estimate, which is not shown, would "
        f"be about {even:.2f} for independent even clouds of {max(widths)} dimensions and {images} images, and about "
        f"{found:.2f} for clouds with the participation ratio of these features."
    )


def draw_gains(gains: Gains) -> Markup:
    """Gain of the second task after the first over the similarity of both."""
    points = [Point(p.similarity, p.gain, p.error, f"{p.first} > {p.then}") for p in gains.pairs]
    return draw_points(points, label=MEASURES[CKA].words, x_label="CKA of the two tasks alone", y_label="gain")
