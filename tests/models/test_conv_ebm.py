"""The convolutional energy: where pixels lie, its bound, its conditionals and its sweep, and a fit of digits."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

import thalweg
from thalweg.data.dataset import Dataset
from thalweg.data.load import load
from thalweg.data.schema import Schema
from thalweg.energy.spaces import Column, Record
from thalweg.errors import Interrupted, SettingsError
from thalweg.learning import fit as training
from thalweg.learning.checkpoint import checkpoints
from thalweg.learning.run import Run
from thalweg.models.canvas import canvas_of, widest
from thalweg.models.conv_ebm import CONV_EBM, ConvEnergy, Settings, _picture, build
from thalweg.models.recipe import Problem
from thalweg.models.relaxation import bins, relaxed
from thalweg.nn.convolution import GAIN
from thalweg.nn.initial import drawn

SMALL = Settings(channels=3, layers=2, scale=3.0)


def pictures(n: int = 60, shape: tuple[int, ...] = (4, 3), levels: int = 5) -> np.ndarray:
    """Pictures of counts of which one pixel never varies."""
    images = np.random.default_rng(0).integers(0, levels, (n, *shape)).astype(np.uint8)
    images[:, 1, 1] = 2
    return images


def energy_over(space: Record, seed: int = 0) -> ConvEnergy:
    F = build(space, SMALL, drawn(jax.random.key(seed)))
    rng = np.random.default_rng(seed)
    heads, bias = (jnp.asarray(rng.normal(size=a.shape), jnp.float32) for a in (F.heads, F.bias))
    return replace(F, heads=heads, bias=bias, last=3 * F.last)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 3)])
def test_the_picture_has_every_pixel_in_its_place(shape):
    images = pictures(shape=shape)
    schema = Schema.infer(load(images))
    canvas = canvas_of(schema.space)
    codes = schema.encode(load(images).table).values
    found = np.asarray(jax.vmap(canvas.picture)(jnp.asarray(codes[:, canvas.pixels])))
    flat = images.reshape(len(images), -1).astype(float)
    spread = np.sqrt(np.mean(flat.var(axis=0)[flat.std(axis=0) > 0]))
    expected = (images - images.mean(axis=0)) / spread
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-4)
    assert (found[:, 1, 1] == 0).all()


def test_tables_and_categories_for_pixels_are_refused():
    with pytest.raises(SettingsError, match="convolutions are for images"):
        thalweg.fit("wine", "conv-ebm", progress=False)
    place = {"pixel": True, "place": (0, 0)}
    with pytest.raises(SettingsError, match="pixel 'p' is a category"):
        canvas_of(Record((Column("p", "categorical", size=3, **place),)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"layers": 0}, "layers must be at least 1"), ({"scale": -1.0}, "scale must be more than 0, not -1")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        Settings(**settings)


def test_counts_are_relaxed_to_their_bins():
    place = {"pixel": True, "place": (0, 0)}
    space = Record(
        (
            Column("a", "integer", size=4, spread=2.0),
            Column("b", "categorical", size=2, **place),
            Column("c", "categorical", size=2),
            Column("d", "real", lower=0.0, upper=1.0),
        )
    )
    box = [(c.kind, c.lower, c.upper) for c in relaxed(space).columns]
    assert box[:2] == [("real", -0.5, 3.5), ("real", -0.5, 1.5)]
    assert [kind for kind, *_ in box[2:]] == ["categorical", "real"]
    assert bins(space, 0.1) == pytest.approx((0.5, 0.5, 0.0, 0.1))
    assert bins(space, 1.0) == pytest.approx((2.0, 0.5, 0.0, 1.0))


def test_the_energy_of_pictures_is_as_steep_as_its_bound_at_most():
    """Units of slope at most 1.0999 and kernels of one norm: |dF/du| ≤ scale · |a| / (σ √(1 + σ²)) ·
    Π 1.0999 ⌈3/s⌉ ‖W‖, however large the weights are."""
    schema = Schema.infer(load(pictures()))
    F = build(schema.space, SMALL, drawn(jax.random.key(0)))
    F = replace(F, layers=jax.tree.map(lambda leaf: 30 * leaf, F.layers))
    canvas, rng = canvas_of(schema.space), np.random.default_rng(0)
    stretch = [
        1.0999
        * np.ceil(3 / layer.stride)
        * np.linalg.norm(layer.kernels.reshape(-1, layer.weight.shape[-1]), 2)
        for layer in F.layers
    ]
    steep = SMALL.scale * float(jnp.linalg.norm(F.last)) / (SMALL.blur * np.sqrt(1 + SMALL.blur**2))
    bound = np.prod(stretch) * steep
    slopes = jax.vmap(jax.grad(F))(jnp.asarray(rng.uniform(-5, 10, (50, *schema.space.shape)), jnp.float32))
    steepest = np.linalg.norm(np.asarray(slopes) / canvas.factor, axis=1).max()
    assert 0.001 * bound < steepest <= bound
    np.testing.assert_allclose(jnp.sum(F.layers[0].kernels ** 2, (0, 1, 2)), GAIN**2, rtol=1e-5)


BESIDE = Record(
    (
        *(Column(f"p{i}", "integer", size=3, center=1.0, pixel=True, place=(0, i)) for i in range(2)),
        Column("label", "categorical", size=3),
    )
)


def test_what_lies_beside_the_picture_is_normalised_given_it():
    space = Record((*BESIDE.columns, Column("width", "real", center=1.0, spread=2.0)))
    F = energy_over(space)
    widths = np.arange(-90.0, 90.0, 0.05)
    rows = [[2.0, 0.0, label, width] for label in range(3) for width in widths]
    energies = np.asarray(jax.vmap(F)(jnp.asarray(rows, jnp.float32)), np.float64)
    alone = float(F.of_picture(F.features(jnp.array([2.0, 0.0]))))
    assert np.exp(alone - energies).sum() * 0.05 == pytest.approx(1.0, rel=1e-3)


def test_sweeps_have_the_enumerated_probabilities():
    F, chains = energy_over(BESIDE), 20_000
    points = np.asarray(F.space.points())
    weights = np.exp(-1.5 * np.asarray(jax.vmap(F)(points), np.float64))
    truth = weights / weights.sum()
    free = jnp.zeros(3, bool)

    def chain(key):
        def sweep(i, y):
            return F.gibbs(y, free, beta=1.5, key=jax.random.fold_in(key, i))

        return jax.lax.fori_loop(0, 300, sweep, jnp.zeros(3))

    ends = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), chains)))
    seen = np.bincount((ends @ [9, 3, 1]).astype(int), minlength=27) / chains
    np.testing.assert_allclose(seen, truth, atol=5 * np.sqrt(truth.max() / chains))


def test_what_is_cleaned_is_a_step_down_the_slope():
    """y − σ²∇F by differences of the energy, within the counts; a label stays."""
    F = energy_over(Record((*BESIDE.columns[:2], Column("label", "categorical", size=3))))
    y, canvas = jnp.array([1.2, 0.7, 2.0]), canvas_of(F.space)
    alone = [
        float(F.of_picture(F.features(y[:2] + jnp.asarray(d))))
        for d in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01))
    ]
    slope = np.array([alone[0] - alone[1], alone[2] - alone[3]]) / 0.02
    expected = np.clip(np.asarray(y[:2]) - (SMALL.blur / canvas.factor) ** 2 * slope, 0, 2)
    found = np.asarray(F.cleaned(y))
    np.testing.assert_allclose(found[:2], expected, atol=0.01)
    assert found[2] == 2
    assert np.abs(found[:2] - np.asarray(y[:2])).max() > 0.05


def test_pixels_that_hardly_vary_are_blurred_like_the_others():
    place = {"pixel": True, "spread": 2.0}
    space = Record(
        (
            Column("a", "integer", size=2, place=(0, 0), **place),
            Column("b", "integer", size=256, place=(0, 1), **place),
        )
    )
    box = _picture(build(space, SMALL, drawn(jax.random.key(0)))).space
    assert [(c.lower, c.upper) for c in box.columns] == [(-0.5, 255.5)] * 2


def test_a_small_fit_answers_and_comes_back(tmp_path):
    images = pictures()
    small = {"channels": 2, "layers": 2, "matching": 4, "steps": 8, "chain": 2, "buffer": 80}
    model = thalweg.fit(images, "conv-ebm", progress=False, **small)
    assert np.isfinite(model.energy(images)).all()
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(thalweg.load(tmp_path / "model").energy(images), model.energy(images))


COVARIANCE, MIDDLE = np.array([[2.0, 1.2], [1.2, 1.0]]), np.array([0.5, -1.0])


class Known(ConvEnergy):
    """Two pixels of a known Gaussian, at every level of noise: the covariance grows by the noise's variance."""

    def features(self, codes, noise=None):
        noise = jnp.asarray(self.blur if noise is None else noise, jnp.float32)
        precision = jnp.linalg.inv(jnp.asarray(COVARIANCE, jnp.float32) + noise**2 * jnp.eye(2))
        apart = codes - jnp.asarray(MIDDLE, jnp.float32)
        return jnp.stack([apart @ precision @ apart / 2])

    def of_picture(self, h, noise=None):
        return h[0]


