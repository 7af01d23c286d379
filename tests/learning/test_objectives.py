"""Each objective against a problem whose answer is known: gradients by enumeration, optima in closed form."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thalweg.energy import AbstractDensity, AbstractEnergy, Offset, Real
from thalweg.energy.base import energy_of
from thalweg.energy.spaces import Binary, Categorical
from thalweg.errors import SettingsError
from thalweg.learning.exact import ExactLikelihood
from thalweg.learning.fit import fit
from thalweg.learning.neighbours import MinimumProbabilityFlow, PseudoLikelihood, RatioMatching
from thalweg.learning.noise import NoiseContrastive
from thalweg.learning.penalty import Ridge
from thalweg.learning.run import Run
from thalweg.learning.samples import ContrastiveDivergence
from thalweg.learning.scores import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching
from thalweg.models.ising import Ising
from thalweg.models.rbm import rbm
from thalweg.models.visible import Independent
from thalweg.sampling import HMC, ULA, Gibbs

KEY = jax.random.key(0)


class Quadratic(AbstractEnergy):
    r"""\(F = \frac12 y^\top P y - b^\top y + c\), P symmetric."""

    space: Real
    matrix: jax.Array
    linear: jax.Array
    constant: jax.Array

    def __call__(self, y, x=None):
        symmetric = (self.matrix + self.matrix.T) / 2
        return y @ symmetric @ y / 2 - jnp.vdot(self.linear, y) + self.constant


class Normal(AbstractDensity):
    space: Real
    scale: float

    def log_prob(self, y, x=None):
        return jnp.sum(jax.scipy.stats.norm.logpdf(y, scale=self.scale))

    def sample(self, x=None, *, key):
        return self.scale * jax.random.normal(key, self.space.shape)


class Tabled(AbstractEnergy):
    """Any energies of five ternary coordinates' neighbours: a Potts ring with fields."""

    space: Categorical
    fields: jax.Array
    pull: jax.Array

    def __call__(self, y, x=None):
        chosen = (y[:, None] == jnp.arange(3.0)[None]).astype(jnp.float32)
        return -self.pull * jnp.sum(chosen * jnp.roll(chosen, 1, axis=0)) - jnp.sum(chosen * self.fields)


def spin_glass(size=5):
    rng = np.random.default_rng(0)
    couplings = jnp.asarray(0.3 * rng.standard_normal((size, size)), jnp.float32)
    return Ising(Binary((size,)), couplings, jnp.asarray(0.3 * rng.standard_normal(size), jnp.float32))


def ring():
    fields = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3)), jnp.float32)
    return Tabled(Categorical((4,), 3), fields, jnp.float32(0.7))


def expected_gradient(objective, energy, shares):
    """The gradient of the expected loss under shares of all points of a finite space."""
    points = energy.space.points()

    def loss(energy):
        each = jax.vmap(lambda y: objective(energy, y[None], None, key=KEY)[0])(points)
        return jnp.vdot(shares, each)

    return jax.tree.leaves(eqx.filter_grad(loss)(energy))


def probabilities(energy):
    return jax.nn.softmax(-jax.vmap(energy)(energy.space.points()))


@pytest.mark.parametrize(
    "objective", [PseudoLikelihood(), RatioMatching(), MinimumProbabilityFlow(), ExactLikelihood()]
)
@pytest.mark.parametrize("make", [spin_glass, ring])
def test_the_truth_is_where_the_gradient_is_zero(make, objective):
    energy = make()
    for leaf in expected_gradient(objective, energy, probabilities(energy)):
        assert np.abs(leaf).max() < 2e-5
    hotter = probabilities(0.5 * energy)
    assert max(np.abs(leaf).max() for leaf in expected_gradient(objective, energy, hotter)) > 1e-2


