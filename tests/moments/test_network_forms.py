"""Options of layers against dense Jacobians, and what the moment functions take and refuse."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import rpa
from rpa.moments.layerwise import RULES
from rpa.moments.two_stage import two_stage_mean

F64 = torch.float64
few = settings(derandomize=True, deadline=None, max_examples=25, database=None)


@st.composite
def layers(draw):
    """One affine layer with random options, for images (2, 5, 6) or rows of a plane (2, 8)."""
    number = lambda low, high: draw(st.integers(low, high))
    dims, kind = number(1, 2), draw(st.sampled_from(["conv", "average", "adaptive", "padding"]))
    if kind == "adaptive":
        return (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[dims - 1]([number(1, 9) for _ in range(dims)])
    kernel, stride = [number(1, 3) for _ in range(dims)], [number(1, 2) for _ in range(dims)]
    if kind == "average":
        options = {"ceil_mode": draw(st.booleans()), "count_include_pad": draw(st.booleans())}
        options |= {"divisor_override": draw(st.sampled_from([None, 1, 3]))} if dims == 2 else {}
        return (nn.AvgPool1d, nn.AvgPool2d)[dims - 1](kernel, stride, [k // 2 for k in kernel], **options)
    if kind == "padding":
        modes = [nn.ReflectionPad1d, nn.ReplicationPad1d] if dims == 1 else [nn.ReflectionPad2d, nn.CircularPad2d]
        return draw(st.sampled_from(modes))(number(0, 2))
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    options = {"stride": stride, "dilation": number(1, 2), "groups": number(1, 2), "padding_mode": mode}
    return (nn.Conv1d, nn.Conv2d)[dims - 1](2, 2, kernel, padding=[number(0, 2) for _ in range(dims)], **options)


@few
@given(layers(), st.integers(0, 1000))
def test_every_function_is_exact_on_affine_networks(drawn, seed):
    torch.manual_seed(seed)
    shape = (2, 8) if "1d" in type(drawn).__name__ else (2, 5, 6)
    x = torch.rand(2, *shape, dtype=F64)
    middle = drawn(x.float()).shape[1]
    net = nn.Sequential(drawn, (nn.Conv1d if len(shape) == 2 else nn.Conv2d)(middle, 2, 1), nn.Flatten(), nn.ReLU())
    net = net.double().eval().requires_grad_(False)
    net[1].bias += 1e3  # no unit is ever off
    jacobian = torch.autograd.functional.jacobian(lambda image: net(image[None])[0], x[0]).flatten(1)
    var = torch.rand(x.shape[1:], dtype=F64)
    expected = (jacobian * var.flatten()) @ jacobian.T
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    for rule in RULES:
        moments = rpa.layerwise(net, x, var, rule)
        close(moments.mean, net(x))
        close(moments.cov[0], expected if rule != "diagonal" else torch.diag(expected.diagonal()))
    alone = torch.autograd.functional.jacobian(lambda image: drawn(image[None])[0].flatten(), x[0]).flatten(1)
    close(rpa.layerwise(drawn, x, var, "diagonal").var[0], alone**2 @ var.flatten())
    for rule in ("exact", "linear"):
        close(rpa.two_stage(net, x, var, rule=rule).cov[1], expected)
        close(rpa.two_stage(net, x, torch.diag(var.flatten()), rule=rule).cov[1], expected)
    flat = rpa.ReLUNetwork.from_torch(net, tuple(x.shape[1:]))
    close(torch.from_numpy(flat(x.flatten(1).numpy())), net(x))
    if x.ndim == 4:
        for method in ("linear", "two-stage", "lines"):
            found = rpa.noise_map(net, x[0], 0.3, method=method)
            close(found, 0.09 * (jacobian.reshape(-1, *x.shape[1:]) ** 2).sum(1))


def test_gradients_are_finite_where_a_variance_is_zero():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    slope = lambda rule: torch.autograd.grad(rpa.two_stage(net, torch.ones(1, 3), var, rule=rule).var.sum(), var)[0]
    var = torch.tensor([0.0, 0.1, 0.2], dtype=F64, requires_grad=True)
    shift = torch.tensor([1e-6, 0, 0], dtype=F64)
    total = lambda v: rpa.two_stage(net, torch.ones(1, 3), v).var.sum().item()
    difference = (total(var.detach() + shift) - total(var.detach())) / 1e-6
    assert slope("linear")[0].item() == pytest.approx(difference, rel=1e-4)
    assert slope("exact").isfinite().all()


def test_deep_networks_in_single_precision():
    net = nn.Sequential(*(part for _ in range(20) for part in (nn.Linear(20, 20), nn.ReLU())))
    x = torch.randn(1, 20)
    single, double = rpa.layerwise(net, x, 1e-6), rpa.layerwise(net.double(), x, 1e-6)
    torch.testing.assert_close(single.var.double(), double.var, rtol=1e-2, atol=1e-4 * double.var.max().item())


def test_a_mixture_is_the_weighted_sum_of_its_parts():
    net = rpa.ReLUNetwork.from_torch(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)))
    rng = np.random.default_rng(0)
    parts = [rpa.Gaussian(rng.standard_normal(3), np.diag([0.1, 0.5, 1.0]) + 0.05) for _ in range(2)]
    law = rpa.GaussianMixture([0.25, 0.75], parts)
    samples = net(law.sample(400_000, 1))
    for function in (rpa.layerwise, partial(rpa.two_stage, rule="exact")):
        mean, cov = (part[0].numpy() for part in function(net, law))
        np.testing.assert_allclose(mean, samples.mean(0), atol=6 * samples.std() / 600)
        means, covs = (np.concatenate(column) for column in zip(*(function(net, part) for part in parts)))
        second = np.einsum("k,kij->ij", law.weights, covs + means[:, :, None] * means[:, None])
        np.testing.assert_allclose(mean, law.weights @ means, rtol=1e-12)
        np.testing.assert_allclose(cov, second - np.outer(mean, mean), rtol=1e-10)


def test_a_smooth_function_is_refused_however_straight_it_is_at_the_probes():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        net[0].weight.mul_(1e-4), net[0].bias.zero_()
    with pytest.raises(ValueError, match=r"layer 1 \(Tanh\) is not affine"):
        rpa.layerwise(net, torch.zeros(1, 2), 0.1)


def test_modules_in_half_precision_are_computed_in_single_and_stay_as_they_are():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.ReLU(inplace=True), nn.Linear(3, 2)).to(torch.bfloat16)
    found = rpa.noise_map(net, np.ones((2, 2)), 0.1), rpa.layerwise(net, [[0.0] * 4], 0.1).cov
    assert found[0].dtype == found[1].dtype == torch.float32
    assert net[0].weight.dtype == torch.bfloat16
    assert rpa.layerwise(torch.compile(net, backend="eager"), [[0.0] * 4], 0.1).mean.shape == (1, 2)


def test_maps_see_every_layer_before_the_first_activation():
    norm = nn.BatchNorm1d(4)
    norm.running_var.uniform_(0.5, 2.0)
    layers = [nn.Flatten(), norm, nn.ReLU(), nn.Linear(4, 2)]
    for net in (layers, layers[:1] + layers[2:], [nn.Sequential(*layers[:2]), nn.Sequential(*layers[2:])]):
        net = nn.Sequential(*net).double().eval()
        maps = [rpa.noise_map(net, np.ones((2, 2)), 0.3, method=m, nodes=401, order=9) for m in ("two-stage", "lines")]
        torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-6)


def test_the_call_that_a_message_gives_works():
    net = nn.Sequential(nn.Conv2d(2, 2, 14, 14, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    law = rpa.Gaussian(np.zeros(1568), 0.01)
    for function in (rpa.pattern_pmf, rpa.best_first, rpa.entropy_pruned):
        with pytest.raises(ValueError, match=r"net: does not tell .*; give .*\(2, 28, 28\)") as refusal:
            function(net, law)
        call = str(refusal.value).partition("give ")[2].partition(", with their own")[0]
        function(eval(call, {"rpa": rpa, "net": net}), law)


def test_slopes_keep_their_digits_before_the_activation_of_two_stages():
    net = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.1), nn.Linear(6, 5), nn.ReLU()).double().requires_grad_(False)
    net[2].bias += 100.0
    x = torch.rand(1, 4, dtype=F64)
    jacobian = torch.autograd.functional.jacobian(net, x)[0, :, 0]
    found = rpa.two_stage(net, x, 1.0, relu=1, rule="exact").cov[0]
    torch.testing.assert_close(found, jacobian @ jacobian.T, rtol=1e-12, atol=1e-12)


def test_each_input_may_have_its_own_covariance():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double().requires_grad_(False)
    x, root = torch.randn(2, 3, dtype=F64), torch.randn(2, 3, 3, dtype=F64)
    covs = root @ root.mT
    for function in (rpa.layerwise, rpa.two_stage):
        together, alone = function(net, x, covs), [function(net, *pair) for pair in zip(x.split(1), covs)]
        torch.testing.assert_close(together.mean, torch.cat([each.mean for each in alone]))
        torch.testing.assert_close(together.cov, torch.cat([each.cov for each in alone]))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(mode):
    norm = nn.BatchNorm2d(2)
    norm.running_var.uniform_(0.5, 2.0)
    net = nn.Sequential(nn.Conv2d(1, 2, 2), norm, nn.LeakyReLU(), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten())
    net = net.append(nn.Linear(8, 2)).double().eval()
    images = torch.rand(2, 1, 4, 4, dtype=F64)

    def everything():
        x = images.clone()
        found = [rpa.two_stage(net, x, 0.1, relu=i, rule=rule).cov for i in (0, 1) for rule in RULES]
        found += [rpa.noise_map(net, x[0], 0.1, method=method) for method in ("linear", "two-stage")]
        return found + list(rpa.noise_attack(net, x, torch.tensor([0, 1]), budget=1.0, steps=2))

    expected = everything()
    with mode():
        assert all(map(torch.equal, everything(), expected))


def test_a_covariance_of_one_input_is_a_variance():
    net = nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    x, cov = torch.tensor([[-1.0], [0.0], [2.0]], dtype=F64), torch.tensor([[0.3]], dtype=F64)
    means = lambda *inputs: [two_stage_mean(*inputs, relu=1)]
    for function in (rpa.layerwise, rpa.two_stage, means):
        expected = function(net, x, 0.3)
        for same in (cov, cov.expand(3, 1, 1)):
            assert all(map(torch.equal, function(net, x, same), expected))
        assert torch.equal(function(net, rpa.Gaussian(x[0], cov))[0], expected[0][:1])
