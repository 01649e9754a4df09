"""From a prepared data set to batches on the devices.

Order is a pure function of (seed, epoch, step): nothing about the position in the data needs saving, any step can be
reached at once, and the number of workers, the residence and the number of devices do not change what comes next. An
epoch is `len(split) // batch_size` full batches of a fresh permutation; the remainder is left out, another one each
epoch.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8

# Batches made ready on the devices ahead of the step that wants them.
AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set, in a fixed order.

    Attributes:
      name: for messages, such as 'isic2019/64:train'.
      source: random access to images, uint8 [H, W, C]; `read` takes many at once.
      labels: int32 [N], -1 where not known.
      groups: the lesion or patient of each image; what splits and intervals must not tear apart.
      ids: a name for each image, stable over runs.
      class_names: one per label.
    """

    name: str
    source: Sequence
    labels: Int[np.ndarray, "n"]
    groups: tuple[str, ...]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k h w c"]:
        """The images at `indices`. ValueError if they differ in size."""
        many = getattr(self.source, "__getitems__", None)
        rows = many([int(i) for i in indices]) if many else [self.source[int(i)] for i in indices]
        shapes = {row.shape for row in rows}
        if len(shapes) > 1:
            raise ValueError(
                f"{self.name}: images of different sizes {sorted(shapes)[:3]} cannot form a batch; "
                "prepare a config of the data set with one size"
            )
        return np.stack(rows)

    def images(self) -> UInt8[np.ndarray, "n h w c"]:
        """All images, in memory."""
        return np.concatenate([self.read(rows) for rows in np.array_split(np.arange(len(self)), len(self) // 256 + 1)])

    def subset(self, indices: Int[np.ndarray, "k"]) -> "Split":
        """The split made of these images only; positions count anew."""
        rows = [int(i) for i in indices]
        return dataclasses.replace(
            self,
            source=_Rows(self.source, rows),
            labels=self.labels[rows],
            groups=tuple(self.groups[i] for i in rows),
            ids=tuple(self.ids[i] for i in rows),
        )


class _Rows:
    """A view of some rows of a source."""

    def __init__(self, source: Sequence, rows: list[int]):
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        return self.source[self.rows[i]]

    def __getitems__(self, indices: Sequence[int]):
        many = getattr(self.source, "__getitems__", None)
        rows = [self.rows[i] for i in indices]
        return many(rows) if many else [self.source[i] for i in rows]


class _Images:
    """The images alone of a TFDS data source."""

    def __init__(self, source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.source[i]["image"]

    def __getitems__(self, indices: Sequence[int]) -> list[np.ndarray]:
        return [row["image"] for row in self.source.__getitems__(indices)]


def from_arrays(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Sequence[int] | None = None,
    groups: Sequence[str] | None = None,
    class_names: Sequence[str] = (),
    name: str = "arrays",
) -> Split:
    """A split of arrays in memory; without `labels` all are -1, without `groups` each image is its own."""
    ids = tuple(str(i) for i in range(len(images)))
    return Split(
        name=name,
        source=images,
        labels=np.full(len(images), -1, np.int32) if labels is None else np.asarray(labels, np.int32),
        groups=tuple(groups) if groups is not None else ids,
        ids=ids,
        class_names=tuple(class_names),
    )


def open_split(name: str, split: str, data_dir: str | Path) -> Split:
    """Opens a split of a data set that TFDS prepared as array_record.

    Args:
      name: data set and config, such as 'isic2019/64'.
      split: 'train', 'validation' or 'test'.
      data_dir: the folder it was prepared in.

    Raises FileNotFoundError, with the command that prepares it, if it is not there; ValueError for an unknown split.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(prepared_directory(name, data_dir))
    if split not in builder.info.splits:
        raise ValueError(f"{name} has no split '{split}': there are {', '.join(builder.info.splits)}")
    features = builder.info.features
    # The tables alone, without decoding an image.
    skip = {key: tfds.decode.SkipDecoding() for key in ("image", "mask") if key in features}
    rows = list(builder.as_data_source(split, decoders=skip))
    text = lambda key: tuple(_text(row[key]) for row in rows)  # noqa: E731
    return Split(
        name=f"{name}:{split}",
        source=_Images(builder.as_data_source(split, decoders={k: v for k, v in skip.items() if k == "mask"})),
        labels=np.array([row["label"] for row in rows], np.int32),
        groups=text("lesion_id"),
        ids=text("image_id"),
        class_names=tuple(features["label"].names),
    )


def prepared_directory(name: str, data_dir: str | Path) -> Path:
    """The newest version's folder of a prepared data set, or FileNotFoundError that says how to prepare it."""
    versions = [p.parent for p in Path(data_dir).expanduser().glob(f"{name}/*/dataset_info.json")]
    if not versions:
        builder = name.split("/")[0]
        archives = "" if builder.endswith("phantom") else " --manual_dir FOLDER"
        where = f"where FOLDER holds the archives that tfds_builders/{builder}/README.md lists, " if archives else ""
        raise FileNotFoundError(
            f"the data set '{name}' is not prepared under '{data_dir}'. Prepare it with\n"
            f"    python -m tfds_builders prepare {name} --data_dir {data_dir}{archives}\n"
            f"{where}or name the folder where it lies with --config.runtime.data_dir=…"
        )
    return max(versions, key=lambda p: tuple(int(n) for n in p.name.split(".")))


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


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
    indices = grain.MapDataset.range(images).seed(seed).shuffle()
    return indices.batch(batch_size, drop_remainder=True).repeat(None)


class Batches:
    """Endless training batches on the devices: `image` uint8, `index` int32 and, where known, `label` int32, all [B,
    ...].

    Calling it with a step gives the iterator that starts there.

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
        source = order(len(self.split), batch_size=self.batch_size, seed=self.seed)
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
    """Every image once and in order, the last batch padded: `image`, `index`, `label` and `mask` (0 marks padding)."""
    sharding = NamedSharding(data_mesh(), PartitionSpec("data"))
    size = -(-batch_size // jax.device_count()) * jax.device_count()
    process, processes = jax.process_index(), jax.process_count()
    for start in range(0, len(split), size):
        rows = np.arange(start, start + size)
        mask = (rows < len(split)).astype(np.float32)
        rows = np.minimum(rows, len(split) - 1)
        mine = _share(rows, process, processes)
        local = {"image": split.read(mine), **_columns(split, mine), "mask": _share(mask, process, processes)}
        yield {key: jax.make_array_from_process_local_data(sharding, value) for key, value in local.items()}


def first_images(split: Split, count: int) -> UInt8[Array, "k h w c"]:
    """The first images of a split, for pictures."""
    return jnp.asarray(split.read(np.arange(min(count, len(split)))))
