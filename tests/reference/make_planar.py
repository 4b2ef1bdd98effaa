"""Probabilities of planar regions by mpmath, for test_pmf: run `python tests/reference/make_planar.py` from the root.

Each region's polygon is rebuilt in 50-digit arithmetic from the network's own numbers: all corners of pairs of rows
that satisfy the others, then the density of the input integrated over strips between corners, whatever the covariance.
"""

import itertools
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


def corners(rows, limits):
    """Vertices of {rows z <= limits} by brute force over pairs of rows."""
    found = []
    for i, j in itertools.combinations(range(len(rows)), 2):
        det = rows[i][0] * rows[j][1] - rows[i][1] * rows[j][0]
        if det == 0:
            continue
        x = (limits[i] * rows[j][1] - limits[j] * rows[i][1]) / det
        y = (rows[i][0] * limits[j] - rows[j][0] * limits[i]) / det
        if all(r[0] * x + r[1] * y <= c + mp.mpf("1e-40") for r, c in zip(rows, limits)):
            found.append((x, y))
    return found


def probability(H, h, gaussian):
    """P(H x <= h) after x = mean + L z with an exact 2 x 2 Cholesky factor L."""
    (a, b), (_, d) = ([mp.mpf(float(v)) for v in row] for row in gaussian.cov)
    l11 = mp.sqrt(a)
    l21 = b / l11
    l22 = mp.sqrt(d - l21**2)
    mean = [mp.mpf(float(v)) for v in gaussian.mean]
    rows, limits = [], []
    for (p, q), c in zip(H, h):
        p, q, c = mp.mpf(float(p)), mp.mpf(float(q)), mp.mpf(float(c))
        rows.append((p * l11 + q * l21, q * l22))
        limits.append(c - p * mean[0] - q * mean[1])
    for sign in (1, -1):
        rows += [(mp.mpf(sign), mp.mpf(0)), (mp.mpf(0), mp.mpf(sign))]
        limits += [mp.mpf(40), mp.mpf(40)]
    xs = sorted({x for x, _ in corners(rows, limits)})

    def slice_mass(x):
        up = min((c - r[0] * x) / r[1] for r, c in zip(rows, limits) if r[1] > 0)
        low = max((c - r[0] * x) / r[1] for r, c in zip(rows, limits) if r[1] < 0)
        if up <= low:
            return mp.mpf(0)
        if low + up > 0:
            low, up = -up, -low
        return mp.npdf(x) * (mp.ncdf(up) - mp.ncdf(low))

    grid = [x0 + (x1 - x0) * k / n for x0, x1 in zip(xs, xs[1:]) for n in [int(mp.ceil(x1 - x0)) + 1] for k in range(n)]
    return mp.quad(slice_mass, [*grid, xs[-1]])


def main():
    records = []
    for sizes, seed in CASES:
        net, gaussian = random_network(sizes, seed), random_gaussian(2, seed, spread=2.0)
        regions = planar_regions(net, gaussian)
        for level in LEVELS:
            i = int(np.argmin(np.abs(regions.log_p - np.log(level))))
            region = region_of(net, regions.patterns[i])
            value = probability(region.H, region.h, gaussian)
            records.append(
                {"sizes": sizes, "seed": seed, "label": str(region.label), "log_p": mp.nstr(mp.log(value), 25)}
            )
            print(records[-1], float(mp.log(value)) - regions.log_p[i], regions.rel_error[i])
    path = pathlib.Path(__file__).with_name("planar.json")
    path.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