def test_a_chain_that_is_led_ends_at_draws_of_the_noisy_pixels():
    """Moments of 20,000 ends, to five standard errors and the 2 % by which Langevin steps of 0.3 are too wide."""
    columns = (Column("a", "real", pixel=True, place=(0, 0)), Column("b", "real", pixel=True, place=(0, 1)))
    plain = build(Record(columns), SMALL, drawn(jax.random.key(0)))
    F, n = Known(**vars(plain)), 20_000
    assert widest(F.space, SMALL.blur) == 10.0
    keys, free = jax.random.split(jax.random.key(0), n), jnp.zeros(2, bool)
    ends = np.asarray(
        jax.jit(jax.vmap(lambda key: F.annealed(jnp.zeros(2), free, key=key)))(keys), np.float64
    )
    truth = COVARIANCE + SMALL.blur**2 * np.eye(2)
    deviation = np.sqrt(np.diag(truth))
    np.testing.assert_allclose(ends.mean(axis=0), MIDDLE, atol=5 * deviation.max() / np.sqrt(n))
    found = np.cov(ends.T)
    np.testing.assert_allclose(found, truth, atol=(5 * np.sqrt(2 / n) + 0.02) * truth.max())
    held = np.asarray(F.annealed(jnp.array([3.0, 0.0]), jnp.array([True, False]), key=keys[0]))
    assert held[0] == 3.0


