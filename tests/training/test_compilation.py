"""Compiled programs are kept for later runs, where the user can have them."""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from aiseeme_jax.training import compilation

FIELDS = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def no_folder_yet(monkeypatch):
    """The settings that a user has who has told jax nothing; afterwards those of the tests."""
    before = {name: getattr(jax.config, name) for name in FIELDS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compilation, "WORTH_KEEPING", 0.0)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_and_run() -> None:
    jax.clear_caches()
    compilation_cache.reset_cache()
    assert float(jax.jit(lambda x: jnp.sin(x) * 3 + 1)(0.0)) == 1.0


def kept(folder: Path) -> set[Path]:
    return set(folder.rglob("*-cache"))


def test_a_program_is_kept_and_found_again(tmp_path, no_folder_yet):
    compilation.keep_programs(str(tmp_path / "programs"))
    compile_and_run()
    first = kept(tmp_path)
    assert first and all(compilation.name_processor() in str(path) for path in first)
    compile_and_run()
    assert kept(tmp_path) == first


def test_a_damaged_program_is_compiled_anew_without_a_word(tmp_path, no_folder_yet, recwarn):
    compilation.keep_programs(str(tmp_path))
    compile_and_run()
    for path in kept(tmp_path):
        path.write_bytes(path.read_bytes()[:20])
    compile_and_run()
    assert not [str(found.message) for found in recwarn if "compilation cache" in str(found.message)]


def test_nothing_is_kept_if_no_folder_is_named_or_the_user_has_one(tmp_path, no_folder_yet):
    compilation.keep_programs("")
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    compilation.keep_programs(str(tmp_path / "ours"))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path, no_folder_yet, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.INFO):
        compilation.keep_programs(str(tmp_path / "file" / "programs"))
    assert "compiled programs are not kept" in caplog.text and jax.config.jax_compilation_cache_dir is None