def test_pseudo_likelihood_is_the_sum_of_conditionals():
    energy = spin_glass()
    table = {tuple(y): float(energy(jnp.asarray(y))) for y in np.asarray(energy.space.points()).tolist()}
    y = (1.0, 0.0, 0.0, 1.0, 1.0)
    total = 0.0
    for i in range(5):
        other = (*y[:i], 1 - y[i], *y[i + 1 :])
        total += np.log1p(np.exp(table[y] - table[other]))
    assert np.isclose(PseudoLikelihood()(energy, jnp.asarray([y]), None, key=KEY)[0], total, rtol=1e-5)
    ratio = sum(1 / (1 + np.exp(table[(*y[:i], 1 - y[i], *y[i + 1 :])] - table[y])) ** 2 for i in range(5))
    assert np.isclose(RatioMatching()(energy, jnp.asarray([y]), None, key=KEY)[0], ratio, rtol=1e-5)
    flow = sum(np.exp((table[y] - table[(*y[:i], 1 - y[i], *y[i + 1 :])]) / 2) for i in range(5))
    assert np.isclose(MinimumProbabilityFlow()(energy, jnp.asarray([y]), None, key=KEY)[0], flow, rtol=1e-5)


@pytest.mark.parametrize("make", [spin_glass, ring])
def test_flow_leaves_out_neighbours_that_are_data(make):
    energy = make()
    points = np.asarray(energy.space.points())
    data = points[np.random.default_rng(0).choice(len(points), 12, replace=False)]
    rows, flow = {tuple(y) for y in data.tolist()}, 0.0
    for y in data.tolist():
        for i, v in itertools.product(range(len(y)), range(energy.space.size)):
            other = (*y[:i], float(v), *y[i + 1 :])
            if other not in rows:
                flow += np.exp((float(energy(jnp.asarray(y))) - float(energy(jnp.asarray(other)))) / 2) / len(
                    data
                )
    objective = MinimumProbabilityFlow(exclude=True)
    memory = objective.init(energy, jnp.asarray(data), key=KEY)
    assert np.isclose(objective(energy, jnp.asarray(data), memory, key=KEY)[0], flow, rtol=1e-4)


def test_the_gradient_of_the_likelihood_is_a_difference_of_expectations():
    machine = rbm(Binary((6,)), 3, key=KEY, scale=0.8)
    data = jnp.asarray(np.random.default_rng(0).integers(0, 2, (20, 6)), jnp.float32)
    found = eqx.filter_grad(lambda m: ExactLikelihood()(m, data, None, key=KEY)[0])(machine)
    points, shares = machine.space.points(), probabilities(machine)
    slope = jax.vmap(lambda y: eqx.filter_grad(lambda m: m(y))(machine).weights)
    expected = jnp.mean(slope(data), axis=0) - jnp.tensordot(shares, slope(points), 1)
    assert np.allclose(found.weights, expected, atol=1e-5)


@pytest.mark.parametrize("start", ["persistent", "data"])
def test_contrastive_divergence_from_the_model_itself_is_the_likelihood(start):
    """Chains that start in the model's own distribution stay there: the gradient is exact but for their noise."""
    machine = rbm(Binary((6,)), 3, key=KEY, scale=0.8)
    points, shares = machine.space.points(), probabilities(machine)
    data = jnp.asarray(np.random.default_rng(0).integers(0, 2, (20_000, 6)), jnp.float32)
    draws = points[jax.random.categorical(jax.random.key(1), jnp.log(shares), shape=(20_000,))]
    objective = ContrastiveDivergence(Gibbs(), 2, start)
    memory = objective.init(machine, draws, key=KEY)
    batch = data if start == "persistent" else draws
    found = eqx.filter_grad(lambda m: objective(m, batch, memory, key=KEY)[0])(machine).weights
    exact = eqx.filter_grad(lambda m: ExactLikelihood()(m, batch, None, key=KEY)[0])(machine).weights
    # A weight's derivative is a mean of numbers between 0 and 1, of two samples.
    assert np.abs(found - exact).max() < 4.5 * 0.5 * np.sqrt(2 / 20_000)
    if start == "persistent":
        assert np.abs(exact).max() > 0.05


