"""Proxies: what they score, on which images, and with what they cannot score."""

import numpy as np
import pytest
import tiny
from ml_collections import FrozenConfigDict

from aiseeme_jax import data
from aiseeme_jax.errors import UserError
from aiseeme_jax.evaluate import metrics, proxies, rank
from aiseeme_jax.evaluate.knn import knn_probabilities
from aiseeme_jax.evaluate.proxies import PROXIES
from configs import base

SPLITS = {"train": tiny.split(24, seed=0), "validation": tiny.split(24, seed=1)}
SHORT = {"duration": base.duration(steps=3), "batch_size": 8}
SMALL = {
    "knn": {"neighbours": 3},
    "linear": {},
    "norms": SHORT,
    "rankme": {"images": 10},
    "lidar": {"images": 8, "copies": 3},
}


def fields(name, **changes):
    return base.proxy(name, size=tiny.SIZE, **{"views": tiny.PLAIN, "samples": 20, **SMALL[name], **changes})


def score(name, backbone=None, splits=SPLITS, batch=8, **changes):
    made = fields(name, **changes)
    selected = proxies.select_images(made, splits.get)
    return PROXIES[name].score(FrozenConfigDict(made), backbone or tiny.Linear(), selected, batch)


class TestEveryProxy:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", PROXIES)
    def test_is_a_number_with_resamples_that_does_not_depend_on_the_batch(self, name):
        one, other = score(name), score(name, batch=16)
        assert np.isfinite(one.value) and one.draws.shape == (20,) and np.ptp(one.draws) > 0
        assert other.value == pytest.approx(one.value, rel=1e-4)

    @pytest.mark.parametrize("name", PROXIES)
    def test_asks_for_no_other_split_than_training_and_validation(self, name):
        asked = []
        proxies.select_images(fields(name), lambda split: asked.append(split) or SPLITS[split])
        assert set(asked) == set(PROXIES[name].splits) <= {"train", "validation"}

    @pytest.mark.parametrize("name", PROXIES)
    def test_its_line_has_its_name_and_its_fields_are_checked(self, name):
        assert PROXIES[name].name == name
        PROXIES[name].check(fields(name))
        with pytest.raises(UserError, match="samples is 1; it must be at least 2"):
            PROXIES[name].check(fields(name, samples=1))


