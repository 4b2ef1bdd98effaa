"""Noise attacks: optima known in closed form, the budget kept, and the judge's own error."""

import math

import numpy as np
import pytest
import torch
from helpers import Net, random_network
from torch import nn

from rpa.inputs import Gaussian
from rpa.moments import attacks, two_stage
from rpa.moments.attacks import expected_output, margin, noise_attack


@pytest.fixture
def fold():
    """Outputs (0.5, |x_0|) of images of two pixels: class 1 wins in expectation only through the kink."""
    return Net(lambda x: torch.stack([0 * x[:, 0, 0, 0] + 0.5, x[:, 0, 0, 0].abs()], 1)).eval()


@pytest.fixture
def convolutional():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 12), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(12, 4)).double().requires_grad_(False)
    x = torch.rand(12, 1, 8, 8, dtype=torch.float64)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("gradient", ["two-stage", "layerwise", "plain"])
def test_on_an_affine_network_the_shift_is_the_weight_difference(gradient):
    net = random_network((9, 6, 2), 0).to_torch().requires_grad_(False)
    net[0].bias += 50.0  # no unit is ever off
    x = torch.rand(3, 1, 3, 3, dtype=torch.float64)
    label = net(x.flatten(1)).argmax(1)
    noise = noise_attack(net, x, label, budget=2.0, share=0.75, gradient=gradient)
    slope = (net[2].weight[1] - net[2].weight[0]) @ net[0].weight
    best = margin(net(x.flatten(1)), label) + 1.0 * slope.norm()
    assert torch.allclose(margin(net((x + noise.shift).flatten(1)), label), best, rtol=1e-6)


@pytest.mark.parametrize("gradient", ["two-stage", "layerwise"])
def test_zero_mean_noise_goes_where_the_kink_is(fold, gradient):
    x, label = torch.zeros(1, 1, 1, 2, dtype=torch.float64), torch.tensor([0])
    noise = noise_attack(fold, x, label, budget=1.0, share=1.0, gradient=gradient)
    assert noise.variance[0, 0, 0, 0] > 0.99 and (noise.shift == 0).all()
    outcome = expected_output(fold, x, noise, 40_000, 0)
    error = abs(outcome.mean[0, 1] - math.sqrt(2 / math.pi * noise.variance[0, 0, 0, 0]))
    assert error < 6 * outcome.stderr[0, 1]
    assert margin(outcome.mean, label) > 0.2


def test_a_plain_gradient_does_not_see_the_kink(fold):
    x, label = torch.zeros(1, 1, 1, 2, dtype=torch.float64), torch.tensor([0])
    noise = noise_attack(fold, x, label, budget=1.0, share=1.0, gradient="plain")
    assert torch.allclose(noise.variance, torch.full_like(x, 0.5))


@pytest.mark.parametrize("gradient", attacks.GRADIENTS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sparse, smooth", [(None, None), (7, None), (None, 1.0), (7, 1.0)])
def test_the_budget_is_kept(convolutional, gradient, share, sparse, smooth):
    net, x, label = convolutional
    before = x.clone()
    options = {"budget": 1.5, "share": share, "gradient": gradient, "steps": 5, "sparse": sparse, "smooth": smooth}
    noise = noise_attack(net, x, label, **options)
    assert torch.equal(x, before)
    assert noise.shift.isfinite().all() and (noise.variance >= 0).all()
    assert (noise.shift.flatten(1).norm(dim=1) <= math.sqrt(1 - share) * 1.5 * (1 + 1e-12)).all()
    assert torch.allclose(noise.variance.sum((1, 2, 3)), torch.tensor(share * 1.5**2, dtype=torch.float64))
    if sparse:
        assert (((noise.shift != 0) | (noise.variance > 0)).sum((1, 2, 3)) <= sparse).all()


@pytest.mark.parametrize("unit", [0.0, 1e-20, 1.0])
def test_the_random_share_is_kept_where_gradients_vanish(convolutional, unit):
    net, x, label = convolutional
    net[-1].weight.mul_(unit)
    noise = noise_attack(net, x, label, budget=1.5, share=0.4, gradient="plain squared", steps=2, smooth=1e-200)
    assert torch.allclose(noise.variance.sum((1, 2, 3)), torch.tensor(0.9, dtype=torch.float64))


def test_smooth_noise_is_smoother(convolutional):
    net, x, label = convolutional
    plain, smooth = (noise_attack(net, x, label, budget=1.5, share=0.5, smooth=s) for s in (None, 1.5))
    roughness = lambda images: sum((images.diff(dim=dim) ** 2).sum() for dim in (2, 3)) / (images**2).sum()
    for rough, soft in zip(plain, smooth):
        assert roughness(soft) < 0.5 * roughness(rough)


@pytest.mark.parametrize("target", [None, "next"])
def test_gradients_through_the_moments_lead_to_larger_margins(convolutional, target):
    net, x, label = convolutional
    target = None if target is None else (label + 1) % 4
    gains = []
    for gradient in ("two-stage", "plain"):
        noise = noise_attack(net, x, label, budget=4.0, share=0.97, target=target, gradient=gradient)
        gains.append(expected_output(net, x, noise, 4000, 1))
    better = margin(gains[0].mean, label, target) - margin(gains[1].mean, label, target)
    stderr = torch.sqrt(sum((g.stderr**2).sum() for g in gains))
    assert better.sum() > 6 * stderr


def test_same_seed_same_noise(convolutional):
    net, x, label = convolutional
    one, same, other = (noise_attack(net, x, label, budget=2.0, gradient="sampled", seed=s) for s in (0, 0, 1))
    assert torch.equal(one.shift, same.shift) and not torch.equal(one.shift, other.shift)
    outcomes = [expected_output(net, x, one, 300, s).mean for s in (0, 0, 1)]
    assert torch.equal(outcomes[0], outcomes[1]) and not torch.equal(outcomes[0], outcomes[2])


def test_the_judge_agrees_with_monte_carlo_of_one_image(convolutional):
    net, x, label = convolutional
    noise = noise_attack(net, x, label, budget=2.0, share=0.5)
    outcome = expected_output(net, x, noise, 20_000, 0)
    law = Gaussian((x + noise.shift)[3].flatten().numpy(), noise.variance[3].flatten().numpy())
    other = two_stage.monte_carlo(nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *net), law, 20_000, 1)
    gap = np.abs(outcome.mean[3].numpy() - other.mean)
    assert (gap < 6 * np.hypot(outcome.stderr[3].numpy(), other.stderr)).all()
    assert np.allclose(outcome.stderr[3].numpy(), other.stderr, rtol=0.1)
    assert torch.allclose(outcome.frequency.sum(1), torch.ones(12))


def test_margin():
    output = torch.tensor([[3.0, 1.0, 2.0]])
    assert margin(output, torch.tensor([0])) == -1
    assert margin(output, torch.tensor([1])) == 2
    assert margin(output, torch.tensor([0]), torch.tensor([2])) == -1
    assert margin(output, torch.tensor([1]), torch.tensor([0])) == 1
