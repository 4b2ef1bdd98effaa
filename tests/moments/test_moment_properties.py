"""The deep rules are exact where nothing is left to approximate: affine networks of any shape."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import rpa

few = settings(derandomize=True, deadline=None, max_examples=15, database=None)
shapes = st.lists(st.integers(1, 6), min_size=2, max_size=5)
rules = st.sampled_from(["exact", "series", "linear"])


def _affine(sizes):
    return nn.Sequential(*(nn.Linear(n, m) for n, m in zip(sizes, sizes[1:]))).double().requires_grad_(False).eval()


def _law(net, x, cov):
    jacobian = torch.func.jacrev(net)(x[0])
    return net(x), jacobian @ cov @ jacobian.T


def _inputs(dim, seed):
    torch.manual_seed(seed)
    factor = torch.randn(dim, dim, dtype=torch.float64)
    return torch.randn(1, dim, dtype=torch.float64), factor @ factor.T


@few
@given(shapes, st.integers(0, 1000), rules)
def test_layerwise_is_exact_on_affine_networks(sizes, seed, rule):
    x, cov = _inputs(sizes[0], seed)
    net = _affine(sizes)
    moments, (mean, expected) = rpa.layerwise(net, x, cov, rule), _law(net, x, cov)
    torch.testing.assert_close(moments.mean, mean)
    torch.testing.assert_close(moments.cov[0], expected)


@few
@given(shapes, shapes, st.integers(0, 1000), rules)
def test_two_stage_is_exact_where_no_unit_is_ever_off(sizes, rest, seed, rule):
    x, cov = _inputs(sizes[0], seed)
    first, second = _affine(sizes), _affine([sizes[-1], *rest])
    first[-1].bias += 1e4
    moments = rpa.two_stage(first, second, x, cov, rule=rule)
    mean, expected = _law(nn.Sequential(first, second), x, cov)
    torch.testing.assert_close(moments.mean, mean)
    torch.testing.assert_close(moments.cov[0], expected, rtol=1e-6, atol=1e-8)
