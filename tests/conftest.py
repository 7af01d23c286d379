"""Settings that hold for the whole suite: strict JAX, a private cache, the slow lane and the shared data."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Read by JAX and by the command line when they start, so set before either is imported. Two threads are what
# the suite is timed for; the cache keeps tests out of the user's own and lets command-line tests share what
# they have compiled.
os.environ.setdefault("NPROC", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What is read from a cache is logged as an error by some releases (thalweg.cli.cache), until a pipe is full.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".pytest_cache" / "user-cache")

import jax  # noqa: E402
import pytest  # noqa: E402

# A silent promotion is how an int64 becomes a wrong float32 and a (d,) meets an (n, 1).
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow lane too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow lane: run with --slow, or make test-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="module")
def clear_jax_caches():
    """Many hundreds of compiled functions in one process can exhaust the limit on memory maps."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compile_once(tmp_path_factory):
    """What one test of the module has compiled, the others read, and so do the processes that they start."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data named by THALWEG_DATA; the test is skipped, saying so, without it."""
    folder = os.environ.get("THALWEG_DATA")
    if not folder:
        pytest.skip("THALWEG_DATA is not set: it names the folder with the real data")
    if not Path(folder).is_dir():
        pytest.skip(f"THALWEG_DATA names {folder}, which is not a folder")
    return Path(folder)
