"""How tight analytic moments are: slopes, the share of the noise's effect that they explain, and their errors.

Arrays are (images, scores). The scores of one image err together, so every interval resamples whole images: `resampled`
gives the weights, of which the first row counts each image once, and a statistic of that row is the estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from rpa import _check

if TYPE_CHECKING:
    from rpa.subjects.imagenet import Subject

RESAMPLES = 2000


def resampled(b: int, seed: int) -> np.ndarray:
    """Weights (2001, b) of b >= 2 images: all 1, then 2000 bootstrap samples of the images."""
    b = _check.integer("b", b, 2)
    drawn = np.random.default_rng(seed).multinomial(b, np.full(b, 1 / b), RESAMPLES)
    return np.vstack([np.ones(b), drawn])


def interval(draws: np.ndarray, b: int) -> tuple[float, float]:
    """(estimate, half width of its 95 % interval) of a statistic of the rows of `resampled`, of b images.

    Resampling alone is too narrow for few images, as a normal interval is: by sqrt((b - 1) / b), and by the ratio of
    the normal law's quantile to that of Student's t. Raises ValueError for a statistic that is not finite.
    """
    low, high = np.nanquantile(draws[1:], [0.025, 0.975]) if np.isfinite(draws[0]) else (np.nan, np.nan)
    if not np.isfinite(high - low):
        raise ValueError(f"draws: expected a finite statistic, got {draws[0]}: do all images have the same scores?")
    factor = np.sqrt(b / (b - 1)) * stdtrit(b - 1, 0.975) / ndtri(0.975)
    return float(draws[0]), float(factor * (high - low) / 2)


@np.errstate(divide="ignore", invalid="ignore")
def slopes(truth: ArrayLike, found: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """Slope of the line fitted to `found` against `truth` (least squares, with intercept), for each row of weights."""
    var, _, cov = _second_moments(truth, found, weights)
    return cov / var


@np.errstate(divide="ignore", invalid="ignore")
def correlations(truth: ArrayLike, found: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """Correlation of `found` with `truth` over all images and scores, for each row of weights."""
    var, other_var, cov = _second_moments(truth, found, weights)
    return cov / np.sqrt(var * other_var)


def _second_moments(x, y, weights):
    """Variances of x and y and their covariance over weighted images and all scores, times the squared weight."""
    x, y = (each - each.mean() for each in (np.asarray(x, dtype=float), np.asarray(y, dtype=float)))
    parts = (np.ones_like(x), x, y, x * x, y * y, x * y)
    n, x, y, xx, yy, xy = np.stack([part.sum(1) for part in parts]) @ weights.T
    return n * xx - x * x, n * yy - y * y, n * xy - x * y


@np.errstate(divide="ignore", invalid="ignore")
def shares(above: ArrayLike, below: ArrayLike, weights: np.ndarray) -> np.ndarray:
    """sum(above) / sum(below) over images and scores, for each row of weights."""
    return (weights @ np.sum(above, 1, float)) / (weights @ np.sum(below, 1, float))


def mean_quality(truth: ArrayLike, var: ArrayLike, found: ArrayLike, plain: ArrayLike, seed: int) -> dict:
    """How well the means `found` give the sampled ones, `truth`, of variances `var`; plain: the scores without noise.

    slope of found against truth; shift, the slope of the noise's effect, found - plain against truth - plain;
    explained, the share of that effect: 1 - sum((found - truth)^2 / var) / sum((plain - truth)^2 / var), which is 1 for
    an exact method and 0 for the plain pass; each with the half width of its interval, "slope_95" and so on; error,
    the root mean square of (found - truth) / standard deviation.
    """
    truth, var, found, plain = map(np.asarray, (truth, var, found, plain))
    if not (var > 0).all():
        raise ValueError(f"var: expected variances > 0, got {var.min():g}")
    weights = resampled(len(truth), seed)
    missed, effect = (found - truth) ** 2 / var, (plain - truth) ** 2 / var
    parts = {
        "slope": slopes(truth, found, weights),
        "shift": slopes(truth - plain, found - plain, weights),
        "explained": 1 - shares(missed, effect, weights),
    }
    return _named(parts, len(truth)) | {"error": float(np.sqrt(missed.mean()))}


def variance_quality(truth: ArrayLike, found: ArrayLike, seed: int) -> dict:
    """How well the variances `found` give the sampled ones, `truth`.

    var_slope of found against truth and var_ratio, sum(found) / sum(truth), each with the half width of its interval;
    var_error, the root mean square of found / truth - 1.
    """
    truth, found = np.asarray(truth), np.asarray(found)
    if not (truth > 0).all():
        raise ValueError(f"truth: expected variances > 0, got {truth.min():g}")
    weights = resampled(len(truth), seed)
    parts = {"var_slope": slopes(truth, found, weights), "var_ratio": shares(found, truth, weights)}
    return _named(parts, len(truth)) | {"var_error": float(np.sqrt(np.mean((found / truth - 1) ** 2)))}


def _named(parts, b):
    """{name: estimate, name_95: half width} of several statistics of b images."""
    intervals = {name: interval(draws, b) for name, draws in parts.items()}
    return {f"{name}{end}": each[i] for name, each in intervals.items() for i, end in enumerate(("", "_95"))}


def reach(sigmas: Sequence[float], margins: np.ndarray) -> tuple[float, float, float]:
    """(sigma, low, high): the noise up to which a claim holds, and its 95 % interval over images.

    sigmas (s,) rising; margins (s, 2001), a statistic of the rows of `resampled` at each noise, >= 0 where the claim
    holds. Between two levels the margin is interpolated in log sigma. 0 where it fails at the lowest level, infinity
    where it holds at the highest.
    """
    log, found = np.log(sigmas), []
    for margin in margins.T:
        held = np.logical_and.accumulate(margin >= 0).sum()
        if 0 < held < len(log):
            above, below = margin[held - 1], margin[held]
            share = above / (above - below) if np.isfinite(above - below) else 0.0
            found.append(np.exp(log[held - 1] + share * (log[held] - log[held - 1])))
        else:
            found.append(np.inf if held else 0.0)
    low, high = np.quantile(found[1:], [0.025, 0.975], method="nearest")
    return float(found[0]), float(low), float(high)


def reach_text(sigmas: Sequence[float], reached: tuple[float, float, float]) -> str:
    """`reach` in words: "noise 0.031 (0.024 to above 0.1)"."""
    low, high = f"below {sigmas[0]:g}", f"above {sigmas[-1]:g}"
    words = [low if sigma == 0 else high if np.isinf(sigma) else f"{sigma:.2g}" for sigma in reached]
    return f"noise {words[0]}" if len(set(words)) == 1 else "noise {} ({} to {})".format(*words)


def same_class(
    subject: Subject, images: Sequence[int], means: np.ndarray, sigma: float, n: int, seed: int
) -> tuple[float, float]:
    """(share, standard error over images) of n noisy samples of each image with the class of its analytic mean.

    images: numbers among those of a subject with correlated noise; means (images, scores).
    """
    share = []
    for i, scores in zip(images, means):
        z = torch.randn(n, subject.x[0].numel(), generator=torch.Generator().manual_seed(seed + int(i)))
        noisy = subject.x[[i]] + (z @ subject.scale(sigma)(i).T).unflatten(1, subject.x.shape[1:])
        share.append(np.mean(subject.net(noisy).argmax(1).numpy() == scores.argmax()))
    # Where all samples agree, one of an image's n may still differ.
    return float(np.mean(share)), float(max(np.std(share), 1 / n) / np.sqrt(len(share) - 1))
