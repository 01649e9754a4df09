"""The ISIC 2019 builder on small data in the official format: contents, splits, masks, errors."""

import http.server
import json
import math
import threading
import zipfile
from functools import partial

import cv2
import numpy as np
import pytest
from official_format import CLASSES, IMAGES, MASKS, jpeg, png_mask

from tfds_builders import prepare
from tfds_builders.isic2019 import Builder
from tfds_builders.isic2019 import official as names


def prepare_small(official, tmp_path, config="64", zipped=True, out="data"):
    return prepare(f"isic2019/{config}", data_dir=tmp_path / out, manual_dir=official.write(zipped))


def identity(splits):
    return {split: sorted(example["image_id"] for example in examples) for split, examples in splits.items()}


def test_every_row_arrives_with_its_values(official, tmp_path, read):
    splits = read(prepare_small(official, tmp_path))
    examples = {example["image_id"].decode(): example for split in splits.values() for example in split}
    assert examples.keys() == official.labels.keys()
    for image, example in examples.items():
        assert official.labels[image][CLASSES[example["label"]]] == "1.0"
        assert example["image"].shape == (64, 64, 3) and example["image"].dtype == np.uint8
    odd = examples["ISIC_9000000_downsampled"]
    assert odd["lesion_id"] == b"ISIC_9000000_downsampled"
    assert math.isnan(odd["age"]) and odd["sex"] == odd["site"] == b"unknown"
    assert examples["ISIC_0000000"]["age"] == 45 and examples["ISIC_0000000"]["lesion_id"] == b"HAM_0000"


def test_pixels_are_those_of_the_archive_in_rgb(official, tmp_path, read):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 2] = 200
    official.images["ISIC_0000000.jpg"] = cv2.imencode(".jpg", red)[1].tobytes()
    splits = read(prepare_small(official, tmp_path))
    image = next(e["image"] for split in splits.values() for e in split if e["image_id"] == b"ISIC_0000000")
    assert abs(image.reshape(-1, 3).mean(axis=0) - [200, 0, 0]).max() < 4


def test_splits_are_disjoint_by_lesion_and_stratified(official, tmp_path, read, report):
    builder = prepare_small(official, tmp_path)
    splits = read(builder)
    lesions = {split: {example["lesion_id"] for example in examples} for split, examples in splits.items()}
    assert not lesions["train"] & lesions["validation"]
    assert not lesions["train"] & lesions["test"]
    assert not lesions["validation"] & lesions["test"]
    for split, wanted in (("train", 9.8), ("validation", 1.4), ("test", 2.8)):
        counts = np.bincount([example["label"] for example in splits[split]], minlength=8)
        assert abs(counts - wanted).max() <= 1.6
        assert report(builder)["splits"][split]["classes"] == dict(zip(CLASSES, counts.tolist(), strict=True))


def test_folder_zip_and_every_config_have_the_same_splits(official, tmp_path, read, report):
    unpacked = prepare_small(official, tmp_path, zipped=False, out="folder")
    first = identity(read(unpacked))
    listing = report(unpacked)["inputs"][IMAGES]["listing_sha256"]
    assert len(listing) == 64
    for config in ("64", "224", "full"):
        builder = prepare_small(official, tmp_path, config=config, out=config)
        assert identity(read(builder)) == first
    assert len(report(builder)["inputs"][IMAGES]["sha256"]) == 64


def test_order_of_rows_does_not_move_an_image(official, tmp_path, read):
    first = identity(read(prepare_small(official, tmp_path)))
    official.labels = dict(reversed(official.labels.items()))
    assert identity(read(prepare_small(official, tmp_path, out="again"))) == first


def test_identical_images_of_two_lesions_stay_together(official, tmp_path, read, report):
    # The same photograph under twelve lesion ids: apart, they would land in all three splits.
    copies = [f"ISIC_80000{number:02d}" for number in range(12)]
    for image in copies:
        official.add(image, "NV", f"HAM_8{image[-2:]}", jpeg(8000))
    builder = prepare_small(official, tmp_path)
    homes = {split for split, images in identity(read(builder)).items() for image in images if image.decode() in copies}
    assert len(homes) == 1
    assert report(builder)["identical_images"] == [copies]


def test_full_keeps_the_official_bytes(official, tmp_path):
    import tensorflow_datasets as tfds

    builder = prepare_small(official, tmp_path, config="full")
    source = tfds.builder_from_directory(builder.data_dir).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert source[0]["image"] == official.images[f"{source[0]['image_id'].decode()}.jpg"]


