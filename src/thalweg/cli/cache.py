"""Compiled programs kept between commands, in a private directory of the user's cache."""

import os
import stat
from pathlib import Path


def cache_directory() -> Path:
    """Where compiled programs lie: `$XDG_CACHE_HOME/thalweg/jax`, or below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~")) / ".cache"
    return root / "thalweg" / "jax"


def read_without_a_word() -> None:
    """Keep JAX from logging errors of programs that it loads from the cache; to be called before JAX is imported.

    Releases up to 0.10.1 take hints of the compiler, which no machine has, for features that this one lacks. What
    really fails is raised.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def keep_compiled() -> bool:
    """Turn on JAX's persistent cache; False, and no cache, where a private directory cannot be had.

    What lies in the cache is run as it is, so it is used only where nobody else can write. A cache that the
    user has set up by JAX's own variables is left as it is.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.environ.get("JAX_ENABLE_COMPILATION_CACHE"):
        return True
    directory = cache_directory()
    if not _private(directory):
        return False
    import jax

    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return True


def _private(directory: Path) -> bool:
    """Make the directory ours alone (0700), and say whether it is."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.mkdir(exist_ok=True, mode=0o700)
        state = directory.lstat()
        if not stat.S_ISDIR(state.st_mode) or (hasattr(os, "getuid") and state.st_uid != os.getuid()):
            return False
        if stat.S_IMODE(state.st_mode) != 0o700:
            directory.chmod(0o700)
        return os.access(directory, os.W_OK | os.X_OK)
    except OSError:
        return False


def cache_size() -> tuple[int, int]:
    """How many files the cache holds, and their bytes."""
    files = [entry for entry in cache_directory().glob("**/*") if entry.is_file()]
    return len(files), sum(entry.stat().st_size for entry in files)
