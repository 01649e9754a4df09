"""The temperature is that of the least log loss, and where there is none, a note says so."""

import re

import numpy as np
import pytest

from aiseeme_jax.evaluate import calibration
from aiseeme_jax.evaluate.calibration import fit_temperature
from aiseeme_jax.evaluate.labels import make_labels

# Golden values computed independently, by golden section in float64.
TRUTH = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], np.float32)
PROBS = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05])
LOGITS = np.log(PROBS / (1 - PROBS))


def test_golden_values():
    labels = make_labels(TRUTH[:, None])
    found = fit_temperature(LOGITS[:, None], labels)
    assert found.value == pytest.approx(0.823, abs=5e-4)
    assert labels.log_loss(LOGITS[:, None]) == pytest.approx(0.42433, abs=5e-6)
    assert labels.log_loss(LOGITS[:, None] / found.value) == pytest.approx(0.41925, abs=5e-6)


def test_two_classes_and_one_finding_have_the_same_temperature():
    classes = fit_temperature(np.stack([0 * LOGITS, LOGITS], axis=1), make_labels(TRUTH.astype(int), 2))
    assert classes.value == pytest.approx(fit_temperature(LOGITS[:, None], make_labels(TRUTH[:, None])).value, rel=1e-5)


@pytest.mark.parametrize("kind", ["class", "findings"])
@pytest.mark.parametrize("truth", [0.5, 2.0])
def test_what_was_too_sure_or_too_shy_is_found_out(kind, truth):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 3))
    if kind == "class":
        values = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    else:
        values = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
        values[rng.random(values.shape) < 0.3] = np.nan
    found = fit_temperature(truth * logits, make_labels(values))
    assert found.value == pytest.approx(truth, rel=0.06) and found.note == ""


def test_few_images_are_noted():
    assert fit_temperature(LOGITS[:, None], make_labels(TRUTH[:, None])).note == "uncertain: fitted on 10 images only"


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (np.ones(10, int), r"not fitted: the labels hold only class \[1\]"),
        (np.full((10, 1), np.nan, np.float32), "not fitted: no finding is present in some rows and absent in others"),
        ((LOGITS > 0).astype(np.float32)[:, None], "not fitted: there is no mistake on validation"),
        ((LOGITS > 0).astype(int), "not fitted: there is no mistake on validation"),
    ],
)
def test_labels_that_do_not_suffice_leave_it_at_one(values, note):
    logits = LOGITS[:, None] if values.ndim == 2 else np.stack([0 * LOGITS, LOGITS], axis=1)
    found = fit_temperature(logits, make_labels(values, 2 if values.ndim == 1 else 1))
    assert found.value == 1.0
    assert re.match(note, found.note)


def test_a_classifier_that_is_always_wrong_gets_the_highest():
    found = fit_temperature(np.stack([LOGITS, 0 * LOGITS], axis=1), make_labels((LOGITS > 0).astype(int), 2))
    assert found == (calibration.HIGHEST, "on validation the classifier is no better than chance")
