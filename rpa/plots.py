"""The panels that several figures share: an input law, a pattern PMF, an output CDF, a plane cut into regions.

Analytic results are blue lines or stems, Monte Carlo is red points on top, in every figure.
"""

import numpy as np

from rpa.inputs import components_of
from rpa.report import ANALYTIC, MONTE_CARLO, NEUTRAL

__all__ = ["density", "density_contours", "distribution_panel", "pmf_panel", "region_panel"]


def density(inputs, x):
    """Probability density of a non-singular Gaussian or mixture at points x (n, d)."""
    from scipy.stats import multivariate_normal

    return sum(w * multivariate_normal(part.mean, part.cov).pdf(x) for w, part in components_of(inputs))


def density_contours(ax, inputs, masses=(0.5, 0.9, 0.99), color="#222222"):
    """Contours of a planar density that hold the given probabilities, estimated from 20,000 draws."""
    draws = inputs.sample(20_000, 0)
    levels = np.quantile(density(inputs, draws), 1 - np.sort(masses)[::-1])
    low, high = draws.min(axis=0), draws.max(axis=0)
    xs, ys = (np.linspace(a - 0.3, b + 0.3, 200) for a, b in zip(low, high))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    values = density(inputs, grid.reshape(-1, 2)).reshape(200, 200)
    ax.contour(xs, ys, values, levels=levels, colors=color, linewidths=0.8)


def pmf_panel(ax, pmf, frequencies, floor=1e-3):
    """Stems of the analytic PMF over the decimal labels, and red circles where sampling puts them; p >= floor only."""
    shown = pmf.p >= floor
    labels = np.array([float(name) for name in pmf.labels])[shown]
    ax.vlines(labels, 0, pmf.p[shown], color=ANALYTIC, linewidth=1.4)
    ax.plot(labels, frequencies[shown], "o", color=MONTE_CARLO, markersize=3.6, fillstyle="none", markeredgewidth=0.9)
    ax.set_xlim(-0.03 * 2.0**pmf.net.n_hidden, 1.03 * 2.0**pmf.net.n_hidden)
    ax.set_ylim(0, None)


def distribution_panel(ax, y, cdf, samples, shown=25):
    """The analytic CDF as a line and the empirical one at `shown` quantiles as circles."""
    ax.plot(y, cdf, color=ANALYTIC)
    share = (np.arange(shown) + 0.5) / shown
    ax.plot(np.quantile(samples, share), share, "o", color=MONTE_CARLO, markersize=3.6, fillstyle="none", markeredgewidth=0.9)
    ax.set_ylim(-0.02, 1.02)


def region_panel(ax, regions, values, cmap, window):
    """Fill the planar regions of a network with colours by `values` in [0, 1], inside window = (x0, x1, y0, y1)."""
    import matplotlib.pyplot as plt
    from matplotlib.collections import PolyCollection

    corners = [regions.vertices(i) for i in range(len(regions.patterns))]
    colours = plt.get_cmap(cmap)(values)
    ax.add_collection(PolyCollection(corners, facecolors=colours, edgecolors="white", linewidths=0.5))
    ax.set(xlim=window[:2], ylim=window[2:], aspect="equal")
    ax.tick_params(color=NEUTRAL)
