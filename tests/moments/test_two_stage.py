"""Moments of networks: exact cases, every form of the same computation, sampling, P1's exact law, rivals' formulas."""

import sys
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from bench_moments import authors_moments, cumulants
from helpers import Net, random_gaussian, random_mixture, random_network
from torch import nn

from rpa.inputs import Gaussian
from rpa.moments import two_stage
from rpa.moments.layerwise import RULES, layerwise
from rpa.patterns.pmf import pattern_pmf

F64 = torch.float64
IMAGES = torch.randn(2, 1, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(1)) / 2


def perceptron(sizes, seed):
    return random_network(sizes, seed).to_torch().requires_grad_(False)


def convolutional(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)]
    return nn.Sequential(*layers).double().eval().requires_grad_(False)


def close(first, second, rtol=1e-10, atol=1e-12):
    torch.testing.assert_close(first.mean, second.mean, rtol=rtol, atol=atol)
    torch.testing.assert_close(first.cov, second.cov, rtol=rtol, atol=atol)


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


def test_every_form_is_exact_for_one_hidden_layer():
    gaussian = random_gaussian(6, 2)
    net = perceptron([6, 15, 3], 1)
    x, cov = torch.tensor(gaussian.mean)[None], torch.tensor(gaussian.cov)
    exact = one_hidden_layer(net, gaussian)
    close(layerwise(net, x, cov), exact)
    close(two_stage.two_stage(net, x, cov, rule="exact"), exact)
    torch.testing.assert_close(two_stage.two_stage_mean(net, x, cov), exact.mean)


@pytest.mark.parametrize("rule", ["exact", "series", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_noise_that_cancels_leaves_rounding_only(rule, dtype):
    """The noise is orthogonal to the first weights: only rounding is left, which is no covariance matrix."""
    A = torch.randn(6, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    along, B, x = A[0] + A[1], torch.ones(2, 6, dtype=dtype), torch.arange(15, dtype=dtype).reshape(3, 5)
    A -= torch.outer(A @ along, along) / (along @ along)
    cov, c1, c2 = 1e6 * torch.outer(along, along), A[:, 0], A[:2, 1]
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype).requires_grad_(False)
    net[0].weight[:], net[0].bias[:], net[2].weight[:], net[2].bias[:] = A, c1, B, c2
    found = [two_stage.two_stage(net, x, cov, rule=rule), layerwise(net, x, cov, rule)]
    if rule == "exact":
        found += [two_stage.affine_relu_affine(A, c1, B, c2, x, cov)]
    for each in found:
        atol = 1e7 * torch.finfo(dtype).eps
        torch.testing.assert_close(each.cov, torch.zeros_like(each.cov), rtol=0, atol=100 * atol)
        torch.testing.assert_close(each.mean, net(x), rtol=0, atol=10 * atol**0.5)
    mean = two_stage.two_stage_mean(net, x, cov)
    torch.testing.assert_close(mean, net(x), rtol=0, atol=10 * atol**0.5)


@pytest.mark.parametrize("rule", two_stage.RULES)
def test_the_ways_to_say_the_same_noise_agree(rule):
    x = torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(2))
    found = partial(two_stage.two_stage, perceptron([6, 9, 7, 2], 3), relu=1, rule=rule)
    scalar = found(x, 0.3)
    lists = found(x.numpy(), [0.3] * 6)
    close(lists, scalar, 0, 0)
    for noise in (torch.full((3, 6), 0.3, dtype=F64), 0.3 * torch.eye(6, dtype=F64)):
        close(found(x, noise), scalar)
    for points in (x, x.float()):  # in another precision: close to the same points
        tolerance = 1e-12 if points is x else 1e-5
        close(found(x, 0.3, points=points), scalar, 1e-10, tolerance)
    some = found(x, 0.3, outputs=[1])
    torch.testing.assert_close(some.cov[:, 0, 0], scalar.var[:, 1])


@pytest.mark.parametrize("rule", ["exact", "series", "linear"])
def test_activations_without_a_kink_pass_the_noise(rule):
    first, second = nn.Linear(3, 1, dtype=F64), nn.Linear(1, 2, dtype=F64)
    x, expected = torch.ones(1, 3, dtype=F64), 0.2 * (second.weight @ first.weight @ first.weight.T @ second.weight.T)
    for moments in (two_stage.two_stage, layerwise):
        found = moments(nn.Sequential(first, nn.LeakyReLU(1.0), second).eval(), x, 0.2, rule=rule)
        torch.testing.assert_close(found.cov[0], expected)


def test_formulas_of_rivals_where_they_coincide_with_ours():
    """Cumulants of order two are the linear rule; the authors' moments are exact for units of mean zero."""
    net, x = perceptron([5, 8, 7, 4], 0), torch.randn(3, 5, dtype=F64, generator=torch.Generator().manual_seed(1))
    close(two_stage.Moments(*cumulants(net[::2], x, 0.7)), layerwise(net, x, 0.7**2, "linear"))
    for cut in (0, 1):
        mean = authors_moments(net[::2], cut, x, 0.7)[0]
        torch.testing.assert_close(mean, two_stage.two_stage(net, x, 0.7**2, relu=cut).mean)
    net[0].bias[:] = -net[0].weight @ x[0]
    theirs = two_stage.Moments(*authors_moments(net[::2], 0, x[:1], 0.7))
    close(theirs, two_stage.two_stage(net, x[:1], 0.7**2, rule="exact"))


def test_two_stage_without_jacobians_equals_two_stage_with_them():
    net = convolutional()
    full = 0.05 * torch.eye(64, dtype=F64)
    for rule, points in product(two_stage.ADJOINT, (None, IMAGES.flip(3)[:2])):
        close(*(two_stage.two_stage(net, IMAGES, cov, points=points, rule=rule) for cov in (0.05, full)))
    mean = two_stage.two_stage_mean(net, IMAGES, 0.05)
    torch.testing.assert_close(two_stage.two_stage(net, IMAGES, full).mean, mean)


def test_points_serve_an_affine_stage_of_any_size():
    net = nn.Sequential(nn.Conv2d(1, 80, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5120, 2))
    net = net.double().requires_grad_(False)
    close(*(two_stage.two_stage(net, IMAGES, 0.1, points=points) for points in (IMAGES, None)))
    with pytest.raises(ValueError, match="first: 5120 units; above 4096 only"):
        two_stage.two_stage(nn.Sequential(net[0], nn.ReLU(), *net[1:]), IMAGES, 0.1, points=IMAGES, relu=1)


def test_the_nearest_point_is_found_far_from_zero():
    x = 100 + torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) / 100
    net = perceptron([30, 20, 20, 2], 0).float()
    net[0].bias[:], net[2].bias[:] = 0.0, 0.0
    net[0].bias -= net[0].weight @ x.mean(0)
    close(*(two_stage.two_stage(net, x, 1e-8, points=points) for points in (x.flip(0), None)), 1e-3, 1e-12)


