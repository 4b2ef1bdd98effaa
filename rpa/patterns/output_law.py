"""The law of the network's output: truncated Gaussians, each pushed through its region's affine map.

P1's second proposition. Given the pattern, f(x) = A x + b with x a Gaussian truncated to a polytope; over all patterns
that is a mixture. A distribution function is one more half-space per region, a density one dimension fewer, a class
probability k - 1 more half-spaces. In the plane every one of these is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rpa import _check
from rpa.patterns import classes

if TYPE_CHECKING:
    from rpa.patterns.pmf import PatternPMF


__all__ = ["OutputMixture"]

PAIRS_AT_ONCE = 20_000
FLAT = 1e-13  # rows of A below this, relative to the largest, are a constant output: an atom


class OutputMixture:
    """The law of f(x), conditional on the patterns of a `PatternPMF`; exact when `uncovered` is 0.

    Otherwise it is within `uncovered` of the true law in total variation. Atoms, where the network is constant on a
    region of positive probability, are part of `cdf` and listed by `atoms`; `pdf` is the density of the rest.
    """

    def __init__(self, pmf: PatternPMF) -> None:
        self.pmf = pmf

    @property
    def uncovered(self) -> float:
        """Probability of the patterns that were not found."""
        return self.pmf.uncovered

    @property
    def exact(self) -> bool:
        """True when every region was found and integrated exactly (planar inputs)."""
        return all(part.polygons is not None for part in self.pmf.pieces)

    def cdf(self, y: ArrayLike, output: int = 0, with_error: bool = False) -> Any:
        """P(f(x)[output] <= y) at thresholds y (m,) (or a scalar); with_error adds the standard error, same shape."""
        return self._law(y, output, with_error, self._cdf_terms)

    def pdf(self, y: ArrayLike, output: int = 0, with_error: bool = False) -> Any:
        """Density of f(x)[output] at y (m,) (or a scalar), atoms left out; with_error adds the standard error.

        On a region with output a z + b the scalar s = a z is N(0, |a|^2): its density at y - b, times the probability
        of the region given a z = y - b, a polytope of one dimension fewer.
        """
        return self._law(y, output, with_error, self._pdf_terms)

    def atoms(self, output: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(values (a,), p (a,)): outputs taken with positive probability, rising, and those probabilities."""
        values, masses = [], []
        for part in self.pmf.pieces:
            for rows, _, _, A, b in part.blocks():
                flat = _flat(A, output)
                values.append(b[flat, output])
                masses.append(part.weight * np.exp(part.log_p[rows][flat]))
        unique, inverse = np.unique(np.concatenate(values), return_inverse=True)
        return unique, np.bincount(inverse, np.concatenate(masses) / self.pmf.covered, len(unique))

    @property
    def mean(self) -> np.ndarray:
        """E f(x), shape (k,)."""
        return self._moments()[0]

    @property
    def cov(self) -> np.ndarray:
        """Covariance of f(x), shape (k, k)."""
        return self._moments()[1]

    def sample(self, n: int, seed: int) -> np.ndarray:
        """n draws (n, k): inputs are drawn until n of them show one of the patterns found.

        Raises ValueError where fewer than one draw in 1,000 does: find more patterns first.
        """
        n = _check.integer("n", n)
        if self.exact:
            return self.pmf.net(self.pmf.inputs.sample(n, seed))
        if self.pmf.covered < 1e-3:
            raise ValueError(
                f"pmf: expected patterns that cover at least 0.001 for sampling, got {self.pmf.covered:.2g}"
            )
        rng, kept, missing = np.random.default_rng(seed), [], n
        while missing > 0:
            x = self.pmf.inputs.sample(int(1.1 * missing / self.pmf.covered) + 10, rng.spawn(1)[0])
            x = x[classes.among(self.pmf.net.patterns(x), self.pmf.patterns)]
            kept.append(x[:missing])
            missing -= len(kept[-1])
        return self.pmf.net(np.concatenate(kept)) if kept else np.zeros((0, self.pmf.net.output_dim))

    def class_probabilities(self, *, n: int = 100_000, seed: int = 0) -> classes.ClassProbabilities:
        """P(argmax f(x) = c) for each class c: see `rpa.patterns.classes.class_probabilities`."""
        return classes.class_probabilities(self.pmf, n=n, seed=seed)

    def _law(self, y, output, with_error, terms):
        k = self.pmf.net.output_dim
        if not 0 <= _check.integer("output", output) < k:
            raise ValueError(f"output: expected an index below {k}, got {output}")
        y = _check.array("y", y, (None,) * np.ndim(y)) if np.ndim(y) < 2 else _check.array("y", y, (None,))
        grid = np.atleast_1d(y)
        value, error = np.zeros(len(grid)), np.zeros(len(grid))
        for part in self.pmf.pieces:
            for block in part.blocks():
                for index, term, term_error in terms(part, block, grid, output):
                    np.add.at(value, index, part.weight * term)
                    np.add.at(error, index, part.weight * term_error)
        value, error = (array.reshape(y.shape)[()] / self.pmf.covered for array in (value, error))
        return (value, error) if with_error else value

    def _cdf_terms(self, part, block, grid, output):
        """Yields (index into grid, mass, error) of each region: whole below a threshold, or cut by it."""
        rows, H, h, A, b = block
        low, high = part.output_range(rows, A, b, output)
        flat = _flat(A, output)
        low, high = np.where(flat, b[:, output], low), np.where(flat, b[:, output], high)
        p = np.exp(part.log_p[rows])
        whole, at = np.nonzero(high[:, None] <= grid)
        yield at, p[whole], p[whole] * part.rel_error[rows][whole]
        piece, at = np.nonzero((low[:, None] <= grid) & (grid < high[:, None]) & ~flat[:, None])
        for k in _chunks(piece):
            i, j = piece[k], at[k]
            extra, limits = A[i, output, None], (grid[j] - b[i, output])[:, None]
            cut = np.concatenate([H[i], extra], 1), np.concatenate([h[i], limits], 1)
            log_p, rel = part.probabilities(*cut, budget=classes.BUDGET)
            # Where no point was found in a share that may not be empty, the smaller bound is the error.
            bound = np.exp(np.minimum(classes.log_bound(extra, limits), part.log_p[rows][i]))
            yield j, np.exp(log_p), np.where(np.isinf(rel), bound, np.exp(log_p) * np.where(np.isinf(rel), 0, rel))

    def _pdf_terms(self, part, block, grid, output):
        """Yields (index into grid, density, error) of each region that the level set f = y meets."""
        rows, H, h, A, b = block
        low, high = part.output_range(rows, A, b, output)
        piece, at = np.nonzero((low[:, None] < grid) & (grid < high[:, None]) & ~_flat(A, output)[:, None])
        scale = np.linalg.norm(A[:, output], axis=1)
        for k in _chunks(piece):
            i, j = piece[k], at[k]
            direction, basis = _frame(A[i, output] / scale[i, None])
            level = (grid[j] - b[i, output]) / scale[i]
            limits = h[i] - (H[i] @ direction[..., None])[..., 0] * level[:, None]
            within = H[i] @ basis
            # A row along the direction has nothing left but rounding, which must not decide anything.
            within[np.linalg.norm(within, axis=2) <= FLAT * np.linalg.norm(H[i], axis=2)] = 0.0
            log_p, rel = part.probabilities(within, limits)
            density = np.exp(log_p - level**2 / 2) / (np.sqrt(2 * np.pi) * scale[i])
            yield j, density, density * rel

    def _moments(self):
        """Mean and covariance by the law of total covariance over regions, E[A z + b] and A E[z z^T] A^T + ..."""
        k = self.pmf.net.output_dim
        mean, second = np.zeros(k), np.zeros((k, k))
        for part in self.pmf.pieces:
            first, cross = part.z_moments()
            p = part.weight * np.exp(part.log_p) / self.pmf.covered
            for rows, _, _, A, b in part.blocks():
                moved = (A @ first[rows, :, None])[..., 0]
                mean += p[rows] @ (moved + b)
                both = b[:, :, None] * moved[:, None, :]
                square = A @ cross[rows] @ A.transpose(0, 2, 1) + b[:, :, None] * b[:, None, :]
                second += np.tensordot(p[rows], square + both + both.transpose(0, 2, 1), 1)
        return mean, second - np.outer(mean, mean)


def _flat(A, output):
    norms = np.linalg.norm(A, axis=2)
    return norms[:, output] <= FLAT * norms.max(initial=0.0)


def _frame(direction):
    """(direction, basis (K, r, r-1)): an orthonormal basis of the complement, from the reflection of e_1 onto it."""
    sign = np.where(direction[:, 0] > 0, -1.0, 1.0)
    mirror = direction - sign[:, None] * np.eye(direction.shape[1])[0]
    mirror /= np.linalg.norm(mirror, axis=1)[:, None]
    reflection = np.eye(direction.shape[1]) - 2 * mirror[:, :, None] * mirror[:, None, :]
    return direction, reflection[:, :, 1:]


def _chunks(items):
    return [slice(start, start + PAIRS_AT_ONCE) for start in range(0, len(items), PAIRS_AT_ONCE)]