@pytest.mark.parametrize(("config", "shape"), [("64_mask", (64, 64, 1)), ("full_mask", (30, 40, 1))])
def test_masks(official, tmp_path, read, config, shape):
    official.masks["ISIC_0000000_segmentation.png"] = png_mask()
    official.masks["ISIC_9000000_segmentation.png"] = png_mask(60, 80)
    splits = read(prepare_small(official, tmp_path, config=config))
    with_mask = set()
    for example in (example for split in splits.values() for example in split):
        assert example["mask"].shape == shape
        assert set(np.unique(example["mask"])) == ({0, 255} if example["has_mask"] else {0})
        if example["has_mask"]:
            with_mask.add(example["image_id"])
            inside = example["mask"][..., 0] == 255
            height, width = inside.shape
            assert inside[height // 2, width // 2] and not inside[0].any()
            assert inside.mean() == pytest.approx(1 / 6, abs=0.03)
    assert with_mask == {b"ISIC_0000000", b"ISIC_9000000_downsampled"}


def test_mask_of_another_shape_is_named(official, tmp_path):
    official.masks["ISIC_0000000_segmentation.png"] = png_mask(40, 40)
    with pytest.raises(ValueError, match="ISIC_0000000_segmentation.*40x40.*40x30"):
        prepare_small(official, tmp_path, config="64_mask")


def test_mask_config_without_masks_says_which_file(official, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"lesion masks.*{MASKS}.zip"):
        prepare_small(official, tmp_path, config="64_mask")


def test_unk_row_is_left_out_and_listed(official, tmp_path, read, report):
    official.labels["ISIC_0000003"] = {name: f"{float(name == 'UNK')}" for name in (*CLASSES, "UNK")}
    builder = prepare_small(official, tmp_path)
    assert not any(b"ISIC_0000003" in images for images in identity(read(builder)).values())
    assert [row["image"] for row in report(builder)["left_out"]] == ["ISIC_0000003"]


def test_a_subset_of_rows_uses_what_it_needs(official, tmp_path, read, report):
    for image in list(official.labels)[::2]:
        del official.labels[image]
    builder = prepare_small(official, tmp_path)
    assert sum(map(len, read(builder).values())) == len(official.labels)
    assert report(builder)["images_not_in_the_table"] == len(official.images) - len(official.labels)


def drop_column(table, column):
    for row in table.values():
        del row[column]


def change(image, **values):
    return lambda official: (official.labels if "age_approx" not in values else official.details)[image].update(values)


def put(name, data):
    return lambda official: official.images.update({name: data})


DAMAGES = {
    "no label column": (lambda o: drop_column(o.labels, "VASC"), "GroundTruth.csv has no column VASC"),
    "no lesion column": (
        lambda o: drop_column(o.details, "lesion_id"),
        "Metadata.csv has no column lesion_id",
    ),
    "two classes": (change("ISIC_0000002", MEL="1.0", DF="1.0"), "ISIC_0000002 is not one-hot"),
    "no class": (change("ISIC_0000002", MEL="0.0"), "ISIC_0000002 is not one-hot"),
    "half a class": (change("ISIC_0000002", MEL="0.5"), "ISIC_0000002 is not one-hot"),
    "a word for a class": (change("ISIC_0000002", NV="no"), "ISIC_0000002 is not one-hot"),
    "age": (change("ISIC_0000002", age_approx="old"), "age of ISIC_0000002 is 'old'"),
    "no details": (
        lambda o: o.details.pop("ISIC_0000002"),
        "GroundTruth.csv: ISIC_0000002: not in .*Metadata.csv",
    ),
    "no image": (lambda o: o.images.pop("ISIC_0000002.jpg"), "1 of .* are not in .*: ISIC_0000002"),
    "not an image": (put("ISIC_0000002.jpg", b"hello"), "ISIC_0000002 is of no known format"),
    "empty image": (put("ISIC_0000002.jpg", b""), "ISIC_0000002 is empty"),
    "cut image": (put("ISIC_0000002.jpg", jpeg(2)[:-40]), "ISIC_0000002 cannot be decoded as JPEG .Premature end"),
    "twice": (put("more/ISIC_0000002.jpg", jpeg(2)), "ISIC_0000002 twice"),
    "climbing member": (put("../../ISIC_1.jpg", jpeg(1)), "points out of the archive"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_nothing_is_left(official, tmp_path, damage):
    spoil, message = DAMAGES[damage]
    spoil(official)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare_small(official, tmp_path)
    assert {path.name for path in (tmp_path / "data").rglob("*")} <= {"isic2019_64_damaged.json"}


def test_few_damaged_inputs_are_left_out_and_listed(official, tmp_path, read, report):
    official.images["ISIC_0000002.jpg"] = jpeg(2)[:-40]
    official.labels["ISIC_0000005"]["NV"] = "nan"
    folder = official.write()
    builder = prepare("isic2019/64", data_dir=tmp_path / "data", manual_dir=folder, max_damaged=0.02)
    found = report(builder)
    assert found["inputs_read"] == len(official.labels)
    reasons = {item["path"].split(": ")[-1]: item["reason"] for item in found["damaged"]}
    assert reasons.keys() == {"ISIC_0000002", "ISIC_0000005"}
    assert "Premature end" in reasons["ISIC_0000002"] and "not one-hot" in reasons["ISIC_0000005"]
    images = {example["image_id"].decode() for split in read(builder).values() for example in split}
    assert images == official.labels.keys() - reasons.keys()


def test_too_many_damaged_inputs_are_all_listed(official, tmp_path):
    for number in range(9):
        official.images[f"ISIC_000000{number}.jpg"] = b""
    with pytest.raises(
        ValueError, match=r"9 of \d+ inputs are damaged, more than the 5.0% allowed: .* …\. All are listed"
    ):
        prepare("isic2019/64", data_dir=tmp_path / "data", manual_dir=official.write(), max_damaged=0.05)
    listed = json.loads((tmp_path / "data" / "isic2019_64_damaged.json").read_text())
    assert len(listed) == 9 and all("is empty" in item["reason"] for item in listed)
    # Where the archive lies on this machine is nobody else's concern.
    assert all(item["path"].startswith("ISIC_2019_Training_Input.zip: ISIC_000000") for item in listed)
    assert str(tmp_path) not in json.dumps(listed)


@pytest.mark.slow
def test_a_beam_runner_prepares_the_same(official, tmp_path, read, report):
    import apache_beam as beam
    import tensorflow_datasets as tfds

    official.images["ISIC_0000002.jpg"] = b""
    official.masks["ISIC_0000000_segmentation.png"] = png_mask()
    here = prepare("isic2019/64_mask", data_dir=tmp_path / "a", manual_dir=official.write(), max_damaged=0.1)
    builder = Builder(data_dir=tmp_path / "b", config="64_mask", max_damaged=0.1)
    options = beam.options.pipeline_options.PipelineOptions(["--direct_running_mode=in_memory"])
    settings = tfds.download.DownloadConfig(manual_dir=official.folder, beam_options=options)
    builder.download_and_prepare(download_dir=tmp_path / "downloads", download_config=settings)
    assert report(builder) == report(here)
    for split, examples in read(here).items():
        other = {example["image_id"]: example for example in read(builder)[split]}
        assert other.keys() == {example["image_id"] for example in examples}
        for example in examples:
            same = other[example["image_id"]]
            assert (example["image"] == same["image"]).all() and (example["mask"] == same["mask"]).all()
            assert example["label"] == same["label"]


@pytest.mark.parametrize("missing", [f"{IMAGES}.zip", names.GROUND_TRUTH, names.METADATA])
def test_missing_file_is_named_with_the_way_to_it(official, tmp_path, missing):
    folder = official.write()
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing} not found in .*{folder.name}.*challenge.isic-archive.com"):
        prepare("isic2019/64", data_dir=tmp_path / "data", manual_dir=folder)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*"):
        prepare("isic2019/64", data_dir=tmp_path / "data", manual_dir=tmp_path / "nowhere")


def test_broken_zip_is_named(official, tmp_path):
    archive = official.write() / f"{IMAGES}.zip"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"{IMAGES}.zip is not a whole zip file"):
        prepare("isic2019/64", data_dir=tmp_path / "data", manual_dir=archive.parent)


def test_damage_inside_the_zip_is_named(official, tmp_path):
    archive = official.write() / f"{IMAGES}.zip"
    with zipfile.ZipFile(archive) as file:
        start = file.getinfo(f"{IMAGES}/ISIC_0000005.jpg").header_offset
    data = bytearray(archive.read_bytes())
    data[start + 200] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(ValueError, match="ISIC_0000005.jpg cannot be read.*download the archive again"):
        prepare("isic2019/64", data_dir=tmp_path / "data", manual_dir=archive.parent)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_download_from_the_official_addresses(official, tmp_path, read, monkeypatch):
    handler = partial(Quiet, directory=official.write())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = {name: f"http://127.0.0.1:{server.server_port}/{name}" for name in names.URLS}
        monkeypatch.setattr(names, "URLS", here)
        builder = prepare("isic2019/64", data_dir=tmp_path / "data", download=True)
        server.shutdown()
    assert sum(map(len, read(builder).values())) == len(official.labels)
