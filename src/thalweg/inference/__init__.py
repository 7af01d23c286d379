"""Inference: the answer of least energy, the energy along one coordinate, and exact sums over finite
spaces."""

from thalweg.inference.adjoint import AbstractAdjoint, Implicit, Unrolled
from thalweg.inference.alternating import Alternating
from thalweg.inference.bfgs import BFGS
from thalweg.inference.coordinate import Coordinate, candidates_of
from thalweg.inference.descend import Descend
from thalweg.inference.enumeration import argmin, log_partition, probabilities
from thalweg.inference.exact import Answers, draws, factor_marginals, lowest, marginals
from thalweg.inference.exhaustive import Enumerate
from thalweg.inference.gradient import Gradient
from thalweg.inference.icm import icm
from thalweg.inference.loopy import Beliefs, loopy_argmin, loopy_beliefs
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
    "Answers",
    "Beliefs",
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
    "draws",
    "factor_marginals",
    "icm",
    "log_partition",
    "loopy_argmin",
    "loopy_beliefs",
    "lowest",
    "marginals",
    "minimise",
    "modes",
    "probabilities",
    "profile",
]
