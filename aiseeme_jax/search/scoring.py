"""Scores the backbone of a trial by the proxy of its search, and reads scores."""

import functools
import io
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from aiseeme_jax import augment, data, weights
from aiseeme_jax.curriculum.context import Context
from aiseeme_jax.curriculum.pieces import PlannedScore
from aiseeme_jax.errors import MissingFile
from aiseeme_jax.evaluate import features, proxies
from aiseeme_jax.evaluate.proxies import Score
from aiseeme_jax.evidence.similarity import cka
from aiseeme_jax.store import artifacts, files
from aiseeme_jax.store.artifacts import Store
from aiseeme_jax.training.spending import Spending

log = logging.getLogger(__name__)

FEATURES = "features.npy"
# Validation images, each of another group, whose features are kept to compare backbones.
COMPARED_IMAGES = 512


class Scorer:
    """Scores backbones. It keeps the images, which are the same for all."""

    def __init__(self, context: Context):
        self.context = context

    def score(self, planned: PlannedScore, directory: Path) -> dict[str, Any]:
        """Scores a backbone, and writes its features of some validation images. Returns the record."""
        with Spending() as spent:
            return {**self.score_and_save(planned, directory), **spent.figures()}

    def score_and_save(self, planned: PlannedScore, directory: Path) -> dict[str, Any]:
        """As `score`, without what it spends."""
        backbone = self.context.load_start(planned.start)
        found = self.score_backbone(planned.proxy, planned.set, backbone)
        self.write_features(planned, backbone, directory)
        log.info("%s %.4f", planned.title, found.value)
        return {
            "proxy": planned.proxy.proxy,
            **score_to_json(found),
            "backbone_hash": weights.backbone_hash(backbone),
        }

    def score_backbone(self, proxy: Any, name: str, backbone: nnx.Module) -> Score:
        """The score of a backbone by a proxy, on images of a data set."""
        images, batch = self.select_images(proxy, name), self.context.runtime.evaluation_batch
        return proxies.find_proxy(proxy.proxy).score(proxy, backbone, images, batch)

    @functools.cache  # noqa: B019 - one object lives as long as a run
    def select_images(self, proxy: Any, name: str) -> dict[str, data.Split]:
        """The images on which a proxy scores."""
        return proxies.select_images(proxy, functools.partial(self.context.datasets.searched, name))

    def write_features(self, planned: PlannedScore, backbone: nnx.Module, directory: Path) -> None:
        split = self.context.datasets.searched(planned.set, "validation")
        split = split.subset(proxies.draw_images(split, COMPARED_IMAGES, planned.proxy.seed))
        views = augment.views_of(planned.proxy.views)
        rows = features.extract(backbone, split, views=views, batch_size=self.context.runtime.evaluation_batch)
        buffer = io.BytesIO()
        np.save(buffer, rows)
        if not jax.process_index():
            with files.write_whole(directory / FEATURES) as beside:
                beside.write_bytes(buffer.getvalue())


def read_score(store: Store, planned: PlannedScore) -> Score:
    """The score of a backbone that was scored."""
    return score_from_json(store.record(planned.artifact))


def compare_backbones(store: Store, one: PlannedScore, other: PlannedScore) -> float:
    """Unbiased linear CKA of two backbones that were scored, on the same validation images."""
    return cka(_read_features(store, one), _read_features(store, other))


def _read_features(store: Store, planned: PlannedScore) -> Float[np.ndarray, "n d"]:
    directory = store.directory(planned.artifact)
    if not (directory / FEATURES).exists():
        raise MissingFile(f"{directory} has lost its {FEATURES}; {artifacts.explain_remedy(directory)}")
    return np.load(directory / FEATURES, allow_pickle=False)


def score_to_json(score: Score) -> dict[str, Any]:
    """A score as it is in a record."""
    return {"value": _to_json(score.value), "draws": [_to_json(draw) for draw in score.draws]}


def score_from_json(record: Mapping[str, Any]) -> Score:
    """The score in a record."""
    return Score(_from_json(record["value"]), np.array(list(map(_from_json, record["draws"]))))


def _to_json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _from_json(value: float | None) -> float:
    return math.nan if value is None else value
