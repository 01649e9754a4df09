"""Maps of networks whose answer is planted."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import tiny_in_the_table  # noqa: F401

from aiseeme_jax import models
from aiseeme_jax.errors import UserError
from aiseeme_jax.evidence import attention, sanity
from aiseeme_jax.models import halves
from aiseeme_jax.models.classifier import linear_head

SIDE = 16


def make(name, **changes):
    size = {"patch": 4} if "vit" in name else {"stem": "small"}
    return models.make_backbone(name, width=1.0 if "vit" in name else 0.125, **size, **changes, rngs=nnx.Rngs(0))


def views(count=3):
    return jax.random.normal(jax.random.key(1), (count, SIDE, SIDE, 3))


@pytest.fixture
def networks(tiny_in_the_table, monkeypatch):  # noqa: F811
    """A ResNet with all four stages and a ViT, by name; both small."""
    monkeypatch.setitem(models.resnet.ARCHITECTURES, "small", (False, (1, 1, 1, 1)))
    monkeypatch.setitem(models.vit.ARCHITECTURES, "small_vit", (24, 4, 2))
    added = {"small": partial(models.ResNet, "small"), "small_vit": partial(models.ViT, "small_vit")}
    monkeypatch.setattr(models, "BACKBONES", {**models.BACKBONES, **added})
    return {name: make(name) for name in added}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "small_vit"])
def test_two_halves_are_the_whole(networks, name):
    backbone, x = networks[name], views()
    whole = backbone(x, train=False)
    for endpoint in halves.ENDPOINTS:
        handed = halves.run_until(backbone, x, endpoint)
        np.testing.assert_allclose(halves.run_after(backbone, handed, endpoint), whole["pooled"], atol=1e-5)
        if (name, endpoint) != ("small_vit", "stem"):
            np.testing.assert_allclose(halves.as_map(backbone, handed, x.shape), whole[endpoint], atol=1e-5)
    with pytest.raises(UserError, match="pooled"):
        halves.run_until(backbone, x, "pooled")


@pytest.mark.parametrize("name", ["small", "small_vit"])
def test_grad_cam_of_a_linear_head_on_the_mean_is_cam(networks, name):
    backbone, x = networks[name], views()
    head = linear_head(backbone.features, 4, rngs=nnx.Rngs(3))
    classes = jnp.array([0, 3, 1])
    found = attention.draw_maps("grad_cam", backbone, head, x, jax.nn.one_hot(classes, 4), "stage4")
    maps = backbone(x, train=False)["stage4"].astype(jnp.float32)
    expected = attention.cam(maps, head.kernel[...].T[classes]) / (maps.shape[1] * maps.shape[2])
    assert float(jnp.abs(expected).max()) > 1e-4
    np.testing.assert_allclose(found, jax.nn.relu(expected), atol=1e-6)


def test_grad_cam_takes_the_gradient_of_each_image_alone(networks):
    backbone, x = networks["small"], views()
    head = linear_head(backbone.features, 4, rngs=nnx.Rngs(3))
    wanted = jax.nn.one_hot(jnp.array([0, 3, 1]), 4)
    together = attention.draw_maps("grad_cam", backbone, head, x, wanted, "stage2")
    for i in range(3):
        alone = attention.draw_maps("grad_cam", backbone, head, x[i : i + 1], wanted[i : i + 1], "stage2")
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-3, atol=1e-7)


def test_grad_cam_plus_plus_is_its_formula():
    random = np.random.default_rng(0)
    a, g = np.abs(random.normal(size=(2, 3, 3, 5))), random.normal(size=(2, 3, 3, 5))
    g[0, 1] = 0
    with np.errstate(invalid="ignore"):
        alpha = np.nan_to_num(g**2 / (2 * g**2 + a.sum(axis=(1, 2), keepdims=True) * g**3))
    weights = (alpha * np.maximum(g, 0)).sum(axis=(1, 2))
    expected = np.maximum(np.einsum("bhwk,bk->bhw", a, weights), 0)
    np.testing.assert_allclose(attention.grad_cam_plus_plus(jnp.asarray(a), jnp.asarray(g)), expected, rtol=1e-4)
    assert np.isfinite(np.asarray(attention.grad_cam_plus_plus(jnp.asarray(a), jnp.zeros_like(g)))).all()


def test_eigen_cam_finds_a_planted_map_with_its_sign():
    planted = np.random.default_rng(0).uniform(0, 1, (1, 4, 5))
    channels = np.array([1.0, 2.0, -0.5])
    found = np.asarray(attention.eigen_cam(jnp.asarray(planted[..., None] * channels)))
    np.testing.assert_allclose(found, planted * np.linalg.norm(channels), rtol=1e-4)
    # Of activations of both signs: where the mean activation is high, the map is.
    signed = planted - planted.mean()
    found = np.asarray(attention.eigen_cam(jnp.asarray(signed[..., None] * channels)))
    np.testing.assert_allclose(found, np.maximum(signed, 0) * np.linalg.norm(channels), rtol=1e-3, atol=1e-5)
    found = np.asarray(attention.eigen_cam(jnp.asarray(signed[..., None] * -channels)))
    np.testing.assert_allclose(found, np.maximum(-signed, 0) * np.linalg.norm(channels), rtol=1e-3, atol=1e-5)


def test_eigen_cam_of_positive_activations_is_never_emptied_by_its_sign():
    """Here the leading direction and the mean activation are anticorrelated, and yet the map has one sign."""
    strong, weak = np.array([[3.0, 2.0, 2.0]]), np.array([[0.0, 1.0, 1.0]])
    stacked = np.stack([strong, *[weak * 0.6] * 4], axis=-1)[None]
    assert stacked.mean(axis=-1)[0, 0, 0] < stacked.mean(axis=-1)[0, 0, 1]
    assert float(attention.eigen_cam(jnp.asarray(stacked)).min()) > 0


def test_roll_out_of_attention_by_hand():
    identity = np.eye(3)[None, None]
    np.testing.assert_allclose(attention.roll_out([identity, identity]), [[0.5, 0.5]], atol=1e-6)
    # All tokens attend to the last patch: half of each stays, and half goes there.
    last = np.zeros((1, 2, 3, 3))
    last[..., 2] = 1
    np.testing.assert_allclose(attention.roll_out([last]), [[0.25, 0.75]], atol=1e-6)
    np.testing.assert_allclose(attention.roll_out([last, last]), [[0.125, 0.875]], atol=1e-6)


def test_attentions_are_those_that_the_network_uses(networks):
    vit, x = networks["small_vit"], views(2)
    found = halves.list_attentions(vit, x)
    assert len(found) == 4 and found[0].shape == (2, 2, 17, 17)
    np.testing.assert_allclose(np.asarray(found[1]).sum(axis=-1), 1, rtol=1e-5)
    tokens = halves.run_until(vit, x, "stem")
    block = vit.blocks[0]
    value = block.qkv(block.norms[0](tokens)).reshape(2, 17, 3, 2, -1)[:, :, 2]
    mixed = jnp.einsum("bhqk,bkhd->bqhd", found[0], value).reshape(2, 17, -1)
    after = tokens + block.projection(mixed)
    after = after + block.out(jax.nn.gelu(block.hidden(block.norms[1](after)), approximate=False))
    np.testing.assert_allclose(after, halves.run_until(vit, x, "stage1"), atol=1e-4)
    assert attention.draw_maps("rollout", vit, None, x, None, "stage4").shape == (2, 4, 4)


def test_occlusion_of_a_planted_linear_model_is_its_weights():
    """The score is the sum over a square of one patch that lies on the grid of the patches."""
    weights = np.zeros((16, 16, 1), np.float32)
    weights[4:6, 8:10] = 1
    x = jnp.ones((2, 16, 16, 1))
    found = np.asarray(attention.occlude(lambda v: (v * weights).sum(axis=(1, 2, 3)), x, jnp.zeros_like(x)))
    # A pixel of the square is covered by four patches of 2 x 2 at stride 1, which hide 4, 2, 2 and 1 of the square.
    assert found[0, 4, 8] == pytest.approx((4 + 2 + 2 + 1) / 4)
    assert found[0, :3].max() == 0 and found[0, 7:].max() == 0
    np.testing.assert_allclose(found[0].T[8:10, 4:6], found[0][4:6, 8:10].T)
    # Every pixel is covered, also at the border of a side that patches do not divide.
    odd = attention.occlude(lambda v: v.sum(axis=(1, 2, 3)), jnp.ones((1, 19, 19, 1)), jnp.zeros((1, 19, 19, 1)))
    np.testing.assert_allclose(odd, 4.0)


@pytest.mark.parametrize(("units", "pixels"), [(2, 4), (5, 20), (6, 64), (64, 24), (7, 7)])
def test_maps_whose_units_share_the_image_are_enlarged_as_jax_does_it(units, pixels):
    maps = jax.random.uniform(jax.random.key(0), (2, units, units))
    step = 4
    placement = halves.Placement((step - 1) / 2, step, step * units)
    found = attention.enlarge(maps, (pixels, pixels), placement)
    np.testing.assert_allclose(found, jax.image.resize(maps, (2, pixels, pixels), "bilinear"), atol=2e-5)


def test_units_lie_where_their_placement_says():
    placement = halves.Placement(0, 4, 8)
    found = np.asarray(attention.enlarge(jnp.array([[[0.0, 1.0]]]), (1, 8), placement))
    np.testing.assert_allclose(found[0, 0], [0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    # A mask of half the size: its pixels lie between two pixels of the view.
    found = np.asarray(attention.enlarge(jnp.array([[[0.0, 1.0]]]), (1, 4), placement))
    np.testing.assert_allclose(found[0, 0], [0.125, 0.625, 1, 1])


def test_placements_follow_from_windows(networks):
    standard = models.make_backbone("small", width=0.125, stem="standard", rngs=nnx.Rngs(0))
    places = [halves.find_placement(standard, endpoint, 64) for endpoint in halves.ENDPOINTS]
    assert [(one.first, one.step) for one in places] == [(0, 4), (0, 4), (0, 8), (0, 16), (0, 32)]
    places = [halves.find_placement(networks["small"], endpoint, 64) for endpoint in halves.ENDPOINTS]
    assert [(one.first, one.step) for one in places] == [(0, 1), (0, 1), (0, 2), (0, 4), (0, 8)]
    dense = models.make_backbone("small", width=0.125, stem="standard", output_stride=16, rngs=nnx.Rngs(0))
    assert halves.find_placement(dense, "stage4", 64) == halves.Placement(0, 16, 64)
    assert attention.find_placement("rollout", networks["small_vit"], "stage1", SIDE) == halves.Placement(1.5, 4, SIDE)
    assert attention.find_placement("occlusion_blur", standard, "stage3", SIDE) == halves.Placement(0, 1, SIDE)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["standard", "small"])
def test_a_point_is_found_where_it_was_planted(networks, stem):
    """A network of means: the centre of what it makes of a point is the point, whatever the stride."""
    backbone = models.make_backbone("small", width=0.125, stem=stem, rngs=nnx.Rngs(0))
    for _, module in nnx.iter_modules(backbone):
        if isinstance(module, nnx.Conv):
            module.kernel.set_value(jnp.ones_like(module.kernel[...]) / module.kernel[...].size)
        elif isinstance(module, nnx.BatchNorm):
            module.scale.set_value(jnp.ones_like(module.scale[...]))
    points = np.arange(60, 68)
    x = np.zeros((len(points), 128, 128, 3), np.float32)
    x[np.arange(len(points)), points, points + 8] = 1
    for endpoint in ("stem", "stage2"):
        placement = halves.find_placement(backbone, endpoint, 128)
        maps = halves.as_map(backbone, halves.run_until(backbone, jnp.asarray(x), endpoint), x.shape).mean(axis=-1)
        large = np.asarray(attention.enlarge(maps, (128, 128), placement))
        total = large.sum(axis=(1, 2))
        rows, columns = (np.einsum(f"bhw,{axis}->b", large, np.arange(128)) / total for axis in "hw")
        # Pooling and strides move a single point, but not the mean over the places between two units.
        assert rows.mean() == pytest.approx(points.mean(), abs=1e-3)
        assert columns.mean() == pytest.approx(points.mean() + 8, abs=1e-3)


@pytest.mark.slow
def test_a_class_that_lies_in_one_corner_is_found_there(networks):
    """A head that reads one channel, and images in which this channel is high in one place alone."""
    backbone = networks["small"]
    head = linear_head(backbone.features, 2, rngs=nnx.Rngs(0))
    x = views(1)
    maps = np.asarray(backbone(x, train=False)["stage4"])
    channel = int(np.argmax(maps[0].max(axis=(0, 1)) - np.median(maps[0], axis=(0, 1))))
    kernel = np.zeros((backbone.features, 2), np.float32)
    kernel[channel, 1] = 1
    head.kernel.set_value(jnp.asarray(kernel))
    for method in ("grad_cam", "grad_cam++"):
        found = np.asarray(attention.draw_maps(method, backbone, head, x, jnp.array([[0.0, 1.0]]), "stage4"))
        assert found[0].argmax() == maps[0, ..., channel].argmax() and found.max() > 0
        nothing = attention.draw_maps(method, backbone, head, x, jnp.array([[1.0, 0.0]]), "stage4")
        assert float(jnp.abs(nothing).max()) == 0


@pytest.mark.parametrize("name", ["small", "small_vit"])
def test_layers_become_random_from_the_top_down(networks, name):
    backbone, x = networks[name], views()
    head = linear_head(backbone.features, 4, rngs=nnx.Rngs(3))
    for blocks in backbone.stages if name == "small" else ():
        # As if it were trained: blocks start as the identity, and two of them would be alike.
        blocks[-1].norms[-1].scale.set_value(jnp.full(blocks[-1].features, 0.5))
    before = backbone(x, train=False)
    parts = dict((part, mixed) for part, mixed, _ in sanity.randomise_downwards(backbone, head, 5))
    assert list(parts) == ["head", "stage4", "stage3", "stage2", "stage1", "stem"]
    for part, mixed in parts.items():
        found = mixed(x, train=False)
        for endpoint in halves.ENDPOINTS:
            untouched = part == "head" or halves.ENDPOINTS.index(endpoint) < halves.ENDPOINTS.index(part)
            assert np.allclose(found[endpoint], before[endpoint], atol=1e-6) == untouched, (part, endpoint)
    random, _ = sanity.make_random(backbone, head, 5)
    np.testing.assert_allclose(parts["stem"](x, train=False)["pooled"], random(x, train=False)["pooled"], atol=1e-6)


def test_similarity_of_maps_is_spearmans():
    random = np.random.default_rng(0)
    maps = random.uniform(size=(3, 5, 5))
    np.testing.assert_allclose(sanity.correlate_maps(maps, np.exp(maps)), 1)
    np.testing.assert_allclose(sanity.correlate_maps(maps, -maps), -1)
    assert np.isnan(sanity.correlate_maps(maps, np.ones_like(maps))).all()
