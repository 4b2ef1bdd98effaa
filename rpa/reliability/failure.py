"""The probability that a network fails under its random input, down to 1e-40 and below, with an honest error.

`failure_probability` takes the cheapest way that works: the answer itself where the input decides nothing; plain
sampling where failures are frequent; importance sampling from the design points of several independent searches where
its weights are even enough; else a bridge by splitting from those proposals, in independent runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from rpa import _check
from rpa.reliability.design import DesignPoint
from rpa.reliability.importance import Found, Sampler, search
from rpa.reliability.margin import Margin, impossible, margins
from rpa.reliability.proposal import Proposal
from rpa.reliability.result import FailureProbability, complemented, estimated, mixed
from rpa.reliability.splitting import repeated

if TYPE_CHECKING:
    from torch import nn

    from rpa.inputs import RandomInput
    from rpa.network import ReLUNetwork


__all__ = ["failure_probability"]

PILOT, FREQUENT = 1000, 0.1  # draws of the input; share of failures from which plain sampling serves
SEARCHES = 4
FIRST = 2000  # draws by importance sampling before its weights are judged
UNEVEN = 50.0  # relative variance of the weights beyond which importance sampling is given up
FEWEST = 100  # effective draws without which no error is believed
LEAST = 20_000  # the smallest budget: searches and first draws


def failure_probability(
    net: ReLUNetwork | nn.Module,
    inputs: RandomInput,
    *,
    label: int | None = None,
    direction: ArrayLike | None = None,
    threshold: float | None = None,
    rtol: float = 0.05,
    seed: int = 0,
    budget: int = 1_000_000,
    input_shape: tuple[int, ...] | None = None,
    device: str | None = None,
) -> FailureProbability:
    """P(argmax f(x) != label), or P(direction . f(x) >= threshold), for x ~ inputs, as a `FailureProbability`.

    net: a `ReLUNetwork`, or any torch module in evaluation mode that takes (n, *input_shape) (rows (n, d) by default).
    inputs: a Gaussian or a GaussianMixture of dimension d, whatever its covariance. label: the right class, by default
    that of the mean; the first of equal outputs wins, and one output is a logit (class 0 is f <= 0). direction (k,) and
    threshold come together, instead of a label. rtol: standard error asked for, relative to p. budget: evaluations of
    the network that may be spent, a gradient counting as three. device: where the network is evaluated.

    Design points (Hasofer & Lind 1974; Rackwitz & Fiessler 1978) guide importance sampling; where its weights are too
    uneven, splitting (Au & Beck 2001) bridges from its proposal to the failure set. The answer depends on the seed and
    the arguments alone. Raises ValueError for unfit arguments.

    >>> from rpa import Gaussian, ReLUNetwork
    >>> net = ReLUNetwork([[[1.0, 0.0, 0.0]], [[1.0]]], [[0.0], [0.0]])  # f(x) = max(x_1, 0)
    >>> found = failure_probability(net, Gaussian([0.0, 0.0, 0.0], 1.0), direction=[1.0], threshold=8.0)
    >>> from scipy.special import log_ndtr
    >>> bool(abs(found.log_p - log_ndtr(-8.0)) < 3 * found.rel_error)
    True
    """
    rtol, budget = _check.positive("rtol", rtol), _check.integer("budget", budget, LEAST)
    seed = _check.integer("seed", seed)
    event = {"label": label, "direction": direction, "threshold": threshold}
    parts = margins(net, inputs, **event, input_shape=input_shape, device=device)
    rngs = np.random.default_rng(seed).spawn(len(parts))
    found = [_component(margin, rtol, budget // len(parts), rng) for (_, margin), rng in zip(parts, rngs)]
    result = mixed([weight for weight, _ in parts], found, rtol)
    points = _nearest([point for part in found for point in part.design_points])
    return replace(result, design_points=points, n=sum(part.n for part in found))


def _component(margin: Margin, rtol: float, budget: int, rng: np.random.Generator) -> FailureProbability:
    """The answer for one Gaussian."""
    if margin.dim == 0 or impossible(margin):
        fails = margin.dim == 0 and margin(np.zeros((1, 0)))[0] >= 0
        return replace(estimated(0.0 if fails else -np.inf, 0.0, True, "exact"), n=margin.evaluations)
    share = (margin(rng.standard_normal((PILOT, margin.dim))) >= 0).mean()
    if share > 1 - FREQUENT and not margin.flipped:
        other = margin.complement()
        inner = _component(other, rtol, budget - margin.evaluations, rng)
        return replace(complemented(inner, rtol), n=margin.evaluations + inner.n)
    searches = [search(margin, each) for each in rng.spawn(SEARCHES)]
    found = [one for one in searches if one is not None]
    result = _estimate(margin, share, found, rtol, budget, rng)
    return replace(result, design_points=_design_points(margin, found), n=margin.evaluations)


def _estimate(margin, share, found, rtol, budget, rng):
    prior = Proposal.prior(margin.dim)
    if share >= FREQUENT:
        return _sampled(margin, [prior], "sampling", rtol, budget, rng)[0]
    if found:
        proposals = [one.proposal for one in found]
        result, even = _sampled(margin, proposals, "importance sampling", rtol, budget, rng)
        if even:
            return result
        return repeated(margin, Proposal.joined(proposals), rtol, budget - margin.evaluations, rng, "bridge")
    return repeated(margin, prior, rtol, budget - margin.evaluations, rng, "splitting")


def _sampled(margin, proposals, method, rtol, budget, rng):
    """(result, whether its weights are even enough to be believed)."""
    sampler = Sampler(margin, proposals, rng)
    wanted = FIRST
    while True:
        sampler.draw(wanted - len(sampler.log_w))
        n = len(sampler.log_w)
        if not np.isfinite(sampler.log_p):
            return estimated(sampler.log_p, np.inf, False, method), False
        error = float(np.hypot(np.sqrt(sampler.variance / n), sampler.alone))
        even = (
            sampler.variance < UNEVEN
            and n > FEWEST * (1 + sampler.variance)
            and sampler.greatest < 0.5 * max(error, rtol)
        )
        wanted = min(int(1.2 * sampler.variance / rtol**2) + 1, 4 * n)
        spare = budget - margin.evaluations
        if (even and error <= rtol) or sampler.variance > UNEVEN or wanted <= n or wanted - n > spare:
            return estimated(sampler.log_p, error, bool(even and error <= rtol), method), even


def _design_points(margin: Margin, found: list[Found]) -> tuple[DesignPoint, ...]:
    points = []
    for one in found:
        for z, which in zip(one.points, one.which):
            rival = 0 if margin.flipped else int(margin.event.rivals[which])
            points.append(DesignPoint(margin.to_input(z[None])[0], float(np.linalg.norm(z)), rival))
    return _nearest(points)


def _nearest(points: list[DesignPoint]) -> tuple[DesignPoint, ...]:
    """The nearest point of each rival, nearest first."""
    found: dict[int, DesignPoint] = {}
    for point in sorted(points, key=lambda point: point.distance):
        found.setdefault(point.rival, point)
    return tuple(found.values())
