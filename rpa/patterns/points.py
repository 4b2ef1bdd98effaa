"""Weighted points in the regions of a network: every functional of the output law is a weighted sum over them.

A region's points come from the proposals of its probability, so that a region far in the tail has as many as it needs.
One replicate has points of all regions; the scatter of a functional over the independent replicates is its error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr

from rpa.patterns.packing import shifts
from rpa.patterns.pieces import Pieces
from rpa.polytopes import quadrature, reduction
from rpa.polytopes.lookahead import lookahead
from rpa.polytopes.trapezoid import plan

TOTAL = 2**18  # points shared out among the regions by their probability
FEWEST, MOST = 8, 2**12  # points per replicate in one region
DROPPED = 1e-6  # union bound of the rows left out of a region, relative to its probability


@dataclass(frozen=True, eq=False)
class Draws:
    """Points of K regions: z (K, r, R, M) and weights (K, R, M); the weights of a replicate sum to the probability.

    H, h, A, b: half-spaces and affine maps of the regions, as `Pieces.blocks` gives them.
    """

    z: np.ndarray
    weights: np.ndarray
    H: np.ndarray
    h: np.ndarray
    A: np.ndarray
    b: np.ndarray


def draw(part: Pieces, seed: int) -> Iterator[Draws]:
    """Yields `Draws` of all regions of one component, the same for the same seed."""
    share = np.exp(part.log_p - np.logaddexp.reduce(part.log_p))
    stop = 2 ** np.rint(np.log2(np.clip(TOTAL * share / quadrature.REPLICATES, FEWEST, MOST))).astype(int)
    for rows, *maps in part.blocks():
        unit, slack, _ = reduction.unit_rows(*maps[:2])
        kept, _ = reduction.uncertain(slack, part.log_p[rows] + np.log(DROPPED))
        rng, move = np.random.default_rng([seed, 2]), shifts(part.patterns[rows], unit.shape[2], seed + 1)
        for group, size in reduction.groups(kept, unit.shape[2]):
            p, points = plan(*reduction.gather(unit[group], slack[group], kept[group], size)), stop[rows][group]
            sampler = quadrature.PolytopeSampler(p, lookahead(p))
            for number in np.unique(points):
                index = np.flatnonzero(points == number)
                for some, y, log_w in quadrature.draws(sampler, index, 0, number, seed, True, move[group]):
                    z = _in_all_directions(y, torch.from_numpy(p.axes[some]), p.rank[some], rng)
                    weights = part.weight * (log_w.exp().numpy() / log_w.shape[2])
                    yield Draws(z, weights, *(array[group[some]] for array in maps))


def _in_all_directions(y, axes, rank, rng):
    """z (k, r, R, M) of points y (k, c, R, M) along axes (k, c, r), standard normal in other directions."""
    z = torch.einsum("kcrm,kcd->kdrm", y, axes)
    if (rank < z.shape[1]).any():
        noise = torch.from_numpy(rng.standard_normal(z.shape[1:]))
        along = torch.einsum("kcd,drm->kcrm", axes, noise)
        z += noise - torch.einsum("kcrm,kcd->kdrm", along, axes)
    return z.numpy()


def densities(draws: Draws, output: int, y: np.ndarray) -> np.ndarray:
    """Densities (K, R, m) of an output at rising y (m,): sums over each replicate's points, 0 where it is constant.

    Given the other coordinates, s = a z / |a| is standard normal on an interval; replacing the point by this law keeps
    every expectation and gives a density without a bandwidth: where y is between the ends of the interval, the weight
    times phi((y - b) / |a|) / |a|, divided by the probability that a standard normal is between them.
    """
    moving = np.flatnonzero(draws.A[:, output].any(axis=1))
    a, b, H, weights = draws.A[moving, output], draws.b[moving, output, None], draws.H[moving], draws.weights[moving]
    scale = np.hypot.reduce(a, axis=1)[:, None]
    count, replicates, size = weights.shape
    weights = weights.reshape(count, replicates * size)
    z = draws.z[moving].reshape(count, H.shape[2], replicates * size)
    s = ((a / scale)[:, None] @ z)[:, 0]
    slack = draws.h[moving, :, None] - H @ z
    along = H @ (a / scale)[:, :, None]
    flat = np.abs(along) <= 1e-13 * np.linalg.norm(H, axis=2, keepdims=True)
    reach = np.divide(slack, along, out=np.zeros_like(slack), where=~flat)
    high = s + np.where(~flat & (along > 0), reach, np.inf).min(axis=1, initial=np.inf)
    low = s + np.where(~flat & (along < 0), reach, -np.inf).max(axis=1, initial=-np.inf)
    inside = np.where(low > -high, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    density = np.divide(weights, inside, out=np.zeros_like(weights), where=inside > 0)
    # Each point's density is a step up at one end of its interval and a step down at the other.
    owner = (np.arange(count)[:, None] * replicates + np.repeat(np.arange(replicates), size)) * (len(y) + 1)
    steps = np.zeros(count * replicates * (len(y) + 1))
    for end, sign in ((low, 1.0), (high, -1.0)):
        place = owner + np.searchsorted(y, b + scale * end, side="left")
        steps += np.bincount(place.ravel(), (sign * density).ravel(), len(steps))
    steps = steps.reshape(count, replicates, len(y) + 1)[:, :, :-1].cumsum(axis=2)
    bell = np.exp(-(((y - b) / scale) ** 2) / 2) / (np.sqrt(2 * np.pi) * scale)
    result = np.zeros((len(draws.A), replicates, len(y)))
    result[moving] = steps * bell[:, None]
    return result
