"""Sensitivity maps against closed forms, exact covariances, P1's exact mixture, and sampling."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rpa.inputs import Gaussian
from rpa.moments import relu, sensitivity, two_stage
from rpa.moments.sensitivity import METHODS, noise_map
from rpa.network import ReLUNetwork
from rpa.patterns.pmf import pattern_pmf


def _net(*layers):
    return nn.Sequential(*layers).double().requires_grad_(False)


@pytest.fixture
def shallow():
    """One hidden layer on images of 5 x 4 pixels, and an image."""
    net = _net(nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 3))
    return net, torch.rand(5, 4, dtype=torch.float64)


def _noise(x, i, j, window, sigma):
    """The Gaussian of x with noise in one window."""
    variances = np.zeros(x.shape)
    variances[i : i + window, j : j + window] = sigma**2
    return Gaussian(x.numpy().ravel(), variances.ravel())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("window", [1, 2, 4])
def test_every_method_is_exact_where_the_network_is_affine(method, window):
    net = _net(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 3))
    net[2].bias.data += 100.0
    x = torch.rand(2, 5, 5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda image: net(image[None])[0], x)
    ours = noise_map(net, x, 0.3, window=window, method=method)
    assert ours.shape == (3, 6 - window, 6 - window)
    for i in range(6 - window):
        for j in range(6 - window):
            exact = 0.09 * (jacobian[:, :, i : i + window, j : j + window] ** 2).sum((1, 2, 3))
            assert torch.allclose(ours[:, i, j], exact, rtol=1e-9)


def test_one_pixel_lines_agree_with_the_exact_law_of_the_output(shallow):
    # On a line the mixture of P1 is exact; interpolation errs like the square of the nodes' spacing, here 0.025.
    net, x = shallow
    ours = noise_map(net, x, 2.0, method="lines", nodes=401)
    for i, j in ((0, 0), (2, 3), (4, 1)):
        exact = pattern_pmf(ReLUNetwork.from_torch(net), _noise(x, i, j, 1, 2.0)).output().cov
        assert np.allclose(ours[:, i, j], np.diag(exact), rtol=2e-3)


@pytest.mark.parametrize("window", [1, 2])
def test_two_stage_grows_to_the_exact_variance_with_the_order(shallow, window):
    net, x = shallow
    gaps = []
    for order in (1, 2, 8):
        ours = noise_map(net, x, 1.5, window=window, order=order)
        for i, j in ((0, 0), (1, 0), (3, 2)):
            variances = torch.from_numpy(_noise(x, i, j, window, 1.5).variances.copy())
            parts = net[0].weight, net[0].bias, net[2].weight, net[2].bias
            exact = two_stage.affine_relu_affine(*parts, x.reshape(1, -1), variances).var[0]
            gaps.append((exact - ours[:, i, j]).numpy())
    one, two, eight = np.array(gaps).reshape(3, -1)
    # Every term of the series is positive; after the n-th there remains a share of order n^-3/2.
    assert (eight > -1e-12).all() and (two >= eight).all() and (one >= two).all()
    assert two.mean() < one.mean() / 2 and eight.mean() < two.mean() / 4


def test_lines_are_exact_on_the_kink_of_a_pool():
    # Noise z on one pixel of a uniform background: the pool returns max(z, 0), with variance 1/2 - 1/(2 pi).
    net = _net(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 1, bias=False))
    ours = noise_map(net, torch.zeros(4, 4), 0.7, method="lines", nodes=3)
    exact = (0.5 - 0.5 / math.pi) * 0.49 * net[2].weight.reshape(2, 2) ** 2
    assert torch.allclose(ours[0, ::2, ::2], exact, rtol=1e-9) and torch.allclose(ours[0, 1::2, 1::2], exact, rtol=1e-9)


@pytest.fixture
def pooled():
    """A network whose pools are on their kinks on the uniform background of the image."""
    net = _net(nn.Conv2d(1, 5, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, 10), nn.ReLU(), nn.Linear(10, 2))
    x = torch.zeros(8, 8, dtype=torch.float64)
    x[2:5, 3:6] = 1.0
    return net, x


def test_lines_of_a_window_are_right_on_average_over_rotations(pooled):
    places = [(0, 0), (2, 2), (3, 4), (5, 5)]
    maps = [noise_map(*pooled, 0.5, window=3, method="lines", nodes=21, seed=seed) for seed in range(40)]
    mine = np.array([[m[:, i, j].numpy() for i, j in places] for m in maps])
    net, x = pooled
    image = nn.Sequential(nn.Unflatten(1, (1, *x.shape)), *net)
    samples = [two_stage.monte_carlo(image, _noise(x, i, j, 3, 0.5), 40_000, 0) for i, j in places]
    theirs, stderr = (np.array([getattr(s, part) for s in samples]) for part in ("var", "var_stderr"))
    spread = mine.std(0, ddof=1)
    # One rotation is off by its spread, a tenth or so; the mean over forty by little.
    assert (spread < 0.25 * theirs).all()
    assert (np.abs(mine.mean(0) - theirs) < 6 * np.hypot(stderr, spread / math.sqrt(40)) + 2e-2 * theirs).all()


def test_hat_integrals_integrate_piecewise_linear_functions_exactly():
    t = sensitivity._radii(9, 7)
    weight, gram = sensitivity._hat_integrals(t, 9)
    # E[1] = 1, E[t] = 0, E[t^2] = 9, E|t| = sqrt(2) Gamma(5) / Gamma(9/2), for t = +- a radius of nine dimensions.
    radius = math.sqrt(2) * math.gamma(5) / math.gamma(4.5)
    assert np.allclose([weight.sum(), weight @ t, t @ gram @ t, weight @ np.abs(t)], [1, 0, 9, radius], atol=1e-12)


def test_series_coefficients_are_hermite_coefficients_of_relu():
    nodes, weights = np.polynomial.legendre.leggauss(200)
    for alpha in (-2.0, 0.0, 0.7):
        z = (nodes + 1) / 2 * 14 - alpha
        density = weights * 7 * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        for n in (1, 2, 3, 5):
            hermite = np.polynomial.hermite_e.hermeval(z, [0] * n + [1])
            exact = (density * (z + alpha) * hermite).sum() / math.sqrt(math.factorial(n))
            ours = relu.coefficient(n, torch.tensor(alpha, dtype=torch.float64)).item()
            assert abs(ours - exact) < 1e-12


def test_series_coefficients_of_any_order_are_finite():
    """Parseval: with c_0 = E[relu(z + a)] their squares sum to E[relu(z + a)^2], the rest falls like N^-3/2."""
    for dtype in (torch.float32, torch.float64):
        a = torch.tensor([-1.0, 0.0, 0.5, 3.0], dtype=dtype)
        one, orders = torch.ones_like(a), [relu.coefficient(n, a) for n in range(1, 400)]
        torch.testing.assert_close(sum(c**2 for c in orders), relu.variance(a, one), rtol=0, atol=1e-4)


def test_units_that_see_nothing_add_nothing():
    net = _net(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    net[0].weight.data[:, 0] = 0.0
    for method in METHODS:
        ours = noise_map(net, torch.zeros(2, 2), 1.0, method=method)
        assert ours.isfinite().all() and ours[0, 0, 0] == 0


def test_networks_come_as_arrays_and_images_with_channels(shallow):
    net, x = shallow
    for method in METHODS:
        one = noise_map(net, x, 0.5, method=method)
        assert torch.equal(one, noise_map(net, x[None].numpy(), 0.5, method=method))
        assert torch.allclose(one, noise_map(ReLUNetwork.from_torch(net), x, 0.5, method=method), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_chosen_windows_and_several_levels_are_parts_of_the_maps(shallow, method):
    net, x = shallow
    maps = torch.stack([noise_map(net, x, sigma, window=2, method=method) for sigma in (0.1, 0.5)])
    places = np.array([[3, 1], [0, 2]])
    assert torch.allclose(noise_map(net, x, [0.1, 0.5], window=2, method=method), maps, rtol=1e-12)
    found = noise_map(net, x, [0.1, 0.5], window=2, method=method, at=places)
    assert torch.allclose(found, maps[:, :, places[:, 0], places[:, 1]], rtol=1e-12)
    assert noise_map(net, x, [0.1, 0.5], window=2, method=method, at=places[:0]).shape == (2, 3, 0)
