"""The probability that a network fails under its random input, down to 1e-40 and below, with an honest error.

`failure_probability` uses the cheapest method that works: the exact answer where the event is certain or impossible, or
the input's rank is at most two; plain sampling where failures are frequent; importance sampling with the tails of
several independent searches where its weights are even enough; otherwise splitting that starts from those tails.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import log_ndtr, logsumexp
from torch import nn

from rpa import _check
from rpa.inputs import RandomInput
from rpa.network import ReLUNetwork
from rpa.parallel import one_thread
from rpa.reliability.certified import failing_patterns
from rpa.reliability.design import SEARCHES, find_design_points
from rpa.reliability.event import Event, events
from rpa.reliability.result import (
    NEARLY_CERTAIN,
    FailureProbability,
    complemented,
    estimated,
    exact,
    mixed,
    nearest_of_each,
    unseen,
)  # fmt: skip
from rpa.reliability.splitting import moved, repeated
from rpa.reliability.tails import COVERED, TailMixture, coverage, log_weights

PLANAR_RANK = 2  # rank up to which the answer is exact
PLANAR_REACH = 40.0  # standard deviations within which it is
PILOT = 1000  # draws of the input at the beginning
FREQUENT = 0.005  # share of failures from which plain sampling is tried
CHEAP = 50_000  # draws that plain sampling may take: fewer than several searches
CONTRADICTED = 1e-4  # no result is believed that gives the pilot's failures a lower probability
SEARCH_ROUNDS = 6
MISSED = 0.01  # estimated share of the failures that all searches miss, in rtol, above which they are repeated
WIDENINGS = 3  # how often the proposals are widened at most
FIRST_DRAWS = 4000  # draws of importance sampling before its weights are judged
PATIENCE = 0.02  # share of the budget after which importance sampling may be given up
UNEVEN = 100.0  # relative variance of the weights above which, if few weights dominate, a bridge is better
MIN_EFFECTIVE = 400  # effective draws of importance sampling below which no error is believed
MIN_FAILURES = 50  # the same for failures in plain sampling
HEAVY = 12.0  # relative variance of the weights above which its estimate is too small, for lack of the rarest ones
UNSEEN_WEIGHTS = 4  # if one weight carries half of the error, assume that four such weights exist
BATCH = 4096
WALKERS = 200  # failing draws that look for failures outside all half-spaces
WALKER_MOVES = 30
LEAST_BUDGET = 20_000


@one_thread()
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
    inputs: a Gaussian or a GaussianMixture of dimension d, of any covariance. label: the right class, by default that
    of the mean; the first of equal outputs wins, and one output is a logit (class 0 is f <= 0). direction (k,) and
    threshold come together, instead of a label. rtol: requested standard error relative to p. budget: evaluations of
    the network that may be spent; a gradient counts as three, and a component of a mixture takes some thousands at
    least. device: where the network is evaluated.

    Design points (Hasofer & Lind 1974; Rackwitz & Fiessler 1978) guide importance sampling; where its weights are too
    uneven, splitting (Au & Beck 2001) bridges from its proposal to the failure set. The answer depends on the seed and
    the arguments alone. Raises ValueError for unfit arguments.

    >>> from rpa import Gaussian, ReLUNetwork
    >>> net = ReLUNetwork([[[1.0, 0.0, 0.0]], [[1.0]]], [[0.0], [0.0]])  # f(x) = max(x_1, 0)
    >>> result = failure_probability(net, Gaussian([0.0, 0.0, 0.0], 1.0), direction=[1.0], threshold=8.0)
    >>> round(result.log_p, 6), result.method, np.round(result.design_points[0].x, 3)  # log Phi(-8)
    (-35.013437, 'exact', array([8., 0., 0.]))
    """
    budget = _check.integer("budget", budget, LEAST_BUDGET)
    wanted: dict[str, Any] = {"label": label, "direction": direction, "threshold": threshold}
    parts = events(net, inputs, rtol=rtol, seed=seed, budget=budget, input_shape=input_shape, device=device, **wanted)
    known = [exact(event) for event in parts]
    if all(known) or not all(event.chain is not None and 0 < event.dim <= PLANAR_RANK for event in parts):
        results = [result or _component(event) for result, event in zip(known, parts)]
        return mixed([event.weight for event in parts], results, rtol)
    pieces = failing_patterns(net, inputs, input_shape=input_shape, **wanted)
    if pieces.log_total > -np.inf and pieces.total_error <= rtol:
        result = estimated(min(pieces.log_total, 0.0), pieces.total_error, True, "exact")
    else:  # nothing, or pieces as thin as rounding
        result = unseen(-np.inf, max(pieces.log_total, float(log_ndtr(-PLANAR_REACH))), "exact")
    parts = [replace(event, budget=LEAST_BUDGET) for event in parts]
    points = [point for event in parts for found in _searched(event, SEARCHES) for point in found.points]
    return replace(result, design_points=nearest_of_each(points), n=sum(event.evaluations for event in parts))


