"""Random inputs of a network: Gaussians and Gaussian mixtures.

Every analytic result of the package is about a network whose input has one of these two distributions. A covariance may
be a variance, a vector of variances or a full matrix, and may be singular: `Gaussian.times_factor` changes to
coordinates in which the input is standard normal. Coordinates may have different units, because a matrix is divided by
its standard deviations before it is factorized.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from rpa import _check
from rpa._check import Array

LEAST_VARIANCE = 1e-9  # least variance of a fitted component, relative to that of the data

Seed = int | Sequence[int] | np.random.Generator


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, cov).

    mean (d,); cov: a variance (float), variances (d,), or a covariance (d, d), positive semidefinite.
    The arrays are copies, read-only. Raises ValueError for wrong shapes, non-finite entries, negative variances, and a
    cov that is asymmetric or indefinite beyond rounding.

    >>> Gaussian([1.0, 2.0], cov=[0.5, 1.0])
    Gaussian: 2 dimensions, independent, mean [1. 2.], standard deviations 0.7071 to 1
    """

    mean: np.ndarray
    cov_given: np.ndarray = field(repr=False)

    def __init__(self, mean: ArrayLike, cov: ArrayLike) -> None:
        mean = _check.array("mean", mean, (None,))
        if len(mean) == 0:
            raise ValueError("mean: expected at least one coordinate, got none")
        object.__setattr__(self, "mean", _read_only(mean))
        object.__setattr__(self, "cov_given", _read_only(_check.covariance("cov", cov, len(mean))))

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return len(self.mean)

    @property
    def cov(self) -> Array:
        """The covariance as a dense (d, d) matrix."""
        if self.cov_given.ndim == 2:
            return self.cov_given
        return _read_only(np.diag(np.broadcast_to(self.cov_given, self.dim)))

    @property
    def variances(self) -> Array:
        """Marginal variances (d,)."""
        return np.diag(self.cov_given) if self.cov_given.ndim == 2 else np.broadcast_to(self.cov_given, self.dim)

    @cached_property
    def scales(self) -> Array:
        """Standard deviations (d,)."""
        return _read_only(np.sqrt(self.variances))

    @cached_property
    def root(self) -> Array | None:
        """Factor C (d, r) of the correlations, C C^T, of rank r; None where the coordinates are independent."""
        if self.cov_given.ndim < 2 or not (self.cov_given - np.diag(self.variances)).any():
            return None
        values, vectors = np.linalg.eigh(self.correlations)
        keep = values > values.max() * self.dim * np.finfo(float).eps
        factor = vectors[:, keep] * np.sqrt(values[keep])
        # Each coordinate keeps its variance.
        norm = np.linalg.norm(factor, axis=1, keepdims=True)
        return _read_only(factor / np.where((self.scales[:, None] > 0) & (norm > 0), norm, 1.0))

    def lost(self, rows: Array) -> Array:
        """Error (n, n) of rows R rows^T, R the correlations, by truncation in `root` and rounding; rows (n, d)."""
        if self.root is None:
            return np.zeros((len(rows), len(rows)))
        size = np.linalg.norm(rows, axis=1)
        return np.abs(rows @ self._truncated @ rows.T) + 4 * np.finfo(float).eps * np.outer(size, size)

    @cached_property
    def _truncated(self):
        return self.correlations - self.root @ self.root.T

    @cached_property
    def correlations(self) -> Array:
        """The correlations as a dense (d, d) matrix, with a diagonal of 0 where the variance is."""
        scale = np.where(self.scales > 0, self.scales, np.inf)
        result = self.cov_given / scale / scale[:, None]
        np.fill_diagonal(result, self.scales > 0)
        return _read_only(result)

    def times_factor(self, rows: Array) -> Array:
        """rows @ F for F with F F^T = cov, so that rows @ (x - mean) = (rows @ F) @ z with z standard normal.

        rows (..., d) -> (..., r), where r <= d is the rank (r = d where the coordinates are independent).
        """
        scaled = rows * self.scales
        return scaled if self.root is None else scaled @ self.root

    def logpdf(self, x: ArrayLike) -> Array:
        """Log density (n,) at points x (n, d). Raises ValueError for a singular covariance, which has none."""
        from scipy.stats import multivariate_normal

        x = _check.array("x", x, (None, self.dim))
        if not self.scales.all():
            raise ValueError("cov: expected a non-singular covariance for a density, got a variance of 0")
        try:  # in standard deviations, so that units do not matter
            law = multivariate_normal(np.zeros(self.dim), self.cov / np.outer(self.scales, self.scales))
        except np.linalg.LinAlgError as error:
            raise ValueError("cov: expected a non-singular covariance for a density, got a singular one") from error
        return np.atleast_1d(law.logpdf((x - self.mean) / self.scales)) - np.log(self.scales).sum()

    def __repr__(self) -> str:
        low, high = self.scales.min(), self.scales.max()
        spread = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        mean = np.array2string(self.mean, precision=4, threshold=6, edgeitems=2)
        kind = ("white noise", "independent", "full covariance")[self.cov_given.ndim]
        return f"Gaussian: {self.dim} dimensions, {kind}, mean {mean}, standard deviations {spread}"

    def sample(self, n: int, seed: Seed) -> Array:
        """n draws (n, d) from `numpy.random.default_rng(seed)`."""
        n, rng = _check.integer("n", n), np.random.default_rng(_check.seed("seed", seed))
        if self.root is None:
            return self.mean + rng.standard_normal((n, self.dim)) * self.scales
        return self.mean + rng.standard_normal((n, self.root.shape[1])) @ self.root.T * self.scales


