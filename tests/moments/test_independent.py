"""Moments of independent units: exact cases, `rpa.moments.relu`, torch's own Jacobian products."""

import pytest
import torch
from helpers import Net
from torch import nn
from torch.nn import functional

from rpa import layerwise
from rpa.moments import activation, relu
from rpa.moments.linearized import Stages
from rpa.moments.prepared import traced
from rpa.moments.two_stage import mean_of_stages, two_stage_mean
from rpa.tracing import parts


def small_net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(8, 6, 3)]
    layers += [nn.ReLU(), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(24, 4)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.float32, 4e-7)])
def test_quick_moments_are_those_of_rpa_relu(dtype, tolerance):
    a, sigma = torch.meshgrid(torch.linspace(-40, 40, 1601), torch.tensor([1e-3, 1.0, 50.0]), indexing="ij")
    mean, var = (a * sigma).to(dtype), (sigma**2).to(dtype)
    for ours, exact in zip(activation.moments(mean, var), (relu.mean, relu.variance)):
        scale = sigma if exact is relu.mean else sigma**2
        error = (ours.double() - exact(mean.double(), var.double())).abs() / (scale * a.abs().clamp(min=1))
        assert error.max() < tolerance
    mean, none = torch.tensor([-2.0, 0.0, 3.0]), torch.zeros(3)
    ours = activation.moments(mean, none)
    assert torch.allclose(ours[0], torch.relu(mean), rtol=0, atol=1e-14) and torch.equal(ours[1], none)


def test_units_of_any_size():
    """A network without biases scales with its input: noise of 1e-19, as of charges in coulombs, is not zero."""
    net, x = small_net().requires_grad_(False), torch.randn(1, 3, 9, 9, dtype=torch.float64)
    for layer in net[0], net[3], net[7]:
        layer.bias.zero_()
    for rule in ("diagonal", "series"):
        expected = layerwise(net, x, 0.04, rule)
        for scale in (1e-19, 1e-100, 1e100):
            found = layerwise(net, scale * x, 0.04 * scale**2, rule)
            torch.testing.assert_close(found.mean / scale, expected.mean, rtol=0, atol=1e-7)
            torch.testing.assert_close(found.cov / scale**2, expected.cov, rtol=0, atol=1e-7)


def test_two_stage_means_are_those_of_torchs_jacobian_product():
    net, x, scales = small_net(), torch.randn(3, 3, 9, 9, dtype=torch.float64), [0.2, 0.5]
    stages = Stages.of(traced(net, x), 1)
    noise = torch.stack([torch.full(x.shape[1:], scale**2, dtype=x.dtype) for scale in scales])
    ours = torch.stack([mean_of_stages(stages, image, noise) for image in x.split(1)], 1)
    torch.testing.assert_close(ours[1], two_stage_mean(net, x, scales[1] ** 2, relu=1))
    for level, scale in enumerate(scales):
        mean, var = net[0](x), functional.conv2d(torch.full_like(x, scale**2), net[0].weight ** 2, padding=1)
        kept, index = functional.max_pool2d(torch.relu(mean), 3, 2, ceil_mode=True, return_indices=True)
        var = (var * (mean > 0)).flatten(2).gather(2, index.flatten(2)).reshape(index.shape)
        mean, var = net[3](kept), functional.conv2d(var, net[3].weight ** 2)
        expected = relu.mean(mean, var)
        value, shift = torch.func.jvp(net[5:], (torch.relu(mean),), (expected - torch.relu(mean),))
        assert torch.allclose(ours[level], value + shift, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("last, expected", [
    (lambda y: y + y, lambda var: 4 * var),
    (lambda y: y - torch.ones(3, 5, dtype=torch.float64), lambda var: var.repeat_interleave(15, 1)),
])  # fmt: skip
def test_sums_in_a_part_too_large_for_a_matrix(last, expected, monkeypatch):
    """Its layers are squared one by one: a value with itself, and one spread over a constant."""
    monkeypatch.setattr(parts, "DENSE", 0)
    conv, x = nn.Conv2d(1, 2, 4).double(), torch.rand(2, 1, 4, 4, dtype=torch.float64)
    once, found = (layerwise(net, x, 0.3, "diagonal").var for net in (conv, nn.Sequential(conv, Net(last))))
    assert torch.allclose(found, expected(once), rtol=1e-12)


def test_a_layer_that_mixes_channels_is_refused_where_it_is_too_large(monkeypatch):
    monkeypatch.setattr(parts, "DENSE", 500)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ChannelShuffle(4)).eval()
    with pytest.raises(ValueError, match=r"ChannelShuffle\) is too large for independent units"):
        layerwise(net, torch.rand(1, 1, 6, 6), 0.3, "diagonal")


def test_results_carry_no_graph_of_the_weights():
    net, x = small_net(), torch.rand(1, 3, 9, 9, dtype=torch.float64)
    assert all(weight.requires_grad for weight in net.parameters())
    assert not layerwise(net, x, 0.1, "diagonal").mean.requires_grad
    assert not layerwise(net, x, 0.1).cov.requires_grad
