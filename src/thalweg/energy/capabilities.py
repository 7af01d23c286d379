r"""What some energies can do exactly, as small abstract classes.

The generic procedures take any energy. Where an energy is also one of these, each question takes the exact
shortcut instead, in one place. `observed` is a boolean per coordinate; the values of `y` where it is False
are never read.
"""

from abc import abstractmethod

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractEnergy, Scalar


class AbstractMarginal(AbstractEnergy):
    """An energy that can eliminate any missing part of `y`."""

    @abstractmethod
    def marginal(self, y: Float[Array, "d"], observed: Bool[Array, "d"], x: PyTree = None) -> Scalar:
        r"""The energy of the observed part: \(-\log \int e^{-F}\,dy_{missing}\); for an energy at zero
        temperature (K-means) \(\min_{y_{missing}} F\). Equals `self(y, x)` where all is observed."""


class AbstractTabular(AbstractEnergy):
    """An energy whose value does not depend on the names, bounds and units of its space's columns."""

    @abstractmethod
    def bare(self) -> AbstractEnergy:
        """The same function over a space without them.

        Compiled code is kept by all that is static, so what was compiled for one table serves every other whose
        columns are alike.
        """


class AbstractSmoothed(AbstractEnergy):
    """An energy with a smoother one beside it, of the same rows: it misses detail and forgives nothing unusual."""

    @abstractmethod
    def smooth(self, y: Float[Array, "d"], observed: Bool[Array, "d"], x: PyTree = None) -> Scalar:
        """The smoother energy of the observed part."""


class AbstractCompletion(AbstractEnergy):
    """An energy with a closed form for the best guess of the missing part."""

    @abstractmethod
    def complete(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"], x: PyTree = None
    ) -> Float[Array, "d"]:
        """`y` with each missing coordinate replaced by its conditional mean (real and integer columns, not
        rounded) or its most probable value (categories)."""


class AbstractConditionalSampler(AbstractEnergy):
    """An energy that draws exactly from any of its conditionals."""

    @abstractmethod
    def sample_given(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"], x: PyTree = None, *, key: PRNGKeyArray
    ) -> Float[Array, "d"]:
        r"""`y` with the missing part replaced by one joint draw from \(p(y_{missing} \mid y_{observed})\)."""


class AbstractColumnConditional(AbstractEnergy):
    """An energy that knows the conditional of one column given any others without evaluating itself."""

    @abstractmethod
    def column_energies(
        self,
        y: Float[Array, "d"],
        index: Int[Array, ""],
        values: Float[Array, "v"],
        observed: Bool[Array, "d"],
        x: PyTree = None,
    ) -> Float[Array, "v"]:
        r"""\(-\log p(y_{index} = v \mid y_{observed \setminus index})\) for each candidate `v`, in nats up to
        one constant."""


class AbstractEncoder(AbstractEnergy):
    """An energy with a latent `z` that can be read off."""

    @abstractmethod
    def encode(self, y: Float[Array, "d"], observed: Bool[Array, "d"], x: PyTree = None) -> Float[Array, "k"]:
        """The latent of the observed part: a code, or the probabilities of a discrete one."""


class AbstractDenoiser(AbstractEnergy):
    """An energy with a closed form for the cleanest point near a noisy one."""

    @abstractmethod
    def denoise(self, y: Float[Array, "d"], noise: Float[Array, "d"], x: PyTree = None) -> Float[Array, "d"]:
        r"""\(\arg\min_{y'} F(y') + \sum_d (y'_d - y_d)^2 / 2\sigma_d^2\), with `noise` the deviations
        \(\sigma\) in codes."""


class AbstractMasked(AbstractEnergy):
    """An energy that predicts every coordinate from any subset of them in one pass."""

    @abstractmethod
    def masked_log_probs(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"], x: PyTree = None, *, key: PRNGKeyArray | None
    ) -> Float[Array, "d"]:
        r"""\(\log p(y_d \mid y_{observed})\) for every column, in nats; meaningful where `observed` is False.

        `key` drives the dropout of training; None switches it off."""
