"""Which of many inputs are fragile: design points of all of them at once, and first-order failure probabilities.

`failure_probability` takes a second for one input. To rank thousands, `first_order` takes each rival's failure set as
the half-space beyond its design point: p = sum_c Phi(-distance_c). On fully connected networks that is mostly within a
small factor of the truth, enough to choose the inputs that need the accurate value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, logsumexp
from torch import nn

from rpa import _check
from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork, as_network
from rpa.reliability.design import FARTHEST, aim, entered

__all__ = ["FirstOrder", "first_order"]

SCREENING_WIDTHS = (0.0, 1.0, 1.0, 4.0, 4.0, 8.0)  # standard deviations of the starts about the input
SCREENING_STEPS = (1.0,) * 5 + (0.5,) * 4 + (0.25,) * 2  # the short steps converge between two regions
PAIRS = 16_384  # pairs of an input and a rival in a batch


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """distance (n, k): from each of n inputs to where each class takes over, in standard deviations; 0 where it wins
    already, infinite for the right class and where no point was found.
    """

    distance: np.ndarray

    @property
    def log_p(self) -> np.ndarray:
        """log sum_c Phi(-distance_c), at most 0, (n,): the failure probability, were each failure set a half-space."""
        return np.minimum(logsumexp(log_ndtr(-self.distance), axis=1), 0.0)


def first_order(
    net: ReLUNetwork | nn.Module,
    x: ArrayLike,
    cov: ArrayLike,
    labels: ArrayLike,
    *,
    seed: int = 0,
    input_shape: tuple[int, ...] | None = None,
) -> FirstOrder:
    """Design points of all rival classes for inputs N(x_i, cov), i = 1..n, by Hasofer-Lind-Rackwitz-Fiessler steps.

    x (n, d); cov: variance, variances (d,) or covariance (d, d), the same for all; labels (n,): the right classes; the
    network has k >= 2 outputs. For each rival the search starts at the input and from draws of N(x_i, cov) and wider
    laws, and keeps the nearest point; there may be nearer ones. input_shape: of one input, for a module that needs it.
    Raises ValueError for unfit arguments.

    >>> from rpa import ReLUNetwork
    >>> net = ReLUNetwork([[[1.0], [-1.0]]], [[0.0, 0.0]])  # class 0 wins where x > 0
    >>> result = first_order(net, [[2.0], [-1.0]], 0.25, [0, 1])
    >>> result.distance.round(3)
    array([[inf,  4.],
           [ 2., inf]])
    """
    net = as_network(net, input_shape)
    k = net.output_dim
    if k < 2:
        raise ValueError(f"net: expected two outputs or more, one per class, got {k}")
    x = _check.array("x", x, (None, net.input_dim))
    seed = _check.integer("seed", seed)
    labels = np.array([_check.index("labels", int(label), k) for label in np.asarray(labels)])
    if len(labels) != len(x):
        raise ValueError(f"labels: expected {len(x)}, one per input, got {len(labels)}")
    inner = net.whitened(Gaussian(np.zeros(net.input_dim), cov))
    shift, label = (torch.from_numpy(a) for a in (x @ net.weights[0].T, labels))
    first, *rest = inner.to_torch().requires_grad_(False)

    def margins(z, which, rival):
        f = nn.Sequential(*rest)(z @ first.weight.T + first.bias + shift[which])
        return (f.gather(1, rival[:, None]) - f.gather(1, label[which, None]))[:, 0]

    distance = np.full((len(x), k), np.inf)
    pairs = np.nonzero(np.arange(k) != labels[:, None])
    rng = np.random.default_rng(seed)
    for start in range(0, len(pairs[0]), PAIRS):
        which, rival = (indices[start : start + PAIRS] for indices in pairs)
        own = torch.from_numpy(which), torch.from_numpy(rival)
        for width in SCREENING_WIDTHS:
            z = width * rng.standard_normal((len(which), inner.input_dim))
            reached = _distances(lambda points, own=own: margins(points, *own), z)
            distance[which, rival] = np.minimum(distance[which, rival], reached)
    return FirstOrder(distance)


def _distances(margins, z):
    """Distances (m,) of the design points reached from starts z (m, r); margins: of tensors (m, r), one rival each."""
    fails = lambda points: margins(torch.from_numpy(points)).numpy() >= 0
    for size in SCREENING_STEPS:
        free = torch.from_numpy(z).requires_grad_(True)
        g = margins(free)
        (slope,) = torch.autograd.grad(g.sum(), free)
        z = z + size * (aim(g.detach().numpy(), slope.numpy(), z) - z)
    length = np.linalg.norm(z, axis=1)
    ray = z / np.maximum(length, np.finfo(float).tiny)[:, None]
    reached = fails(1.3 * z)
    far = entered(fails, ray, 1.3 * length)
    return np.where(fails(np.zeros_like(z)), 0.0, np.where(reached & (far < FARTHEST), far, np.inf))
