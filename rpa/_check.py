"""Argument checks of the public functions: each returns the checked value, or raises a ValueError that names it.

Arrays are returned as copies, so that callers never change their arguments.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

ROUNDING = 5e-13  # smaller variances, relative to the largest, may be rounding errors
ASYMMETRY = 1e-9  # tolerated asymmetry of the correlations
INDEFINITE = 1e-10  # tolerated size of a negative eigenvalue of the correlations


def array(name: str, value: object, shape: tuple[int | None, ...]) -> Array:
    """`value` as a finite float64 array of `shape`; a `None` in `shape` matches any length."""
    plain: Any = value
    shown = str(shape).replace("None", "any")
    try:
        if hasattr(plain, "detach"):  # a tensor of torch may require gradients, or be bfloat16
            plain = plain.detach().cpu()
            plain = plain if plain.is_complex() else plain.double()
        given = np.asarray(plain)
        if given.dtype.kind not in "biufO" or np.ma.is_masked(value):
            raise TypeError("no numbers")
        result = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        kind = f"{type(value).__name__} {getattr(value, 'dtype', '')}".strip()
        raise ValueError(f"{name}: expected real numbers of shape {shown}, none masked, got {kind}") from error
    if result.ndim != len(shape) or not all(s is None or s == n for s, n in zip(shape, result.shape)):
        raise ValueError(f"{name}: expected shape {shown}, got {result.shape}")
    if not np.isfinite(result).all():
        count = np.count_nonzero(~np.isfinite(result))
        raise ValueError(f"{name}: expected finite numbers, got {count} NaN or infinite")
    return result


def several(name: str, value: Any) -> tuple:
    """The items of a sequence, or of another iterable."""
    try:
        return tuple(value)
    except TypeError as error:
        raise ValueError(f"{name}: expected a sequence, got {type(value).__name__}") from error


def covariance(name: str, value: ArrayLike, dim: int) -> Array:
    """A variance (scalar), variances (dim,) or covariance (dim, dim) as float64; positive semidefinite.

    The eigenvalues of the correlations must not be negative, where ROUNDING times the largest variance is added to
    each, since small variances may be rounding errors.
    """
    try:
        ndim = np.ndim(value)
    except ValueError:  # uneven rows
        ndim = 3
    if ndim > 2:
        raise ValueError(f"{name}: expected a scalar, ({dim},) or ({dim}, {dim}), got more axes or uneven rows")
    cov = array(name, value, (dim,) * ndim)
    if ndim < 2:
        if (cov < 0).any():
            raise ValueError(f"{name}: variances must not be negative, got {cov.min():g}")
        return cov
    variances = np.diag(cov).copy()
    floor = ROUNDING * np.abs(cov).max(initial=0.0)
    scale = np.sqrt(np.maximum(variances, 0.0) + floor)
    scale[scale == 0] = 1.0
    asymmetry = np.abs(cov - cov.T) / scale / scale[:, None]
    if asymmetry.max(initial=0.0) > ASYMMETRY:
        worst = np.unravel_index(asymmetry.argmax(), asymmetry.shape)
        raise ValueError(f"{name}: expected a symmetric matrix, got |C - C^T| = {abs(cov - cov.T)[worst]:g} at {worst}")
    cov = cov / 2 + cov.T / 2
    smallest = np.linalg.eigvalsh((cov + floor * np.eye(dim)) / scale / scale[:, None])[0] if dim else 0.0
    if smallest < -INDEFINITE:
        reason = f"got an eigenvalue {smallest:g} of the correlations"
        hint = "if it comes from single precision, add 1e-6 of each variance to the diagonal"
        raise ValueError(f"{name}: expected a positive semidefinite matrix, {reason}; {hint}")
    np.fill_diagonal(cov, np.maximum(variances, 0.0))
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
    """An int >= `low` that fits in 64 bits."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value < 2**63:
        raise ValueError(f"{name}: expected an integer >= {low} and below 2^63, got {value!r}")
    return int(value)


def seed(name: str, value: Any) -> Any:
    """A seed for `numpy.random.default_rng` that gives the same draws again: an integer, integers or a generator."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(value, np.random.Generator):
        return value
    if not values or not all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v >= 0 for v in values):
        raise ValueError(f"{name}: expected integers >= 0 or a numpy Generator, got {value!r}")
    return value


def index(name: str, value: object, length: int) -> int:
    """An int in [0, length)."""
    number = integer(name, value)
    if number >= length:
        raise ValueError(f"{name}: expected an index below {length}, got {number}")
    return number


def device(name: str, value: object) -> str | None:
    """torch's name of a device on which it can create tensors; None is the CPU."""
    import torch

    try:
        torch.empty(0, device=value).cpu()  # "meta" holds no numbers
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
