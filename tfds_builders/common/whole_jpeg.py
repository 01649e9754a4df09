"""Decodes JPEG streams that are whole. Other decoders fill what is missing with grey."""

import re

import numpy as np
import simplejpeg
from jaxtyping import UInt8

# What libjpeg warns of though no pixel is missing: some bytes that fill up the end, an odd version number.
HARMLESS = re.compile(r"\b\d extraneous bytes before marker 0xd9|Unknown Adobe color transform|unknown JFIF revision")


def decode_jpeg(data: bytes, colour: bool) -> UInt8[np.ndarray, "height width *channels"]:
    """RGB, or grey levels. Raises ValueError if it cannot be decoded or bytes are missing."""
    channels = "RGB" if colour else "GRAY"
    try:
        pixels = simplejpeg.decode_jpeg(data, channels)
    except ValueError as error:
        if not HARMLESS.search(str(error)):
            raise ValueError(f"it has lost bytes: {error}") from error
        pixels = simplejpeg.decode_jpeg(data, channels, strict=False)
    return pixels if colour else pixels[..., 0]
