"""Fresh samples of a network's activation patterns, to measure how much probability a set of patterns holds."""

import numpy as np

from rpa import _check
from rpa.patterns.support import pattern_keys

__all__ = ["Fresh"]


class Fresh:
    """Fresh samples of a network's patterns, packed (n, bytes), to measure coverage with."""

    def __init__(self, packed: np.ndarray) -> None:
        if packed.ndim != 2 or packed.dtype != np.uint8 or packed.size == 0:
            raise ValueError(f"packed: expected uint8 (n, bytes), n >= 1, got {packed.dtype} {packed.shape}")
        self.n, self._bytes = packed.shape
        self._keys, self._counts = np.unique(pattern_keys(packed), return_counts=True)

    def counts(self, patterns: np.ndarray) -> np.ndarray:
        """Samples that meet each pattern: (K,)."""
        shape = np.shape(patterns)
        if len(shape) != 2 or -(-shape[1] // 8) != self._bytes:
            raise ValueError(f"patterns: expected shape (K, N) with N in {self._bytes} bytes, got {shape}")
        keys = pattern_keys(np.packbits(_check.pattern_array("patterns", patterns, shape[1]), axis=1))
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._counts[at], 0)

    def coverage(self, patterns: np.ndarray) -> float:
        """Share of the samples that meet one of the patterns."""
        return float(self.counts(patterns).sum() / self.n)
