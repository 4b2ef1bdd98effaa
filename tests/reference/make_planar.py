"""Probabilities of planar regions by mpmath, for test_pmf: run `python tests/reference/make_planar.py` from the root.

Each region's polygon is rebuilt in 50-digit arithmetic from the network's own numbers: all corners of pairs of rows
that satisfy the others, then the density of the input integrated over strips between corners, whatever the covariance.
"""

import json
import pathlib
import sys

import mpmath as mp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from helpers import random_gaussian, random_network

from rpa.patterns.regions import planar_regions, region_of

mp.mp.dps = 50
CASES = [((2, 8, 1), 0), ((2, 6, 6, 1), 1), ((2, 10, 5, 1), 2), ((2, 16, 16, 1), 3)]
LEVELS = [1e-3, 1e-8, 1e-12, 1e-16, 1e-20]
exact = np.vectorize(mp.mpf, otypes=[object])


def corners(rows, limits):
    """First coordinates of the vertices of {rows z <= limits}, by brute force over pairs of rows, in order."""
    i, j = np.triu_indices(len(rows), 1)
    det = rows[i, 0] * rows[j, 1] - rows[i, 1] * rows[j, 0]
    i, j, det = i[det != 0], j[det != 0], det[det != 0]
    x = (limits[i] * rows[j, 1] - limits[j] * rows[i, 1]) / det
    y = (rows[i, 0] * limits[j] - rows[j, 0] * limits[i]) / det
    return np.unique(x[(rows @ [x, y] <= limits[:, None] + mp.mpf("1e-40")).all(axis=0)])


def probability(H, h, gaussian):
    """P(H x <= h) after x = mean + L z with an exact 2 x 2 Cholesky factor L; z in a square of half-width 40."""
    H, h, mean, ((a, b), (_, d)) = (exact(each) for each in (H, h, gaussian.mean, gaussian.cov))
    factor = np.array([[mp.sqrt(a), 0], [b / mp.sqrt(a), mp.sqrt(d - b**2 / a)]])
    rows = np.vstack([H @ factor, exact(np.eye(2)), exact(-np.eye(2))])
    limits = np.append(h - H @ mean, exact(np.full(4, 40)))

    def slice_mass(x):
        up = min((c - p * x) / q for (p, q), c in zip(rows, limits) if q > 0)
        low = max((c - p * x) / q for (p, q), c in zip(rows, limits) if q < 0)
        if up <= low:
            return mp.mpf(0)
        if low + up > 0:
            low, up = -up, -low
        return mp.npdf(x) * (mp.ncdf(up) - mp.ncdf(low))

    xs = corners(rows, limits)
    grid = [x0 + (x1 - x0) * k / n for x0, x1 in zip(xs, xs[1:]) for n in [int(mp.ceil(x1 - x0)) + 1] for k in range(n)]
    return mp.quad(slice_mass, [*grid, xs[-1]])


if __name__ == "__main__":
    records = []
    for sizes, seed in CASES:
        net, gaussian = random_network(sizes, seed), random_gaussian(2, seed, spread=2.0)
        regions = planar_regions(net, gaussian)
        for level in LEVELS:
            i = np.abs(regions.log_p - np.log(level)).argmin()
            region = region_of(net, regions.patterns[i])
            log_p = mp.log(probability(region.H, region.h, gaussian))
            records.append({"sizes": sizes, "seed": seed, "label": str(region.label), "log_p": mp.nstr(log_p, 25)})
            print(records[-1], float(log_p) - regions.log_p[i], regions.rel_error[i])
    pathlib.Path(__file__).with_name("planar.json").write_text(json.dumps(records, indent=1) + "\n")