def test_no_gradient_flows_through_the_chain_unless_asked_for():
    energy = Quadratic(Real((2,)), jnp.eye(2), jnp.zeros(2), jnp.zeros(()))
    data = jax.random.normal(KEY, (64, 2))

    def gradient(**options):
        objective = ContrastiveDivergence(HMC(0.3, 3), 2, "data", **options)
        memory = objective.init(energy, data, key=KEY)
        return eqx.filter_grad(lambda e: objective(e, data, memory, key=KEY)[0])(energy).matrix

    fixed = gradient()
    objective = ContrastiveDivergence(HMC(0.3, 3), 2, "data")
    memory = objective.init(energy, data, key=KEY)
    _, (_, metrics) = objective(energy, data, memory, key=KEY)
    assert metrics["acceptance"] > 0.9
    assert np.abs(np.asarray(fixed) - np.asarray(gradient(through=True))).max() > 1e-3


def test_persistent_chains_of_a_buffer_move_and_stay():
    machine = rbm(Binary((6,)), 3, key=KEY)
    data = jnp.asarray(np.random.default_rng(0).integers(0, 2, (100, 6)), jnp.float32)
    objective = ContrastiveDivergence(Gibbs(), 1, "persistent", chains=80, refresh=0.1)
    memory = objective.init(machine, data, key=KEY)
    assert memory.buffer.shape == (80, 6)
    _, (after, _) = objective(machine, data[:20], memory, key=KEY)
    changed = np.any(np.asarray(after.buffer != memory.buffer), axis=1).sum()
    assert 10 < changed <= 20
    small = ContrastiveDivergence(Gibbs(), 1, "persistent", chains=8)
    _, (after, _) = small(machine, data[:20], small.init(machine, data, key=KEY), key=KEY)
    assert after.buffer.shape == (8, 6)


def test_missing_cells_are_drawn_and_observed_ones_are_not():
    machine = rbm(Binary((6,)), 3, key=KEY, scale=1.0)
    values = jnp.asarray(np.random.default_rng(0).integers(0, 2, (50, 6)), jnp.float32)
    observed = jnp.asarray(np.random.default_rng(1).random((50, 6)) < 0.5)
    objective = ContrastiveDivergence(Gibbs(), 5)
    memory = objective.init(machine, (values, observed), key=KEY)
    filled = objective._filled(machine, values, observed, memory, KEY)
    assert (np.asarray(filled == values) | ~np.asarray(observed)).all()
    garbled = jnp.where(observed, values, jnp.nan)
    assert np.array_equal(objective._filled(machine, garbled, observed, memory, KEY), filled)


@pytest.mark.parametrize(("rows", "low", "high"), [(1, 0.0, 0.0), (64, 0.5, 2.0)])
def test_chains_are_compared_with_the_width_of_the_data_where_it_has_one(rows, low, high):
    energy = Quadratic(Real((2,)), jnp.eye(2), jnp.zeros(2), jnp.zeros(()))
    objective = ContrastiveDivergence(ULA(0.01), 5, "data")
    data = jax.random.normal(KEY, (rows, 2))
    _, (_, metrics) = objective(energy, data, objective.init(energy, np.asarray(data), key=KEY), key=KEY)
    assert low <= float(metrics["reach"]) <= high


def test_noise_contrastive_estimation_learns_the_constant():
    """The constant of a Gaussian is its log Z, and the curvature its precision."""
    deviation = 0.7
    data = deviation * jax.random.normal(KEY, (20_000, 1))
    start = Quadratic(Real((1,)), jnp.eye(1), jnp.zeros(1), jnp.zeros(()))
    objective = NoiseContrastive(Normal(Real((1,)), 1.0), ratio=4)
    schedule = optax.cosine_decay_schedule(3e-2, 1500)
    found = fit(
        start,
        data,
        objective,
        optimiser=optax.adam(schedule),
        steps=1500,
        batch=2000,
        key=KEY,
        run=Run(progress=False),
    ).energy
    variance = float(jnp.var(data))
    precision = float(found.matrix[0, 0])
    assert np.isclose(precision, 1 / variance, rtol=0.05)
    log_z = 0.5 * np.log(2 * np.pi / precision) + float(found.linear[0]) ** 2 / (2 * precision)
    assert np.isclose(float(found.constant), log_z, atol=0.02)


