"""derm_phantom: repeatable, all classes in all splits, masks that fit, colour that does not tell."""

from unittest import mock

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tfds_builders import prepare
from tfds_builders.common import sorting
from tfds_builders.derm_phantom.lesions import CLASSES
from tfds_builders.derm_phantom.photographs import photograph


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return prepare("derm_phantom/demo", data_dir=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare("derm_phantom/tiny", data_dir=tmp_path_factory.mktemp("data"))


def arrays(examples):
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples])


def test_a_photograph_is_a_function_of_its_arguments():
    image, mask = photograph("NV-like", 0, 5, 0, 32)
    again, mask_again = photograph("NV-like", 0, 5, 0, 32)
    assert (image == again).all() and (mask == mask_again).all()
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8 and mask.shape == (32, 32)
    for other in (
        ("NV-like", 1, 5, 0, 32),
        ("NV-like", 0, 6, 0, 32),
        ("NV-like", 0, 5, 1, 32),
        ("MEL-like", 0, 5, 0, 32),
    ):
        assert (photograph(*other)[0] != image).mean() > 0.2


def test_two_photographs_show_the_same_lesion():
    """Masks of one lesion overlap more than masks of two lesions, on average."""

    def overlap(first, second):
        return (first & second).sum() / (first | second).sum()

    masks = [[photograph("MEL-like", 0, lesion, photo, 32)[1] for photo in (0, 1)] for lesion in range(12)]
    same = np.mean([overlap(*pair) for pair in masks])
    other = np.mean([overlap(masks[i][0], masks[i - 1][1]) for i in range(12)])
    assert same > other + 0.1


@pytest.mark.slow
def test_the_data_set_is_the_same_every_time(tiny, tmp_path, read):
    first, second = read(tiny), read(prepare("derm_phantom/tiny", data_dir=tmp_path))
    for split in first:
        for one, other in zip(first[split], second[split], strict=True):
            assert one["image_id"] == other["image_id"] and (one["image"] == other["image"]).all()


@pytest.mark.slow
def test_the_data_set_is_the_same_where_it_is_sorted_on_disk(tiny, tmp_path, read, monkeypatch):
    monkeypatch.setattr(sorting, "IN_MEMORY", 10_000)
    with mock.patch.object(sorting.Bucket, "add", autospec=True, side_effect=sorting.Bucket.add) as added:
        first, second = read(tiny), read(prepare("derm_phantom/tiny", data_dir=tmp_path))
    assert added.called
    for split in first:
        assert [one["image_id"] for one in first[split]] == [other["image_id"] for other in second[split]]
    assert not list(tmp_path.rglob("bucket*"))


@pytest.mark.parametrize("config", ["tiny", pytest.param("demo", marks=pytest.mark.slow)])
def test_splits(config, request, read, report):
    builder = request.getfixturevalue(config)
    splits = read(builder)
    lesions = [{example["lesion_id"] for example in examples} for examples in splits.values()]
    assert sum(map(len, lesions)) == len(set.union(*lesions))
    for examples in splits.values():
        assert {example["label"] for example in examples} == set(range(len(CLASSES)))
    assert builder.info.features["label"].names == list(CLASSES)
    assert "ynthetic" in builder.info.description and report(builder)["synthetic"] is True


@pytest.mark.slow
def test_masks_lie_on_the_lesions(demo, read):
    """Inside the mask the image differs from the skin around; the mask is neither empty nor everything."""
    contrasts = []
    for example in read(demo)["test"]:
        inside = example["mask"][..., 0] == 255
        assert set(np.unique(example["mask"])) == {0, 255} and 0.03 < inside.mean() < 0.9
        image = example["image"].astype(float).mean(axis=-1)
        contrasts.append(image[~inside].mean() - image[inside].mean())
    assert np.mean(np.array(contrasts) > 5) > 0.9


def probe(features, splits):
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1000.0, class_weight="balanced"))
    model.fit(features[0], splits[0])
    return balanced_accuracy_score(splits[1], model.predict(features[1]))


@pytest.mark.slow
def test_colour_and_raw_pixels_do_not_give_the_class_away(demo, read):
    splits = read(demo)
    (train, train_labels), (test, test_labels) = arrays(splits["train"]), arrays(splits["test"])
    labels = (train_labels, test_labels)
    colour = [images.reshape(len(images), -1, 3).mean(axis=1) for images in (train, test)]
    pixels = [images.reshape(len(images), -1) / 255 for images in (train, test)]
    assert probe(colour, labels) < 0.35
    assert 0.25 < probe(pixels, labels) < 0.6


@pytest.mark.slow
def test_up_can_be_told_from_down(demo, read):
    """A linear probe on 8x8 brightness tells upright images from upside-down ones well above chance."""
    splits = read(demo)
    features, sides = [], []
    for split in ("train", "test"):
        images, _ = arrays(splits[split])
        small = images.astype(float).mean(axis=-1).reshape(len(images), 8, 4, 8, 4).mean(axis=(2, 4))
        turned = np.concatenate([small, small[:, ::-1, ::-1]])
        features.append(turned.reshape(len(turned), -1))
        sides.append(np.repeat([0, 1], len(images)))
    assert probe(features, sides) > 0.7
