"""The experiment of notebook 13: failure probabilities against noise, their references, and what each costs.

`curve` estimates P(class changes) at noise levels that reach from frequent to unseen failures. Four references check
it: plain sampling where failures are frequent, `rpa.reliability.splitting` below that, `exact_case`, whose answer is
known however small it is, and the failing pieces of `rpa.reliability.certified`.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from scipy.linalg import block_diag
from scipy.special import log_ndtr, ndtri
from scipy.stats import ortho_group
from torch import nn

from rpa.companion.report import ANALYTIC, MONTE_CARLO, NEUTRAL
from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.reliability.certified import failing_patterns
from rpa.reliability.design import nearest
from rpa.reliability.event import events
from rpa.reliability.failure import failure_probability
from rpa.reliability.result import FailureProbability

LEAST_EXPECTED = 10  # failures that must be expected among the samples for them to be a reference
INPUTS_IN_BATCH = 20_000
MARKERS = "os^"  # one for each network of a panel
SIGHT = -6  # log10 p at which a million samples see one failure
RADII = (0.01, 1.0, 1.0, 4.0, 4.0, 8.0)  # standard deviations of the starts of a search, in those of the noise


def right_images(net: ReLUNetwork | nn.Module, x: np.ndarray, labels: np.ndarray, n: int) -> list[int]:
    """The first n of the leading 1,000 images that the network gets right; x (m, ...) as it takes them, labels (m,)."""
    many = x[:1000]
    f = net(many) if isinstance(net, ReLUNetwork) else net(torch.from_numpy(many)).numpy()
    return [int(i) for i in np.flatnonzero(f.argmax(1) == labels[: len(many)])[:n]]


def levels_for(net: ReLUNetwork, image: np.ndarray, label: int, targets: Sequence[float]) -> np.ndarray:
    """Standard deviations (m,) at which the nearest rival alone has the probabilities `targets` (m,), to first order.

    image (d,); P(nearest rival) = Phi(-distance / sigma), with the `distance` of the nearest failing input.
    """
    return distance(net, image, label, 1.0) / -ndtri(targets)


def distance(net: ReLUNetwork, image: np.ndarray, label: int, sigma: float, seed: int = 0) -> float:
    """Distance of the nearest failing input that was found under white noise, in its standard deviations.

    From the image and from `RADII` about it for each rival, by `rpa.reliability.design.nearest`; infinite without one.
    """
    (event,) = events(net, Gaussian(image, sigma**2), label=label, seed=seed)
    widths = np.repeat(RADII, len(event.rivals))
    starts = widths[:, None] * event.rng.standard_normal((len(widths), event.dim))
    points, _ = nearest(event, starts, np.tile(event.rivals, len(RADII)))
    return float(np.linalg.norm(points, axis=1).min(initial=np.inf))


def curve(
    net: ReLUNetwork | nn.Module,
    image: np.ndarray,
    label: int,
    levels: Sequence[float],
    n_samples: int = 0,
    *,
    seed: int,
    input_shape: tuple[int, ...] | None = None,
    names: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[list[dict], list[FailureProbability]]:
    """Rows and results of `failure_probability` under white noise of each standard deviation; options are passed on.

    Where n_samples plain samples would see ten failures or more, the row holds how many they saw: `count` of
    `n_sampled`, else 0 of 0. names: further entries of each row.
    """
    rows, results = [], []
    for sigma in levels:
        start, inputs = perf_counter(), Gaussian(image.ravel(), sigma**2)
        result = failure_probability(net, inputs, label=label, seed=seed, input_shape=input_shape, **options)
        seconds = perf_counter() - start
        visible = np.isfinite(result.rel_error) and np.exp(result.log_p) * n_samples >= LEAST_EXPECTED
        n = n_samples * bool(visible)
        count = sampled(net, inputs, label, n, seed + 1, input_shape=input_shape) if n else 0
        beta = result.design_points[0].distance if result.design_points else 0.0
        about = (names or {}) | {"sigma": sigma, "beta": beta, "seconds": seconds, "count": count, "n_sampled": n}
        rows.append(row(result, **about))
        results.append(result)
    return rows, results


def row(result: FailureProbability, **names: Any) -> dict:
    """A result as a row of the notebook's tables, with its upper bound in place of p where no digit of p is known."""
    log_p = result.log_p if np.isfinite(result.rel_error) else result.upper
    numbers = {"log10_p": log_p / np.log(10), "rel_error": result.rel_error, "evaluations": result.n}
    return names | numbers | {"method": result.method, "converged": result.converged}


