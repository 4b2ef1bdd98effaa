"""Do two score vectors rank the leading classes alike? Agreement of the ordered top k, with confidence intervals."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri


def ordered_agreement(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """bool (b, k): entry (i, j - 1) says whether the first j classes of row i are the same in the same order.

    first, second: (b, k), the numbers of the k leading classes, best first. The mean of column k - 1 is P2's top-k
    score ordering.
    """
    return np.logical_and.accumulate(np.equal(first, second), axis=1)


def wilson(successes: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(low, high): Wilson's 95 % interval for a proportion from `successes` of n trials, elementwise.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n); stays in [0, 1] and never has length zero.
    successes: means over repetitions need not be whole numbers.
    """
    successes = np.asarray(successes, dtype=float)
    if n < 1 or not ((successes >= 0) & (successes <= n)).all():
        raise ValueError(f"successes: expected 0 to n of n >= 1 trials, got {successes} of {n}")
    z, p = ndtri(0.975), successes / n
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = np.clip(np.stack([middle - half, middle + half]) / (1 + z**2 / n), 0, 1)
    return low, high


def percent(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard error) over images, in percent, of agreements or of their differences, both (b, k).

    At least one image counts as different: agreement on all of them is no proof.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        raise ValueError(f"values: expected at least 2 images, got {len(values)}")
    return 100 * values.mean(0), 100 * np.sqrt(np.maximum(values.var(0), 1 / len(values)) / (len(values) - 1))


def perfect_at_most(agreed: ArrayLike) -> np.ndarray:
    """Upper bound on how often the exact mean would order classes as a sampled referee does, elementwise.

    agreed: the share of images on which two equal, independent referees agree. If a referee gives order o of an image
    with probability q_o, two agree with probability sum_o q_o^2, and one with the exact mean with max_o q_o, which is
    at most the root of that sum; the mean over images is at most the root of `agreed` (Jensen).
    """
    return np.sqrt(agreed)
