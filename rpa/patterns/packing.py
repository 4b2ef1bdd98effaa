"""Activation patterns as keys: eight units to a byte, and 64 bits for a whole pattern."""

from __future__ import annotations

import numpy as np

__all__ = ["among", "first_and_counts", "pattern_keys", "shifts"]


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


def first_and_counts(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the first of each distinct row, in order, and how often the row occurs."""
    _, first, counts = np.unique(pattern_keys(packed), return_index=True, return_counts=True)
    order = np.argsort(first)
    return first[order], counts[order]
