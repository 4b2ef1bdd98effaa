"""Do two score vectors rank the leading classes alike? Agreement of the ordered top k, with confidence intervals.

Also how many samples a method is worth, and up to which noise it reaches given percentages.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from rpa import _check

__all__ = ["leading", "ordered_agreement", "reached_until", "samples_worth", "scores_at", "wilson"]

RESAMPLES = 2000


def leading(scores: ArrayLike, k: int = 5) -> np.ndarray:
    """Numbers of the k largest scores of each row, best first: scores (b, c) -> int (b, k)."""
    scores = _check.array("scores", scores, (None, None))
    k = _check.integer("k", k, 1)
    if k > scores.shape[1]:
        raise ValueError(f"k: expected at most the {scores.shape[1]} columns of scores, got {k}")
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def ordered_agreement(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """bool (b, k): entry (i, j - 1) says whether the first j classes of row i are the same in the same order.

    first, second: (b, k) from `leading`. The mean of column k - 1 is P2's top-k score ordering.

    >>> ordered_agreement([[7, 2, 5]], [[7, 5, 2]])  # the winner agrees, the second place does not
    array([[ True, False, False]])
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"first, second: expected one shape (b, k), got {first.shape} and {second.shape}")
    return np.logical_and.accumulate(first == second, axis=1)


def wilson(successes: ArrayLike, n: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high): Wilson's score interval for a proportion from `successes` of n trials, elementwise.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n); stays in [0, 1] and never has length zero.

    >>> low, high = wilson(9, 10)
    >>> round(float(low), 3), round(float(high), 3)
    (0.596, 0.982)
    """
    n = _check.integer("n", n, 1)
    try:
        successes = np.asarray(successes, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"successes: expected numbers from 0 to n = {n}, got {successes!r}") from error
    if not ((successes >= 0) & (successes <= n)).all():
        raise ValueError(f"successes: expected numbers from 0 to n = {n}, got {successes}")
    if _check.fraction("level", level) == 1:
        raise ValueError(f"level: expected a number in (0, 1), got {level!r}")
    z, p = ndtri((1 + level) / 2), successes / n
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At no or only successes the interval ends exactly at 0 or 1, which the difference misses by a rounding.
    low = np.where(successes == 0, 0.0, (middle - half) / (1 + z**2 / n))
    return low, np.where(successes == n, 1.0, (middle + half) / (1 + z**2 / n))


def scores_at(classes: ArrayLike, top: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """Scores (b, k) of `classes` (b, k), given the `scores` (b, m) of the classes `top` (b, m); NaN if not in top."""
    classes, top, scores = np.asarray(classes), np.asarray(top), np.asarray(scores, dtype=float)
    if top.shape != scores.shape or classes.ndim != 2 or len(classes) != len(top):
        raise ValueError(
            f"classes, top, scores: expected (b, k), (b, m), (b, m), got {classes.shape}, {top.shape}, {scores.shape}"
        )
    same = classes[:, :, None] == top[:, None, :]
    return np.where(same.any(2), (same * scores[:, None, :]).sum(2), np.nan)


def samples_worth(
    found: ArrayLike, first: ArrayLike, second: ArrayLike, n: ArrayLike, seed: int
) -> tuple[float, float, float]:
    """(worth, low, high): how many samples err as much in the order of the leading classes as the scores `found`.

    found, first, second: (b, k) scores of the same classes, the latter by referees of n (or, row by row, n (b,))
    independent samples each. The error of an order is that of the scores' differences, so each row's common shift is
    taken off. With e^2 the mean square error of `found` and v that of a referee, known from the two, worth = n v / e^2
    (sums over rows), at most the n of the referees: more they cannot see. The interval (95 %) resamples rows; rows with
    NaN are left out. Raises ValueError for unfit shapes or n.
    """
    seed = _check.integer("seed", seed)
    found, first, second = (np.asarray(a, dtype=float) for a in (found, first, second))
    if found.ndim != 2 or found.shape != first.shape or found.shape != second.shape:
        raise ValueError(f"found, first, second: expected one shape, got {found.shape}, {first.shape}, {second.shape}")
    n = np.asarray(n, dtype=float)
    if n.shape not in ((), (len(found),)) or not (n >= 1).all():
        raise ValueError(f"n: expected numbers >= 1, one or {len(found)} of them, got {n}")
    square = lambda a: ((a - a.mean(1, keepdims=True)) ** 2).sum(1)
    noise, error = square(first - second) / 2, square(found - (first + second) / 2)
    kept = np.isfinite(noise + error)
    noise, error, single = noise[kept], error[kept], (n * noise)[kept]
    if len(noise) == 0:
        raise ValueError("found, first, second: expected at least one row without NaN")
    worth = lambda single, noise, error: single / np.maximum(error - noise / 2, noise)
    drawn = np.random.default_rng(seed).multinomial(len(noise), np.full(len(noise), 1 / len(noise)), RESAMPLES)
    low, high = np.quantile(worth(drawn @ single, drawn @ noise, drawn @ error), [0.025, 0.975])
    return float(worth(single.sum(), noise.sum(), error.sum())), float(low), float(high)


def reached_until(sigmas: ArrayLike, hits: ArrayLike, asked: ArrayLike, seed: int) -> tuple[float, float, float]:
    """(sigma, low, high): largest noise up to which the share of hits is at least `asked` for every k.

    sigmas (s,) rising; hits (s, b, k), each in [0, 1]; asked (k,) shares. Between two levels the smallest margin over k
    is interpolated in log sigma. 0 where the lowest level fails already, the highest level where none does. The
    interval (95 %) resamples the b images.
    """
    sigmas, asked = _check.array("sigmas", sigmas, (None,)), _check.array("asked", asked, (None,))
    hits = _check.array("hits", hits, (len(sigmas), None, len(asked)))
    b = hits.shape[1]
    weights = np.random.default_rng(_check.integer("seed", seed)).multinomial(b, np.full(b, 1 / b), RESAMPLES) / b
    drawn = np.einsum("rb,sbk->rsk", weights, hits)
    found = [_crossing(np.log(sigmas), (share - asked).min(1)) for share in [hits.mean(1), *drawn]]
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return found[0], float(low), float(high)


def _crossing(at, margin):
    """exp of the place where a margin over `at` first falls below 0."""
    below = np.flatnonzero(margin < 0)
    if len(below) == 0:
        return float(np.exp(at[-1]))
    i = below[0]
    if i == 0:
        return 0.0
    share = margin[i - 1] / (margin[i - 1] - margin[i])
    return float(np.exp(at[i - 1] + share * (at[i] - at[i - 1])))