def test_an_offset_learns_the_log_partition_of_what_has_no_constant():
    """Of a spin glass, from 4,096 draws: log Z by enumeration, and the probabilities that were drawn from."""
    truth = spin_glass()
    points = truth.space.points()
    energies = jax.vmap(truth)(points)
    data = points[jax.random.categorical(jax.random.key(2), -energies, shape=(4096,))]
    flat = jax.tree.map(jnp.zeros_like, truth)
    noise = Independent(truth.space, jnp.zeros(5), jnp.zeros(5))
    found = fit(
        Offset(flat, jnp.zeros(())),
        np.asarray(data),
        NoiseContrastive(noise, ratio=4),
        optimiser=optax.adam(optax.cosine_decay_schedule(3e-2, 1000)),
        steps=1000,
        batch=1024,
        key=KEY,
        run=Run(progress=False),
    ).energy
    log_z = jax.nn.logsumexp(-jax.vmap(found.energy)(points))
    assert float(found.constant) == pytest.approx(float(log_z), abs=0.05)
    shares = jax.nn.softmax(-energies)
    assert abs(float(jnp.sum(shares * (jnp.log(shares) + jax.vmap(found)(points))))) < 0.02


def sample_covariance(n=4000):
    rng = np.random.default_rng(0)
    y = rng.standard_normal((n, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 0.7, -0.3], [0.0, 0.0, 1.5]]) + [
        1.0,
        0.0,
        -1.0,
    ]
    return jnp.asarray(y, jnp.float32)


@pytest.mark.parametrize(
    ("objective", "tolerance"),
    [
        (ScoreMatching(), 1e-5),
        (ScoreMatching("hutchinson", probes=50), 0.02),
        (SlicedScoreMatching(slices=50), 0.02),
        (SlicedScoreMatching(slices=200, reduced=False), 0.05),
    ],
)
def test_score_matching_finds_the_precision_of_a_gaussian(objective, tolerance):
    """Its optimum over quadratic energies is the inverse of the sample covariance, whatever the sample."""
    y = sample_covariance()
    mean, covariance = jnp.mean(y, axis=0), jnp.cov(y.T, bias=True)
    precision = jnp.linalg.inv(covariance)
    energy = Quadratic(Real((3,)), precision, precision @ mean, jnp.zeros(()))
    gradient = eqx.filter_grad(lambda e: objective(e, y, None, key=KEY)[0])
    for leaf in (gradient(energy).matrix, gradient(energy).linear):
        assert np.abs(leaf).max() < max(tolerance, 2e-4) * float(jnp.linalg.norm(precision))
    wrong = eqx.tree_at(lambda e: e.matrix, energy, 2 * precision)
    assert np.abs(gradient(wrong).matrix).max() > 0.3


@pytest.mark.parametrize(
    "objective", [ScoreMatching(), ScoreMatching("hutchinson", 20), SlicedScoreMatching(100)]
)
def test_score_matching_has_its_sign(objective):
    """On N(0, s^2) in d dimensions the loss of the truth is -d / 2 s^2."""
    y = 0.2 * jax.random.normal(KEY, (20_000, 2))
    energy = Quadratic(Real((2,)), jnp.eye(2) / 0.04, jnp.zeros(2), jnp.zeros(()))
    assert np.isclose(objective(energy, y, None, key=KEY)[0], -25.0, rtol=0.05)


def test_denoising_score_matching_finds_the_blurred_precision():
    variance, sigma = 0.5, 0.6
    y = jnp.sqrt(variance) * jax.random.normal(KEY, (200_000, 1))
    objective = DenoisingScoreMatching((sigma,))

    def slope(precision):
        energy = Quadratic(Real((1,)), jnp.full((1, 1), precision), jnp.zeros(1), jnp.zeros(()))
        return float(eqx.filter_grad(lambda e: objective(e, y, None, key=KEY)[0])(energy).matrix[0, 0])

    right = 1 / (variance + sigma**2)
    assert abs(slope(right)) < 0.005
    assert slope(0.8 * right) < -0.02
    assert slope(1.2 * right) > 0.02


