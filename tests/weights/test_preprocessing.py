"""What a file says of the input of its network, and `preprocess`."""

import dataclasses
import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from small_classifiers import VIEWS, make, make_volumes
from tiny import tiny_in_the_table  # noqa: F401

import aiseeme_jax
from aiseeme_jax import augment, weights
from aiseeme_jax.errors import UserError
from aiseeme_jax.weights import tensors as files_of_tensors
from aiseeme_jax.weights.preprocessing import describe
from tfds_builders.common.images import square
from tfds_builders.common.storage import ImageStorage, VolumeStorage

pytestmark = pytest.mark.usefixtures("tiny_in_the_table")

STORED = ImageStorage(24, 3)


@pytest.fixture(scope="module")
def entry():
    return describe(VIEWS, 3, STORED)


@pytest.fixture(scope="module")
def images():
    return tiny.images(2, size=24)


def view(images, views=VIEWS):
    return np.asarray(augment.central_view(jnp.asarray(images), views))


def test_the_entry_of_a_squeezed_set_is_as_before():
    assert describe(VIEWS, 3, STORED)["stored"] == {"size": 24, "channels": 3, "lossless": True, "resized": None}
    padded = ImageStorage(24, 3, fit="pad")
    assert describe(VIEWS, 3, padded)["stored"]["fit"] == "pad" and describe(VIEWS, 3, padded).stored == padded
    with pytest.raises(ValueError, match="stored fit is 'stretch': known are squeeze, pad, crop"):
        ImageStorage(24, 3, fit="stretch")


class TestPreprocess:
    def test_gives_the_view_of_evaluation(self, entry, images):
        for given in (images, images / 255, (images / 255).astype(np.float32), list(images)):
            np.testing.assert_array_equal(entry.preprocess(given), view(images))
        np.testing.assert_array_equal(entry.preprocess(images[0]), view(images[:1]))

    def test_grey_is_repeated_and_colours_become_luminance(self, entry, images):
        grey = images[..., 0]
        expected = view(np.repeat(grey[..., None], 3, axis=-1))
        np.testing.assert_array_equal(entry.preprocess(grey[..., None]), expected)
        np.testing.assert_array_equal(entry.preprocess(grey[1]), expected[1:])
        one = describe(VIEWS, 1, ImageStorage(24, 1))
        luminance = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images])[..., None]
        np.testing.assert_array_equal(one.preprocess(images), view(luminance))
        assert one["mean"] == [pytest.approx(np.mean(VIEWS.mean))] and one["channel_order"] == "grey"

    def test_other_sizes_are_resized_as_the_builder_does_it(self, entry, images):
        large, flat = tiny.images(1, size=64)[0], tiny.images(1, size=64)[0][:40]
        expected = view(np.stack([square(large, 24), square(flat, 24), images[0]]))
        np.testing.assert_array_equal(entry.preprocess([large, flat / 255, images[0]]), expected)
        unknown = describe(VIEWS, 3, None)
        np.testing.assert_array_equal(unknown.preprocess(large), view(large[None]))

    def test_a_dark_image_among_others_is_no_riddle(self, entry, images):
        dark = (images[:1] > 100).astype(np.uint8)
        both = np.concatenate([dark, images])
        np.testing.assert_array_equal(entry.preprocess(both), view(both))
        np.testing.assert_array_equal(entry.preprocess(dark * 0), view(dark * 0))

    def test_volumes_and_planes_in_hounsfield_units(self):
        volumes = augment.VolumeViews(size=tiny.SIZE)
        entry = describe(volumes, 1, VolumeStorage(tiny.SIZE, 1.0))
        cubes = tiny.volumes(2)
        np.testing.assert_array_equal(entry.preprocess(cubes), view(cubes, volumes))
        np.testing.assert_array_equal(entry.preprocess(cubes[0, ..., 0]), view(cubes[:1], volumes))
        assert entry["channel_order"] == "HU" and entry["window"] == [-1000.0, 400.0]
        with pytest.raises(UserError, match="int16 HU .* not float64"):
            entry.preprocess(cubes / 1.0)
        planes = augment.Views(size=tiny.SIZE, window=(-1000.0, 400.0))
        np.testing.assert_array_equal(describe(planes, 1, None).preprocess(cubes[0, 0]), view(cubes[:1, 0], planes))

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda x: x * 2.0, "float64 from 0 to 4.*: they are not from 0 to 1"),
            (lambda x: x / 255 - 0.5, "look as if they were normalised already"),
            (lambda x: np.where(x > 100, np.nan, 0.5), "some are not finite"),
            (lambda x: (x > 100).astype(np.uint8), "whether 1 is white or next to black"),
            (lambda x: x.astype(np.int64), "int64, whose range cannot be told"),
            (lambda x: x.astype(np.uint16) * 257, "uint16, whose range cannot be told"),
            (lambda x: x > 100, "bool, whose range"),
            (lambda x: np.moveaxis(x, -1, 1), "Channels are first: move them, np.moveaxis"),
            (lambda x: np.concatenate([x, x[..., :1]], axis=-1), "has alpha: drop its last channel"),
            (lambda x: x[..., 0], "A batch of grey images is"),
            (lambda x: x[:, :3], "too small, or its axes are in another order"),
            (lambda x: x[0, 0, :, 0], "this network takes images"),
            (lambda x: [], "there are no images"),
        ],
    )
    def test_refuses_what_cannot_be_told_apart(self, entry, images, change, message):
        images = images.copy()
        images[0, 0, 0] = 0
        with pytest.raises(UserError, match=message):
            entry.preprocess(change(images))


