"""Means guided by three copies: exact cases, the sampled network, seeds."""

import math

import pytest
import torch
from torch import nn

from rpa.moments import guided, meanfield, relu


def deep_net():
    """Planes, then vectors, with units near their thresholds and neighbours that share noise."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 16), nn.ReLU(), nn.Linear(16, 4)]
    net = nn.Sequential(*layers).double().requires_grad_(False)
    for layer in (net[0], net[2]):
        layer.weight.abs_()
    x = torch.rand(30, 3, 12, 12, dtype=torch.float64)
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.bias.sub_(layer(x).transpose(0, 1).flatten(1).mean(1))
        x = layer(x)
    return net


def images(n, seed=4):
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sampled(net, x, scale, n=4_000):
    """Means and variances (b, k) of the outputs from n samples for each input."""
    generator = torch.Generator().manual_seed(9)
    found = [
        net(image + scale * torch.randn(n, *x.shape[1:], generator=generator, dtype=x.dtype)) for image in x.split(1)
    ]
    return torch.stack([y.mean(0) for y in found]), torch.stack([y.var(0) for y in found])


def test_it_beats_the_diagonal_rule_and_its_own_copies_on_images_it_was_not_fitted_to():
    net, layers, x = deep_net(), meanfield.prepare(deep_net()), images(30)
    guide = guided.fit(layers, x[10:], 0.3, seed=0)
    mean, var = sampled(net, x[:10], 0.3)
    ours, alone = guided.moments(layers, x[:10], guide), meanfield.moments(layers, x[:10], 0.3)
    copies = torch.stack([net(x[:10] + place) for place in guide.places]).mean(0)
    error = lambda found: (found - mean).square().sum()
    assert error(ours[0]) < 0.5 * error(alone[0]) and error(ours[0]) < 0.5 * error(copies)
    assert (ours[1] / var).log().abs().sum() < (alone[1] / var).log().abs().sum()


def test_the_copies_have_the_variance_of_the_noise_and_no_mean():
    scale = torch.tensor([[[0.1]], [[0.2]], [[0.5]]], dtype=torch.float64)
    places = guided.fit(meanfield.prepare(deep_net()), images(2), scale, seed=0).places
    assert places.shape == (3, 3, 12, 12) and places.sum(0).abs().max() < 1e-15
    assert torch.allclose(places.square().mean(0), (scale**2).expand(3, 12, 12), rtol=1e-12)


def test_the_first_relu_is_exact():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double().requires_grad_(False)
    layers, x = meanfield.prepare(net), images(3)
    found = guided.moments(layers, x, guided.fit(layers, x, 0.4, seed=0))
    mean, var = net[0](x), 0.4**2 * net[0].weight.square().sum((1, 2, 3))[None, :, None, None].expand(3, 4, 10, 10)
    for ours, exact in zip(found, (relu.mean, relu.variance)):
        assert torch.allclose(ours, exact(mean, var), rtol=1e-10, atol=1e-14)


def test_a_fit_needs_no_sample_where_units_are_affine():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).double().requires_grad_(False)
    layers, x = meanfield.prepare(net), images(3)
    for ours, exact in zip(guided.moments(layers, x, guided.fit(layers, x, 0.4, 0)), meanfield.moments(layers, x, 0.4)):
        assert torch.allclose(ours, exact)


def test_without_noise_it_is_the_network():
    net, layers, x = deep_net(), meanfield.prepare(deep_net()), images(3)
    mean, var = guided.moments(layers, x, guided.fit(layers, x, 0.0, seed=0))
    assert torch.allclose(mean, net(x), rtol=1e-10, atol=1e-12) and var.abs().max() < 1e-12


def test_true_variances_do_no_worse_than_the_diagonal_rules():
    net, layers, x = deep_net(), meanfield.prepare(deep_net()), images(28)
    guide = guided.fit(layers, x[4:], 0.3, seed=0)
    truth = sampled(net, x[:4], 0.3)[0]
    informed = guided.informed_mean(layers, x[:4], 0.3, guide, 300, seed=5)
    alone = meanfield.moments(layers, x[:4], 0.3)[0]
    assert (informed - truth).square().sum() < 0.5 * (alone - truth).square().sum()


@pytest.mark.parametrize("window", [1, 5])
def test_maxima_learn_how_neighbours_correlate(window):
    """Averages over overlapping windows have maxima that noise lifts less than those of independent units."""
    net = nn.Sequential(nn.AvgPool2d(window, 1), nn.MaxPool2d(3)).eval()
    layers, x = meanfield.prepare(net), torch.zeros(400, 1, window + 2, window + 2, dtype=torch.float64)
    guide = guided.fit(layers, x, 0.5, seed=0)
    mean, var = sampled(net, x[:1], 0.5, 20_000)
    error = (guided.moments(layers, x[:1], guide)[0] - mean).abs().item()
    assert error < 6 * (var.item() * (1 / (2 * len(x)) + 1 / 20_000)) ** 0.5  # the fit has two samples of each image
    assert guide.corrections[1].lift.item() < (1.5 if window == 1 else 0.8)


def test_the_input_is_left_as_it_is():
    layers, x = meanfield.prepare(nn.Sequential(nn.ReLU(), *deep_net())), images(2)
    before = x.clone()
    guided.moments(layers, x, guided.fit(layers, x, 0.3, seed=0))
    assert torch.equal(x, before)


def test_fit_is_seeded_and_finite():
    layers, x = meanfield.prepare(deep_net()), images(2)
    first, again, other = (guided.fit(layers, x, 0.5, seed) for seed in (1, 1, 2))
    factors = [
        [c.own for c in guide.corrections if c is not None and c.known is None] for guide in (first, again, other)
    ]
    assert torch.equal(first.places, again.places) and not torch.equal(first.places, other.places)
    assert all(torch.equal(a, b) for a, b in zip(factors[0], factors[1])) and not torch.equal(
        factors[0][0], factors[2][0]
    )
    assert all(f.isfinite().all() and (f >= 0).all() for f in factors[0])
    assert all(math.isfinite(c.pull) for c in first.corrections if c is not None)


def test_errors_name_the_culprit():
    layers, x = meanfield.prepare(deep_net()), images(2)
    guide = guided.fit(layers, x, 0.3, 0)
    with pytest.raises(ValueError, match="guide: expected what `fit` returns, got tuple"):
        guided.moments(layers, x, guide.corrections)
    with pytest.raises(ValueError, match="fitted: expected the corrections of 11 layers, got 1"):
        guided.moments(layers, x, guide._replace(corrections=guide.corrections[:1]))
