"""Numbers that carry their errors: what every functional of an output law returns."""

from __future__ import annotations

from typing import Any

import numpy as np


class Estimate(np.ndarray):
    """An array of estimates: a NumPy array with `error`, `lower` and `upper`, arrays of its shape.

    error: one standard error; three of them cover the truth in at least 99 % of cases. lower, upper: bounds that hold
    whatever was not found (up to three errors of what was), infinite where there are none. Indexing keeps all four
    together; arithmetic gives plain arrays.

    >>> p = Estimate([0.25, 0.75], [0.01, 0.02])
    >>> p
    [0.25 ± 0.01, 0.75 ± 0.02]
    >>> float(p[1]), float(p[1].error), 2 * p
    (0.75, 0.02, array([0.5, 1.5]))
    """

    error: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    def __new__(cls, value: Any, error: Any, lower: Any = -np.inf, upper: Any = np.inf) -> Estimate:
        array = np.array(value, dtype=float).view(cls)
        parts = (np.broadcast_to(np.asarray(part, dtype=float), array.shape) for part in (error, lower, upper))
        array.error, array.lower, array.upper = parts
        return array

    @property
    def p(self) -> np.ndarray:
        """The values as a plain array, by the name that probabilities have throughout the package."""
        return np.asarray(self)

    def __getitem__(self, index: Any) -> Any:
        return Estimate(*(part[index] for part in (np.asarray(self), self.error, self.lower, self.upper)))

    def __array_finalize__(self, source: Any) -> None:
        if getattr(source, "shape", None) == self.shape and hasattr(source, "error"):
            self.error, self.lower, self.upper = source.error, source.lower, source.upper

    def __reduce__(self) -> tuple:
        return Estimate, (np.asarray(self), np.array(self.error), np.array(self.lower), np.array(self.upper))

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        plain = np.asarray(array)
        return plain[()] if return_scalar else plain

    def __repr__(self) -> str:
        if not hasattr(self, "error"):  # a reshaped view
            return repr(np.asarray(self))
        if self.size > 16:
            return f"Estimate of shape {self.shape}, errors up to {self.error.max():.2g}"
        if self.ndim:
            return "[" + ", ".join(repr(row) for row in self) + "]"
        return f"{float(self):.6g} ± {float(self.error):.2g}"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return super().__format__(spec) if spec else repr(self)