@pytest.mark.parametrize("body", [tiny.backbone, tiny.vit])
def test_a_backbone_refuses_integers_and_names_preprocess(body, images):
    with pytest.raises(UserError, match="not pixels of type uint8: make its input with `preprocess`"):
        body()(jnp.asarray(images), train=False)


class TestFile:
    def test_it_is_in_every_file_and_in_info(self, tmp_path, entry):
        body = tiny.backbone()
        path, again = tmp_path / "b.safetensors", tmp_path / "again.safetensors"
        aiseeme_jax.export_backbone(body, path, info={"task": "rotation", "preprocessing": entry})
        backbone, info = aiseeme_jax.load_backbone(path)
        found = info["preprocessing"]
        assert found == entry and found.views.mean == VIEWS.mean and found.stored == STORED
        assert found["value_range"] == [0, 1] and found["channel_order"] == "RGB" and found["size"] == tiny.SIZE
        aiseeme_jax.export_backbone(backbone, again, info=info)
        assert aiseeme_jax.load_backbone(again)[1] == info
        weights.save_classifier(tmp_path / "c.safetensors", make())
        _, info = aiseeme_jax.load_backbone(tmp_path / "c.safetensors")
        assert info["preprocessing"]["stored"] is None and info["preprocessing"]["mean"] == list(VIEWS.mean)

    @pytest.mark.parametrize("maker, stored", [(make, STORED), (make_volumes, VolumeStorage(32, 2.0, True))])
    def test_a_classifier_knows_how_images_are_stored(self, maker, stored, tmp_path):
        saved = maker()
        weights.save_classifier(tmp_path / "c.safetensors", saved)
        assert aiseeme_jax.load_classifier(tmp_path / "c.safetensors").stored is None
        weights.save_classifier(tmp_path / "c.safetensors", dataclasses.replace(saved, stored=stored))
        found = aiseeme_jax.load_classifier(tmp_path / "c.safetensors")
        # The hash is that of older versions, which read the file too.
        assert found.stored == stored and found.hash() == saved.hash()

    def test_older_files_load(self, tmp_path):
        weights.save_classifier(tmp_path / "c.safetensors", make())
        rewrite(tmp_path / "c.safetensors", lambda header: header.pop("preprocessing"))
        assert aiseeme_jax.load_classifier(tmp_path / "c.safetensors").stored is None
        assert aiseeme_jax.load_backbone(tmp_path / "c.safetensors")[1]["preprocessing"].views.size == VIEWS.size
        aiseeme_jax.export_backbone(tiny.backbone(), tmp_path / "b.safetensors")
        assert "preprocessing" not in aiseeme_jax.load_backbone(tmp_path / "b.safetensors")[1]

    def test_a_changed_entry_is_damage(self, tmp_path, entry):
        path = tmp_path / "c.safetensors"
        aiseeme_jax.export_backbone(tiny.backbone(), path, info={"preprocessing": entry})
        rewrite(path, lambda header: header["preprocessing"].update(mean=[0.5, 0.5, 0.5]))
        with pytest.raises(UserError, match="is damaged: its entry 'preprocessing' .*; copy or download it again"):
            aiseeme_jax.load_backbone(path)
        weights.save_classifier(path, make())
        rewrite(path, lambda header: header["preprocessing"].update(stored={"size": 8, "channels": 3}))
        with pytest.raises(UserError, match="is damaged"):
            aiseeme_jax.load_classifier(path)


def rewrite(path, change):
    header, tensors = json.loads(files_of_tensors.read_metadata(path)["aiseeme"]), files_of_tensors.read_weights(path)
    change(header)
    files_of_tensors.write_safetensors(path, tensors, {"aiseeme": json.dumps(header)})
