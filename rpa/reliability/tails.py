"""Proposals for importance sampling: mixtures of Gaussian tails, whose half-spaces cover the failure set.

A component of a `TailMixture` is N(0, I) restricted to a half-space {a . z > s}. If the failure set is that half-space,
the weight N(0, I) / proposal is constant. Each direction a has several starts s, from the whole space (s = -inf, which
bounds the weights) to beyond the failure set. The shares of the components are fitted to weighted failing points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtri_exp

FLOOR = 0.1  # least part of the shares that is spread evenly
COVERED = 1e3  # a search covers a point whose weight under its proposal is below this many means or least weights
EVEN_DRAWS = 3.0  # the even part counts as much as this many failing draws


@dataclass(frozen=True, eq=False)
class TailMixture:
    """sum_k exp(log_share[k]) N(z; 0, I) 1[a_k . z > starts[k]] / Phi(-starts[k]), with a_k = directions[owner[k]].

    directions (J, r) of norm 1; owner, starts, log_share (K,), owners rising and starts within each owner.
    """

    directions: np.ndarray
    owner: np.ndarray
    starts: np.ndarray
    log_share: np.ndarray

    @classmethod
    def prior(cls, dim: int) -> TailMixture:
        """N(0, I) itself."""
        return cls(np.zeros((1, dim)), np.array([0]), np.array([-np.inf]), np.array([0.0]))

    @classmethod
    def ladders(cls, directions: np.ndarray, ladders: Sequence[np.ndarray]) -> TailMixture:
        """Equal shares for all starts; ladders[j] are the starts of directions[j], directions (J, r)."""
        owner = np.concatenate([np.full(len(starts), j) for j, starts in enumerate(ladders)])
        starts = np.concatenate([np.sort(starts) for starts in ladders])
        return cls(directions, owner, starts, np.full(len(owner), -np.log(len(owner))))

    @classmethod
    def joined(cls, proposals: Sequence[TailMixture]) -> TailMixture:
        """The mixture of several proposals in equal parts."""
        first = np.cumsum([0, *(len(q.directions) for q in proposals)])
        return cls(
            np.concatenate([q.directions for q in proposals]),
            np.concatenate([q.owner + start for q, start in zip(proposals, first)]),
            np.concatenate([q.starts for q in proposals]),
            np.concatenate([q.log_share for q in proposals]) - np.log(len(proposals)),
        )

    @cached_property
    def plain(self) -> bool:
        """Whether this is N(0, I) itself."""
        return bool(np.isinf(self.starts).all())

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n draws (n, r)."""
        component = rng.choice(len(self.starts), n, p=np.exp(self.log_share - logsumexp(self.log_share)))
        return self.place(component, rng.standard_normal((n, self.directions.shape[1])))

    def place(self, component: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Points z (n, r): normal v moved along its component's direction to the tail beyond that one's start."""
        a = self.directions[self.owner[component]]
        along = np.einsum("ij,ij->i", v, a)
        tail = -ndtri_exp(log_ndtr(-along) + log_ndtr(-self.starts[component]))
        return v + (tail - along)[:, None] * a

    def placed(self, z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inverse of `place`: (component (n,), v (n, r)) for draws z (n, r), the component drawn given z."""
        if self.plain:
            return np.zeros(len(z), dtype=int), z
        along = z @ self.directions.T
        heights, rows = self._heights(along), np.arange(len(z))
        owner = (heights - np.log(rng.standard_exponential(heights.shape))).argmax(axis=0)
        height = heights[owner, rows] + np.log(rng.random(len(z)))
        component = np.searchsorted(self.owner, owner)
        for j in np.unique(owner):
            mine = owner == j
            component[mine] += np.searchsorted(self._steps[j][1][1:], height[mine])
        along = along[rows, owner]
        before = -ndtri_exp(log_ndtr(-along) - log_ndtr(-self.starts[component]))
        return component, z + (before - along)[:, None] * self.directions[owner]

    def log_weight(self, z: np.ndarray) -> np.ndarray:
        """log(N(z; 0, I) / proposal(z)), (n,); infinite outside every half-space."""
        heights = self._heights(z @ self.directions.T)
        top = heights.max(axis=0)
        inside = np.exp(heights - np.where(top > -np.inf, top, 0.0)).sum(axis=0)
        return -top - np.log(np.maximum(inside, 1.0))  # faster than scipy's logsumexp

    def fitted(self, z: np.ndarray, log_weight: np.ndarray) -> TailMixture:
        """Shares fitted to weighted failing points z (n, r) by one step of cross-entropy (EM), with a floor.

        The floor is EVEN_DRAWS / (EVEN_DRAWS + effective draws), at least FLOOR.
        """
        along = z @ self.directions.T
        inside = along[:, self.owner] > self.starts
        terms = np.where(inside, self.log_share - log_ndtr(-self.starts), -np.inf)
        parts = np.exp(terms - logsumexp(terms, axis=1, keepdims=True))
        weight = np.exp(log_weight - logsumexp(log_weight))
        share, floor = weight @ parts, max(FLOOR, EVEN_DRAWS / (EVEN_DRAWS + 1 / (weight**2).sum()))
        return replace(self, log_share=np.log((1 - floor) * share / share.sum() + floor / len(share)))

    def lowered(self, z: np.ndarray) -> TailMixture:
        """Equal shares for these and lower starts, whose half-spaces contain points z (n, r); the nearest ones grow."""
        along = z @ self.directions.T
        ladders = [self.starts[self.owner == j] for j in range(len(self.directions))]
        closest = (along - [ladder[np.isfinite(ladder)].min() for ladder in ladders]).argmax(axis=1)
        for j in np.unique(closest):
            ladders[j] = np.append(ladders[j], np.quantile(along[closest == j, j], (0.0, 0.5)))
        return TailMixture.ladders(self.directions, ladders)

    def _heights(self, along):
        """Log of each direction's part of proposal / N(0, I), (J, n), at points with a . z = along (n, J)."""
        return np.stack([steps[np.searchsorted(starts, along[:, j])] for j, (starts, steps) in enumerate(self._steps)])

    @cached_property
    def _steps(self):
        """For each direction (starts, log of its part of proposal / N(0, I) between them): rising step functions."""
        steps = []
        for j in range(len(self.directions)):
            mine = self.owner == j
            heights = np.logaddexp.accumulate(self.log_share[mine] - log_ndtr(-self.starts[mine]))
            steps.append((self.starts[mine], np.append(-np.inf, heights)))
        return steps


def log_weights(proposals: Sequence[TailMixture], z: np.ndarray) -> np.ndarray:
    """Log weights (n, S) of points z (n, r) under each of S proposals alone."""
    return np.stack([proposal.log_weight(z) for proposal in proposals], axis=1)


def coverage(log_w: np.ndarray, log_p: float) -> np.ndarray:
    """Number (n,) of searches that cover each failing point, from `log_weights` (n, S) and the failure's log p.

    In many dimensions weights vary greatly where all searches agree, hence the comparison with the least weight.
    """
    return (log_w < np.log(COVERED) + np.maximum(log_p, log_w.min(axis=1, keepdims=True))).sum(axis=1)
