"""Importance sampling from half-spaces laid over the failure set, by several searches that do not know of each other.

`search` looks for failures once: coarse splitting scouts, design points from the scouts and from the middle, typical
directions, shares fitted to failing draws. `Sampler` draws from the proposals of all searches and weights by their
mixture, so that what one search found is right for all. What only one of them covers is a sign of what none has found,
and goes into the error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from rpa.reliability.design import Directions, distinct, ladder_proposal, nearest, typical
from rpa.reliability.margin import Margin
from rpa.reliability.proposal import Proposal
from rpa.reliability.splitting import bridge

__all__ = ["Found", "Sampler", "lonely", "search"]

SCOUTS, SCOUT_MOVES, SCOUT_BUDGET = 100, 3, 20_000
WIDTHS = (0.1, 1.0, 4.0)  # standard deviations of starts about the origin; others are as far out as the scouts
STARTS = 27  # of all these at least, one of each width for each rival or more
SCOUTED = 6  # scouts for each rival that leads
PILOTS, PILOT = 2, 400  # rounds of fitting the shares, draws in each
AT_ONCE = 4096
COVERED = 1e3  # a weight above this, relative to the mean and to the least of all searches, is one that knows nothing


class Found(NamedTuple):
    """What one search found: a proposal; points (m, r) on the failure set's boundary, and their rivals (m,)."""

    proposal: Proposal
    points: np.ndarray
    which: np.ndarray


def search(margin: Margin, rng: np.random.Generator, budget: int = SCOUT_BUDGET) -> Found | None:
    """One search for failures, its scouts at `budget` evaluations; None where no failing point was met."""
    scouts = bridge(margin, Proposal.prior(margin.dim), SCOUTS, SCOUT_MOVES, rng, budget)
    leading = margin.each(scouts.z).argmax(axis=1) * (not margin.flipped)
    chosen = np.concatenate([_spread(np.flatnonzero(leading == rival)) for rival in np.unique(leading)])
    widths = np.append(WIDTHS, np.sqrt((scouts.z**2).mean()))
    copies = -(-STARTS // (len(widths) * len(margin.rivals)))
    about = rng.standard_normal((len(widths), copies * len(margin.rivals), margin.dim)) * widths[:, None, None]
    which = np.append(np.tile(margin.rivals, copies * len(widths)), leading[chosen])
    points, which = nearest(margin, np.concatenate([about.reshape(-1, margin.dim), scouts.z[chosen]]), which)
    if len(points) == 0:
        return None
    sharp = distinct(points, which)
    found = typical(margin, points[sharp], which[sharp], rng)
    distance = np.linalg.norm(points[sharp], axis=1)
    both = Directions(
        np.concatenate([points[sharp] / distance[:, None], found.a]),
        np.concatenate([distance, found.distance]),
        np.concatenate([np.zeros(len(sharp)), found.spread]),
    )
    return Found(_fitted(margin, ladder_proposal(both), rng), points, which)


def _spread(scouts):
    """SCOUTED of these indices, from end to end: neighbours descend from the same particle."""
    return scouts[np.linspace(0, len(scouts) - 1, min(SCOUTED, len(scouts))).astype(int)]


def _fitted(margin, proposal, rng):
    for _ in range(PILOTS):
        z = proposal.place(*proposal.draw(PILOT, rng))
        fails = margin(z) >= 0
        if fails.any():
            proposal = proposal.fitted(z[fails], proposal.log_weight(z[fails]))
    return proposal


class Sampler:
    """Draws from the proposals of several searches in turn, weighted by their mixture."""

    def __init__(self, margin: Margin, proposals: list[Proposal], rng: np.random.Generator) -> None:
        self.margin, self.proposals, self.rng = margin, proposals, rng
        self.log_w, self.own = np.zeros(0), np.zeros((0, len(proposals)))

    def draw(self, n: int) -> None:
        """At least n more draws."""
        each = -(-n // len(self.proposals))
        for first in range(0, each, AT_ONCE):
            for proposal in self.proposals:
                z = proposal.place(*proposal.draw(min(AT_ONCE, each - first), self.rng))
                self._take(z)

    def _take(self, z):
        fails = self.margin(z) >= 0
        own = np.stack([proposal.log_weight(z[fails]) for proposal in self.proposals], axis=1)
        log_w = np.full(len(z), -np.inf)
        log_w[fails] = np.log(len(self.proposals)) - logsumexp(-own, axis=1)
        self.log_w = np.append(self.log_w, log_w)
        self.own = np.concatenate([self.own, own])

    @property
    def log_p(self) -> float:
        """Log of the mean weight; -inf where nothing failed."""
        return float(logsumexp(self.log_w) - np.log(len(self.log_w)))

    @property
    def variance(self) -> float:
        """Variance of one weight relative to the squared mean; infinite where nothing failed."""
        if self.log_p == -np.inf:
            return np.inf
        square = len(self.log_w) * np.exp(logsumexp(2 * self.log_w) - 2 * logsumexp(self.log_w))
        return max(float(square) - 1, 0.0)

    @property
    def greatest(self) -> float:
        """Share of the greatest weight; 1 where nothing failed."""
        if self.log_p == -np.inf:
            return 1.0
        return float(np.exp(self.log_w.max() - logsumexp(self.log_w)))

    @property
    def alone(self) -> float:
        """Share of the failure probability in places that at most one search covers: see `lonely`."""
        share = np.exp(self.log_w[np.isfinite(self.log_w)] - logsumexp(self.log_w))
        return float(share[_covering(self.own, self.log_p) <= 1].sum())


def lonely(proposals: list[Proposal], z: np.ndarray, log_p: float) -> float:
    """Share of points z (n, r), drawn from the failure's law, that at most one of the searches' proposals covers.

    As in Good and Turing's estimate, what was met once stands for what was not met.
    """
    own = np.stack([proposal.log_weight(z) for proposal in proposals], axis=1)
    return float((_covering(own, log_p) <= 1).mean())


def _covering(own, log_p):
    """How many searches cover each point: those under whose proposal alone its weight is ordinary, or near the least.

    In many dimensions weights vary greatly within a place that all searches know: a place is lonely by comparison.
    """
    return (own < np.log(COVERED) + np.maximum(log_p, own.min(axis=1, keepdims=True))).sum(axis=1)
