"""Keys: equal for equal content, and for nothing else."""

import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax.store import keys


def test_the_order_of_names_does_not_matter():
    assert keys.make_key({"a": 1, "b": [1, 2]}) == keys.make_key({"b": [1, 2], "a": 1})


def test_nodes_of_a_config_count_as_plain_values():
    plain = {"optimizer": {"name": "sgd", "rate": 0.5}, "milestones": [0.6, 0.8]}
    node = ConfigDict({"optimizer": {"name": "sgd", "rate": 0.5}, "milestones": (0.6, 0.8)})
    assert keys.make_key(plain) == keys.make_key(node) == keys.make_key(FrozenConfigDict(node))


def test_a_whole_number_is_the_same_as_a_float():
    assert keys.make_key({"epochs": 2}) == keys.make_key({"epochs": 2.0})


@pytest.mark.parametrize(
    "other", [{"a": 2}, {"b": 1}, {"a": [1]}, {"a": None}, {"a": "1"}, {"a": 1, "b": 1}, {"a": 1 + 1e-12}, {}]
)
def test_other_content_has_another_key(other):
    assert keys.make_key(other) != keys.make_key({"a": 1})


def test_what_has_no_form_in_json_is_refused():
    with pytest.raises(TypeError, match="a function cannot be part of a key"):
        keys.make_key({"a": lambda: 1})


def test_a_file_counts_by_its_content(tmp_path):
    one, other, changed = (tmp_path / name for name in ("one", "other", "changed"))
    for path, text in ((one, "same"), (other, "same"), (changed, "Same")):
        path.write_text(text)
    assert keys.hash_file(one) == keys.hash_file(other) != keys.hash_file(changed)
