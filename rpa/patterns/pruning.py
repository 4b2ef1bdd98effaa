"""P1's support approximation: its three algorithms, one function each.

Inside the region of one pattern of the first layers, the next pre-activations are affine in the input. P1 takes their
activation probabilities under the input's law, fixes units of little entropy, and enumerates the signs of the others,
layer by layer. It takes units as independent and the input as Gaussian inside a region; `search` does neither.
"""

from __future__ import annotations

import numpy as np
from scipy.special import entr, log_ndtr

from rpa.network import ReLUNetwork

NUMBERS_AT_ONCE = 262_144  # numbers worked on at once


def activation_probabilities(rows: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P1's first algorithm: P(rows @ z + offset > 0), z ~ N(0, I), for each unit by itself.

    rows (K, n, r), offset (K, n): pre-activations of a layer in K regions -> logs of P(on) and P(off), each (K, n).
    Phi(offset / |rows|); a unit that does not depend on z is on (certainly) where its offset is positive.
    """
    deviation = np.sqrt((rows * rows).sum(axis=2))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(deviation > 0, offset / deviation, np.where(offset > 0, np.inf, -np.inf))
    return log_ndtr(t), log_ndtr(-t)


def fixed_units(log_on: np.ndarray, threshold: float) -> np.ndarray:
    """P1's second algorithm: the units to fix at their likelier sign, as their entropy is below `threshold` bits.

    log_on (...): log activation probabilities -> bool of the same shape.
    """
    p = np.exp(log_on)
    return (entr(p) + entr(1 - p)) / np.log(2) < threshold


def enumerate_layers(net: ReLUNetwork, threshold: float, max_patterns: int) -> tuple[np.ndarray, np.ndarray]:
    """P1's third algorithm: enumerates the units that are not fixed, layer by layer: bool (K, N), log q (K,) falling.

    net: whitened, its input N(0, I). log q is the sum of the log activation probabilities of the signs chosen; the
    `max_patterns` most probable combinations are kept at each step. Some may be empty regions.
    """
    rows, offset = net.weights[0][None], net.biases[0][None]
    log_on, log_off = activation_probabilities(rows, offset)
    patterns, log_q = np.zeros((1, 0), dtype=bool), np.zeros(1)
    for layer, size in enumerate(net.hidden_sizes):
        fixed, likely = fixed_units(log_on, threshold), log_on > log_off
        log_likely, log_other = np.maximum(log_on, log_off), np.where(fixed, -np.inf, np.minimum(log_on, log_off))
        parent = np.arange(len(log_q))
        patterns = np.concatenate([patterns, likely], axis=1)
        share = fixed.mean(axis=0)
        log_q = log_q + log_likely[:, share == 1].sum(axis=1)
        order = np.argsort(share, kind="stable")[::-1]
        for unit in order[share[order] < 1]:
            # Every node has a child of the likelier sign, and one of the other where the unit is free.
            score = np.concatenate([log_q + log_likely[:, unit][parent], log_q + log_other[:, unit][parent]])
            keep = np.flatnonzero(np.isfinite(score))
            if len(keep) > max_patterns:
                keep = np.sort(keep[np.argpartition(-score[keep], max_patterns)[:max_patterns]])
            node, flipped = keep % len(log_q), keep >= len(log_q)
            parent, patterns, log_q = parent[node], patterns[node], score[keep]
            patterns[:, unit - size] ^= flipped
        if layer < len(net.hidden_sizes) - 1:
            likely_gate, gate = (np.where(bits, 1.0, net.slope) for bits in (likely, patterns[:, -size:]))
            last = layer == len(net.hidden_sizes) - 2
            rows, offset, log_on, log_off = _next_layer(net, layer + 1, rows, offset, likely_gate, gate, parent, last)
    order = np.argsort(-log_q, kind="stable")
    return patterns[order], log_q[order]


def _next_layer(net, layer, rows, offset, likely, gate, parent, last):
    """Pre-activations (rows, offset) of a layer in every node, and their `activation_probabilities`."""
    # Parents have rows (P, n, r), and gates `likely` (P, n) of their likeliest child. Others differ from it in few
    # units, `flipped`. Of the last layer's rows lengths suffice: in the span of these units and one direction.
    weight, bias = net.weights[layer], net.biases[layer]
    change = gate - likely[parent]
    flipped = np.flatnonzero(change.any(axis=0))
    base, narrow = weight @ (likely[:, :, None] * rows), np.ascontiguousarray(weight[:, flipped])
    moving = rows[:, flipped]
    if last and len(flipped) + 1 < rows.shape[2]:
        span = np.linalg.qr(moving.transpose(0, 2, 1))[0]
        within = base @ span
        beyond = np.linalg.norm(base - within @ span.transpose(0, 2, 1), axis=2, keepdims=True)
        base, moving = np.concatenate([within, beyond], axis=2), np.pad(moving @ span, ((0, 0), (0, 0), (0, 1)))
    after = (gate * offset[parent]) @ weight.T + bias
    parts, step = [], max(1, NUMBERS_AT_ONCE // max(1, base[0].size))
    for start in range(0, len(gate), step):
        at = slice(start, start + step)
        own = parent[at]
        inner = base[own] + (narrow * change[at, None, flipped]) @ moving[own]
        parts.append((inner[:, :0] if last else inner, *activation_probabilities(inner, after[at])))
    inner, log_on, log_off = (np.concatenate(part) for part in zip(*parts))
    return inner, after, log_on, log_off
