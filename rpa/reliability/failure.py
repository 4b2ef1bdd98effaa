"""The probability that a network fails under its random input, down to 1e-40 and below, with an honest error.

`failure_probability` takes the cheapest way that works: the exact answer where the input decides nothing, or where its
rank is at most two; plain sampling where failures are frequent; importance sampling from the design points of several
independent searches where its weights are even enough; else a bridge by splitting from those proposals, in independent
runs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import log_ndtr

from rpa import _check
from rpa.reliability.certified import failing_patterns
from rpa.reliability.design import DesignPoint, nearest_of_each
from rpa.reliability.importance import SCOUT_BUDGET, Found, Sampler, lonely, search
from rpa.reliability.margin import Margin, impossible, margins
from rpa.reliability.proposal import Proposal
from rpa.reliability.result import USUAL, FailureProbability, complemented, estimated, over_components, unseen
from rpa.reliability.splitting import repeated

if TYPE_CHECKING:
    from torch import nn

    from rpa.inputs import RandomInput
    from rpa.network import ReLUNetwork


__all__ = ["failure_probability"]

PLANAR, FAR = 2, 40.0  # rank up to which the answer is exact, standard deviations within which
PILOT = 1000  # draws of the input, to begin with
FREQUENT = 0.005  # share of failures from which plain sampling may serve
CHEAP = 50_000  # draws that plain sampling may need where it serves: fewer than several searches take
CONTRADICTED = 1e-4  # probability of as many failures in the pilot, below which no result is believed
SEARCHES, ROUNDS = 4, 3  # searches at once, and how often at most
FIRST = 4000  # draws by importance sampling before its weights are judged
PATIENCE = 0.02  # share of the budget that is drawn before importance sampling is given up
UNEVEN = 100.0  # relative variance of the weights beyond which, if a few weights carry it, a bridge does better
FEWEST, COUNTED = 400, 50  # effective draws, failures in plain sampling, without which no error is believed
STANDS_FOR = 4  # weights like it, most of them not drawn: one that carries half of the error
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
    >>> round(found.log_p, 6), found.method, found.design_points[0].x.round(3)  # log Phi(-8)
    (-35.013437, 'exact', array([8., 0., 0.]))
    """
    rtol, budget = _check.positive("rtol", rtol), _check.integer("budget", budget, LEAST)
    seed = _check.integer("seed", seed)
    parts = margins(
        net,
        inputs,
        label=label,
        direction=direction,
        threshold=threshold,
        input_shape=input_shape,
        device=device,
    )
    if all(margin.chain is not None and 0 < margin.dim <= PLANAR for _, margin in parts):
        return _planar(net, inputs, parts, seed, label=label, direction=direction, threshold=threshold)
    return over_components(parts, _component, rtol, budget, seed)


def _planar(net, inputs, parts, seed, **event):
    """The exact answer, from all affine pieces; where they carry nothing, nothing is closer than FAR."""
    pieces = failing_patterns(net, inputs, **event)
    result = estimated(min(pieces.log_total, 0.0), pieces.total_error, True, "exact")
    if pieces.log_total == -np.inf and not all(impossible(margin) for _, margin in parts):
        result = unseen(-np.inf, float(log_ndtr(-FAR)), "exact")
    (rng,) = np.random.default_rng(seed).spawn(1)
    points = [point for _, margin in parts for point in _design_points(margin, _searched(margin, rng, LEAST))]
    return replace(result, design_points=nearest_of_each(points), n=sum(margin.evaluations for _, margin in parts))


def _component(margin: Margin, rtol: float, budget: int, rng: np.random.Generator) -> FailureProbability:
    """The answer for one Gaussian."""
    failures = np.count_nonzero(margin(rng.standard_normal((PILOT, margin.dim))) >= 0)
    if failures > USUAL * PILOT and not margin.flipped:
        inner = _component(margin.complement(), rtol, budget - margin.evaluations, rng)
        return complemented(inner, rtol, margin.evaluations)
    found, result = [], None
    if failures >= PILOT * max(FREQUENT, 1 / (1 + min(CHEAP, budget / 2) * rtol**2)):
        found = _searched(margin, rng, budget, 1)
        result = _sampled(margin, [Proposal.prior(margin.dim)], rtol, budget, rng)
    if result is None:
        found, result = _rare(margin, found, rtol, budget, rng)
        believed = result.converged and stats.binom.sf(failures - 1, PILOT, result.p) > CONTRADICTED
        result = replace(result, converged=bool(believed))
    return replace(result, design_points=_design_points(margin, found), n=margin.evaluations)


