"""The mark in the corner: a network that learned it is told from one that could not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aiseeme_jax import models
from aiseeme_jax.evidence import attention, shortcuts
from aiseeme_jax.losses import cross_entropies
from aiseeme_jax.models import resnet
from aiseeme_jax.models.classifier import ClassifierNetwork, linear_head
from tfds_builders.cxr_phantom.radiographs import radiograph

SIDE, TRAINED, MEASURED = 32, 160, 80


def draw_images(count, start):
    """Phantom radiographs of normal and bacterial chests in turn, each with the mark and without it."""
    labels = np.arange(count) % 2
    names = ["normal", "bacterial-like"]

    def draw(marker):
        drawn = [radiograph(names[label], "PA", marker, 0, start + i, 0, SIDE).image for i, label in enumerate(labels)]
        return np.stack(drawn)[..., None]

    return draw(True), draw(False), labels


def normalise(images):
    return (jnp.asarray(images, jnp.float32) / 255 - 0.5) / 0.25


def train(images, labels):
    backbone = models.ResNet("two_stages", width=0.125, stem="small", channels=1, rngs=nnx.Rngs(0))
    network = ClassifierNetwork(backbone, linear_head(backbone.features, 2, rngs=nnx.Rngs(1)))
    optimizer = nnx.Optimizer(network, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(network, optimizer, x, y):
        gradient = nnx.grad(lambda net: cross_entropies(net(x, train=True)[0], y).mean())(network)
        optimizer.update(network, gradient)

    random = np.random.default_rng(0)
    for _ in range(240):
        rows = random.choice(len(images), 32, replace=False)
        step(network, optimizer, normalise(images[rows]), jnp.asarray(labels[rows]))
    return network


def measure(network, images, clean, labels):
    wanted = jax.nn.one_hot(labels, 2)
    maps = attention.draw_maps("grad_cam", network.backbone, network.head, normalise(images), wanted, "stage1")
    probs = [np.asarray(jax.nn.softmax(network(normalise(x), train=False)[0])) for x in (images, clean)]
    boxes = shortcuts.find_mark(images, clean)
    placement = attention.find_placement("grad_cam", network.backbone, "stage1", SIDE)
    large = np.asarray(attention.enlarge(maps, (SIDE, SIDE), placement))
    return shortcuts.measure_shortcut(large, boxes, labels, *probs)


@pytest.mark.slow
def test_a_network_that_learned_the_mark_is_told_from_one_that_could_not(monkeypatch):
    monkeypatch.setitem(resnet.ARCHITECTURES, "two_stages", (False, (1, 1, 0, 0)))
    marked, clean, labels = draw_images(TRAINED, 0)
    with_mark = np.where((labels == 1)[:, None, None, None], marked, clean)
    tossed = np.where((np.random.default_rng(0).random(TRAINED) < 0.5)[:, None, None, None], marked, clean)
    marked, clean, test_labels = draw_images(MEASURED, TRAINED)
    images = np.where((test_labels == 1)[:, None, None, None], marked, clean)
    shortcut = measure(train(with_mark, labels), images, clean, test_labels)
    honest = measure(train(tossed, labels), images, clean, test_labels)
    print(shortcut, honest)
    assert shortcut.auroc_with > 0.95 and shortcut.drop > 0.2
    assert abs(honest.drop) < 0.1
    assert shortcut.lift > 2 * honest.lift and shortcut.energy > 2 * honest.energy


def test_the_box_of_a_mark_is_where_images_differ():
    clean = np.zeros((2, 6, 6, 1), np.uint8)
    images = clean.copy()
    images[0, 1, 2] = images[0, 3, 4] = 9
    boxes = shortcuts.find_mark(images, clean)
    assert boxes[0, 1:4, 2:5].all() and boxes.sum() == 9 and not boxes[1].any()
    with pytest.raises(ValueError, match="differ in shape"):
        shortcuts.find_mark(images, clean[:1])


def test_energy_and_auroc_of_a_planted_shortcut():
    boxes = np.zeros((4, 4, 4), np.uint8)
    boxes[2:, :1, :2] = 1
    labels = np.array([0, 0, 1, 1])
    right, blind = np.array([[0.9, 0.1]] * 2 + [[0.1, 0.9]] * 2), np.full((4, 2), 0.5)
    found = shortcuts.measure_shortcut(boxes.astype(float), boxes, labels, right, blind)
    assert (found.energy, found.lift, found.empty) == (1, 8, 0)
    assert (found.auroc_with, found.auroc_without, found.drop) == (1, 0.5, 0.5)
    with pytest.raises(ValueError, match="bears the mark"):
        shortcuts.measure_shortcut(boxes.astype(float), np.zeros_like(boxes), labels, right, blind)
