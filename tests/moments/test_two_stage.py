"""Moments of networks: exact cases, agreement of every form of the same computation, sampling, and P1's exact law."""

from itertools import product

import numpy as np
import pytest
import torch
from helpers import random_gaussian, random_mixture, random_network
from torch import nn

from rpa.inputs import Gaussian
from rpa.moments import pooling, relu, two_stage
from rpa.moments.layerwise import RULES, layerwise
from rpa.patterns.pmf import pattern_pmf
from rpa.subjects._torchvision import import_torchvision

F64 = torch.float64


def perceptron(sizes, seed):
    return random_network(sizes, seed).to_torch().requires_grad_(False)


def convolutional(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)]
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


IMAGES = torch.randn(2, 1, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(1)) / 2


def close(first, second, atol=1e-12):
    torch.testing.assert_close(first.mean, second.mean, rtol=1e-10, atol=atol)
    torch.testing.assert_close(first.cov, second.cov, rtol=1e-10, atol=atol)


def one_hidden_layer(net, gaussian):
    weights = [part for layer in (net[0], net[2]) for part in (layer.weight, layer.bias)]
    return two_stage.affine_relu_affine(*weights, torch.tensor(gaussian.mean)[None], torch.tensor(gaussian.cov))


@pytest.mark.parametrize("seed", range(3))
def test_one_hidden_layer_equals_the_mixture_of_the_exact_pattern_pmf(seed):
    """The two papers agree: P2's corollary is the moment of P1's output law."""
    gaussian = random_gaussian(2, seed, spread=2.0)
    network = random_network([2, 12, 3], seed)
    law = pattern_pmf(network, gaussian).output()
    found = one_hidden_layer(network.to_torch().requires_grad_(False), gaussian)
    np.testing.assert_allclose(found.mean[0], law.mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.cov[0], law.cov, rtol=0, atol=1e-9)


def assert_within_six_sigma(net, gaussian, n):
    found = one_hidden_layer(net, gaussian)
    mean, cov = found.mean[0].numpy(), found.cov[0].numpy()

    def products(x):
        with torch.no_grad():
            y = net(torch.as_tensor(x)).numpy() - mean
        return np.concatenate([y, (y[:, :, None] * y[:, None, :]).reshape(len(y), -1)], axis=1)

    sampled = two_stage.monte_carlo(products, gaussian, n, 7, chunk=100_000)
    exact = np.concatenate([0 * mean, cov.ravel()])
    assert (np.abs(sampled.mean - exact) < 6 * sampled.stderr).all()


def test_one_hidden_layer_agrees_with_sampling():
    assert_within_six_sigma(perceptron([6, 20, 3], 0), random_gaussian(6, 1, spread=2.0), 400_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_one_hidden_layer_agrees_with_ten_million_samples(seed):
    assert_within_six_sigma(perceptron([6, 20, 3], seed), random_gaussian(6, seed, spread=2.0), 10_000_000)


def test_every_form_is_exact_for_one_hidden_layer():
    gaussian = random_gaussian(6, 2)
    net = perceptron([6, 15, 3], 1)
    x, cov = torch.tensor(gaussian.mean)[None], torch.tensor(gaussian.cov)
    exact = one_hidden_layer(net, gaussian)
    first, second = two_stage.splits(net)[0]
    close(layerwise(net, x, cov), exact)
    close(two_stage.two_stage(first, second, x, cov, rule="exact"), exact)
    torch.testing.assert_close(two_stage.two_stage_mean(first, second, x, cov), exact.mean)


@pytest.mark.parametrize("rule", two_stage.RULES)
def test_the_ways_to_say_the_same_noise_agree(rule):
    x = torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(2))
    first, second = two_stage.splits(perceptron([6, 9, 7, 2], 3))[1]
    scalar = two_stage.two_stage(first, second, x, 0.3, rule=rule)
    maps = torch.full((6,), 0.3, dtype=F64), torch.full((3, 6), 0.3, dtype=F64)
    for noise in (*maps, 0.3 * torch.eye(6, dtype=F64)):
        close(two_stage.two_stage(first, second, x, noise, rule=rule), scalar)
    close(two_stage.two_stage(first, second, x, 0.3, x, rule=rule), scalar)
    some = two_stage.two_stage(first, second, x, 0.3, rule=rule, outputs=[1])
    torch.testing.assert_close(some.cov[:, 0, 0], scalar.var[:, 1])


