"""Durations, schedules at their corners, and one and two steps of every optimizer worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax.training import optimizers


def duration(epochs=None, steps=None, examples=None):
    return FrozenConfigDict(ConfigDict({"epochs": epochs, "steps": steps, "examples": examples}))


def schedule_config(name="cosine", warmup=None, **fields):
    defaults = {"final_scale": 0.0, "milestones": (0.5, 0.75), "factor": 0.1}
    return ConfigDict({"name": name, "warmup": warmup or duration(steps=0), **defaults, **fields})


def optimizer_config(name, **fields):
    defaults = {
        "learning_rate": 0.1,
        "weight_decay": 0.01,
        "momentum": 0.9,
        "nesterov": False,
        "b1": 0.9,
        "b2": 0.99,
        "trust_coefficient": 0.001,
        "clip_norm": 0.0,
    }
    return FrozenConfigDict(ConfigDict({"name": name, **defaults, **fields}))


class TestStepsOf:
    @pytest.mark.parametrize(
        ("given", "steps"),
        [
            ({"steps": 7}, 7),
            ({"epochs": 3}, 30),
            ({"epochs": 0.25}, 2),
            ({"epochs": 0.001}, 1),
            ({"examples": 64}, 2),
            ({"examples": 65}, 3),
            ({"epochs": 0}, 0),
        ],
    )
    def test_each_unit(self, given, steps):
        value = optimizers.steps_of(duration(**given), steps_per_epoch=10, batch_size=32)
        assert value == steps and isinstance(value, int)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "exactly one of epochs, steps, examples; set here: none"),
            ({"epochs": 1, "steps": 0}, "set here: epochs=1, steps=0"),
            ({"steps": -1}, "duration.steps is -1"),
            ({"steps": 1.5}, "duration.steps is 1.5; it must be a whole number"),
            ({"epochs": float("nan")}, "duration.epochs is nan"),
            ({"examples": float("inf")}, "duration.examples is inf"),
        ],
    )
    def test_anything_else_is_an_error(self, given, message):
        with pytest.raises(ValueError, match=message):
            optimizers.steps_of(duration(**given), steps_per_epoch=10, batch_size=32)


def rates(config, steps, total=100, peak=2.0):
    schedule = optimizers.make_schedule(config, peak, total, 10, 32)
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize(
    "rule, optimizer, expected",
    [
        ("linear", "adamw", 0.4), ("square_root", "sgd", 0.2), ("none", "sgd", 0.1),
        ("by_optimizer", "sgd", 0.4), ("by_optimizer", "lars", 0.4), ("by_optimizer", "adamw", 0.2),
    ],
)  # fmt: skip
def test_the_rate_is_scaled_with_the_batch(rule, optimizer, expected):
    assert optimizers.scale_rate(0.1, 4.0, rule, optimizer) == pytest.approx(expected)


class TestSchedule:
    def test_cosine_with_warmup(self):
        config = schedule_config("cosine", warmup=duration(epochs=2), final_scale=0.1)
        values = rates(config, [0, 10, 20, 60, 100])
        np.testing.assert_allclose(values, [2 / 21, 2 * 11 / 21, 2.0, 1.1, 0.2], rtol=1e-5)

    def test_cosine_without_warmup(self):
        quarter = 1 + np.cos(np.pi / 4)
        values = rates(schedule_config(), [0, 25, 50, 100])
        np.testing.assert_allclose(values, [2, quarter, 1, 0], rtol=1e-5, atol=1e-6)

    def test_exponential_changes_by_the_same_factor_in_every_step(self):
        falling, rising = (schedule_config("exponential", final_scale=scale) for scale in (0.01, 100.0))
        np.testing.assert_allclose(rates(falling, [0, 25, 50, 100]), [2, 2 / 10**0.5, 0.2, 0.02], rtol=1e-5)
        np.testing.assert_allclose(rates(rising, [0, 50, 100]), [2, 20, 200], rtol=1e-5)

    def test_it_rises_and_falls_without_a_jump(self):
        values = np.array(rates(schedule_config(warmup=duration(steps=10)), range(101)))
        assert (np.diff(values[:11]) > 0).all() and (np.diff(values[10:]) < 0).all()
        assert np.abs(np.diff(values)).max() < 0.2 and values[0] > 0

    def test_step_drops_at_its_milestones(self):
        config = schedule_config("step", warmup=duration(examples=5 * 32))
        values = rates(config, [0, 4, 5, 49, 50, 74, 75, 99])
        np.testing.assert_allclose(values, [2 / 6, 10 / 6, 2, 2, 0.2, 0.2, 0.02, 0.02], rtol=1e-5)

    def test_milestones_on_the_same_step_all_count(self):
        np.testing.assert_allclose(rates(schedule_config("step"), [0, 1, 2], total=2), [2, 0.2, 0.02], rtol=1e-5)
        config = schedule_config("step", milestones=(0.5, 0.52))
        np.testing.assert_allclose(rates(config, [4, 5], total=10), [2, 0.02], rtol=1e-5)

    def test_constant(self):
        config = schedule_config("constant", warmup=duration(steps=3))
        np.testing.assert_allclose(rates(config, [0, 3, 1000]), [0.5, 2, 2], rtol=1e-6)

    def test_it_can_be_traced(self):
        config = FrozenConfigDict(schedule_config(warmup=duration(steps=10)))
        schedule = optimizers.make_schedule(config, 2.0, 100, 10, 32)
        np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(10)), 2.0, rtol=1e-6)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"name": "linear"}, "schedule.name is 'linear'; known: constant, cosine, exponential, step"),
            ({"warmup": duration(epochs=10)}, "schedule.warmup lasts 100 steps, the whole stage 100"),
            ({"warmup": duration()}, "exactly one"),
            ({"name": "exponential"}, "schedule.final_scale is 0.0; of 'exponential' it must be above 0 and finite"),
            ({"final_scale": 1.5}, "schedule.final_scale is 1.5"),
            ({"name": "step", "milestones": (0.5, 30)}, r"schedule.milestones are \(0.5, 30\)"),
            ({"name": "step", "factor": 0.0}, "schedule.factor is 0.0"),
            ({"name": "step", "warmup": duration(epochs=6)}, "milestones: 0.5 of 100 steps lies within"),
        ],
    )
    def test_errors_name_the_field(self, fields, message):
        with pytest.raises(ValueError, match=message):
            optimizers.make_schedule(schedule_config(**fields), 2.0, 100, 10, 32)

    def test_negative_rate(self):
        with pytest.raises(ValueError, match="optimizer.learning_rate is -1"):
            optimizers.make_schedule(schedule_config(), -1.0, 100, 10, 32)


PARAMS = {"kernel": np.array([[3.0, 0.0], [0.0, 4.0]]), "bias": np.array([1.0, 2.0]), "scale": np.array(5.0)}
GRADIENTS = [
    {"kernel": np.array([[0.6, 0.0], [0.8, 0.0]]), "bias": np.array([0.5, -0.5]), "scale": np.array(0.25)},
    {"kernel": np.array([[0.0, -0.3], [0.0, 0.4]]), "bias": np.array([0.1, 0.2]), "scale": np.array(-0.5)},
]


def two_steps(config, params=PARAMS, gradients=GRADIENTS):
    optimizer = optimizers.make_optimizer(config, optax.constant_schedule(0.1))
    params = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(jax.tree.map(jnp.asarray, gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params


def by_hand(rule):
    """Two steps of `rule(name, parameter, gradient, memory, step)`, which gives the new parameter."""
    results = {}
    for name, parameter in PARAMS.items():
        memory = {}
        for step, gradient in enumerate(GRADIENTS, start=1):
            parameter = rule(name, parameter, gradient[name], memory, step)
        results[name] = parameter
    return results


def sgd_rule(nesterov, decay=0.01):
    def rule(name, w, g, memory, _):
        g = g + (decay * w if name == "kernel" else 0)
        memory["m"] = 0.9 * memory.get("m", 0) + g
        return w - 0.1 * (g + 0.9 * memory["m"] if nesterov else memory["m"])

    return rule


def lars_rule(name, w, g, memory, _):
    if name == "kernel":
        g = g + 0.01 * w
        g = g * 0.02 * np.linalg.norm(w) / np.linalg.norm(g)
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
    return w - memory["m"]


def adamw_rule(name, w, g, memory, step):
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
    memory["v"] = 0.99 * memory.get("v", 0) + 0.01 * g**2
    direction = memory["m"] / (1 - 0.9**step) / (np.sqrt(memory["v"] / (1 - 0.99**step)) + 1e-8)
    return w - 0.1 * (direction + (0.01 * w if name == "kernel" else 0))


OPTIMIZERS = {
    "sgd": (optimizer_config("sgd"), sgd_rule(nesterov=False)),
    "sgd, Nesterov": (optimizer_config("sgd", nesterov=True), sgd_rule(nesterov=True)),
    "sgd, no momentum": (
        optimizer_config("sgd", momentum=0.0),
        lambda name, w, g, *_: w - 0.1 * (g + (0.01 * w if name == "kernel" else 0)),
    ),
    "lars": (optimizer_config("lars", trust_coefficient=0.02), lars_rule),
    "adamw": (optimizer_config("adamw"), adamw_rule),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_steps_by_hand(name):
    config, rule = OPTIMIZERS[name]
    expected, params = by_hand(rule), two_steps(config)
    for key in PARAMS:
        np.testing.assert_allclose(params[key], expected[key], rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_decay_and_adaptation_spare_parameters_of_one_axis(name):
    still = [jax.tree.map(np.zeros_like, PARAMS)] * 2
    params = two_steps(optimizer_config(name, weight_decay=0.5), gradients=still)
    assert np.linalg.norm(params["kernel"]) < np.linalg.norm(PARAMS["kernel"])
    np.testing.assert_array_equal(params["bias"], PARAMS["bias"])
    np.testing.assert_array_equal(params["scale"], PARAMS["scale"])


def test_the_gradient_is_clipped_before_the_decay_is_added():
    plain = optimizer_config("sgd", momentum=0.0, clip_norm=0.5)
    norm = np.sqrt(sum(np.sum(g**2) for g in GRADIENTS[0].values()))
    assert norm > 0.5
    params = two_steps(plain, gradients=GRADIENTS[:1])
    expected = PARAMS["kernel"] - 0.1 * (GRADIENTS[0]["kernel"] * 0.5 / norm + 0.01 * PARAMS["kernel"])
    np.testing.assert_allclose(params["kernel"], expected, rtol=1e-5)
    # A gradient below the threshold is left as it is.
    loose, off = (optimizer_config("sgd", clip_norm=clip) for clip in (100.0, 0.0))
    jax.tree.map(np.testing.assert_array_equal, two_steps(loose), two_steps(off))


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_the_rate_follows_the_schedule(name):
    config = optimizer_config(name, weight_decay=0.0, momentum=0.0)
    optimizer = optimizers.make_optimizer(config, optax.piecewise_constant_schedule(1.0, {1: 0.25}))
    params = {"kernel": jnp.ones((2, 2))}
    gradient = {"kernel": jnp.full((2, 2), 0.3)}
    state = optimizer.init(params)
    first, state = optimizer.update(gradient, state, params)
    second, _ = optimizer.update(gradient, state, params)
    np.testing.assert_allclose(second["kernel"], 0.25 * first["kernel"], rtol=1e-5)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_what_is_to_learn_at_a_constant_rate_does_not_follow_the_schedule(name):
    """The schedule is 0: only what lies under the name moves, clipped with all the rest, as it would at the peak."""
    config = optimizer_config(name, clip_norm=0.5)
    gradient = {part: {"kernel": jnp.full((2, 2), 0.3)} for part in ("predictor", "backbone")}
    params = jax.tree.map(jnp.ones_like, gradient)
    peak = optax.constant_schedule(config.learning_rate)
    everywhere = optimizers.make_optimizer(config, peak)
    expected, _ = everywhere.update(gradient, everywhere.init(params), params)
    optimizer = optimizers.make_optimizer(config, optax.constant_schedule(0.0), constant=("predictor",))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["predictor"]["kernel"], expected["predictor"]["kernel"])
    assert not updates["backbone"]["kernel"].any() and expected["backbone"]["kernel"].any()


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_factors_scale_the_rate_of_what_lies_under_a_name_its_weight_decay_included(name):
    config = optimizer_config(name, weight_decay=0.1)
    gradient = {part: {"kernel": jnp.full((2, 2), 0.3)} for part in ("head", "body")}
    params = jax.tree.map(jnp.ones_like, gradient)
    schedule = optax.constant_schedule(0.1)
    plain = optimizers.make_optimizer(config, schedule)
    scaled = optimizers.make_optimizer(config, schedule, factors=(("body", 0.25),))
    (expected, _), (found, _) = (one.update(gradient, one.init(params), params) for one in (plain, scaled))
    np.testing.assert_allclose(found["body"]["kernel"], 0.25 * expected["body"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(found["head"]["kernel"], expected["head"]["kernel"])
    assert expected["body"]["kernel"].any()


@pytest.mark.parametrize("name, constant", [("sgd", ("head",)), ("adamw", ()), ("lars", ())])
def test_what_is_remembered_of_some_parameters_can_be_forgotten(name, constant):
    """And of those at the top of the tree alone, not of another module's part of the same name."""
    schedule = optimizers.make_schedule(schedule_config(), 0.1, 100, 10, 8)
    optimizer = optimizers.make_optimizer(optimizer_config(name), schedule, constant=constant)
    params = {"head": {"kernel": jnp.ones((2, 3))}, "body": {"head": jnp.ones((2, 2))}}
    fresh = optimizer.init(params)
    _, before = optimizer.update(jax.tree.map(lambda x: 2 * x, params), fresh, params)
    after = optimizers.restarted(before, fresh, ("head",))

    def forgotten(path, old, new, start):
        within = "['head']['kernel']" in jax.tree_util.keystr(path)
        np.testing.assert_array_equal(new, start if within else old)
        return within and bool(np.any(old != start))

    assert any(jax.tree.leaves(jax.tree.map_with_path(forgotten, before, after, fresh)))


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_parameters_that_were_held_start_as_if_it_were_the_first_step(name):
    """Held by their dotted name alone; the others never notice."""
    optimizer = optimizers.make_optimizer(optimizer_config(name), optax.constant_schedule(0.1))
    gradient = {"head": {"kernel": jnp.full((2, 3), 0.3)}, "body": {"head": {"kernel": jnp.full((2, 2), 0.2)}}}
    start = jax.tree.map(jnp.ones_like, gradient)

    def after(steps, held):
        params, state = start, optimizer.init(start)
        for step in range(steps):
            frozen = {"head.kernel": jnp.asarray(step < held)}
            seen = optimizers.keep_frozen(frozen, jax.tree.map(jnp.zeros_like, gradient), gradient)
            updates, moved = optimizer.update(seen, state, params)
            params = optimizers.keep_frozen(frozen, params, optax.apply_updates(params, updates))
            state = optimizers.keep_frozen(frozen, state, moved)
        return params

    late = after(5, held=3)
    np.testing.assert_array_equal(after(3, held=3)["head"]["kernel"], start["head"]["kernel"])
    np.testing.assert_array_equal(late["head"]["kernel"], after(2, held=0)["head"]["kernel"])
    np.testing.assert_array_equal(late["body"]["head"]["kernel"], after(5, held=0)["body"]["head"]["kernel"])


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_an_nnx_state_is_updated_as_a_plain_dict_is(name):
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    _, state = nnx.split(model, nnx.Param)
    plain = nnx.to_pure_dict(state)
    assert optimizers.decayed(plain) == {"kernel": True, "bias": False}
    gradient = jax.tree.map(jnp.ones_like, state)
    optimizer = optimizers.make_optimizer(optimizer_config(name, clip_norm=1.0), optax.constant_schedule(0.1))

    @jax.jit
    def step(params, gradient):
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    updated = nnx.to_pure_dict(step(state, gradient))
    expected = step(plain, nnx.to_pure_dict(gradient))
    jax.tree.map(np.testing.assert_array_equal, updated, expected)
    assert not np.array_equal(updated["kernel"], plain["kernel"])


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("adam", {}, "optimizer.name is 'adam'; known: adamw, lars, sgd"),
        ("sgd", {"momentum": 1.0}, "optimizer.momentum is 1.0"),
        ("lars", {"momentum": -0.1}, "optimizer.momentum is -0.1"),
        ("lars", {"trust_coefficient": 0.0}, "optimizer.trust_coefficient is 0.0"),
        ("adamw", {"b2": 1.0}, "optimizer.b2 is 1.0"),
        ("sgd", {"weight_decay": -1.0}, "optimizer.weight_decay is -1.0"),
        ("sgd", {"clip_norm": -1.0}, "optimizer.clip_norm is -1.0"),
    ],
)
def test_errors_name_the_field(name, fields, message):
    with pytest.raises(ValueError, match=message):
        optimizers.make_optimizer(optimizer_config(name, **fields), optax.constant_schedule(0.1))
