"""What networks do to pictures in training."""

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.models.networks import moved


def test_pictures_move_by_whole_pixels_and_mean_stands_where_nothing_was():
    picture = np.random.default_rng(0).normal(size=(6, 5, 2)).astype(np.float32)
    padded = np.pad(picture, ((2, 2), (2, 2), (0, 0)))
    steps = [(i, j) for i in range(5) for j in range(5)]
    every = np.stack([padded[i : i + 6, j : j + 5] for i, j in steps])
    keys = jax.random.split(jax.random.key(0), 400)
    found = np.asarray(jax.jit(jax.vmap(lambda key: moved(jnp.asarray(picture), 2, key=key)))(keys))
    same = np.all(found[:, None] == every[None], axis=(2, 3, 4))
    np.testing.assert_array_equal(same.sum(axis=1), 1)
    # Of 25 steps each is drawn 16 times, with a deviation below 4.
    counts = same.sum(axis=0)
    assert counts.min() >= 1
    assert counts.max() <= 36
