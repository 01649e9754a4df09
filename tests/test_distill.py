"""Distillers by kind: their formulae, and that the teacher stays out of the gradient."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from aiseeme_jax import distill

rng = np.random.default_rng(0)
STUDENT, TEACHER = (rng.normal(size=(8, 5)).astype(np.float32) for _ in range(2))


def config(kind, temperature=4.0):
    return FrozenConfigDict(ConfigDict({"kind": kind, "weight": 1.0, "temperature": temperature}))


def expected(kind):
    if kind == "mse":
        return np.mean(np.mean((STUDENT - TEACHER) ** 2, axis=1))
    p, q = (np.exp(x / 4) / np.exp(x / 4).sum(axis=1, keepdims=True) for x in (TEACHER, STUDENT))
    return 16 * np.mean(np.sum(p * np.log(p / q), axis=1))


def test_none_distils_nothing():
    assert distill.make(config("none")) is None


@pytest.mark.parametrize("kind", distill.KINDS)
def test_value(kind):
    np.testing.assert_allclose(distill.make(config(kind))(STUDENT, TEACHER), expected(kind), rtol=1e-5)


@pytest.mark.parametrize("kind", distill.KINDS)
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(kind):
    value, gradient = jax.value_and_grad(distill.make(config(kind)))(TEACHER, TEACHER)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("kind", distill.KINDS)
def test_the_gradient_reaches_the_student_only(kind):
    student, teacher = jax.grad(distill.make(config(kind)), argnums=(0, 1))(STUDENT, TEACHER)
    assert np.linalg.norm(student) > 0.01
    np.testing.assert_array_equal(teacher, 0)


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="'cosine'; known: none, kl, mse"):
        distill.make(config("cosine"))


def test_temperature_must_suit_the_kind():
    with pytest.raises(ValueError, match="distill.temperature is 0.0"):
        distill.make(config("kl", temperature=0.0))
    assert distill.make(config("mse", temperature=0.0)) is not None


def test_a_new_kind_is_one_entry(monkeypatch):
    monkeypatch.setitem(distill.KINDS, "dot", lambda config: lambda student, teacher: (student * teacher).sum())
    compare = distill.make(SimpleNamespace(kind="dot"))
    np.testing.assert_allclose(compare(STUDENT, TEACHER), (STUDENT * TEACHER).sum(), rtol=1e-5)
