"""Moments at ImageNet scale: exact cases, `rpa.moments.relu`, the sampled network."""

import math

import pytest
import torch
from torch import nn

from rpa.moments import layerwise, meanfield, pooling, relu
from rpa.subjects._torchvision import import_torchvision


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
    for at in ("mean", "point"):
        assert torch.allclose(meanfield.two_stage_mean(layers, x, 0.7, at=at), ours, rtol=1e-12, atol=1e-14)


def test_diagonal_rule_is_that_of_layerwise():
    net = small_net()
    net = nn.Sequential(net[0], net[1], nn.Flatten(), nn.Linear(8 * 25, 4).double()).requires_grad_(False)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    theirs = layerwise.layerwise(net, x, 0.3, rule="diagonal")
    mean, var = meanfield.moments(meanfield.prepare(net), x, math.sqrt(0.3))
    assert torch.allclose(mean, theirs.mean, rtol=1e-12) and torch.allclose(var, theirs.var, rtol=1e-12)


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
    top, spread = pooling.maxima(nn.MaxPool2d((1, 2)), mean, var)
    assert abs(top.item() - y.mean()) < 6 * y.std() / len(y) ** 0.5
    # The variance of a sample variance of a law close to normal is 2 var^2 / n.
    assert abs(spread.item() / y.var() - 1) < 6 * (3 / len(y)) ** 0.5


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(2, 3, ceil_mode=True)]
)
def test_maxima_are_those_of_the_folded_windows(pool):
    mean, var = torch.randn(2, 3, 8, 9, dtype=torch.float64), torch.rand(2, 3, 8, 9, dtype=torch.float64) + 0.1
    top, spread = pooling.maxima(pool, mean, 1e-18 * var)
    assert torch.allclose(top, pool(mean), rtol=0, atol=1e-8) and spread.max() < 1e-17
    top, spread = pooling.maxima(pool, mean, var)
    windows = pooling.windows_of(pool, mean.shape, top.shape)
    reference = torch.stack(
        [
            drawn_maxima(mean.flatten(1)[0, w.unique()], torch.diag(var.flatten(1)[0, w.unique()]), 20_000).mean()
            for w in windows
        ]
    )
    shift = reference - pool(mean)[0].flatten()
    assert (top[0].flatten() - reference).square().mean() < 0.01 * shift.square().mean()


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_soft_maximum_learns_how_neighbours_correlate(correlation):
    mean = 1.5 * torch.randn(400, 1, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    cov = (1 - correlation) * torch.eye(9, dtype=torch.float64) + correlation
    true = torch.stack([drawn_maxima(m, cov, 20_000).mean() for m in mean.flatten(1)]).reshape(400, 1, 1, 1)
    pool, one = nn.MaxPool2d(3), (torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.ones(()))
    softness = pooling.softness_of(pool, mean[:200], one, true[:200])
    found, where = pooling.soft_maximum(pool, mean[200:], one, softness)
    # An interpolation: what noise adds to a maximum is met to a tenth on windows it was not fitted to.
    assert (found - true[200:]).square().mean() < 0.01 * (true - pool(mean))[200:].square().mean()
    assert torch.equal(mean[200:].flatten(2).gather(2, where.flatten(2)), pool(mean[200:]).flatten(2))


def test_soft_maximum_of_one_far_above_is_that_one():
    mean, one = torch.zeros(1, 1, 2, 2, dtype=torch.float64), (torch.ones(()), torch.ones(()))
    mean[0, 0, 1, 0] = 50.0
    assert pooling.soft_maximum(nn.MaxPool2d(2), mean, one, torch.tensor(0.7))[0].item() == pytest.approx(50, rel=1e-12)
    assert pooling.maxima(nn.MaxPool2d(2), mean, torch.ones_like(mean))[0].item() == pytest.approx(50, rel=1e-12)


def deep_net():
    """Planes of 12 x 12 = 144 places, enough for the response, pooled to 36, too few; then vectors."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 16), nn.ReLU(), nn.Linear(16, 4)]
    net = nn.Sequential(*layers).double().requires_grad_(False)
    for layer in (net[0], net[2]):
        layer.weight.abs_()  # neighbours that share noise with one sign: far from uncorrelated
    x = torch.rand(30, 3, 12, 12, dtype=torch.float64)
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.bias.sub_(layer(x).transpose(0, 1).flatten(1).mean(1))  # units near their thresholds
        x = layer(x)
    return net


def test_a_fit_beats_the_plain_rule_on_images_it_was_not_fitted_to():
    net, layers = deep_net(), meanfield.prepare(deep_net())
    images = torch.rand(36, 3, 12, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    fitted = meanfield.fit(layers, images[4:], 0.3, seed=0)
    assert [c is not None and c.independent for c in fitted] == [False] * 3 + [True, False] + [
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    plain, ours = meanfield.moments(layers, images[:4], 0.3), meanfield.moments(layers, images[:4], 0.3, fitted)
    truth = [sampled(net, x, 0.3, 10_000) for x in images[:4].split(1)]
    mean, var = torch.stack([t[0] for t in truth]), torch.stack([t[2] for t in truth])
    assert (ours[0] - mean).square().sum() < 0.5 * (plain[0] - mean).square().sum()
    assert (ours[1] / var).log().abs().sum() < (plain[1] / var).log().abs().sum()


def test_true_deviations_do_no_worse_than_fitted_ones():
    net, layers = deep_net(), meanfield.prepare(deep_net())
    images = torch.rand(28, 3, 12, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    fitted = meanfield.fit(layers, images[4:], 0.3, seed=0)
    truth = torch.stack([sampled(net, x, 0.3, 10_000)[0] for x in images[:4].split(1)])
    informed = meanfield.informed_mean(layers, images[:4], 0.3, fitted, 1000, seed=5)
    ours = meanfield.moments(layers, images[:4], 0.3, fitted)[0]
    assert (informed - truth).square().sum() < (ours - truth).square().sum()


def test_a_fit_needs_no_sample_where_units_are_affine():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).double().requires_grad_(False)
    layers, x = meanfield.prepare(net), torch.randn(3, 3, 5, 5, dtype=torch.float64)
    mean, var = meanfield.moments(layers, x, 0.4, meanfield.fit(layers, x, 0.4, seed=0))
    exact = meanfield.moments(layers, x, 0.4)
    assert torch.allclose(mean, exact[0]) and torch.allclose(var.expand_as(mean), exact[1])


def test_the_input_is_left_as_it_is():
    layers, x = meanfield.prepare(nn.Sequential(nn.ReLU(), *deep_net())), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    before = x.clone()
    meanfield.moments(layers, x, 0.3, meanfield.fit(layers, x, 0.3, seed=0))
    assert torch.equal(x, before)


def test_fit_is_seeded_and_finite():
    layers, x = meanfield.prepare(deep_net()), torch.zeros(2, 3, 12, 12, dtype=torch.float64)
    first, again, other = (meanfield.fit(layers, x, 0.5, seed) for seed in (1, 1, 2))
    ratios = [[c.deviation for c in found if c is not None] for found in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(ratios[0], ratios[1])) and not torch.equal(ratios[0][1], ratios[2][1])
    assert all(r.isfinite().all() and (r >= 0).all() for r in ratios[0])


def test_errors_name_the_culprit():
    with pytest.raises(ValueError, match="Sigmoid"):
        meanfield.prepare(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()))
    layers = meanfield.prepare(small_net())
    with pytest.raises(ValueError, match="scale"):
        meanfield.moments(layers, torch.zeros(1, 3, 9, 9, dtype=torch.float64), -1.0)
    with pytest.raises(ValueError, match="fitted: expected the corrections of 8 layers, got 1"):
        meanfield.moments(layers, torch.zeros(1, 3, 9, 9, dtype=torch.float64), 1.0, (None,))
    with pytest.raises(ValueError, match="cut"):
        meanfield.two_stage_mean(layers, torch.zeros(1, 3, 9, 9, dtype=torch.float64), 0.1, cut=7)
