"""Damaged data files and model directories by the thousand, in processes with little memory and little time.

Each ends in a result or in an exception of ours: no other exception, no warning of a library, no crash of the
interpreter, no minute of silence, no gigabyte.
"""

import pytest

from hostile.harness import check


def test_hundreds_of_damaged_data_files():
    outcomes = check("data", seed=1, first=0, last=360)
    refused = outcomes["DataError"] / outcomes.total()
    assert 0.5 < refused < 0.9, "too mild to show anything, or too harsh to come behind the first check"


def test_hundreds_of_damaged_model_directories():
    outcomes = check("models", seed=1, first=0, last=250)
    assert outcomes.keys() == {"ModelDirectoryError", "the same model", "another model"}
    assert outcomes["another model"] > 12
    assert outcomes["the same model"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_thousands_of_damaged_data_files(part):
    check("data", seed=2, first=1500 * part, last=1500 * (part + 1))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_thousands_of_damaged_model_directories(part):
    outcomes = check("models", seed=2, first=1500 * part, last=1500 * (part + 1))
    assert outcomes.keys() == {"ModelDirectoryError", "the same model", "another model"}
