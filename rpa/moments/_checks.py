"""Argument checks of this room, in the manner of `rpa._check`, for torch tensors."""

from typing import Any

import numpy as np
import torch

from rpa import _check


def tensor(name: str, value: Any) -> torch.Tensor:
    """A tensor as it is; numbers, lists and arrays as a float64 tensor."""
    if isinstance(value, torch.Tensor) and not value.is_complex():
        return value
    try:
        return torch.as_tensor(_check.array(name, value, (None,) * np.ndim(value)))
    except ValueError as error:
        raise ValueError(f"{name}: expected a tensor, or numbers to make one of, got {value!r}") from error


def batch(name: str, value: torch.Tensor) -> None:
    """Raise ValueError unless `value` is a floating-point tensor (b, ...) of at least one input, all numbers finite."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        found = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{name}: expected a floating-point tensor (b, ...), one row per input, got {found}")
    if value.ndim < 2:
        raise ValueError(f"{name}: expected a batch (b, ...), one row per input, got shape {tuple(value.shape)}")
    if value.numel() == 0:
        raise ValueError(f"{name}: expected at least one input, got shape {tuple(value.shape)}")
    finite(name, value)


def finite(name: str, value: torch.Tensor) -> None:
    """Raise ValueError unless all numbers of the tensor are finite."""
    if not value.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got {(~value.isfinite()).sum()} NaN or infinite")


def covariance(name: str, cov: torch.Tensor) -> None:
    """Raise ValueError unless the matrices cov (..., n, n) are symmetric and |cov_12| <= sqrt(var_1 var_2).

    Both hold up to the rounding of the largest entry. Eigenvalues are not computed: for large n they would cost more
    than the moments.
    """
    cov = cov.detach()
    rounding = 1e3 * torch.finfo(cov.dtype).eps * cov.abs().amax()
    gap = (cov - cov.mT).abs().amax()
    if gap > rounding:
        raise ValueError(f"{name}: expected a symmetric matrix, got |C - C^T| up to {gap:g}")
    var = cov.diagonal(dim1=-2, dim2=-1)
    if (var < 0).any():
        raise ValueError(f"{name}: variances must not be negative, got {var.min():g}")
    sigma = var.sqrt()
    excess = (cov.abs() > sigma[..., :, None] * sigma[..., None, :] + rounding).sum()
    if excess:
        raise ValueError(f"{name}: expected |cov12| <= sqrt(var1 var2), violated in {excess} entries")
