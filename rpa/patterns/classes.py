"""P(argmax f(x) = c) of a network with random input: class by class, from the patterns found and from the others.

On a region class c wins on a polytope, k - 1 half-spaces more, whose probability needs no samples. What the patterns
found do not cover is shared out among the classes by sampling, and bounded without it: no class can win more than the
patterns found give it and all that is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_ndtr

from rpa import _check

if TYPE_CHECKING:
    from rpa.patterns.pmf import PatternPMF


__all__ = ["BUDGET", "ClassProbabilities", "among", "class_probabilities", "log_bound", "logits", "wins"]

BUDGET = 2**12  # points for a share of a region: a rare one need not be known to the same relative error
CHUNK = 1 << 13  # samples propagated at once
STREAM = 1  # seeds of the remainder are (seed, STREAM): other draws than those that a search by sampling made


@dataclass(frozen=True, eq=False)
class ClassProbabilities:
    """P(argmax f(x) = c), each (k,): the estimate `p` with its standard error `error`, and bounds `lower`, `upper`.

    The bounds hold up to the numerical error of the regions' probabilities, which they include: lower from the patterns
    found alone, upper by the lower bounds of the other classes.
    """

    p: np.ndarray
    error: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def __array__(self, dtype=None, copy=None):
        return np.array(self.p, dtype=dtype)

    def __len__(self) -> int:
        return len(self.p)

    def __getitem__(self, index):
        return self.p[index]


def class_probabilities(pmf: PatternPMF, *, n: int = 100_000, seed: int = 0) -> ClassProbabilities:
    """P(argmax f(x) = c) for c = 0..k-1; the first of equal outputs wins.

    p_c = P(c, found) + P(not found) r_c, where r_c is the share of class c among those of `n` random inputs whose
    pattern is not in the `pmf`, an unbiased estimate. Its standard error (with one success and one failure added, so
    that what was not seen is not taken for impossible) and the numerical errors make up `error`. Where none of the n
    inputs has such a pattern, the classes share the rest as they share what was found, and `error` holds all of it.
    A network with one output is read as a logit: class 0 is f(x) <= 0, class 1 is f(x) > 0.
    Raises ValueError for n < 1 or a negative seed.

    >>> from rpa import Gaussian, ReLUNetwork, pattern_pmf
    >>> net = ReLUNetwork([[[1.0], [-1.0]], [[1.0, 1.0]]], [[0.0, 0.0], [-1.0]])  # f(x) = |x| - 1
    >>> class_probabilities(pattern_pmf(net, Gaussian([0.0], 1.0))).p.round(6)  # P(|x| <= 1), P(|x| > 1)
    array([0.682689, 0.317311])
    """
    n, seed = _check.integer("n", n, 1), _check.integer("seed", seed)
    mass, error = _found(pmf)
    mass /= max(mass.sum(), 1.0)
    rest = max(1.0 - mass.sum(), 0.0)
    share, share_error = _shares(pmf, mass, n, seed) if rest > 0 else (mass, np.zeros(len(mass)))
    lower = np.maximum(mass - error, 0.0)
    # Mass moved from one class to another by an error also moves the rest: p_c = (1 - r_c) m_c + r_c (1 - other m).
    numerical = (1 - share) * error + share * (error.sum() - error)
    return ClassProbabilities(mass + rest * share, numerical + rest * share_error, lower, 1 - (lower.sum() - lower))


def _shares(pmf, mass, n, seed):
    """Each class's share of the patterns that were not found, and its standard error."""
    if all(part.polygons is not None for part in pmf.pieces):
        return mass / mass.sum(), np.zeros(len(mass))  # nothing is missing but rounding
    counts = _remainder(pmf, len(mass), n, seed)
    m = counts.sum()
    if m == 0:
        return mass / mass.sum(), np.ones(len(mass))
    guess = (counts + 1) / (m + 2)
    return counts / m, np.sqrt(guess * (1 - guess) / m)


