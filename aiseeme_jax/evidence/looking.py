"""Where networks look on the same images: maps, their scores, and those of networks with random weights."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from aiseeme_jax import augment
from aiseeme_jax.evidence import localisation
from aiseeme_jax.evidence.attention import METHODS, draw_maps, enlarge, find_placement
from aiseeme_jax.evidence.sanity import correlate_maps, make_random, randomise_downwards
from aiseeme_jax.models.halves import Placement
from aiseeme_jax.store import keys

RANDOM_SEEDS = (0, 1, 2)
# How many other masks each image gets as a control.
EXCHANGES = 4
# Images of the check of `sanity`.
SANITY_IMAGES = 100


@dataclass(frozen=True)
class Cases:
    """Images with masks that tell something.

    Attributes:
      images: as they are stored, [N, H, W, C].
      masks: [N, H, W]; 0, 1, or `localisation.UNKNOWN`.
      wanted: [N, K], 1 for the true class of each image, or its findings; None if there are no labels.
      groups, ids: lesion or patient, and name, of each image.
    """

    images: Shaped[np.ndarray, "n h w c"]
    masks: UInt8[np.ndarray, "n h w"]
    wanted: Float[np.ndarray, "n k"] | None
    groups: Shaped[np.ndarray, " n"]
    ids: Shaped[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> "Cases":
        """The first of them."""
        wanted = None if self.wanted is None else self.wanted[:count]
        tables = (self.images, self.masks, wanted, self.groups, self.ids)
        return Cases(*(None if table is None else table[:count] for table in tables))

    @functools.cached_property
    def others(self) -> Int[np.ndarray, "count n"]:
        return localisation.pair_with_others(self.groups, EXCHANGES, 0)

    @functools.cached_property
    def distances(self) -> Float[np.ndarray, " n"]:
        return np.array([localisation.measure_distance(mask) for mask in self.masks])

    @functools.cached_property
    def areas(self) -> Float[np.ndarray, " n"]:
        return np.array([localisation.share_inside(mask) for mask in self.masks])

    def score(self, maps: Float[np.ndarray, "n h w"], placement: Placement) -> Float[np.ndarray, "n m"]:
        """Scores of maps of any size; NaN for an image without a class to explain, whose map is NaN."""
        return self._score(maps, placement, self.masks)

    def score_others(self, maps: Float[np.ndarray, "n h w"], placement: Placement) -> Float[np.ndarray, "n m"]:
        """Mean scores against masks of other images."""
        return np.mean([self._score(maps, placement, self.masks[rows]) for rows in self.others], axis=0)

    def score_prior(self, sd: float | None) -> Float[np.ndarray, "n m"]:
        """Scores of the centre prior, or of a uniform map if `sd` is None."""
        shape = self.masks.shape[1:]
        prior = np.ones(shape) if sd is None else localisation.centre_prior(shape, sd)
        return localisation.score_maps(np.broadcast_to(prior, self.masks.shape), self.masks)

    def _score(
        self, maps: Float[np.ndarray, "n h w"], placement: Placement, masks: UInt8[np.ndarray, "n h w"]
    ) -> np.ndarray:
        known = np.isfinite(maps).all(axis=(1, 2))
        scores = np.full((len(maps), len(localisation.MEASURES)), np.nan)
        large = np.maximum(np.asarray(enlarge(jnp.asarray(maps[known]), masks.shape[1:], placement)), 0)
        scores[known] = localisation.score_maps(large, masks[known])
        return scores


@dataclass(frozen=True)
class Network:
    """A network whose maps are drawn.

    Attributes:
      head: None for a backbone alone.
      views: how images are resized and normalised.
    """

    backbone: nnx.Module
    head: nnx.Module | None
    views: augment.AnyViews

    def describe_kind(self, needs_class: bool) -> dict[str, Any]:
        """What a map depends on beside the weights, as JSON values.

        Args:
          needs_class: whether the method explains a class; otherwise the head has no part in it.
        """
        found = {"model": self.backbone.config, "views": dataclasses.asdict(self.views)}
        if needs_class:
            scale = getattr(self.head, "scale", None)
            found["head"] = {"kind": type(self.head).__name__, "shape": list(self.head.kernel.shape), "scale": scale}
        return found

    def hash_weights(self, needs_class: bool) -> str:
        """Hash of the weights that have a part in a map."""
        parts = (self.backbone, self.head) if needs_class else (self.backbone,)
        return keys.make_key({"parts": [keys.tree_hash(nnx.to_pure_dict(nnx.state(part))) for part in parts]})

    def make_random(self, seed: int) -> "Network":
        """A network of the same kind with random weights."""
        return Network(*make_random(self.backbone, self.head, seed), self.views)

    def find_placement(self, method: str, endpoint: str) -> Placement:
        """Where the units of its maps lie."""
        return find_placement(method, self.backbone, endpoint, self.views.size)

    def draw(self, method: str, cases: Cases, endpoint: str, batch_size: int) -> Float[np.ndarray, "n h w"]:
        """Maps of all cases, as coarse as the method makes them; NaN where there is no class to explain."""
        explains = METHODS[method].needs_class
        head = self.head if METHODS[method].needs_head else None
        rows = np.arange(len(cases))
        drawn = []
        for start in range(0, len(cases), batch_size):
            # The last batch is filled up, so that one program does for all.
            chosen = np.minimum(rows[:batch_size] + start, len(cases) - 1) if len(cases) > batch_size else rows
            views = augment.central_view(jnp.asarray(cases.images[chosen]), self.views)
            wanted = jnp.asarray(cases.wanted[chosen]) if explains else None
            drawn.append(draw_maps(method, self.backbone, head, views, wanted, endpoint))
        maps = np.concatenate(drawn)[: len(cases)].astype(np.float32)
        if explains:
            maps[~cases.wanted.any(axis=1)] = np.nan
        return maps


class EncodingNetwork(Network):
    """A network whose head is one of Fisher vectors, for the map of its foreground."""

    def describe_kind(self, needs_class: bool) -> dict[str, Any]:
        """The weights are part of it: networks with random foreground weights have the other weights of this one."""
        return {**super().describe_kind(False), "encoder": self.hash_weights(False)}

    def hash_weights(self, needs_class: bool) -> str:
        return keys.make_key({"encoder": keys.tree_hash(nnx.to_pure_dict(nnx.state(self.head)))})

    def make_random(self, seed: int) -> Network:
        """The same network with its foreground weights in a random order. A mixture says nothing of the maps of another
        backbone.
        """
        return EncodingNetwork(self.backbone, self.head.shuffle_foreground(seed), self.views)

    def find_placement(self, method: str, endpoint: str) -> Placement:
        """That of the endpoint that is encoded."""
        return find_placement(method, self.backbone, self.head.endpoint, self.views.size)


@dataclass(frozen=True)
class Drawn:
    """The maps of one network by one method, and their scores.

    Attributes:
      maps: [N, h, w].
      own, shuffled: scores [N, M] against the masks of the images, and against those of other images.
    """

    maps: Float[np.ndarray, "n h w"]
    own: Float[np.ndarray, "n m"]
    shuffled: Float[np.ndarray, "n m"]


@dataclass(frozen=True)
class Looked:
    """What one method found of one network.

    Attributes:
      maps, random_maps: [N, h, w], of the network, and of the first one with random weights.
      own, random, shuffled: scores [N, M]: of the maps, of those of networks with random weights (mean over their
        seeds), and of the maps against other images' masks.
      empty, random_empty: which maps are zero everywhere; of random networks, the share over seeds.
      similarity: Spearman's correlation with the map of a random network, median over seeds.
      random_similarity: the same of two random networks, median over pairs of seeds.
      cascade: of `sanity`: by the lowest layer that is random, the median similarity over images, mean over seeds.
    """

    maps: Float[np.ndarray, "n h w"]
    random_maps: Float[np.ndarray, "n h w"]
    own: Float[np.ndarray, "n m"]
    random: Float[np.ndarray, "n m"]
    shuffled: Float[np.ndarray, "n m"]
    empty: Bool[np.ndarray, " n"]
    random_empty: Float[np.ndarray, " n"]
    similarity: Float[np.ndarray, " n"]
    random_similarity: Float[np.ndarray, " n"]
    cascade: dict[str, float]


@dataclass(frozen=True)
class Looker:
    """Measures networks on the same cases."""

    cases: Cases
    endpoint: str
    batch_size: int

    def draw(self, method: str, network: Network) -> Drawn:
        """The maps of a network and their scores."""
        maps = network.draw(method, self.cases, self.endpoint, self.batch_size)
        placement = network.find_placement(method, self.endpoint)
        return Drawn(maps, self.cases.score(maps, placement), self.cases.score_others(maps, placement))

    def randomise(self, method: str, network: Network) -> dict[str, float]:
        """Makes the layers random one after another, as `Looked.cascade` tells, on the first images."""
        cases = self.cases.first(SANITY_IMAGES)
        head = network.head if METHODS[method].needs_class else None
        before = network.draw(method, cases, self.endpoint, self.batch_size)
        found: dict[str, list[float]] = {}
        for part, backbone, random_head in _all_seeds(network.backbone, head):
            maps = Network(backbone, random_head, network.views).draw(method, cases, self.endpoint, self.batch_size)
            similar = correlate_maps(before, maps)
            if np.isfinite(similar).any():
                found.setdefault(part, []).append(float(np.nanmedian(similar)))
        return {part: float(np.mean(values)) for part, values in found.items()}


def look(drawn: Drawn, randoms: Sequence[Drawn], cascade: dict[str, float]) -> Looked:
    """Puts the maps of a network beside those of networks of its kind with random weights."""
    return Looked(
        maps=drawn.maps,
        random_maps=randoms[0].maps,
        own=drawn.own,
        random=np.mean([other.own for other in randoms], axis=0),
        shuffled=drawn.shuffled,
        empty=localisation.find_empty(drawn.maps),
        random_empty=np.mean([localisation.find_empty(other.maps) for other in randoms], axis=0),
        similarity=_median_of_known([correlate_maps(drawn.maps, other.maps) for other in randoms]),
        random_similarity=_median_of_known(
            [correlate_maps(one.maps, other.maps) for one, other in itertools.combinations(randoms, 2)]
        ),
        cascade=cascade,
    )


def _median_of_known(values: Sequence[Float[np.ndarray, " n"]]) -> Float[np.ndarray, " n"]:
    """The median over seeds of each image, NaN where none is known."""
    stacked = np.stack(values)
    known = np.isfinite(stacked).any(axis=0)
    found = np.full(stacked.shape[1], np.nan)
    found[known] = np.nanmedian(stacked[:, known], axis=0)
    return found


def _all_seeds(backbone: nnx.Module, head: nnx.Module | None) -> Iterator[tuple]:
    for seed in RANDOM_SEEDS:
        yield from randomise_downwards(backbone, head, seed)


def choose_cases(masks: UInt8[np.ndarray, "n h w"], seed: int) -> Int[np.ndarray, " k"]:
    """Rows of images whose mask tells something, in a random order."""
    rows = np.flatnonzero([localisation.tells_something(mask) for mask in masks])
    return np.random.default_rng(seed).permutation(rows)


def list_wanted(labels: Shaped[np.ndarray, "n ..."], outputs: int) -> Float[np.ndarray, "n k"]:
    """1 for the true class of each image, or for each finding that is present; no 1 where none is known."""
    if labels.ndim == 2:
        return (labels == 1).astype(np.float32)
    return (labels[:, None] == np.arange(outputs)).astype(np.float32)


def at_quantiles(values: Sequence[float], count: int) -> list[int]:
    """Rows at `count` evenly spaced quantiles of values, the extremes left out."""
    order = np.argsort(values, kind="stable")
    return [int(order[min(int((i + 0.5) / count * len(order)), len(order) - 1)]) for i in range(count)]
