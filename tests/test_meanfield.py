"""Moments at ImageNet scale: exact cases, `rpa.relu`, the sampled network."""

import math

import pytest
import torch
from torch import nn

from rpa import layerwise, meanfield, relu
from rpa._torchvision import import_torchvision


def small_net(seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(8, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(24, 4)).double().requires_grad_(False)


def sampled(net, x, scale, n=200_000):
    generator = torch.Generator().manual_seed(9)
    total = [net(x + scale * torch.randn(5000, *x.shape[1:], generator=generator, dtype=x.dtype)) for _ in range(n // 5000)]
    y = torch.cat(total)
    return y.mean(0), y.std(0) / math.sqrt(n), y.var(0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.float32, 4e-7)])
def test_relu_moments_are_those_of_rpa_relu(dtype, tolerance):
    a, sigma = torch.meshgrid(torch.linspace(-40, 40, 1601), torch.tensor([1e-3, 1.0, 50.0]), indexing="ij")
    mean, var = (a * sigma).to(dtype), (sigma**2).to(dtype)
    for ours, exact in zip(meanfield.relu_moments(mean, var), (relu.mean, relu.variance)):
        scale = sigma if exact is relu.mean else sigma**2
        error = (ours.double() - exact(mean.double(), var.double())).abs() / (scale * a.abs().clamp(min=1))
        assert error.max() < tolerance


def test_relu_moments_without_variance():
    mean = torch.tensor([-2.0, 0.0, 3.0])
    ours = meanfield.relu_moments(mean, torch.zeros(3))
    assert torch.allclose(ours[0], torch.tensor([0.0, 0.0, 3.0]), rtol=0, atol=1e-14) and torch.equal(ours[1], torch.zeros(3))


def test_pieces_make_no_difference(monkeypatch):
    mean, var = torch.randn(2, 5, 17, 13), torch.rand(2, 5, 17, 13)
    pool = nn.MaxPool2d(3, 2, padding=1)
    whole = [*meanfield.relu_moments(mean, var), *meanfield.max_pool(pool, mean, var)]
    monkeypatch.setattr(meanfield, "CHUNK", 50)
    pieces = [*meanfield.relu_moments(mean, var), *meanfield.max_pool(pool, mean, var)]
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces))


@pytest.mark.parametrize("net", ["small", "alexnet", "squeezenet1_0"])
def test_without_noise_it_is_the_network(net):
    models, torch_seed = import_torchvision().models, torch.manual_seed(1)
    net = small_net() if net == "small" else getattr(models, net)(weights=None).eval().requires_grad_(False)
    x = torch.randn(2, 3, 65, 65, generator=torch_seed, dtype=next(net.parameters()).dtype)
    mean, var = meanfield.moments(meanfield.prepare(net), x, 0.0) if not isinstance(net, nn.Sequential) else \
        meanfield.moments(meanfield.prepare(net), x[:, :, :9, :9], 0.0)
    expected = net(x) if not isinstance(net, nn.Sequential) else net(x[:, :, :9, :9])
    assert torch.allclose(mean, expected, rtol=1e-4, atol=1e-5) and var.abs().max() < 1e-9


def test_first_relu_is_exact():
    net = small_net()[:2].append(nn.Flatten())
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    mean, stderr, true_var = sampled(net, x, 0.7)
    layers = meanfield.prepare(net)
    ours, var = meanfield.moments(layers, x, 0.7)
    assert ((ours[0] - mean).abs() / stderr.clamp(min=2e-4)).max() < 6
    assert torch.allclose(var[0], true_var, rtol=0.05, atol=1e-3)
    for at in ("mean", "point"):
        assert torch.allclose(meanfield.two_stage_mean(layers, x, 0.7, at=at), ours, rtol=1e-12, atol=1e-14)


def test_diagonal_rule_is_that_of_layerwise():
    net = small_net()
    net = nn.Sequential(net[0], net[1], nn.Flatten(), nn.Linear(8 * 25, 4).double()).requires_grad_(False)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    theirs = layerwise.layerwise(net, x, 0.3, rule="diagonal")
    mean, var = meanfield.moments(meanfield.prepare(net), x, math.sqrt(0.3))
    assert torch.allclose(mean, theirs.mean, rtol=1e-12) and torch.allclose(var, theirs.var, rtol=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.4])