@pytest.mark.slow
def test_a_label_that_is_known_leads_to_pictures_of_its_own():
    """Two pictures, each with its label: of draws that are given a label nine in ten lie nearer to its own."""
    rng, marks = np.random.default_rng(0), np.zeros((2, 4, 4))
    marks[0, :, :2], marks[1, :, 2:] = 14, 14
    labels = rng.integers(0, 2, 400)
    images = (marks[labels] + rng.integers(0, 3, (400, 4, 4))).astype(np.int64)
    columns = {f"pixel_{i}_{j}": images[:, i, j] for i in range(4) for j in range(4)}
    table = pa.table({**columns, "label": np.array(["left", "right"])[labels]})
    small = {"channels": 4, "layers": 2, "matching": 300, "steps": 4, "chain": 2}
    dataset = Dataset(table, "halves", grid=(4, 4))
    model = thalweg.fit(dataset, "conv-ebm", target="label", progress=False, **small)
    for label, own in (("left", marks[0]), ("right", marks[1])):
        drawn = model.sample(20, given={"label": label})
        found = np.stack([drawn[name].to_numpy() for name in columns], axis=1).reshape(-1, 4, 4)
        apart = [np.sum((found - mark) ** 2, axis=(1, 2)) for mark in (own, marks.sum(axis=0) - own)]
        assert np.mean(apart[0] < apart[1]) >= 0.9


SHORT = Settings(channels=2, layers=2, matching=7, steps=6, chain=2, buffer=80)


def trained(monkeypatch, run: Run, stop: int | None = None):
    """The fit of small pictures, and the steps of both phases that it took; Ctrl-C as dispatch number `stop` ends."""
    dataset = load(pictures(shape=(8, 8)))
    schema = Schema.infer(dataset)
    rows = schema.encode(dataset.table)
    taken, original = [], training.next_pace

    def pace(*arguments):
        if len(taken) + 1 == stop:
            raise KeyboardInterrupt
        taken.append(arguments[1])
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "next_pace", pace)
        problem = Problem(schema.space, rows, rows[:0], SHORT, jax.random.key(0), run)
        return CONV_EBM.train(problem), sum(taken)


@pytest.mark.slow
def test_stopped_in_both_phases_it_resumes_to_the_same_bits(tmp_path, monkeypatch):
    whole, steps = trained(monkeypatch, Run())
    assert steps == SHORT.matching + SHORT.steps
    stopped = pytest.raises(Interrupted, match=rf"stopped at step .*--resume \(directory {tmp_path}\)")
    # Each step is measured, and so a dispatch of its own.
    with stopped:
        trained(monkeypatch, Run(tmp_path), 3)
    assert [path.stem for path in checkpoints(tmp_path)] == ["matching-checkpoint"]
    with stopped:
        trained(monkeypatch, Run(tmp_path, resume=True), SHORT.matching - 2 + 4)
    assert [path.stem for path in checkpoints(tmp_path)] == ["matching-checkpoint", "checkpoint"]
    again, left = trained(monkeypatch, Run(tmp_path, resume=True))
    assert left == SHORT.steps - 3
    assert eqx.tree_equal(again.energy, whole.energy)
    assert [r["loss"] for r in again.history] == [r["loss"] for r in whole.history]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*values outside the range of training")
def test_digits_by_fewer_steps_than_the_defaults():
    """Labels that a linear reader has at 96 %, and rows whose pixels are independent told from digits."""
    digits = load("digits")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits))
    train, test = digits.table.take(order[:1400]), digits.table.take(order[1400:])
    model = thalweg.fit(train, "conv-ebm", target="label", steps=150, progress=False)
    right = np.asarray(model.predict(test).value.to_pylist()) == np.asarray(test["label"].to_pylist())
    assert right.mean() > 0.96
    F, values = model.F, model.schema.encode(test).values
    canvas = canvas_of(F.space)
    pixels = values[:, canvas.pixels]
    mixed = np.stack([rng.permutation(column) for column in pixels.T], axis=1)
    energies = jax.jit(jax.vmap(lambda p: F.of_picture(F.features(p))))(
        jnp.asarray(np.concatenate([pixels, mixed]))
    )
    truth = np.repeat([0, 1], len(pixels))
    assert roc_auc_score(truth, np.asarray(energies)) > 0.98
