"""Maxima of Gaussian variables, alone and over windows: sampling, closed forms, the cubature of each window alone."""

import numpy as np
import pytest
import torch
from helpers import standard
from torch import nn

from rpa.moments import pooling, two_stage
from rpa.moments.layerwise import layerwise
from rpa.tracing.conversion import windows
from rpa.tracing.traced import Traced

F64 = torch.float64


def cut_of(pool, x):
    return Traced(pool, x).parts[1]


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


def test_an_input_is_the_same_beside_a_louder_one():
    """Also one without noise, of which every window is certain; in single precision."""
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)).requires_grad_(False)
    x = torch.rand(1, 1, 5, 5).expand(3, -1, -1, -1) * torch.tensor([1e-6, 1e-3, 1.0]).reshape(3, 1, 1, 1)
    var = torch.tensor([0.0, 1e-6, 1e6]).reshape(3, 1, 1, 1).expand_as(x)
    net[0].bias[:], net[3].bias[:] = 0.0, 0.0
    together = layerwise(net, x, var)
    for i in range(3):
        alone = layerwise(net.double(), x[i : i + 1].double(), var[i : i + 1].double())
        for found, expected in zip(together, alone):
            gap = (found[i] - expected[0]).abs().max() / expected.abs().max().clamp(min=1e-30)
            assert gap < 1e-3


def test_of_equal_members_of_a_window_one_wins():
    """As at an edge, where a window counts its last member twice: gains still sum to one."""
    mean = torch.tensor([0.3, -0.2, -0.2], dtype=F64)
    root = torch.tensor([[1.0, 0.2], [0.1, 0.8], [0.1, 0.8]], dtype=F64)
    found, pair = (pooling.maximum(mean[:n][None], (root[:n] @ root[:n].T)[None]) for n in (3, 2))
    torch.testing.assert_close(found.gains.sum(), torch.tensor(1.0, dtype=F64))
    torch.testing.assert_close(found.mean, pair.mean, rtol=0, atol=2e-3)
    torch.testing.assert_close(found.gains[0, 0], pair.gains[0, 0], rtol=0, atol=0.02)


def test_second_order_term_of_a_pair_of_maxima():
    """For w = 2 the expected Hessian is phi(a) / s (1, -1)(1, -1)^T, with a = E[x1 - x2] / s, s^2 = Var[x1 - x2]."""
    rng = np.random.default_rng(3)
    factor, mean = rng.standard_normal((4, 4)), torch.tensor(rng.standard_normal((1, 2, 2)))
    cov = torch.tensor(factor @ factor.T)
    members = torch.tensor([[0, 1], [2, 3]])
    top = pooling.maximum(mean, torch.stack([cov[:2, :2], cov[2:, 2:]])[None])
    along = lambda rows: pooling.combine(rows, members, top.directions[..., 0])
    found = pooling.second_order(top.curvatures, lambda a, b: along(along(cov[None]).mT))
    u = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]], dtype=F64)
    spread = (u @ cov @ u.T).diagonal().sqrt()
    a = (mean[0, :, 0] - mean[0, :, 1]) / spread
    h = torch.exp(-(a**2) / 2) / np.sqrt(2 * np.pi) / spread
    expected = h[:, None] * h * (u @ cov @ u.T) ** 2 / 2
    # A cubature of 2048 points resolves a Hessian, a weighted mean of a function with a kink, to some two per cent.
    torch.testing.assert_close(found[0], expected, rtol=0.05, atol=0)


def test_windows_of_local_inputs_share_what_they_share():
    """The blocks of `second_order_local` against `second_order` over all pairs of windows."""
    rng = np.random.default_rng(6)
    count, inputs = 700, 300
    place = rng.permutation(count) * (inputs - 9) // count
    rows = torch.zeros(2, inputs, count, dtype=F64)
    for column, start in enumerate(place):
        rows[:, start : start + 9, column] = torch.tensor(rng.standard_normal((2, 9)))
    curvatures = torch.tensor(rng.standard_normal((count, 2)))
    expected = pooling.second_order(curvatures[None], lambda a, b: (rows[a].T @ rows[b])[None])[0]
    torch.testing.assert_close(pooling.second_order_local(curvatures, rows.mT), expected, rtol=1e-9, atol=1e-12)


