"""Compressed pixels, decoded in a process apart: at some of what GDCM does not expect in a stream, a single wrong byte,
it ends the process that it runs in.
"""

import atexit
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Num
from pydicom.dataset import Dataset

PROGRAM = Path(__file__).with_name("decoding_process.py")
IMAGE_GROUP = 0x0028
# Of `formats.DICOM_COMPRESSIONS`.
COMPRESSIONS = frozenset(("JPEG", "JPEG extended", "JPEG lossless", "JPEG-LS", "JPEG 2000"))


class Decoder:
    """A process that decodes one image after another. It ends when its standard input does, so with this one."""

    def __init__(self) -> None:
        # -P: the names of this folder's modules must not hide those of packages. An own session: Ctrl-C is not for it.
        command = [sys.executable, "-P", str(PROGRAM)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def decode(self, image: Dataset) -> np.ndarray | str:
        """The values, or why they cannot be decoded. Raises EOFError or OSError if the process has ended."""
        pickle.dump(image, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def close(self) -> int:
        """Its exit status."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:  # what was not sent any more
                pass
        return self._process.wait()


# One for each thread that decodes at the same time; taken out while it works.
_idle: list[Decoder] = []
# A forked process must not talk into its parent's pipes.
os.register_at_fork(after_in_child=_idle.clear)
atexit.register(lambda: [decoder.close() for decoder in _idle])


def decode(dataset: Dataset) -> Num[np.ndarray, "height width"]:
    """The values as the decoder gives them, unused bits not yet dropped. Raises ValueError if there are none."""
    image, status = pixels_alone(dataset), 0
    # A process may die of what an earlier image did to its memory: what kills a new one is damaged.
    for take in (idle_or_new, Decoder):
        decoder = take()
        try:
            answer = decoder.decode(image)
        except (EOFError, OSError, pickle.UnpicklingError):
            status = decoder.close()
            continue
        _idle.append(decoder)
        if isinstance(answer, str):
            raise ValueError(answer)
        return answer
    raise ValueError(f"the decoder ends at its pixels, with status {status}")


def idle_or_new() -> Decoder:
    try:
        return _idle.pop()
    except IndexError:
        return Decoder()


def pixels_alone(dataset: Dataset) -> Dataset:
    """What a decoder needs; of all the rest some cannot be sent."""
    image = dataset.group_dataset(IMAGE_GROUP)
    image["PixelData"] = dataset["PixelData"]
    image.file_meta = dataset.file_meta
    return image
