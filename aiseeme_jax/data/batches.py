"""From a prepared data set to batches on the devices.

Order is a pure function of (seed, step): nothing about the position in the data needs saving, any step can be reached
at once, and the number of workers, the residence and the number of devices do not change what comes next. An epoch is
`len(split) // batch_size` full batches of a fresh permutation; the remainder is left out, another one each epoch. An
epoch of a mixture has as many batches; which images they hold says `mixtures.py`.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from aiseeme_jax.data.splits import Split
from aiseeme_jax.errors import UserError

if TYPE_CHECKING:
    import grain

# Threads that read batches, and batches that are read ahead of the one that is placed.
THREADS, READ_AHEAD = 4, 8
# Batches made ready on the devices ahead of the step that wants them.
AHEAD = 2


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Full batches in an epoch. UserError if there is none, or if the devices cannot share a batch."""
    if images < batch_size:
        raise UserError(f"a batch of {batch_size} is larger than the split of {images} images; lower `batch_size`")
    if batch_size % jax.device_count():
        raise UserError(
            f"a batch of {batch_size} does not divide over {jax.device_count()} devices; change `batch_size`"
        )
    return images // batch_size


RESIDENCES = ("stream", "device")


@dataclasses.dataclass(frozen=True)
class Loading:
    """How batches come to the devices; it does not matter to what they hold.

    Attributes:
      residence: 'stream' reads and decodes as it goes; 'device' keeps the whole split in device memory and gathers.
      workers: processes that read ahead; 0 reads in threads of this one.

    Raises UserError for a residence that is not known.
    """

    residence: str = "stream"
    workers: int = 0

    def __post_init__(self):
        if self.residence not in RESIDENCES:
            raise UserError(f"unknown runtime.residence '{self.residence}': known are {', '.join(RESIDENCES)}")


class Batches:
    """Endless training batches on the devices.

    They hold `image`, uint8 or int16 [B, H, W, C] or of volumes int16 [B, D, H, W, 1], `index` int32 [B], and `label`,
    int32 [B], -1 where not known, or of several findings float32 [B, K], NaN where not known; on request
    `segmentation`, uint8 [B, H, W, 1] of 0, 1 and 255 where not known.

    Calling it with a step gives the iterator that starts there, and `among` the like of some of the images; `in_order`
    and `shuffled` pass over the split once.

    Args:
      split: where the images come from; it also decides on their order.
      batch_size: of the global batch.
      seed: of the order.
      loading: how they are read.
      segmentation: whether batches have `segmentation`.

    Raises UserError for a batch that cannot be, or if there are no segmentations.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        loading: Loading = Loading(),
        segmentation: bool = False,
    ):
        if segmentation:
            split.check_segmentation()
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.steps_per_epoch = steps_per_epoch(len(split), batch_size)
        self.loading, self.segmentation = loading, segmentation
        self.sharding = NamedSharding(data_mesh(), PartitionSpec("data"))
        self._resident = None

    def __call__(self, start_step: int = 0) -> Iterator[dict[str, Array]]:
        return self._read(self.split.order(batch_size=self.batch_size, seed=self.seed), start_step)

    def in_order(self) -> Iterator[dict[str, Array]]:
        """Every image once, by index; the last batch is filled up with the last image."""
        import grain

        last = len(self.split) - 1
        rows = (last // self.batch_size + 1) * self.batch_size
        # `min` and not a lambda: it travels to worker processes.
        indices = grain.MapDataset.range(rows).map(functools.partial(min, last))
        return self._read(indices.batch(self.batch_size), 0)

    def among(self, rows: Int[np.ndarray, " k"], start_step: int = 0, *, seed: int) -> Iterator[dict[str, Array]]:
        """Batches of these images alone, from a step on, in the order that their split has with a seed; `index` is
        their position in the whole split.

        Args:
          rows: increasing.

        Raises UserError if they fill no batch.
        """
        steps_per_epoch(len(rows), self.batch_size)
        order = self.split.subset(rows).order(batch_size=self.batch_size, seed=seed)
        return self._read(order.map(functools.partial(np.take, rows)), start_step)

    def shuffled(self, seed: int) -> Iterator[dict[str, Array]]:
        """Every image once, in one random order; the last batch is filled up with the first images of that order."""
        import grain

        images = len(self.split)
        rows = np.random.default_rng(seed).permutation(images)
        padded = np.resize(rows, -(-images // self.batch_size) * self.batch_size)
        indices = grain.MapDataset.range(len(padded)).map(functools.partial(np.take, padded))
        return self._read(indices.batch(self.batch_size), 0)

    def of_rows(self, rows: Iterable[Int[np.ndarray, " b"]]) -> Iterator[dict[str, Array]]:
        """Batches of the images that the caller lists: for each batch the positions of all its images, in any order.

        They are read in threads of this process, without grain.
        """
        if self.loading.residence == "device":
            return _ahead(iter(rows), self._gather)
        load = _Load(self.split, self.segmentation, jax.process_index(), jax.process_count())
        return _ahead(_read_in_threads(load, rows), self._place)

    def _read(self, source: "grain.MapDataset", start_step: int) -> Iterator[dict[str, Array]]:
        import grain

        place = self._gather if self.loading.residence == "device" else self._place
        if self.loading.residence == "stream":
            source = source.map(_Load(self.split, self.segmentation, jax.process_index(), jax.process_count()))
        stream = source.slice(slice(start_step, None)).to_iter_dataset(
            grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=READ_AHEAD)
        )
        if self.loading.workers and self.loading.residence == "stream":
            workers = grain.MultiprocessingOptions(num_workers=self.loading.workers)
            stream = stream.mp_prefetch(workers, worker_init_fn=_leave_ctrl_c_to_the_run)
        return _ahead(iter(stream), place)

    def _place(self, local: dict[str, np.ndarray]) -> dict[str, Array]:
        return {key: jax.make_array_from_process_local_data(self.sharding, value) for key, value in local.items()}

    def _gather(self, indices: np.ndarray) -> dict[str, Array]:
        if self._resident is None:
            everywhere = NamedSharding(self.sharding.mesh, PartitionSpec())
            pixels = {"image": self.split.images()}
            pixels |= {"segmentation": self.split.segmentations()} if self.segmentation else {}
            self._resident = {
                name: jax.make_array_from_process_local_data(everywhere, stored, stored.shape)
                for name, stored in pixels.items()
            }
            self._take = jax.jit(lambda stored, rows: stored[rows], out_shardings=self.sharding)
        batch = _tables(self.split, _share(indices, jax.process_index(), jax.process_count()))
        batch = self._place(batch)
        return {**{name: self._take(stored, batch["index"]) for name, stored in self._resident.items()}, **batch}


def _leave_ctrl_c_to_the_run(worker: int, workers: int) -> None:
    """A terminal sends Ctrl-C to the worker processes too, and the last steps before the stop need their images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Load:
    """Reads this process's share of a batch; a class, since it travels to worker processes."""

    def __init__(self, split: Split, segmentation: bool, process: int, processes: int):
        # Without names and attributes: of a million images they take a while to travel.
        self.split = Split(split.name, split.source, split.labels, (), (), (), segmentation=split.segmentation)
        self.segmentation, self.process, self.processes = segmentation, process, processes

    def __call__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return _rows(self.split, _share(indices, self.process, self.processes), self.segmentation)


