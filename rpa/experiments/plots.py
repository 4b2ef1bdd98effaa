"""The panels that several figures share: an input law, a pattern PMF, an output CDF, a plane cut into regions.

Analytic results are blue lines or stems, Monte Carlo is red points on top, in every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rpa.companion.report import ANALYTIC, MONTE_CARLO, NEUTRAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rpa.inputs import RandomInput
    from rpa.network import ReLUNetwork
    from rpa.patterns.regions import PlanarRegions


__all__ = [
    "density_contours",
    "histogram_panel",
    "moons_panel",
    "name_both",
    "quantile_circles",
    "region_panel",
    "spectrum_panel",
    "step_band",
]

SAMPLED_OUTLINE = "#e08a1e"  # P1 draws sampled histograms in orange


def density_contours(
    ax: Axes, inputs: RandomInput, masses: Sequence[float] = (0.5, 0.9, 0.99), color: str = "#222222"
) -> None:
    """Contours of a planar density that hold the given probabilities, estimated from 20,000 draws."""
    draws = inputs.sample(20_000, 0)
    levels = np.quantile(inputs.logpdf(draws), 1 - np.sort(masses)[::-1])
    low, high = draws.min(axis=0), draws.max(axis=0)
    xs, ys = (np.linspace(a - 0.3, b + 0.3, 200) for a, b in zip(low, high))
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    values = inputs.logpdf(grid.reshape(-1, 2)).reshape(200, 200)
    ax.contour(xs, ys, values, levels=levels, colors=color, linewidths=0.8)


def name_both(ax: Axes) -> None:
    """Say which colour is which, in the lower right corner that a distribution function leaves free."""
    for height, name, colour in ((0.18, "analytic", ANALYTIC), (0.06, "Monte Carlo", MONTE_CARLO)):
        ax.text(0.98, height, name, color=colour, ha="right", va="bottom", transform=ax.transAxes)


def moons_panel(
    ax: Axes,
    net: ReLUNetwork,
    x: np.ndarray,
    y: np.ndarray,
    inputs: RandomInput,
    window: tuple[float, float, float, float],
) -> None:
    """Two classes of planar points, the line where a one-output network is zero, and the contours of the input law."""
    for label, colour in ((0, "#7fa8d6"), (1, "#e8a35a")):
        ax.plot(*x[y == label].T, ".", color=colour, markersize=2.5)
    xs, ys = np.linspace(*window[:2], 301), np.linspace(*window[2:], 231)
    field = net(np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)).reshape(len(ys), len(xs))
    ax.contour(xs, ys, field, levels=[0], colors="black", linewidths=1.2)
    density_contours(ax, inputs)
    ax.set(xlim=window[:2], ylim=window[2:], aspect="equal")


def step_band(ax: Axes, values: np.ndarray, p: np.ndarray, uncovered: float, alpha: float = 1.0) -> None:
    """The distribution function of a discrete law known up to `uncovered`: its lower bound, and a band above it."""
    order = np.argsort(values)
    steps = np.concatenate([[0.0], np.cumsum(p[order])])
    at = np.concatenate([values[order][:1], values[order]])
    ax.step(at, steps, where="post", color=ANALYTIC, alpha=alpha)
    ax.fill_between(
        at, steps, np.minimum(steps + uncovered, 1), step="post", color=ANALYTIC, alpha=0.2 * alpha, linewidth=0
    )
    ax.set_ylim(-0.02, 1.02)


def histogram_panel(
    ax: Axes, values: np.ndarray, p: np.ndarray, sampled: np.ndarray, frequencies: np.ndarray, bins: int = 40
) -> None:
    """Histograms of two discrete laws of vectors, all entries together: computed (blue) and sampled (orange outline).

    values (K, r) with probabilities p (K,), sampled (U, r) with frequencies (U,); each entry counts 1 / r.
    """
    edges = np.linspace(min(values.min(), sampled.min()), max(values.max(), sampled.max()), bins + 1)
    heights = []
    for points, mass in ((values, p), (sampled, frequencies)):
        weights = np.repeat(mass / points.shape[1], points.shape[1])
        heights.append(np.histogram(points.ravel(), edges, weights=weights)[0])
    ax.stairs(heights[0], edges, fill=True, color=ANALYTIC, alpha=0.75)
    ax.stairs(heights[1], edges, color=SAMPLED_OUTLINE, linewidth=1.2)
    ax.set_ylim(0, None)


def quantile_circles(ax: Axes, values: np.ndarray, frequencies: np.ndarray, column: int = 0, shown: int = 12) -> None:
    """Red circles where the samples' distribution function reaches `shown` even levels."""
    order = np.argsort(values[:, column])
    total = np.cumsum(frequencies[order])
    picks = np.searchsorted(total, (np.arange(shown) + 0.5) / shown)
    ax.plot(
        values[order, column][picks],
        total[picks],
        "o",
        color=MONTE_CARLO,
        markersize=3.2,
        fillstyle="none",
        markeredgewidth=0.8,
    )


def spectrum_panel(
    ax: Axes,
    spectrum: tuple[np.ndarray, np.ndarray],
    sampled: tuple[np.ndarray, np.ndarray],
    levels: Sequence[float] = (0.05, 0.5, 0.95),
) -> None:
    """Quantiles of each singular value: analytic as ticks on a bar, sampled as circles; pairs (values (K, r), p
    (K,)).
    """
    quantiles = []
    for values, p in (spectrum, sampled):
        order = np.argsort(values, axis=0)
        total = np.cumsum(p[order], axis=0) / p.sum()
        picks = [[np.searchsorted(column, level) for column in total.T] for level in levels]
        quantiles.append(np.take_along_axis(np.take_along_axis(values, order, axis=0), np.array(picks), axis=0))
    index = np.arange(1, quantiles[0].shape[1] + 1)
    ax.vlines(index, quantiles[0][0], quantiles[0][-1], color=ANALYTIC)
    for row, sample in zip(*quantiles):
        ax.plot(index, row, "_", color=ANALYTIC, markersize=9, markeredgewidth=1.3)
        ax.plot(index, sample, "o", color=MONTE_CARLO, markersize=3.6, fillstyle="none", markeredgewidth=0.9)


def region_panel(
    ax: Axes, regions: PlanarRegions, values: np.ndarray, cmap: str, window: tuple[float, float, float, float]
) -> None:
    """Fill the planar regions of a network with pale colours by `values` in [0, 1], inside window = (x0, x1, y0,
    y1).
    """
    import matplotlib.pyplot as plt
    from matplotlib.collections import PolyCollection

    corners = [regions.vertices(i) for i in range(len(regions.patterns))]
    colours = 1 - 0.55 * (1 - plt.get_cmap(cmap)(values))
    ax.add_collection(PolyCollection(corners, facecolors=colours, edgecolors="white", linewidths=0.5))
    ax.set(xlim=window[:2], ylim=window[2:], aspect="equal")
    ax.tick_params(color=NEUTRAL)