def _remainder(pmf, classes, n, seed):
    """Of n inputs, how many have a pattern that was not found and belong to each class: counts (classes,)."""
    rng, counts = np.random.default_rng([seed, STREAM]), np.zeros(classes, dtype=int)
    shares = rng.multinomial(n, [part.weight for part in pmf.pieces])
    for part, share in zip(pmf.pieces, shares):
        for start in range(0, share, CHUNK):
            z = rng.standard_normal((min(CHUNK, share - start), part.net.input_dim))
            z = z[~among(part.net.patterns(z), pmf.patterns)]
            f = part.net(z)
            winner = f.argmax(axis=1) if f.shape[1] > 1 else f[:, 0] > 0
            counts += np.bincount(winner, minlength=classes)
    return counts


def among(patterns: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the patterns (n, N) are rows of `known` (K, N): bool (n,)."""
    return np.isin(_keys(patterns), _keys(known))


def _keys(patterns):
    packed = np.packbits(patterns, axis=1)
    return np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1])))[:, 0]


def _found(pmf):
    """(mass, error), each (classes,): what each class wins on the patterns found."""
    classes = max(pmf.net.output_dim, 2)
    mass, error = np.zeros(classes), np.zeros(classes)
    for part in pmf.pieces:
        for block in part.blocks():
            found, off = _class_masses(part, block, classes)
            mass += part.weight * found
            error += part.weight * off
    return mass, error


def _class_masses(part, block, classes):
    """(mass, error), each (classes,): how much of a block of regions each class wins.

    A class whose tightest half-space alone has next to no probability beside the region's is left out, its bound going
    into the error; a region left with one class belongs to it, and needs no further probability. Where no point was
    found in a share that may not be empty, the smaller bound goes into the error as well.
    """
    rows, H, h, A, b = block
    A, b = logits(A, b)
    log_p, rel_error = part.log_p[rows], part.rel_error[rows]
    conditions = [wins(A, b, c) for c in range(classes)]
    bounds = np.stack([log_bound(*each) for each in conditions], axis=1)
    open_ = bounds > log_p[:, None] + np.log(1e-3 * part.rtol)
    sole = open_.sum(axis=1) == 1
    masses = np.where(open_[sole], np.exp(log_p[sole])[:, None], 0.0)
    mass, error = masses.sum(axis=0), np.exp(np.where(open_, -np.inf, bounds)).sum(axis=0) + rel_error[sole] @ masses
    # All shares of all classes in one call.
    region, winner = np.nonzero(open_ & ~sole[:, None])
    if len(region) == 0:
        return mass, error
    extra, limits = (np.stack(parts, axis=1)[region, winner] for parts in zip(*conditions))
    cut = np.concatenate([H[region], extra], 1), np.concatenate([h[region], limits], 1)
    inside, rel = part.probabilities(*cut, budget=BUDGET)
    bound = np.minimum(bounds[region, winner], log_p[region])
    off = np.exp(np.where(np.isinf(rel), bound, inside)) * np.where(np.isinf(rel), 1.0, rel)
    return mass + np.bincount(winner, np.exp(inside), classes), error + np.bincount(winner, off, classes)


def log_bound(rows: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Log of the least of P(row z <= limit) over the rows of each region, (K,)."""
    norm = np.linalg.norm(rows, axis=2)
    reach = np.divide(limits, norm, out=np.where(limits < 0, -np.inf, np.inf), where=norm > 0)
    return log_ndtr(reach.min(axis=1))


def logits(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Affine outputs A (K, k, r), b (K, k), one per class: a single output becomes class 1, and 0 class 0."""
    if A.shape[1] > 1:
        return A, b
    return np.concatenate([np.zeros_like(A), A], axis=1), np.column_stack([np.zeros(len(b)), b])


def wins(A: np.ndarray, b: np.ndarray, c: int) -> Any:
    """Half-spaces (rows (K, k-1, r), limits (K, k-1)) on which output c of A z + b is the argmax."""
    others = np.delete(np.arange(A.shape[1]), c)
    rows, limits = A[:, others] - A[:, [c]], b[:, [c]] - b[:, others]
    tie_lost = (np.abs(rows).max(axis=2) == 0) & (limits == 0) & (others < c)
    return rows, np.where(tie_lost, -1.0, limits)