def test_noise_levels_of_one_input_share_its_jacobians():
    found = partial(two_stage.two_stage, convolutional(), relu=1)
    var = torch.tensor([0.1, 0.4], dtype=F64).repeat_interleave(2)[:, None, None, None].expand(-1, 1, 8, 8)
    together = found(IMAGES.repeat(2, 1, 1, 1), var)
    alone = [found(IMAGES, level) for level in (0.1, 0.4)]
    close(together, two_stage.Moments(*(torch.cat(parts) for parts in zip(*alone))))


@pytest.mark.parametrize("rule", ["exact", "series", "linear"])
def test_layerwise_does_not_depend_on_how_the_noise_is_given(rule):
    net, x = convolutional(), IMAGES.clone()
    scalar = layerwise(net, x, 0.05, rule)
    for noise in (torch.full((1, 8, 8), 0.05, dtype=F64), torch.full(x.shape, 0.05), 0.05 * torch.eye(64, dtype=F64)):
        close(layerwise(net, x, noise, rule), scalar, 1e-7, 1e-9)
    assert torch.equal(x, IMAGES)


def test_layerwise_keeps_the_linear_term_in_layers_too_large(monkeypatch):
    net = convolutional()
    linear = layerwise(net, IMAGES, 0.05, "linear")
    monkeypatch.setattr(sys.modules[layerwise.__module__], "MAX_DENSE", 1)
    close(layerwise(net, IMAGES, 0.05, "exact"), linear)
    assert layerwise(net, IMAGES, 0.0, "exact").cov.abs().max() < 1e-20


@pytest.mark.parametrize("noise", [torch.eye(3), torch.zeros(3), torch.tensor([0.3, 0.0, 0.5])])
def test_gradients_pass_layers_too_large(noise, monkeypatch):
    """Through roots of covariances without noise or with equal eigenvalues, as without any roots."""
    net, x = random_network((3, 6, 5, 2), 0).to_torch(), torch.full((1, 3), 0.4, dtype=F64)
    noise = noise.to(F64).requires_grad_()
    gradient = lambda: torch.autograd.grad(layerwise(net, x, noise, "linear").cov.sum(), noise)[0]
    expected = gradient()
    monkeypatch.setattr(sys.modules[layerwise.__module__], "MAX_DENSE", 1)
    torch.testing.assert_close(gradient(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_noise_free_input_is_the_network_itself(rule):
    net = convolutional()
    found = layerwise(net, IMAGES, 0.0, rule)
    torch.testing.assert_close(found.mean, net(IMAGES))
    assert found.cov.abs().max() < 1e-20


def test_layerwise_agrees_with_sampling_where_noise_is_small():
    net = convolutional()
    found = layerwise(net, IMAGES[:1], 0.0025)
    flat = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), net)
    sampled = two_stage.monte_carlo(flat, Gaussian(IMAGES[0].flatten().numpy(), 0.0025), 40_000, 5)
    # An approximation: within a tenth of a standard deviation, and a tenth of the variance.
    assert (np.abs(found.mean[0].numpy() - sampled.mean) < 0.1 * np.sqrt(sampled.var)).all()
    assert (np.abs(found.var[0].numpy() / sampled.var - 1) < 0.1).all()


