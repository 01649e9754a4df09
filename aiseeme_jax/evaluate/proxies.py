"""Proxies: cheap scores of a backbone by which a search decides, and their table.

A proxy gets training and validation images, never test images. It chooses nothing by itself: the number of neighbours,
the strength of the regression and the metric are fields. So what is chosen by its scores is the order alone. A new one
is a function here and a line in `PROXIES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import augment, data, seeds
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import bootstrap, features, metrics, rank
from aiseeme_jax.evaluate.fractions import nested_fraction
from aiseeme_jax.evaluate.knn import knn_probabilities
from aiseeme_jax.evaluate.labels import check_class_weight, make_labels
from aiseeme_jax.evaluate.linear import linear_probe
from aiseeme_jax.evaluate.norms import check_training, train_norms

# Opens the training or the validation images; there is no other split that it could open.
Open = Callable[[str], data.Split]


@dataclass(frozen=True)
class Score:
    """How good a backbone is by a proxy.

    Attributes:
      value: higher is better; NaN if the training diverged.
      draws: the score on resamples of the images, the same resamples for every backbone; empty if there are none.
    """

    value: float
    draws: Float[np.ndarray, "samples"] = field(default_factory=lambda: np.zeros(0), compare=False)


def error_of_difference(one: Score, other: Score) -> float:
    """Standard error of the difference of two scores on the same images, 0 if there are no resamples."""
    if not len(one.draws) or not len(other.draws):
        return 0.0
    differences = one.draws - other.draws
    finite = differences[np.isfinite(differences)]
    return float(np.std(finite, ddof=1)) if len(finite) > 1 else 0.0


@dataclass(frozen=True)
class Proxy:
    """A way to score a backbone without test images.

    Attributes:
      splits: that it needs.
      labelled: whether it needs labels.
      check: judges the fields of its config. Raises UserError that names the field.
      score: (fields, backbone, splits, images at once) -> `Score`.
    """

    name: str
    splits: tuple[str, ...]
    labelled: bool
    check: Callable[[ConfigDict], None]
    score: Callable[[FrozenConfigDict, nnx.Module, Mapping[str, data.Split], int], Score]


def find_proxy(name: str) -> Proxy:
    """The proxy of a name. Raises UserError that names the known ones."""
    if name not in PROXIES:
        raise UserError(f"unknown proxy '{name}': known are {', '.join(PROXIES)}")
    return PROXIES[name]


def check_labels(proxy: Proxy, split: data.Split) -> None:
    """Raises UserError if a proxy needs labels and a split has none."""
    if proxy.labelled and (split.kind == "none" or not make_labels(split.labels, len(split.class_names)).known.any()):
        free = ", ".join(name for name, other in PROXIES.items() if not other.labelled)
        raise UserError(f"the proxy '{proxy.name}' needs labels, and {split.name} has none: take one without, {free}")


def select_images(fields: ConfigDict, open_split: Open) -> dict[str, data.Split]:
    """The images on which a proxy scores: of labelled ones the shares, of others so many, that its fields say.

    Raises UserError if it needs labels and there are none, or if nothing can be learnt from them.
    """
    proxy = find_proxy(fields.proxy)
    opened = {name: open_split(name) for name in proxy.splits}
    if not proxy.labelled:
        return {name: split.subset(draw_images(split, fields.images, fields.seed)) for name, split in opened.items()}
    for split in opened.values():
        check_labels(proxy, split)
    shares = {"train": fields.share, "validation": fields.validation_share}
    selected = {name: _take_share(data.labelled(split), shares[name], fields.seed) for name, split in opened.items()}
    names = opened["train"].class_names
    for name, split in selected.items():
        labels = make_labels(split.labels, len(names))
        if not (labels.learnable if name == "train" else labels.choosable):
            raise UserError(labels.describe_unlearnable(split.name, names))
    known = make_labels(selected["validation"].labels, len(names)).METRICS
    if fields.metric not in known:
        raise UserError(f"metric is '{fields.metric}'; such labels have {', '.join(known)}")
    return selected


def draw_images(split: data.Split, count: int, seed: int) -> Int[np.ndarray, "k"]:
    """Rows of so many images, each of another lesion or patient, by chance; fewer if there are not so many groups."""
    first = np.unique(np.asarray(split.groups), return_index=True)[1]
    drawn = np.random.default_rng(seeds.derive(seed, "images of a proxy")).permutation(np.sort(first))
    return np.sort(drawn[:count])


def _take_share(split: data.Split, share: float, seed: int) -> data.Split:
    return split.subset(nested_fraction(split.labels, split.groups, share, seed))


# With labels


def score_by_neighbours(
    fields: FrozenConfigDict, backbone: nnx.Module, splits: Mapping[str, data.Split], batch: int
) -> Score:
    """Votes of the nearest training images for each validation image."""
    vectors = _extract_all(fields, backbone, splits, batch)
    probs = knn_probabilities(
        vectors["train"],
        splits["train"].labels,
        vectors["validation"],
        k=min(fields.neighbours, len(splits["train"])),
        temperature=fields.temperature,
        class_weight=fields.class_weight,
        classes=len(splits["train"].class_names),
    )
    return _score_predictions(fields, splits["validation"], probs)


def score_by_regression(
    fields: FrozenConfigDict, backbone: nnx.Module, splits: Mapping[str, data.Split], batch: int
) -> Score:
    """Logistic regression on the features of the training images, applied to the validation images."""
    probe = linear_probe(
        _extract_all(fields, backbone, splits, batch),
        {name: split.labels for name, split in splits.items()},
        strengths=(fields.strength,),
        class_weight=fields.class_weight,
        max_iter=fields.max_iter,
        classes=len(splits["train"].class_names),
    )
    return _score_predictions(fields, splits["validation"], probe.probs["validation"])


def score_by_norms(
    fields: FrozenConfigDict, backbone: nnx.Module, splits: Mapping[str, data.Split], batch: int
) -> Score:
    """Fine-tuning of the normalisation layers and a head, applied to the validation images."""
    return _score_predictions(fields, splits["validation"], train_norms(fields, backbone, splits, batch))


def _extract_all(
    fields: FrozenConfigDict, backbone: nnx.Module, splits: Mapping[str, data.Split], batch: int
) -> dict[str, Float[np.ndarray, "n d"]]:
    views = augment.views_of(fields.views)
    return {name: features.extract(backbone, split, views=views, batch_size=batch) for name, split in splits.items()}


def _score_predictions(fields: FrozenConfigDict, split: data.Split, probs: Float[np.ndarray, "n c"]) -> Score:
    metric = metrics.METRICS[fields.metric]
    drawn = bootstrap.draw(metric, split.labels, probs, groups=split.groups, samples=fields.samples, seed=fields.seed)
    return Score(float(metric(split.labels, probs)), drawn.resampled)


# Without labels


def score_by_rank(
    fields: FrozenConfigDict, backbone: nnx.Module, splits: Mapping[str, data.Split], batch: int
) -> Score:
    """RankMe of the features of the validation images."""
    vectors = _extract_all(fields, backbone, splits, batch)["validation"]
    return _score_halves(vectors, rank.rankme, fields)


def score_by_discriminants(
    fields: FrozenConfigDict, backbone: nnx.Module, splits: Mapping[str, data.Split], batch: int
) -> Score:
    """LiDAR of random views of the validation images."""
    views, split = augment.views_of(fields.views), splits["validation"]
    keys = jax.random.split(jax.random.key(seeds.derive(fields.seed, "views")), fields.copies)
    copies = [
        features.fetch_rows(
            (
                _view_features(backbone, one["image"], one["index"], views, key)
                for one in data.evaluation_batches(split, batch)
            ),
            len(split),
        )
        for key in keys
    ]
    return _score_halves(np.stack(copies, axis=1), lambda rows: rank.lidar(rows, ridge=fields.ridge), fields)


@partial(nnx.jit, static_argnames="views")
def _view_features(
    backbone: nnx.Module,
    images: Shaped[Array, "b *space c"],
    index: Int[Array, "b"],
    views: augment.AnyViews,
    key: PRNGKeyArray,
) -> Float[Array, "b d"]:
    """Features of a random view of each image. A view depends on the image's position, not on its batch."""
    draw = jax.vmap(lambda i, image: augment.random_view(jax.random.fold_in(key, i), image[None], views)[0])
    pooled = backbone(draw(index, images), train=False)["pooled"]
    return features.on_every_device(pooled.astype(jax.numpy.float32))


