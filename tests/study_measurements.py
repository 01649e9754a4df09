"""Studies with made-up measurements, without training."""

from types import SimpleNamespace

import numpy as np

from aiseeme_jax.evaluate import results
from aiseeme_jax.study.certainty import Outcomes
from aiseeme_jax.study.measured import Cost, Measured, score
from aiseeme_jax.study.variants import Study, Variant

STATISTICS = {"samples": 200, "seed": 0}
ARMS = ("curriculum", "single:a", "single:b", "scratch")


def make_study(xs=(None,), **changes):
    """A study of four arms measured by kNN."""
    names = [""] if xs == (None,) else [f"v{i}" for i in range(len(xs))]
    variants = tuple(Variant(name, x, {}) for name, x in zip(names, xs, strict=True))
    known = {"variants": variants, "seeds": (0, 1, 2), "runs": (), "arms": ARMS, "targets": ("knn",)}
    known |= {"reference": "scratch", "candidates": (), "reference_variant": "", "axis": "data.share"}
    return Study(**{**known, **changes})


def make_predictions(strength, seed, images=60):
    """Three classes in 30 lesions of two photographs each; the noise of an image is the same for every seed."""
    member = np.repeat(np.arange(images // 2), 2)
    labels = (np.arange(images // 2) % 3)[member].astype(np.int32)
    common, own = np.random.default_rng(0), np.random.default_rng([1, seed])
    logits = common.normal(size=(images, 3)) + 0.5 * own.normal(size=(images, 3)) + strength * np.eye(3)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [f"i{i}" for i in range(images)]
    return results.Predictions(labels, probs.astype(np.float32), ids, [f"g{g}" for g in member], ("A", "B", "C"))


STRENGTH = {"curriculum": 1.5, "single:a": 1.0, "single:b": 1.2, "scratch": 0.3}


def measure(arm, seed, label_seed=0, *, variant="", fraction=1.0, shift=0.0, validation=None, key=None, **options):
    """A measurement, and the predictions that it was made from."""
    strength = STRENGTH[arm] + shift
    predictions = make_predictions(strength, 100 * ARMS.index(arm) + 10 * seed + label_seed, **options)
    validation = strength if validation is None else validation
    key = key or f"{variant} {arm} {seed} {label_seed} {fraction}"
    made = Measured(variant, arm, "knn", fraction, seed, label_seed, key, score(predictions, STATISTICS), validation)
    return SimpleNamespace(measured=made, predictions=predictions)


def make_outcomes(study, made, costs=None):
    known = {(one.measured.variant, one.measured.arm): Cost(1000.0, 12.5, 36.0) for one in made}
    return Outcomes(study, [one.measured for one in made], known if costs is None else costs)
