"""Weighted points in the regions of a network: every functional of the output law is a weighted sum over them.

A region's points come from the proposals of its probability, so that a region far in the tail has as many as it needs.
One replicate has points of all regions; the scatter of a functional over the independent replicates is its error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

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
    """Yields `Draws` of all regions of positive probability of one component, the same for the same seed."""
    share = np.exp(part.log_p - np.logaddexp.reduce(part.log_p))
    stop = 2.0 ** np.rint(np.log2(np.clip(TOTAL * share / quadrature.REPLICATES, FEWEST, MOST)))
    for rows, H, h, A, b in part.blocks():
        for draws in _block((H, h, A, b), part.patterns[rows], part.log_p[rows], stop[rows].astype(int), seed):
            yield replace(draws, weights=part.weight * draws.weights)


def _block(maps, patterns, log_p, stop, seed):
    unit, slack, _ = reduction.unit_rows(*maps[:2])
    kept, _ = reduction.uncertain(slack, log_p + np.log(DROPPED))
    rng, move = np.random.default_rng([seed, 2]), shifts(patterns, unit.shape[2], seed + 1)
    for group, size in reduction.groups(kept, unit.shape[2]):
        group = group[np.isfinite(log_p[group])]
        p = plan(*reduction.gather(unit[group], slack[group], kept[group], size))
        sampler = quadrature.PolytopeSampler(p, lookahead(p))
        for points in np.unique(stop[group]):
            index = np.flatnonzero(stop[group] == points)
            for part, z, weights in _points(sampler, p, index, points, move[group], unit.shape[2], seed, rng):
                at = group[part]
                yield Draws(z, weights, *(array[at] for array in maps))


def _points(sampler, p, index, points, move, r, seed, rng):
    """(part of index, z (k, r, R, M), weights (k, R, M)): points of the plan, and normal draws in other directions."""
    for part, y, log_w in quadrature.draws(sampler, index, 0, points, seed, True, move):
        axes = torch.from_numpy(p.axes[part])
        shape = (r, quadrature.REPLICATES, log_w.shape[2])
        z = torch.einsum("kcrm,kcd->kdrm", y, axes)
        if (p.rank[part] < r).any():
            noise = torch.from_numpy(rng.standard_normal(shape))
            along = torch.einsum("kcd,drm->kcrm", axes, noise)
            z += noise - torch.einsum("kcrm,kcd->kdrm", along, axes)
        yield part, z.numpy(), log_w.exp().numpy() / log_w.shape[2]


@dataclass(frozen=True, eq=False)
class Line:
    """Where lines through points, along the gradient of an output, lie inside their region, in values of that output.

    low, high: their ends; density: weight / P(the standard normal is between the ends): the density of the output at y
    between the ends is density * phi((y - b) / size) / size; size (K,), b (K,): of the region.
    """

    low: np.ndarray
    high: np.ndarray
    density: np.ndarray
    size: np.ndarray
    b: np.ndarray

    def bell(self, y: np.ndarray) -> np.ndarray:
        """Density (K, m) of N(b, size^2) at y (m,)."""
        size = self.size[:, None]
        return np.exp(-(((y - self.b[:, None]) / size) ** 2) / 2) / (np.sqrt(2 * np.pi) * size)


def line(draws: Draws, output: int) -> Line:
    """The `Line` of output A z + b through each point of regions on which it is not constant.

    Given the other coordinates, s = a z / |a| is standard normal on an interval; replacing the point by this law keeps
    every expectation and gives a density without a bandwidth.
    """
    a, b = draws.A[:, output], draws.b[:, output]
    size = np.hypot.reduce(a, axis=1)
    count, r, *others = draws.z.shape
    z = draws.z.reshape(count, r, prod(others))
    s = (a / size[:, None])[:, None] @ z
    slack = draws.h[:, :, None] - draws.H @ z
    along = draws.H @ (a / size[:, None])[:, :, None]
    flat = np.abs(along) <= 1e-13 * np.linalg.norm(draws.H, axis=2, keepdims=True)
    reach = np.divide(slack, along, out=np.zeros_like(slack), where=~flat)
    high = s[:, 0] + np.where(~flat & (along > 0), reach, np.inf).min(axis=1, initial=np.inf)
    low = s[:, 0] + np.where(~flat & (along < 0), reach, -np.inf).max(axis=1, initial=-np.inf)
    inside = np.where(low > -high, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    weights = draws.weights.reshape(count, prod(others))
    density = np.divide(weights, inside, out=np.zeros_like(weights), where=inside > 0)
    scale, offset = size[:, None], b[:, None]
    return Line(offset + scale * low, offset + scale * high, density, size, b)
