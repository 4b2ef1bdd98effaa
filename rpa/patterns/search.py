"""Which activation patterns carry the mass: a sample-free search by moment matching, batched in torch.

A node is a set of signs decided so far, layer by layer, with its approximate log probability log q and a Gaussian for
the input given those signs. Deciding that a unit of conditional mean m, variance v and t = m / sqrt(v) is positive
multiplies q by Phi(t) and matches two moments of the truncated law (assumed density filtering):

    r = phi(t) / Phi(t),   mean += g r,   cov -= g g^T r (r + t),   g = cov[:, unit] / sqrt(v).

All nodes decide the same unit at the same time, the most certain first, and the best `width` survive (a beam): their
log q are marginals of equally many units and can be compared. Each truncation is also kept as a Gaussian factor on its
unit (a site, precision tau and shift nu). The sites give the law of the next layer and, in the end, expectation
propagation's log Z, which takes log q to a few per cent of the truth (Minka 2001; Cunningham, Hennig &
Lacoste-Julien 2011). Units that are certain in every node cost next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import ndtri_exp

from rpa.network import ReLUNetwork

NODES_AT_ONCE = 64  # nodes whose matrices are worked on at once: few megabytes, so that they stay in the cache
WIDEST_GAP = 80.0  # nats below the best node at which a node is dropped: single precision ends there
CERTAIN = 3.0  # standard deviations from the threshold at which cutting off the tail no longer moves the moments
WEAK_SITE = 0.02  # largest share of its variance that a truncation may remove and yet be left out of the sites
BELIEVED = 2.0  # nats by which a refined log mass may differ from the first one and be believed
WEAK = 1e4  # ratio of offsets to noise up to which single precision resolves a thousandth of the noise
SQUARED = 1e15  # values whose squares single precision holds, with room for sums
ZERO_RATIO = 1e-20  # a ratio that moves no moment; products of smaller ones are denormal numbers, and slow
SETTLED = 1e-6  # share of its prior variance below which a conditional variance is rounding noise


def node_bytes(net: ReLUNetwork) -> int:
    """Bytes that one node of the beam takes at most.

    The beam is full only within the first layer, whose covariance is there before and after a decision; that of a later
    layer is also there with and without the certain units.
    """
    first, *others = net.hidden_sizes
    return 4 * (max(2 * first**2, *(4 * size**2 for size in others), 0) + 16 * net.n_hidden)


def hidden_layers(net: ReLUNetwork) -> list:
    """[(weight, bias), ...] of the hidden layers of a whitened net as torch tensors.

    In single precision, unless the noise is so weak beside the offsets that it takes double precision to see it, or
    the squares of a layer's values are too large or too small for it.
    """
    noise, offset = (np.abs(part).max(initial=0.0) for part in (net.weights[0], net.biases[0]))
    sizes = np.cumprod([np.linalg.norm(weight) / np.sqrt(len(weight)) for weight in net.weights[:-1] if len(weight)])
    fits = ((sizes > 1 / SQUARED) & (sizes < SQUARED)).all()
    dtype = torch.float32 if fits and offset <= WEAK * noise else torch.float64
    pairs = zip(net.weights[:-1], net.biases[:-1])
    return [tuple(torch.tensor(part, dtype=dtype) for part in pair) for pair in pairs]


def beam(
    net: ReLUNetwork, width: int, gap: float = WIDEST_GAP, tick: Callable[[], None] = lambda: None, refine: bool = True
) -> tuple:
    """At most `width` likely patterns of a net whose input is N(0, I): bool (K, N), log q (K,), log q falling.

    gap: nodes further than this below the best of their step are dropped. tick() is called after each decided unit.
    refine: end with expectation propagation's log Z; without, log q is some tenths of a nat coarser.
    """
    layers = hidden_layers(net)
    log_q = torch.zeros(1, dtype=layers[0][0].dtype)
    bits: list = []  # by layer: signs (K, m)
    units: list = []  # by layer: the decided units that matter
    factors, base = log_q.new_zeros(3, 1, 0), log_q  # tau, nu and signs of these units; log mass (K,) of the others
    for _ in layers:
        mean, cov = _next_layer(layers, net.slope, bits, units, factors)
        some, certain = _uncertain(mean, cov, log_q, gap)
        parent, log_q, found = _decide(mean[:, some], cov[:, some][:, :, some], log_q + certain, width, gap, tick)
        active = (mean > 0)[parent]
        active[:, some] = found[2] > 0
        bits = [*(part[parent] for part in bits), active]
        matters = (found[0] * torch.diagonal(cov, dim1=1, dim2=2).amax(0)[some]).amax(0) > WEAK_SITE
        units.append(some[matters])
        factors = torch.cat([factors[:, parent], found[:3][:, :, matters]], 2)
        base = (base + certain)[parent] + found[3][:, ~matters].sum(1)
    if refine:
        log_q = _refined(layers, net.slope, bits, units, factors, base, log_q)
    best = torch.argsort(log_q, descending=True, stable=True)
    return torch.cat(bits, 1)[best].numpy(), log_q[best].double().numpy()


def _uncertain(mean, cov, log_q, gap):
    """Indices of the units that some node may flip within `gap`, the most certain first; log mass (K,) of the rest."""
    deviation = torch.diagonal(cov, dim1=1, dim2=2).clamp_min(0).sqrt()
    t = torch.where(deviation > 0, mean.abs() / deviation, math.inf)
    certainty = torch.softmax(log_q, 0)[:, None] * t.clamp_max(8.0)
    order = torch.argsort(certainty.sum(0), descending=True, stable=True)
    open_ = (t < max(CERTAIN, -ndtri_exp(-gap))).any(0)
    return order[open_[order]], torch.special.log_ndtr(t[:, ~open_]).sum(1)


def _log_tail(t):
    """log Phi(t) and the ratio phi(t) / Phi(t)."""
    log_p = torch.special.log_ndtr(t)
    ratio = torch.exp(-0.5 * t * t - 0.5 * math.log(2 * math.pi) - log_p)
    return log_p, torch.nn.functional.threshold(ratio, ZERO_RATIO, 0.0)


def _decide(mean, cov, log_q, width, gap, tick):
    """Branches on units of mean (K, n), cov (K, n, n): parents, log q (K',), tau, nu, sign, log mass (4, K', n)."""
    parent, found = torch.arange(len(mean)), mean.new_zeros(4, *mean.shape)
    before = torch.diagonal(cov, dim1=1, dim2=2).amax(0)
    for j in range(len(before)):
        m, v = mean[:, 0], cov[:, 0, 0]
        # A unit whose variance is used up follows its mean.
        settled = v <= SETTLED * before[j]
        v = torch.where(settled, before[j], v)
        t = torch.where(settled, torch.where(m > 0, 2.0, -2.0) * math.sqrt(WIDEST_GAP), m / v.sqrt())
        (log_on, r_on), (log_off, r_off) = _log_tail(t), _log_tail(-t)
        node, on, log_q = _survivors(torch.cat([log_q + log_on, log_q + log_off]), width, gap)
        sign = torch.where(on, 1.0, -1.0)
        m, v, t, r = m[node], v[node], t[node], torch.where(on, r_on[node], r_off[node])
        shrink = r * (r + sign * t)
        parent, found = parent[node], found[:, node]
        found[0, :, j] = shrink / (v * (1 - shrink))
        found[1, :, j] = (sign * r / v.sqrt() + m * shrink / v) / (1 - shrink)
        found[2, :, j] = sign
        found[3, :, j] = torch.where(on, log_on[node], log_off[node])
        g = cov[node, 0, 1:] / v.sqrt()[:, None]
        mean = mean[node, 1:] + g * (sign * r)[:, None]
        cov = cov[:, 1:, 1:][node].baddbmm_(g[:, :, None] * -shrink[:, None, None], g[:, None, :])
        tick()
    return parent, log_q, found


def _survivors(log_q, width, gap):
    """From the (2 K,) log q of all children, first those with the unit on: node, on, log q of those that stay."""
    chosen = torch.nonzero(log_q >= log_q.max() - gap)[:, 0]
    if len(chosen) > width:
        chosen = chosen[torch.topk(log_q[chosen], width).indices.sort().values]
    half = len(log_q) // 2
    return chosen % half, chosen < half, log_q[chosen]


def _maps(layers, slope, bits, node, units):
    """Affine maps of the input: rows and offset of the decided units, and those of the layer after `bits`."""
    rows, offset = layers[0]
    site_rows, site_offset = [], []
    for depth, part in enumerate(bits):
        site_rows.append(rows[..., units[depth], :].expand(len(node), -1, -1))
        site_offset.append(offset[..., units[depth]].expand(len(node), -1))
        if depth + 1 < len(layers):
            weight, bias = layers[depth + 1]
            gate = slope + (1 - slope) * part[node].to(rows.dtype)
            live = (gate != 0).any(0)
            gated = weight[:, live] * gate[:, None, live]
            offset = (gated @ offset[..., live, None])[..., 0] + bias
            rows = gated @ rows[..., live, :]
    rows, offset = rows.expand(len(node), *rows.shape[-2:]), offset.expand(len(node), offset.shape[-1])
    return torch.cat([rows[:, :0], *site_rows], 1), torch.cat([offset[:, :0], *site_offset], 1), rows, offset


def _condition(rows, mean, tau, nu, others, offset):
    """Mean (K, m) and V, cov = others others^T - V^T V, of others @ z + offset given sites on rows @ z + mean."""
    # B = I + tau^1/2 rows rows^T tau^1/2 = L L^T (Rasmussen & Williams 2006, section 3.6.1); the diagonal of L is
    # returned too, NaN where rounding spoiled B.
    scaled = tau.sqrt()[:, :, None] * rows
    B = torch.baddbmm(torch.eye(tau.shape[1], dtype=tau.dtype), scaled, scaled.transpose(1, 2))
    L, failed = torch.linalg.cholesky_ex(B)
    shift = rows.transpose(1, 2) @ (nu - tau * mean)[:, :, None]
    V = torch.linalg.solve_triangular(L, scaled @ others.transpose(1, 2), upper=False)
    inner = torch.linalg.solve_triangular(L, scaled @ shift, upper=False)
    moved = offset + (others @ shift - V.transpose(1, 2) @ inner)[:, :, 0]
    return moved, V, torch.where(failed[:, None] > 0, math.nan, torch.diagonal(L, dim1=1, dim2=2))


def _next_layer(layers, slope, bits, units, factors):
    """Mean (K, n) and covariance (K, n, n) of the next layer's pre-activations in each node."""
    parts = []
    for node in torch.arange(factors.shape[1]).split(NODES_AT_ONCE):
        *decided, rows, offset = _maps(layers, slope, bits, node, units)
        mean, V, _ = _condition(*decided, *factors[:2, node], rows, offset)
        parts.append((mean, rows @ rows.transpose(1, 2) - V.transpose(1, 2) @ V))
    return (torch.cat(part) for part in zip(*parts))


def _refined(layers, slope, bits, units, factors, base, log_q):
    """log q by expectation propagation's log Z, unless the two differ much (most often an empty region)."""
    parts = []
    for node in torch.arange(len(log_q)).split(NODES_AT_ONCE):
        rows, mean, _, _ = _maps(layers, slope, bits, node, units)
        tau, nu, sign = factors[:, node]
        moved, V, pivots = _condition(rows, mean, tau, nu, rows, mean)
        v = (rows * rows).sum(2) - (V * V).sum(1)
        # Each unit's truncation meets its cavity, the law given all other sites (equation 3.65 there).
        left = 1 - tau * v
        m, v = (moved - nu * v) / left, v / left
        spread = 1 + tau * v
        terms = torch.special.log_ndtr(sign * m / v.sqrt())
        terms += 0.5 * (spread.log() + (tau * m * m - 2 * m * nu - nu * nu * v) / spread)
        terms += nu * mean - 0.5 * tau * mean * mean + 0.5 * (nu - tau * mean) * (moved - mean) - pivots.log()
        log_z = base[node] + terms.sum(1)
        parts.append(torch.where((log_z - log_q[node]).abs() < BELIEVED, log_z.clamp_max(0.0), log_q[node]))
    return torch.cat(parts)