def _component(event: Event) -> FailureProbability:
    """The answer for one Gaussian by the cheapest method that the pilot's share of failures allows."""
    failures = np.count_nonzero(event(event.rng.standard_normal((PILOT, event.dim))) >= 0)
    if failures > NEARLY_CERTAIN * PILOT and not event.flipped:
        return complemented(_component(event.complement()), event)
    searches, result = [], None
    if failures >= PILOT * max(FREQUENT, 1 / (1 + min(CHEAP, event.budget / 2) * event.rtol**2)):
        searches = _searched(event, 1)
        result = _sampled(event, [TailMixture.prior(event.dim)])
    if result is None:
        searches, result = _rare(event, searches)
        if not result.converged and 1.5 / (max(result.p, 1e-300) * event.rtol**2) < event.left:
            plain = _sampled(event, [TailMixture.prior(event.dim)])
            result = plain if plain is not None and plain.converged else result
        believed = result.converged and stats.binom.sf(failures - 1, PILOT, result.p) > CONTRADICTED
        result = replace(result, converged=bool(believed))
        if not believed and not result.rel_error < 1:  # no digit is known: the interval is that of the pilot
            most = float(np.log(stats.beta.ppf(0.99, failures + 1, PILOT - failures)))
            result = replace(result, lower=-np.inf, upper=max(result.upper, most))
    points = nearest_of_each(point for found in searches for point in found.points)
    return replace(result, design_points=points, n=event.evaluations)


def _searched(event, count):
    """Results of up to `count` searches; none begins after half of the budget."""
    rngs = event.rng.spawn(count)
    results = [find_design_points(event, rng) for rng in rngs if event.evaluations <= event.budget / 2]
    return [result for result in results if result is not None]


def _rare(event, searches):
    """(all searches, result): searches are repeated while one alone covers some failures, or each covers few of them.

    Proposals are widened while some failures lie outside all their half-spaces.
    """
    for _ in range(SEARCH_ROUNDS):
        searches = searches + _searched(event, SEARCHES)
        if not searches:
            return searches, repeated(event)
        proposals = [result.proposal for result in searches]
        draws = WeightedDraws(event, proposals)
        draws.draw(FIRST_DRAWS)
        covered = draws.covered_once < event.rtol / 2 and draws.missed < MISSED * event.rtol
        if covered or event.evaluations > event.budget / 4:
            break
    for _ in range(WIDENINGS):
        if (result := _sampled(event, proposals)) is None:
            break
        uncovered, proposals = widened(event, proposals, result.log_p)
        error = float(np.hypot(result.rel_error, uncovered))
        result = estimated(result.log_p, error, result.converged and error <= event.rtol, result.method)
        if uncovered < event.rtol / 5 or event.left < event.budget / 2:
            break
    return searches, result or repeated(event, proposals)


