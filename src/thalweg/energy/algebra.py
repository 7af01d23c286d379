r"""The algebra of energies: sums, changes of temperature, and parts held fixed.

Adding energies multiplies the densities \(e^{-F}\), each term vetoing what it finds unlikely: a product of
experts. Hinton (2002), *Training products of experts by minimizing contrastive divergence*.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from thalweg.energy.base import AbstractEnergy
from thalweg.energy.spaces import AbstractSpace
from thalweg.errors import SettingsError


class Sum(AbstractEnergy):
    r"""\(F(y, x) = \sum_i F_i(y, x)\), a product of experts; the terms share one space."""

    terms: tuple[AbstractEnergy, ...]

    def __check_init__(self):
        if not self.terms:
            raise SettingsError("a sum of energies needs at least one term")
        for term in self.terms[1:]:
            if term.space != self.space:
                raise SettingsError(
                    f"energies of different spaces cannot be added: {self.space} and {term.space}; "
                    "give both the same space"
                )

    @property
    def space(self) -> AbstractSpace:
        return self.terms[0].space

    def __call__(self, y, x=None):
        total = self.terms[0](y, x)
        for term in self.terms[1:]:
            total = total + term(y, x)
        return total


class Scaled(AbstractEnergy):
    r"""\(\beta F(y, x)\): the density \(e^{-F}\) at the inverse temperature \(\beta\).

    A Python number is a constant; a `beta` that is an array is traced, and trained by `fit`. It may be
    negative, so that energies can be subtracted.
    """

    energy: AbstractEnergy
    beta: float | Float[Array, ""]

    def __check_init__(self):
        if isinstance(self.beta, int | float) and not math.isfinite(self.beta):
            raise SettingsError(f"an inverse temperature must be finite, not {self.beta}")
        if isinstance(self.beta, AbstractEnergy) or jnp.shape(self.beta) != ():
            raise SettingsError("an energy is scaled by one number; energies are added, never multiplied")

    @property
    def space(self) -> AbstractSpace:
        return self.energy.space

    def __call__(self, y, x=None):
        return self.beta * self.energy(y, x)


class Offset(AbstractEnergy):
    r"""\(F(y, x) + c\): the same density, with a constant that training may find.

    An array is trained by `fit`: where a loss sees the constant, as noise-contrastive estimation does, it comes to be
    the log Z of the energy, which is normalised with it. A Python number stays.
    """

    energy: AbstractEnergy
    constant: float | Float[Array, ""]

    def __check_init__(self):
        if isinstance(self.constant, AbstractEnergy) or jnp.shape(self.constant) != ():
            raise SettingsError("an energy is offset by one number; to add two energies write f + g")

    @property
    def space(self) -> AbstractSpace:
        return self.energy.space

    def __call__(self, y, x=None):
        return self.energy(y, x) + self.constant


class Given(AbstractEnergy):
    r"""\(F(\cdot, x)\): the energy of `y` alone at one input."""

    energy: AbstractEnergy
    x: PyTree

    @property
    def space(self) -> AbstractSpace:
        return self.energy.space

    def __call__(self, y, x=None):
        if x is not None:
            raise SettingsError("this energy has its input already (`given`): call it without x")
        return self.energy(y, self.x)


class Clamped(AbstractEnergy):
    r"""\(F(y', x)\) with \(y'\) equal to `values` where `observed` and to `y` elsewhere.

    Neither `values` at unobserved places nor `y` at observed ones is read. `observed` has the shape of the
    space.
    """

    energy: AbstractEnergy
    values: Float[Array, "..."]
    observed: Bool[Array, "..."]

    def __check_init__(self):
        shape = self.energy.space.shape
        for name, array in (("values", self.values), ("observed", self.observed)):
            if jnp.shape(array) != shape:
                raise SettingsError(f"`{name}` has shape {jnp.shape(array)}; the space needs {shape}")
        if not jnp.issubdtype(jnp.result_type(self.observed), jnp.bool_):
            raise SettingsError(f"`observed` must be boolean, not {jnp.result_type(self.observed)}")

    @property
    def space(self) -> AbstractSpace:
        return self.energy.space

    def __call__(self, y, x=None):
        return self.energy(jnp.where(self.observed, self.values, y), x)


def add(f: AbstractEnergy, g: AbstractEnergy) -> AbstractEnergy:
    r"""\(F + G\), with sums of sums written as one sum.

    Raises `SettingsError` where the spaces differ, or where only one of the two has a latent.
    """
    # `latent` is built on this file; the import is deferred as in `base`.
    from thalweg.energy.latent import AbstractLatentEnergy, Joint

    if not isinstance(g, AbstractEnergy):
        raise SettingsError(
            f"only an energy can be added to an energy, not {type(g).__name__}: use `energy_of`"
        )
    latents = [e.latent for e in (f, g) if isinstance(e, AbstractLatentEnergy)]
    if not latents:
        return Sum((*_terms(f), *_terms(g)))
    if len(latents) == 1 or latents[0] != latents[1]:
        raise SettingsError(
            "energies of different latents cannot be added: eliminate z first (`Minimised`, `FreeEnergy`)"
        )
    return Joint(Sum((*_terms(f), *_terms(g))), latents[0])


def _terms(energy: AbstractEnergy) -> tuple[AbstractEnergy, ...]:
    from thalweg.energy.latent import Joint

    if isinstance(energy, Joint):
        return _terms(energy.energy)
    return energy.terms if isinstance(energy, Sum) else (energy,)
