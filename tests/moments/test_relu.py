"""ReLU moments and the bivariate normal law, against mpmath, autograd's numerical Jacobian and sampling."""

import itertools

import mpmath as mp
import numpy as np
import pytest
import torch

from rpa.moments import relu
from rpa.polytopes import bivariate, polytope

F64 = torch.float64
ALPHAS = [-40.0, -20.0, -8.0, -3.0, -0.7, 0.0, 1e-6, 2.0, 2.000001, 6.0, 40.0]
CORRELATIONS = [-1.0, -1 + 1e-12, -0.99, -0.5, -1e-9, 1e-9, 1e-3, 0.3, 0.95, 1 - 1e-6, 1 - 1e-12, 1.0]
GRID = [(a, b, r) for a, b in itertools.combinations_with_replacement(ALPHAS, 2) for r in CORRELATIONS]


def unit_mean(a):
    return mp.npdf(a) + a * mp.ncdf(a)


def reference(a1, a2, rho):
    """Cov[relu(z1 + a1), relu(z2 + a2)] by mpmath: one conditional expectation, and quadrature of what is left."""
    a1, a2, rho = mp.mpf(a1), mp.mpf(a2), mp.mpf(rho)
    product = unit_mean(a1) * unit_mean(a2)
    if rho == -1:
        cuts = [-a1, *(p for p in (-10, -5, -2, 0, 2, 5, 10) if -a1 < p < a2), a2]
        return -product if a2 <= -a1 else mp.quad(lambda z: (z + a1) * (a2 - z) * mp.npdf(z), cuts) - product
    if rho == 1:
        low = max(-a1, -a2)
        cuts = [low, low + 1, low + 4, low + 12, max(low + 40, 40)]
        return mp.quad(lambda z: (z + a1) * (z + a2) * mp.npdf(z), cuts) - product
    rest = mp.sqrt(1 - rho**2)
    kink, width = -a2 / rho, rest / abs(rho)
    cuts = {-a1 + d for d in (0, 0.02, 0.1, 0.3, 1, 3, 8, 20)} | {mp.mpf(p) for p in (-20, -8, -3, 0, 3, 8, 20, 45)}
    cuts |= {kink + d * width for d in (-30, -10, -4, -1, 0, 1, 4, 10, 30)}
    cuts = sorted(p for p in cuts if -a1 <= p <= max(40 - a1, 45))
    return mp.quad(lambda z: (z + a1) * mp.npdf(z) * rest * unit_mean((a2 + rho * z) / rest), cuts) - product


def check_covariance(cases):
    a1, a2, rho = (torch.tensor(column, dtype=F64) for column in zip(*cases))
    ones = torch.ones_like(rho)
    cov = torch.stack([torch.stack([ones, rho], 1), torch.stack([rho, ones], 1)], 1)
    found = relu.covariance(torch.stack([a1, a2], 1), cov)[:, 0, 1]
    with mp.workdps(40):
        for case, value in zip(cases, found.tolist()):
            exact = reference(*case)
            assert abs(value - exact) <= max(1e-12 * abs(exact), 1e-15), case


