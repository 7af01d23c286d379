r"""What some energies can do exactly, as small abstract classes.

The generic procedures take any energy. Where an energy is also one of these, each question takes the exact
shortcut instead, in one place. `observed` is a boolean per coordinate; the values of `y` where it is False
are never read.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from thalweg.energy.base import AbstractDensity, AbstractEnergy, Scalar


class AbstractMarginal(AbstractEnergy):
    """An energy that can eliminate any missing part of `y`."""

    @abstractmethod
    def marginal(self, y: Float[Array, "d"], observed: Bool[Array, "d"], x: PyTree = None) -> Scalar:
        r"""The energy of the observed part: \(-\log \int e^{-F}\,dy_{missing}\); for an energy at zero
        temperature (K-means) \(\min_{y_{missing}} F\). Equals `self(y, x)` where all is observed."""


class AbstractConditional(AbstractMarginal):
    r"""An energy of some columns of a row given the others, which are its input: \(F(y, x)\) with both in one row.

    It is \(-\log p(y \mid x)\), in nats, of numbers that are answers in codes. Inputs may be missing, as far as the
    energy was taught to read a row without them; an answer that is missing is summed out (`marginal`).
    """

    if TYPE_CHECKING:

        @property
        def answers(self) -> tuple[int, ...]:
            """The places of the columns that it is of."""

    else:
        answers: eqx.AbstractVar[tuple[int, ...]]


class AbstractSequential(AbstractConditional):
    """An energy of one column of rows that come in sequences: each row's answer hangs together with its neighbours'.

    As an energy of one row it is that of a sequence of length 1. In what follows rows are there where `mask`, a
    sequence begins at each of the `starts`, and an answer that is `observed` is held.
    """

    @abstractmethod
    def labelled(
        self,
        values: Float[Array, "n d"],
        observed: Bool[Array, "n d"],
        mask: Bool[Array, "n"],
        starts: Bool[Array, "n"],
    ) -> tuple[Float[Array, "n"], Float[Array, "n k"]]:
        r"""The answers of least energy together, and \(\log p(y_i = v \mid x)\) of each row's, in nats."""

    @abstractmethod
    def paths(
        self,
        values: Float[Array, "n d"],
        observed: Bool[Array, "n d"],
        mask: Bool[Array, "n"],
        starts: Bool[Array, "n"],
        k: int,
    ) -> tuple[Float[Array, "k n"], Float[Array, "k"]]:
        r"""The `k` best answers of all rows together, the best first, and \(F = -\log p(y \mid x)\) of each in nats;
        infinite where there are fewer."""

    @abstractmethod
    def drawn(
        self,
        values: Float[Array, "n d"],
        observed: Bool[Array, "n d"],
        mask: Bool[Array, "n"],
        starts: Bool[Array, "n"],
        *,
        key: PRNGKeyArray,
    ) -> Float[Array, "n"]:
        """An exact draw of the answers of all rows together."""


