"""Which activation patterns carry the mass: a sample-free search by moment matching, batched in torch.

Units are decided one after another, layer by layer. A node of the search is a set of signs decided so far, with its
approximate log probability log q and a Gaussian that stands for the input given those signs. Deciding that a unit with
conditional mean m, variance v and t = m / sqrt(v) is positive multiplies q by Phi(t) and matches the first two moments
of the truncated law (assumed density filtering):

    r = phi(t) / Phi(t),   mean += g r,   cov -= g g^T r (r + t),   g = cov[:, unit] / sqrt(v).

All nodes decide the same unit at the same time, the most certain unit first, and the best `width` survive (a beam):
nodes are then marginals of equally many units, hence comparable, and flips that cannot matter die at once. Each
truncation is also kept as a Gaussian factor on its unit (a "site", precision tau and shift nu). The sites give the law
of the next layer, and a sweep of expectation propagation over them takes log q to a few per cent of the truth (Minka
2001; Cunningham, Hennig & Lacoste-Julien 2011). Units that are certain in every node cost next to nothing.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import ndtri_exp

__all__ = ["beam", "node_bytes"]

CHUNK = 256  # nodes whose matrices are worked on at once: few megabytes, so that they stay in the cache
WIDEST_GAP = 80.0  # nats below the best node at which a node is given up in any case: single precision ends there
CERTAIN = 3.0  # standard deviations from the threshold at which cutting off the tail no longer moves the moments
NEGLIGIBLE = 0.02  # largest share of its variance that a truncation may remove and yet be left out of the sites
ROUNDING = 1e-6  # share of its prior variance below which a conditional variance is rounding noise


@dataclass
class _Sites:
    """The uncertain units decided so far, n of them, in each of K nodes.

    base (K,): log mass of all other decisions; rows: their pre-activations as maps of the input, one (K|1, n_l, r) per
    layer; gram (K|1, n, n), mean (K|1, n): the prior law of those pre-activations; tau, nu (K, n): one Gaussian factor
    each; sign (K, n): +1 or -1.
    """

    base: torch.Tensor
    rows: list
    gram: torch.Tensor
    mean: torch.Tensor
    tau: torch.Tensor
    nu: torch.Tensor
    sign: torch.Tensor


@dataclass
class _Layer:
    """Pre-activations of one layer in each of K nodes (1 where they share them).

    rows (K, n, r), offset (K, n): as affine maps of the input; gram (K, n, n): prior covariance; cross (K, s, n): prior
    covariance with the sites; mean (K, n), cov (K, n, n): law given the sites.
    """

    rows: torch.Tensor
    offset: torch.Tensor
    gram: torch.Tensor
    cross: torch.Tensor
    mean: torch.Tensor
    cov: torch.Tensor


def node_bytes(net):
    """Bytes that one node of the beam takes at most, for a whitened net: what a memory bound is divided by."""
    widest = max(net.hidden_sizes)
    return 4 * (2 * widest * net.input_dim + 6 * widest**2 + 2 * widest * net.n_hidden)


def beam(net, width, gap=WIDEST_GAP, tick=lambda: None):
    """At most `width` likely patterns of a net whose input is N(0, I): bool (K, N), log q (K,), log q falling.

    gap: nodes further than this below the best of their step are dropped. tick() is called after each decided unit.
    """
    weights = [torch.from_numpy(w).float() for w in net.weights]
    biases = [torch.from_numpy(b).float() for b in net.biases]
    layer = _first_layer(weights[0], biases[0])
    sites = _Sites(torch.zeros(1), [], torch.zeros(1, 0, 0), *torch.zeros(4, 1, 0))
    log_q, bits = torch.zeros(1), torch.zeros(1, 0, dtype=torch.bool)
    for depth in range(len(net.hidden_sizes)):
        units, certain = _uncertain(layer, log_q, gap)
        parent, log_q, found = _decide(layer, units, log_q + certain, width, gap, tick)
        active = _pick(layer.mean > 0, parent)
        active[:, units] = found[2] > 0
        bits = torch.cat([bits[parent], active], 1)
        sites = _extend(sites, layer, units, parent, found, certain)
        if depth + 1 < len(net.hidden_sizes):
            layer = _next_layer(layer, parent, active, weights[depth + 1], biases[depth + 1], sites)
    log_q = _propagate(sites, log_q)
    best = torch.argsort(log_q, descending=True, stable=True)
    return bits[best].numpy(), log_q[best].double().numpy()


def _pick(tensor, index):
    """tensor[index] where the first axis may be shared by all nodes."""
    return tensor[index] if len(tensor) > 1 else tensor.expand(len(index), *tensor.shape[1:]).clone()


def _first_layer(weight, bias):
    gram = (weight @ weight.T)[None]
    return _Layer(weight[None], bias[None], gram, torch.zeros(1, 0, len(bias)), bias[None], gram)


def _uncertain(layer, log_q, gap):
    """Indices of the units that some node may flip within `gap`, the most certain first; log mass (K,) of the rest."""
    deviation = torch.diagonal(layer.cov, dim1=1, dim2=2).clamp_min(0).sqrt()
    t = torch.where(deviation > 0, layer.mean.abs() / deviation, math.inf)
    certainty = torch.softmax(log_q, 0)[:, None] * t.clamp_max(8.0)
    order = torch.argsort(certainty.sum(0), descending=True, stable=True)
    open_ = (t < max(CERTAIN, -ndtri_exp(-gap))).any(0)
    return order[open_[order]], torch.special.log_ndtr(t[:, ~open_]).sum(1)


def _log_tail(t):
    """log Phi(t) and the ratio phi(t) / Phi(t)."""
    log_p = torch.special.log_ndtr(t)
    return log_p, torch.exp(-0.5 * t * t - 0.5 * math.log(2 * math.pi) - log_p)


def _decide(layer, units, log_q, width, gap, tick):
    """Branches on `units` in turn: parent (K,), log q (K,), and (tau, nu, sign, log mass), each (K, n)."""
    mean, cov = layer.mean[:, units], layer.cov[:, units][:, :, units]
    parent, found = torch.arange(len(mean)), torch.zeros(4, len(mean), len(units))
    prior = torch.diagonal(layer.gram, dim1=1, dim2=2).amax(0)[units]
    for j in range(len(units)):
        m, v = mean[:, 0], cov[:, 0, 0]
        # A unit whose variance is used up follows its mean.
        settled = v <= ROUNDING * prior[j]
        v = torch.where(settled, prior[j], v)
        t = torch.where(settled, torch.sign(m) * 2 * math.sqrt(WIDEST_GAP), m / v.sqrt())
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


def _extend(sites, layer, units, parent, found, certain):
    """The sites of the children of a layer: those of their parents, and the decided units that matter."""
    prior = torch.diagonal(layer.gram, dim1=1, dim2=2).amax(0)[units]
    kept = (found[0] * prior).amax(0) > NEGLIGIBLE
    base = (sites.base + certain)[parent] + found[3][:, ~kept].sum(1)
    units, found = units[kept], found[:3, :, kept]
    corner, side = layer.gram[:, units][:, :, units], layer.cross[:, :, units]
    count = max(len(corner), len(sites.gram))
    old, side, corner = (part.expand(count, -1, -1) for part in (sites.gram, side, corner))
    gram = torch.cat([torch.cat([old, side], 2), torch.cat([side.transpose(1, 2), corner], 2)], 1)
    mean = torch.cat([sites.mean.expand(count, -1), layer.offset[:, units].expand(count, -1)], 1)
    if count > 1:
        gram, mean = gram[parent], mean[parent]
    factors = [torch.cat([_pick(a, parent), b], 1) for a, b in zip((sites.tau, sites.nu, sites.sign), found)]
    rows = [part if len(part) == 1 else part[parent] for part in [*sites.rows, layer.rows[:, units]]]
    return _Sites(base, rows, gram, mean, *factors)


def _condition(gram, mean, tau, nu, cross, offset):
    """Law of further variables given Gaussian sites: mean (K, m), and V (K, n, m) with cov = prior cov - V^T V.

    cross (K, n, m): prior covariance of the site variables with them; offset (K, m): their prior mean. With
    B = I + tau^1/2 gram tau^1/2 = L L^T (Rasmussen & Williams 2006, section 3.6.1). Also the diagonal of L.
    """
    root = tau.sqrt()
    L, failed = torch.linalg.cholesky_ex(torch.eye(tau.shape[1]) + root[:, :, None] * gram * root[:, None, :])
    shift = (nu - tau * mean)[:, :, None]
    inner = root[:, :, None] * (gram @ shift)
    solved = torch.linalg.solve_triangular(L, torch.cat([root[:, :, None] * cross, inner], 2), upper=False)
    V = solved[:, :, :-1]
    change = cross.transpose(1, 2) @ shift - V.transpose(1, 2) @ solved[:, :, -1:]
    return offset + change[:, :, 0], V, torch.where(failed[:, None] > 0, math.nan, torch.diagonal(L, dim1=1, dim2=2))


def _next_layer(layer, parent, active, weight, bias, sites):
    parts = []
    for node in torch.arange(len(parent)).split(CHUNK):
        rows, offset = _pick(layer.rows, parent[node]), _pick(layer.offset, parent[node])
        rows = weight @ (active[node, :, None] * rows)
        offset = (active[node] * offset) @ weight.T + bias
        gram = rows @ rows.transpose(1, 2)
        cross = torch.cat([_pick(part, node) @ rows.transpose(1, 2) for part in sites.rows], 1)
        prior = _pick(sites.gram, node), _pick(sites.mean, node), sites.tau[node], sites.nu[node]
        mean, V, _ = _condition(*prior, cross, offset)
        parts.append((rows, offset, gram, cross, mean, gram - V.transpose(1, 2) @ V))
    return _Layer(*(torch.cat(part) for part in zip(*parts)))


def _propagate(sites, log_q):
    """log q by expectation propagation from the sites given; the given value where two sweeps do not nearly agree."""
    parts = []
    for node in torch.arange(len(log_q)).split(CHUNK):
        gram, mean, sign = _pick(sites.gram, node), _pick(sites.mean, node), sites.sign[node]
        first, tau, nu = _sweep(gram, mean, sites.tau[node], sites.nu[node], sign)
        second, _, _ = _sweep(gram, mean, tau, nu, sign)
        second = torch.where((second - first).abs() < 1.0, sites.base[node] + second, log_q[node])
        parts.append(second.clamp_max(0.0))
    return torch.cat(parts)


def _sweep(gram, mean, tau, nu, sign):
    """log Z of expectation propagation at the given sites, and all sites refreshed at once."""
    moved, V, pivots = _condition(gram, mean, tau, nu, gram, mean)
    v = torch.diagonal(gram, dim1=1, dim2=2) - (V * V).sum(1)
    left = 1 - tau * v
    m, v = (moved - nu * v) / left, v / left
    t = sign * m / v.sqrt()
    log_p, r = _log_tail(t)
    shrink = r * (r + t)
    shift = nu - tau * mean
    spread = 1 + tau * v
    log_z = log_p + 0.5 * (spread.log() + (tau * m * m - 2 * m * nu - nu * nu * v) / spread)
    log_z = log_z - pivots.log() + nu * mean - 0.5 * tau * mean * mean + 0.5 * shift * (moved - mean)
    tau = shrink / (v * (1 - shrink))
    nu = (sign * r / v.sqrt() + m * shrink / v) / (1 - shrink)
    return log_z.sum(1), tau, nu
