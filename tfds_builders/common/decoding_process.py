"""The process of `decoding.Decoder`: reads pickled images from its standard input, writes what they decode to."""

import os
import pickle
import sys

from pydicom.pixels import pixel_array


def main() -> None:
    # What decoders print must not come among the answers.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        while sys.stdin.buffer.peek(1):
            image = pickle.load(sys.stdin.buffer)
            try:
                # pydicom's own correction takes HighBit for granted.
                answer = pixel_array(image, raw=True, decoding_plugin="gdcm", correct_unused_bits=False)
            except Exception as error:  # of damaged pixels, nearly anything
                answer = str(error) or type(error).__name__
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    main()
