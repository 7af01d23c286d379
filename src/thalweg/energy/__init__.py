"""What an energy is: the types, the algebra, latents and the spaces that answers live in."""

from thalweg.energy.algebra import Clamped, Given, Offset, Scaled, Sum, add
from thalweg.energy.arcs import Arcs, stacked
from thalweg.energy.base import AbstractDensity, AbstractEnergy, FunctionEnergy, energy_of
from thalweg.energy.capabilities import (
    AbstractColumnConditional,
    AbstractCompletion,
    AbstractConditionalSampler,
    AbstractDenoiser,
    AbstractEncoder,
    AbstractMarginal,
)
from thalweg.energy.factors import FactorGraph, graph_of
from thalweg.energy.importance import ImportanceSampled
from thalweg.energy.latent import (
    AbstractLatentEnergy,
    AtPoint,
    Elimination,
    Enumerate,
    FreeEnergy,
    FunctionLatentEnergy,
    Joint,
    MinElimination,
    Minimised,
    Quadrature,
    SumElimination,
    latent_energy_of,
)
from thalweg.energy.lattice import Lattice, LatticeEnergy, lattice_of
from thalweg.energy.spaces import AbstractSpace, Binary, Categorical, Column, Real, Record
from thalweg.energy.tables import Entrywise, Factor

__all__ = [
    "AbstractColumnConditional",
    "AbstractCompletion",
    "AbstractConditionalSampler",
    "AbstractDenoiser",
    "AbstractDensity",
    "AbstractEncoder",
    "AbstractEnergy",
    "AbstractLatentEnergy",
    "AbstractMarginal",
    "AbstractSpace",
    "Arcs",
    "AtPoint",
    "Binary",
    "Categorical",
    "Clamped",
    "Column",
    "Elimination",
    "Entrywise",
    "Enumerate",
    "Factor",
    "FactorGraph",
    "FreeEnergy",
    "FunctionEnergy",
    "FunctionLatentEnergy",
    "Given",
    "ImportanceSampled",
    "Joint",
    "Lattice",
    "LatticeEnergy",
    "MinElimination",
    "Minimised",
    "Offset",
    "Quadrature",
    "Real",
    "Record",
    "Scaled",
    "Sum",
    "SumElimination",
    "add",
    "energy_of",
    "graph_of",
    "latent_energy_of",
    "lattice_of",
    "stacked",
]