def test_two_stage_without_jacobians_equals_two_stage_with_them():
    net = convolutional()
    first, second = two_stage.splits(net)[0]
    full = 0.05 * torch.eye(64, dtype=F64)
    for rule, points in product(two_stage.ADJOINT, (None, IMAGES.flip(3)[:2])):
        adjoint, dense = (two_stage.two_stage(first, second, IMAGES, cov, points, rule=rule) for cov in (0.05, full))
        close(adjoint, dense)
    mean = two_stage.two_stage_mean(first, second, IMAGES, 0.05)
    torch.testing.assert_close(two_stage.two_stage(first, second, IMAGES, full).mean, mean)


def test_shared_points_are_exact_inside_one_linear_region():
    net = perceptron([4, 8, 8, 2], 4)
    first, second = two_stage.splits(net)[1]
    x = torch.randn(1, 4, dtype=F64) + 1e-6 * torch.randn(5, 4, dtype=F64)
    point = two_stage.centres(x, 1, 0)
    shared, own = (two_stage.two_stage(first, second, x, 0.1, p) for p in (point, None))
    torch.testing.assert_close(shared.mean, own.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shared.cov, own.cov, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["exact", "series", "linear"])
def test_layerwise_does_not_depend_on_how_the_noise_is_given(rule):
    net = convolutional()
    scalar = layerwise(net, IMAGES, 0.05, rule)
    close(layerwise(net, IMAGES, torch.full((1, 8, 8), 0.05, dtype=F64), rule), scalar)
    close(layerwise(net, IMAGES, 0.05 * torch.eye(64, dtype=F64), rule), scalar)


def test_layerwise_keeps_the_linear_term_in_layers_too_large():
    net = convolutional()
    close(layerwise(net, IMAGES, 0.05, "exact", max_dense=1), layerwise(net, IMAGES, 0.05, "linear"))


def test_layerwise_agrees_with_sampling_where_noise_is_small():
    net = convolutional()
    found = layerwise(net, IMAGES[:1], 0.0025)
    flat = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), net)
    sampled = two_stage.monte_carlo(flat, Gaussian(IMAGES[0].flatten().numpy(), 0.0025), 100_000, 5)
    # An approximation: within a tenth of a standard deviation, and a tenth of the variance.
    assert (np.abs(found.mean[0].numpy() - sampled.mean) < 0.1 * np.sqrt(sampled.var)).all()
    assert (np.abs(found.var[0].numpy() / sampled.var - 1) < 0.1).all()


def test_diagonal_rule_is_exact_for_independent_units():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double().requires_grad_(False)
    net[0].weight.copy_(torch.diag(torch.tensor([1.0, -2, 0.5])))
    x = torch.tensor([[0.2, -0.1, 0.7]], dtype=F64)
    diagonal, exact = (layerwise(net, x, 0.4, rule) for rule in ("diagonal", "exact"))
    torch.testing.assert_close(diagonal.var, exact.var)


@pytest.mark.parametrize("width", [2, 4])
def test_maxima_against_sampling(width):
    rng = np.random.default_rng(0)
    factor, mean, n = rng.standard_normal((4, 4)), rng.standard_normal(4), 1_000_000
    cov = (factor @ factor.T)[:width, :width]
    x = rng.multivariate_normal(mean[:width], cov, n)
    top, wins = x.max(1), np.bincount(x.argmax(1), minlength=width) / n
    m, v, gains = (part[0] for part in pooling.maximum(torch.tensor(mean[:width])[None], torch.tensor(cov)[None])[:3])
    # Six standard errors, and what 2048 cubature points leave.
    allowance = 0.005
    assert m.item() == pytest.approx(top.mean(), abs=(6 / np.sqrt(n) + allowance) * top.std())
    assert v.item() == pytest.approx(top.var(), rel=12 / np.sqrt(n) + allowance)
    np.testing.assert_allclose(gains, wins, atol=6 / np.sqrt(n) + allowance)


