"""Parts of a task with an optimizer and a loss of their own: by hand, and as an adversarial autoencoder."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import FrozenConfigDict
from tiny import no_events  # noqa: F401

from aiseeme_jax import augment, data, losses, models
from aiseeme_jax.task import Bank, Output, Part, PartOutput, Task
from aiseeme_jax.training.state import Recipe, make_state, task_of
from aiseeme_jax.training.step import train_step, transient_programs
from configs import nodes

pytestmark = pytest.mark.usefixtures("no_events")


PLAIN_SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def optimizer(**fields):
    return FrozenConfigDict({**nodes.optimizer().to_dict(), **PLAIN_SGD, **fields})


def stage(steps: int = 4, *, schedule: str = "constant", **fields):
    return tiny.stage("rotation", steps=steps, optimizer=PLAIN_SGD | fields, schedule={"name": schedule})


class Chain(Task):
    """Three numbers. Each loss has gradient 1 in its own number and reports the number before it."""

    def __init__(self, *parts: Part, poisoned: str = "", held: str = ""):
        super().__init__(tiny.Linear(), augment.Views(**{**tiny.STILL, "size": tiny.SIZE}))
        self.declared, self.poisoned, self.held = parts, poisoned, held
        self.first, self.second, self.third = (nnx.Param(jnp.float32(start)) for start in (1.0, 2.0, 3.0))
        self.passes = Bank(jnp.zeros(()))

    def views(self, key, batch):
        return {**super().views(key, batch), "noise": jax.random.uniform(key)}

    def parts(self):
        return self.declared

    def frozen(self, progress):
        return {self.held: progress < 0.5} if self.held else {}

    def loss(self, views, progress):
        features = self.backbone(views["image"], train=True)["pooled"]
        self.passes.set_value(self.passes.get_value() + 1)
        loss = self.first.get_value() + 10 * (self.second.get_value() + self.third.get_value())
        return Output(loss, {"noise": views["noise"]}, views["image"], features)

    def part_loss(self, name, views, progress):
        self.passes.set_value(self.passes.get_value() + 1)
        before, own = {"two": (self.first, self.second), "three": (self.second, self.third)}[name]
        spoilt = jnp.where(progress > 0, jnp.nan, 0.0) if name == self.poisoned else 0.0
        metrics = {"before": before.get_value(), "noise": views["noise"], "progress": progress}
        return PartOutput(own.get_value() + before.get_value() ** 2 + spoilt, metrics)


TWO, THREE = Part("two", ("second",)), Part("three", ("third",), optimizer(learning_rate=0.01))


def steps(task, config, count: int, **options):
    """The task after each step, and the metrics of each."""
    program, state = make_state(task, tiny.recipe(config, **options))
    found = []
    for _ in range(count):
        state, metrics, _ = train_step(program, state, tiny.on_devices(tiny.batch(), 8), jax.random.key(0))
        found.append((numbers(task_of(program, state)), {name: float(value) for name, value in metrics.items()}))
    return found


def numbers(task) -> list[float]:
    return [float(x.get_value()) for x in (task.first, task.second, task.third)]


class TestUpdates:
    def test_each_part_learns_from_its_own_loss_with_its_own_optimizer(self):
        (after, metrics), *_ = steps(Chain(TWO, THREE), stage(), 1)
        # The main loss has gradient 10 in the second and third number, which do not learn from it.
        assert after == pytest.approx([0.9, 1.9, 2.99])
        assert metrics["gradient_norm"] == metrics["two_gradient_norm"] == metrics["three_gradient_norm"] == 1
        assert metrics["loss"] == 51 and metrics["two_loss"] == pytest.approx(2 + 0.9**2)

    def test_parts_see_what_was_updated_before_them(self):
        (_, metrics), *_ = steps(Chain(TWO, THREE), stage(), 1)
        assert metrics["two_before"] == pytest.approx(0.9) and metrics["three_before"] == pytest.approx(1.9)
        (_, metrics), *_ = steps(Chain(THREE, TWO), stage(), 1)
        assert metrics["three_before"] == 2.0

    def test_without_parts_the_main_loss_trains_everything(self):
        (after, metrics), *_ = steps(Chain(), stage(), 1)
        assert after == pytest.approx([0.9, 1.0, 2.0]) and not any("two" in name for name in metrics)

    @pytest.mark.slow
    def test_several_updates_in_a_step_each_have_views_of_their_own(self):
        several = Part("two", ("second",), updates=3)
        (after, metrics), *_ = steps(Chain(several, THREE), stage(), 1)
        assert after == pytest.approx([0.9, 1.7, 2.99])
        assert len({metrics[name] for name in ("noise", "two_noise", "three_noise")}) == 3
        program, state = make_state(Chain(several), tiny.recipe(stage()))
        state, _, _ = train_step(program, state, tiny.batch(), jax.random.key(0))
        assert float(task_of(program, state).passes.get_value()) == 4

    def test_a_part_may_be_trained_in_every_second_step_only(self):
        found = steps(Chain(Part("two", ("second",), every=2), THREE), stage(), 4)
        assert [after[1] for after, _ in found] == pytest.approx([1.9, 1.9, 1.8, 1.8])
        assert [after[2] for after, _ in found] == pytest.approx([2.99, 2.98, 2.97, 2.96])
        assert [np.isnan(metrics["two_loss"]) for _, metrics in found] == [False, True, False, True]
        assert found[-1][1]["skipped_steps"] == 0

    @pytest.mark.parametrize("updates, every", [(1, 1), (2, 1), (1, 2)])
    def test_rate_of_a_part_follows_the_schedule_of_the_stage(self, updates, every):
        part = Part("two", ("second",), optimizer(learning_rate=0.2), updates=updates, every=every)
        found = steps(Chain(part), stage(schedule="cosine"), 4)
        places = [2.0, *(after[1] for after, _ in found)]
        rates = [0.1 * (1 + np.cos(np.pi * step / 4)) for step in range(4)]
        expected = [updates * rate * (step % every == 0) for step, rate in enumerate(rates)]
        np.testing.assert_allclose(-np.diff(places), expected, atol=1e-6)

    def test_progress_of_a_part_is_that_of_the_stage(self):
        assert [metrics["two_progress"] for _, metrics in steps(Chain(TWO), stage(), 4)] == [0, 0.25, 0.5, 0.75]

    def test_a_part_may_be_frozen(self):
        found = steps(Chain(TWO, held="second"), stage(name="adamw"), 4)
        assert [after[1] for after, _ in found] == pytest.approx([2.0, 2.0, 1.9, 1.8], abs=1e-4)

    @pytest.mark.parametrize("poisoned", ["two", "three"])
    def test_a_loss_of_a_part_that_is_not_finite_undoes_the_whole_step(self, poisoned):
        found = steps(Chain(TWO, THREE, poisoned=poisoned), stage(), 3)
        assert found[0][0] == found[1][0] == found[2][0] == pytest.approx([0.9, 1.9, 2.99])
        assert [metrics["skipped_steps"] for _, metrics in found] == [0, 1, 2]


class TestDeclaration:
    @pytest.mark.parametrize(
        "parts, message",
        [
            ((TWO, TWO), "Chain: two parts have one name: two, two"),
            ((TWO, Part("three", ("third", "second"))), "Chain: parts 'two' and 'three' own the same parameters"),
            ((Part("two", ("fourth",)),), "Chain: part 'two' owns 'fourth', which has no parameters"),
            ((Part("two", ("passes",)),), "Chain: part 'two' owns 'passes', which has no parameters"),
            ((Part("two", ("second",), updates=0),), "Chain: part 'two': `updates` and `every` must be at least 1"),
        ],
    )
    def test_of_parts_that_make_no_sense_is_refused(self, parts, message):
        with pytest.raises(ValueError, match=message):
            make_state(Chain(*parts), tiny.recipe(stage()))

    def test_without_a_loss_is_an_error(self):
        class Silent(Chain):
            part_loss = Task.part_loss

        with pytest.raises(TypeError, match="Silent defines no loss for its part 'two'"):
            steps(Silent(TWO), stage(), 1)

    def test_may_name_a_part_of_a_module(self):
        task = Chain(Part("two", ("second", "backbone.map")))
        _, state = make_state(task, tiny.recipe(stage(name="adamw")))
        shapes = [leaf.shape for leaf in jax.tree.leaves(state.part_optimizers["two"]) if leaf.ndim]
        assert (tiny.SIZE**2 * 3, 6) in shapes
        assert not any(leaf.ndim == 2 for leaf in jax.tree.leaves(state.optimizer))


class Coder(nnx.Module):
    """A backbone whose pooled features are codes of two numbers."""

    channels, features = 3, 2

    def __init__(self, size: int, rngs: nnx.Rngs):
        self.mlp = models.MLP(size * size * 3, (32,), 2, activation=jax.nn.gelu, rngs=rngs)

    def __call__(self, x, *, train):
        return {"pooled": self.mlp(x.reshape(len(x), -1), train=train)}


class AdversarialAutoencoder(Task):
    """Makhzani et al. (2015, arXiv 1511.05644): the codes of an autoencoder become those of a normal distribution.

    The main loss restores images and, if `weight` is not 0, makes codes that the discriminator takes for draws from the
    prior.
    """

    def __init__(self, size: int, *, weight: float = 0.3, updates: int = 1, seed: int = 0):
        rngs = nnx.Rngs(seed)
        super().__init__(Coder(size, rngs), None)
        self.weight, self.updates = weight, updates
        self.decoder = models.MLP(2, (32,), size * size * 3, activation=jax.nn.gelu, rngs=rngs)
        self.discriminator = models.MLP(2, (32, 32), 1, activation=jax.nn.gelu, rngs=rngs)

    def views(self, key, batch):
        image = batch["image"].astype(jnp.float32) / 64 - 2
        return {"image": image, "prior": jax.random.normal(key, (len(image), 2))}

    def parts(self):
        own = optimizer(name="adamw", learning_rate=8e-3, b1=0.5)
        return (Part("discriminator", ("discriminator",), own, updates=self.updates),)

    def loss(self, views, progress):
        codes = self.backbone(views["image"], train=True)["pooled"]
        restored = self.decoder(codes, train=True)
        error = losses.mse(restored, views["image"].reshape(restored.shape))
        fooled = losses.binary_cross_entropy(self.discriminator(codes, train=True), jnp.ones((len(codes), 1), bool))
        return Output(error + self.weight * fooled, {"error": error}, views["image"], codes)

    def part_loss(self, name, views, progress):
        codes = jax.lax.stop_gradient(self.backbone(views["image"], train=True)["pooled"])
        scores = self.discriminator(jnp.concatenate([views["prior"], codes]), train=True)
        drawn = jnp.arange(len(scores))[:, None] < len(codes)
        return PartOutput(losses.binary_cross_entropy(scores, drawn), {"accuracy": jnp.mean((scores > 0) == drawn)})


def toy_images(count: int, seed: int) -> np.ndarray:
    """uint8 images [count, 2, 2, 3] on a curved surface of two dimensions, evenly spread."""
    points = np.random.default_rng(seed).uniform(-1.5, 1.5, (count, 2))
    directions = np.random.default_rng(9).standard_normal((2, 12))
    return np.uint8(np.clip(128 + 100 * np.tanh(points @ directions / 2), 0, 255)).reshape(count, 2, 2, 3)


def discrepancy(rows: np.ndarray, other: np.ndarray) -> float:
    """Squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with a Gaussian kernel of width 1, unbiased."""

    def kernel(a, b):
        return np.exp(-np.square(a[:, None] - b[None]).sum(axis=-1) / 2)

    def within(a):
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return within(rows) + within(other) - 2 * kernel(rows, other).mean()


@contextlib.contextmanager
def on_devices(count: int):
    """All training on the first `count` devices."""
    with pytest.MonkeyPatch.context() as patch, transient_programs():
        tiny.use_devices(patch, count)
        yield


def learn(weight: float) -> tuple[np.ndarray, float]:
    """Codes of new images and the error of restoring them, after 1,000 steps with this weight of the adversary."""
    count, batch = 1000, 128
    config = tiny.stage("rotation", steps=count, batch=batch, optimizer={"name": "adamw", "learning_rate": 2e-3})
    images = jnp.asarray(toy_images(4096, seed=0))
    with on_devices(1):
        program, state = make_state(AdversarialAutoencoder(2, weight=weight), Recipe(config, count, count, seed=0))
        for step in range(count):
            rows = (jnp.arange(batch) + batch * step) % len(images)
            state, _, _ = train_step(program, state, {"image": images[rows]}, jax.random.key(1))
        trained = task_of(program, state)
    shown = trained.views(jax.random.key(2), {"image": jnp.asarray(toy_images(1000, seed=1))})["image"]
    codes = trained.backbone(shown, train=False)["pooled"]
    restored = trained.decoder(codes, train=False)
    return np.asarray(codes), float(losses.mse(restored, shown.reshape(restored.shape)))


@pytest.mark.slow
def test_codes_of_an_adversarial_autoencoder_become_standard_normal():
    """Two samples of the prior have a discrepancy below 0.001. An image that is always the mean has an error of 0.6."""
    prior = np.random.default_rng(0).standard_normal((1000, 2))
    codes, error = learn(0.3)
    np.testing.assert_allclose(codes.mean(axis=0), 0, atol=0.2)
    np.testing.assert_allclose(np.cov(codes.T), np.eye(2), atol=0.3)
    assert discrepancy(codes, prior) < 0.03 and error < 0.05
    free, error = learn(0.0)
    assert discrepancy(free, prior) > 0.05 and error < 0.01


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("updates", [1, 2])
def test_killed_run_with_parts_goes_on_in_the_same_bits(updates, tmp_path):
    config = tiny.stage("rotation", steps=8, optimizer={"name": "adamw", "learning_rate": 1e-3})
    source = data.Batches(tiny.split(), batch_size=8, seed=0)

    def batches(start):
        for step, item in enumerate(source(start), start=start + 1):
            if step == 6:
                raise Killed
            yield item

    def fit(folder, **options):
        return tiny.fit(AdversarialAutoencoder(tiny.SIZE, updates=updates), config, tmp_path / folder, **options)

    whole = fit("whole")
    with pytest.raises(Killed):
        fit("killed", batches=batches)
    resumed = fit("killed")
    tiny.assert_same(resumed.task, whole.task)
    tiny.assert_different(whole.task.discriminator, AdversarialAutoencoder(tiny.SIZE).discriminator)
    assert "discriminator_loss" in (tmp_path / "whole" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_parts_end_on_eight_devices_where_they_do_on_one():
    config = tiny.stage("rotation", steps=8, batch=16, optimizer={"name": "adamw", "learning_rate": 1e-3})

    def train(devices):
        with on_devices(devices):
            program, state = make_state(AdversarialAutoencoder(tiny.SIZE, updates=2), tiny.recipe(config))
            for step in range(8):
                batch = tiny.on_devices(tiny.batch(16, start=step), devices)
                state, metrics, _ = train_step(program, state, batch, jax.random.key(0))
            assert len(metrics["loss"].sharding.device_set) == devices
            return tiny.arrays(task_of(program, state)), {name: float(value) for name, value in metrics.items()}

    (one, metrics_1), (eight, metrics_8) = train(1), train(8)
    assert metrics_8 == pytest.approx(metrics_1, rel=1e-4)
    for name, value in one.items():
        np.testing.assert_allclose(eight[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
