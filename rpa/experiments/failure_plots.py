"""The panels of notebook 13: probability against distance, most likely failures, and fragile images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.special import log_ndtr

from rpa.companion.report import ANALYTIC, MONTE_CARLO, NEUTRAL
from rpa.reliability.result import FailureProbability

__all__ = ["distance_panel", "failure_row", "picture", "ranking_panel"]

MARKERS = "os^"  # one for each network of a panel
SIGHT = -6  # log10 p at which a million samples see one failure


def distance_panel(ax: Axes, table: pd.DataFrame, title: str) -> None:
    """log10 p against beta, the distance of the nearest failing input in standard deviations of the noise.

    table: columns network, beta, log10_p, converged, count, n_sampled. A mark is hollow where the result has not
    converged; red circles are shares of plain samples. The grey line is Phi(-beta): a failure set that is a half-space.
    """
    for marker, (name, of_network) in zip(MARKERS, table.groupby("network", sort=False)):
        style: dict[str, Any] = dict(color=ANALYTIC, markersize=3.5, markeredgewidth=0.8)
        for kept, fill in ((of_network.converged, ANALYTIC), (~of_network.converged, "white")):
            label = name if fill == ANALYTIC else None
            part = of_network[kept]
            ax.plot(part.beta, part.log10_p, marker, markerfacecolor=fill, linestyle="", label=label, **style)
    seen = table[table["count"] > 0]
    share = np.log10(seen["count"] / seen.n_sampled)
    ax.plot(seen.beta, share, "o", color=MONTE_CARLO, fillstyle="none", markersize=6.5, markeredgewidth=0.9)
    beta = np.linspace(0, table.beta.max() + 0.5, 100)
    ax.plot(beta, log_ndtr(-beta) / np.log(10), color=NEUTRAL, linewidth=0.8, zorder=0)
    ax.set(title=title, xlabel=r"distance $\beta$ of the nearest failure, in $\sigma$")
    ax.legend(loc="lower left", handlelength=1)


def picture(ax: Axes, image: np.ndarray, title: str, colour: str = "black", signed: bool = False) -> None:
    """A 28 x 28 image with words above it: grey on the scale 0..1, or a difference with 0 in white."""
    reach = np.abs(image).max()
    style: dict[str, Any] = dict(cmap="gray_r", vmin=0, vmax=1)
    if signed:
        style = dict(cmap="RdBu_r", vmin=-reach, vmax=reach)
    ax.imshow(image.reshape(28, 28), **style)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=7, color=colour, pad=2)


def failure_row(axes: Any, title: str, image: np.ndarray, result: FailureProbability, names: Sequence[str]) -> None:
    """An image, and for the nearest rival classes what the most likely failing image adds to it, and its distance."""
    picture(axes[0], image, title)
    for ax in axes[1:]:
        ax.set_axis_off()
    for ax, point in zip(axes[1:], result.design_points):
        ax.set_axis_on()
        words = f"{names[point.rival]}\n{point.distance:.1f}$\\sigma$"
        picture(ax, np.ravel(point.x) - image.ravel(), words, MONTE_CARLO, signed=True)


def ranking_panel(ax: Axes, log10_p: np.ndarray, measured: pd.DataFrame) -> None:
    """First-order log10 p of all images, the most fragile first, and points where the accurate value is known.

    measured: columns rank, log10_p. Below the dotted line a million samples see less than one failure.
    """
    ax.plot(np.arange(1, len(log10_p) + 1), log10_p, color=NEUTRAL, linewidth=1.2, label="first order")
    ax.plot(measured["rank"], measured.log10_p, "o", color=ANALYTIC, markersize=2.5, fillstyle="none", label="accurate")
    ax.legend(loc="lower left")
    ax.axhline(SIGHT, color=MONTE_CARLO, linewidth=0.8, linestyle=":")
    place: dict[str, Any] = dict(textcoords="offset points", va="top", color=MONTE_CARLO, fontsize=8)
    ax.annotate("one in a million", (1, SIGHT), (2, -2), **place)
    ax.set(xlabel="images, the most fragile first", ylabel=r"$\log_{10} p$")
