"""The panels of the support figures: coverage against patterns and against seconds.

The search is blue, counting samples red, P1's pruning grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from rpa.companion.report import ANALYTIC, MONTE_CARLO, NEUTRAL

__all__ = ["curve_panel", "effort_panel", "name_methods"]


def curve_panel(ax: Axes, results: dict, network: str, max_patterns: int) -> None:
    """Mean coverage of the first k patterns: the search (lines), the last counted method (circles), pruning (grey).

    results: of `rpa.experiments.coverage.experiment`; one set of curves per noise level, named at its right end.
    """
    k = np.unique(np.geomspace(1, max_patterns, 60).astype(int))
    circle: dict[str, Any] = dict(markersize=3, fillstyle="none", markeredgewidth=0.8)
    ends = {}
    for sigma, images in ((sigma, images) for (name, sigma), images in results.items() if name == network):
        search, pruned, counted = (_mean(images, method, k) for method in ("search", "pruned", list(images[0])[-1]))
        ax.plot(k, pruned, color=NEUTRAL, linewidth=1.2)
        ax.plot(k, search, color=ANALYTIC, linewidth=1.2)
        ax.plot(k[::3], counted[::3], "o", color=MONTE_CARLO, **circle)
        ends[sigma] = search[-1]
    for sigma, height in _spread(ends, 0.075).items():
        ax.text(max_patterns * 1.15, height, f"{sigma:g}", color=ANALYTIC, va="center", fontsize=7)
    ax.set(xscale="log", xlim=(1, max_patterns), ylim=(-0.02, 1.04), xlabel="patterns $k$", title=network)


def _mean(images, method, k):
    """Mean over images of the coverage of the first k patterns, flat beyond the last one."""
    return np.mean([e[method].curve[np.minimum(k, len(e[method].curve)) - 1] for e in images], axis=0)


def _spread(ends, least):
    """Heights of labels, those of larger noise below, moved until neighbours differ by `least`."""
    floor, heights = -np.inf, {}
    for sigma in sorted(ends, reverse=True):
        floor = heights[sigma] = max(ends[sigma], floor + least)
    ceiling = 1.04 + least
    for sigma in sorted(ends):
        ceiling = heights[sigma] = min(heights[sigma], ceiling - least)
    return heights


def name_methods(ax: Axes) -> None:
    """Say which colour is which, in the upper left corner that coverage leaves free at high noise."""
    names = (("our search", ANALYTIC), ("commonest of the samples", MONTE_CARLO), ("P1's pruning", NEUTRAL))
    for place, (name, colour) in enumerate(names):
        ax.text(0.04, 0.93 - 0.085 * place, name, color=colour, fontsize=7, transform=ax.transAxes)


def effort_panel(ax: Axes, points: dict[str, np.ndarray], sizes: Sequence[int], draws: Sequence[int]) -> None:
    """Coverage against seconds of `rpa.experiments.coverage.efforts`, with the effort of the first and last point."""
    kinds = ("search", ANALYTIC, sizes, "patterns"), ("counted", MONTE_CARLO, draws, "samples")
    for name, colour, labels, unit in kinds:
        seconds, covered = points[name].T
        ax.plot(seconds, covered, "o-", color=colour, markersize=3)
        style: dict[str, Any] = dict(textcoords="offset points", color=colour, fontsize=7)
        first, last = zip(seconds[[0, -1]], covered[[0, -1]])
        ax.annotate(f"{labels[0]:,} {unit}", first, (4, -3), ha="left", va="top", **style)
        # The search ends to the left of the counts, and as high: its label is below both lines.
        place = dict(xytext=(6, -12), va="top") if name == "search" else dict(xytext=(0, 4))
        ax.annotate(f"{labels[-1]:,}", last, **place, **style)
    ax.set(xscale="log", xlabel="processor seconds")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.2)
    ax.set_ylim(0, 1.12 * ax.dataLim.y1)
