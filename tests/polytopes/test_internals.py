"""Parts that no public answer shows sharply enough: the bivariate law, slices, slice sampling, reported errors."""

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr, ndtr
from scipy.stats import norm

from rpa.experiments import known
from rpa.inputs import Gaussian
from rpa.polytopes import bivariate, lookahead, planar, polytope, slices, trapezoid, truncated
from rpa.polytopes.tilting import minimax


def pairs(count, seed, reach):
    """(a1, a2, rho), with some correlations within 1e-9 of +-1, and log Phi2 by polygons."""
    rng = np.random.default_rng(seed)
    a, rho = rng.uniform(-reach, reach, (2, count)), rng.uniform(-1, 1, count)
    rho[::5] = np.sign(rho[::5]) * (1 - 10 ** rng.uniform(-9, -1, len(rho[::5])))
    rows = np.stack([np.stack([np.ones(count), np.zeros(count)], 1), np.stack([rho, np.sqrt(1 - rho**2)], 1)], 1)
    return *a, rho, planar.log_probability(rows, a.T)[0]


def test_bivariate_law_against_polygons():
    a1, a2, rho, log_p = pairs(400, 0, 6.0)
    found = bivariate.cdf(*map(torch.from_numpy, (a1, a2, rho))).numpy()
    np.testing.assert_allclose(found, np.exp(log_p), rtol=1e-10, atol=1e-14)
    same = rho > 0  # no difference of nearly equal probabilities
    np.testing.assert_allclose(found[same], np.exp(log_p[same]), rtol=3e-11)


def test_covariance_of_two_relus_against_the_closed_form():
    """E[q1 q2] by Phi2 and phi, with means a1, a2 and variances one."""
    a1, a2, rho, log_p = pairs(400, 1, 3.0)
    other = np.sqrt(1 - rho**2)
    x1, x2 = (a2 - rho * a1) / other, (a1 - rho * a2) / other
    product = (a1 * a2 + rho) * np.exp(log_p) + a1 * norm.pdf(a2) * ndtr(x2) + a2 * norm.pdf(a1) * ndtr(x1)
    product += other * norm.pdf(a1) * norm.pdf(x1)
    means = [a * ndtr(a) + norm.pdf(a) for a in (a1, a2)]
    found = bivariate.relu_covariance(*map(torch.from_numpy, (a1, a2, rho))).numpy()
    np.testing.assert_allclose(found, product - means[0] * means[1], atol=3e-12)
    weak = bivariate.relu_covariance(*(torch.tensor([v], dtype=torch.float64) for v in (-5.0, -6.0, 0.1)))
    assert 0 < weak.item() < 1e-8


def test_slices_agree_with_polygons():
    """Random polygons of five lines, near and a thousand deviations out; an error of the lines is passed on."""
    rng = np.random.default_rng(0)
    for far in [0.0] * 20 + [30.0] * 5:
        a = rng.standard_normal((5, 2))
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        c = a @ (far * rng.uniform(0.5, 1, 2)) + rng.exponential(0.7, 5)
        (log_p,), _ = planar.log_probability(a[None], c[None])
        found, error = slices.log_probability(np.column_stack([a, c]), np.zeros(5))
        assert abs(found - log_p) < 3e-11 and abs(found - log_p) < 3 * error + 1e-12
        moved = [f(a[None], c[None], np.full((1, 5), 1e-7))[1][0] for f in (planar.log_probability,)]
        moved.append(slices.log_probability(np.column_stack([a, c]), np.full(5, 1e-7))[1])
        for sign in (-1, 1):
            assert abs(planar.log_probability(a[None], c[None] + sign * 1e-7)[0][0] - log_p) < 3 * min(moved)


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
def test_slices_of_a_far_corner(far):
    found, error = slices.log_probability(np.array([[-1.0, 0, -far], [0, -1.0, -far]]), np.zeros(2))
    assert abs(found - 2 * log_ndtr(-far)) <= 3 * error <= 1e-15 * far**2 * 30