def test_covariance_against_mpmath():
    check_covariance(GRID[:: len(GRID) // 30])


@pytest.mark.slow
def test_covariance_against_mpmath_on_the_whole_grid():
    check_covariance(GRID)


@pytest.mark.parametrize("scale", [1.0, 1e-5, 7e4])
def test_elementwise_moments_keep_relative_accuracy(scale):
    a = torch.tensor([-37.0, -20, -12, -8, -5, -2, -1e-6, 0, 0.5, 3, 8, 40], dtype=F64)
    mu, var = a * scale, torch.full_like(a, scale) ** 2
    with mp.workdps(50):
        exact = []
        for m, v in zip(mu.tolist(), var.tolist()):
            m, s = mp.mpf(m), mp.sqrt(mp.mpf(v))
            first, second = s * unit_mean(m / s), (m**2 + s**2) * mp.ncdf(m / s) + m * s * mp.npdf(m / s)
            exact.append([float(first), float(second - first**2), float(second)])
    found = torch.stack([relu.mean(mu, var), relu.variance(mu, var), relu.second_moment(mu, var)], 1)
    np.testing.assert_allclose(found, exact, rtol=1e-12)
    single = torch.stack([relu.mean(mu.float(), var.float()), relu.variance(mu.float(), var.float())], 1).double()
    inside = a.abs() <= 8
    np.testing.assert_allclose(single[inside], np.array(exact)[inside, :2], rtol=2e-5)


def test_bivariate_cdf_at_perfect_correlation():
    a, b = torch.tensor([-1.0, 2.0, 0.5], dtype=F64), torch.tensor([0.3, -1.0, -0.2], dtype=F64)
    one = torch.ones_like(a)
    phi = bivariate.ndtr
    torch.testing.assert_close(bivariate.cdf(a, b, one), phi(torch.minimum(a, b)), rtol=1e-14, atol=0)
    torch.testing.assert_close(bivariate.cdf(a, b, -one), (phi(a) - phi(-b)).clamp(min=0), rtol=0, atol=1e-15)


def gaussian(n, seed, batch=()):
    rng = torch.Generator().manual_seed(seed)
    factor = torch.randn(*batch, n, n, dtype=F64, generator=rng)
    return 2 * torch.randn(*batch, n, dtype=F64, generator=rng), factor @ factor.mT


def test_lists_are_as_good_as_tensors():
    mean, variance, cov = [0.3, -1.0], [1.0, 0.0], [[1.0, 0.5], [0.5, 2.0]]
    tensors = [torch.tensor(v, dtype=F64) for v in (mean, variance, cov)]
    assert torch.equal(relu.mean(mean, np.array(variance)), relu.mean(*tensors[:2]))
    assert torch.equal(relu.covariance(mean, cov), relu.covariance(*tensors[::2]))


def test_gradients():
    mu, cov = gaussian(4, 0, (2,))
    symmetric = lambda f: lambda m, c: f(m, (c + c.mT) / 2)
    inputs = mu.requires_grad_(), cov.requires_grad_()
    assert torch.autograd.gradcheck(symmetric(relu.covariance), inputs)
    assert torch.autograd.gradcheck(symmetric(relu.covariance_series), inputs)
    assert torch.autograd.gradcheck(lambda c: relu.covariance_zero_mean((c + c.mT) / 2), inputs[1:])
    var = torch.rand(2, 4, dtype=F64).requires_grad_()
    for function in (relu.mean, relu.variance, relu.second_moment, relu.gain):
        assert torch.autograd.gradcheck(function, (inputs[0], var))


def test_gradients_are_finite_without_noise_and_at_perfect_correlation():
    mu = torch.tensor([0.0, 0.0, 1.0, -1.0, 2.0, 2.0], dtype=F64)
    cov = torch.zeros(6, 6, dtype=F64)
    cov[4:, 4:] = cov[1, 1] = cov[3, 3] = 1.0
    cov[1, 3] = cov[3, 1] = -1.0
    for function in (relu.covariance, relu.covariance_series, lambda m, c: relu.covariance_zero_mean(c) + m):
        m, c = mu.clone().requires_grad_(), cov.clone().requires_grad_()
        value = function(m, c)
        value.sum().backward()
        assert value.isfinite().all() and m.grad.isfinite().all() and c.grad.isfinite().all()
    var = cov.diagonal().clone().requires_grad_()
    (relu.mean(mu, var) + relu.variance(mu, var) + relu.gain(mu, var)).sum().backward()
    assert var.grad.isfinite().all()
    var = torch.tensor(1e-38, requires_grad=True)
    relu.gain(torch.tensor(30.0), var).backward()  # |mu| / var overflows
    assert var.grad == 0
    for value, variance in ((10.0, 1e-39), (0.0, 1e-45)):  # their ratio, or the reciprocal of the variance, overflows
        cov = torch.tensor([[variance, 0.0], [0.0, 1.0]], requires_grad=True)
        relu.covariance_series(torch.tensor([value, 1.0]), cov).sum().backward()
        assert cov.grad.isfinite().all()


def test_price_theorem_gives_orthant_probabilities():
    mu, cov = gaussian(3, 1)
    cov.requires_grad_()
    relu.covariance(mu, cov)[0, 1].backward()
    pair = polytope.orthant(mu[:2].numpy(), cov[:2, :2].detach().numpy())
    assert 2 * cov.grad[0, 1].item() == pytest.approx(pair.p, rel=max(1e-10, 3 * pair.rel_error))


def test_covariance_is_positive_semidefinite_and_agrees_with_its_special_cases():
    mu, cov = gaussian(60, 2)
    low_rank = cov[:, :5] @ cov[:, :5].mT
    for matrix in (cov, low_rank):
        for value in (relu.covariance(mu, matrix), relu.covariance_series(mu, matrix)):
            values = torch.linalg.eigvalsh(value)
            assert values[0] >= -1e-13 * values[-1]
    torch.testing.assert_close(relu.covariance(0 * mu, cov), relu.covariance_zero_mean(cov), rtol=1e-12, atol=1e-12)
    exact = relu.covariance(mu, cov)
    scale = cov.diagonal().sqrt()
    gap = (relu.covariance_series(mu, cov) - exact).abs() / (scale[:, None] * scale)
    assert 1e-6 < gap.max() < 0.006
    wide = relu.covariance_series(mu, cov, 40)
    torch.testing.assert_close(wide, exact, rtol=0, atol=1e-9 * exact.max().item())
    torch.testing.assert_close(relu.covariance(1e6 + mu, cov), cov, rtol=1e-9, atol=1e-9)


def test_squared_pdf_is_a_density_with_its_atom():
    mu, var = torch.tensor(0.4, dtype=F64), torch.tensor(2.0, dtype=F64)
    root = torch.linspace(1e-9, 15, 20001, dtype=F64)
    density, atom = relu.squared_pdf(root**2, mu, var)
    weight = torch.trapezoid(density * 2 * root, root) + atom
    assert weight.item() == pytest.approx(1, abs=1e-7)
    mean = torch.trapezoid(density * root**2 * 2 * root, root)
    assert mean.item() == pytest.approx(relu.second_moment(mu, var).item(), rel=1e-6)
    assert relu.squared_pdf(torch.tensor(-1.0, dtype=F64), mu, var)[0] == 0
