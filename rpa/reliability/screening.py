"""Which of many inputs are fragile: design points of all of them at once, and what they say to first order.

`failure_probability` takes a second for one input. Where thousands have to be ranked, `first_order` takes each rival's
failure set as the half-space beyond its design point: p = sum_c Phi(-distance_c). On fully connected networks that is
mostly within a small factor of the truth, which is enough to say which inputs deserve the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, logsumexp

from rpa import _check
from rpa.inputs import Gaussian
from rpa.network import as_network
from rpa.reliability.design import FARTHEST, aim, entered

if TYPE_CHECKING:
    from torch import nn

    from rpa.network import ReLUNetwork


__all__ = ["FirstOrder", "first_order"]

WIDTHS = (0.0, 1.0, 1.0, 4.0, 4.0, 8.0)  # standard deviations of the starts about the input, in its own
STEPS = (1.0,) * 5 + (0.5,) * 4 + (0.25,) * 2  # the last ones settle between two regions
ROWS = 16_384  # pairs of an input and a rival that are worked on at once


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """distance (n, k): from each of n inputs to where each class takes over, in standard deviations; 0 where it has
    taken over already, infinite for the own class and where no point was found.
    """

    distance: np.ndarray

    @property
    def log_p(self) -> np.ndarray:
        """log sum_c Phi(-distance_c), at most 0, (n,): the failure probability, were each failure set a half-space."""
        return np.minimum(logsumexp(log_ndtr(-self.distance), axis=1), 0.0)


def first_order(
    net: ReLUNetwork | nn.Module, x: ArrayLike, cov: ArrayLike, labels: ArrayLike, *, seed: int = 0
) -> FirstOrder:
    """Design points of all rival classes for inputs N(x_i, cov), i = 1..n, by Hasofer-Lind-Rackwitz-Fiessler steps.

    x (n, d); cov: variance, variances (d,) or covariance (d, d), the same for all; labels (n,): the right classes; the
    network has k >= 2 outputs. For each rival the search starts at the input and from draws of N(x_i, cov) and wider
    laws, and keeps the nearest point; there may be nearer ones. Raises ValueError for unfit arguments.

    >>> from rpa import ReLUNetwork
    >>> net = ReLUNetwork([[[1.0], [-1.0]]], [[0.0, 0.0]])  # class 0 wins where x > 0
    >>> found = first_order(net, [[2.0], [-1.0]], 0.25, [0, 1])
    >>> found.distance.round(3)
    array([[inf,  4.],
           [ 2., inf]])
    """
    net = as_network(net)
    k = net.output_dim
    if k < 2:
        raise ValueError(f"net: expected two outputs or more, one per class, got {k}")
    x = _check.array("x", x, (None, net.input_dim))
    seed = _check.integer("seed", seed)
    labels = np.array([_check.index("labels", int(label), k) for label in np.asarray(labels)])
    if len(labels) != len(x):
        raise ValueError(f"labels: expected {len(x)}, one per input, got {len(labels)}")
    inner = net.whitened(Gaussian(np.zeros(net.input_dim), cov))
    places = _Places(inner, x @ net.weights[0].T, labels)
    distance = np.full((len(x), k), np.inf)
    which, rival = np.nonzero(np.arange(k) != labels[:, None])
    rng = np.random.default_rng(seed)
    for first in range(0, len(which), ROWS):
        i, c = which[first : first + ROWS], rival[first : first + ROWS]
        for width in WIDTHS:
            start = width * rng.standard_normal((len(i), inner.input_dim))
            distance[i, c] = np.minimum(distance[i, c], places.distances(start, i, c))
    return FirstOrder(distance)


class _Places:
    """The margins of a rival over the label at whitened points about each of n inputs."""

    def __init__(self, inner, shift, labels):
        self.shift, self.labels = torch.from_numpy(shift), torch.from_numpy(labels)
        first, *self.rest = inner.to_torch().requires_grad_(False)
        self.factor, self.bias = first.weight, first.bias

    def _margin(self, z, which, rival):
        f = z @ self.factor.T + self.bias + self.shift[which]
        for layer in self.rest:
            f = layer(f)
        return (f.gather(1, rival[:, None]) - f.gather(1, self.labels[which, None]))[:, 0]

    def distances(self, z, which, rival):
        """Distances (m,) of the points found from starts z (m, r) for inputs `which` (m,) and rivals (m,)."""
        pairs = torch.from_numpy(which), torch.from_numpy(rival)
        fails = lambda points: self._margin(torch.from_numpy(points), *pairs).numpy() >= 0
        for size in STEPS:
            free = torch.from_numpy(z).requires_grad_(True)
            g = self._margin(free, *pairs)
            (slope,) = torch.autograd.grad(g.sum(), free)
            z = z + size * (aim(g.detach().numpy(), slope.numpy(), z) - z)
        length = np.linalg.norm(z, axis=1)
        ray = z / np.maximum(length, np.finfo(float).tiny)[:, None]
        reached = fails(1.3 * z)
        far = entered(fails, ray, 1.3 * length)
        found = np.where(reached & (far < FARTHEST), far, np.inf)
        return np.where(fails(np.zeros_like(z)), 0.0, found)
