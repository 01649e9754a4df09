"""Jigsaw: the set of orders, the puzzle that is laid, the answer; and that colour casts do not give it away."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx

from aiseeme_jax import augment
from aiseeme_jax.pretext import grid, jigsaw
from aiseeme_jax.pretext.permutations import max_hamming
from aiseeme_jax.training.state import split_state

pytestmark = pytest.mark.slow


def distances(permutations) -> np.ndarray:
    """Number of places in which each two differ."""
    first, second = np.triu_indices(len(permutations), 1)
    return (permutations[first] != permutations[second]).sum(axis=1)


class TestPermutations:
    def test_each_is_the_farthest_from_those_before(self):
        every = np.array(list(itertools.permutations(range(5))))
        chosen = [every[0]]
        while len(chosen) < 30:
            apart = (every[:, None] != np.array(chosen)[None]).sum(axis=2)
            apart[apart.min(axis=1) == 0] = -1
            rank = np.lexsort((-np.arange(len(every)), apart.min(axis=1), apart.mean(axis=1)))
            chosen.append(every[rank[-1]])
        np.testing.assert_array_equal(max_hamming(5, 30), chosen)

    @pytest.mark.parametrize("pieces, count, nearest", [(9, 100, 4), (9, 250, 2), (8, 100, 6), (8, 1000, 4)])
    def test_all_differ_in_as_many_places_as_documented(self, pieces, count, nearest):
        permutations = max_hamming(pieces, count)
        assert permutations.shape == (count, pieces)
        np.testing.assert_array_equal(np.sort(permutations, axis=1), np.tile(np.arange(pieces), (count, 1)))
        np.testing.assert_array_equal(permutations[0], np.arange(pieces))
        apart = distances(permutations)
        assert apart.min() == nearest and apart.mean() > pieces - 1
        np.testing.assert_array_equal(max_hamming(pieces, 50), permutations[:50])

    @pytest.mark.parametrize("count", [1, 25])
    def test_more_than_there_are_is_an_error(self, count):
        with pytest.raises(ValueError, match=f"4 pieces have 2 to 24 permutations to choose from, not {count}"):
            max_hamming(4, count)


class TestJigsaw:
    def test_pieces_lie_in_the_order_of_the_label(self, monkeypatch):
        numbers = jnp.broadcast_to(jnp.arange(9.0)[None, :, None, None, None], (24, 9, 3, 3, 3))
        monkeypatch.setattr(grid, "draw", lambda *_: numbers)
        task = tiny.table_task("jigsaw", permutations=12)
        views = task.views(jax.random.key(0), {"image": None})
        np.testing.assert_array_equal(views["patches"][..., 0, 0, 0], max_hamming(9, 12)[views["label"]])
        assert len(set(views["label"].tolist())) > 6
        other = task.views(jax.random.key(1), {"image": None})
        assert (views["label"] != other["label"]).any()

    def test_loss_is_the_cross_entropy_over_the_permutations(self):
        task = tiny.table_task("jigsaw", permutations=12, hidden=5)
        views = jax.jit(task.views)(jax.random.key(0), tiny.batch())
        output = tiny.loss(task, views)
        linear = [np.asarray(task.hidden.layers[0].kernel), np.asarray(task.head.kernel)]
        hidden = np.asarray(output.features, np.float64) @ linear[0]
        hidden = np.maximum((hidden - hidden.mean(axis=0)) / np.sqrt(hidden.var(axis=0) + 1e-5), 0)
        logits = hidden.reshape(8, 9 * 5) @ linear[1]
        labels = np.asarray(views["label"])
        assert float(output.loss) == pytest.approx(tiny.cross_entropy(logits, labels), rel=1e-4)
        assert float(output.metrics["accuracy"]) == np.mean(logits.argmax(axis=1) == labels)

    def test_pieces_are_normalised_one_by_one_and_lie_apart(self):
        task = tiny.table_task("jigsaw", views={**tiny.STILL, "size": 33}, permutations=2)
        assert task.patch == 8  # of cells of 11
        drawn = jax.jit(task.views)(jax.random.key(0), {"image": jnp.asarray(tiny.images(2, size=32))})["patches"]
        drawn = np.asarray(drawn)
        assert drawn.shape == (2, 9, 8, 8, 3)
        np.testing.assert_allclose(drawn.mean(axis=(2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(drawn.std(axis=(2, 3)), 1, atol=1e-4)

    @pytest.mark.parametrize("images, permutations", [(24, 100), (25_331, 253), (1_281_167, 2000)])
    def test_size_of_the_set_follows_the_data(self, monkeypatch, images, permutations):
        monkeypatch.setattr(jigsaw, "max_hamming", lambda pieces, count: None)
        task = tiny.task(tiny.stage("jigsaw"), tiny.Pixels(), images=images)
        assert task.permutations == permutations and task.head.kernel.shape == (27, permutations)

    def test_pieces_consist_of_whole_patches_of_a_vit(self):
        make = lambda **fields: nnx.eval_shape(lambda: tiny.table_task("jigsaw", tiny.vit(), **fields))  # noqa: E731
        assert make().patch == 4  # three quarters of a cell of 5 are 3
        assert make(views={"size": 40}).patch == 8  # of 13, 9
        with pytest.raises(ValueError, match=r"jigsaw: a patch of 5 px is no multiple of the 4 px .*model.patch"):
            make(patch=5)
        with pytest.raises(ValueError, match="jigsaw: a patch of 4 px does not fit a cell of 2 px"):
            make(views={"size": 8})

    def test_what_does_not_fit_is_an_error(self):
        with pytest.raises(ValueError, match=r"jigsaw: a patch of 6 px does not fit a cell of 5 px \(views.size 16"):
            tiny.table_task("jigsaw", patch=6)
        with pytest.raises(ValueError, match="9 pieces have 2 to 362880 permutations to choose from, not 362881"):
            tiny.table_task("jigsaw", permutations=362_881)


class Edges(nnx.Module):
    """One layer of edges, averaged over the patch."""

    features, channels = 16, 3

    def __init__(self):
        self.layer = nnx.Conv(3, 16, (3, 3), padding="VALID", rngs=nnx.Rngs(0))

    def __call__(self, x, *, train):
        return {"pooled": jnp.abs(self.layer(x)).mean(axis=(1, 2)) + self.layer(x).mean(axis=(1, 2))}


def cast_on_noise(count: int, seed: int, *, size: int = 33) -> np.ndarray:
    """Noise that grows red to the right and blue to the bottom in every image, as a lens might have it, and green
    some way that differs from image to image."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 100, size)
    across = random.uniform(size=(count, 1, 1))
    noise = random.integers(0, 100, (count, size, size, 3)).astype(float)
    noise[..., 0] += ramp[None, None, :]
    noise[..., 2] += ramp[None, :, None]
    noise[..., 1] += across * ramp[None, None, :] + (1 - across) * ramp[None, :, None]
    return noise.astype(np.uint8)


