"""The panels that several figures share: an input law, a pattern PMF, an output CDF, a plane cut into regions.

Analytic results are blue lines or stems, Monte Carlo is red points on top, in every figure.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from rpa.companion.report import ANALYTIC, MONTE_CARLO, NEUTRAL
from rpa.inputs import RandomInput
from rpa.network import ReLUNetwork
from rpa.patterns.regions import PlanarRegions

Window = tuple[float, float, float, float]  # left, right, bottom, top
CIRCLE: dict[str, Any] = dict(markersize=3.2, fillstyle="none", markeredgewidth=0.8)


def density_contours(ax: Axes, inputs: RandomInput) -> None:
    """Contours of a planar density that hold 50, 90 and 99 % of it, estimated from 20,000 draws."""
    draws = inputs.sample(20_000, 0)
    levels = np.quantile(inputs.logpdf(draws), [0.01, 0.1, 0.5])
    low, high = draws.min(axis=0), draws.max(axis=0)
    xs, ys = (np.linspace(a - 0.3, b + 0.3, 200) for a, b in zip(low, high))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    values = inputs.logpdf(grid.reshape(-1, 2)).reshape(200, 200)
    ax.contour(xs, ys, values, levels=levels, colors="#222222", linewidths=0.8)


def name_both(ax: Axes, top: bool = False) -> None:
    """Say which colour is which, in the lower right corner that a distribution function leaves free, or above."""
    for height, name, colour in ((0.18, "analytic", ANALYTIC), (0.06, "Monte Carlo", MONTE_CARLO)):
        ax.text(0.98, height + 0.7 * top, name, color=colour, ha="right", va="bottom", transform=ax.transAxes)


def moons_panel(ax: Axes, net: ReLUNetwork, x: np.ndarray, y: np.ndarray, inputs: RandomInput, window: Window) -> None:
    """Two classes of planar points, the line where a one-output network is zero, and the contours of the input law."""
    for label, colour in ((0, "#7fa8d6"), (1, "#e8a35a")):
        ax.plot(*x[y == label].T, ".", color=colour, markersize=2.5)
    xs, ys = np.linspace(*window[:2], 301), np.linspace(*window[2:], 231)
    field = net(np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)).reshape(len(ys), len(xs))
    ax.contour(xs, ys, field, levels=[0], colors="black", linewidths=1.2)
    density_contours(ax, inputs)
    ax.set(xlim=window[:2], ylim=window[2:], aspect="equal")


def steps(ax: Axes, values: np.ndarray, p: np.ndarray, counts: np.ndarray, alpha: float = 1.0) -> None:
    """Distribution functions of a discrete law on the atoms `values` (K,): analytic as steps, sampled as circles.

    p, counts (K,): computed probabilities and sampled counts, both normalized here; 12 circles at even levels.
    """
    order = np.argsort(values)
    at, computed, sampled = values[order], np.cumsum(p[order]) / p.sum(), np.cumsum(counts[order]) / counts.sum()
    ax.step(np.append(at[0], at), np.append(0.0, computed), where="post", color=ANALYTIC, alpha=alpha)
    picks = np.searchsorted(sampled, (np.arange(12) + 0.5) / 12)
    ax.plot(at[picks], sampled[picks], "o", color=MONTE_CARLO, alpha=alpha, **CIRCLE)
    ax.set_ylim(-0.02, 1.02)


def histogram_panel(ax: Axes, values: np.ndarray, p: np.ndarray, counts: np.ndarray) -> None:
    """Histograms of two discrete laws on the same atoms `values` (K, r), all r entries together.

    p, counts (K,): computed probabilities (blue) and sampled counts (red outline), both normalized here.
    """
    edges = np.linspace(values.min(), values.max(), 41)
    computed, sampled = (
        np.histogram(values.ravel(), edges, weights=np.repeat(part / part.sum(), values.shape[1]) / values.shape[1])[0]
        for part in (p, counts)
    )
    ax.stairs(computed, edges, fill=True, color=ANALYTIC, alpha=0.75)
    ax.stairs(sampled, edges, color=MONTE_CARLO, linewidth=1.0)
    ax.set_ylim(0, None)


def region_panel(ax: Axes, regions: PlanarRegions, values: np.ndarray, cmap: str, window: Window) -> None:
    """Fill the planar regions of a network with pale colours by `values` in [0, 1]."""
    corners = [regions.vertices(i) for i in range(len(regions.patterns))]
    colours = 1 - 0.55 * (1 - plt.get_cmap(cmap)(values))
    ax.add_collection(PolyCollection(corners, facecolors=colours, edgecolors="white", linewidths=0.5))
    ax.set(xlim=window[:2], ylim=window[2:], aspect="equal")
    ax.tick_params(color=NEUTRAL)