def _sampled(event, proposals):
    """The result of importance sampling, or of plain sampling where the proposal is the input's own law.

    None where another method should do better, a bridge or the searches of `_rare`, with half of the budget left.
    """
    plain = proposals[0].plain
    method, fewest = ("sampling", MIN_FAILURES) if plain else ("importance sampling", MIN_EFFECTIVE)
    draws, wanted = WeightedDraws(event, proposals), FIRST_DRAWS
    while True:
        draws.draw(wanted - len(draws.log_w))
        n, variance = len(draws.log_w), draws.variance
        square = variance if plain else variance * max(1.0, variance / HEAVY)
        noise = float(np.sqrt(square / n))
        error = float(np.hypot(noise, 0.0 if plain else max(draws.covered_once, draws.missed)))
        enough, even = n > fewest * (1 + variance), draws.greatest < error / 2
        error = error if even else max(error, UNSEEN_WEIGHTS * draws.greatest)
        result = estimated(draws.log_p, error, enough and error <= event.rtol, method)
        # More draws cannot reduce the share that only one search covers.
        if result.converged or (enough and even and noise < event.rtol / 2):
            return result
        total = max(1.2 * square / event.rtol**2, fewest * (1 + variance))
        wanted = int(np.clip(total, 1.5 * n, 4 * n))
        heavy = variance > UNEVEN and draws.greatest > noise / 3
        if wanted - n > event.left or (n > PATIENCE * event.budget and (heavy or total - n > event.left)):
            better = (plain or heavy or not (enough and even)) and event.left > event.budget / 2
            return None if better or draws.log_p == -np.inf else result


class WeightedDraws:
    """Draws from several proposals in turn, with the logs of their weights under the mixture, -inf for successes.

    log_w (n,): these logs; log_p: log of their mean; variance: of one weight, relative to the squared mean; greatest:
    share of the greatest weight. covered_once: share of the failure probability that at most one proposal covers; as in
    Good and Turing's estimate, this is also an estimate of the share that none covers. missed: another estimate of it,
    m^S for S proposals that each miss the share m on average.
    """

    log_p, variance, greatest, covered_once, missed = -np.inf, np.inf, 1.0, 0.0, 0.0  # without a failure

    def __init__(self, event: Event, proposals: list[TailMixture]) -> None:
        self.event, self.proposals = event, proposals
        self.log_w, self._each = np.zeros(0), np.zeros((0, len(proposals)))

    def draw(self, n: int) -> None:
        """At least n more draws."""
        count, n_proposals = -(-n // len(self.proposals)), len(self.proposals)
        for first in range(0, count, BATCH):
            for proposal in self.proposals:
                z = proposal.draw(min(BATCH, count - first), self.event.rng)
                fails = self.event(z) >= 0
                each, log_w = log_weights(self.proposals, z[fails]), np.full(len(z), -np.inf)
                log_w[fails] = np.log(n_proposals) - logsumexp(-each, axis=1)
                self.log_w, self._each = np.append(self.log_w, log_w), np.concatenate([self._each, each])
        if not len(self._each):
            return
        total, n = logsumexp(self.log_w), len(self.log_w)
        self.log_p = float(total - np.log(n))
        self.variance = max(float(n * np.exp(logsumexp(2 * self.log_w) - 2 * total)) - 1, 0.0)
        self.greatest = float(np.exp(self.log_w.max() - total))
        share = np.exp(self.log_w[np.isfinite(self.log_w)] - total)
        covering = coverage(self._each, self.log_p)
        self.covered_once = float(share[covering <= 1].sum())
        self.missed = float(max(1 - share @ covering / n_proposals, 0.0) ** n_proposals)


def widened(event: Event, proposals: list[TailMixture], log_p: float) -> tuple[float, list[TailMixture]]:
    """(share of the failure probability exp(log_p) that no proposal covers, proposals that cover more of it).

    Failing draws are moved by steps that preserve the failure's law, out of the half-spaces if it reaches beyond them.
    """
    n = min(WALKERS, max(event.left, 0) // (WALKER_MOVES + 5))
    (rng,), joined = event.rng.spawn(1), TailMixture.joined(proposals)
    z = joined.draw(5 * n, rng)
    z = z[event(z) >= 0]
    if not len(z):
        return 0.0, proposals
    log_w = joined.log_weight(z)
    z = moved(event, z[rng.choice(len(z), n, p=np.exp(log_w - logsumexp(log_w)))], WALKER_MOVES, rng)
    outside = joined.log_weight(z) > log_p + np.log(COVERED)
    if not outside.any():
        return 0.0, proposals
    return float(outside.mean()), [proposal.lowered(z[outside]).fitted(z, np.zeros(n)) for proposal in proposals]
