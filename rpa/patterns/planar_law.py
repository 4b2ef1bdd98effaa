"""The output law of a network whose input has rank two at most: every functional as a sum over polygons, exactly.

A distribution function cuts each region by one more half-plane, a class probability by k - 1; a density is a
probability on a line. Nothing is sampled; the errors are those of rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rpa.patterns.pieces import Pieces
from rpa.polytopes import planar
from rpa.polytopes.polytope import probabilities

CUTS_AT_ONCE = 20_000
PERPENDICULAR = 1e-13  # relative length of a row's part along a level line, below which the row is perpendicular to it
ENDS = 1e-15  # rounding of the ends of a region's outputs, relative to their size
LEVEL_ROUNDING = 2 * np.finfo(float).eps  # of a sum or a product, relative to the size of its terms
EXACT = 1e-13  # rtol: far below any error of a planar probability, so that no row is left out as nearly certain


def cdf(pieces: tuple[Pieces, ...], y: np.ndarray, output: int) -> Any:
    """P(f(x)[output] <= y) at y (m,) and its error (m,): of each region whole below a threshold, or cut by it."""
    value, error = np.zeros((2, len(y)))
    for part in pieces:
        for rows, _, _, A, b in part.blocks():
            low, high = output_range(part, rows, A, b, output)
            p, whole = part.weight * np.exp(part.log_p[rows]), high[:, None] <= y
            value += p @ whole
            error += (p * part.rel_error[rows]) @ whole
            for i, j in _pairs((low[:, None] <= y) & ~whole):
                limits = (y[j] - b[i, output])[:, None]
                mass, mass_error = _cut_mass(part.polygons[rows][i], A[i, output, None], limits)
                value += np.bincount(j, part.weight * mass, len(y))
                error += np.bincount(j, part.weight * mass_error, len(y))
    return value, error


def pdf(pieces: tuple[Pieces, ...], y: np.ndarray, output: int) -> Any:
    """Density of f(x)[output] at y (m,), atoms left out, and its error (m,); regions whose outputs end at y give none.

    On a region with output a z + b the scalar s = a z is N(0, |a|^2): its density at y - b, times the probability
    of the region given a z = y - b, an interval.
    """
    value, error = np.zeros((2, len(y)))
    for part in pieces:
        for rows, H, h, A, b in part.blocks():
            low, high = output_range(part, rows, A, b, output)
            scale = np.hypot.reduce(A[:, output], axis=1)
            # At an end of a region's outputs, where the density may jump, rounding must not decide.
            moved = ENDS * (np.abs(b[:, output]) + 10 * scale)
            for i, j in _pairs(((low + moved)[:, None] < y) & (y < (high - moved)[:, None])):
                direction = A[i, output] / scale[i, None]
                across = np.stack([-direction[:, 1], direction[:, 0]], axis=1)
                level = (y[j] - b[i, output]) / scale[i]
                limits = h[i] - (H[i] @ direction[..., None])[..., 0] * level[:, None]
                within = H[i] @ across[..., None]
                # A row along the direction has nothing left but rounding, which must not decide anything.
                within[np.linalg.norm(within, axis=2) <= PERPENDICULAR * np.linalg.norm(H[i], axis=2)] = 0.0
                log_p, rel_error = probabilities(within, limits, rtol=EXACT)
                density = part.weight * np.exp(log_p - level**2 / 2) / (np.sqrt(2 * np.pi) * scale[i])
                rounding = LEVEL_ROUNDING * (1.0 + np.abs(level) * (np.abs(y[j]) + np.abs(b[i, output])) / scale[i])
                value += np.bincount(j, density, len(y))
                error += np.bincount(j, density * (rel_error + rounding), len(y))
    return value, error


def _pairs(chosen: np.ndarray) -> Iterator:
    """Yields the indices (i, j) of the true entries of a matrix, so many at once."""
    i, j = np.nonzero(chosen)
    for start in range(0, len(i), CUTS_AT_ONCE):
        yield i[start : start + CUTS_AT_ONCE], j[start : start + CUTS_AT_ONCE]


def output_range(part: Pieces, rows: slice, A: np.ndarray, b: np.ndarray, output: int) -> Any:
    """Bounds (low, high), each (K,), of an output on each polygon; equal where it is constant."""
    values = (part.polygons.vertices[rows] @ A[:, output, :, None])[..., 0] + b[:, output, None]
    used = part.polygons.used[rows]
    return np.where(used, values, np.inf).min(axis=1), np.where(used, values, -np.inf).max(axis=1)


def _cut_mass(polygons, rows, limits):
    """Probability (P,) and its error of the part of each polygon on which rows (P, m, 2) z <= limits (P, m)."""
    norm = np.hypot.reduce(rows, axis=2)  # neither under- nor overflows
    dead = norm == 0
    norm[dead] = 1.0
    limits = np.where(dead & (limits >= 0), 1.0, limits / norm)
    for line in np.moveaxis(np.concatenate([rows / norm[:, :, None], limits[:, :, None]], axis=2), 1, 0):
        polygons = planar.clip(polygons, line)
    log_p, rel_error, _ = planar.polygon_log_mass(polygons)
    return np.exp(log_p), np.exp(log_p) * rel_error


def two_moments(pieces: tuple[Pieces, ...], centre: np.ndarray) -> Any:
    """Mean (k,) and second moment (k, k) of f(x) - centre, the sums over regions of p E[A z + b'] and
    p E[(A z + b')(A z + b')^T] with b' = b - centre, and the sum of the errors of p.
    """
    k = len(centre)
    mean, second, error = np.zeros(k), np.zeros((k, k)), 0.0
    for part in pieces:
        first, cross = planar.polygon_moments(part.polygons, part.log_p)
        p = part.weight * np.exp(part.log_p)
        error += p @ part.rel_error
        for rows, _, _, A, b in part.blocks():
            b = b - centre
            moved = (A @ first[rows, :, None])[..., 0]
            mean += p[rows] @ (moved + b)
            both = b[:, :, None] * moved[:, None, :]
            square = A @ cross[rows] @ A.transpose(0, 2, 1) + b[:, :, None] * b[:, None, :]
            second += np.tensordot(p[rows], square + both + both.transpose(0, 2, 1), 1)
    return mean, second, error


def class_masses(pieces: tuple[Pieces, ...], classes: int) -> Any:
    """P(argmax f(x) = c) and its error, each (classes,). A single output is a logit: that of class 1, 0 of class 0."""
    mass, error = np.zeros((2, classes))
    for part in pieces:
        for rows, _, _, A, b in part.blocks():
            missing = (classes - A.shape[1], 0)
            A, b = np.pad(A, ((0, 0), missing, (0, 0))), np.pad(b, ((0, 0), missing))
            for c in range(classes):
                p, p_error = _cut_mass(part.polygons[rows], *wins(A, b, c))
                mass[c] += part.weight * p.sum()
                error[c] += part.weight * p_error.sum()
    return mass, error


def wins(A: np.ndarray, b: np.ndarray, c: int) -> Any:
    """Half-spaces (rows (K, k-1, r), limits (K, k-1)) on which output c of A z + b wins, the first of equal ones."""
    others = np.delete(np.arange(A.shape[1]), c)
    rows, limits = A[:, others] - A[:, [c]], b[:, [c]] - b[:, others]
    tie_lost = (np.abs(rows).max(axis=2) == 0) & (limits == 0) & (others < c)
    return rows, np.where(tie_lost, -1.0, limits)
