"""Random access to some features of a split; the others are neither parsed nor decoded."""

from collections.abc import Sequence
from typing import Any


class StoredFeatures:
    """Rows of a prepared split: row i is a dictionary of the named features. Pickles, for reading in workers.

    Args:
      builder: of a data set that is stored as array_record.
      split: as the data set names it.
      names: of the features.
    """

    def __init__(self, builder: Any, split: str, names: Sequence[str]):
        import tensorflow_datasets as tfds

        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self.records = builder.as_data_source(split, deserialize_method=raw)
        self.features = tfds.features.FeaturesDict({name: builder.info.features[name] for name in names})

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.features.deserialize_example_np(self.records[row])

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Many rows in one call; to read one record takes as long as to look up its file's index."""
        return [self.features.deserialize_example_np(record) for record in self.records.__getitems__(list(rows))]