def test_gradients():
    net = convolutional()
    x, var = IMAGES.clone().requires_grad_(), torch.full((1, 8, 8), 0.05, dtype=F64).requires_grad_()
    first, second = two_stage.splits(net)[0]
    assert torch.autograd.gradcheck(lambda a, b: two_stage.two_stage_mean(first, second, a, b), (x, var))
    assert torch.autograd.gradcheck(lambda b: two_stage.two_stage(first, second, IMAGES, b), (var,))
    assert torch.autograd.gradcheck(lambda b: layerwise(net, IMAGES, b, "diagonal").mean, (var,))


@pytest.mark.parametrize("net", [perceptron([64, 30, 70, 2], 5), convolutional()])
def test_layerwise_says_the_same_with_gradients_and_without(net):
    """With them all covariances are dense; without, the linear rule holds factors of some."""
    x = IMAGES[:1] if isinstance(net[0], nn.Conv2d) else IMAGES[:1].flatten(1)
    noise = torch.full(x.shape[1:], 0.05, dtype=F64)
    noise[..., ::2] = 0
    close(layerwise(net, x, noise.clone().requires_grad_(), "linear"), layerwise(net, x, noise, "linear"))


def test_layerwise_has_gradients_also_where_there_is_no_noise():
    net, x = perceptron([4, 9, 8, 2], 5), torch.ones(1, 4, dtype=F64)
    noise = torch.tensor([0.0, 0.1, 0.2, 0.0], dtype=F64, requires_grad=True)
    total = lambda noise: layerwise(net, x, noise, "linear").cov.sum()
    (slopes,) = torch.autograd.grad(total(noise), noise)
    for slope, way in zip(slopes, torch.eye(4, dtype=F64)):
        ahead, further = (total(noise.detach() + h * way) for h in (1e-5, 2e-5))
        difference = (4 * ahead - further - 3 * total(noise)) / 2e-5  # one-sided, of second order
        torch.testing.assert_close(slope, difference.detach(), rtol=1e-5, atol=1e-9)


def test_a_split_squeezenet_is_the_same_function():
    torch.manual_seed(0)
    net = import_torchvision().models.squeezenet1_0(num_classes=7).eval().requires_grad_(False)
    x = torch.randn(2, 3, 65, 65)
    for first, second in two_stage.splits(net)[::9]:
        torch.testing.assert_close(second(torch.relu(first(x))), net(x), rtol=1e-4, atol=1e-5)
    mean = two_stage.two_stage_mean(*two_stage.splits(net)[0], x, 0.01)
    assert mean.shape == (2, 7) and mean.isfinite().all()
    assert layerwise(net, x, 0.01, "diagonal").cov.shape == (2, 7, 7)


def test_monte_carlo_errors_are_honest():
    inputs = random_mixture(3, 0)
    scale = np.array([1.0, 2.0, 3.0])
    exact_var = scale**2 * np.diag(inputs.cov)
    runs = [two_stage.monte_carlo(lambda x: x * scale + 1e3, inputs, 4000, seed, chunk=700) for seed in range(60)]
    mean_gap = np.array([(r.mean - 1e3 - scale * inputs.mean) / r.stderr for r in runs])
    var_gap = np.array([(r.var - exact_var) / r.var_stderr for r in runs])
    for gap in (mean_gap, var_gap):
        assert 0.7 < gap.std() < 1.4 and np.abs(gap).max() < 6
    again = two_stage.monte_carlo(lambda x: x * scale + 1e3, inputs, 4000, 0, chunk=700)
    np.testing.assert_array_equal(again.mean, runs[0].mean)


