"""Joint stages and bandits in the one step: what moves, what stays, and that a killed run ends in the same bits."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from ml_collections import FrozenConfigDict
from tiny import no_events  # noqa: F401

from aiseeme_jax import augment, data, distill, pretext
from aiseeme_jax.curriculum.pictures import draw_views
from aiseeme_jax.errors import UserError
from aiseeme_jax.pretext.pacing import Bandit, Joint
from aiseeme_jax.task import Bank, Output, Part, Setting, Task
from aiseeme_jax.training.journal import METRICS, read_journal
from aiseeme_jax.training.state import make_state, task_of
from aiseeme_jax.training.step import Steps, train_step
from configs import base

pytestmark = pytest.mark.usefixtures("no_events")

PLAIN_SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
SPEC = augment.Views(**{**tiny.STILL, "size": tiny.SIZE})


class Numbers(nnx.Module):
    """A backbone of two numbers, which are its features."""

    channels, features = 3, 2

    def __init__(self):
        self.w = nnx.Param(jnp.asarray([1.0, 2.0]))

    def __call__(self, x, *, train):
        return {"pooled": jnp.broadcast_to(self.w.get_value(), (x.shape[0], 2))}


class Slope(Task):
    """loss = offset + direction · w + head, so the gradient of w is the direction, and of the head 1."""

    NAME = "slope"

    def __init__(self, backbone, direction, offset=0.0, rate=1.0):
        super().__init__(backbone, SPEC)
        self.direction, self.offset, self.rate = tuple(direction), offset, rate
        self.head = nnx.Param(jnp.zeros(()))
        self.steps, self.updates = Bank(jnp.zeros(())), Bank(jnp.zeros(()))

    def loss(self, views, progress):
        features = self.backbone(views["image"], train=True)["pooled"]
        self.steps.set_value(self.steps.get_value() + 1)
        loss = self.offset + features[0] @ jnp.asarray(self.direction) + self.rate * self.head.get_value()
        return Output(loss, {}, views["image"], features)

    def after_update(self, progress):
        self.updates.set_value(self.updates.get_value() + 1)


class Fading(Slope):
    """The loss falls to its share `rate` in each step, by a factor that the task keeps itself."""

    def loss(self, views, progress):
        output = super().loss(views, progress)
        level = self.rate ** self.steps.get_value()
        return output.replace(loss=level + 0 * output.loss)


class Parted(Slope):
    def parts(self):
        return (Part("head", ("head",)),)


def plain_stage(steps: int, **optimizer):
    return tiny.stage("rotation", steps=steps, optimizer=PLAIN_SGD | optimizer, schedule={"name": "constant"})


def advance(task, steps: int, count: int | None = None):
    """The task after each step, and the metrics of each."""
    program, state = make_state(task, tiny.recipe(plain_stage(steps)))
    found, take = [], Steps(program)
    for _ in range(count or steps):
        state, metrics, _ = take(state, tiny.batch(), jax.random.key(0))
        kept = task_of(program, jax.tree.map(jnp.copy, state))
        found.append((kept, {name: float(value) for name, value in metrics.items()}))
    return found


def joint(*members: tuple, weights="equal", offset: float = 10.0):
    body = Numbers()
    tasks = {name: Slope(body, direction, offset) for name, *direction in members}
    return Joint(body, None, Setting(24, 8), members=tasks, weights=weights, rngs=nnx.Rngs(0))


def weights_of(task) -> np.ndarray:
    return np.asarray(task.backbone.w.get_value())


class TestJoint:
    def test_equal_weights_sum_the_gradients_and_every_member_hears_of_the_update(self):
        ((after, metrics),) = advance(joint(("a", 1.0, 0.0), ("b", -0.5, 0.5)), 1)
        np.testing.assert_allclose(weights_of(after), [1 - 0.05, 2 - 0.05], rtol=1e-6)
        assert all(float(after.members[name].updates.get_value()) == 1 for name in "ab")
        assert metrics["a_loss"] == 11 and metrics["b_loss"] == 10.5 and metrics["loss"] == 21.5

    def test_pcgrad_moves_the_backbone_and_leaves_heads_their_own_gradient(self):
        ((after, metrics),) = advance(joint(("a", 1.0, 0.0), ("b", -0.5, 0.5), weights="pcgrad"), 1)
        np.testing.assert_allclose(weights_of(after), [1 - 0.05, 2 - 0.1], rtol=1e-6)
        assert [float(after.members[name].head.get_value()) for name in "ab"] == pytest.approx([-0.1, -0.1])
        assert all(float(after.members[name].steps.get_value()) == 1 for name in "ab")
        np.testing.assert_allclose(after.weights.get_value(), [1.5, 2.0], rtol=1e-6)

    def test_gradnorm_against_numpy(self):
        directions = np.array([[2.0, 0.0], [0.0, 1.0]])
        found = advance(joint(("a", 2.0, 0.0), ("b", 0.0, 1.0), weights="gradnorm"), 3)
        body, heads, w, first = np.array([1.0, 2.0]), np.zeros(2), np.ones(2), None
        for after, _ in found:
            losses = 10 + directions @ body + heads
            first = losses if first is None else first
            np.testing.assert_allclose(after.weights.get_value(), w, rtol=1e-5)
            body, heads = body - 0.1 * w @ directions, heads - 0.1
            np.testing.assert_allclose(weights_of(after), body, rtol=1e-5)
            norms = np.array([2.0, 1.0])
            rates = losses / first / (losses / first).mean()
            step = np.sign(w * norms - (w * norms).mean() * rates**1.5) * norms / (w * norms).mean()
            w = w - 0.025 * step
            w *= 2 / w.sum()

    def test_famo_compares_the_same_batch_and_advances_nothing(self):
        weights = {"name": "famo", "learning_rate": 0.025, "weight_decay": 0.0}
        ((after, _),) = advance(joint(("a", 2.0, 0.0), ("b", 0.0, 0.1), weights=weights), 1)
        assert all(float(after.members[name].steps.get_value()) == 1 for name in "ab")
        # The loss of `a` fell more: Adam's first step is its learning rate.
        np.testing.assert_allclose(after.memory["v"].get_value(), [-0.025, 0.025], rtol=1e-3)

    def test_uncertainty_is_learned_by_the_optimizer_of_the_stage(self):
        ((after, _),) = advance(joint(("a", 0.0, 0.0), ("b", 0.0, 0.0), weights="uncertainty", offset=3.0), 1)
        # -0.1 (1 - 3) / 2
        np.testing.assert_allclose(after.learned["log_variance"].get_value(), [0.1, 0.1], rtol=1e-5)

    def test_summary_has_the_mean_weights_of_each_part(self):
        found = advance(
            joint(("a", 1.0, 0.0), ("b", 0.0, 1.0), weights={"name": "fixed", "factors": {"a": 1, "b": 3}}), 4
        )
        pacing = found[-1][0].summary()["pacing"]
        assert pacing["until"] == [0.25, 0.5, 0.75, 1.0]
        assert pacing["weights"] == [[1, 3]] * 4 and pacing["mean"] == [1, 3]


def bandit(steps: int, *, teacher="random", interval=2, make=Slope, **members):
    body = Numbers()
    tasks = {name: make(body, (1.0, 0.0), 10.0, rate) for name, rate in members.items()}
    return Bandit(
        body, None, Setting(24, 8, steps=steps), members=tasks, teacher=teacher, interval=interval, rngs=nnx.Rngs(0)
    )


class TestBandit:
    def test_only_the_chosen_member_changes_and_it_keeps_its_turn_for_the_interval(self):
        task = bandit(12, interval=3, a=1.0, b=1.0)
        before, turns = tiny.arrays(task), []
        for after, metrics in advance(task, 12):
            now = tiny.arrays(after)
            moved = {
                name for name in "ab" if any(f"['{name}']" in k and not np.array_equal(now[k], before[k]) for k in now)
            }
            assert len(moved) == 1
            (name,) = moved
            other = "b" if name == "a" else "a"
            assert f"{other}_loss" not in metrics and metrics[f"{name}_loss"] == metrics["loss"]
            turns.append(name)
            before = now
        assert all(len(set(turns[i : i + 3])) == 1 for i in range(0, 12, 3)) and set(turns) == {"a", "b"}
        runs = [[name, len(list(same))] for name, same in itertools.groupby(turns)]
        assert after.summary()["pacing"] == {"kind": "bandit", "members": ["a", "b"], "interval": 3, "runs": runs}

    def test_optimizer_of_a_member_that_waits_forgets_nothing(self):
        task = bandit(8, teacher="round_robin", a=1.0, b=1.0)
        config = tiny.stage(
            "rotation", steps=8, optimizer={**PLAIN_SGD, "momentum": 0.9}, schedule={"name": "constant"}
        )
        program, state = make_state(task, tiny.recipe(config))
        heads, take = [], Steps(program)
        for _ in range(6):
            state, *_ = take(state, tiny.batch(), jax.random.key(0))
            heads.append(float(task_of(program, state).members["a"].head.get_value()))
        # Momentum goes on after two steps of the other member where it stopped.
        np.testing.assert_allclose(heads, [-0.1, -0.29, -0.29, -0.29, -0.561, -0.9049], rtol=1e-5)

    def test_a_step_that_is_undone_changes_no_choice_and_counts_for_no_member(self):
        task = bandit(12, teacher="exp3s", a=1.0, b=1.0)
        program, state = make_state(task, tiny.recipe(plain_stage(12)))
        take = Steps(program)
        choices = []
        for number in range(4):
            # The first step of the second interval, twice.
            spoiled = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params)) if number == 2 else state
            whole = jax.tree.map(jnp.copy, state.params)
            state, *_ = take(jax.tree.map(jnp.copy, spoiled), tiny.batch(), jax.random.key(0))
            state = state.replace(params=whole) if number == 2 else state
            record = task_of(program, state).record
            choices.append((int(record["done"].get_value()), int(record["member"].get_value())))
        assert [done for done, _ in choices] == [1, 2, 2, 3] and choices[2][1] == choices[3][1]
        assert int(state.skipped) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("teacher", ["tscl_online", "exp3s"])
    def test_planted_problem(self, teacher):
        """The loss of `learns` falls by 2 % a step as long as it is trained, that of the others stays."""
        task = bandit(240, teacher=teacher, make=Fading, learns=0.98, stuck=1.0, still=1.0)
        runs = advance(task, 240)[-1][0].summary()["pacing"]["runs"]
        steps = {name: sum(n for own, n in runs if own == name) for name in ("learns", "stuck", "still")}
        assert steps["learns"] > 2 * max(steps["stuck"], steps["still"])


def member(task: str, **changes):
    return base.stage(task, size=tiny.SIZE, views=tiny.PLAIN, **changes)


def made(kind: str, *members, steps: int = 8, **changes):
    changes = {"duration": base.duration(steps=steps), "batch_size": 8, **changes}
    return FrozenConfigDict(base.stage(kind, members=members, **changes))


def table_member(name: str):
    kind = {"preset": "ct", "views": tiny.PLAIN_VOLUMES} if tiny.of_volumes(name) else {"views": tiny.PLAIN}
    return base.stage(name, size=tiny.SIZE, **kind, **tiny.FIELDS.get(name, {}))


def pairs() -> list[tuple[str, str]]:
    """All tasks of the table two by two, those of images and those of volumes apart; an odd one beside the first."""
    found = []
    for volumes in (False, True):
        names = [name for name in pretext.TASKS if tiny.of_volumes(name) == volumes]
        names += names[:1] * (len(names) % 2)
        found += zip(names[: len(names) // 2], names[len(names) // 2 :], strict=True)
    return found


class TestRuns:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "kind, changes",
        [
            ("bandit", {"interval": 3, "teacher": "exp3s"}),
            ("joint", {"weights": "famo"}),
            ("joint", {"weights": "gradnorm"}),
        ],
    )
    def test_run_killed_within_an_interval_ends_in_the_same_bits(self, kind, changes, tmp_path):
        config = made(kind, member("rotation"), member("moco_v2", queue=16), **changes)

        def fit(directory, steps, **options):
            batches = data.Batches(tiny.split(), batch_size=8, seed=0)
            first = lambda start: itertools.islice(batches(start), steps - start)  # noqa: E731
            return tiny.fit(tiny.task(config), config, directory, batches=first, **options)

        whole = fit(tmp_path / "whole", 8).task
        with pytest.raises(StopIteration):
            fit(tmp_path / "killed", 4, checkpoint_every=4)
        tiny.assert_same(fit(tmp_path / "killed", 8).task, whole)

    @pytest.mark.slow
    @pytest.mark.parametrize("one, other", pairs())
    def test_every_task_can_be_a_member(self, one, other):
        body = next((name for name in (one, other) if name in tiny.OF_VITS), one)
        for kind, changes in (
            ("bandit", {"interval": 2}),
            ("joint", {"weights": "famo"}),
            ("joint", {"weights": "pcgrad"}),
        ):
            config = made(kind, table_member(one), table_member(other), **changes)
            task = tiny.task(config, tiny.table_body(body))
            program, state = make_state(task, tiny.recipe(config))
            logged = set()
            for way in range(program.alternatives):
                advance_way = train_step.of(dataclasses.replace(program, turn=way))
                after, metrics, _ = jax.eval_shape(advance_way, state, tiny.table_batch(one), jax.random.key(0))
                assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
                logged |= set(metrics)
            assert {f"{one}_loss", f"{other}_loss"} <= logged

    @pytest.mark.slow
    @pytest.mark.parametrize("kind, changes", [("bandit", {"interval": 2}), ("joint", {"weights": "gradnorm"})])
    def test_distillation_and_clusters_of_members(self, kind, changes, tmp_path):
        """Members with views of different number, one that is called at each epoch, and one that freezes its layer."""
        terms = ({"kind": "mse"}, {"kind": "cassle"}, {"kind": "l2_sp"})
        members = (member("rotation"), member("deepcluster", clusters=4), member("swav", **tiny.FIELDS["swav"]))
        config = made(kind, *members, distill=terms, **changes)
        task, teacher = tiny.task(config), tiny.backbone(1)
        frozen = distill.attach_distillation(task, distill.read_terms(config.distill), {"previous": teacher}, seed=0)
        before = tiny.arrays(task)
        result = tiny.fit(task, config, tmp_path, frozen=frozen)
        lines = read_journal(tmp_path / METRICS)
        assert all(np.isfinite([line["loss"], line["distill_mse"]]).all() for line in lines) and len(lines) == 8
        assert result.record["skipped_steps"] == 0
        tiny.assert_different(result.task, before)

    @pytest.mark.slow
    def test_what_members_declare_holds_under_their_names(self):
        config = made("joint", member("simsiam"), member("deepcluster", clusters=4), member("byol"))
        task = tiny.task(config, tiny.Linear())
        assert task.CONSTANT_RATE == ("members.simsiam.predictor",)
        assert task.RESTARTS == ("members.deepcluster.head",) and task.AT_EPOCH == "every"
        assert task.lowest == (0.0, 0.0, -1.0)
        features = jax.random.normal(jax.random.key(0), (24, 6))
        task.at_epoch(features, jax.random.key(1))
        labels = np.asarray(task.members["deepcluster"].labels.get_value())
        assert len(np.unique(labels)) > 1

    @pytest.mark.slow
    def test_picture_shows_the_views_of_all_members(self):
        alone, both = (
            draw_views(tiny.task(config, tiny.Linear()), tiny.batch()["image"], 0)
            for config in (
                FrozenConfigDict(member("rotation")),
                made("bandit", member("rotation"), member("simclr"), interval=2),
            )
        )
        assert both.shape[0] == alone.shape[0] and both.shape[1] > alone.shape[1]


class TestConfigs:
    def test_values_of_all_fields_make_the_same_stage(self):
        two = (member("rotation"), member("moco_v2", queue=16))
        for config in (
            base.stage("joint", members=two, weights={"name": "self_paced", "chance": {"rotation": 1.386}}),
            base.stage("joint", members=two, weights=(1, 3), distill={"kind": "mse"}),
            base.stage("bandit", members=two, teacher={"name": "exp3s", "eta": 0.1}, costs={"moco_v2": 2}),
        ):
            assert base.stage_from_values(config.to_dict()).to_dict() == config.to_dict()

    def test_two_members_of_one_task_have_two_names(self):
        config = base.stage("bandit", members=(member("rotation"), member("rotation")))
        assert list(config.fields.members) == ["rotation", "rotation_2"]

    @pytest.mark.parametrize(
        "kind, members, changes, message",
        [
            ("joint", ("rotation",), {}, "joint needs at least two members, and has rotation alone"),
            ("bandit", (), {}, "bandit needs at least two members, and has none"),
            ("bandit", ("rotation", "simclr"), {"interval": 1}, "`interval` is 1; it must be at least 2"),
            ("bandit", ("rotation", "simclr"), {"interval": 8}, "8 steps are 1 intervals of 8, fewer than the 2"),
            ("bandit", ("rotation", "simclr"), {"interval": 2, "costs": {"simclr": 0}}, "each must be above 0"),
            ("bandit", ("rotation", "simclr"), {"interval": 2, "costs": {"byol": 1}}, "costs: 'byol' is no member"),
            ("joint", ("deepcluster", "clusterfit"), {}, "one finds its targets once and another at each epoch"),
            ("joint", ("rotation", "rotation3d"), {}, "rotation3d needs volumes"),
        ],
    )
    def test_stages_that_cannot_be_made(self, kind, members, changes, message):
        with pytest.raises(UserError, match=message):
            tiny.task(made(kind, *map(member, members), **changes), tiny.Linear())

    def test_members_that_cannot_be_in_a_config(self):
        two = (member("rotation"), member("simclr"))
        for members, changes, message in (
            ((base.stage("joint", members=two), member("byol")), {}, "'joint' has members itself"),
            ((member("rotation", batch_size=8), member("byol")), {}, "'rotation' sets batch_size: a member has a task"),
            (two, {"weights": (1, 2, 3)}, r"weights: 3 numbers for 2 members \(rotation, simclr\)"),
            (two, {"weights": {"learning_rate": 1.0}}, "has no name"),
            (two, {"size": 64}, "give `size` and `preset` to each"),
        ):
            with pytest.raises(UserError, match=message):
                base.stage("joint", members=members, **changes)
        with pytest.raises(UserError, match="unknown weights 'fame': known are"):
            base.stage("joint", members=two, weights="fame")

    def test_a_member_with_parts_and_views_of_other_sizes_are_refused(self):
        body = Numbers()
        setting = Setting(24, 8)
        with pytest.raises(UserError, match="'b' has parts with optimizers of their own"):
            members = {"a": Slope(body, (1, 0)), "b": Parted(body, (1, 0))}
            Joint(body, None, setting, members=members, rngs=nnx.Rngs(0))
        config = made("joint", member("rotation"), base.stage("simclr", size=32))
        with pytest.raises(UserError, match="rotation has 16 px, simclr has 32 px"):
            tiny.task(config, tiny.Linear())

    def test_a_stage_of_this_kind_is_known_by_name(self):
        assert pretext.task_class("joint") is Joint
        with pytest.raises(UserError, match="of several bandit and joint"):
            pretext.task_class("jont")
