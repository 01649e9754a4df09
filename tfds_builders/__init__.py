"""TFDS builders of the data sets, and `prepare`, which makes one ready from Python.

Importing this package imports neither TFDS nor TensorFlow. The builders know nothing of the training code:
they write array_record data sets that any program can open with `tfds.builder_from_directory`.
"""

from tfds_builders.preparing import DATASETS, prepare

__all__ = ["DATASETS", "prepare"]
