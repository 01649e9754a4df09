"""The supervised task: its loss, its memory of the best weights, its predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.utils.class_weight import compute_class_weight

from aiseeme_jax import augment, data
from aiseeme_jax.evaluate import finetune
from aiseeme_jax.evaluate.imbalance import make_method
from aiseeme_jax.evaluate.imbalance.base import weighted_finding_loss
from aiseeme_jax.evaluate.labels import make_labels

VIEWS = augment.Views(size=16)
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 0, 1, 0, 2, 1], np.int32)


@pytest.fixture
def make_classifier(make_tiny_backbone):
    def make(method="none"):
        chosen, counts = make_method({"name": method}), tuple(np.bincount(LABELS).tolist())
        return finetune.FineTuning(make_tiny_backbone(), VIEWS, method=chosen, counts=counts, rngs=nnx.Rngs(1))

    return make


@pytest.fixture(scope="module")
def split():
    """The class is the brightness."""
    noise = np.random.default_rng(0).integers(0, 40, (len(LABELS), 16, 16, 3))
    return data.from_arrays((noise + 100 * LABELS[:, None, None, None]).astype(np.uint8), LABELS, class_names="abc")


@pytest.fixture(scope="module")
def batch(split):
    return {"image": jnp.asarray(split.images()), "label": jnp.asarray(split.labels)}


def predict(task, split, batch_size):
    return finetune.predict(task.network, split, kind=task.kind, views=VIEWS, batch_size=batch_size)


def weights_of(module):
    return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(module)))


def disturb(classifier):
    state = nnx.state(classifier, nnx.Param)
    nnx.update(classifier, jax.tree.map(lambda x: x + 1, state))


def test_balanced_weights_are_those_of_scikit_learn():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(make_labels(LABELS, 3).class_weights("balanced"), expected)
    assert make_labels(LABELS, 4).class_weights("balanced")[3] == 0
    assert make_labels(LABELS, 3).class_weights("none") == (1, 1, 1)
    with pytest.raises(ValueError, match="known are balanced, none"):
        make_labels(LABELS, 3).class_weights("even")
    with pytest.raises(ValueError, match="labels reach from 0 to 2, but there are 2 classes"):
        make_labels(LABELS, 2)


@pytest.mark.slow
def test_loss_is_the_weighted_cross_entropy(make_classifier, batch):
    weights = len(LABELS) / (3 * np.bincount(LABELS))
    classifier = make_classifier("inverse_frequency")
    views = classifier.views(jax.random.key(0), batch)
    output = classifier.loss(views, 0.0)
    logits = np.float64(classifier.network(views["image"], train=True)[0])
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = np.mean([-weights[y] * row[y] for y, row in zip(LABELS, log_probs, strict=True)])
    assert float(output.loss) == pytest.approx(expected, rel=1e-5)
    assert float(output.metrics["accuracy"]) == pytest.approx(np.mean(logits.argmax(axis=1) == LABELS))
    assert output.images.shape == (12, 16, 16, 3) and output.features.shape == (
        12,
        classifier.backbone.features,
    )


def test_loss_of_findings_is_the_weighted_cross_entropy_of_what_is_known():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 3)), rng.integers(2, size=(20, 3)).astype(np.float32)
    labels[rng.random(labels.shape) < 0.4] = np.nan
    weights = ((0.5, 3.0), (1.0, 1.0), (2.0, 0.25))
    probs = 1 / (1 + np.exp(-logits))
    terms = [
        -weights[c][int(y)] * np.log(probs[i, c] if y else 1 - probs[i, c])
        for (i, c), y in np.ndenumerate(labels)
        if np.isfinite(y)
    ]
    loss = lambda logits, labels: weighted_finding_loss(logits, labels, weights).value  # noqa: E731
    assert float(loss(jnp.float32(logits), labels)) == pytest.approx(np.mean(terms), rel=1e-5)
    gradient = jax.grad(loss)(jnp.float32(logits), labels)
    assert (np.asarray(gradient == 0) == np.isnan(labels)).all(), "what is not known pulls nowhere"
    nothing = weighted_finding_loss(jnp.float32(logits), jnp.full_like(labels, jnp.nan), weights)
    assert float(nothing.value) == 0 and bool(nothing.empty)
    assert not bool(weighted_finding_loss(jnp.float32(logits), jnp.asarray(labels), weights).empty)


@pytest.mark.slow
def test_learns_what_brightness_tells(make_classifier, batch, split):
    classifier = make_classifier("inverse_frequency")
    optimizer = nnx.Optimizer(classifier, optax.adam(3e-3), wrt=nnx.Param)

    @nnx.jit
    def step(classifier, optimizer, key):
        def loss(classifier):
            return classifier.loss(classifier.views(key, batch), 0.0).loss

        optimizer.update(classifier, nnx.grad(loss)(classifier))

    for i in range(60):
        step(classifier, optimizer, jax.random.key(i))
    probs = predict(classifier, split, batch_size=8)
    assert (probs.argmax(axis=1) == LABELS).all()


def test_predictions_are_in_order_and_change_nothing(make_classifier, split):
    classifier = make_classifier()
    before = weights_of(classifier)
    probs = predict(classifier, split, batch_size=8)
    assert probs.shape == (12, 3) and probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(probs, predict(classifier, split, batch_size=64), rtol=1e-4)
    one = predict(classifier, split.subset(np.array([5])), batch_size=8)
    np.testing.assert_allclose(one[0], probs[5], rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, weights_of(classifier), before)


def test_recalls_the_best_weights_and_statistics(make_classifier, batch):
    classifier = make_classifier()
    classifier.loss(classifier.views(jax.random.key(0), batch), 0.0)
    best = weights_of(classifier.backbone)
    classifier.remember(0.7, 10)
    disturb(classifier)
    classifier.loss(classifier.views(jax.random.key(1), batch), 0.0)
    classifier.remember(0.6, 20)
    classifier.remember(0.7, 30)
    assert classifier.recall() == (10, pytest.approx(0.7))
    jax.tree.map(np.testing.assert_array_equal, weights_of(classifier.backbone), best)


def test_recall_without_memory_changes_nothing(make_classifier):
    classifier = make_classifier()
    disturb(classifier)
    before = weights_of(classifier)
    assert classifier.recall() is None
    jax.tree.map(np.testing.assert_array_equal, weights_of(classifier), before)


def test_the_memory_travels_with_the_state_and_shares_no_buffer(make_classifier):
    classifier = make_classifier()
    classifier.remember(0.5, 3)
    graph, state = nnx.split(classifier)
    # A buffer that occurs twice cannot be donated.
    donated = jax.jit(lambda s: jax.tree.map(lambda x: x + 0, s), donate_argnums=0)(state)
    assert nnx.merge(graph, donated).recall() == (3, pytest.approx(0.5))


def test_the_memory_is_not_trained(make_classifier):
    classifier = make_classifier()
    names = {str(path[0]) for path, _ in nnx.to_flat_state(nnx.state(classifier, nnx.Param))}
    assert names == {"backbone", "head"}
