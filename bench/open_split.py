"""Seconds and memory to open a split of a million rows.

    python -m bench.open_split [--rows=1000000] [--data_dir=FOLDER]

A random data set is written with TFDS: images of 8 x 8 pixels with ids, patients, 14 findings, age, sex and view, named
like chest X-rays. It is then opened twice, each time in a new process. The first time there are no files of tables, so
that all rows are read and the files are written. The second time the files are used. With --data_dir the data set stays
there, and a later run uses it again.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.measure import processor, table, versions_of

PACKAGES = ("tensorflow-datasets", "array-record", "numpy")
NAME, FINDINGS = "drawn_rows", 14
CHILD = """
import json, sys, time
import tensorflow_datasets
from aiseeme_jax import data
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
before, start, worked = peak(), time.perf_counter(), time.process_time()
split = data.open_split(sys.argv[1], "train", sys.argv[2])
opened, worked = time.perf_counter(), time.process_time() - worked
print_of_it = split.fingerprint()
hashed = time.perf_counter()
split.read([0, len(split) // 2, len(split) - 1])
read = time.perf_counter()
print(json.dumps({"rows": len(split), "open": opened - start, "worked": worked, "fingerprint": hashed - opened,
                  "read": read - hashed, "before": before, "peak": peak()}))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.open_split", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--data_dir", type=Path, help="folder of the random data set; by default it is deleted")
    options = parser.parse_args(arguments)
    times = ("open, s", "of it CPU, s", "fingerprint, s", "3 images, s")
    head = ("opened", "rows", *times, "MiB after imports", "MiB at the peak")
    rows = [head]
    with tempfile.TemporaryDirectory() as folder:
        data_dir = options.data_dir or Path(folder)
        prepared = prepare(data_dir, options.rows)
        for path in prepared.glob("tables-*.npz"):
            path.unlink()
        rows += [measured(title, data_dir) for title in ("from the records", "from the file of tables")]
    print(f"{os.cpu_count()} CPU cores ({processor()}), Python {platform.python_version()}, {versions_of(PACKAGES)}\n")
    print(table(rows))


def prepare(data_dir: Path, rows: int) -> Path:
    """The folder of the random data set, which is written unless it exists."""
    import tensorflow_datasets as tfds

    from tfds_builders.preparing import newest_version

    found = newest_version(NAME, data_dir)
    if found is not None:
        return found
    features = {
        "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
        "image_id": tfds.features.Text(),
        "patient_id": tfds.features.Text(),
        "labels": tfds.features.Tensor(shape=(FINDINGS,), dtype=np.float32),
        "age": tfds.features.Scalar(np.float32),
        "sex": tfds.features.Text(),
        "view": tfds.features.Text(),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name=NAME,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": draw_rows(rows)},
        data_dir=data_dir,
        file_format="array_record",
        disable_shuffling=True,
    )
    return newest_version(NAME, data_dir)


def draw_rows(count: int) -> Iterator[tuple[int, dict]]:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (8, 8, 1), np.uint8)
    labels = np.array([0, 1, np.nan], np.float32)
    for row in range(count):
        patient = f"patient{row // 4:06d}"
        yield (
            row,
            {
                "image": image,
                "image_id": f"train/{patient}/study{row % 4}/view1_frontal",
                "patient_id": patient,
                "labels": labels[random.integers(0, 3, FINDINGS)],
                "age": float(row % 90),
                "sex": ("female", "male")[row // 4 % 2],
                "view": ("AP", "PA")[row % 2],
            },
        )


def measured(title: str, data_dir: Path) -> tuple[str, ...]:
    command = [sys.executable, "-c", CHILD, NAME, str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{title}:\n{done.stderr}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    seconds = (f"{found[part]:.1f}" for part in ("open", "worked", "fingerprint", "read"))
    return (title, f"{found['rows']:,}", *seconds, f"{found['before']:,.0f}", f"{found['peak']:,.0f}")


if __name__ == "__main__":
    main()
