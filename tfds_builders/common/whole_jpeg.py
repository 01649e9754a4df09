"""Decodes JPEG streams that are whole. Other decoders fill what is missing with grey."""

import re

import imagecodecs
import numpy as np
import simplejpeg
from jaxtyping import UInt8

# What libjpeg warns of though no pixel is missing: some bytes that fill up the end, an odd version number.
HARMLESS = re.compile(r"\b\d extraneous bytes before marker 0xd9|Unknown Adobe color transform|unknown JFIF revision")


def decode_jpeg(data: bytes, colour: bool) -> UInt8[np.ndarray, "height width *channels"]:
    """RGB, or grey levels. Raises ValueError if it cannot be decoded or bytes are missing."""
    channels = "RGB" if colour else "GRAY"
    try:
        return simplejpeg.decode_jpeg(data, channels).squeeze(axis=() if colour else -1)
    except ValueError as error:
        if not HARMLESS.search(str(error)):
            raise
    # The same libjpeg, which says nothing.
    return imagecodecs.jpeg8_decode(data)
