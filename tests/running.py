"""Starts `launch.py` as a user does, in a process of its own, and looks at what it leaves."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# A test's time is mostly compilation, and a program that runs for a moment is not worth optimising.
QUICK_TO_COMPILE = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)
# Where there are more virtual devices than cores, collectives that XLA runs side by side can wait for each other for
# ever: this makes it run them in one order on all devices.
ONE_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
# Seconds after which a process that should have ended is taken to hang.
PATIENCE = 300


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    """A folder with derm_phantom/tiny prepared in it."""
    import tfds_builders

    folder = tmp_path_factory.mktemp("data")
    tfds_builders.prepare("derm_phantom/tiny", data_dir=folder)
    return folder


def start(
    workdir: Path,
    data_dir: Path,
    *flags: str,
    devices: int = 1,
    config: str = "tests/tiny_config.py",
    events: bool = False,
    environment: Mapping[str, str] = MappingProxyType({}),
):
    """A running launch.py; its messages go to `<workdir>.log`, of several processes to one log each.

    Without `events` it finds no clu: tensorflow takes seconds to import.
    """
    log = free_log(workdir)
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "launch.py", *arguments(workdir, data_dir, flags, config)],
            cwd=REPOSITORY,
            env={**surroundings(devices, events), **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    process.log = log
    return process


def arguments(workdir: Path, data_dir: Path, flags: tuple[str, ...], config: str) -> list[str]:
    return [f"--config={config}", f"--workdir={workdir}", f"--config.runtime.data_dir={data_dir}", *flags]


def surroundings(devices: int, events: bool) -> dict[str, str]:
    """The environment of launch.py, with so many virtual devices."""
    xla = f"--xla_force_host_platform_device_count={devices} {ONE_ORDER} {QUICK_TO_COMPILE}"
    tests = REPOSITORY / "tests"
    places = os.pathsep.join(map(str, [*([] if events else [tests / "no_clu"]), tests, REPOSITORY]))
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla, "PYTHONPATH": places}


def free_log(workdir: Path) -> Path:
    """The first `<workdir>-<number>.log` that is not there."""
    return next(path for i in range(100) if not (path := workdir.with_name(f"{workdir.name}-{i}.log")).exists())


@pytest.fixture(scope="module")
def launch_forked():
    """`launch` for runs that end before they train, in a fraction of the time: all share the imports."""
    process = subprocess.Popen(
        [sys.executable, "tests/forked_launches.py"],
        cwd=REPOSITORY,
        env=surroundings(devices=1, events=False),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def launch(workdir: Path, data_dir: Path, *flags: str, config: str = "tests/tiny_config.py") -> tuple[int, str]:
        log = free_log(workdir)
        print(json.dumps([arguments(workdir, data_dir, flags, config), str(log)]), file=process.stdin, flush=True)
        return int(process.stdout.readline()), log.read_text()

    yield launch
    process.stdin.close()
    assert process.wait(PATIENCE) == 0


def finish(process) -> tuple[int, str]:
    """Exit code and everything it said."""
    try:
        process.wait(PATIENCE)
    finally:
        process.kill()
    return process.returncode, process.log.read_text()


def launch(workdir: Path, data_dir: Path, *flags: str, **options) -> tuple[int, str]:
    return finish(start(workdir, data_dir, *flags, **options))


def wait_for(process, condition: Callable[[], bool], what: str) -> None:
    """Returns as soon as `condition` holds; fails if the process ends before."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(f"the run ended before {what}:\n{process.log.read_text()[-3000:]}")
        time.sleep(0.001)


def stage_folder(workdir: Path, label: str) -> Path | None:
    """The folder of a stage, once it is there."""
    return next(iter(sorted(workdir.glob(f"stages/{label}-*"))), None)


def logged(workdir: Path, label: str) -> int:
    """The last step in a stage's log, 0 if there is none."""
    path = (stage_folder(workdir, label) or workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0


def record(workdir: Path, label: str) -> dict:
    """What a finished stage left."""
    return json.loads((stage_folder(workdir, label) / "record.json").read_text())


def outcome(workdir: Path) -> dict[str, str | list]:
    """What must not depend on kills: hash of every backbone, and the table of results."""
    found = {label: record(workdir, label)["backbone_hash"] for label in ("00-rotation", "01-moco_v2")}
    return {**found, "results": read_results(workdir)}


def read_results(workdir: Path) -> list[list[str]]:
    """The table of results without what everything cost, which differs from run to run."""
    with open(workdir / "results.csv", newline="") as file:
        rows = list(csv.reader(file))
    return [row[: rows[0].index("high") + 1] for row in rows]


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