def test_max_pooling_keeps_what_neighbours_share():
    """Variance of a sum of 72 overlapping maxima: the second term closes most of the gap that the linear one leaves."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(72, 1))
    net = net.double().requires_grad_(False)
    net[3].weight.fill_(1.0)
    x = torch.zeros(1, 1, 10, 10, dtype=F64)
    flat = nn.Sequential(nn.Unflatten(1, (1, 10, 10)), net)
    sampled = two_stage.monte_carlo(flat, standard(100), 200_000, 0)
    linear, both = (layerwise(net, x, 1.0, rule).var.item() / sampled.var[0] for rule in ("linear", "series"))
    assert abs(both - 1) < abs(linear - 1) / 3
    direct = layerwise(net, x, torch.eye(100, dtype=F64), "series").var.item() / sampled.var[0]
    assert direct == pytest.approx(both, rel=1e-9)


def drawn(mean, var, n):
    """Maxima of n draws of the independent members (w,) of one window."""
    z = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(2), dtype=F64)
    return (mean + var.sqrt() * z).amax(1)


def test_the_fold_of_two_independent_units_is_exact():
    mean, var = (torch.tensor(pair, dtype=F64).reshape(1, 1, 1, 2) for pair in ([0.3, -0.4], [1.0, 2.5]))
    y = drawn(mean.flatten(), var.flatten(), 400_000)
    top, spread = pooling.maxima(cut_of(nn.MaxPool2d((1, 2)), mean), mean, var)
    assert abs(top.item() - y.mean()) < 6 * y.std() / len(y) ** 0.5
    # The variance of a sample variance of a law close to normal is 2 var^2 / n.
    assert abs(spread.item() / y.var() - 1) < 6 * (3 / len(y)) ** 0.5


POOLS = {
    "plain": nn.MaxPool2d(3, 2),
    "padded": nn.MaxPool2d(3, 2, padding=1),
    "over the edge": nn.MaxPool2d(2, 3, ceil_mode=True),
    "dilated": nn.MaxPool2d(2, 2, dilation=2),
    "adaptive": nn.AdaptiveMaxPool2d((3, 4)),
}


@pytest.mark.parametrize("name", POOLS)
def test_the_fold_over_windows_of_every_kind(name):
    """Without noise it is the pooling; with it, the mean is close to sampling and has the gradients that it claims."""
    pool, generator = POOLS[name], torch.Generator().manual_seed(0)
    mean, var = (torch.randn(2, 3, 8, 9, generator=generator, dtype=F64) ** power for power in (1, 2))
    cut, var = cut_of(pool, mean), var + 0.1
    top, spread = pooling.maxima(cut, mean, 1e-18 * var)
    assert torch.allclose(top, pool(mean), rtol=0, atol=1e-8) and spread.max() < 1e-17
    top, _ = pooling.maxima(cut, mean, var)
    members = [torch.from_numpy(np.unique(window)) for window in windows(cut)]
    sampled = torch.stack([drawn(mean[0].flatten()[w], var[0].flatten()[w], 20_000).mean() for w in members])
    shift = sampled - pool(mean)[0].flatten()
    assert (top[0].flatten() - sampled).square().mean() < 0.01 * shift.square().mean()
    small = (mean[:1, :1, :5, :5].clone().requires_grad_(), var[:1, :1, :5, :5].clone().requires_grad_())
    cut = cut_of(pool, small[0])
    assert torch.autograd.gradcheck(lambda m, v: pooling.maxima(cut, m, v), small)
    for ours, other in zip(pooling.maxima(cut, *small), pooling.maxima(cut, *(v.detach() for v in small))):
        torch.testing.assert_close(ours.detach(), other)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("high, low", [(50.0, 0.0), (1e-3, -1e4), (-1e31, -1e32)])
def test_a_member_far_above_is_the_maximum(high, low, dtype):
    """Also with padding, whose members are none however low the others are."""
    mean = torch.full((1, 1, 5, 5), low, dtype=dtype)
    mean[0, 0, 0, 0] = high
    top = pooling.maxima(cut_of(nn.MaxPool2d(3, 2, padding=1), mean), mean, torch.full_like(mean, 1e-8))[0]
    assert top[0, 0, 0, 0].item() == pytest.approx(high, rel=1e-12 if dtype == F64 else 1e-6)
