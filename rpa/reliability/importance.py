"""Importance sampling with Gaussian tails that independent searches have laid over the failure set.

`search` looks for failures once: coarse splitting, design points from its particles and from the origin, typical
directions, shares fitted to failing draws. `WeightedDraws` draws from the proposals of all searches and weights by
their mixture. Failures that only one search covers indicate failures that none covers, so their share is part of the
error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from rpa.reliability.design import DesignPoint, distinct, nearest, nearest_of_each, tails, typical
from rpa.reliability.event import Event
from rpa.reliability.splitting import bridge, moved
from rpa.reliability.tails import COVERED, TailMixture, coverage, log_weights

SEARCHES = 4  # independent searches in a round
SCOUTS = 100  # particles of the coarse splitting
SCOUT_MOVES = 3
SCOUT_BUDGET = 20_000
START_WIDTHS = (0.1, 1.0, 8.0)  # standard deviations of starts about the origin; a fourth width is that of the scouts
STARTS = 27  # number of these starts, rounded up to as many of each width for each rival
SCOUTS_USED = 6  # scouts that are starts, for each leading rival
SHELL = 500  # draws beyond the nearest failure, where there are at most SHELL_RANK dimensions
SHELL_RANK = 4
SHELL_STARTS = 12  # failing ones among them that are starts
FIT_ROUNDS = 2  # rounds of fitting the shares
FIT_DRAWS = 400  # draws in each of them
BATCH = 4096
WALKERS = 200  # failing draws that look for failures outside all half-spaces
WALKER_MOVES = 30


class SearchResult(NamedTuple):
    """A proposal, and the nearest failing input of each rival that was found, nearest first."""

    proposal: TailMixture
    points: tuple[DesignPoint, ...]


def search(event: Event, rng: np.random.Generator) -> SearchResult | None:
    """One search for failures; None where no failing point was found."""
    limit = min(SCOUT_BUDGET, event.budget // (8 * SEARCHES))
    scouts = bridge(event, TailMixture.prior(event.dim), SCOUTS, SCOUT_MOVES, rng, limit)
    leading = _leading(event, scouts.z)
    chosen: list[int] = []
    for rival in np.unique(leading):  # at equal spacing, since neighbours descend from the same particle
        mine = np.flatnonzero(leading == rival)
        chosen.extend(mine[np.linspace(0, len(mine) - 1, min(SCOUTS_USED, len(mine))).astype(int)])
    widths = np.append(START_WIDTHS, np.sqrt((scouts.z**2).mean()))
    copies = -(-STARTS // (len(widths) * len(event.rivals)))
    about = rng.standard_normal((len(widths), copies * len(event.rivals), event.dim)) * widths[:, None, None]
    which = np.append(np.tile(event.rivals, copies * len(widths)), leading[chosen])
    points, which = nearest(event, np.concatenate([about.reshape(-1, event.dim), scouts.z[chosen]]), which)
    if len(points) == 0:
        return None
    if event.dim <= SHELL_RANK:
        # Steps of `nearest` pass over thin failure sets. The radius has the tail of two dimensions.
        beyond = rng.standard_normal((SHELL, event.dim))
        length = np.linalg.norm(beyond, axis=1, keepdims=True)
        beyond *= np.sqrt(np.linalg.norm(points, axis=1).min() ** 2 + 2 * rng.exponential(size=(SHELL, 1))) / length
        beyond = beyond[event(beyond) >= 0][:SHELL_STARTS]
        more = nearest(event, beyond, _leading(event, beyond))
        points, which = np.concatenate([points, more[0]]), np.append(which, more[1])
    rivals = np.zeros(len(points)) if event.flipped else event.criterion.rivals[which]
    found = [
        DesignPoint(tuple(event.to_input(z[None])[0].tolist()), float(np.linalg.norm(z)), int(rival))
        for z, rival in zip(points, rivals)
    ]
    sharp = distinct(points, which, event.budget, rng)
    points, which = points[sharp], which[sharp]
    distance = np.linalg.norm(points, axis=1)
    at_points = points / distance[:, None], distance, np.zeros(len(points))
    proposal = tails(*map(np.concatenate, zip(at_points, typical(event, points, which, rng))))
    for _ in range(FIT_ROUNDS):  # to failing draws of its own
        z = proposal.draw(FIT_DRAWS, rng)
        fails = event(z) >= 0
        if fails.any():
            proposal = proposal.fitted(z[fails], proposal.log_weight(z[fails]))
    return SearchResult(proposal, nearest_of_each(found))


def _leading(event, z):
    """The rival that comes nearest to failure at each point."""
    return event.each(z).argmax(axis=1) * (not event.flipped)


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
