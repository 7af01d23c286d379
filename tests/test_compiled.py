"""Compiled programs do not pile up until the process dies."""

import jax
import jax.numpy as jnp
import pytest

import thalweg
from thalweg import compiled

on_linux = pytest.mark.skipif(not compiled.MAPS.exists(), reason="only Linux counts memory maps")


@on_linux
def test_room_is_made_where_half_of_the_maps_are_used(tmp_path, monkeypatch):
    limit = tmp_path / "max_map_count"
    monkeypatch.setattr(compiled, "LIMIT", limit)
    function = jax.jit(lambda x: x * 2)
    function(jnp.ones(3))
    used = len(compiled.MAPS.read_bytes().splitlines())
    limit.write_text(str(4 * used))
    assert not compiled.make_room()
    assert function._cache_size() == 1
    limit.write_text(str(used))
    assert compiled.make_room()
    assert function._cache_size() == 0


@on_linux
def test_fits_and_loads_ask_for_room(tmp_path, monkeypatch):
    """With a limit that is always reached, every fit and load begins with empty caches, and goes well."""
    monkeypatch.setattr(compiled, "LIMIT", tmp_path / "limit")
    (tmp_path / "limit").write_text("1")
    function = jax.jit(lambda x: x * 2)
    function(jnp.ones(3))
    model = thalweg.fit("wine", "pca", progress=False, components=2)
    assert function._cache_size() == 0
    model.save(tmp_path / "model")
    function(jnp.ones(3))
    again = thalweg.load(tmp_path / "model")
    assert function._cache_size() == 0
    assert (again.energy("wine") == model.energy("wine")).all()


def test_without_proc_there_is_nothing_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "LIMIT", tmp_path / "absent")
    assert not compiled.make_room()