def test_arguments_are_not_changed_and_bad_ones_are_named():
    net, x = perceptron([4, 5, 2], 0), torch.ones(2, 4, dtype=F64)
    layerwise(net, x, 0.1)
    assert (x == 1).all()
    first, second = two_stage.splits(net)[0]
    for call, message in (
        (lambda: layerwise(net, x, -1.0), "cov: variances"),
        (lambda: layerwise(net, x, torch.ones(3)), "cov: expected shape"),
        (lambda: layerwise(net, x, 0.1, "magic"), "rule: expected one of"),
        (lambda: layerwise(nn.Sequential(nn.Tanh()), x, 0.1), r"net: layer 0 \(Tanh\) is not affine; smooth"),
        (lambda: layerwise(net, x, torch.ones(4, 4), "diagonal"), "diagonal rule"),
        (lambda: two_stage.two_stage(first, second, x, 0.1, torch.ones(2, 3)), "points"),
        (lambda: two_stage.two_stage(first, second, x, 0.1, rule="magic"), "rule"),
        (lambda: two_stage.two_stage_mean(first, second, x, 0.1, at="random"), "at: expected"),
        (lambda: two_stage.affine_relu_affine(x, torch.ones(3), torch.ones(1, 3), torch.ones(1), x, 0.1), "A: "),
        (lambda: two_stage.monte_carlo(net, Gaussian(np.ones(4), 1.0), 1, 0), "n: "),
        (lambda: two_stage.monte_carlo(lambda z: z / 0, Gaussian(np.zeros(4), 0.0), 2, 0), "f: "),
        (lambda: two_stage.centres(x, 3, 0), "x: "),
    ):
        with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
            call()


def test_noise_free_input_is_the_network_itself():
    net = convolutional()
    for rule in RULES:
        found = layerwise(net, IMAGES, 0.0, rule)
        torch.testing.assert_close(found.mean, net(IMAGES))
        assert found.cov.abs().max() < 1e-20
        assert layerwise(net, IMAGES, 0.0, rule, max_dense=1).cov.abs().max() < 1e-20
    assert relu.mean(torch.zeros(1), torch.zeros(1)).item() == 0


