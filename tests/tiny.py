"""What the tests of training share: small data, a backbone that compiles in a moment, tasks and stages around it."""

from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import FrozenConfigDict

from aiseeme_jax import augment, data, models, pretext
from aiseeme_jax.evaluate import features
from aiseeme_jax.models import resnet
from aiseeme_jax.models import vit as transformers
from aiseeme_jax.training import events, loop
from aiseeme_jax.training.state import split_state
from configs import base

SIZE = 16
# Not a bottleneck; blocks of each stage.
TINY = (False, (1, 0, 0, 0))
# Features, blocks, heads.
TINY_VIT = (24, 2, 2)
# Tasks that work with a ViT alone.
OF_VITS = ("mae",)
# Crops and flips alone: colour and blur are long to compile and not what is tested here.
PLAIN = {"flip_horizontal": 0.5, "jitter_probability": 0.0, "blur_probability": 0.0, "grey_probability": 0.0}
PLAIN |= {"solarise_probability": 0.0}
# No randomness at all: a view is the image.
STILL = PLAIN | {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip_horizontal": 0.0}
STILL |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
# The same of volumes.
PLAIN_VOLUMES = {"jitter_probability": 0.0, "blur_probability": 0.0, "noise_probability": 0.0}
# Fields of a task for tests over the table, where its published sizes are for larger networks.
FIELDS = {
    "simsiam": {"bottleneck": 8},
    # At the published 0.07 random negatives count for so little that loss and gradient are next to nothing.
    "moco_v1": {"temperature": 0.2},
    "nnclr": {"hidden": 12},
    "dino": {"hidden": 32, "bottleneck": 16, "local_crops": 2},
    "odc": {"clusters": 4, "hidden": 12, "dimensions": 8},
    "swav": {"dimensions": 16, "local_crops": 2},
}


@pytest.fixture
def no_events(monkeypatch):
    """No TensorBoard files: tensorflow takes seconds to import."""
    monkeypatch.setattr(events, "writer", lambda directory, **options: None)


@pytest.fixture
def tiny_in_the_table(monkeypatch):
    """'tiny', a ResNet of one block, and 'tiny_vit' are names of `models.BACKBONES`."""
    monkeypatch.setitem(resnet.ARCHITECTURES, "tiny", TINY)
    monkeypatch.setitem(transformers.ARCHITECTURES, "tiny_vit", TINY_VIT)
    added = {"tiny": partial(models.ResNet, "tiny"), "tiny_vit": partial(models.ViT, "tiny_vit")}
    monkeypatch.setattr(models, "BACKBONES", {**models.BACKBONES, **added})


@pytest.fixture
def own_tasks(monkeypatch):
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(pretext, "TASKS", dict(pretext.TASKS))
    monkeypatch.setattr(pretext, "REGISTERED", {})


def images(count: int, *, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Smooth random blobs on noise, uint8 [count, size, size, 3], no two alike."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (count, 4, 4, 3)).repeat(size // 4, axis=1).repeat(size // 4, axis=2)
    return (coarse + random.integers(0, 56, (count, size, size, 3))).astype(np.uint8)


def volumes(count: int, *, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """The like of `images` in HU, int16 [count, size, size, size, 1]."""
    random = np.random.default_rng(seed)
    coarse = random.integers(-1000, 300, (count, 4, 4, 4, 1))
    for axis in (1, 2, 3):
        coarse = coarse.repeat(size // 4, axis=axis)
    return (coarse + random.integers(0, 100, (count, size, size, size, 1))).astype(np.int16)


def split(count: int = 24, *, seed: int = 0) -> data.Split:
    """Three classes told by brightness, two photographs of each lesion."""
    labels = np.arange(count) // 2 % 3
    pixels = images(count, seed=seed) // 2 + (60 * labels[:, None, None, None]).astype(np.uint8)
    groups = [f"{seed}-{i // 2}" for i in range(count)]
    return data.from_arrays(pixels, labels, groups, ("dark", "grey", "bright"), name="tiny:train")


def backbone(seed: int = 0, **options) -> models.ResNet:
    with mock.patch.dict(resnet.ARCHITECTURES, tiny=TINY):
        return models.ResNet("tiny", width=0.125, stem="small", **options, rngs=nnx.Rngs(seed))


def vit(seed: int = 0, **options) -> models.ViT:
    """A ViT of patches of 4 pixels, which has no batch statistics."""
    with mock.patch.dict(transformers.ARCHITECTURES, tiny_vit=TINY_VIT):
        return models.ViT("tiny_vit", **{"patch": 4, **options}, rngs=nnx.Rngs(seed))


class Linear(nnx.Module):
    """A backbone without batch statistics: pooled features are a linear map of the pixels."""

    channels = 3

    def __init__(self, size: int = SIZE, features: int = 6, seed: int = 0):
        self.features = features
        self.map = nnx.Linear(size * size * 3, features, use_bias=False, rngs=nnx.Rngs(seed))

    def __call__(self, x, *, train):
        return {"pooled": self.map(x.reshape(x.shape[0], -1))}


class Pixels(nnx.Module):
    """A backbone of images of any size and rank: a layer on each pixel; pooled features are the mean of its map."""

    def __init__(self, channels: int = 3, features: int = 6, seed: int = 0):
        self.channels, self.features = channels, features
        self.map = nnx.Linear(channels, features, rngs=nnx.Rngs(seed))

    def __call__(self, x, *, train):
        last = jax.nn.gelu(self.map(x))
        return {"stage4": last, "pooled": last.mean(axis=tuple(range(1, x.ndim - 1)))}


class Normed(Linear):
    """The same, normalised by the statistics of the batch in training and by their running averages otherwise."""

    def __init__(self, size: int = SIZE, features: int = 6, seed: int = 0):
        super().__init__(size, features, seed)
        self.norm = nnx.BatchNorm(features, use_bias=False, use_scale=False, epsilon=0.0, rngs=nnx.Rngs(0))

    def __call__(self, x, *, train):
        return {"pooled": self.norm(super().__call__(x, train=train)["pooled"], use_running_average=not train)}


def stage(task: str, *, steps: int = 6, batch: int = 8, **changes):
    """A frozen stage config."""
    changes = {"views": PLAIN, "duration": base.duration(steps=steps), "batch_size": batch, **changes}
    return FrozenConfigDict(base.stage(task, size=SIZE, **changes))


def of_volumes(name: str) -> bool:
    """A task of the table that takes nothing but volumes."""
    return 2 not in pretext.TASKS[name].DIMENSIONS


def table_stage(name: str, **changes):
    """A stage of any task of the table, of the kind and at a size for tests."""
    kind = {"preset": "ct", "views": PLAIN_VOLUMES} if of_volumes(name) else {}
    return stage(name, **{**kind, **FIELDS.get(name, {}), **changes})


def table_body(name: str, *, seed: int = 0, channels: int | None = None, dimensions: int | None = None) -> nnx.Module:
    """A backbone without batch statistics, for any task of the table; of what the task needs unless told otherwise."""
    channels = channels or (1 if of_volumes(name) else 3)
    if name in OF_VITS:
        return vit(seed, channels=channels, dimensions=dimensions or (3 if of_volumes(name) else 2))
    return Pixels(channels=channels, seed=seed)


def table_backbone(name: str, **options) -> nnx.Module:
    """`backbone()`, for any task of the table, or a ViT if it needs one."""
    make = vit if name in OF_VITS else backbone
    return make(channels=1, dimensions=3, **options) if of_volumes(name) else make(**options)


def table_batch(name: str, count: int = 8) -> dict[str, jax.Array]:
    """`batch()`, or one of volumes, as the task needs."""
    made = batch(count)
    return {**made, "image": jnp.asarray(volumes(24)[:count])} if of_volumes(name) else made


def table_split(name: str) -> data.Split:
    """`split()`, or one of 24 volumes, as the task needs."""
    return data.from_arrays(volumes(24), name="tiny:train") if of_volumes(name) else split()


def table_task(name: str, body: nnx.Module | None = None, *, batch: int = 8, **changes) -> pretext.Task:
    """Any task of the table at a size for tests; by default around a backbone without batch statistics."""
    return task(table_stage(name, batch=batch, **changes), table_body(name) if body is None else body)


def noise(*names: str, count: int = 8, size: int = 4, seed: int = 0) -> dict[str, jax.Array]:
    """Views that cost nothing to make: normal noise [count, size, size, 3] by name, and the key of a shuffle."""
    random = np.random.default_rng(seed)
    views = {name: jnp.asarray(random.standard_normal((count, size, size, 3)), jnp.float32) for name in names}
    return views | {"shuffle": jax.random.key(seed)}


def run(module: nnx.Module, x):
    """`module(x, train=True)`, compiled whole; the module stays as it is."""
    graph, state = nnx.split(module)
    return jax.jit(lambda state, x: nnx.merge(graph, state)(x, train=True))(nnx.as_pure(state), x)


def loss(task_: pretext.Task, views, progress: float = 0.0) -> pretext.Output:
    """`task_.loss`, compiled whole: in a test most of its time goes into compiling one operation after another."""
    graph, params, rest = split_state(task_)

    def run(params, rest, views, progress):
        merged = nnx.merge(graph, params, rest)
        return merged.loss(views, progress), split_state(merged)[2]

    output, rest = jax.jit(run)(params, rest, views, jnp.float32(progress))
    nnx.update(task_, rest)
    return output


def task(
    config, body: nnx.Module | None = None, *, images: int = 24, seed: int = 0, dtype: str = "float32"
) -> pretext.Task:
    return pretext.make_task(
        config.task,
        body if body is not None else backbone(seed),
        augment.views_of(config.views) if "views" in config else None,
        pretext.Setting(images, config.batch_size, dtype, config.duration.steps or 1),
        config.fields,
        rngs=nnx.Rngs(seed),
    )


def batch(count: int = 8, *, start: int = 0) -> dict[str, jax.Array]:
    """Images `start`, `start` + 1, … of `images(24)`."""
    rows = np.arange(start, start + count)
    return {"image": jnp.asarray(images(24)[rows]), "index": jnp.asarray(rows, jnp.int32)}


def on_devices(tree, count: int):
    """The tree with its leading axis spread over the first `count` devices."""
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))


def use_devices(monkeypatch, count: int) -> None:
    """Batches and states lie on the first `count` devices."""
    mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
    for module in (data, data.batches):
        monkeypatch.setattr(module, "data_mesh", lambda: mesh)


def recipe(config, *, steps: int | None = None, patience: int = 10) -> loop.Recipe:
    """How a stage is trained on the 24 images of `split()`."""
    return loop.Recipe(config, steps or config.duration.steps, 24 // config.batch_size, seed=0, patience=patience)


def fit(
    task_,
    config,
    directory,
    *,
    batches=None,
    steps: int | None = None,
    log_every: int = 1,
    checkpoint_every: int = 2,
    identity=None,
    frozen=None,
    **callbacks,
) -> loop.Result:
    """`loop.fit` on the 24 images of `split()`, saving every second step."""
    gather = lambda body: features.extract(body, split(), views=task_.spec, batch_size=config.batch_size)  # noqa: E731
    return loop.fit(
        task_,
        batches or data.Batches(split(), batch_size=config.batch_size, seed=0),
        recipe(config, steps=steps),
        loop.Folder(directory, "test", log_every, checkpoint_every, identity or {}),
        frozen=frozen,
        callbacks=loop.Callbacks(**{"gather_features": gather, **callbacks}),
    )


def arrays(tree) -> dict[str, np.ndarray]:
    """Every array of a module or a tree by name."""
    if isinstance(tree, dict) and all(isinstance(leaf, np.ndarray) for leaf in tree.values()):
        return tree
    tree = nnx.as_pure(nnx.state(tree)) if isinstance(tree, nnx.Module) else tree
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def named(tree) -> dict[str, jax.Array]:
    """Every array of a tree by name, also of a traced one."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(one, other) -> None:
    """Equal to the last bit."""
    one, other = arrays(one), arrays(other)
    assert one.keys() == other.keys()
    different = [name for name in one if one[name].tobytes() != other[name].tobytes()]
    assert not different, f"{len(different)} of {len(one)} arrays differ: {different[:5]}"


def assert_different(one, other) -> None:
    one, other = arrays(one), arrays(other)
    assert any(one[name].tobytes() != other[name].tobytes() for name in one)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the rows, in double precision."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=-1)) + top[:, 0]
    return float(np.mean(log_sum - logits[np.arange(len(labels)), labels]))
