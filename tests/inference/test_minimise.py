"""Every solver on energies whose minimum is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from minimise_cases import (
    FIELD,
    MIXED,
    OFFSETS,
    Ising,
    MixedEnergy,
    Valley,
    ising_table,
    quadratic,
    solve_boxed,
    solve_quadratic,
)

from thalweg.energy import Binary, Categorical, Column, Real, Record, energy_of
from thalweg.energy.spaces import Simplex
from thalweg.errors import NotConverged, SettingsError
from thalweg.inference import BFGS, Alternating, Coordinate, Enumerate, Gradient, Implicit, Status, minimise

BOX = Real((3,), 0.0, 1.0)
ISING = Ising(jnp.asarray(FIELD))
LBFGS = Gradient(optax.lbfgs(), steps=100)
HALVES = [([1, 1, 0], Gradient()), ([0, 0, 1], Gradient())]
SPINS = [([1] * 4 + [0] * 4, Enumerate()), ([0] * 4 + [1] * 4, Enumerate())]
PARTS = [([1, 0, 0], Gradient()), ([0, 1, 1], Enumerate())]


def ising_minimum():
    points, energies = ising_table()
    return points[energies.argmin()]


CASES = {
    "quadratic by Adam": (quadratic(), np.zeros(3), Gradient(), solve_quadratic()),
    "quadratic by L-BFGS": (quadratic(), np.zeros(3), LBFGS, solve_quadratic()),
    "quadratic by BFGS": (quadratic(), np.zeros(3), BFGS(), solve_quadratic()),
    "quadratic by blocks": (quadratic(), np.zeros(3), Alternating(HALVES, 200), solve_quadratic()),
    "box by Adam": (quadratic(BOX), np.full(3, 0.5), Gradient(), solve_boxed()),
    "box by gradient": (quadratic(BOX), np.full(3, 0.5), Gradient(optax.sgd(0.1)), solve_boxed()),
    "valley by BFGS": (Valley(jnp.array(1.3)), np.zeros(2), BFGS(), [1.3, 1.69]),
    "valley by L-BFGS": (Valley(jnp.array(1.3)), np.zeros(2), LBFGS, [1.3, 1.69]),
    "spins by enumeration": (ISING, np.zeros(8), Enumerate(), ising_minimum()),
    "spins in chunks": (ISING, np.zeros(8), Enumerate(chunk=100), ising_minimum()),
    "mixed by blocks": (MixedEnergy(jnp.asarray(OFFSETS)), np.array([1.9, 0, 2]), Alternating(PARTS), None),
}


@pytest.mark.parametrize("name", list(CASES))
def test_each_solver_finds_the_known_minimum(name):
    energy, start, solver, expected = CASES[name]
    solution = minimise(energy, jnp.asarray(start, jnp.float32), solver=solver)
    if expected is not None:
        np.testing.assert_allclose(solution.value, expected, atol=2e-4)
    assert bool(energy.space.contains(solution.value))
    assert solution.energy == pytest.approx(float(energy(solution.value)), rel=1e-5)
    assert solution.status == Status.CONVERGED
    assert solution.converged
    assert solution.message == "converged"
    assert solution.steps > 0
    assert solution.gradient_norm < 1e-3


def test_active_bounds_are_reached_exactly():
    expected = solve_boxed()
    assert set(expected) & {0.0, 1.0}, "the case should have an active bound"
    value = minimise(quadratic(BOX), jnp.full(3, 0.5), solver=Gradient()).value
    on_bound = (expected == 0) | (expected == 1)
    np.testing.assert_array_equal(np.asarray(value)[on_bound], expected[on_bound])


def test_mixed_blocks_end_at_a_partial_minimum():
    energy = MixedEnergy(jnp.asarray(OFFSETS))
    y = np.asarray(minimise(energy, jnp.array([1.9, 0.0, 2.0]), solver=Alternating(PARTS)).value)
    # No other pair of finite values is better at this size, and no other size for these values.
    table = (y[0] - OFFSETS) ** 2 / 2 - 0.1 * np.arange(4) + 0.2 * (np.arange(3)[:, None] - 1) ** 2
    colour, count = int(y[1]), int(y[2])
    assert table[colour, count] == table.min()
    assert y[0] == pytest.approx(OFFSETS[colour, count], abs=1e-4)


@pytest.mark.parametrize("solver", [Gradient(), BFGS()], ids=["gradient", "bfgs"])
def test_observed_coordinates_stay_and_the_rest_follows(solver):
    start, observed = jnp.array([2.0, 0.0, 0.0]), jnp.array([True, False, False])
    solution = minimise(quadratic(), start, solver=solver, observed=observed)
    assert solution.value[0] == 2.0
    np.testing.assert_allclose(solution.value, solve_quadratic(observed=observed, values=start), atol=2e-4)


def test_enumeration_of_the_free_part():
    start = np.array([1, 0, 1, 1, 0, 0, 0, 0], np.float32)
    observed = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    solution = minimise(ISING, jnp.asarray(start), solver=Enumerate(), observed=observed)
    points, energies = ising_table()
    agrees = (points[:, :4] == start[:4]).all(1)
    np.testing.assert_array_equal(solution.value, points[agrees][energies[agrees].argmin()])
    assert solution.steps == 16


def test_the_input_and_everything_observed():
    x = jnp.array([0.5, -0.5, 1.0])
    solution = minimise(quadratic(), jnp.zeros(3), x, solver=Gradient())
    np.testing.assert_allclose(solution.value, solve_quadratic(np.array([3.5, -2.5, 2.0])), atol=2e-4)
    fixed = minimise(quadratic(), jnp.ones(3), solver=Gradient(), observed=jnp.ones(3, bool))
    np.testing.assert_array_equal(fixed.value, np.ones(3))


def test_coordinate_descent_ends_where_no_single_change_helps():
    points, energies = ising_table()
    for start in points[::60]:
        solution = minimise(ISING, jnp.asarray(start, jnp.float32), solver=Coordinate())
        value = np.asarray(solution.value, float)
        own = energies[(points == value).all(1)][0]
        neighbours = energies[np.abs(points - value).sum(1) == 1]
        assert own <= neighbours.min() + 1e-5
        assert own <= energies[(points == start).all(1)][0] + 1e-5


def test_coordinate_descent_on_a_mixed_record_uses_its_candidates():
    energy = MixedEnergy(jnp.asarray(OFFSETS))
    sizes = np.array([-2.0, 0.1, 2.0], np.float32)
    table = np.full((3, 4), np.nan, np.float32)
    table[0, :3], table[1, :3], table[2, :4] = sizes, range(3), range(4)
    solution = minimise(energy, jnp.array([0.1, 1.0, 1.0]), solver=Coordinate(jnp.asarray(table)))
    y = np.asarray(solution.value)
    assert y[0] in sizes
    here = float(energy(solution.value))
    for index in range(3):
        for value in table[index][~np.isnan(table[index])]:
            assert float(energy(solution.value.at[index].set(value))) >= here - 1e-6


def test_coordinate_descent_covers_unbounded_columns_with_a_grid():
    record = Record((Column("size", "real", center=10.0, spread=2.0), Column("kind", "categorical", 2)))
    energy = energy_of(lambda y: (y[0] - 11.0 - y[1]) ** 2 + 0.1 * y[1], record)
    solution = minimise(energy, jnp.array([10.0, 1.0]), solver=Coordinate(grid=17))
    # The grid is 2, 3, ..., 18.
    np.testing.assert_allclose(solution.value, [12.0, 1.0])


def test_batches_match_single_calls():
    starts = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    masks = jnp.array([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
    batch = jax.vmap(lambda s, o: minimise(quadratic(), s, solver=Gradient(), observed=o))(starts, masks)
    expected = [solve_quadratic(observed=o, values=s) for s, o in zip(starts, masks, strict=True)]
    np.testing.assert_allclose(batch.value, expected, atol=2e-4)
    assert batch.converged.all()
    assert batch.message == "converged"


def test_batches_of_mixed_records_with_their_own_masks():
    energy = MixedEnergy(jnp.asarray(OFFSETS))
    solver = Alternating([([1, 0, 0], Gradient()), ([0, 1, 1], Coordinate())])
    starts = jnp.array([[2.0, 0, 2], [0.4, 0, 0], [0.0, 2, 3]])
    masks = jnp.array([[1, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
    batch = jax.vmap(lambda s, o: minimise(energy, s, solver=solver, observed=o))(starts, masks)
    assert batch.value[0, 0] == 2.0
    np.testing.assert_allclose(batch.value[1], [OFFSETS[0, 0], 0, 0], atol=1e-5)
    np.testing.assert_array_equal(batch.value[2], starts[2])


def test_repeated_calls_are_not_traced_again():
    traces = 0

    def counted(y, x):
        nonlocal traces
        traces += 1
        return jnp.sum((y - x) ** 2)

    energy = energy_of(counted, Real((2,)))
    solver = Gradient(optax.sgd(0.2))
    minimise(energy, jnp.zeros(2), 1.0, solver=solver)
    first = traces
    for k in range(3):
        observed = jnp.array([k == 0, k == 1])
        minimise(energy, jnp.full(2, k + 1.0), float(k), solver=Gradient(solver.optimiser), observed=observed)
    assert first > 0
    assert traces == first


def test_running_out_of_steps_raises_or_reports():
    solver = Gradient(optax.sgd(1e-3), steps=5)
    with pytest.raises(NotConverged, match=r"not reached in the steps allowed.*after 5 steps"):
        minimise(quadratic(), jnp.zeros(3), solver=solver)
    solution = minimise(quadratic(), jnp.zeros(3), solver=solver, throw=False)
    assert solution.status == Status.STEPS_EXHAUSTED
    assert not solution.converged
    assert "throw=False" in solution.message
    with pytest.raises(NotConverged, match="steps allowed"):
        minimise(quadratic(), jnp.zeros(3), solver=BFGS(max_steps=2))


def test_an_unbounded_energy_does_not_converge():
    energy = energy_of(lambda y: -jnp.exp(y * y), Real(()))
    with pytest.raises(NotConverged, match=r"became infinite or not a number.*has a minimum"):
        minimise(energy, jnp.array(1.0), solver=Gradient(optax.sgd(1.0)))
    last = minimise(energy, jnp.array(1.0), solver=Gradient(optax.sgd(1.0)), throw=False)
    assert jnp.isfinite(last.value)


@pytest.mark.parametrize("solver", [Gradient(), BFGS()], ids=["gradient", "bfgs"])
def test_an_energy_that_is_not_finite_at_the_start(solver):
    energy = energy_of(lambda y: y - jnp.log(y), Real(()))
    with pytest.raises(NotConverged, match="at the start is infinite or not a number"):
        minimise(energy, jnp.array(-1.0), solver=solver)


def test_a_finite_space_without_a_finite_energy():
    energy = energy_of(lambda y: jnp.inf + y, Categorical((), 3))
    with pytest.raises(NotConverged, match="infinite or not a number"):
        minimise(energy, jnp.array(0.0), solver=Enumerate())


def test_a_bad_status_raises_inside_compiled_code():
    solver = Gradient(optax.sgd(1e-3), steps=5)
    run = eqx.filter_jit(lambda y: minimise(quadratic(), y, solver=solver).value)
    with pytest.raises(Exception, match="NotConverged: the minimum was not reached"):
        run(jnp.zeros(3)).block_until_ready()
    batch = eqx.filter_jit(jax.vmap(lambda y: minimise(quadratic(), y, solver=solver, throw=False)))
    assert (batch(jnp.zeros((2, 3))).status == Status.STEPS_EXHAUSTED).all()


WIDE = energy_of(jnp.sum, Binary((30,)))
UNBOUNDED = Record((Column("a", "real"), Column("b", "categorical", 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: minimise(quadratic(), jnp.zeros(2), solver=Gradient()),
            r"shape \(2,\); the space needs \(3,\)",
        ),
        (lambda: minimise(jnp.sum, jnp.zeros(3), solver=Gradient()), "wrap a function with `energy_of`"),
        (
            lambda: minimise(quadratic(BOX), jnp.array([0.5, 2.0, 0.5]), solver=Gradient()),
            "coordinate 1 is outside the space",
        ),
        (
            lambda: minimise(mixed(), jnp.array([0.0, 0.5, 9.0]), solver=Coordinate()),
            "'colour', 'count' are outside",
        ),
        (
            lambda: minimise(mixed(), jnp.array([jnp.nan, 0, 0]), solver=Coordinate()),
            "'size' is infinite or not",
        ),
        (
            lambda: minimise(mixed(), jnp.zeros(3), solver=Gradient()),
            "columns 'colour', 'count' are finite and free",
        ),
        (lambda: minimise(mixed(), jnp.zeros(3), solver=BFGS()), "BFGS moves real coordinates only"),
        (lambda: minimise(quadratic(BOX), jnp.zeros(3), solver=BFGS()), "BFGS knows no bounds"),
        (lambda: minimise(mixed(), jnp.zeros(3), solver=Enumerate()), "column 'size' is free and real"),
        (lambda: minimise(WIDE, jnp.zeros(30), solver=Enumerate()), r"1,073,741,824 points are more than"),
        (
            lambda: minimise(ISING, jnp.zeros(8), solver=Enumerate(largest=100)),
            "256 points are more than the 100",
        ),
        (
            lambda: minimise(quadratic(), jnp.zeros(3), solver=Coordinate()),
            "without bounds: give `candidates`",
        ),
        (
            lambda: minimise(mixed(), jnp.zeros(3), solver=Coordinate(jnp.zeros((2, 2)))),
            "one row for each of the 3 coordinates",
        ),
        (
            lambda: minimise(mixed(), jnp.zeros(3), solver=Gradient(), observed=jnp.ones(3)),
            "`observed` must be boolean",
        ),
        (
            lambda: minimise(quadratic(), jnp.zeros(3), solver=Alternating([([1, 0, 0], Gradient())])),
            "coordinates 1, 2 are free and in no block",
        ),
        (
            lambda: minimise(quadratic(), jnp.zeros(3), solver=Alternating([([1], Gradient())])),
            "the shape of the space",
        ),
        (lambda: Alternating([]), "at least one block"),
        (lambda: Gradient(steps=0), "steps must be positive"),
        (lambda: Implicit(damping=-1.0), "must not be negative"),
        (
            lambda: jax.jit(lambda o: minimise(ISING, jnp.zeros(8), solver=Enumerate(), observed=o).value)(
                jnp.ones(8, bool)
            ),
            "known outside jit and vmap",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(SettingsError, match=message):
        call()


SHARES = jnp.array([0.5, 0.3, 0.2])


def test_a_simplex_is_refused_and_its_remedy_finds_the_minimum():
    def cross_entropy(y):
        return -SHARES @ jnp.log(y)

    with pytest.raises(SettingsError, match="minimise over unbounded scores") as refused:
        minimise(energy_of(cross_entropy, Simplex(3)), jnp.full(3, 1 / 3), solver=Gradient())
    assert "energy_of(lambda u: F(jax.nn.softmax(u)), Real((3,)))" in str(refused.value)
    scores = energy_of(lambda u: cross_entropy(jax.nn.softmax(u)), Real((3,)))
    found = minimise(scores, jnp.zeros(3), solver=LBFGS)
    np.testing.assert_allclose(jax.nn.softmax(found.value), SHARES, atol=1e-4)


def mixed():
    return MixedEnergy(jnp.asarray(OFFSETS))


def test_observed_values_may_lie_outside_the_space():
    energy = energy_of(lambda y: (y[0] - y[2]) ** 2, MIXED)
    start, observed = jnp.array([0.0, 1.0, 9.0]), jnp.array([False, True, True])
    solution = minimise(energy, start, solver=Gradient(steps=2000), observed=observed)
    np.testing.assert_allclose(solution.value, [9.0, 1.0, 9.0], atol=1e-3)


def test_a_bad_status_in_a_batch_raises():
    solver = Gradient(optax.sgd(1e-3), steps=5)
    with pytest.raises(Exception, match="NotConverged: the minimum was not reached"):
        jax.vmap(lambda y: minimise(quadratic(), y, solver=solver).value)(jnp.zeros((2, 3)))
