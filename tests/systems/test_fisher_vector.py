"""Fisher vectors: the mixture, the encoding by loops, foreground weights, the protocol on a phantom, its file."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from short_measurements import RUNTIME
from sklearn.mixture import GaussianMixture
from tiny import tiny_in_the_table  # noqa: F401

from aiseeme_jax import augment, data
from aiseeme_jax.curriculum import protocols
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import linear, metrics
from aiseeme_jax.evidence import localisation
from aiseeme_jax.models.classifier import PROBABILITIES
from aiseeme_jax.systems.fisher_vector import encoding, load_fisher_classifier, mixture, protocol, settings
from configs import base

# Of the phantom: sides of an image and of the square in it.
SIDE, SQUARE = 16, 6
CLASSES = ("one", "two", "three")


def draw_mixture(seed=0, components=4, dimensions=5, apart=8.0):
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(components, 5.0))
    means = apart * random.normal(size=(components, dimensions))
    spreads = random.uniform(0.5, 1.5, (components, dimensions))
    return mixture.Mixture(*(jnp.asarray(part, jnp.float32) for part in (weights, means, spreads**2)))


def sample(found, count, seed=1):
    """Rows of a mixture, and which component each is of."""
    random = np.random.default_rng(seed)
    weights = np.asarray(found.weights, np.float64)
    members = random.choice(len(weights), count, p=weights / weights.sum())
    spreads = np.sqrt(np.asarray(found.variances))
    rows = np.asarray(found.means)[members] + spreads[members] * random.normal(size=(count, spreads.shape[1]))
    return rows.astype(np.float32), members


def encode_by_loops(found, rows):
    """The Fisher vector in double precision, one descriptor and one component after another."""
    weights, means, variances = (np.asarray(part, np.float64) for part in found)
    result = np.zeros((len(weights), 2, means.shape[1]))
    for row in rows.astype(np.float64):
        joint = [
            w * np.prod(np.exp(-0.5 * (row - m) ** 2 / v) / np.sqrt(2 * np.pi * v))
            for w, m, v in zip(weights, means, variances, strict=True)
        ]
        for place, (w, m, v) in enumerate(zip(weights, means, variances, strict=True)):
            share, away = joint[place] / sum(joint), (row - m) / np.sqrt(v)
            result[place, 0] += share * away / (len(rows) * np.sqrt(w))
            result[place, 1] += share * (away**2 - 1) / (len(rows) * np.sqrt(2 * w))
    return result


class TestMixture:
    @pytest.mark.slow
    def test_steps_are_those_of_scikit_learn(self):
        rows, members = sample(draw_mixture(apart=2.0), 600)
        start = mixture._maximise(jax.nn.one_hot(members, 4), jnp.asarray(rows), jnp.zeros(5))
        ours = mixture.improve_mixture(start, jnp.asarray(rows), iterations=20, lowest=jnp.zeros(5))
        theirs = GaussianMixture(
            4,
            covariance_type="diag",
            reg_covar=0,
            tol=0,
            max_iter=20,
            weights_init=np.asarray(start.weights, np.float64) / float(start.weights.sum()),
            means_init=start.means,
            precisions_init=1 / np.asarray(start.variances, np.float64),
        )
        with pytest.warns(match="did not converge"):
            theirs.fit(rows)
        np.testing.assert_allclose(ours.weights, theirs.weights_, atol=1e-4)
        np.testing.assert_allclose(ours.means, theirs.means_, atol=1e-3)
        np.testing.assert_allclose(ours.variances, theirs.covariances_, atol=2e-3)
        np.testing.assert_allclose(mixture.posteriors(ours, jnp.asarray(rows)), theirs.predict_proba(rows), atol=2e-3)
        assert float(mixture.mean_log_likelihood(ours, jnp.asarray(rows))) == pytest.approx(
            theirs.score(rows), abs=1e-4
        )

    @pytest.mark.slow
    def test_finds_what_was_drawn_and_drops_what_is_dead(self):
        true = draw_mixture()
        rows = jnp.asarray(sample(true, 1500)[0])
        found = mixture.fit_mixture(jax.random.key(2), rows, components=4, iterations=20, floor=1e-3)
        order = [int(np.argmin(np.abs(np.asarray(found.means) - mean).sum(axis=1))) for mean in np.asarray(true.means)]
        assert sorted(order) == [0, 1, 2, 3]
        np.testing.assert_allclose(np.asarray(found.weights)[order], true.weights, atol=0.04)
        np.testing.assert_allclose(np.asarray(found.means)[order], true.means, atol=0.3)
        dead = mixture.Mixture(jnp.array([0.6, 0.02, 0.38]), jnp.zeros((3, 2)), jnp.ones((3, 2)))
        alive = mixture.drop_dead(dead)
        np.testing.assert_allclose(alive.weights, np.array([0.6, 0.38]) / 0.98, rtol=1e-6)
        assert alive.means.shape == (2, 2)

    def test_no_variance_falls_below_the_floor(self):
        rows = jnp.asarray(np.repeat(np.random.default_rng(0).normal(size=(3, 2)), 20, axis=0), jnp.float32)
        found = mixture.fit_mixture(jax.random.key(0), rows, components=3, iterations=5, floor=1e-2)
        floor = 1e-2 * np.var(np.asarray(rows), axis=0)
        assert (np.asarray(found.variances) >= 0.999 * floor).all() and np.isfinite(found.means).all()


class TestEncoding:
    def test_gradients_are_those_of_a_loop(self):
        found = draw_mixture(apart=1.0)
        rows, _ = sample(found, 30)
        ours = encoding.fisher_gradients(found, jnp.asarray(rows))
        np.testing.assert_allclose(ours, encode_by_loops(found, rows), rtol=1e-3, atol=2e-5)

    def test_of_samples_of_the_mixture_itself_they_have_mean_0_and_variance_1_over_the_descriptors(self):
        found, places, images = draw_mixture(), 200, 300
        rows = sample(found, images * places)[0].reshape(images, places, -1)
        encode = jax.jit(jax.vmap(lambda x: encoding.fisher_gradients(found, x)))
        scaled = np.sqrt(places) * np.asarray(encode(jnp.asarray(rows)))
        assert np.abs(scaled.mean(axis=0)).max() < 4 / np.sqrt(images)
        assert np.abs(scaled.var(axis=0) - 1).max() < 5 * np.sqrt(2 / images)

    def test_improved_vectors_have_a_signed_root_and_length_1_whatever_the_scale_of_the_weights(self):
        gradients = np.random.default_rng(0).normal(size=(3, 4, 2, 5)).astype(np.float32)
        flat = gradients.reshape(3, -1)
        np.testing.assert_array_equal(encoding.make_vectors(jnp.asarray(gradients), improved=False), flat)
        roots = np.sign(flat) * np.sqrt(np.abs(flat))
        wanted = roots / np.linalg.norm(roots, axis=1, keepdims=True)
        found = encoding.make_vectors(jnp.asarray(gradients), improved=True)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        larger = encoding.weigh(jnp.asarray(gradients), jnp.full(4, 7.0))
        np.testing.assert_allclose(encoding.make_vectors(larger, improved=True), wanted, rtol=1e-5)
        one = encoding.weigh(jnp.asarray(gradients), jnp.array([1.0, 0.0, 0.0, 0.0]))
        assert (np.asarray(one)[:, 1:] == 0).all() and (np.asarray(one)[:, 0] == gradients[:, 0]).all()
        gradient = jax.grad(lambda c: encoding.make_vectors(encoding.weigh(one, c), improved=True).sum())(jnp.ones(4))
        assert np.isfinite(gradient).all()

    def test_projected_descriptors_are_white(self):
        random = np.random.default_rng(0)
        rows = random.normal(size=(500, 3)) @ random.normal(size=(3, 6)) + 5
        found = encoding.fit_projection(rows, 5)
        # The rest of the six directions has no variance.
        white = np.asarray(encoding.project(found, jnp.asarray(rows, jnp.float32)))
        assert white.shape == (500, 3)
        np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(3), atol=1e-3)


def draw_phantom(count, seed):
    """Pixels of three colours, and a square of a fourth one somewhere, a little lighter or darker by class; masks.

    How much there is of each of the three colours differs from image to image, and says nothing of the class.
    """
    random = np.random.default_rng(seed)
    colours = np.array([[60, 90, 200], [70, 190, 80], [200, 200, 60]])
    labels = np.arange(count) % 3
    images, masks = np.zeros((count, SIDE, SIDE, 3)), np.zeros((count, SIDE, SIDE, 1), np.uint8)
    for image, mask, label in zip(images, masks, labels, strict=True):
        image[:] = colours[random.choice(3, (SIDE, SIDE), p=random.dirichlet([2, 2, 2]))] + random.normal(0, 8, 3)
        top, left = random.integers(0, SIDE - SQUARE + 1, 2)
        square = slice(top, top + SQUARE), slice(left, left + SQUARE)
        image[square], mask[square] = np.array([190, 60, 130]) + 9 * (label - 1), 1
    images = np.clip(images + random.normal(0, 10, images.shape), 0, 255).astype(np.uint8)
    groups = [f"{seed}-{i}" for i in range(count)]
    made = data.from_arrays(images, labels, groups, CLASSES, name="phantom:train")
    return dataclasses.replace(made, segmentation=masks)


class FourColours(nnx.Module):
    """A backbone whose map is the image and its squares, so that a mixture finds its colours."""

    channels, dimensions = 3, 2

    def __call__(self, x, *, train):
        last = jnp.concatenate([x, x[..., :1] * x[..., 1:2]], axis=-1)
        return {"stage4": last, "pooled": last.mean(axis=(1, 2))}


def make_target(**changes):
    own = {"components": 8, "dimensions": 4, "iterations": 30, "descriptors": 3000, "strengths": (1.0, 100.0)}
    return base.target("fisher_vector", size=SIDE, views=tiny.STILL, **{**own, **changes})


def measure(target, subject, directory, needed=None):
    measurement = protocols.Measurement(target, 1.0, 0, needed or {})
    return protocols.measure(measurement, subject, directory, RUNTIME)


class TestProtocol:
    @pytest.fixture(scope="class")
    def phantom(self):
        sizes = {"train": 180, "validation": 60, "test": 90}
        splits = {name: draw_phantom(count, seed) for seed, (name, count) in enumerate(sizes.items())}
        return protocols.Subject("scratch", FourColours(), splits)

    @pytest.fixture(scope="class")
    def outcomes(self, phantom, tmp_path_factory):
        folder = tmp_path_factory.mktemp("fisher")
        return {kind: measure(make_target(encoding=kind), phantom, folder) for kind in settings.ENCODINGS}

    @pytest.mark.slow
    def test_beats_chance_by_a_margin_where_the_class_lies_in_a_small_square(self, outcomes):
        scores = {
            kind: metrics.balanced_accuracy(one.predictions.labels, one.predictions.probs)
            for kind, one in outcomes.items()
        }
        # Chance is a third.
        assert min(scores.values()) > 1 / 3 + 0.2 and scores["fgfv"] > scores["fv"] - 0.05, scores

    @pytest.mark.slow
    def test_components_of_the_background_have_no_weight_and_the_map_finds_the_square(self, phantom, outcomes):
        one, test = outcomes["fgfv"], phantom.splits["test"]
        network, inside = one.network.network, test.segmentation[..., 0] > 0
        views = augment.central_view(jnp.asarray(test.images()), one.network.views)
        maps = encoding.project(network.encoder.projection, phantom.backbone(views, train=False)["stage4"])
        shares = mixture.posteriors(network.encoder.mixture, maps.reshape(-1, maps.shape[-1]))
        shares = np.asarray(shares).reshape(*inside.shape, -1)
        foreground = shares[inside].sum(axis=0) / shares.sum(axis=(0, 1, 2))
        weights = np.asarray(network.encoder.weights)
        assert weights.mean() == pytest.approx(1, abs=1e-5) and foreground.min() < 0.05 < 0.5 < foreground.max()
        assert weights[foreground < 0.05].max() < 0.2 and weights[foreground > 0.5].max() > 1
        found = np.asarray(network.find_foreground(views))
        np.testing.assert_allclose(found, (shares * weights).sum(axis=-1), rtol=1e-4, atol=1e-5)
        hits = [localisation.pointing(s.ravel(), m.ravel()) for s, m in zip(found, inside, strict=True)]
        # Chance is the share of the square in the image.
        assert np.mean(hits) > inside.mean() + 0.5
        blind = network.shuffle_foreground(1)
        assert sorted(blind.encoder.weights.tolist()) == sorted(weights.tolist())
        assert network.has_foreground and not outcomes["ifv"].network.network.has_foreground

    @pytest.mark.slow
    def test_what_was_chosen_is_in_the_record_and_the_network_gives_the_predictions(self, phantom, outcomes):
        one = outcomes["fgfv"]
        assert one.chosen["descriptors"] == 180 * 16 and one.chosen["dimensions"] == 4 and one.chosen["images"] == 180
        assert len(one.chosen["foreground_weights"]) == one.chosen["components"] <= 8
        assert one.chosen["strength"] in (1.0, 100.0) and 60 < one.chosen["held_images"] < 120
        test = phantom.splits["test"]
        views = augment.central_view(jnp.asarray(test.images()), one.network.views)
        logits, vectors = one.network.network(views, train=False)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-4)
        np.testing.assert_allclose(PROBABILITIES["class"](logits), one.predictions.probs, atol=2e-3)

    @pytest.mark.slow
    def test_a_file_holds_the_whole_network(self, tiny_in_the_table, tmp_path):  # noqa: F811
        splits = {name: tiny.split(24, seed=seed) for seed, name in enumerate(("train", "validation", "test"))}
        target = make_target(endpoint="stage1", encoding="ifv", components=3, iterations=2, strengths=(1.0,))
        one = measure(target, protocols.Subject("scratch", tiny.backbone(), splits), tmp_path)
        digest = one.network.save(tmp_path)
        loaded = load_fisher_classifier(tmp_path)
        assert loaded.info["network_hash"] == digest and loaded.class_names == one.network.class_names
        tiny.assert_same(loaded.network, one.network.network)
        assert loaded.network.endpoint == "stage1" and loaded.network.improved and loaded.views == one.network.views

    def test_what_cannot_be_is_said(self, phantom, tmp_path):
        train = phantom.splits["train"]
        for changes, message in [
            ({"encoding": "vlad"}, "encoding is 'vlad'; known are fv, ifv, fgfv"),
            ({"endpoint": "pooled"}, "no maps at the endpoint 'pooled'"),
            ({"components": 0}, "components is 0; it must be at least 1"),
            ({"descriptors": 7}, "descriptors is 7 and components 8"),
            ({"held_share": 1.0}, "held_share is 1.0; it must lie between 0 and 1"),
            ({"sparsity": -1.0}, "sparsity is -1.0"),
            ({"strengths": ()}, "strengths are"),
            (
                {"backbone": "finetuned", "classifier": base.target("finetune", size=8)},
                "views.size is 16, and earlier.classifier.views.size 8: fisher_vector goes on",
            ),
        ]:
            with pytest.raises(UserError, match=message):
                protocols.check_target(make_target(**changes), train)
        protocols.check_target(make_target(), train)
        with pytest.raises(AttributeError, match="unknown field 'gaussians'"):
            make_target(gaussians=3)

    def test_fine_tuning_comes_first_only_if_its_backbone_is_encoded(self):
        one = protocols.find_protocol("fisher_vector")
        assert not one.plan_needed(make_target()) and one.is_random and not one.trains
        assert one.plan_needed(make_target(backbone="finetuned"))["classifier"].protocol == "finetune"

    @pytest.mark.slow
    def test_too_few_patients_for_foreground_weights(self, tmp_path):
        one = draw_phantom(6, 0)
        few = data.from_arrays(one.images(), one.labels, ["a"] * 6, CLASSES, name="phantom:train")
        subject = protocols.Subject("scratch", FourColours(), dict.fromkeys(("train", "validation", "test"), few))
        target = make_target(iterations=1, strengths=(1.0,))
        for judge in (
            lambda: measure(target, subject, tmp_path),
            lambda: protocols.find_protocol("fisher_vector").check_splits(target, subject.splits),
        ):
            with pytest.raises(UserError, match="6 training images are too few to learn foreground weights"):
                judge()
        protocols.find_protocol("fisher_vector").check_splits(make_target(encoding="ifv"), subject.splits)

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
    def test_both_parts_have_every_class_of_two_patients(self, share):
        labels = np.array([0] * 60 + [1] * 30 + [2] * 4)
        groups = [f"{i // 2}" for i in range(94)]
        train = data.from_arrays(np.zeros((94, 2, 2, 3), np.uint8), labels, groups, CLASSES, name="phantom:train")
        for seed in range(5):
            held, rest, lacking = protocol.hold_out(train, share, seed)
            assert not lacking and sorted([*held, *rest]) == list(range(94))
            assert abs(len(held) / 94 - share) < 0.1
            assert not {groups[row] for row in held} & {groups[row] for row in rest}
            assert set(labels[held]) == set(labels[rest]) == {0, 1, 2}
        alone = train.subset(np.arange(92))
        assert protocol.hold_out(alone, share, 0).lacking == ("three",)


@pytest.mark.parametrize("kind", ["two", "three", "lacking", "findings"])
def test_a_kernel_gives_the_probabilities_of_the_probe(kind):
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 4))
    count = {"two": 2, "three": 3, "lacking": 4, "findings": 3}[kind]
    labels = random.integers(0, min(count, 3), 50)
    if kind == "findings":
        labels = random.integers(0, 2, (50, 3)).astype(np.float32)
        labels[:, 2], labels[:5, 0] = 1, np.nan
    options = {"class_weight": "balanced", "max_iter": 500, "classes": count}
    kernel, bias = linear.fit_kernel(x, labels, strength=1.0, **options)
    tables = {"train": labels, "validation": labels}
    probe = linear.linear_probe({"train": x, "validation": x}, tables, strengths=(1.0,), standardise=False, **options)
    logits = jnp.asarray(x @ kernel + bias)
    found = PROBABILITIES["findings" if kind == "findings" else "class"](logits)
    np.testing.assert_allclose(found, probe.probs["validation"], atol=1e-6)
