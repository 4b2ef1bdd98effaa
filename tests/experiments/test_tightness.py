"""Slopes, explained shares and their intervals, against brute force and laws that are known."""

import numpy as np
import pytest
import torch
from scipy.stats import norm, t
from torch import nn

from rpa.experiments import tightness
from rpa.subjects.imagenet import Subject


def slope_by_images(truth, found):
    return tightness.interval(tightness.slopes(truth, found, tightness.resampled(len(truth), 1)), len(truth))


def test_slopes_and_their_intervals_resample_whole_images():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((60, 10))
    found = 1.1 * truth + 0.3 + 0.1 * rng.standard_normal(truth.shape)
    slope, half = slope_by_images(truth, found)
    assert slope == pytest.approx(np.polyfit(truth.ravel(), found.ravel(), 1)[0], rel=1e-12)
    textbook = 1.96 * 0.1 / np.sqrt(truth.size)
    assert half == pytest.approx(textbook, rel=0.3)
    # Errors that an image's scores share count once per image: an interval over scores would be far too short.
    tilt = rng.normal(1.1, 0.2, (60, 1))
    slope, half = slope_by_images(truth, tilt * truth)
    x, y = truth - truth.mean(), tilt * truth - (tilt * truth).mean()
    clustered = np.sqrt((((y - slope * x) * x).sum(1) ** 2).sum()) / (x**2).sum()  # White's, one cluster an image
    assert half == pytest.approx(t.ppf(0.975, 59) * clustered, rel=0.1)
    assert slope_by_images(truth, truth) == pytest.approx((1.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("b", [2, 4, 10])
def test_intervals_of_few_images_hold_the_truth(b):
    """Of 95 % intervals for the mean slope of normal ones, as many as they say."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(500):
        truth, tilt = rng.standard_normal((b, 10)), rng.normal(1.1, 0.2, (b, 1))
        draws = tightness.slopes(truth, tilt * truth, tightness.resampled(b, seed)[:600])
        slope, half = tightness.interval(draws, b)
        held += abs(slope - 1.1) <= half
    assert held / 500 > 0.95 - 5 * np.sqrt(0.95 * 0.05 / 500)


def test_no_interval_without_two_images_or_a_statistic():
    with pytest.raises(ValueError, match="b: expected an integer >= 2"):
        tightness.resampled(1, 0)
    ones = np.ones((4, 3))
    with pytest.raises(ValueError, match="draws: expected a finite statistic, got nan"):
        slope_by_images(ones, ones)
    with pytest.raises(ValueError, match="var: expected variances > 0, got 0"):
        tightness.mean_quality(ones, 0 * ones, ones, ones, 0)
    with pytest.raises(ValueError, match="truth: expected variances > 0, got 0"):
        tightness.variance_quality(0 * ones, ones, 0)


def test_slopes_do_not_depend_on_where_zero_is():
    rng, weights = np.random.default_rng(4), tightness.resampled(9, 0)
    x, y = rng.standard_normal((2, 9, 5))
    for f in (tightness.slopes, tightness.correlations):
        np.testing.assert_allclose(f(x + 1e8, y - 1e7, weights), f(x, y, weights), atol=1e-6)


def test_each_row_of_weights_is_a_sample_of_images():
    rng = np.random.default_rng(1)
    truth, found, weights = rng.random((7, 4)), rng.random((7, 4)), tightness.resampled(7, 0)
    assert (weights[0] == 1).all() and (weights.sum(1) == 7).all()
    rows = np.repeat(np.arange(7), weights[5].astype(int))
    x, y = truth[rows].ravel(), found[rows].ravel()
    assert tightness.slopes(truth, found, weights)[5] == pytest.approx(np.polyfit(x, y, 1)[0])
    assert tightness.correlations(truth, found, weights)[5] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert tightness.shares(found, truth, weights)[5] == pytest.approx(y.sum() / x.sum())


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_the_share_of_the_effect_that_is_explained(part):
    """A method that knows half of the effect leaves a quarter of its square."""
    rng = np.random.default_rng(2)
    plain, effect, var = (rng.random((20, 5)) + 0.5 for _ in range(3))
    quality = tightness.mean_quality(plain + effect, var, plain + part * effect, plain, 0)
    error = np.sqrt(np.mean(((1 - part) * effect) ** 2 / var))
    expected = {"explained": 1 - (1 - part) ** 2, "shift": part, "error": error}
    assert {name: quality[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_variances_by_slope_ratio_and_relative_error():
    truth = np.random.default_rng(3).random((20, 5)) + 0.5
    quality = tightness.variance_quality(truth, 1.2 * truth, 0)
    expected = {"var_slope": 1.2, "var_ratio": 1.2, "var_error": 0.2, "var_slope_95": 0, "var_ratio_95": 0}
    assert quality == pytest.approx(expected, abs=1e-9)


def test_the_noise_that_is_reached_is_interpolated_in_its_logarithm():
    hits = np.zeros((3, 100, 2))
    hits[0], hits[1, :80], hits[2, :40] = 1, 1, 1
    weights = tightness.resampled(100, 0)
    margins = lambda hits: ((weights @ hits) / 100 - [0.6, 0.5]).min(-1)
    levels = [0.01, 0.1, 1.0]
    sigma, low, high = tightness.reach(levels, margins(hits))
    assert np.isclose(sigma, 10**-0.5) and 0.1 < low < sigma < high < 1
    assert tightness.reach(levels, margins(hits * 0)) == (0, 0, 0)
    assert tightness.reach(levels, margins(hits * 0 + 1)) == (np.inf,) * 3
    unknown = np.full((3, 2001), np.nan)
    assert tightness.reach(levels, unknown) == (0, 0, 0)
    assert tightness.reach(levels, np.vstack([margins(hits)[:1], unknown[1:]])) == pytest.approx((0.01,) * 3)
    unlimited = np.vstack([np.full((1, 2001), np.inf), margins(hits * 0)[1:]])
    assert tightness.reach(levels, unlimited) == pytest.approx((0.01,) * 3)
    assert tightness.reach_text(levels, (np.inf,) * 3) == "noise above 1"
    assert tightness.reach_text(levels, (0.2, 0.0, np.inf)) == "noise 0.2 (below 0.01 to above 1)"


def test_samples_that_agree_with_the_class_of_the_mean():
    """Two scores, x1 and 0, of noise with covariance R R^T: the first wins with probability Phi(x1 / |row 1 of R|)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).requires_grad_(False)
    net[1].weight[:], net[1].bias[:] = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 0.0
    root = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    x = torch.tensor([0.2, 0.6]).reshape(2, 1, 1, 1).repeat(1, 1, 1, 2)
    subject = Subject("a", "A", net, x, (0.5,), {}, {}, root=lambda i: root)
    share, _ = tightness.same_class(subject, [0, 1], np.array([[1.0, 0.0]] * 2), 0.1, 20_000, 0)
    exact = norm.cdf(np.array([0.2, 0.6]) / (0.1 / 0.5 * 5)).mean()
    assert abs(share - exact) < 6 * np.sqrt(exact * (1 - exact) / 40_000)
    share, error = tightness.same_class(subject, [0, 1], np.array([[1.0, 0.0]] * 2), 1e-4, 50, 0)
    assert share == 1 and error == 1 / 50
