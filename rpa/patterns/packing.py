"""Activation patterns drawn, packed (eight units to a byte) and compared (by a key of 64 bits)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from rpa import _check
from rpa.inputs import Gaussian, RandomInput, components_of
from rpa.network import ReLUNetwork, as_network
from rpa.patterns import search

SAMPLES_AT_ONCE = 2048  # samples propagated at once: few enough to stay in the cache


def pattern_keys(packed: np.ndarray) -> np.ndarray:
    """A 64-bit key (n,) of each packed pattern (n, bytes); two of 10^6 patterns share one with probability 3e-8."""
    words = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : packed.shape[1]] = packed
    keys = np.zeros(len(packed), dtype=np.uint64)
    for word in words.view(np.uint64).T:
        keys = _mixed(keys ^ word)  # in full before the next word: patterns differ in few, related bits
    return keys


def shifts(patterns: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(n, count) numbers in [0, 1) that are a function of each pattern, bool (n, N), and the seed, as if random."""
    keys = pattern_keys(np.packbits(patterns, axis=1))[:, None]
    words = np.array([seed, *range(count)], dtype=np.uint64)
    mixed = _mixed(keys + _mixed(words[:1] + np.uint64(1)) + np.uint64(0x9E3779B97F4A7C15) * words[1:])
    return (mixed >> np.uint64(11)) * 2.0**-53


def _mixed(keys):
    """The finalizer of SplitMix64: every bit of the key changes every bit of the result."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ keys >> np.uint64(shift)) * np.uint64(factor)
    return keys ^ keys >> np.uint64(31)


def among(patterns: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the patterns, bool (n, N), are rows of `known`, bool (K, N): bool (n,)."""
    keys, sought = (np.packbits(part, axis=1) for part in (patterns, known))
    return np.isin(pattern_keys(keys), pattern_keys(sought))


def draw_packed(net: ReLUNetwork, inputs: RandomInput, n: int, seed: int) -> np.ndarray:
    """Activation patterns of n random inputs, eight units to a byte: uint8 (n, ceil(N / 8)), seeded.

    Samples are drawn where they are cheap: in the coordinates of `ReLUNetwork.whitened`, and in the precision of
    `rpa.patterns.search.hidden_layers`, so that a unit may flip within 1e-3 standard deviations of its threshold,
    mostly much less. With a mixture they come sorted by component.
    """
    return draw_scaled(net, inputs, (1.0,), n, seed)[0]


def draw_scaled(net: ReLUNetwork, inputs: RandomInput, scales: Sequence[float], n: int, seed: int) -> list[np.ndarray]:
    """`draw_packed` under mean + s (x - mean) for each s of `scales`, from the same n draws of x.

    The noise of all scales is one draw and one product with the first layer, so that four noise levels cost half as
    much as four calls. Mixtures are scaled component by component.
    """
    net, components, n, _ = checked(net, inputs, n, 1.0, "n")
    scales = [_check.positive("scales", s) for s in scales]
    generator = torch.Generator().manual_seed(seed)
    shares = np.random.default_rng(seed).multinomial(n, [weight for weight, _ in components])
    parts = [_drawn(net, c, c.mean[None], scales, m, generator)[0] for m, (_, c) in zip(shares, components)]
    return [np.concatenate(part) for part in zip(*parts)]


def draw_around(
    net: ReLUNetwork, inputs: Gaussian, means: ArrayLike, scales: Sequence[float], n: int, seed: int
) -> list[list[np.ndarray]]:
    """`draw_scaled` around each of the means (k, d) instead of the mean of `inputs`: a list for each mean.

    All means share the n draws, so what is counted around two of them is correlated.
    """
    net, _, n, _ = checked(net, inputs, n, 1.0, "n")
    if not isinstance(inputs, Gaussian):
        raise ValueError(f"inputs: expected Gaussian, got {type(inputs).__name__}")
    means, scales = _check.array("means", means, (None, net.input_dim)), [_check.positive("scales", s) for s in scales]
    return _drawn(net, inputs, means, scales, n, torch.Generator().manual_seed(seed))


def _drawn(net, gaussian, means, scales, n, generator):
    """Packed patterns (n, bytes) for each mean and scale: [mean][scale]."""
    nets = [net.whitened(Gaussian(mean, gaussian.cov_given)) for mean in means]
    # The largest offset decides on the precision.
    small = max(nets, key=lambda one: np.abs(one.biases[0]).max(initial=0.0))
    layers = search.hidden_layers(small)
    offsets = [torch.tensor(one.biases[0], dtype=layers[0][1].dtype) for one in nets] if layers else [None] * len(nets)
    packed = [[np.empty((n, -(-net.n_hidden // 8)), dtype=np.uint8) for _ in scales] for _ in nets]
    for start in range(0, n, SAMPLES_AT_ONCE):
        x = torch.randn(min(SAMPLES_AT_ONCE, n - start), small.input_dim, generator=generator)
        noise = x.to(layers[0][1].dtype) @ layers[0][0].T if layers else x
        for offset, parts in zip(offsets, packed):
            for part, scale in zip(parts, scales):
                part[start : start + len(x)] = np.packbits(_bits(layers, small.slope, noise, offset, scale), axis=1)
    return packed


def _bits(layers, slope, noise, offset, scale):
    """Signs of all hidden units, bool (n, N): the first layer is offset + scale * noise, noise (n, m)."""
    active = np.empty((len(noise), sum(len(bias) for _, bias in layers)), dtype=bool)
    start, x = 0, torch.add(offset, noise, alpha=scale) if layers else noise
    for k, (weight, bias) in enumerate(layers):
        x = torch.addmm(bias, torch.nn.functional.leaky_relu_(x, slope) if slope else x.relu_(), weight.T) if k else x
        np.greater(x.numpy(), 0, out=active[:, start : start + len(bias)])
        start += len(bias)
    return active


def checked(net: Any, inputs: RandomInput, number: int, mass: float, name: str = "max_patterns") -> Any:
    """(net, components of the inputs, number, mass), or a ValueError."""
    net, components = as_network(net), components_of(inputs)
    if inputs.dim != net.input_dim:
        raise ValueError(f"inputs: expected dimension {net.input_dim} of the network's input, got {inputs.dim}")
    return net, components, _check.integer(name, number, 1), _check.fraction("mass", mass)