def test_maximum_of_equals_is_exact(correlation):
    mean, var = torch.full((1, 1, 3, 3), 0.7, dtype=torch.float64), torch.full((1, 1, 3, 3), 2.0, dtype=torch.float64)
    draws = torch.Generator().manual_seed(2)
    own, common = (torch.randn(400_000, size, generator=draws, dtype=torch.float64) for size in (9, 1))
    y = (0.7 + 2**0.5 * ((1 - correlation) ** 0.5 * own + correlation**0.5 * common)).amax(1)
    top, spread = meanfield.max_pool(nn.MaxPool2d(3), mean, var, correlation)
    assert abs(top.item() - y.mean()) < 6 * y.std() / len(y) ** 0.5
    # The variance of a sample variance of a law close to normal is 2 var^2 / n.
    assert abs(spread.item() / y.var() - 1) < 6 * (3 / len(y)) ** 0.5


def test_maximum_of_one_far_above_is_that_one():
    mean, var = torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.full((1, 1, 2, 2), 0.25, dtype=torch.float64)
    mean[0, 0, 1, 0] = 50.0
    top, spread = meanfield.max_pool(nn.MaxPool2d(2), mean, var)
    assert top.item() == pytest.approx(50, rel=1e-12) and spread.item() == pytest.approx(0.25, rel=1e-12)


def test_maximum_between_stays_near_the_truth():
    draws = torch.Generator().manual_seed(3)
    mean = torch.randn(300, 1, 3, 3, generator=draws, dtype=torch.float64)
    y = (mean.flatten(1) + torch.randn(20_000, 1, 9, generator=draws, dtype=torch.float64)).amax(2)
    top = meanfield.max_pool(nn.MaxPool2d(3), mean, torch.ones_like(mean))[0].flatten()
    shift = y.mean(0) - mean.flatten(1).amax(1)
    # An interpolation: at least four fifths of what noise adds to a maximum is accounted for.
    assert (top - y.mean(0)).square().mean() < 0.04 * shift.square().mean()


def test_correction_beats_the_plain_rule_on_images_it_was_not_fitted_to():
    net, torch_seed = small_net(3), torch.manual_seed(4)
    for layer in (net[0], net[3]):
        layer.weight.abs_()  # neighbours that share noise with one sign: far from uncorrelated
    images = torch.randn(44, 3, 9, 9, generator=torch_seed, dtype=torch.float64)
    layers = meanfield.prepare(net)
    corrections = meanfield.fit(layers, images[4:], 1.0, seed=0)
    errors = {"plain": 0.0, "fitted": 0.0}
    for x in images[:4].split(1):
        true_var = sampled(net, x, 1.0, 50_000)[2]
        for name, given in (("plain", None), ("fitted", corrections)):
            errors[name] += (meanfield.moments(layers, x, 1.0, given)[1][0] / true_var).log().abs().sum().item()
    assert errors["fitted"] < errors["plain"]


def test_fit_is_seeded_and_finite():
    layers, x = meanfield.prepare(small_net()), torch.zeros(2, 3, 9, 9, dtype=torch.float64)
    first, again, other = (meanfield.fit(layers, x, 0.5, seed) for seed in (1, 1, 2))
    ratios = [[c.ratio for c in found if c is not None] for found in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(ratios[0], ratios[1])) and not torch.equal(ratios[0][0], ratios[2][0])
    assert all(r.isfinite().all() and (r >= 0).all() for r in ratios[0])


def test_errors_name_the_culprit():
    with pytest.raises(ValueError, match="Sigmoid"):
        meanfield.prepare(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()))
    layers = meanfield.prepare(small_net())
    with pytest.raises(ValueError, match="scale"):
        meanfield.moments(layers, torch.zeros(1, 3, 9, 9, dtype=torch.float64), -1.0)
    with pytest.raises(ValueError, match="cut"):
        meanfield.two_stage_mean(layers, torch.zeros(1, 3, 9, 9, dtype=torch.float64), 0.1, cut=7)
