"""The law of the network's output: truncated Gaussians, each pushed through its region's affine map.

P1's second proposition. In the plane every functional is exact (`planar_law`). Above, weighted points (`pieces`) stand
for the regions, and random inputs with none of the PMF's patterns for the rest: stratified sampling, unbiased for every
functional whatever the PMF covers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import elementwise

from rpa import _check
from rpa.parallel import one_thread
from rpa.patterns import pieces, planar_law
from rpa.patterns.estimate import Estimate
from rpa.patterns.packing import among
from rpa.polytopes import quadrature

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CIRCLES: dict[str, Any] = dict(color="C1", markersize=3.6, fillstyle="none", markeredgewidth=0.9)  # of Monte Carlo
INPUTS_AT_ONCE = 8192  # random inputs propagated at once
STREAM = 1  # seeds of the remainder are (seed, STREAM): other draws than those that a search by sampling made
MOST_NUMBERS = 2e7  # numbers that the half-spaces of all regions may have for their points to be kept
LINES = 8192  # random inputs of the remainder that a density uses: each needs the half-spaces of its own region
STRATUM = 100  # random inputs of a component that has fewer on average: a rare one may be far away
FARTHER = 3  # deviations of the covered part at which one more random input of the missing part may lie
UNSEEN = 10  # typical deviations that a part of the law that no random input shows may be away


class OutputMixture:
    """The law of f(x) under the random input of a `PatternPMF`.

    n: random inputs for the patterns that the PMF lacks; seed: of all draws. `mean`, `cov`, `cdf`, `pdf`, `quantile`
    and `class_probabilities` return an `Estimate`: values with `error`, `lower` and `upper`. Atoms, where the network
    is constant on a region of positive probability, are part of `cdf` and listed by `atoms`; `pdf` is the density of
    the rest. For a probability too small for points, 1e-6 say, use `rpa.failure_probability`.
    """

    def __init__(self, pmf: Any, n: int, seed: int) -> None:
        self.pmf, self.n, self.seed = pmf, n, seed
        self._kept: list | None = None

    @property
    def uncovered(self) -> float:
        """Probability of the patterns that the PMF lacks: the weight of the random inputs in every functional."""
        return self.pmf.uncovered

    @property
    def exact(self) -> bool:
        """True when every region is a polygon and integrated exactly (inputs of rank at most two)."""
        return all(part.polygons is not None for part in self.pmf.pieces)

    def __repr__(self) -> str:
        mean, deviation = np.asarray(self.mean), np.sqrt(np.diag(self.cov))
        outputs = ", ".join(f"{m:.4g} ± {s:.4g}" for m, s in zip(mean[:4], deviation))
        more = f", ... ({len(mean)} outputs)" if len(mean) > 4 else ""
        how = "exact" if self.exact else f"uncovered {self.uncovered:.2g}, sampled with {self.n:,} inputs"
        return f"OutputMixture: mean ± standard deviation {outputs}{more}; {len(self.pmf)} patterns, {how}"

    @cached_property
    def mean(self) -> Estimate:
        """E f(x), shape (k,)."""
        if self.exact:
            mean, second, error = planar_law.two_moments(self.pmf.pieces, np.zeros(self.pmf.net.output_dim))
            return Estimate(mean, error * np.sqrt(np.diag(second)))
        f, weights = self._regions
        sums, square = np.einsum("rp,rpk->rk", weights, f), np.einsum("rp,rpk->k", weights, f * f) / len(f)
        centre = sums.sum(axis=0) / max(weights.sum(), np.finfo(float).tiny)
        deviation = np.sqrt(np.einsum("rp,rpk->k", weights, (f - centre) ** 2) / len(f))
        return self._combined(sums, self._rest[0], np.sqrt(square), FARTHER * deviation)

    @cached_property
    def cov(self) -> Estimate:
        """Covariance of f(x), shape (k, k)."""
        mean = np.asarray(self.mean)
        if self.exact:
            _, cov, error = planar_law.two_moments(self.pmf.pieces, mean)
            deviation = np.sqrt(np.diag(cov))
            return Estimate(cov, 3 * error * np.outer(deviation, deviation) + _of_rounding(mean, deviation, 4))
        f, weights = self._regions
        centred, rest = f - mean, self._rest[0] - mean
        sums = np.einsum("rp,rpi,rpj->rij", weights, centred, centred, optimize=True)
        deviation = np.sqrt(np.diag(sums.mean(axis=0)))
        square = np.outer(deviation, deviation)
        cov = self._combined(sums, rest[:, :, None] * rest[:, None], square, FARTHER**2 * square)
        return Estimate(cov, cov.error + _of_rounding(mean, np.sqrt(np.diag(cov)), 4 * pieces.TOTAL**0.5))

    def cdf(self, y: ArrayLike, output: int = 0) -> Estimate:
        """P(f(x)[output] <= y) at thresholds y (m,) (or a scalar), of the shape of y; bounds: within `uncovered`."""
        grid, place = self._rising("y", y, output)
        if self.exact:
            return _probability(*planar_law.cdf(self.pmf.pieces, grid, output))[place]
        f, weights = self._regions
        at = np.searchsorted(grid, f[:, :, output], side="left")
        sums = np.stack([np.bincount(*each, len(grid) + 1) for each in zip(at, weights)])[:, :-1].cumsum(axis=1)
        return self._combined(sums, self._rest[0][:, output, None] <= grid)[place]

    def pdf(self, y: ArrayLike, output: int = 0) -> Estimate:
        """Density of f(x)[output] at y (m,) (or a scalar), atoms left out, of the shape of y.

        The mean over points of the densities of a z / |a| given the other coordinates, a truncated normal on a line.
        """
        grid, place = self._rising("y", y, output)
        if self.exact:
            return Estimate(*planar_law.pdf(self.pmf.pieces, grid, output))[place]
        sums, rest = np.zeros((quadrature.REPLICATES, len(grid))), [np.zeros((0, len(grid)))]
        with one_thread():
            for draws in self._draws():
                sums += pieces.densities(draws, output, grid).sum(axis=0)
            for part, z in zip(self.pmf.pieces, self._rest[1]):
                for rows, *maps in replace(part, patterns=part.net.patterns(z)).blocks():
                    some = z[rows, :, None, None]
                    alone = pieces.Draws(some, np.ones((len(some), 1, 1)), *maps)
                    rest.append(pieces.densities(alone, output, grid)[:, 0])
        each = np.concatenate(rest)
        return self._combined(sums, each, sums.max(axis=0), each.max(initial=0.0), self._rest[3])[place]

    def quantile(self, q: ArrayLike, output: int = 0) -> Estimate:
        """The smallest y with P(f(x)[output] <= y) >= q, for q (m,) (or a scalar) in (0, 1), of the shape of q.

        The error is half the distance between the quantiles of q less and plus the error of the distribution function;
        infinite where one of these is outside (0, 1), beyond all points.
        """
        levels, place = self._rising("q", q, output)
        if ((levels <= 0) | (levels >= 1)).any():
            raise ValueError(f"q: expected numbers in (0, 1), got {levels[(levels <= 0) | (levels >= 1)][0]:g}")
        inverse = lambda levels: self._bisected(levels, output)
        if not self.exact:
            f, weights = self._regions
            rest, v, mass = self._rest[0][:, output], self._rest[2], weights.ravel() / len(weights)
            values = np.concatenate([f[:, :, output].ravel(), rest])
            order, missing = np.argsort(values), max(1.0 - mass.sum(), 0.0)
            total = np.cumsum(np.concatenate([mass, missing * v / v.sum()])[order])
            values, share = values[order], total / total[-1]
            inverse = lambda levels: values[np.searchsorted(total, levels * total[-1]).clip(max=len(values) - 1)]
        value = inverse(levels)
        spread = np.maximum(self.cdf(value, output).error, 1e-15)
        around = np.concatenate([levels - spread, levels + spread]).clip(1e-16, 1 - 1e-16)
        low, high = np.split(inverse(around), 2)
        error = (high - low) / 2
        if not self.exact:  # beyond all points, unless the least or the greatest of them is an atom
            below, above = share[values == values[0]][-1], 1.0 - share[values < values[-1]].max(initial=0.0)
            beyond = (levels <= spread) & (below < 3 * spread) | (levels + spread >= 1) & (above < 3 * spread)
            error[beyond] = np.inf
        return Estimate(value, error)[place]

    def atoms(self, output: int = 0) -> tuple[np.ndarray, Estimate]:
        """(values (a,), p (a,)): outputs taken with positive probability, rising, and those probabilities."""
        _check.index("output", output, self.pmf.net.output_dim)
        found = [(np.zeros(0),) * 3]
        for part in self.pmf.pieces:
            for rows, _, _, A, b in part.blocks():
                flat = ~A[:, output].any(axis=1)
                p, known = part.weight * np.exp(part.log_p[rows][flat]), part.rel_error[rows][flat]
                found.append((b[flat, output], p, p * np.where(np.isfinite(known), known, 1.0)))
        every, *masses = map(np.concatenate, zip(*found))
        values, inverse = np.unique(every, return_inverse=True)
        p, error = (np.bincount(inverse, each, len(values)) for each in masses)
        f, share = self._rest[0][:, output], self._rest[2] / self._rest[2].sum()
        again, index, counts = np.unique(f, return_inverse=True, return_counts=True)
        shares, squares = np.bincount(index, share, len(again)), np.bincount(index, share**2, len(again))
        for value, share, square in zip(*(each[counts > 1] for each in (again, shares, squares))):
            if not np.isclose(values, value, rtol=1e-9, atol=1e-12).any():
                values, p, error = np.append(values, value), np.append(p, 0.0), np.append(error, 0.0)
            at = int(np.abs(values - value).argmin())
            p[at] += self.uncovered * share
            error[at] += self.uncovered * np.sqrt(square)
        order = np.argsort(values)
        return values[order], Estimate(p[order], error[order], 0.0, 1.0)

    def class_probabilities(self) -> Estimate:
        """P(argmax f(x) = c) for each class c, (k,), the first of equal ones; bounds: any may have all of `uncovered`.

        A network with one output is a logit: class 0 is f(x) <= 0, class 1 is f(x) > 0.
        """
        classes = max(self.pmf.net.output_dim, 2)
        if self.exact:
            return _probability(*planar_law.class_masses(self.pmf.pieces, classes))
        f, weights = self._regions
        sums = np.stack([np.bincount(_winner(each), w, classes) for each, w in zip(f, weights)])
        return self._combined(sums, _winner(self._rest[0])[:, None] == np.arange(classes))

    def plot(self, ax: Axes | None = None, output: int = 0, samples: ArrayLike | None = None) -> Axes:
        """Draw the distribution function of an output with a band of three errors, on new axes if ax is None.

        samples (n, k) or (n,): outputs whose empirical distribution function is drawn as circles.
        """
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        middle, deviation = float(self.mean[output]), float(np.sqrt(self.cov[output, output]))
        y = middle + deviation * np.linspace(-4, 4, 200)
        cdf = self.cdf(y, output)
        ax.plot(y, np.asarray(cdf), color="C0")
        ax.fill_between(y, cdf - 3 * cdf.error, cdf + 3 * cdf.error, color="C0", alpha=0.25, linewidth=0)
        if samples is not None:
            values = np.asarray(samples, dtype=float)
            values = values.reshape(len(values), -1)[:, output]
            share = (np.arange(25) + 0.5) / 25
            ax.plot(np.quantile(values, share), share, "o", **CIRCLES)
        ax.set(xlabel="output", ylabel="P(output ≤ y)", ylim=(-0.02, 1.02))
        return ax

    def _draws(self):
        """Points of all regions: kept, unless they are large, which are then drawn again for each density."""
        if self._kept is None:
            nets = [(part.net, len(part.patterns)) for part in self.pmf.pieces]
            draws = (each for part in self.pmf.pieces for each in pieces.draw(part, self.seed))
            if sum(count * net.input_dim * (net.n_hidden + pieces.FEWEST) for net, count in nets) > MOST_NUMBERS:
                return draws
            self._kept = list(draws)
        return self._kept

    @cached_property
    def _regions(self):
        """Outputs f (R, P, k) at P points of each replicate, and their weights (R, P)."""
        k, replicates = self.pmf.net.output_dim, quadrature.REPLICATES
        outputs, weights = [np.zeros((replicates, 0, k))], [np.zeros((replicates, 0))]
        with one_thread():
            for draws in self._draws():
                f = np.einsum("kod,kdrm->rkmo", draws.A, draws.z, optimize=True)
                f += draws.b[:, None]  # a constant output is the same number at all points of a region
                outputs.append(f.reshape(replicates, -1, k))
                weights.append(draws.weights.transpose(1, 0, 2).reshape(replicates, -1))
        return np.concatenate(outputs, axis=1), np.concatenate(weights, axis=1)

    @cached_property
    def _rest(self):
        """Of those of n random inputs whose pattern the PMF lacks: outputs (m, k); the first inputs z of each piece;
        weights (m,) of the outputs; weights of these z.
        """
        outputs, kept = [np.zeros((0, self.pmf.net.output_dim))], []
        rng, n = np.random.default_rng([self.seed, STREAM]), 0 if self.pmf.complete else self.n
        weights = np.array([part.weight for part in self.pmf.pieces])
        # Not where chance draws too few: components of about STRATUM inputs would weigh too much.
        rare, fewest = n * weights < STRATUM, min(n, STRATUM)
        shares = np.where(rare, fewest, rng.multinomial(n, weights))
        weights = np.where(rare, n * weights / max(fewest, 1), 1.0)
        for part, share in zip(self.pmf.pieces, shares):
            inputs = []
            for start in range(0, share, INPUTS_AT_ONCE):
                z = rng.standard_normal((min(INPUTS_AT_ONCE, share - start), part.net.input_dim))
                f, patterns = part.net.outputs_and_patterns(z)
                new = ~among(patterns, self.pmf.patterns)
                outputs.append(f[new])
                inputs.append(z[new])
            kept.append(np.concatenate([np.zeros((0, part.net.input_dim)), *inputs]))
        ends = np.cumsum([len(z) for z in kept])  # each component keeps the same share
        counts = np.diff(1 + ends * LINES // max(ends[-1], LINES), prepend=0)
        some = [z[:count] for z, count in zip(kept, counts)]
        return np.concatenate(outputs), some, *(np.repeat(weights, [len(z) for z in each]) for each in (kept, some))

    def _combined(self, sums, rest, typical=None, least=0.0, weights=None):
        """The `Estimate` of sums (R, ...) over each replicate's points and values (m, ...) at inputs of the rest, of
        these weights (m,).
        """
        # With the mean g of the rest the estimate is g + mean_r (sum_r - covered_r g): what a replicate covers too much
        # the rest has too little. The largest deviation from g, `least` at least, widens the error, as if one more
        # input had shown it; where no input shows the rest it is UNSEEN times `typical` (...). A probability, where
        # that is None, deviates by 1 at most.
        covered = self._regions[1].sum(axis=1)
        missing = 0.0 if self.pmf.complete else max(1.0 - covered.mean(), 0.0)
        m = len(rest) if missing > 0 else 0
        share = self._rest[2] if weights is None else weights
        share = share / share.sum() if m else share
        centre = np.tensordot(share, rest, 1) if m else sums.mean(axis=0) / covered.mean()
        terms = sums - np.multiply.outer(covered, centre)
        value = centre + terms.mean(axis=0)
        scatter, of_sums = (quadrature.SAFETY * part.std(axis=0, ddof=1) / np.sqrt(len(sums)) for part in (terms, sums))
        unseen = share.max() * m if m else 1.0
        if typical is None:  # without a point in the event or outside it, one more might have shown it
            alone = (sums.max(axis=0) == 0) | ((covered[:, None] - sums).max(axis=0) <= 1e-12)
            one = np.where(alone, self._regions[1].max(initial=0.0) / len(sums), 0.0)
            scatter, of_sums = np.maximum(scatter, one), np.maximum(of_sums, one)
        else:
            unseen = np.maximum(np.abs((rest - centre).T * share * m).T.max(axis=0), least) if m else UNSEEN * typical
        gap = rest - centre if m else 0.0
        gap *= gap  # may be large
        spread = np.sqrt(np.tensordot(share**2, gap, 1) + unseen**2 / (m + 1) / m) if m else unseen
        error = np.hypot(scatter, missing * spread)
        if typical is not None:
            return Estimate(value, error)
        low, slack = (sums.mean(axis=0), 3 * of_sums) if missing > 0 else (value, 3 * scatter)
        lower, upper = np.clip(low - slack, 0.0, 1.0), np.clip(low + missing + slack, 0.0, 1.0)
        return Estimate(np.clip(value, lower, upper), error, lower, upper)

    def _bisected(self, levels, output):
        """The smallest y with cdf(y) >= level, for levels (m,), in the plane."""
        blocks = ((part, rows, A, b) for part in self.pmf.pieces for rows, _, _, A, b in part.blocks())
        low, high = np.hstack([planar_law.output_range(*block, output) for block in blocks])
        ends = np.nextafter(low.min(), -np.inf), high.max()

        def excess(y, level):
            # Never 0, so that the search ends where the function first reaches the level.
            gap = np.asarray(self.cdf(y, output)) - level
            return np.where(gap == 0, np.finfo(float).tiny, gap)

        return elementwise.find_root(excess, np.broadcast_arrays(*ends, levels)[:2], args=(levels,)).bracket[1]

    def _rising(self, name, y, output):
        """The numbers y, a scalar or (m,), in rising order (m,), and the index that gives what belongs to them y's."""
        _check.index("output", output, self.pmf.net.output_dim)
        y = _check.array(name, y, (None,) * min(np.ndim(y), 1))
        return np.sort(y, axis=None), np.argsort(np.argsort(y, kind="stable")) if y.ndim else 0


def _winner(f):
    """The class (n,) of outputs f (n, k), the first of equal ones."""
    return f.argmax(axis=1) if f.shape[1] > 1 else (f[:, 0] > 0).astype(int)


def _of_rounding(mean, deviation, roundings):
    """Error (k, k) of a covariance from so many roundings of the outputs, of this mean and deviation, both (k,)."""
    moved = deviation + roundings * np.finfo(float).eps * np.hypot(mean, deviation)
    return np.outer(moved, moved) - np.outer(deviation, deviation)


def _probability(value, error):
    """An exact probability: the bounds are three errors away."""
    return Estimate(value, error, *(np.clip(value + sign * 3 * error, 0.0, 1.0) for sign in (-1, 1)))
