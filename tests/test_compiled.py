"""Compiled programs compute what they should, and do not pile up until the process dies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg
from thalweg import compiled
from thalweg.energy import Binary
from thalweg.models.ising import Graph, Ising, square_lattice

on_linux = pytest.mark.skipif(not compiled.MAPS.exists(), reason="only Linux counts memory maps")


@pytest.mark.parametrize("n", [32_768, 32_769, 100_000])
def test_a_sum_of_a_product_is_right_for_many_rows(n):
    """A release of jaxlib (0.10.2) adds up wrongly, on CPU, what follows the 32,768th row: jax issue 39103."""
    rows = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    turn = np.array([[1, 2, 0], [0, 1, -1], [3, 0, 1]], np.float32)
    found = jax.jit(jax.vmap(lambda row: jnp.sum((turn @ row) ** 2)))(rows)
    np.testing.assert_allclose(found, np.sum((rows @ turn.T) ** 2, axis=1), rtol=1e-4, atol=1e-4)


def test_energies_of_tempered_lattices_are_right_for_many_chains():
    """Where it was found: 64 chains at 12 temperatures on 100 spins."""
    graph = Graph.of(square_lattice(10, 10), 100)
    rng = np.random.default_rng(0)
    model = Ising(Binary((100,)), jnp.asarray(rng.normal(size=180), jnp.float32), jnp.zeros(100), graph)
    betas = np.linspace(1.0, 0.1, 12).astype(np.float32)
    y = (rng.random((64, 12, 100)) < 0.5).astype(np.float32)
    s = 2 * y - 1

    def energies(points):
        return jax.vmap(lambda beta, point: model.tempered(beta)(point))(jnp.asarray(betas), points)

    expected = -betas * np.einsum("cti,ij,ctj->ct", s, np.asarray(model.matrix), s) / 2
    np.testing.assert_allclose(jax.jit(jax.vmap(energies))(y), expected, rtol=1e-4, atol=1e-3)


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