def test_diagonal_rule_is_exact_for_independent_units():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double().requires_grad_(False)
    net[0].weight.copy_(torch.diag(torch.tensor([1.0, -2, 0.5])))
    x = torch.tensor([[0.2, -0.1, 0.7]], dtype=F64)
    diagonal, exact = (layerwise(net, x, 0.4, rule) for rule in ("diagonal", "exact"))
    torch.testing.assert_close(diagonal.var, exact.var)


def test_gradients():
    net = convolutional()
    x, var = IMAGES.clone().requires_grad_(), torch.full((1, 8, 8), 0.05, dtype=F64).requires_grad_()
    for function, arguments in (
        (lambda a, b: two_stage.two_stage_mean(net, a, b), (x, var)),
        (lambda b: two_stage.two_stage(net, IMAGES, b), (var,)),
        (lambda b: layerwise(net, IMAGES, b, "diagonal").mean, (var,)),
    ):
        assert torch.autograd.gradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize("net", [perceptron([64, 30, 70, 2], 5), convolutional()[:2] + convolutional()[3:]])
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


def test_a_split_network_is_the_same_function():
    net, x = convolutional(), IMAGES
    for first, second in two_stage.splits(net)[::9] + two_stage.splits(net)[1:2]:
        torch.testing.assert_close(second(torch.relu(first(x))), net(x), rtol=1e-4, atol=1e-5)
    mean = two_stage.two_stage_mean(*two_stage.splits(net)[0], x, 0.01)
    torch.testing.assert_close(mean, two_stage.two_stage_mean(net, x, 0.01))
    assert layerwise(net, x, 0.01, "diagonal").cov.shape == (2, *[mean.shape[1]] * 2)


def test_a_network_is_not_split_where_a_value_passes_by():
    with pytest.raises(ValueError, match=r"two_stage\(net, inputs, relu=0\)"):
        two_stage.splits(nn.Sequential(Net(lambda x, a: x + a(x).relu(), nn.Linear(3, 3)), nn.Linear(3, 2)).eval())
    with pytest.raises(ValueError, match="net: activation 0 is no ReLU"):
        two_stage.splits(nn.Sequential(nn.Linear(3, 3), nn.LeakyReLU(), nn.Linear(3, 2)).eval())


def test_monte_carlo_errors_are_honest():
    inputs = random_mixture(3, 0)
    scale = np.array([1.0, 2.0, 3.0])
    exact_var = scale**2 * np.diag(inputs.cov)
    runs = [two_stage.monte_carlo(lambda x: x * scale + 1e3, inputs, 4000, seed, chunk=700) for seed in range(60)]
    mean_gap = np.array([(r.mean - 1e3 - scale * inputs.mean) / r.stderr for r in runs])
    var_gap = np.array([(r.var - exact_var) / r.var_stderr for r in runs])
    for gap in (mean_gap, var_gap):
        assert 0.7 < gap.std() < 1.4 and np.abs(gap).max() < 6
    pairs = [two_stage.monte_carlo(lambda x: x, inputs, 2, seed) for seed in range(400)]
    for of, error, true in (("mean", "stderr", inputs.mean), ("var", "var_stderr", np.diag(inputs.cov))):
        gaps, errors = (np.array([getattr(r, name) for r in pairs]) for name in (of, error))
        np.testing.assert_allclose((errors**2).mean(0), ((gaps - true) ** 2).mean(0), rtol=0.35)
    again = two_stage.monte_carlo(lambda x: x * scale + 1e3, inputs, 4000, 0, chunk=700)
    np.testing.assert_array_equal(again.mean, runs[0].mean)
    for unit in (1e-120, 1e120):
        found = two_stage.monte_carlo(lambda x: (x * scale + 1e3) * unit, inputs, 4000, 0, chunk=700)
        np.testing.assert_allclose(found.var_stderr / unit / unit, again.var_stderr, rtol=1e-6)


def test_monte_carlo_of_a_module_whose_weights_are_buffers():
    net = nn.BatchNorm1d(3, affine=False).eval()
    assert (two_stage.monte_carlo(net, Gaussian(np.ones(3), 0.0), 2, 0).mean == net(torch.ones(1, 3)).numpy()).all()
