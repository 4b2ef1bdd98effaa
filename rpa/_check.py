"""Argument checks shared by every public function: one sentence that names the culprit.

Each function returns the argument as a fresh float64 array (or raises `ValueError`), so that callers
never alter what they were given.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

__all__ = ["array", "covariance", "device", "fraction", "index", "integer", "pattern_array", "positive"]


def array(name: str, value: object, shape: tuple[int | None, ...]) -> Array:
    """`value` as a finite float64 array of `shape`; a `None` in `shape` matches any length."""
    try:
        result = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected numbers of shape {_show(shape)}, got {type(value).__name__}") from error
    fits = result.ndim == len(shape) and all(s is None or s == n for s, n in zip(shape, result.shape))
    if not fits:
        raise ValueError(f"{name}: expected shape {_show(shape)}, got {result.shape}")
    if not np.isfinite(result).all():
        raise ValueError(
            f"{name}: expected finite numbers, got {np.count_nonzero(~np.isfinite(result))} NaN or infinite"
        )
    return result


def covariance(name: str, value: ArrayLike, dim: int) -> Array:
    """A variance (scalar), variances (dim,) or covariance (dim, dim) as float64; positive semidefinite."""
    ndim = np.ndim(value)
    if ndim > 2:
        raise ValueError(f"{name}: expected a scalar, ({dim},) or ({dim}, {dim}), got shape {np.shape(value)}")
    cov = array(name, value, (dim,) * ndim)
    if ndim < 2:
        if (cov < 0).any():
            raise ValueError(f"{name}: variances must not be negative, got {cov.min():g}")
        return cov
    scale = np.abs(cov).max(initial=0.0)
    asymmetry = np.abs(cov - cov.T).max(initial=0.0)
    if asymmetry > 1e-9 * scale:
        raise ValueError(f"{name}: expected a symmetric matrix, got |C - C^T| up to {asymmetry:g}")
    cov = (cov + cov.T) / 2
    smallest = np.linalg.eigvalsh(cov)[0] if dim else 0.0
    if smallest < -1e-10 * scale:
        raise ValueError(f"{name}: expected a positive semidefinite matrix, got an eigenvalue {smallest:g}")
    return cov


def positive(name: str, value: object) -> float:
    """A finite float > 0."""
    number = float(array(name, value, ()))
    if number <= 0:
        raise ValueError(f"{name}: expected a positive number, got {number:g}")
    return number


def fraction(name: str, value: object) -> float:
    """A float in (0, 1]."""
    number = positive(name, value)
    if number > 1:
        raise ValueError(f"{name}: expected a number in (0, 1], got {number:g}")
    return number


def integer(name: str, value: object, low: int = 0) -> int:
    """An int >= `low`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"{name}: expected an integer >= {low}, got {value!r}")
    return int(value)


def index(name: str, value: object, length: int) -> int:
    """An int in [0, length)."""
    number = integer(name, value)
    if number >= length:
        raise ValueError(f"{name}: expected an index below {length}, got {number}")
    return number


def device(name: str, value: object) -> str | None:
    """A device as torch names it, on which a tensor can be made; None is the CPU."""
    import torch

    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(f"{name}: expected one of {', '.join(there)} or None, got {value!r}") from error
    return None if value is None else str(value)


def pattern_array(name: str, value: ArrayLike, n_hidden: int) -> NDArray[np.bool_]:
    """Activation patterns as a bool array whose last axis has one entry per hidden unit."""
    result = np.asarray(value)
    if result.ndim == 0 or result.shape[-1] != n_hidden:
        raise ValueError(f"{name}: expected {n_hidden} entries, one per hidden unit, got shape {result.shape}")
    if result.dtype != bool and not np.isin(result, (0, 1)).all():
        raise ValueError(f"{name}: expected booleans or 0/1, got other values of type {result.dtype}")
    return result.astype(bool)


def _show(shape):
    return "(" + ", ".join("any" if s is None else str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"