def _searched(margin, rng, budget, searches=SEARCHES):
    """What up to `searches` searches found; none begins once half of the budget is spent."""
    scouts, found = min(SCOUT_BUDGET, budget // (8 * SEARCHES)), []
    for each in rng.spawn(searches):
        if margin.evaluations <= budget / 2 and (result := search(margin, each, scouts)) is not None:
            found.append(result)
    return found


def _rare(margin, found, rtol, budget, rng):
    """(what the searches found, result): searches are repeated while some failures are covered by one of them alone."""
    for _ in range(ROUNDS):
        found = found + _searched(margin, rng, budget)
        if not found:
            return found, repeated(
                margin, Proposal.prior(margin.dim), rtol, budget - margin.evaluations, rng, "splitting"
            )[0]
        proposals = [one.proposal for one in found]
        sampler = Sampler(margin, proposals, rng)
        sampler.draw(FIRST)
        if sampler.alone < rtol / 2 or margin.evaluations > budget / 4:
            break
    result = _sampled(margin, proposals, rtol, budget, rng)
    if result is None:
        result = _bridged(margin, proposals, rtol, budget - margin.evaluations, rng)
    return found, result


def _sampled(margin, proposals, rtol, budget, rng):
    """The result of importance sampling, or of plain sampling where the proposal is the prior.

    None where half of the budget is left for what should do better: a bridge, or the searches of `_rare`.
    """
    sampler, plain = Sampler(margin, proposals, rng), np.isinf(proposals[0].starts).all()
    wanted, fewest = FIRST, COUNTED if plain else FEWEST
    while True:
        sampler.draw(wanted - len(sampler.log_w))
        n, variance = len(sampler.log_w), sampler.variance
        noise = float(np.sqrt(variance / n))
        error = float(np.hypot(noise, 0.0 if plain else sampler.alone))
        enough, even = n > fewest * (1 + variance), sampler.greatest < error / 2
        error = error if even else max(error, STANDS_FOR * sampler.greatest)
        found = estimated(
            sampler.log_p, error, enough and error <= rtol, "sampling" if plain else "importance sampling"
        )
        # More draws would not lessen what one search covers alone.
        if found.converged or (enough and even and noise < rtol / 2):
            return found
        left = budget - margin.evaluations
        total = max(1.2 * variance / rtol**2, fewest * (1 + variance))
        wanted = int(np.clip(total, 1.5 * n, 4 * n))
        heavy = variance > UNEVEN and sampler.greatest > noise / 3
        if wanted - n > left or (n > PATIENCE * budget and (heavy or total - n > left)):
            better = (plain or heavy or not (enough and even)) and left > budget / 2
            return None if better or sampler.log_p == -np.inf else found


def _bridged(margin, proposals, rtol, budget, rng):
    """The result of splitting from the proposals; what one search covers alone goes into the error here too."""
    result, z = repeated(margin, Proposal.joined(proposals), rtol, budget, rng, "bridge")
    if not np.isfinite(result.rel_error):
        return result
    error = float(np.hypot(result.rel_error, lonely(proposals, z, result.log_p)))
    return estimated(result.log_p, error, result.converged and error <= rtol, "bridge")


def _design_points(margin: Margin, found: list[Found]) -> tuple[DesignPoint, ...]:
    points = []
    for one in found:
        for z, which in zip(one.points, one.which):
            rival = 0 if margin.flipped else int(margin.event.rivals[which])
            points.append(DesignPoint(margin.to_input(z[None])[0], float(np.linalg.norm(z)), rival))
    return nearest_of_each(points)