def test_a_move_along_an_ellipse_keeps_the_truncated_law():
    rng, rows, h = (
        np.random.default_rng(0),
        np.array([[-1.0, 0.3], [0.2, -1.0], [0.7, 0.7]]),
        np.array([-0.2, 0.1, 1.5]),
    )
    z = rng.standard_normal((400_000, 2))
    state = z[(z @ rows.T <= h).all(axis=1)]
    moved = truncated._slice_step(state, rows, h, rng)
    assert (moved @ rows.T <= h + 1e-12).all() and np.abs(moved - state).mean() > 0.3 * state.std()
    for power in (1, 2):
        before, after = state**power, moved**power
        assert (np.abs(before.mean(0) - after.mean(0)) < 6 * np.sqrt(2 / len(state)) * before.std(0)).all()


@pytest.mark.parametrize("slab", [False, True])
def test_no_weight_exceeds_its_bound(slab):
    cov, _ = known.equicorrelated(6, 0.5, -2.0)
    H, h = -np.linalg.cholesky(cov), np.full(6, -2.0)
    if slab:
        H, h = np.vstack([H, -H[:1]]), np.append(h, 2.5)
    p = trapezoid.plan(H / np.linalg.norm(H, axis=1, keepdims=True)[None], h[None])
    proposal, psi = minimax(p)
    sampler = trapezoid.PolytopeSampler(p, [proposal])
    log_w = sampler.points([0], np.random.default_rng(0).random((sampler.dim - 1, 20_000)))[1]
    assert np.isfinite(psi[0]) and log_w.max() <= psi[0] + 1e-9 and log_w.max() > psi[0] - 1.0


def test_replicates_deviate_by_the_reported_error_and_average_to_nothing():
    H, h, log_p = known.rotated_blocks(4, 3, 0)
    gaps = []
    for seed in range(12):
        found, error, deviation = polytope.replicates(H[None], h[None], rtol=0.03, seed=seed, log_floor=-np.inf)
        np.testing.assert_allclose(deviation.mean(axis=1), 0.0, atol=1e-12)
        gaps.append(np.expm1(found[0] - log_p) / error[0])
    assert 0.3 < np.sqrt(np.mean(np.square(gaps))) < 1.5


def test_derivatives_with_respect_to_the_bounds():
    """Expectation propagation's, within a fifth of those of the probability, and the method's name of an empty set."""
    cov, _ = known.autoregressive(4, 0.5, -1.0)
    H, h = -np.linalg.cholesky(cov), np.array([-1.0, -0.5, 0.3, 0.0])
    H, h = H / np.linalg.norm(H, axis=1, keepdims=True), h / np.linalg.norm(H, axis=1)
    push = lookahead.sites(trapezoid.plan(H[None], h[None])).push[0]
    value = lambda bounds: polytope.probabilities(H[None], bounds[None], rtol=1e-4)[0][0]
    slopes = [(value(h + step) - value(h - step)) / 0.02 for step in 0.01 * np.eye(4)]
    np.testing.assert_allclose(push, slopes, rtol=0.2)
    assert polytope.probability([[1.0], [-1.0]], [-1.0, -1.0], Gaussian([0.0], 1.0)).method == "empty"


@pytest.mark.parametrize("correlation, sharpness", [(0.9, 1.0), (0.2, 0.25)])
def test_what_another_sharpness_costs(monkeypatch, correlation, sharpness):
    """Twice and half the factors' precision: 1.6 and 1.5 times the error, on orthants that hold with room or without.

    Neither is better everywhere: twice errs less where half errs more, and the other way round.
    """
    inputs = Gaussian(np.zeros(20), (1 - correlation) * np.eye(20) + correlation)
    error = lambda: polytope.probability(-np.eye(20), np.zeros(20), inputs, rtol=1e-9, budget=2**13).rel_error
    ours = error()
    monkeypatch.setattr(lookahead, "SHARPNESS", sharpness)
    assert 1.25 < error() / ours < 2