def test_max_pooling_keeps_what_neighbours_share():
    """Variance of a sum of 72 overlapping maxima: the second term closes most of the gap that the linear one leaves."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(72, 1))
    net = net.double().requires_grad_(False)
    net[3].weight.fill_(1.0)
    x = torch.zeros(1, 1, 10, 10, dtype=F64)
    flat = nn.Sequential(nn.Unflatten(1, (1, 10, 10)), net)
    sampled = two_stage.monte_carlo(flat, Gaussian(np.zeros(100), 1.0), 200_000, 0)
    linear, both = (layerwise(net, x, 1.0, rule).var.item() / sampled.var[0] for rule in ("linear", "series"))
    assert abs(both - 1) < abs(linear - 1) / 3
    direct = layerwise(net, x, torch.eye(100, dtype=F64), "series").var.item() / sampled.var[0]
    assert direct == pytest.approx(both, rel=1e-9)


def test_maxima_of_many_windows_are_those_of_each_alone():
    """Repeated windows, and windows with a certain winner, against the cubature of each."""
    rng = np.random.default_rng(5)
    factor = torch.tensor(rng.standard_normal((6, 4, 4)))
    mean, cov = torch.tensor(rng.standard_normal((6, 4))), factor @ factor.mT
    mean[1] = torch.tensor([90.0, 1, 2, 3])
    found = pooling.maximum(mean.repeat(2, 1)[None], cov.repeat(2, 1, 1)[None])
    for i in range(12):
        alone = pooling._cubature(mean[i % 6, None], cov[i % 6, None], F64)
        for ours, theirs in zip(found[:4], alone[:4]):
            torch.testing.assert_close(ours[0, i], theirs[0], rtol=1e-9, atol=1e-9)
    assert found.mean[0, 1] == 90 and found.gains[0, 1].tolist() == [1, 0, 0, 0]


def test_of_equal_members_of_a_window_one_wins():
    """As at an edge, where a window counts its last member twice: gains still sum to one."""
    mean, root = (
        torch.tensor([0.3, -0.2, -0.2], dtype=F64),
        torch.tensor([[1.0, 0.2], [0.1, 0.8], [0.1, 0.8]], dtype=F64),
    )
    found, pair = (pooling.maximum(mean[:n][None], (root[:n] @ root[:n].T)[None]) for n in (3, 2))
    torch.testing.assert_close(found.gains.sum(), torch.tensor(1.0, dtype=F64))
    torch.testing.assert_close(found.mean, pair.mean, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.gains[0, 0], pair.gains[0, 0], rtol=0, atol=0.02)


def test_windows_of_local_inputs_share_what_they_share():
    """The blocks of `second_order_local` against `second_order` over all pairs of windows."""
    rng = np.random.default_rng(6)
    windows, inputs = 700, 300
    place = rng.permutation(windows) * (inputs - 9) // windows
    rows = torch.zeros(2, inputs, windows, dtype=F64)
    for column, start in enumerate(place):
        rows[:, start : start + 9, column] = torch.tensor(rng.standard_normal((2, 9)))
    curvatures = torch.tensor(rng.standard_normal((windows, 2)))
    expected = pooling.second_order(curvatures[None], lambda a, b: (rows[a].T @ rows[b])[None])[0]
    found = pooling.second_order_local(curvatures, rows.mT)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_points_serve_an_affine_stage_of_any_size():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 80, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5120, 2)).double()
    first, second = two_stage.splits(net.requires_grad_(False))[0]
    close(two_stage.two_stage(first, second, IMAGES, 0.1, IMAGES), two_stage.two_stage(first, second, IMAGES, 0.1))
    with pytest.raises(ValueError, match="first: 5120 units; above 4096 only"):
        two_stage.two_stage(nn.Sequential(first, nn.ReLU()), second, IMAGES, 0.1, IMAGES)


def test_noise_levels_of_one_input_share_its_jacobians():
    first, second = two_stage.splits(convolutional())[1]
    var = torch.tensor([0.1, 0.4], dtype=F64).repeat_interleave(2)[:, None, None, None].expand(-1, 1, 8, 8)
    together = two_stage.two_stage(first, second, IMAGES.repeat(2, 1, 1, 1), var)
    alone = [two_stage.two_stage(first, second, IMAGES, level) for level in (0.1, 0.4)]
    close(together, two_stage.Moments(*(torch.cat(parts) for parts in zip(*alone))))


def test_second_order_term_of_a_pair_of_maxima():
    """For w = 2 the expected Hessian is phi(a) / s (1, -1)(1, -1)^T, with a = E[x1 - x2] / s, s^2 = Var[x1 - x2]."""
    rng = np.random.default_rng(3)
    factor, mean = rng.standard_normal((4, 4)), torch.tensor(rng.standard_normal((1, 2, 2)))
    cov = torch.tensor(factor @ factor.T)
    windows = torch.tensor([[0, 1], [2, 3]])
    top = pooling.maximum(mean, torch.stack([cov[:2, :2], cov[2:, 2:]])[None])
    along = lambda members: pooling.combine(members, windows, top.directions[..., 0])
    found = pooling.second_order(top.curvatures, lambda a, b: along(along(cov[None]).mT))
    u = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]], dtype=F64)
    spread = (u @ cov @ u.T).diagonal().sqrt()
    a = (mean[0, :, 0] - mean[0, :, 1]) / spread
    h = torch.exp(-(a**2) / 2) / np.sqrt(2 * np.pi) / spread
    expected = h[:, None] * h * (u @ cov @ u.T) ** 2 / 2
    # A cubature of 2048 points resolves a Hessian, a weighted mean of a function with a kink, to some two per cent.
    torch.testing.assert_close(found[0], expected, rtol=0.05, atol=0)
