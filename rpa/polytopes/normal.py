"""Standard normal interval probabilities with full relative accuracy in the tails and on short intervals."""

import numpy as np
from scipy.special import erf, erfcx

LOG_2PI = np.log(2 * np.pi)


def log_interval(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """log(Phi(upper) - Phi(lower)), elementwise; -inf where upper <= lower. Relative error of the probability 1e-13.

    Reflected into the right tail, it is -lower^2 / 2 + log(R(lower) - R(upper) exp((lower^2 - upper^2) / 2)), where
    R(x) = Q(x) exp(x^2 / 2) is `erfcx` in other units; a sum of two error functions where 0 lies inside; for a short
    interval of width w and midpoint m, phi(m) w [1 + (m^2 - 1) w^2 / 24 + (m^4 - 6 m^2 + 3) w^4 / 1920] (Taylor).
    """
    lower, upper = np.broadcast_arrays(np.asarray(lower, dtype=float), np.asarray(upper, dtype=float))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        flip = lower + upper < 0
        near, far = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
        width, middle = far - near, (near + far) / 2
        start, stop = near * 0.5**0.5, far * 0.5**0.5
        tail = np.log((erfcx(start) - erfcx(stop) * np.exp(-width * middle)) / 2) - near**2 / 2
        result = np.where(near > 0, tail, np.log((erf(stop) - erf(start)) / 2))
        square, short = middle**2, width * np.maximum(middle, 1) < 0.02
        series = (square - 1) * width**2 / 24 + (square**2 - 6 * square + 3) * width**4 / 1920
        taylor = np.log(width) - (square + LOG_2PI) / 2 + np.log1p(series)
    return np.where(width > 0, np.where(short, taylor, result), -np.inf)