def accuracy_after_training(name: str, steps: int = 300) -> float:
    """Of a one-layer model, on images it was not trained on."""
    fields = {"permutations": 4} if name == "jigsaw" else {"dropout": 0.0}
    task = tiny.table_task(name, Edges(), views={**tiny.STILL, "size": 33}, **fields)
    graph, params, rest = split_state(task)
    optimizer = optax.adam(3e-3)

    def loss(params, images, key):
        made = nnx.merge(graph, params, rest)
        output = made.loss(made.views(key, {"image": images}), 0.0)
        return output.loss, output.metrics["accuracy"]

    @jax.jit
    def step(params, state, images, key):
        (_, _), gradient = jax.value_and_grad(loss, has_aux=True)(params, images, key)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state, pool = optimizer.init(params), cast_on_noise(512, seed=1)
    for number in range(steps):
        rows = np.arange(32) + 32 * (number % 16)
        params, state = step(params, state, jnp.asarray(pool[rows]), jax.random.key(number))
    return float(loss(params, jnp.asarray(cast_on_noise(400, seed=2)), jax.random.key(steps))[1])


@pytest.mark.parametrize("name, chance", [("relative_location", 1 / 8), ("jigsaw", 1 / 4)])
def test_a_one_layer_model_cannot_tell_place_by_colour(monkeypatch, name, chance):
    assert accuracy_after_training(name) < 1.35 * chance
    cut = augment.patches
    monkeypatch.setattr(augment, "patches", lambda *args, normalise, **sizes: cut(*args, **sizes))
    assert accuracy_after_training(name) > 2.5 * chance, "the model could not have told it in any case"
