"""The sparse regression task that diagonal linear networks are trained on (Andriushchenko et al. 2023, Sec. 5.2)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from acutance.dataset import Dataset, Split
from acutance.errors import UserError, did_you_mean
from acutance.spec import Spec, digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Design = Literal["gaussian", "unit_columns", "orthonormal"]


class RegressionSpec(Spec):
    """The task: the pool and the dataset need the same one."""

    d: PositiveInt = 200
    """Input dimension, the number of entries of beta."""
    n: PositiveInt = 60
    """Training points."""
    sparsity: float = Field(default=0.9, ge=0, lt=1)
    """Share of the entries of the true beta that are zero; 0 is dense."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of the noise of training targets, in units of that of the noise-free targets."""
    design: Design = "gaussian"
    """Training inputs: gaussian of variance 1/n; unit_columns, these at length 1; orthonormal columns, n >= d only."""
    data_seed: NonNegativeInt = 0
    """Names the true beta and all points."""
    test_points: PositiveInt = 2000
    """Test points; a pool does not read them."""

    @model_validator(mode="after")
    def _possible(self) -> RegressionSpec:
        if self.design == "orthonormal" and self.n < self.d:
            raise ValueError(
                f"design orthonormal needs n >= d: {self.n} points cannot satisfy X^T X = I in {self.d} dimensions; "
                "unit_columns is enough for the identities of the trace, lambda_max = ||beta||_inf needs orthonormal"
            )
        if self.nonzeros == 0:
            raise ValueError(f"sparsity {self.sparsity:g} leaves none of {self.d} entries of beta: lower it")
        return self

    @property
    def nonzeros(self) -> int:
        """Number of entries of the true beta that are not zero."""
        return round(self.d * (1 - self.sparsity))


def task_identity(spec: RegressionSpec) -> dict[str, object]:
    """Return what the true beta and the training points depend on."""
    fields = ("d", "n", "sparsity", "noise", "design", "data_seed")
    return {"task": "sparse_regression", "version": 1} | {name: getattr(spec, name) for name in fields}


def generator(*name: object) -> np.random.Generator:
    """Return the random generator that a name stands for."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(int(digest(list(name)), 16)))


# Sums below are numpy's own, never the matrix products of BLAS, whose order of adding differs between machines.


def true_beta(spec: RegressionSpec) -> Array:
    """Return beta, (d,): Gaussian entries at random places, zero elsewhere, ||beta||_2 = 1 at any sparsity.

    The places and values of a sparser beta are among those of a denser one before the norm is set.
    """
    import numpy as np

    g = generator("beta", spec.d, spec.data_seed)
    places, values = g.permutation(spec.d)[: spec.nonzeros], g.standard_normal(spec.d)
    beta = np.zeros(spec.d)
    beta[places] = values[places]
    return beta / math.sqrt(math.fsum(beta**2))


def training_inputs(spec: RegressionSpec) -> Array:
    """Return X, (n, d): entries N(0, 1/n), then the columns of unit length or orthonormal where the design says so."""
    import numpy as np

    x = generator("train", spec.d, spec.n, spec.data_seed).standard_normal((spec.n, spec.d)) / math.sqrt(spec.n)
    if spec.design == "unit_columns":
        return unit(x)
    if spec.design == "orthonormal":
        # A second time takes away what rounding left in an ill-conditioned square matrix.
        return orthonormal(orthonormal(x))
    return np.ascontiguousarray(x)


def unit(x: Array) -> Array:
    """Return x, (n, d), with columns of length 1."""
    import numpy as np

    scaled: Array = x / np.sqrt((x**2).sum(axis=0))
    return scaled


def orthonormal(x: Array) -> Array:
    """Return the columns of x, (n, d), after modified Gram-Schmidt."""
    import numpy as np

    q = x.copy()
    for j in range(q.shape[1]):
        q[:, j] /= np.sqrt((q[:, j] ** 2).sum())
        direction, rest = q[:, j, None], q[:, j + 1 :]
        rest -= direction * (direction * rest).sum(axis=0)
    return q


def outputs(x: Array, beta: Array) -> Array:
    """Return X beta, (n,)."""
    product: Array = (x * beta).sum(axis=1)
    return product


def training_points(spec: RegressionSpec) -> tuple[Array, Array]:
    """Return X, (n, d), and y = X beta + noise, (n,)."""
    x = training_inputs(spec)
    noise = generator("noise", spec.d, spec.n, spec.data_seed).standard_normal(spec.n)
    return x, outputs(x, true_beta(spec)) + spec.noise / math.sqrt(spec.n) * noise


def test_points(spec: RegressionSpec) -> tuple[Array, Array]:
    """Return fresh inputs with entries N(0, 1/n), (test_points, d), and noise-free targets."""
    g = generator("test", spec.d, spec.data_seed)
    x = g.standard_normal((spec.test_points, spec.d)) / math.sqrt(spec.n)
    return x, outputs(x, true_beta(spec))


class SparseRegression(Dataset[RegressionSpec]):
    r"""Linear regression with a sparse true coefficient vector, in float64.

    .. math:: y = X \beta^* + \varepsilon, \qquad \|\beta^*\|_2 = 1

    Splits: ``train``; ``test``, fresh Gaussian inputs, whose entries have the mean square of the training inputs under
    every design, with noise-free targets, so that the test loss of beta is, up to sampling, proportional to
    ||beta - beta*||^2. Targets are numbers: there is no error, only a loss. Points are the same on every machine.
    """

    name = "sparse_regression"
    splits = ("train", "test")

    def open(self, split: str) -> Split:
        """Return a split: inputs (n, d), targets (n,), both float64.

        Raises:
            UserError: for an unknown split.
        """
        import torch

        if split not in self.splits:
            raise UserError(f"sparse_regression has no split '{split}'", did_you_mean(split, self.splits))
        x, y = self._train if split == "train" else self._test
        return Split(torch.tensor(x), torch.tensor(y), description=f"{len(y)} points of a regression, {split}")

    @cached_property
    def _train(self) -> tuple[Array, Array]:
        return training_points(self.spec)

    @cached_property
    def _test(self) -> tuple[Array, Array]:
        return test_points(self.spec)
