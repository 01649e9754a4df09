"""From a prepared data set to batches on the devices.

Order is a pure function of (seed, epoch, step): nothing about the position in the data needs saving, any step can be
reached at once, and the number of workers, the residence and the number of devices do not change what comes next. An
epoch is `len(split) // batch_size` full batches of a fresh permutation; the remainder is left out, another one each
epoch.
"""

import collections
import functools
from collections.abc import Callable, Iterator

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from aiseeme_jax import seeds
from aiseeme_jax.data.splits import Split

# Batches made ready on the devices ahead of the step that wants them.
AHEAD = 2


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Full batches in an epoch. ValueError if there is none, or if the devices cannot share a batch."""
    if images < batch_size:
        raise ValueError(f"a batch of {batch_size} is larger than the split of {images} images; lower `batch_size`")
    if batch_size % jax.device_count():
        raise ValueError(
            f"a batch of {batch_size} does not divide over {jax.device_count()} devices; change `batch_size`"
        )
    return images // batch_size


def check_residence(residence: str) -> None:
    """ValueError for a residence that is not known."""
    if residence not in ("stream", "device"):
        raise ValueError(f"unknown runtime.residence '{residence}': known are stream, device")


def order(images: int, *, batch_size: int, seed: int) -> grain.MapDataset:
    """Indices int [batch_size] of every step, without end, a fresh permutation each epoch."""
    indices = grain.MapDataset.range(images).seed(seeds.derive(seed, "order")).shuffle()
    return indices.batch(batch_size, drop_remainder=True).repeat(None)


class Batches:
    """Endless training batches on the devices: `image` [B, H, W, C] uint8, or of volumes [B, D, H, W, 1] int16 HU,
    `index` int32 [B] and `label` int32 [B], -1 where not known.

    Calling it with a step gives the iterator that starts there; `in_order` passes over the split once.

    Args:
      split: where the images come from.
      batch_size: of the global batch.
      seed: of the order.
      residence: 'stream' reads and decodes as it goes; 'device' keeps the whole split in device memory and gathers.
      workers: processes that read ahead; 0 reads in threads of this one.
    """

    def __init__(self, split: Split, *, batch_size: int, seed: int, residence: str = "stream", workers: int = 0):
        check_residence(residence)
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.steps_per_epoch = steps_per_epoch(len(split), batch_size)
        self.residence, self.workers = residence, workers
        self.sharding = NamedSharding(data_mesh(), PartitionSpec("data"))
        self._resident = None

    def __call__(self, start_step: int = 0) -> Iterator[dict[str, Array]]:
        steps = order(len(self.split), batch_size=self.batch_size, seed=self.seed)
        return self._read(steps, start_step)

    def in_order(self) -> Iterator[dict[str, Array]]:
        """Every image once, by index; the last batch is filled up with the last image."""
        last = len(self.split) - 1
        rows = (last // self.batch_size + 1) * self.batch_size
        # `min` and not a lambda: it travels to worker processes.
        indices = grain.MapDataset.range(rows).map(functools.partial(min, last))
        return self._read(indices.batch(self.batch_size), 0)

    def _read(self, source: grain.MapDataset, start_step: int) -> Iterator[dict[str, Array]]:
        place = self._gather if self.residence == "device" else self._place
        if self.residence == "stream":
            source = source.map(_Load(self.split, jax.process_index(), jax.process_count()))
        stream = source.slice(slice(start_step, None)).to_iter_dataset(
            grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
        )
        if self.workers and self.residence == "stream":
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        return _ahead(iter(stream), place)

    def _place(self, local: dict[str, np.ndarray]) -> dict[str, Array]:
        return {key: jax.make_array_from_process_local_data(self.sharding, value) for key, value in local.items()}

    def _gather(self, indices: np.ndarray) -> dict[str, Array]:
        if self._resident is None:
            everywhere = NamedSharding(self.sharding.mesh, PartitionSpec())
            images = self.split.images()
            self._resident = jax.make_array_from_process_local_data(everywhere, images, images.shape)
            self._take = jax.jit(lambda images, rows: images[rows], out_shardings=self.sharding)
        batch = _columns(self.split, _share(indices, jax.process_index(), jax.process_count()))
        batch = self._place(batch)
        return {"image": self._take(self._resident, batch["index"]), **batch}


class _Load:
    """Reads this process's share of a batch; a class, since it travels to worker processes."""

    def __init__(self, split: Split, process: int, processes: int):
        self.split, self.process, self.processes = split, process, processes

    def __call__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = _share(indices, self.process, self.processes)
        return {"image": self.split.read(rows), **_columns(self.split, rows)}


def _share(indices: np.ndarray, process: int, processes: int) -> np.ndarray:
    size = len(indices) // processes
    return np.asarray(indices[process * size : (process + 1) * size])


def _columns(split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"index": rows.astype(np.int32), "label": split.labels[rows]}


def _ahead(stream: Iterator, place: Callable) -> Iterator[dict[str, Array]]:
    """Places batches on the devices before they are wanted; transfers run while the step does."""
    waiting: collections.deque = collections.deque()
    for item in stream:
        waiting.append(place(item))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def evaluation_batches(split: Split, batch_size: int) -> Iterator[dict[str, Array]]:
    """Every image once and in order, the last batch padded with the last image: `image`, `index` and `label`."""
    sharding = NamedSharding(data_mesh(), PartitionSpec("data"))
    size = -(-batch_size // jax.device_count()) * jax.device_count()
    process, processes = jax.process_index(), jax.process_count()
    for start in range(0, len(split), size):
        rows = np.minimum(np.arange(start, start + size), len(split) - 1)
        mine = _share(rows, process, processes)
        local = {"image": split.read(mine), **_columns(split, mine)}
        yield {key: jax.make_array_from_process_local_data(sharding, value) for key, value in local.items()}


def first_images(split: Split, count: int) -> Shaped[Array, "k *space c"]:
    """The first images of a split, for pictures."""
    return jnp.asarray(split.read(np.arange(min(count, len(split)))))