def sampled(net: ReLUNetwork | nn.Module, inputs: Gaussian, label: int, n: int, seed: int, **options: Any) -> int:
    """How many of n draws of the input change class: plain sampling, in the first layer's coordinates if it can."""
    (event,) = events(net, inputs, label=label, **options)
    rng = np.random.default_rng(seed)
    sizes = [min(INPUTS_IN_BATCH, n - start) for start in range(0, n, INPUTS_IN_BATCH)]
    return int(sum(np.count_nonzero(event(rng.standard_normal((size, event.dim))) >= 0) for size in sizes))


def exact_case(net: ReLUNetwork, points: np.ndarray, target: float, seed: int) -> dict[str, Any]:
    """A failure probability that is known exactly: dict(net, image, label, sigma, log_p).

    Copies of a planar network with one output stand beside one another, copy c at points[c] of (m, 2), and the input of
    dimension 2 m is rotated at random. Output 0 is zero, output c says that copy c has changed its class, so failure is
    that any copy changes: 1 - prod(1 - p_c), each p_c from all regions of a plane. The nearest rival alone has the
    probability `target`, to first order.
    """
    signs = np.where(net(points)[:, 0] > 0, -1.0, 1.0)
    m = len(points)
    weights = [block_diag(*[weight] * m) for weight in net.weights]
    biases = [np.tile(bias, m) for bias in net.biases]
    turn = ortho_group.rvs(2 * m, random_state=seed)
    weights[0] = weights[0] @ turn.T
    weights[-1] = np.vstack([np.zeros(weights[-1].shape[1]), signs[:, None] * weights[-1]])
    biases[-1] = np.append(0.0, signs * biases[-1])
    joined, image = ReLUNetwork(tuple(weights), tuple(biases), net.slope), turn @ points.ravel()
    (sigma,) = levels_for(joined, image, 0, [target])
    each = [
        failing_patterns(net, Gaussian(point, sigma**2), direction=[sign], threshold=0.0).log_total
        for point, sign in zip(points, signs)
    ]
    log_p = float(np.log(-np.expm1(np.log1p(-np.exp(each)).sum())))
    return {"net": joined, "image": image, "label": 0, "sigma": float(sigma), "log_p": log_p}


def z_scores(table: pd.DataFrame) -> np.ndarray:
    """Our estimate less the reference, in standard errors of both, for each row of a table.

    Rows with count and n_sampled are compared with the sampled share on the scale of p, those with reference_log10_p
    and reference_error with that on the scale of log p.
    """
    error = table.rel_error.to_numpy()
    if "reference_log10_p" in table:
        difference = (table.log10_p - table.reference_log10_p).to_numpy() * np.log(10)
        return difference / np.hypot(error, table.reference_error)
    p, n = 10.0 ** table.log10_p.to_numpy(), table.n_sampled.to_numpy()
    return (p - table["count"].to_numpy() / n) / np.hypot(p * error, np.sqrt(p * (1 - p) / n))


def costs(ours: pd.DataFrame, splitting: pd.DataFrame, rtol: float) -> pd.DataFrame:
    """Evaluations of the network for the relative error rtol, one row per row of `ours`, which reached it.

    splitting: those spent, times the square of its error over rtol; plain sampling: (1 - p) / (p rtol^2).
    """
    p, spent = 10.0**ours.log10_p, splitting.evaluations.to_numpy() * (splitting.rel_error.to_numpy() / rtol) ** 2
    table = ours[["network", "image", "sigma", "log10_p", "rel_error"]].assign(ours=ours.evaluations, splitting=spent)
    return table.assign(**{"plain sampling": (1 - p) / (p * rtol**2)})


def distance_panel(ax: Axes, table: pd.DataFrame, title: str) -> None:
    """log10 p against beta, the distance of the nearest failing input in standard deviations of the noise.

    table: columns network, beta, log10_p, converged, count, n_sampled. A mark is hollow where the result has not
    converged; red circles are shares of plain samples. The grey line is Phi(-beta): a failure set that is a half-space.
    """
    for marker, (name, of_network) in zip(MARKERS, table.groupby("network", sort=False)):
        style: dict[str, Any] = dict(color=ANALYTIC, markersize=3.5, markeredgewidth=0.8)
        for kept, fill, label in ((of_network.converged, ANALYTIC, name), (~of_network.converged, "white", None)):
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
    cmap, low, high = ("RdBu_r", -reach, reach) if signed else ("gray_r", 0, 1)
    ax.imshow(image.reshape(28, 28), cmap=cmap, vmin=low, vmax=high)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=7, color=colour, pad=2)


def failure_row(axes: Any, title: str, image: np.ndarray, result: FailureProbability, names: Sequence[str]) -> None:
    """An image, and for the nearest rival classes what the most likely failing image adds to it, and its distance."""
    picture(axes[0], image, title)
    for ax in axes[1:]:
        ax.set_axis_off()
    for ax, point in zip(axes[1:], result.design_points):
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
