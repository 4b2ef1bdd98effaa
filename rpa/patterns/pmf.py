"""The probability mass function of activation patterns: P1's law of the random affine function.

`pattern_pmf` finds the patterns that carry the mass and gives each its probability with an error. What it did not find
is `uncovered`, an upper bound on the total-variation error of everything derived from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from rpa import _check
from rpa.inputs import components_of
from rpa.network import as_network
from rpa.patterns.classes import class_probabilities
from rpa.patterns.output_law import OutputMixture
from rpa.patterns.pieces import exact_pieces, searched_pieces
from rpa.patterns.regions import label, region_of, singular_values

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from rpa.inputs import RandomInput
    from rpa.network import ReLUNetwork
    from rpa.patterns.classes import ClassProbabilities
    from rpa.patterns.regions import Region


__all__ = ["PatternPMF", "pattern_pmf"]

SEARCHES = ("auto", "exhaustive", "best_first", "entropy", "monte_carlo")


@dataclass(frozen=True, eq=False)
class PatternPMF:
    """K activation patterns of a network with random input, by falling probability.

    patterns bool (K, N); log_p (K,) natural logs of P(zeta = pattern); rel_error (K,): standard relative error of p.
    pieces: for each component of the input, the regions as polytopes in coordinates where that component is N(0, I).
    """

    net: ReLUNetwork
    inputs: RandomInput
    patterns: np.ndarray
    log_p: np.ndarray
    rel_error: np.ndarray
    pieces: tuple

    def __len__(self) -> int:
        return len(self.patterns)

    @property
    def p(self) -> np.ndarray:
        """Probabilities (K,); 0 where they underflow, `log_p` does not."""
        return np.exp(self.log_p)

    @cached_property
    def labels(self) -> list[int]:
        """Decimal labels, a list of K Python integers (they outgrow 64 bits)."""
        return [label(pattern) for pattern in self.patterns]

    @property
    def covered(self) -> float:
        """Total probability of the patterns found."""
        return float(np.exp(logsumexp(self.log_p))) if len(self) else 0.0

    @property
    def covered_error(self) -> float:
        """Error of `covered`: errors of patterns share their random points, so they add up linearly."""
        return float(self.p @ self.rel_error)

    @property
    def uncovered(self) -> float:
        """1 - covered: bounds the total-variation distance between this law and the true one, up to `covered_error`."""
        return max(0.0, 1.0 - self.covered)

    def region(self, i: int) -> Region:
        """The `Region` of the i-th most probable pattern, in input coordinates."""
        return region_of(self.net, self.patterns[_check.index("i", i, len(self))])

    def to_frame(self) -> pd.DataFrame:
        """A pandas DataFrame with columns label, p, log_p, rel_error, active (number of active units)."""
        import pandas

        columns = {"label": [str(name) for name in self.labels], "p": self.p, "log_p": self.log_p}
        return pandas.DataFrame(columns | {"rel_error": self.rel_error, "active": self.patterns.sum(axis=1)})

    def output(self) -> OutputMixture:
        """The law of f(x): an `OutputMixture` of truncated Gaussians (P1's proposition on the output)."""
        return OutputMixture(self)

    def singular_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Singular values of the Jacobian of each pattern, (K, min(k, d)) falling, and the probabilities (K,)."""
        return singular_values(self.net, self.patterns), self.p

    def log_p_gradients(self) -> Any:
        """(d log p / d mean (K, d), d log p / d log s (K,)) where the noise x - mean is scaled by s, at s = 1.

        Differentiating under the integral, both are moments of the truncated law: with u = W_1 x = U S z + const and m
        = E[z | region], the mean's gradient is W_1^T (U S)^+T m and the scale's is E[|z|^2 | region] - r. In the plane
        they are exact; above, each costs the `rpa.polytopes.polytope.moments` of its region. Raises ValueError for a
        mixture, or where W_1 cov W_1^T has a lower rank than W_1: then p can jump with the mean.
        """
        if len(self.pieces) > 1:
            raise ValueError(f"inputs: expected one Gaussian for gradients, got {len(self.pieces)} components")
        part, first_weight = self.pieces[0], self.net.weights[0]
        rows = part.net.weights[0]
        rank = np.linalg.matrix_rank(rows)
        if rank < np.linalg.matrix_rank(first_weight):
            raise ValueError(f"inputs: expected noise in every direction that W_1 sees, got rank {rank}")
        mean, second = part.z_moments()
        at = np.argsort(part.index)
        to_mean = np.linalg.pinv(rows) @ first_weight
        return (mean @ to_mean)[at], (np.trace(second, axis1=1, axis2=2) - rows.shape[1])[at]

    def class_probabilities(self, *, n: int = 100_000, seed: int = 0) -> ClassProbabilities:
        """P(argmax f(x) = c) for each class c: see `rpa.patterns.classes.class_probabilities`."""
        return class_probabilities(self, n=n, seed=seed)


def pattern_pmf(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    max_patterns: int = 2000,
    mass: float = 0.999,
    search: str = "auto",
    rtol: float = 1e-2,
    seed: int = 0,
) -> PatternPMF:
    """Activation patterns of `net` under `inputs` and their probabilities, P(zeta) = P(H x <= h) (P1's PMF).

    search: "exhaustive" finds every pattern, exactly, for inputs of rank at most two (`max_patterns`, `mass` and `rtol`
    then play no part); "best_first", "entropy" (P1's) and "monte_carlo" (10^5 samples) find up to `max_patterns`, or
    `mass` of the probability if that is reached sooner; "auto" is exhaustive where possible, else best-first.
    rtol: relative error asked of each probability. Returns a `PatternPMF`; raises ValueError for unfit arguments.

    >>> from rpa import Gaussian, ReLUNetwork
    >>> net = ReLUNetwork([[[1.0], [-1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [0.0]])  # f(x) = |x|
    >>> pmf = pattern_pmf(net, Gaussian([1.0], 1.0))
    >>> pmf.patterns.astype(int), pmf.p.round(6)
    (array([[1, 0],
           [0, 1]]), array([0.841345, 0.158655]))
    >>> round(float(pmf.output().mean[0]), 6)  # E|x|
    1.166631
    """
    net = as_network(net)
    max_patterns = _check.integer("max_patterns", max_patterns, 1)
    mass, rtol = _check.fraction("mass", mass), _check.positive("rtol", rtol)
    if search not in SEARCHES:
        raise ValueError(f"search: expected one of {', '.join(SEARCHES)}, got {search!r}")
    components = components_of(inputs)
    if inputs.dim != net.input_dim:
        raise ValueError(f"inputs: expected dimension {net.input_dim} of the network's input, got {inputs.dim}")
    planar = net.input_dim <= 2 or max(net.whitened(part).input_dim for _, part in components) <= 2
    if search == "exhaustive" and not planar:
        raise ValueError("search: 'exhaustive' needs W_1 cov W_1^T of rank at most 2; use 'best_first'")
    if planar and search in ("auto", "exhaustive"):
        patterns, pieces = exact_pieces(net, components)
    else:
        found = _search(net, inputs, search, max_patterns, mass, seed)
        patterns, pieces = found, searched_pieces(net, components, found, rtol, seed)
    return _assemble(net, inputs, patterns, pieces)


def _search(net, inputs, search, max_patterns, mass, seed):
    from rpa.patterns import support

    if search == "monte_carlo":
        return support.monte_carlo(net, inputs, 100_000, seed, max_patterns=max_patterns).patterns
    method = support.entropy_pruned if search == "entropy" else support.best_first
    return method(net, inputs, max_patterns=max_patterns, mass=mass).patterns


def _assemble(net, inputs, patterns, pieces):
    """Mixture probabilities, sorted; `pieces` of each component are re-indexed to the sorted patterns."""
    log_terms = np.full((len(pieces), len(patterns)), -np.inf)
    errors = np.zeros((len(pieces), len(patterns)))
    for c, part in enumerate(pieces):
        log_terms[c, part.index] = np.log(part.weight) + part.log_p
        errors[c, part.index] = part.rel_error
    log_p = logsumexp(log_terms, axis=0)
    finite = np.isfinite(log_p)
    share = np.exp(log_terms - np.where(finite, log_p, 0.0))
    rel_error = (share * errors).sum(axis=0)
    order = np.argsort(-log_p, kind="stable")[: finite.sum()]
    rank = np.full(len(patterns), -1)
    rank[order] = np.arange(len(order))
    pieces = tuple(part.reindexed(rank) for part in pieces)
    return PatternPMF(net, inputs, patterns[order], log_p[order], rel_error[order], pieces)