class AbstractJointAnswers(AbstractConditional):
    """A conditional energy of numbers that hands out the energy of all its answers together for one row."""

    @abstractmethod
    def of_answers(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> AbstractEnergy:
        r"""\(F(\cdot, x)\) up to a constant, over the bounded box of the answers (a,), with the inputs of this row."""


class AbstractZeroTemperature(AbstractEnergy):
    """An energy that only orders points, such as a distance: no noise was learnt to measure it by, so there is nothing
    to draw from it by itself."""


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


class AbstractDecoder(AbstractEncoder):
    """An energy whose latent is decoded to the answers of a row: as it goes through its range, so do they."""

    @abstractmethod
    def latents(self, n: int) -> Float[Array, "m k"]:
        """Values through the range of z: all of a finite one, else `n` along each coordinate, the others in the
        middle."""

    @abstractmethod
    def decode(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"], z: Float[Array, "k"]
    ) -> Float[Array, "d"]:
        """`y` with its answers as z says, whether or not they are observed."""

    @abstractmethod
    def infer(self, y: Float[Array, "d"], observed: Bool[Array, "d"]) -> Float[Array, "k"]:
        r"""\(\arg\min_z E(y, x, z)\): the latent that explains the answers of a row best."""

    @abstractmethod
    def draw_latent(self, *, key: PRNGKeyArray) -> Float[Array, "k"]:
        """A draw from the prior of z."""


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


class AbstractGibbs(AbstractEnergy):
    """An energy that redraws its coordinates in blocks, each from its exact conditional."""

    @abstractmethod
    def gibbs(
        self,
        y: Float[Array, "..."],
        observed: Bool[Array, "..."],
        x: PyTree = None,
        *,
        beta: float | Scalar,
        key: PRNGKeyArray,
        backwards: bool = False,
    ) -> Float[Array, "..."]:
        r"""`y` after one sweep over its coordinates that leaves \(e^{-\beta F}\), conditional on those observed, as it
        is; `backwards` in the opposite order, so that both together are reversible."""


class AbstractBlurred(AbstractEnergy):
    """An energy of rows with noise, which knows what it was: its draws are noisy, and can be cleaned."""

    @abstractmethod
    def cleaned(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        r"""The mean of the rows that \(y\) is a noisy copy of, \(y - \sigma^2 \nabla F(y)\), within the space; what
        has no noise stays."""


class AbstractAnnealed(AbstractEnergy):
    """An energy at the end of a family of easier ones, down which a chain comes to it from anywhere."""

    @abstractmethod
    def annealed(
        self, y: Float[Array, "..."], observed: Bool[Array, "..."], *, key: PRNGKeyArray
    ) -> Float[Array, "..."]:
        """`y` with what is not observed at the end of such a chain: nearly a draw, for others to begin at."""


class AbstractTempered(AbstractEnergy):
    """An energy that lies at the end of a path of its own from one that is easy to sample."""

    @abstractmethod
    def tempered(self, beta: float | Scalar) -> AbstractEnergy:
        r"""The member of the path at \(\beta\): this energy at 1; at 0 one whose draws and whose log Z are known."""

    @abstractmethod
    def start(self) -> AbstractDensity:
        r"""The member at 0, normalised: `tempered(0)` and this differ by its log Z, a constant."""


class AbstractNeighbours(AbstractEnergy):
    """An energy of finite coordinates that knows the energies of all points one change away at once."""

    @abstractmethod
    def neighbour_energies(self, y: Float[Array, "..."], x: PyTree = None) -> Float[Array, "d v"]:
        r"""\(F(y_{i \to v}, x)\) for each coordinate (in C order) and each of its values; `F(y, x)` where it changes
        nothing."""


class AbstractPartition(AbstractEnergy):
    """An energy that can say its own log Z."""

    @abstractmethod
    def log_partition(self, x: PyTree = None) -> Scalar:
        r"""\(\log \sum_y e^{-F(y, x)}\), exact; differentiable in the arrays of the energy. Raises `SettingsError`
        where the sum is too large."""


class AbstractFewAnswers(AbstractEnergy):
    """An energy of a finite, small space of answers that knows the energies of all of them at once."""

    @abstractmethod
    def answer_energies(self, x: PyTree = None) -> Float[Array, "n"]:
        r"""\(F(y, x)\) of every point of the space, in lexicographic order."""


class AbstractStructured(AbstractEnergy):
    """An energy of more answers than can be listed, which searches all of them exactly: its coordinates are finite, and
    it is a sum of terms of few coordinates each.

    An input may mask coordinates, which the energy then does not read. Answers are told apart by `==`, so there all of
    them are 0: those that `best` and `draw` return, and the right ones that it is trained on. Costs do not count there.
    """

    def of_input(self, x: PyTree) -> "tuple[AbstractStructured, PyTree]":
        r"""\(F(\cdot, x)\) and what is left of its input, with what all answers have in common worked out: a network
        behind it is run, and differentiated, once for all that is asked afterwards."""
        return self, x

    @abstractmethod
    def best(self, x: PyTree = None, k: int = 1) -> tuple[Float[Array, "k ..."], Float[Array, "k"]]:
        """The `k` answers of least energy and their energies, the lowest first; infinite where there are fewer."""

    @abstractmethod
    def free_energy(self, x: PyTree = None, beta: float | Scalar = 1.0) -> Scalar:
        r"""\(-\frac1\beta \log \sum_y e^{-\beta F(y, x)}\), differentiable in the arrays of the energy and in `x`."""

    @abstractmethod
    def with_costs(self, costs: Float[Array, "... v"]) -> "AbstractStructured":
        r"""\(F(y, x) + \sum_i c_{i, y_i}\): the same energy with a cost for each value of each coordinate."""

    @abstractmethod
    def draw(self, x: PyTree = None, beta: float | Scalar = 1.0, *, key: PRNGKeyArray) -> Float[Array, "..."]:
        r"""An exact draw from \(e^{-\beta F(\cdot, x)}\)."""


class AbstractSliding(AbstractEnergy):
    r"""An energy of what is seen in a window, which slides over pictures at the cost of one pass:
    \(E(Y, c, Z, X) = Y\,G_c(X_Z) + (1 - Y)\,T\) for the window Z of the picture X, with something in it (Y = 1, of the
    label c) or nothing (Y = 0).

    `window` is the shape (height, width, channels), and windows lie `stride` pixels apart. `nothing` is the code of the
    background among the labels.
    """

    if TYPE_CHECKING:

        @property
        def window(self) -> tuple[int, int, int]: ...

        @property
        def stride(self) -> int: ...

        @property
        def nothing(self) -> int: ...

    else:
        window: eqx.AbstractVar[tuple[int, int, int]]
        stride: eqx.AbstractVar[int]
        nothing: eqx.AbstractVar[int]

    @abstractmethod
    def slide(
        self, picture: Float[Array, "height width c"]
    ) -> tuple[Float[Array, "rows columns k"], Scalar, Scalar]:
        r"""\(G_c\) of every window that lies in the picture, row by row; \(T\); and the \(\beta\) at which energies are
        probabilities. Pixels are in the user's own units."""


class AbstractEmbedded(AbstractEnergy):
    r"""An energy behind which lies one of pairs, \(E(a, b) = \lVert G(a) - H(b) \rVert^2 / 2\tau\), of embeddings of
    length 1: the nearer, the lower. Where like is compared with like, H is G."""

    if TYPE_CHECKING:

        @property
        def temperature(self) -> float | Scalar:
            r"""\(\tau\), which turns distances into nats."""

        @property
        def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
            """The places of the columns that G reads and of those that H reads; the same twice where H is G."""

    else:
        temperature: eqx.AbstractVar[float | Scalar]
        sides: eqx.AbstractVar[tuple[tuple[int, ...], tuple[int, ...]]]

    @abstractmethod
    def embed(
        self,
        y: Float[Array, "d"],
        observed: Bool[Array, "d"],
        side: int = 0,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "k"]:
        """G of a row, or H where `side` is 1, of length 1; `key` drives the dropout of training."""


class AbstractScored(AbstractEnergy):
    r"""An energy that orders rows, \(F = -s\): its scores mean nothing but their order and their differences."""

    @property
    def query(self) -> int | None:
        """The column by which rows are compared, those alike in it and no others; None where all are."""
        return None

    @abstractmethod
    def score(
        self, y: Float[Array, "d"], observed: Bool[Array, "d"], *, key: PRNGKeyArray | None = None
    ) -> Scalar:
        """s of a row; `key` drives the dropout of training."""
