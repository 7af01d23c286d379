"""The scikit-learn estimators: every check of scikit-learn's own, and answers against closed forms and its peers."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import betabinom, multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import thalweg.sklearn
from mixed import mixed_table
from thalweg.energy.base import AbstractDensity
from thalweg.errors import DataError, DataWarning, NotAnswered, SettingsError
from thalweg.sklearn import (
    EnergyClassifier,
    EnergyDensity,
    EnergyImputer,
    EnergyOutlierDetector,
    EnergyRegressor,
)

pytestmark = pytest.mark.usefixtures("compile_once")

#: One Gaussian, exactly at its maximum of likelihood.
GAUSSIAN = {"components": 1, "reg": 0.0, "prior": "none"}

#: The estimators of tables; lists of sequences are what none of scikit-learn's checks knows (tests/models/test_crf.py).
TABLES = [name for name in thalweg.sklearn.__all__ if name != "EnergyLabeller"]

# In a process of its own: scikit-learn runs one check only where SciPy was imported with this variable set.
CHECK = """
import json, sys, warnings
warnings.simplefilter("ignore")
import thalweg.sklearn
from sklearn.utils.estimator_checks import check_estimator
names, options = json.loads(sys.argv[1])
found = {}
for name in names:
    estimator = getattr(thalweg.sklearn, name)(**options)
    found[name] = [
        (check["check_name"], check["status"], repr(check["exception"]))
        for check in check_estimator(estimator, on_skip=None, on_fail=None)
    ]
