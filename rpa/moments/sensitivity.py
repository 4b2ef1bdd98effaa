"""Pixel sensitivity (P2): how much each output varies when noise falls on one pixel, or on one window, of an image.

`noise_map` answers for all positions at once, in one of three ways.

"two-stage" is P2's linearization. With u = first(x) the values before the first ReLU, q = relu(u) and J the derivative
of the rest at q(u(x)), an output is taken for J q(u), and noise in a window makes u Gaussian. The variance is a
series in the noise's own coordinates (Mehler's expansion of the covariance of two ReLUs, for any mean),

    Var = sum_n |sum_i J_i s_i c_n(a_i) e_i x ... x e_i|^2  (n factors),    c_1 = Phi,
    c_n(a) = (-1)^n He_{n-2}(a) phi(a) / sqrt(n!),                          a_i = u_i / s_i,

where s_i e_i, |e_i| = 1, is row i of the first stage's Jacobian times sigma, cut to the window: no pair of units is
ever formed. "linear" is its limit for small sigma where the network is smooth.

Max-pooling breaks both: on a uniform background the values of a pool are equal, so that x itself lies on a kink.
"lines" linearizes nothing. The noise is radius times direction; the directions are those of a rotated orthonormal
frame of the window, and along each line the network, which is piecewise linear there, is interpolated between a few
points and integrated exactly. That is exact for a linear network, and for one pixel wherever kinks fall on the points.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import factorial, prod, sqrt

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import chi
from torch import nn

from rpa import _check
from rpa.moments import relu
from rpa.moments.linearized import Stages, inner_jacobian, jacobian_at
from rpa.moments.prepared import on_images, traced
from rpa.network import ReLUNetwork
from rpa.tracing.graph import channels_last, check_evaluable

METHODS = ("linear", "two-stage", "lines")

_BATCH = 512  # images in one forward pass: larger batches leave the cache


def noise_map(
    net: nn.Module | ReLUNetwork,
    x: torch.Tensor,
    sigma: ArrayLike,
    *,
    window: int = 1,
    method: str = "two-stage",
    order: int = 2,
    nodes: int = 5,
    seed: int = 0,
    at: ArrayLike | None = None,
) -> torch.Tensor:
    """Variance of each output when N(0, sigma^2) is added to the pixels of one window, for every window.

    net: a torch module in evaluation mode that takes (n, c, H, W) or rows of pixels, or a `ReLUNetwork`; x (c, H, W) or
    (H, W). A window is `window` x `window` pixels in all channels. Returns a torch tensor
    (k, H - window + 1, W - window + 1) in the precision of the network; entry [c, i, j] belongs to the window whose
    first pixel is (i, j). Several sigma (s,) share all Jacobians, and the result has a leading axis (s, ...). at: the
    first pixels (p, 2) of the windows wanted, by default all; the result is then (k, p) in place of the map.

    method: "linear" takes k backward passes; "two-stage" the terms n = 1..order of the series, and memory for the first
    stage's Jacobian, (units) x (pixels); "lines" takes (nodes - 1) x (pixels of a window) forward passes per position,
    `nodes` odd, and a seed for the rotation of the frame (one pixel of one channel has but one line).
    Raises ValueError for a wrong shape, a sigma that is not positive or, with "lines", lost in the pixels' rounding, a
    window that does not fit or is outside the image, an unknown method, or a network without ReLU in a two-stage map.
    """
    if np.ndim(x) not in (2, 3):
        raise ValueError(f"x: expected shape (c, H, W) or (H, W), got {np.shape(x)}; a row of pixels is x[None, None]")
    image = torch.as_tensor(_check.array("x", x, (None,) * np.ndim(x)))
    module, (x,) = on_images(net, image[None, None] if image.ndim == 2 else image[None])
    seed = _check.integer("seed", seed)
    levels = [_check.positive("sigma", each) for each in np.atleast_1d(sigma)]
    if not levels:
        raise ValueError("sigma: expected at least one, got none")
    window = _check.integer("window", window, 1)
    order = _check.integer("order", order, 1)
    if window > min(x.shape[1:]):
        raise ValueError(f"window: expected at most {min(x.shape[1:])} for an image {tuple(x.shape)}, got {window}")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    if _check.integer("nodes", nodes, 3) % 2 == 0:
        raise ValueError(f"nodes: expected an odd number, got {nodes}")
    size = [side - window + 1 for side in x.shape[1:]]
    wanted = torch.arange(size[0] * size[1]) if at is None else _positions(at, size)
    if method == "linear":
        square = sum(_shifts(output_jacobian(module, x) ** 2, window)).flatten(1)[:, wanted]
        found = [each**2 * square for each in levels]
    elif method == "two-stage":
        found = _two_stage(module, x, levels, window, order, wanted)
    else:
        found = [_lines(module, x, each, window, nodes, seed, wanted) for each in levels]
    maps = torch.stack(found) if at is not None else torch.stack(found).unflatten(2, size)
    return maps if np.ndim(sigma) else maps[0]


def _positions(at, size):
    """Flat numbers of the windows whose first pixels are `at` (p, 2), among size[0] x size[1]."""
    places = _check.array("at", at, (None, 2))
    if (places != places.round()).any() or (places < 0).any() or (places >= size).any():
        raise ValueError(f"at: expected first pixels (i, j) below {tuple(size)}, got {at!r}")
    return torch.as_tensor(places @ [size[1], 1]).long()


def output_jacobian(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """d module / d x at one input x (...): (k, ...), by k backward passes in batches."""
    if not isinstance(x, torch.Tensor):
        raise ValueError(f"x: expected a tensor, got {type(x).__name__}")
    check_evaluable(module, x[None])
    return jacobian_at(module, x[None])[1][0].unflatten(1, x.shape)


@torch.no_grad()
def _two_stage(module, x, levels, window, order, wanted):
    stages = Stages.of(traced(module, x[None], "x"), 0)
    u = stages.before(x[None])
    jacobian = inner_jacobian(stages)(x[None]).reshape(-1, *x.shape)
    weight = jacobian_at(stages.after, stages.activated(u))[1][0]
    slope = stages.cut.slope_vector()
    u, slope = u.T, torch.zeros_like(u.T) if slope is None else slope[:, None]

    # A unit that does not see the window has scale 0 and adds nothing: 0 * c_n of anything finite.
    unit = sum(_shifts(jacobian**2, window)).flatten(1)[:, wanted].sqrt()
    direction = [j.flatten(1)[:, wanted] / unit.where(unit > 0, 1.0) for j in _shifts(jacobian, window)]
    found = [0.0] * len(levels)
    for level, sigma in enumerate(levels):
        scale = sigma * unit
        for n in range(1, order + 1):
            # act(x) = slope x + (1 - slope) relu(x)
            bent = (1 - slope) * relu.coefficient(n, u / scale.where(scale > 0, 1.0))
            coefficient = scale * (slope * (n == 1) + bent)
            for index in combinations_with_replacement(range(len(direction)), n):
                repeats = factorial(n) / prod(factorial(index.count(i)) for i in set(index))
                term = weight @ (coefficient * prod(direction[i] for i in index))
                found[level] = found[level] + repeats * term**2
    return found


def _shifts(images, window):
    """For each pixel of a window and each channel, its value in every window: tensors (m, H', W')."""
    rows, columns = (side - window + 1 for side in images.shape[2:])
    return [
        images[:, channel, i : i + rows, j : j + columns]
        for channel in range(images.shape[1])
        for i in range(window)
        for j in range(window)
    ]


@torch.no_grad()
def _lines(module, x, sigma, window, nodes, seed, wanted):
    least = 1e3 * torch.finfo(x.dtype).eps * float(x.abs().max())
    if sigma < least:
        raise ValueError(f"sigma: expected at least {least:.1g} beside such pixels in {x.dtype}, got {sigma:g}; "
                         "give the network in double precision")  # fmt: skip
    numbers = torch.arange(x.numel()).reshape(1, *x.shape)
    pixels = torch.stack([shift.flatten() for shift in _shifts(numbers, window)], 1)[wanted]
    dim = pixels.shape[1]
    t = _radii(dim, nodes)
    weight, gram = (torch.as_tensor(a, dtype=x.dtype) for a in _hat_integrals(t, dim))
    frame = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]
    # The middle node is x itself: outputs are taken relative to it, and it needs no pass of its own.
    outer = np.delete(np.arange(nodes), nodes // 2)
    steps = torch.as_tensor(sigma * frame[:, None] * t[outer][:, None], dtype=x.dtype).reshape(-1, dim)
    module = channels_last(module, x[None])
    centre, variances = module(x[None])[0], []
    for part in pixels.split(max(1, _BATCH // len(steps))):
        points = x.flatten().repeat(len(part), len(steps), 1)
        points.scatter_add_(2, part[:, None].expand(-1, len(steps), -1), steps.expand(len(part), -1, -1))
        outputs = (module(points.reshape(-1, *x.shape)) - centre).reshape(len(part), dim, nodes - 1, centre.numel())
        mean = torch.einsum("j,pdjk->pk", weight[outer], outputs) / dim
        square = torch.einsum("pdik,ij,pdjk->pk", outputs, gram[outer][:, outer], outputs) / dim
        variances.append(square - mean**2)
    return torch.cat(variances).T


def _radii(dim, nodes):
    """Nodes on a line through the mean of N(0, I_dim): 0 and equal steps to a far quantile of the radius, both ways."""
    half = nodes // 2
    return chi.isf(max(0.25**half, 1e-6), dim) * np.arange(-half, half + 1) / half


def _hat_integrals(t, dim):
    """(E[h_i], E[h_i h_j]) of the hat functions on the nodes t, the outer ones extended as straight lines, under the
    density chi_dim(|t|) / 2: what integrates a piecewise linear function with these nodes, and its square, exactly.
    """
    g, g_weight = np.polynomial.legendre.leggauss(40)
    ends = np.concatenate([[-sqrt(dim) - 9], t[1:-1], [sqrt(dim) + 9]])
    weight, gram = np.zeros(len(t)), np.zeros((len(t), len(t)))
    for j, (low, high) in enumerate(zip(ends[:-1], ends[1:])):
        y = low + (high - low) * (g + 1) / 2
        density = g_weight * (high - low) / 4 * chi.pdf(np.abs(y), dim)
        right = (y - t[j]) / (t[j + 1] - t[j])
        hats = np.stack([1 - right, right])
        weight[j : j + 2] += hats @ density
        gram[j : j + 2, j : j + 2] += (hats * density) @ hats.T
    return weight, gram