def test_noise_is_reflected_where_the_space_ends():
    """Rows on a face with Gaussian noise that is reflected are half-normal, of energy y²/2σ² and mean σ√(2/π); what the
    energy says beyond the face is never asked."""
    sigma, y = 0.3, jnp.zeros((20_000, 1))
    energy = energy_of(
        lambda y: jnp.sum(jnp.where(y < 0, 100 * y, y**2 / (2 * sigma**2))), Real((1,), 0.0, 9.0)
    )
    loss, _ = DenoisingScoreMatching((sigma,))(energy, y, None, key=KEY)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    slope = energy_of(lambda y: jnp.sum(jnp.where(y < 0, 100 * y, y)), Real((1,), 0.0, 9.0))
    objective = ContrastiveDivergence(ULA(1e-4), jitter=sigma)
    _, (_, metrics) = objective(slope, y, objective.init(slope, y, key=KEY), key=KEY)
    assert float(metrics["data_energy"]) == pytest.approx(sigma * np.sqrt(2 / np.pi), rel=0.02)


def test_denoising_does_not_scale_with_the_batch_and_tells_its_scale():
    energy = Quadratic(Real((1,)), jnp.eye(1), jnp.zeros(1), jnp.zeros(()))
    y = jax.random.normal(KEY, (100_000, 1))
    small, large = (float(DenoisingScoreMatching()(energy, y[:n], None, key=KEY)[0]) for n in (1000, 100_000))
    assert np.isclose(small, large, rtol=0.2)

    class Scaled(AbstractEnergy):
        space: Real = Real((1,))

        def __call__(self, y, x=None):
            return jnp.sum(y**2) / (2 * (1 + x**2))

    # At the truth for every scale: E|sigma s + xi|^2 / 2 = 1 / (1 + sigma^2) / 2.
    scales = (0.5, 2.0)
    found = DenoisingScoreMatching(scales, conditional=True)(Scaled(), y, None, key=KEY)[0]
    assert np.isclose(found, np.mean([0.5 / (1 + s**2) for s in scales]), rtol=0.02)


REAL = Quadratic(Real((2,)), jnp.eye(2), jnp.zeros(2), jnp.zeros(()))


@pytest.mark.parametrize(
    ("objective", "energy", "message"),
    [
        (PseudoLikelihood(), REAL, "pseudo-likelihood is for finite coordinates.*score matching"),
        (RatioMatching(), REAL, "ratio matching is for finite coordinates"),
        (MinimumProbabilityFlow(), REAL, "minimum probability flow is for finite coordinates"),
        (ScoreMatching(), spin_glass(2), "score matching is for real coordinates.*pseudo-likelihood"),
        (SlicedScoreMatching(), spin_glass(2), "sliced score matching is for real coordinates"),
        (DenoisingScoreMatching(), spin_glass(2), "denoising score matching is for real coordinates"),
    ],
)
def test_objectives_refuse_what_they_are_not_for(objective, energy, message):
    with pytest.raises(SettingsError, match=message):
        objective(energy, jnp.zeros((3, 2)), None, key=KEY)
    fitting = REAL if energy is not REAL else spin_glass(2)
    with pytest.raises(SettingsError, match="needs every cell of a row"):
        objective(fitting, (jnp.zeros((3, 2)), jnp.ones((3, 2), bool)), None, key=KEY)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastiveDivergence(Gibbs(), 0), "at least one step"),
        (lambda: ContrastiveDivergence(Gibbs(), 1, "elsewhere"), "data, noise or persistent"),
        (lambda: ContrastiveDivergence(Gibbs(), refresh=2.0), "share from 0 to 1"),
        (lambda: NoiseContrastive(Normal(Real((1,)), 1.0), 0), "at least one draw of noise"),
        (lambda: ScoreMatching("half"), "full or hutchinson"),
        (lambda: ScoreMatching(probes=0), "at least one probe"),
        (lambda: SlicedScoreMatching(0), "at least one slice"),
        (lambda: DenoisingScoreMatching(()), "scales of the noise are positive"),
    ],
)
def test_impossible_objectives_are_refused(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


@pytest.mark.parametrize("cause", ["leaping", "frozen", "not finite"])
def test_after_a_roll_back_the_leap_before_it_is_not_found_again(cause):
    machine = rbm(Binary((6,)), 3, key=KEY, scale=3.0)
    data = jnp.asarray(np.random.default_rng(0).integers(0, 2, (20, 6)), jnp.float32)
    objective = ContrastiveDivergence(Gibbs(), 1, "persistent", chains=20)
    _, (memory, _) = objective(machine, data, objective.init(machine, data, key=KEY), key=KEY)
    other = rbm(Binary((6,)), 3, key=jax.random.key(1), scale=3.0)
    _, (_, metrics) = objective(other, data, memory, key=KEY)
    assert metrics["leap"] > 1
    remedied, _ = objective.remedied(memory, cause)
    _, (_, metrics) = objective(other, data, remedied, key=KEY)
    assert metrics["leap"] < 1e-4


def test_a_ridge_is_a_normal_prior():
    """Of a Gaussian's mean m with precision 1 and n rows: the prior of precision n·λ takes it to m/(1 + λ)."""
    rows = np.random.default_rng(0).normal(2.0, 1.0, (64, 2)).astype(np.float32)
    start = Quadratic(Real((2,)), jnp.eye(2), jnp.zeros(2), jnp.zeros(()))
    fixed = eqx.tree_at(lambda F: F.matrix, start, np.eye(2, dtype=np.float32))

    def loss(linear):
        energy = eqx.tree_at(lambda F: F.linear, fixed, linear)
        ridge = Ridge(ScoreMatching(), 0.5, lambda F: F.linear)
        return ridge(energy, jnp.asarray(rows), None, key=KEY)[0]

    best = rows.mean(axis=0) / 1.5
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(best)), 0.0, atol=1e-5)
    assert jnp.linalg.norm(jax.grad(loss)(jnp.asarray(rows.mean(axis=0)))) > 0.5
    with pytest.raises(SettingsError, match="the strength of a ridge is not negative"):
        Ridge(ScoreMatching(), -1.0)


