"""The process of `decoding.Decoder`: reads pickled images from its standard input, writes what they decode to."""

import os
import pickle
import sys

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import pixel_array
from pydicom.uid import JPEGExtended12Bit


def main() -> None:
    # What decoders print must not come among the answers, nor on the screen: the answer says what is wrong.
    with os.fdopen(os.dup(1), "wb") as answers, open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        while sys.stdin.buffer.peek(1):
            image = pickle.load(sys.stdin.buffer)
            try:
                answer = decode(image)
            except Exception as error:  # of damaged pixels, nearly anything
                answer = str(error) or type(error).__name__
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()


def decode(image: Dataset) -> np.ndarray:
    if image.file_meta.TransferSyntaxUID == JPEGExtended12Bit and int(image.BitsStored) > 8:
        return decode_deep_jpeg(image)
    # pydicom's own correction takes HighBit for granted.
    return pixel_array(image, raw=True, decoding_plugin="gdcm", correct_unused_bits=False)


def decode_deep_jpeg(image: Dataset) -> np.ndarray:
    """Lossy JPEG of 12 bits, which pydicom does not let GDCM decode. Raises ValueError if it has another shape."""
    values = imagecodecs.jpeg8_decode(get_frame(image.PixelData, 0, number_of_frames=1))
    if values.shape != (image.Rows, image.Columns):
        raise ValueError(f"the compressed image is {values.shape}, not {image.Rows} x {image.Columns}")
    return values


if __name__ == "__main__":
    main()
