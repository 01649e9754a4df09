"""A disk of a few kilobytes, where this user may mount one."""

import subprocess

import pytest


class SmallDisk:
    """A file system in memory, mounted at `path`."""

    def __init__(self, path):
        self.path = path

    def mount(self, *options: str) -> subprocess.CompletedProcess:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(self.path)]
        return subprocess.run(command, capture_output=True, text=True)

    def change(self, *options: str) -> None:
        """Changes its size ('size=64k'), or whether it can be written to ('ro', 'rw')."""
        subprocess.run(["mount", "-o", ",".join(["remount", *options]), str(self.path)], check=True)

    def unmount(self) -> None:
        # Lazily: a library may hold a file open.
        subprocess.run(["umount", "-l", str(self.path)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """An empty disk of 64 kB."""
    disk = SmallDisk(tmp_path / "disk")
    disk.path.mkdir()
    try:
        mounted = disk.mount("size=64k")
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if mounted.returncode:
        pytest.skip(f"this user may not mount a disk: {mounted.stderr.strip()}")
    yield disk
    disk.unmount()
