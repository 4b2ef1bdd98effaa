"""Moments at ImageNet scale: exact cases, `rpa.moments.relu`, the sampled network."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rpa.moments import layerwise, meanfield, pooling, relu
from rpa.subjects._torchvision import import_torchvision
from rpa.tracing.conversion import windows
from rpa.tracing.traced import Traced


def small_net(seed=0):
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
    ]
    return (
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(24, 4))
        .double()
        .requires_grad_(False)
    )


def sampled(net, x, scale, n=200_000):
    generator = torch.Generator().manual_seed(9)
    total = [
        net(x + scale * torch.randn(5000, *x.shape[1:], generator=generator, dtype=x.dtype)) for _ in range(n // 5000)
    ]
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
    assert torch.allclose(ours[0], torch.tensor([0.0, 0.0, 3.0]), rtol=0, atol=1e-14) and torch.equal(
        ours[1], torch.zeros(3)
    )


@pytest.mark.parametrize("net", ["small", "alexnet", "squeezenet1_0"])
def test_without_noise_it_is_the_network(net):
    models, torch_seed = import_torchvision().models, torch.manual_seed(1)
    net = small_net() if net == "small" else getattr(models, net)(weights=None).eval().requires_grad_(False)
    x = torch.randn(2, 3, 65, 65, generator=torch_seed, dtype=next(net.parameters()).dtype)
    mean, var = (
        meanfield.moments(meanfield.prepare(net), x, 0.0)
        if not isinstance(net, nn.Sequential)
        else meanfield.moments(meanfield.prepare(net), x[:, :, :9, :9], 0.0)
    )
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
    assert torch.allclose(meanfield.two_stage_mean(layers, x, [0.1, 0.7])[1], ours, rtol=1e-12, atol=1e-14)


def test_two_stage_means_are_those_of_torchs_jacobian_product():
    net, x, scales = small_net(), torch.randn(3, 3, 9, 9, dtype=torch.float64), [0.2, 0.5]
    second = net[5:]
    ours = meanfield.two_stage_mean(meanfield.prepare(net, pool_first=False), x, scales, cut=1)
    for level, scale in enumerate(scales):
        mean, var = net[0](x), torch.nn.functional.conv2d(torch.full_like(x, scale**2), net[0].weight ** 2, padding=1)
        kept, index = torch.nn.functional.max_pool2d(torch.relu(mean), 3, 2, ceil_mode=True, return_indices=True)
        var = (var * (mean > 0)).flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
        mean, var = net[3](kept), torch.nn.functional.conv2d(var, net[3].weight ** 2)
        expected = relu.mean(mean, var)
        value, shift = torch.func.jvp(second, (torch.relu(mean),), (expected - torch.relu(mean),))
        assert torch.allclose(ours[level], value + shift, rtol=1e-10, atol=1e-12)


def test_diagonal_rule_is_that_of_layerwise():
    net = small_net()
    net = nn.Sequential(net[0], net[1], nn.Flatten(), nn.Linear(8 * 25, 4).double()).requires_grad_(False)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    theirs = layerwise.layerwise(net, x, 0.3, rule="diagonal")
    mean, var = meanfield.moments(meanfield.prepare(net), x, math.sqrt(0.3))
    assert torch.allclose(mean, theirs.mean, rtol=1e-12) and torch.allclose(var, theirs.var, rtol=1e-12)


def cut_of(pool, x):
    return Traced(pool, x).parts[1]


def drawn_maxima(mean, cov, n=400_000, seed=2):
    """Maxima of n draws of the members (w,) of one window."""
    draws = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mean + draws @ torch.linalg.cholesky(cov).T).amax(1)


def test_maximum_of_two_is_exact():
    mean, var = (
        torch.tensor([[[[0.3, -0.4]]]], dtype=torch.float64),
        torch.tensor([[[[1.0, 2.5]]]], dtype=torch.float64),
    )
    y = drawn_maxima(mean.flatten(), torch.diag(var.flatten()))
    top, spread = pooling.maxima(cut_of(nn.MaxPool2d((1, 2)), mean), mean, var)
    assert abs(top.item() - y.mean()) < 6 * y.std() / len(y) ** 0.5
    # The variance of a sample variance of a law close to normal is 2 var^2 / n.
    assert abs(spread.item() / y.var() - 1) < 6 * (3 / len(y)) ** 0.5


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(3, 2, padding=1),
        nn.MaxPool2d(2, 3, ceil_mode=True),
        nn.MaxPool2d(2, 2, dilation=2),
        nn.AdaptiveMaxPool2d((3, 4)),
    ],
)
def test_maxima_are_those_of_the_folded_windows(pool):
    mean, var = torch.randn(2, 3, 8, 9, dtype=torch.float64), torch.rand(2, 3, 8, 9, dtype=torch.float64) + 0.1
    cut = cut_of(pool, mean)
    top, spread = pooling.maxima(cut, mean, 1e-18 * var)
    assert torch.allclose(top, pool(mean), rtol=0, atol=1e-8) and spread.max() < 1e-17
    top, spread = pooling.maxima(cut, mean, var)
    reference = torch.stack(
        [
            drawn_maxima(mean.flatten(1)[0, w], torch.diag(var.flatten(1)[0, w]), 20_000).mean()
            for w in map(np.unique, windows(cut))
        ]
    )
    shift = reference - pool(mean)[0].flatten()
    assert (top[0].flatten() - reference).square().mean() < 0.01 * shift.square().mean()


def test_maximum_of_one_far_above_is_that_one():
    mean = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    mean[0, 0, 1, 0] = 50.0
    assert pooling.maxima(cut_of(nn.MaxPool2d(2), mean), mean, torch.ones_like(mean))[0].item() == pytest.approx(
        50, rel=1e-12
    )


def test_errors_name_the_culprit():
    with pytest.raises(ValueError, match="net: ends in sigmoid, which is smooth"):
        meanfield.moments(meanfield.prepare(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid())), torch.zeros(1, 2), 0.1)
    layers = meanfield.prepare(small_net())
    with pytest.raises(ValueError, match="scale"):
        meanfield.moments(layers, torch.zeros(1, 3, 9, 9, dtype=torch.float64), -1.0)
    with pytest.raises(ValueError, match="relu: expected the number of one of 2 ReLUs"):
        meanfield.two_stage_mean(layers, torch.zeros(1, 3, 9, 9, dtype=torch.float64), [0.1], cut=7)
