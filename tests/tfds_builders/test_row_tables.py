"""Tables of the rows beside the records: what they hold, and files of them that cannot be used."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfds_builders.common import row_tables

TABLES = {
    "image_id": np.array(["a", "", "é, a longer name than fits into fifteen bytes", "x\0y"], row_tables.TEXT),
    "labels": np.array([[0, np.nan], [1, 1], [np.nan, 0], [0, 0]], np.float32),
    "label": np.array([0, 1, -1, 2]),
    "marker": np.array([True, False, True, True]),
}


@pytest.fixture
def path(tmp_path):
    file = row_tables.table_path(tmp_path, "train")
    row_tables.save_tables(file, TABLES)
    return file


def test_a_file_gives_back_what_was_written(path):
    found = row_tables.load_tables(path, 4, list(TABLES))
    assert found.keys() == TABLES.keys() and path.name == "tables-train.npz"
    for name, table in TABLES.items():
        assert found[name].dtype == table.dtype
        np.testing.assert_array_equal(found[name], table)
    assert row_tables.load_tables(path, 4, ["label"]).keys() == {"label"}


def test_many_texts_are_written_and_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(row_tables, "DECODED", 3)
    for count in (0, 1, 3, 7):
        texts = np.array([f"é{n}" * n for n in range(count)], row_tables.TEXT)
        np.testing.assert_array_equal(row_tables.decode(*row_tables.encode(texts)), texts)


def test_a_file_is_replaced_as_a_whole(path, monkeypatch):
    def fail(file, **_):
        file.write(b"PK")
        raise OSError("no space left")

    before = path.read_bytes()
    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space left"):
        row_tables.save_tables(path, TABLES)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_there_may_be_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        row_tables.load_tables(tmp_path / "tables-train.npz", 4, ["label"])


REMEDY = r"delete this file \(tables-train.npz\); it is written anew when the data set is next opened"


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "changed", "array"])
def test_a_damaged_file_is_named(path, damage):
    whole = path.read_bytes()
    place = whole.index("é, a longer".encode())
    contents = {"cut": whole[:-40], "empty": b"", "text": b"image_id,label", "changed": bytearray(whole)}
    if damage == "array":
        np.save(path.with_suffix(".npy"), TABLES["label"])
        contents["array"] = path.with_suffix(".npy").read_bytes()
    contents["changed"][place] ^= 1
    path.write_bytes(contents[damage])
    with pytest.raises(row_tables.DamagedTable, match=f"tables-train.npz is damaged .*: {REMEDY}"):
        row_tables.load_tables(path, 4, list(TABLES))


def test_a_file_of_another_split_or_data_set_is_named(path):
    with pytest.raises(
        row_tables.DamagedTable, match=f"tables-train.npz has 4 rows of image_id, but its split 5: {REMEDY}"
    ):
        row_tables.load_tables(path, 5, list(TABLES))
    with pytest.raises(row_tables.DamagedTable, match=f"tables-train.npz is damaged .*sex.*: {REMEDY}"):
        row_tables.load_tables(path, 4, ["label", "sex"])


def test_texts_and_their_ends_must_fit():
    for ends in ([1, 4], [3, 2], [-1, 3]):
        with pytest.raises(ValueError, match="the ends of its texts do not fit their bytes"):
            row_tables.decode(np.frombuffer(b"abc", np.uint8), np.array(ends))


def test_numbers_classes_texts_and_labels_have_tables_and_pixels_none():
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "volume": tfds.features.Tensor(shape=(4, 4, 4, 1), dtype=np.int16),
        "boxes": tfds.features.Sequence({"box": tfds.features.Tensor(shape=(4,), dtype=np.float32)}),
        "centre": tfds.features.Tensor(shape=(3,), dtype=np.float32),
        "labels": tfds.features.Tensor(shape=(14,), dtype=np.float32),
        "image_id": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
        "has_mask": tfds.features.Scalar(np.bool_),
    }
    assert set(row_tables.table_features(features)) == {"labels", "image_id", "label", "has_mask"}


@pytest.mark.parametrize("many", [1, 7])
def test_a_builder_writes_the_rows_in_the_order_of_its_records(tmp_path, many, monkeypatch):
    from tfds_builders import prepare

    monkeypatch.setattr(row_tables, "READ_ROWS", many)
    builder = prepare("derm_phantom/tiny", data_dir=tmp_path)
    names = row_tables.table_features(builder.info.features)
    for split, info in builder.info.splits.items():
        found = row_tables.load_tables(row_tables.table_path(builder.data_dir, split), info.num_examples, names)
        rows = list(builder.as_data_source(split))
        assert found["image_id"].tolist() == [row["image_id"].decode() for row in rows]
        assert found["label"].tolist() == [row["label"] for row in rows]


def test_pixels_are_not_decoded_for_the_tables(tmp_path, monkeypatch):
    from tfds_builders import prepare

    builder = prepare("derm_phantom/tiny", data_dir=tmp_path)
    monkeypatch.setattr(tfds.features.Image, "decode_example_np", lambda *_: pytest.fail("an image was decoded"))
    assert len(row_tables.read_tables(builder, "train")["image_id"]) == builder.info.splits["train"].num_examples