def _score_halves(
    rows: Float[np.ndarray, "n ..."], measure: Callable[[np.ndarray], float], fields: FrozenConfigDict
) -> Score:
    """A measure of all images, and of random halves of them.

    The variance over halves estimates that over other images (Shao & Wu 1989: with half of the rows deleted, the factor
    of the jackknife is 1). Resamples with replacement would not: equal rows lower a rank.
    """
    value = measure(rows)
    generator = np.random.default_rng(seeds.derive(fields.seed, "halves"))
    halves = [generator.permutation(len(rows))[: len(rows) // 2] for _ in range(fields.samples)]
    return Score(value, np.array([measure(rows[half]) for half in halves]))


# Fields


def _check_shares(fields: ConfigDict) -> None:
    for name in ("share", "validation_share"):
        if not 0 < fields[name] <= 1:
            raise UserError(f"{name} is {fields[name]}; it must lie in (0, 1]")
    check_class_weight(fields.class_weight)
    if fields.metric not in metrics.METRICS:
        raise UserError(f"metric is '{fields.metric}'; known are {', '.join(metrics.METRICS)}")
    _check_samples(fields)


def _check_samples(fields: ConfigDict) -> None:
    _check_at_least(2, fields, "samples")


def _check_at_least(least: float, fields: ConfigDict, *names: str) -> None:
    for name in names:
        if not fields[name] >= least:
            raise UserError(f"{name} is {fields[name]}; it must be at least {least}")


def check_neighbours(fields: ConfigDict) -> None:
    """Raises UserError for fields of `knn` that cannot be."""
    _check_shares(fields)
    _check_at_least(1, fields, "neighbours")
    if not fields.temperature > 0:
        raise UserError(f"temperature is {fields.temperature}; it must be positive")


def check_regression(fields: ConfigDict) -> None:
    """Raises UserError for fields of `linear` that cannot be."""
    _check_shares(fields)
    _check_at_least(1, fields, "max_iter")
    if not fields.strength > 0:
        raise UserError(f"strength is {fields.strength}; it must be positive")


def check_norms(fields: ConfigDict) -> None:
    """Raises UserError for fields of `norms` that cannot be."""
    _check_shares(fields)
    check_training(fields)


def check_rank(fields: ConfigDict) -> None:
    """Raises UserError for fields of `rankme` that cannot be."""
    _check_samples(fields)
    # Half of them must still be two.
    _check_at_least(4, fields, "images")


def check_discriminants(fields: ConfigDict) -> None:
    """Raises UserError for fields of `lidar` that cannot be."""
    check_rank(fields)
    _check_at_least(2, fields, "copies")
    if not fields.ridge > 0:
        raise UserError(f"ridge is {fields.ridge}; it must be positive")


BOTH, HELD_OUT = ("train", "validation"), ("validation",)
PROXIES: Mapping[str, Proxy] = MappingProxyType(
    {
        proxy.name: proxy
        for proxy in (
            Proxy("knn", BOTH, True, check_neighbours, score_by_neighbours),
            Proxy("linear", BOTH, True, check_regression, score_by_regression),
            Proxy("norms", BOTH, True, check_norms, score_by_norms),
            Proxy("rankme", HELD_OUT, False, check_rank, score_by_rank),
            Proxy("lidar", HELD_OUT, False, check_discriminants, score_by_discriminants),
        )
    }
)
