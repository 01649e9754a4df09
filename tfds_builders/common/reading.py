"""Random access to some features of a split; the others are neither parsed nor decoded."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfds_builders.common.opening import DamagedDataSet, find_shards


class StoredFeatures:
    """Rows of a prepared split: row i is a dictionary of the named features. Pickles, for reading in workers.

    Args:
      builder: of a data set that is stored as array_record.
      split: as the data set names it.
      names: of the features.

    Raises DamagedDataSet, here or when rows are read, if a file of the records is missing or damaged.
    """

    def __init__(self, builder: Any, split: str, names: Sequence[str]):
        import tensorflow_datasets as tfds

        shards = find_shards(builder, split)
        self.files = [path for path, _ in shards]
        self.ends = list(itertools.accumulate(length for _, length in shards))
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self.records = builder.as_data_source(split, deserialize_method=raw)
        self.features = tfds.features.FeaturesDict({name: builder.info.features[name] for name in names})

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> dict[str, Any]:
        try:
            record = self.records[row]
        except RuntimeError as error:
            raise self._damaged(row, error) from None
        return self.features.deserialize_example_np(record)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Many rows in one call; to read one record takes as long as to look up its file's index."""
        try:
            records = self.records.__getitems__(list(rows))
        except RuntimeError:
            # One by one: the first that cannot be read names its file.
            return [self[row] for row in rows]
        return [self.features.deserialize_example_np(record) for record in records]

    def _damaged(self, row: int, error: Exception) -> DamagedDataSet:
        file = self.files[int(np.searchsorted(self.ends, row, side="right"))]
        return DamagedDataSet(file, "is damaged", f"row {row} of its split cannot be read: {error}")