def _rows(split: Split, rows: np.ndarray, segmentation: bool) -> dict[str, np.ndarray]:
    masks = {"segmentation": split.read_segmentation(rows)} if segmentation else {}
    return {"image": split.read(rows), **masks, **_tables(split, rows)}


def _share(indices: np.ndarray, process: int, processes: int) -> np.ndarray:
    size = len(indices) // processes
    return np.asarray(indices[process * size : (process + 1) * size])


def _tables(split: Split, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"index": rows.astype(np.int32), "label": split.labels[rows]}


def _read_in_threads(load: Callable, rows: Iterable[np.ndarray]) -> Iterator[Any]:
    """`load` of every item, in order, at most READ_AHEAD of them ahead of the one that is asked for."""
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for indices in rows:
            waiting.append(pool.submit(load, indices))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _ahead(stream: Iterator, place: Callable) -> Iterator[dict[str, Array]]:
    """Places batches on the devices before they are wanted; transfers run while the step does."""
    waiting: collections.deque = collections.deque()
    for item in stream:
        waiting.append(place(item))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def evaluation_batches(split: Split, batch_size: int, *, segmentation: bool = False) -> Iterator[dict[str, Array]]:
    """Every image once and in order, the last batch padded with the last image; what a batch holds: see `Batches`."""
    sharding = NamedSharding(data_mesh(), PartitionSpec("data"))
    size = -(-batch_size // jax.device_count()) * jax.device_count()
    process, processes = jax.process_index(), jax.process_count()
    for start in range(0, len(split), size):
        rows = np.minimum(np.arange(start, start + size), len(split) - 1)
        local = _rows(split, _share(rows, process, processes), segmentation)
        yield {key: jax.make_array_from_process_local_data(sharding, value) for key, value in local.items()}


def first_images(split: Split, count: int) -> Shaped[Array, "k *space c"]:
    """The first images of a split, for pictures."""
    return jnp.asarray(split.read(np.arange(min(count, len(split)))))
