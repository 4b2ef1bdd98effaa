"""Mean and variance of a function of a random input by Monte Carlo, with the standard errors of both.

This is the referee of the closed forms: `monte_carlo` evaluates the function itself on chunks of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from rpa import _check
from rpa.inputs import Gaussian, GaussianMixture, components_of
from rpa.moments.prepared import dtype_of
from rpa.tracing.graph import check_evaluable


class SampleMoments(NamedTuple):
    """Monte Carlo means and variances (k,) with their standard errors, from n samples."""

    mean: np.ndarray
    var: np.ndarray
    stderr: np.ndarray
    var_stderr: np.ndarray
    n: int


def monte_carlo(
    f: Callable[[Any], Any],
    inputs: Gaussian | GaussianMixture,
    n: int,
    seed: int | Sequence[int],
    *,
    chunk: int = 4096,
) -> SampleMoments:
    """Mean and variance of f(x), x ~ inputs (a Gaussian or a GaussianMixture), from n >= 2 samples.

    f maps (chunk, d) float64 to (chunk, k) or (chunk,); a torch module gets tensors of its own type, without
    gradient. The standard error of the variance uses the fourth moment, sqrt((m4 - var^2 (n - 3) / (n - 1)) / n).
    Results depend on seed and chunk only.
    """
    n, chunk = _check.integer("n", n, 2), _check.integer("chunk", chunk, 1)
    components_of(inputs)  # refuses what is neither a Gaussian nor a mixture
    if not callable(f):
        raise ValueError(f"f: expected a function or a torch module, got {type(f).__name__}")
    if isinstance(f, nn.Module):
        check_evaluable(f)
    rng = np.random.default_rng(_check.seed("seed", seed))
    centre, scale, sums = None, np.ones(()), np.zeros(())
    for start in range(0, n, chunk):
        y = _evaluate(f, inputs.sample(min(chunk, n - start), rng))
        if centre is None:
            centre = y.mean(0)
            scale = np.ldexp(1.0, np.frexp(abs(y - centre).max(0))[1] - 1)  # fourth powers stay in range
        y = (y - centre) / scale
        square = y * y  # y**3 and y**4 would take ten times as long
        sums = sums + np.stack([part.sum(0) for part in (y, square, square * y, square * square)])
    # Sums about a point close to the mean lose nothing when moved to the mean.
    m1, m2, m3, m4 = sums / n
    var = m2 - m1**2
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    unbiased = var * n / (n - 1)
    var_stderr = np.sqrt(np.maximum(fourth - unbiased**2 * (n - 3) / (n - 1), 0) / n)
    mean, stderr = centre + m1 * scale, np.sqrt(unbiased / n) * scale
    return SampleMoments(mean, unbiased * scale**2, stderr, var_stderr * scale**2, n)


def _evaluate(f, x):
    if isinstance(f, nn.Module):
        rows = torch.as_tensor(x, dtype=dtype_of(f))
        try:
            with torch.no_grad():
                y = f(rows)
        except RuntimeError:
            check_evaluable(f, rows, "inputs")
            raise
    else:
        y = f(x)
    y = _check.array("f", y, (None,) * np.ndim(y))
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(f"f: expected one row per input, ({len(x)}, k) or ({len(x)},), got shape {y.shape}")
    return y.reshape(len(x), -1)
