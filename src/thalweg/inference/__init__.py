"""Inference: the answer of least energy, the energy along one coordinate, and exact sums over finite
spaces."""

from thalweg.inference.adjoint import AbstractAdjoint, Implicit, Unrolled
from thalweg.inference.alternating import Alternating
from thalweg.inference.bfgs import BFGS
from thalweg.inference.coordinate import Coordinate, candidates_of
from thalweg.inference.descend import Descend
from thalweg.inference.enumeration import argmin, log_partition, probabilities
from thalweg.inference.exhaustive import Enumerate
from thalweg.inference.gradient import Gradient
from thalweg.inference.minimise import minimise
from thalweg.inference.modes import Modes, modes
from thalweg.inference.problem import Problem
from thalweg.inference.profile import profile
from thalweg.inference.search import Search
from thalweg.inference.solution import Solution, Status
from thalweg.inference.solver import AbstractSolver, Outcome

__all__ = [
    "BFGS",
    "AbstractAdjoint",
    "AbstractSolver",
    "Alternating",
    "Coordinate",
    "Descend",
    "Enumerate",
    "Gradient",
    "Implicit",
    "Modes",
    "Outcome",
    "Problem",
    "Search",
    "Solution",
    "Status",
    "Unrolled",
    "argmin",
    "candidates_of",
    "log_partition",
    "minimise",
    "modes",
    "probabilities",
    "profile",
]