def test_a_ridge_says_what_the_objective_inside_says():
    chains = Ridge(ContrastiveDivergence(Gibbs(), 1, "persistent", chains=8), 0.1)
    assert not chains.measures_progress
    assert Ridge(PseudoLikelihood(), 0.1).measures_progress


def test_a_line_search_over_all_rows_finds_the_optimum_of_pseudo_likelihood():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 400)
    second = np.where(rng.random(400) < 0.8, first, 1 - first)
    rows = np.stack([first, second], axis=1).astype(np.float32)
    start = Ising(Binary((2,)), jnp.zeros((2, 2)), jnp.zeros(2))
    found = fit(
        start,
        rows,
        PseudoLikelihood(),
        optimiser=optax.lbfgs(),
        steps=15,
        batch=len(rows),
        key=KEY,
        run=Run(progress=False),
    ).energy
    # Two bits: the maximum of the pseudo-likelihood is that of the likelihood, whose log odds are those of the counts.
    counts = np.array([[np.sum((first == a) & (second == b)) for b in (0, 1)] for a in (0, 1)])
    coupling = np.log(counts[0, 0] * counts[1, 1] / counts[0, 1] / counts[1, 0]) / 4
    assert float(found.matrix[0, 1]) == pytest.approx(coupling, abs=1e-3)


def test_a_falling_blur_goes_from_the_first_scale_to_the_last():
    energy = Quadratic(Real((2,)), jnp.eye(2), jnp.ones(2), jnp.zeros(()))
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(64, 2)), jnp.float32)
    falling = DenoisingScoreMatching((0.9, 0.1), falling=2)
    memory, losses = falling.init(energy, rows, key=KEY), []
    for _ in range(4):
        loss, (memory, _) = falling(energy, rows, memory, key=KEY)
        losses.append(loss)
    fixed = [
        DenoisingScoreMatching((scale,))(energy, rows, None, key=KEY)[0] for scale in (0.9, 0.3, 0.1, 0.1)
    ]
    np.testing.assert_allclose(losses, fixed, rtol=1e-5)
    assert not falling.measures_progress
    assert DenoisingScoreMatching().measures_progress
    with pytest.raises(SettingsError, match="needs a first and a last scale"):
        DenoisingScoreMatching((0.1,), falling=10)