def _read_only(array):
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """sum_c weights[c] N(mean_c, cov_c).

    weights (c,): positive, of sum 1 (to 1e-9, then scaled to 1 exactly); components: c Gaussians of one dimension.
    Raises ValueError when empty, when lengths or dimensions differ, or for a weight that is not positive.

    >>> GaussianMixture([0.25, 0.75], [Gaussian([0.0], 1.0), Gaussian([4.0], 1.0)]).mean
    array([3.])
    """

    weights: np.ndarray
    components: tuple

    def __init__(self, weights: ArrayLike, components: Iterable[Gaussian]) -> None:
        components = _check.several("components", components)
        if not components:
            raise ValueError("components: expected at least one Gaussian, got none")
        for component in components:
            if not isinstance(component, Gaussian):
                raise ValueError(f"components: expected Gaussian, got {type(component).__name__}")
            if component.dim != components[0].dim:
                raise ValueError(f"components: expected one dimension, got {components[0].dim} and {component.dim}")
        weights = _check.array("weights", weights, (len(components),))
        if (weights <= 0).any():
            raise ValueError(f"weights: expected positive numbers, got {weights.min():g}")
        if abs(weights.sum() - 1) > 1e-9:
            raise ValueError(f"weights: expected a sum of 1, got {weights.sum():.12g}; divide them by it")
        object.__setattr__(self, "weights", _read_only(weights / weights.sum()))
        object.__setattr__(self, "components", components)

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.components[0].dim

    @property
    def mean(self) -> Array:
        """Mean (d,)."""
        return sum(w * c.mean for w, c in zip(self.weights, self.components))

    @property
    def cov(self) -> Array:
        """Covariance (d, d), by the law of total covariance."""
        mean = self.mean
        return sum(w * (c.cov + np.outer(c.mean - mean, c.mean - mean)) for w, c in zip(self.weights, self.components))

    def logpdf(self, x: ArrayLike) -> Array:
        """Log density (n,) at points x (n, d), as `Gaussian.logpdf`."""
        from scipy.special import logsumexp

        return logsumexp([np.log(w) + c.logpdf(x) for w, c in zip(self.weights, self.components)], axis=0)

    def __repr__(self) -> str:
        weights = np.array2string(self.weights, precision=3, threshold=6, edgeitems=2)
        return f"GaussianMixture: {self.dim} dimensions, {len(self.weights)} components of weights {weights}"

    def sample(self, n: int, seed: Seed) -> Array:
        """n draws (n, d), in random order, from seeds derived from `seed`."""
        n, rng = _check.integer("n", n), np.random.default_rng(_check.seed("seed", seed))
        counts = rng.multinomial(n, self.weights)
        draws = [c.sample(m, rng.spawn(1)[0]) for c, m in zip(self.components, counts)]
        return rng.permutation(np.concatenate(draws))


RandomInput = Gaussian | GaussianMixture


def components_of(inputs: RandomInput) -> list[tuple[float, Gaussian]]:
    """[(weight, Gaussian), ...] of a Gaussian or a GaussianMixture."""
    if isinstance(inputs, Gaussian):
        return [(1.0, inputs)]
    if isinstance(inputs, GaussianMixture):
        return list(zip(inputs.weights, inputs.components))
    many = "; for many inputs see rpa.parallel.pmap" if isinstance(inputs, (list, tuple)) else ""
    raise ValueError(f"inputs: expected Gaussian or GaussianMixture, got {type(inputs).__name__}{many}")


def fit_mixture(x: ArrayLike, n_components: int, seed: int) -> GaussianMixture:
    """Maximum-likelihood mixture with full covariances by expectation maximization (scikit-learn).

    x (n, d) with n >= n_components. The fit is deterministic given `seed`, and follows the units of x: columns are
    standardized, and the variances of a component are at least about LEAST_VARIANCE of those of x; 0 in a
    constant column.
    """
    from sklearn.mixture import GaussianMixture as Estimator

    x = _check.array("x", x, (None, None))
    n_components = _check.integer("n_components", n_components, 1)
    seed = _check.index("seed", seed, 2**32)
    if len(x) < max(n_components, 2) or x.shape[1] == 0:
        least = f"at least n_components = {n_components} rows, two and a column"
        raise ValueError(f"x: expected {least}, got shape {x.shape}")
    reach = np.ptp(x, axis=0)
    centre = np.where(reach > 0, x.mean(axis=0), x[0])
    scale = reach * ((x - centre) / np.where(reach > 0, reach, 1.0)).std(axis=0)
    standard = (x - centre) / np.where(scale > 0, scale, 1.0)
    fit = Estimator(n_components, random_state=seed, n_init=5, reg_covar=LEAST_VARIANCE).fit(standard)
    laws = [Gaussian(centre + m * scale, c * np.outer(scale, scale)) for m, c in zip(fit.means_, fit.covariances_)]
    return GaussianMixture(fit.weights_, laws)