class TestLabelled:
    def test_knn_is_the_metric_of_the_votes(self):
        views = proxies.augment.views_of(FrozenConfigDict(fields("knn")).views)
        body = tiny.Linear()
        vectors = [proxies.features.extract(body, split, views=views, batch_size=8) for split in SPLITS.values()]
        labels = [split.labels for split in SPLITS.values()]
        probs = knn_probabilities(vectors[0], labels[0], vectors[1], k=3, class_weight="balanced", classes=3)
        assert score("knn", body).value == pytest.approx(metrics.auroc(labels[1], probs))
        found = score("knn", body, metric="balanced_accuracy").value
        assert found == pytest.approx(metrics.balanced_accuracy(labels[1], probs))

    def test_shares_take_whole_lesions_of_both_splits(self):
        made = proxies.select_images(fields("knn", share=0.5, validation_share=0.25), SPLITS.get)
        assert 10 <= len(made["train"]) <= 14 and 5 <= len(made["validation"]) <= 7
        for split in made.values():
            assert len(set(split.groups.tolist())) * 2 == len(split)

    @pytest.mark.slow
    def test_norms_learns_from_the_training_images_and_leaves_the_backbone_as_it_is(self):
        body = tiny.backbone()
        before = tiny.arrays(body)
        splits = {"train": tiny.split(48, seed=0), "validation": tiny.split(24, seed=1)}
        lengths = [{"duration": base.duration(steps=steps), "metric": "balanced_accuracy"} for steps in (1, 120)]
        short, long = (score("norms", body, splits, **length).value for length in lengths)
        assert long > short + 0.1
        tiny.assert_same(body, before)

    @pytest.mark.parametrize("name", ["knn", "linear", "norms"])
    def test_without_labels_names_the_proxies_that_need_none(self, name):
        bare = data.from_arrays(tiny.images(8), name="bare:train")
        with pytest.raises(UserError, match=f"'{name}' needs labels, and bare:train has none: .* rankme, lidar"):
            proxies.select_images(fields(name), {"train": bare, "validation": bare}.get)

    def test_a_metric_that_such_labels_do_not_have_is_refused(self):
        findings = (np.arange(48).reshape(24, 2) // 3 % 2).astype(np.float32)
        split = data.from_arrays(tiny.images(24), findings, class_names=("a", "b"), name="several:train")
        with pytest.raises(UserError, match="metric is 'balanced_accuracy'; such labels have auroc"):
            proxies.select_images(fields("knn", metric="balanced_accuracy"), lambda name: split)

    @pytest.mark.parametrize(
        "name, changes, message",
        [
            ("knn", {"share": 0.0}, r"share is 0.0; it must lie in \(0, 1\]"),
            ("knn", {"neighbours": 0}, "neighbours is 0"),
            ("knn", {"temperature": 0.0}, "temperature is 0.0; it must be positive"),
            ("knn", {"metric": "auc"}, "metric is 'auc'; known are balanced_accuracy"),
            ("linear", {"strength": 0.0}, "strength is 0.0; it must be positive"),
            ("norms", {"duration": base.duration(epochs=1)}, "duration of the proxy 'norms' must be in steps"),
            ("norms", {"batch_size": 0}, "batch_size is 0; it must be at least 1"),
            ("rankme", {"images": 3}, "images is 3; it must be at least 4"),
            ("lidar", {"copies": 1}, "copies is 1; it must be at least 2"),
            ("lidar", {"ridge": 0.0}, "ridge is 0.0; it must be positive"),
        ],
    )
    def test_a_field_out_of_its_range_is_named(self, name, changes, message):
        with pytest.raises(UserError, match=message):
            PROXIES[name].check(fields(name, **changes))

    def test_unknown_name_names_the_known_ones(self):
        with pytest.raises(UserError, match="unknown proxy 'svm': known are knn, linear, norms, rankme, lidar"):
            proxies.find_proxy("svm")


class TestLabelFree:
    def test_images_are_of_different_lesions(self):
        chosen = proxies.draw_images(SPLITS["validation"], 8, 0)
        assert len(set(SPLITS["validation"].groups[chosen].tolist())) == len(chosen) == 8
        assert len(proxies.draw_images(SPLITS["validation"], 100, 0)) == 12

    def test_labels_play_no_part(self):
        blind = {"validation": data.from_arrays(tiny.split(24, seed=1).images(), groups=SPLITS["validation"].groups)}
        assert score("rankme", splits=blind).value == score("rankme").value

    def test_lidar_is_that_of_the_features_of_the_views(self):
        """Views that do not vary are central views, several times."""
        made, body = fields("lidar", views=tiny.STILL), tiny.Linear()
        views = proxies.augment.views_of(FrozenConfigDict(made).views)
        chosen = proxies.select_images(made, SPLITS.get)["validation"]
        rows = proxies.features.extract(body, chosen, views=views, batch_size=8)
        expected = rank.lidar(np.repeat(rows[:, None], 3, axis=1))
        assert score("lidar", body, views=tiny.STILL).value == pytest.approx(expected, rel=1e-3)


class TestRank:
    @pytest.mark.parametrize(
        "features, expected",
        [(np.eye(4), 4.0000006), (np.diag([3.0, 1.0]), 1.75477), (np.ones((8, 4)), 1.0000047)],
    )
    def test_rankme_of_known_matrices(self, features, expected):
        assert rank.rankme(features) == pytest.approx(expected, rel=4e-6)

    def test_rankme_counts_a_common_offset_as_a_direction(self):
        rows = np.random.default_rng(0).standard_normal((256, 64))
        assert 60 < rank.rankme(rows) < 63 and 11 < rank.rankme(rows + 10) < 12.5

    def test_lidar_of_three_classes(self):
        views = [[(1, 0), (1.2, 0.1)], [(-1, 0), (-0.8, -0.1)], [(0, 1), (0, 1.2)]]
        assert rank.lidar(views) == pytest.approx(1.90937, abs=1e-5)

    def test_of_features_that_are_not_finite_or_all_alike_there_is_none(self):
        assert np.isnan(rank.rankme([[np.nan, 1.0]])) and np.isnan(rank.rankme(np.zeros((4, 2))))
        assert np.isnan(rank.lidar(np.full((4, 2, 3), np.inf))) and np.isnan(rank.lidar(np.ones((4, 2, 3))))
