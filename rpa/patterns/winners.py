"""Which class wins: the argmax of the outputs, at points and as half-spaces on a region. The first of equal ones wins.

A network with one output is read as a logit: class 0 is f(x) <= 0, class 1 is f(x) > 0.
"""

from typing import Any

import numpy as np


def winner(f: np.ndarray) -> np.ndarray:
    """The class (n,) of outputs f (n, k)."""
    return f.argmax(axis=1) if f.shape[1] > 1 else (f[:, 0] > 0).astype(int)


def logits(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Affine outputs A (K, k, r), b (K, k), one per class: a single output becomes class 1, and 0 class 0."""
    if A.shape[1] > 1:
        return A, b
    return np.concatenate([np.zeros_like(A), A], axis=1), np.column_stack([np.zeros(len(b)), b])


def wins(A: np.ndarray, b: np.ndarray, c: int) -> Any:
    """Half-spaces (rows (K, k-1, r), limits (K, k-1)) on which output c of A z + b is the argmax."""
    others = np.delete(np.arange(A.shape[1]), c)
    rows, limits = A[:, others] - A[:, [c]], b[:, [c]] - b[:, others]
    tie_lost = (np.abs(rows).max(axis=2) == 0) & (limits == 0) & (others < c)
    return rows, np.where(tie_lost, -1.0, limits)
