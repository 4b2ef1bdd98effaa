"""Fresh samples of a network's activation patterns, to measure how much probability a set of patterns holds."""

import numpy as np

from rpa import _check
from rpa.patterns.support import pattern_keys

__all__ = ["Fresh", "checked_rows"]


class Fresh:
    """Fresh samples of a network's patterns, packed (n, bytes), to measure coverage with."""

    def __init__(self, packed: np.ndarray) -> None:
        if packed.ndim != 2 or packed.dtype != np.uint8 or packed.size == 0:
            raise ValueError(f"packed: expected uint8 (n, bytes), n >= 1, got {packed.dtype} {packed.shape}")
        self.n, self._bytes = packed.shape
        self._keys, self._counts = np.unique(pattern_keys(packed), return_counts=True)

    def counts(self, patterns: np.ndarray) -> np.ndarray:
        """Samples that meet each pattern: (K,)."""
        packed = np.packbits(checked_rows("patterns", patterns), axis=1)
        if packed.shape[1] != self._bytes:
            raise ValueError(f"patterns: expected {self._bytes} bytes each, got shape {np.shape(patterns)}")
        keys = pattern_keys(packed)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._counts[at], 0)

    def coverage(self, patterns: np.ndarray) -> float:
        """Share of the samples that meet one of the patterns."""
        return float(self.counts(patterns).sum() / self.n)


def checked_rows(name: str, patterns: np.ndarray) -> np.ndarray:
    """The patterns (K, N) as booleans; ValueError for another shape or other values than 0 and 1."""
    if np.ndim(patterns) != 2:
        raise ValueError(f"{name}: expected shape (K, N), got {np.shape(patterns)}")
    return _check.pattern_array(name, patterns, np.shape(patterns)[1])
