"""Polytopes whose Gaussian probability is known to many digits by another route, to measure methods against.

Orthants of equicorrelated and autoregressive vectors reduce to one-dimensional integrals; a product of planar polygons,
rotated at random, is exact by `rpa.polytopes.planar` and looks like any other polytope.
"""

import math

import numpy as np
from scipy.special import log_ndtr, logsumexp

from rpa.polytopes import planar
from rpa.polytopes.normal import LOG_2PI


def equicorrelated(n: int, rho: float, mean: float = 0.0) -> tuple[np.ndarray, float]:
    """(cov (n, n), log P(z > 0)) for z ~ N(mean, cov), variances 1 and all correlations rho in [0, 1).

    P = int phi(x) Phi((mean + sqrt(rho) x) / sqrt(1 - rho))^n dx; 1 / (n + 1) for rho = 1/2 and mean 0.
    """

    # Log-concave, curvature between 1 and that of this step, mode within the reach: the trapezoid rule is exact.
    step, reach = 0.1 / math.sqrt(1 + n * rho / (1 - rho)), 14 + abs(mean) * math.sqrt(n)
    x = np.arange(-reach, reach, step)
    log_integrand = n * log_ndtr((mean + math.sqrt(rho) * x) / math.sqrt(1 - rho)) - (x * x + LOG_2PI) / 2
    return np.full((n, n), rho) + (1 - rho) * np.eye(n), float(logsumexp(log_integrand) + math.log(step))


def autoregressive(n: int, rho: float, mean: float = 0.0, nodes: int = 600) -> tuple[np.ndarray, float]:
    """(cov (n, n), log P(z > 0)) for z ~ N(mean, cov), cov_ij = rho^|i - j|, |rho| < 1.

    A Markov chain: its density on the event is carried from coordinate to coordinate by Gauss-Legendre quadrature.
    """
    reach, scale = 12.0 + max(mean, 0.0), math.sqrt(1 - rho**2)
    x, weight = np.polynomial.legendre.leggauss(nodes)
    x, weight = reach * (x + 1) / 2, weight * reach / 2
    start = -((x - mean) ** 2 + LOG_2PI) / 2
    step = -(((x[:, None] - mean - rho * (x - mean)) / scale) ** 2 + LOG_2PI) / 2 - math.log(scale)
    log_p = logsumexp(start + np.log(weight))
    density, kernel = np.exp(start - log_p), np.exp(step)
    for _ in range(n - 1):
        density = kernel @ (weight * density)
        mass = weight @ density
        density, log_p = density / mass, log_p + math.log(mass)
    index = np.arange(n)
    return rho ** np.abs(index[:, None] - index).astype(float), float(log_p)


def rotated_blocks(blocks: int, rows: int, seed: int, margin: float = 0.5) -> tuple[np.ndarray, np.ndarray, float]:
    """(H, h, log P(H z <= h)) for z ~ N(0, I_2blocks): a product of `blocks` random polygons, rotated at random.

    Each polygon has `rows` half-planes at distances margin + 0.7 N(0, 1) from the origin, drawn again if empty.
    H (blocks * rows, 2 * blocks), in random order.
    """
    rng = np.random.default_rng(seed)
    H, h, log_p = np.zeros((blocks, rows, blocks, 2)), np.zeros((blocks, rows)), np.full(blocks, -np.inf)
    for i in range(blocks):
        while np.isneginf(log_p[i]):
            angle = rng.uniform(0, 2 * np.pi, rows)
            H[i, :, i] = np.stack([np.cos(angle), np.sin(angle)], axis=1)
            h[i] = margin + 0.7 * rng.standard_normal(rows)
            log_p[i] = planar.log_probability(H[None, i, :, i], h[None, i])[0][0]
    turn = np.linalg.qr(rng.standard_normal((2 * blocks, 2 * blocks)))[0]
    order = rng.permutation(blocks * rows)
    return (H.reshape(blocks * rows, 2 * blocks) @ turn)[order], h.reshape(-1)[order], float(log_p.sum())
