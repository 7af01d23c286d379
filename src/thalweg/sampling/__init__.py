"""Draws from any energy: the entry point, the kernels, and what they return."""

from thalweg.sampling.chains import Chains
from thalweg.sampling.cycle import Cycle
from thalweg.sampling.gibbs import Gibbs, GibbsWithGradients
from thalweg.sampling.hmc import HMC
from thalweg.sampling.kernel import AbstractKernel, AbstractTunable, Info, Metric, State
from thalweg.sampling.langevin import MALA, ULA, UnderdampedLangevin
from thalweg.sampling.metropolis import Metropolis
from thalweg.sampling.nuts import NUTS
from thalweg.sampling.sample import default_kernel, sample
from thalweg.sampling.target import Target
from thalweg.sampling.tempering import ParallelTempering
from thalweg.sampling.walk import walk

__all__ = [
    "HMC",
    "MALA",
    "NUTS",
    "ULA",
    "AbstractKernel",
    "AbstractTunable",
    "Chains",
    "Cycle",
    "Gibbs",
    "GibbsWithGradients",
    "Info",
    "Metric",
    "Metropolis",
    "ParallelTempering",
    "State",
    "Target",
    "UnderdampedLangevin",
    "default_kernel",
    "sample",
    "walk",
]