print(json.dumps(found))
"""


def checks(names, **options):
    """What `check_estimator` says of each estimator: name, status and exception of every check."""
    settings = {
        "SCIPY_ARRAY_API": "1",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    command = [sys.executable, "-c", CHECK, json.dumps([list(names), options])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def checked(compile_once):
    return checks(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_every_check_passes_and_none_is_left_out(checked, name):
    assert len(checked[name]) >= 40
    assert [check for check in checked[name] if check[1] != "passed"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "settings", "names"),
    [
        ("pca", {}, TABLES),
        # A few prototypes are no regressor: scikit-learn asks for an R² above 0.5.
        (
            "kmeans",
            {},
            [name for name in TABLES if name != "EnergyRegressor"],
        ),
    ],
)
def test_every_check_passes_with_other_recipes(recipe, settings, names):
    found = checks(names, recipe=recipe, settings=settings)
    assert [(name, check) for name in names for check in found[name] if check[1] != "passed"] == []


# --- against the truth ------------------------------------------------------------------------------------------


MEAN, COVARIANCE = np.array([10.0, -2.0, 300.0]), np.array([[4, 1, 10], [1, 1, 5], [10, 5, 100.0]])


@pytest.fixture(scope="module")
def gaussian():
    return np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 900)


@pytest.fixture(scope="module")
def density(gaussian):
    return EnergyDensity(settings=GAUSSIAN, random_state=0).fit(gaussian)


def test_log_densities_are_those_of_the_gaussian(density, gaussian):
    truth = multivariate_normal(gaussian.mean(axis=0), np.cov(gaussian.T, ddof=0))
    np.testing.assert_allclose(density.score_samples(gaussian), truth.logpdf(gaussian), atol=1e-3)
    assert density.score(gaussian) == pytest.approx(truth.logpdf(gaussian).mean(), abs=1e-4)


def test_a_row_with_missing_cells_has_the_marginal_density(density, gaussian):
    seen = [0, 2]
    truth = multivariate_normal(gaussian.mean(axis=0)[seen], np.cov(gaussian.T, ddof=0)[np.ix_(seen, seen)])
    holes = gaussian.copy()
    holes[:, 1] = np.nan
    np.testing.assert_allclose(density.score_samples(holes), truth.logpdf(gaussian[:, seen]), atol=1e-3)


def test_draws_follow_the_gaussian(density):
    drawn = density.sample(4000)
    assert drawn.shape == (4000, 3)
    deviation = np.sqrt(np.diag(COVARIANCE))
    # The mean of 900 rows and that of 4,000 draws: five standard errors.
    assert (np.abs(drawn.mean(axis=0) - MEAN) < 5 * deviation * np.sqrt(1 / 900 + 1 / 4000)).all()
    spread = np.cov(drawn.T) / np.outer(deviation, deviation)
    expected = COVARIANCE / np.outer(deviation, deviation)
    np.testing.assert_allclose(spread, expected, atol=5 * np.sqrt(2 / 900 + 2 / 4000))
    np.testing.assert_array_equal(drawn, density.sample(4000))


def test_missing_cells_get_their_conditional_mean(gaussian):
    holes = gaussian.copy()
    holes[::2, 1] = np.nan
    imputer = EnergyImputer(settings=GAUSSIAN).fit(gaussian)
    filled = imputer.transform(holes)
    mean, covariance = gaussian.mean(axis=0), np.cov(gaussian.T, ddof=0)
    weights = np.linalg.solve(covariance[np.ix_([0, 2], [0, 2])], covariance[[0, 2], 1])
    truth = mean[1] + (gaussian[::2][:, [0, 2]] - mean[[0, 2]]) @ weights
    np.testing.assert_allclose(filled[::2, 1], truth, atol=1e-4)
    np.testing.assert_array_equal(filled[~np.isnan(holes)], holes[~np.isnan(holes)])


def test_one_gaussian_regresses_as_least_squares_do():
    X, y = load_diabetes(return_X_y=True)
    peer = LinearRegression().fit(X, y)
    regressor = EnergyRegressor(settings=GAUSSIAN).fit(X, y)
    np.testing.assert_allclose(regressor.predict(X), peer.predict(X), atol=0.05)


def test_the_deviation_is_that_of_the_residuals(gaussian):
    X, y = gaussian[:, [0, 2]], gaussian[:, 1]
    residuals = y - LinearRegression().fit(X, y).predict(X)
    mean, deviation = EnergyRegressor(settings=GAUSSIAN).fit(X, y).predict(X, return_std=True)
    np.testing.assert_allclose(mean, y - residuals, atol=1e-3)
    # The energy is followed over the range of y only, which cuts a tail of the rows near its ends.
    assert np.median(deviation) == pytest.approx(residuals.std(), rel=0.01)


def test_an_energy_of_the_number_alone_regresses_what_is_no_line():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (600, 2))
    y = np.sin(3 * X[:, 0]) + 0.1 * rng.normal(size=600)
    regressor = EnergyRegressor("implicit", settings={"steps": 300, "width": 32}, random_state=0).fit(
        X[:500], y[:500]
    )
    mean, deviation = regressor.predict(X[500:], return_std=True)
    truth = np.sin(3 * X[500:, 0])
    line = LinearRegression().fit(X[:500], y[:500]).predict(X[500:])
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.1 < np.sqrt(np.mean((line - truth) ** 2))
    assert 0.08 < np.median(deviation) < 0.25


def test_a_mixture_regresses_about_as_well_as_least_squares():
    X, y = load_diabetes(return_X_y=True)
    mixture = EnergyRegressor(settings={"covariance": "tied"}, random_state=0)
    ours, peer = (cross_val_score(each, X, y, cv=3).mean() for each in (mixture, LinearRegression()))
    assert ours > peer - 0.05


@pytest.mark.parametrize("load", [load_wine, load_iris])
def test_the_classifier_is_about_as_good_as_discriminant_analysis(load):
    X, y = load(return_X_y=True)
    ours = cross_val_score(EnergyClassifier(random_state=0), X, y, cv=3).mean()
    peer = cross_val_score(LinearDiscriminantAnalysis(), X, y, cv=3).mean()
    assert ours > peer - 0.05


@pytest.mark.parametrize("hidden", [False, True])
def test_false_alarms_come_at_the_rate_asked_for(gaussian, hidden):
    detector = EnergyOutlierDetector(settings=GAUSSIAN, alpha=0.1, random_state=0).fit(gaussian)
    fresh = np.random.default_rng(1).multivariate_normal(MEAN, COVARIANCE, 2000)
    if hidden:
        fresh[:, 2] = np.nan
    flagged = int(np.sum(detector.predict(fresh) == -1))
    held_out = len(detector.model_.calibration.energies)
    rank = int(0.1 * (held_out + 1))
    # The number flagged is beta-binomial, for the threshold is itself an order statistic.
    truth = betabinom(len(fresh), rank, held_out + 1 - rank)
    assert truth.ppf(1e-3) <= flagged <= truth.ppf(1 - 1e-3)
    far = np.where(np.isnan(fresh), fresh, fresh + 20 * np.sqrt(np.diag(COVARIANCE)))
    assert (detector.predict(far) == -1).all()


def test_outliers_are_those_that_the_model_flags(gaussian):
    detector = EnergyOutlierDetector(alpha=0.05, random_state=0).fit(gaussian)
    rows = np.random.default_rng(2).multivariate_normal(MEAN, 2 * COVARIANCE, 300)
    rows[::3, 0] = np.nan
    rows[1::5, 2] = np.nan
    with pytest.warns(DataWarning, match="outside the range"):
        flags = detector.model_.score(rows, alpha=0.05).flag
    assert 0 < flags.sum() < 300
    np.testing.assert_array_equal(detector.predict(rows) == -1, flags)


def test_contamination_is_the_share_of_the_training_rows(gaussian):
    detector = EnergyOutlierDetector(contamination=0.2, random_state=0)
    assert np.sum(detector.fit_predict(gaussian) == -1) == 180


def test_too_few_rows_for_the_rate_are_named(gaussian):
    with pytest.warns(DataWarning, match="13 held-out rows cannot tell a false-alarm rate of 0.05"):
        detector = EnergyOutlierDetector().fit(gaussian[:40])
    assert np.isfinite(detector.offset_)


# --- tables of all kinds ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wines():
    return mixed_table().to_pandas()


def test_a_mixed_frame_comes_back_filled(wines):
    filled = EnergyImputer(random_state=0).fit(wines).transform(wines)
    assert isinstance(filled, pd.DataFrame)
    assert list(filled.columns) == list(wines.columns)
    assert not filled.drop(columns="cellar").isna().any(axis=None)
    assert set(filled["cultivar"]) <= {"Barolo", "Grignolino", "Barbera"}
    for name in wines:
        known = wines[name].notna()
        assert (filled.loc[known, name] == wines.loc[known, name]).all()
    assert (filled["bottles"] == filled["bottles"].round()).all()


def test_an_estimator_draws_the_kind_of_frame_that_it_saw(wines):
    frame = pl.from_pandas(wines[["alcohol", "cultivar"]].dropna())
    drawn = EnergyDensity(settings=GAUSSIAN, random_state=0).fit(frame).sample(20)
    assert isinstance(drawn, pl.DataFrame)
    assert drawn.schema == frame.schema
    assert set(drawn["cultivar"]) <= {"Barolo", "Grignolino", "Barbera"}


def test_pandas_output_has_names_and_index(gaussian):
    frame = pd.DataFrame(gaussian[:100], columns=["a", "b", "c"], index=np.arange(100) + 7)
    frame.iloc[3, 1] = np.nan
    pipeline = make_pipeline(StandardScaler(), EnergyImputer(settings=GAUSSIAN)).set_output(
        transform="pandas"
    )
    out = pipeline.fit_transform(frame)
    assert list(out.columns) == list(pipeline.get_feature_names_out()) == ["a", "b", "c"]
    assert list(out.index) == list(frame.index)
    assert out.notna().all(axis=None)
    from_array = EnergyImputer(settings=GAUSSIAN).set_output(transform="pandas").fit_transform(gaussian[:100])
    assert list(from_array.columns) == ["x0", "x1", "x2"]


def test_grid_search_over_recipes_and_settings():
    X, y = load_iris(return_X_y=True, as_frame=True)
    grid = {"energyclassifier__recipe": ["pca", "gmm"]}
    search = GridSearchCV(
        make_pipeline(StandardScaler(), EnergyClassifier(random_state=0)), grid, cv=3, n_jobs=1
    )
    search.fit(X, y)
    assert search.best_score_ > 0.9
    assert search.best_params_["energyclassifier__recipe"] == "gmm"


@pytest.mark.parametrize(
    "labels",
    [["no", "yes"], [False, True], [-1, 1], [1.0, 2.0], ["y_", "NA"]],
    ids=lambda labels: str(labels),
)
def test_labels_of_any_type(gaussian, labels):
    labels = np.array(labels)
    truth = labels[(gaussian[:200, 0] > 10).astype(int)]
    frame = pd.DataFrame(gaussian[:200, :2], columns=["y", "label"])
    classifier = EnergyClassifier(random_state=0).fit(frame, truth)
    assert classifier.classes_.dtype == labels.dtype
    np.testing.assert_array_equal(classifier.classes_, np.unique(labels))
    predicted = classifier.predict(frame)
    assert predicted.dtype == labels.dtype
    assert np.mean(predicted == truth) > 0.9
    np.testing.assert_allclose(classifier.predict_proba(frame).sum(axis=1), 1)
    assert classifier.model_.schema.target == "y_"


def test_a_column_named_like_the_target_is_another():
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"y": generator.normal(size=100), "y_": generator.normal(size=100)})
    target = pd.Series(2 * frame["y"] - frame["y_"], name="y")
    regressor = EnergyRegressor(settings=GAUSSIAN).fit(frame, target)
    np.testing.assert_allclose(regressor.predict(frame), target, atol=0.05)


def test_a_missing_cell_is_no_obstacle_to_prediction(wines):
    X, y = wines.drop(columns=["cultivar", "cellar"]), wines["cultivar"].fillna("Barbera")
    assert X.isna().any(axis=None)
    assert EnergyClassifier(random_state=0).fit(X, y).score(X, y) > 0.8


@pytest.mark.slow
def test_orderless_tells_mixed_rows_apart(wines):
    # Not every check: it compiles a network for each number of rows and columns, seconds each time.
    X, y = wines.drop(columns=["cultivar", "cellar"]), wines["cultivar"].fillna("Barbera")
    small = {"steps": 150, "width": 32, "context": 4, "factors": 2}
    classifier = EnergyClassifier("orderless", settings=small, random_state=0).fit(X, y)
    assert classifier.score(X, y) > 0.7
    one_by_one = np.concatenate([classifier.predict_proba(X.iloc[[i]]) for i in range(5)])
    np.testing.assert_array_equal(classifier.predict_proba(X)[:5], one_by_one)


# --- the rest of the contract -----------------------------------------------------------------------------------


def test_the_same_random_state_gives_the_same_model(gaussian):
    fitted = [EnergyDensity(random_state=seed).fit(gaussian) for seed in (3, 3, np.random.RandomState(3))]
    first, again, other = (estimator.score_samples(gaussian) for estimator in fitted)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, other)
    restored = pickle.loads(pickle.dumps(fitted[0]))
    np.testing.assert_array_equal(restored.score_samples(gaussian), first)


def test_the_model_answers_other_questions_and_is_saved(density, gaussian, tmp_path):
    density.model_.save(tmp_path / "model")
    again = thalweg.load(tmp_path / "model")
    np.testing.assert_allclose(-again.energy(gaussian), density.score_samples(gaussian))
    with pytest.raises(NotAnswered, match="fitted with calibrate=False"):
        again.score(gaussian)
    page = again.report(tmp_path / "report.html", gaussian).read_text()
    assert "fitted without rows that say what is usual" in page


def test_an_energy_of_ones_own(gaussian):
    class Standard(AbstractDensity):
        space: object

        def log_prob(self, y, x=None):
            return -0.5 * (y**2 + np.log(2 * np.pi)).sum()

        def sample(self, x=None, *, key):
            raise NotImplementedError

    estimator = EnergyDensity(recipe=lambda space, key: Standard(space), settings={"steps": 1}).fit(gaussian)
    scaled = (gaussian - gaussian.mean(axis=0)) / gaussian.std(axis=0)
    truth = -0.5 * (scaled**2 + np.log(2 * np.pi)).sum(axis=1) - np.log(gaussian.std(axis=0)).sum()
    np.testing.assert_allclose(estimator.score_samples(gaussian), truth, atol=1e-3)
    clone(estimator)


def test_numbers_outside_the_range_of_training_pass_without_a_word(density):
    assert np.isfinite(density.score_samples(np.array([[100.0, 100.0, 100.0]]))).all()


def wide(cell):
    rows = np.random.default_rng(0).normal(size=(20, 3))
    rows[4, 1] = cell
    return rows


@pytest.mark.parametrize(
    ("estimator", "X", "y", "error", "message"),
    [
        (EnergyDensity(), wide(np.inf), None, DataError, "column 'x1', row 4: the value is inf"),
        (
            EnergyImputer(),
            pd.DataFrame(wide(-np.inf), columns=["a", "b", "c"]),
            None,
            DataError,
            "'b', row 4: the value",
        ),
        (EnergyDensity(recipe="gmmm"), wide(0), None, SettingsError, "did you mean 'gmm'"),
        (EnergyDensity(recipe=3), wide(0), None, SettingsError, "a recipe is a name, an energy"),
        (EnergyDensity(settings={"component": 3}), wide(0), None, SettingsError, "did you mean 'components'"),
        (EnergyDensity(), np.ones((20, 3)), None, DataError, "every column is constant"),
        (EnergyDensity(), wide(0)[:1], None, ValueError, "1 sample"),
        (EnergyOutlierDetector(), wide(0)[:7], None, DataError, "7 rows are too few"),
        (EnergyOutlierDetector(contamination=0.6), wide(0), None, SettingsError, r"share in \(0, 0.5\]"),
        (EnergyOutlierDetector(alpha=0.0), wide(0), None, SettingsError, "between 0 and 1"),
        (EnergyClassifier(), wide(0), None, ValueError, "requires y"),
        (EnergyClassifier(), wide(0), np.zeros(20), DataError, "y has one class"),
        (EnergyClassifier(), wide(0), np.linspace(0, 1, 20), ValueError, "Unknown label type"),
        (EnergyRegressor(), wide(0), np.ones(20), DataError, "the same in every row"),
        (EnergyRegressor(), wide(0), np.zeros(19), ValueError, "inconsistent numbers of samples"),
    ],
)
def test_what_cannot_be_fitted_is_named(estimator, X, y, error, message):
    with pytest.raises(error, match=message):
        estimator.fit(X, y)


def test_nothing_is_asked_of_an_estimator_that_is_not_fitted():
    with pytest.raises(NotFittedError):
        EnergyDensity().sample()
    with pytest.raises(NotFittedError):
        EnergyClassifier().predict([[1.0]])


def test_kmeans_has_no_draws(gaussian):
    with pytest.raises(NotAnswered, match="KMeans is a distance"):
        EnergyDensity(recipe="kmeans", settings={"clusters": 3}).fit(gaussian).sample()
