"""Do two score vectors rank the leading classes alike? Agreement of the ordered top k, with confidence intervals."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from rpa import _check

__all__ = ["leading", "ordered_agreement", "perfect_at_most", "wilson"]


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


def wilson(successes: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(low, high): Wilson's 95 % interval for a proportion from `successes` (k,) of n trials.

    It stays in [0, 1] and never has length zero.

    >>> low, high = wilson([9], 10)
    >>> low.round(3), high.round(3)
    (array([0.596]), array([0.982]))
    """
    n = _check.integer("n", n, 1)
    counts = _check.array("successes", successes, (None,))
    if not ((counts >= 0) & (counts <= n) & (counts == counts.round())).all():
        raise ValueError(f"successes: expected whole numbers from 0 to n = {n}, got {successes!r}")
    intervals = [binomtest(int(count), n).proportion_ci(method="wilson") for count in counts]
    return np.array([each.low for each in intervals]), np.array([each.high for each in intervals])


def perfect_at_most(agreed: ArrayLike) -> np.ndarray:
    """Upper bound on how often the exact mean would order classes as a sampled referee does, elementwise.

    agreed: the share of images on which two equal, independent referees agree. A referee that takes the wrong one of
    two orders with probability e agrees with another in 1 - 2 e (1 - e) of all cases, and with the exact mean in 1 - e.
    That lies between `agreed` and (1 + sqrt(2 agreed - 1)) / 2, also where e differs from image to image (Jensen).
    """
    agreed = np.asarray(agreed, dtype=float)
    if not ((agreed >= 0) & (agreed <= 1)).all():
        raise ValueError(f"agreed: expected shares in [0, 1], got {agreed}")
    return (1 + np.sqrt(np.maximum(2 * agreed - 1, 0))) / 2
