"""Random numbers for one thing have nothing in common with those for another."""

import itertools

import jax
import numpy as np
import pytest
import tiny
from flax import nnx
from tiny import no_events, tiny_in_the_table  # noqa: F401

from aiseeme_jax import data, distill, pretext, seeds, weights
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.curriculum.checks import make_stage_task
from aiseeme_jax.evaluate import finetune
from aiseeme_jax.jobs import curriculum
from aiseeme_jax.task import Bank
from aiseeme_jax.training import loop
from configs import base

pytestmark = pytest.mark.usefixtures("no_events", "tiny_in_the_table")

# Of rows this long, or longer, chance makes next to none that correlate by more than this.
LENGTH, ALIKE = 24, 0.85
QUICK = ("rotation", "simclr")


def config(name: str):
    made = base.get_config()
    volumes = tiny.of_volumes(name)
    resnet, vit = {"name": "tiny", "width": 0.125, "stem": "small"}, {"name": "tiny_vit", "patch": 4}
    made.model.update({"dtype": "float32", **(vit if name in tiny.OF_VITS else resnet)})
    made.model.update({"dimensions": 3, "channels": 1} if volumes else {})
    return made


def kernels(module: nnx.Module, *, without: str = "") -> dict[str, np.ndarray]:
    """What is drawn, parameters and banks, as rows by name."""
    state = nnx.as_pure(nnx.state(module, nnx.Any(nnx.Param, Bank)))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = {jax.tree_util.keystr(path): np.ravel(leaf) for path, leaf in leaves}
    return {n: x for n, x in named.items() if (not without or without not in n) and len(x) >= LENGTH and x.std() > 0}


def assert_unrelated(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    assert some and others
    for (name, one), (beside, other) in itertools.product(some.items(), others.items()):
        length = min(len(one), len(other))
        found = abs(np.corrcoef(one[:length], other[:length])[0, 1])
        assert not found > ALIKE, f"{name} and {beside} begin alike: r = {found:.3f}"


class TestDerive:
    def test_follows_from_all_parts_and_their_order(self):
        cases = [(0,), (1,), (-1,), (0, "heads"), (0, "order"), ("heads", 0), (1, 23), (12, 3)]
        found = [seeds.derive(*case) for case in cases]
        assert len(set(found)) == len(cases) and all(0 <= seed < 2**32 for seed in found)
        assert found == [seeds.derive(*case) for case in cases]

    def test_stages_of_runs_with_neighbouring_seeds_have_nothing_in_common(self):
        found = [seeds.of_stage(run, position, None) for run in range(20) for position in range(20)]
        assert len(set(found)) == 400

    def test_own_seed_of_a_stage_counts_alone(self):
        assert seeds.of_stage(0, 1, 5) == seeds.of_stage(3, 2, 5) != seeds.of_stage(0, 1, 6)
        assert seeds.of_stage(0, 0, 0) != seeds.of_stage(0, 0, None)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in pretext.TASKS])
def test_heads_have_nothing_in_common_with_the_backbone(name):
    made = config(name)
    backbone = weights.starting_backbone(made.model, "scratch", made.seed)
    body = kernels(backbone)
    task = make_stage_task(
        tiny.table_stage(name), backbone, 24, 1, dtype="float32", seed=seeds.of_stage(made.seed, 0, None)
    )
    assert_unrelated(kernels(task, without="backbone"), body)


def test_predictors_have_nothing_in_common_with_heads_and_backbone():
    made, stage = config("simclr"), tiny.stage("simclr", distill={"kind": "pfr"})
    backbone = weights.starting_backbone(made.model, "scratch", 0)
    seed = seeds.of_stage(0, 0, None)
    task = make_stage_task(stage, backbone, 24, 1, dtype="float32", seed=seed)
    before = kernels(task)
    distill.attach_distillation(task, distill.read_terms(stage.distill), {"previous": backbone}, seed=seed)
    assert_unrelated(kernels(task.distillation), before)


def test_head_of_fine_tuning_has_nothing_in_common_with_random_weights():
    made = config("rotation")
    target = base.target("finetune", size=tiny.SIZE, batch_size=8)
    backbone = weights.starting_backbone(made.model, "scratch", 0)
    subject = protocols.Subject("scratch", backbone, {name: tiny.split() for name in protocols.SPLITS})
    runtime = protocols.Runtime(8, data.Loading(), log_every=1, checkpoint_every=5, patience=10)
    task = finetune.make_task(protocols.Measurement(target, 1.0, 0), subject, runtime)
    tiny.assert_same(task.backbone, backbone)
    assert_unrelated(kernels(task.head), kernels(backbone))


def show_start(monkeypatch, tmp_path, run: int, position: int, **changes):
    """The order, the seed and the head that a stage of a run starts with."""
    made = config("rotation")
    made.seed, made.targets, made.baselines = run, (), ()
    made.stages = tuple(base.stage("rotation", size=tiny.SIZE, batch_size=8, **changes) for _ in range(2))
    found = []

    def fit(task, batches, recipe, *_, **__):
        order = np.concatenate([batch["index"] for batch in itertools.islice(batches(0), 3)])
        found.append({"order": order, "key": recipe.seed, "head": np.array(task.head.kernel.get_value())})
        return loop.Result(task, {})

    monkeypatch.setattr(data, "open_split", lambda *_: tiny.split())
    monkeypatch.setattr(loop, "fit", fit)
    curriculum.run(made, tmp_path / f"{len(list(tmp_path.iterdir()))}")
    return found[position]


def same(one, other):
    return [name for name in one if np.array_equal(one[name], other[name])]


@pytest.mark.slow
def test_second_stage_of_one_run_is_not_the_first_of_the_next_one(monkeypatch, tmp_path):
    second, first = show_start(monkeypatch, tmp_path, 0, 1), show_start(monkeypatch, tmp_path, 1, 0)
    assert same(second, first) == []
    assert same(second, show_start(monkeypatch, tmp_path, 0, 1)) == ["order", "key", "head"]


@pytest.mark.slow
def test_own_seed_of_a_stage_is_honoured(monkeypatch, tmp_path):
    assert same(*(show_start(monkeypatch, tmp_path, run, 0, seed=7) for run in (0, 1))) == ["order", "key", "head"]


def test_views_of_the_first_step_have_another_key_than_the_first_weights():
    drawn = nnx.Rngs(seeds.derive(0, "backbone")).params()
    step = jax.random.fold_in(jax.random.key(seeds.derive(0, "steps")), 0)
    assert not np.array_equal(jax.random.key_data(drawn), jax.random.key_data(step))
