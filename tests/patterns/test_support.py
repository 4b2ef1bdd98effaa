"""The search for likely patterns against enumeration, closed forms and samples."""

import numpy as np
import pytest
from helpers import assert_binomial, given, problem, random_mixture, random_network, refusals, standard, units
from scipy.special import log_ndtr, logsumexp, ndtr

from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.patterns import pruning, search
from rpa.patterns.packing import draw_around, draw_packed, draw_scaled, pattern_keys
from rpa.patterns.support import best_first, entropy_pruned, monte_carlo

METHODS = [best_first, entropy_pruned]


def as_dict(found):
    return dict(zip(map(bytes, found.patterns), found.log_q))


@pytest.mark.parametrize("n", [2, 3, 6, 10])
def test_equicorrelated_orthant(n):
    """P(all positive) = 1 / (n + 1) at correlation 1/2; moment matching is good to a few per cent."""
    cov = (np.eye(n) + 1) / 2
    found = best_first(units(np.eye(n)), Gaussian(np.zeros(n), cov), max_patterns=2**n, mass=1.0)
    log_q = as_dict(found)[bytes(np.ones(n, dtype=bool))]
    assert abs(log_q + np.log(n + 1)) < 0.03


@pytest.mark.parametrize("method", METHODS)
def test_mixtures_add_up_over_components(method):
    net, mixture = random_network([3, 4, 3, 1], 1), random_mixture(3, 2)
    found = as_dict(method(net, mixture, max_patterns=10_000, mass=1.0))
    parts = [as_dict(method(net, part, max_patterns=10_000, mass=1.0)) for part in mixture.components]
    assert set(found) == set().union(*parts)
    for pattern, log_q in found.items():
        terms = [np.log(w) + part.get(pattern, -np.inf) for w, part in zip(mixture.weights, parts)]
        assert log_q == pytest.approx(logsumexp(terms), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_stops_at_mass_and_at_max_patterns(method):
    net, inputs = problem([8, 7, 5, 1], 3)
    whole = method(net, inputs, max_patterns=5000, mass=1.0)
    some = method(net, inputs, max_patterns=5000, mass=0.8)
    total = np.exp(some.log_q).sum()
    assert total >= 0.8 > total - np.exp(some.log_q[-1])
    assert len(some) < len(whole)
    assert len(method(net, inputs, max_patterns=7, mass=1.0)) == 7
    again = method(net, inputs, max_patterns=5000, mass=0.8)
    np.testing.assert_array_equal(again.patterns, some.patterns)
    np.testing.assert_array_equal(again.log_q, some.log_q)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes, cov", [((5, 6, 4, 1), 0.0), ((5, 2), 1.0)])
def test_without_noise_or_units_there_is_one_pattern(method, sizes, cov):
    net, mean = random_network(sizes, 8), np.random.default_rng(8).standard_normal(5)
    found = method(net, Gaussian(mean, cov))
    np.testing.assert_array_equal(found.patterns, net.patterns(mean[None]))
    assert found.log_q[0] == 0


@pytest.mark.parametrize("sigma", [1e-9, 1e-5, 1.0])
def test_weak_noise(sigma):
    """A second-layer unit three (weak) standard deviations above its threshold, the first layer far from any."""
    first, second = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[0.7, -0.3]])
    mean, far = np.array([1.7, 0.9]), 30 * max(sigma, 1.0)
    deviation = sigma * np.linalg.norm(second @ first)
    biases = (np.full(2, far), 3 * deviation - second @ (first @ mean + far), np.zeros(1))
    net, inputs = ReLUNetwork((first, second, np.ones((1, 1))), biases), Gaussian(mean, sigma**2)
    found = as_dict(best_first(net, inputs, mass=1.0))
    assert found[bytes(np.ones(3, dtype=bool))] == pytest.approx(log_ndtr(3), abs=1e-5)
    assert found[bytes(np.array([True, True, False]))] == pytest.approx(log_ndtr(-3), abs=1e-2)
    on = np.exp(as_dict(monte_carlo(net, inputs, 200_000, 0))[bytes(np.ones(3, dtype=bool))])
    assert_binomial(round(200_000 * on), 200_000, ndtr(3))


@pytest.mark.parametrize("method", METHODS)
def test_noise_on_a_line(method):
    """Rank one: the patterns are intervals, and rows far outnumber dimensions."""
    net, mean = random_network([4, 5, 3, 1], 9), np.zeros(4)
    direction = np.array([1.0, 2.0, 0.0, -1.0])
    seen = net.patterns(np.linspace(-3, 3, 2001)[:, None] * direction)
    found = method(net, Gaussian(mean, np.outer(direction, direction)), max_patterns=256, mass=1.0)
    assert np.isfinite(found.log_q).all()
    if method is best_first:
        assert {bytes(p) for p in seen} <= set(as_dict(found))


@pytest.mark.parametrize("last", [0, 1, 2])
def test_interrupt_returns_what_the_last_pass_found(monkeypatch, last):
    """Ctrl-C in pass `last`: the answer is that of the pass before; with none before, it is an interrupt like any."""
    net, inputs = problem([12, 10, 8, 1], 1)
    beam, results = search.beam, []

    def interrupted(*arguments):
        if len(results) == last:
            raise KeyboardInterrupt
        results.append(beam(*arguments))
        return results[-1]

    monkeypatch.setattr(search, "beam", interrupted)
    if last == 0:
        with pytest.raises(KeyboardInterrupt):
            best_first(net, inputs, max_patterns=2000, mass=1.0)
        return
    found = best_first(net, inputs, max_patterns=2000, mass=1.0)
    np.testing.assert_array_equal(found.patterns, results[-1][0])
    np.testing.assert_array_equal(found.log_q, results[-1][1])
    assert not found.exhausted


def test_memory_bounds_the_width():
    net, inputs = problem([12, 10, 8, 1], 1)
    nodes = 50
    found = best_first(net, inputs, mass=1.0, memory=nodes * search.node_bytes(net))
    assert len(found) == nodes


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("unit", [2.0**-140, 2.0**70, 2.0**140])
def test_pre_activations_in_any_unit(layer, unit):
    """Squares beyond what single precision holds, and numbers beyond it."""
    net = random_network((5, 4, 3, 1), 0)
    scale = [unit if k >= layer else 1.0 for k in range(3)]  # a layer's unit is that of the biases behind it
    weights = [w * (unit if k == layer else 1.0) for k, w in enumerate(net.weights)]
    scaled = ReLUNetwork(weights, [b * s for b, s in zip(net.biases, scale)])
    expected, found = (best_first(each, standard(5), max_patterns=10) for each in (net, scaled))
    np.testing.assert_array_equal(found.patterns, expected.patterns)
    np.testing.assert_allclose(found.log_q, expected.log_q, atol=0.1)


def test_fixed_units_by_entropy():
    """h(p) in bits: 1 at 1/2, 0.0808 at 0.01, 0 at 0 and 1."""
    p = np.array([0.5, 0.01, 0.99, 0.0, 1.0])
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    np.testing.assert_array_equal(pruning.fixed_units(log_p, 0.05), [False, False, False, True, True])
    np.testing.assert_array_equal(pruning.fixed_units(log_p, 0.1), [False, True, True, True, True])


def test_pruning_fixes_near_certain_units():
    """Two units of entropy 2e-3 and 1 bit: at the usual threshold only the second one is enumerated."""
    net = units(np.eye(2), [4.0, 0.0])
    found = entropy_pruned(net, standard(2), mass=1.0)
    assert set(as_dict(found)) == {bytes(np.array([True, False])), bytes(np.array([True, True]))}
    assert len(entropy_pruned(net, standard(2), mass=1.0, threshold=1e-9)) == 4


def test_sampling_is_seeded():
    net, inputs = problem([4, 6, 5, 1], 1)
    first, again, other = (monte_carlo(net, inputs, 50_000, seed, 20) for seed in (1, 1, 2))
    assert as_dict(first) == as_dict(again) != as_dict(other)
    assert len(first) == 20 and (np.diff(first.log_q) <= 0).all() and len(monte_carlo(net, inputs, 99, 0, 1)) == 1


def test_keys_tell_patterns_apart():
    """One word's key is SplitMix64's: distinct for distinct words. It is mixed in full before the next word."""
    words = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], dtype=np.uint64)  # states from seed 0
    keys = pattern_keys(words[:, None].view(np.uint8))
    assert list(keys) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert pattern_keys(words[None].view(np.uint8)) == pattern_keys((keys[:1, None] ^ words[1:]).view(np.uint8))
    assert pattern_keys(np.uint8([[7, 1]])) == pattern_keys(np.uint8([[7, 1, 0]])) != pattern_keys(np.uint8([[1, 7]]))


PLANE = {"net": random_network([2, 3, 1], 0), "inputs": standard(2)}
test_bad_values_are_refused_by_name = refusals(
    {given(method, **PLANE): {"max_patterns": [0], "inputs": [standard(3)]} for method in METHODS}
    | {
        given(entropy_pruned, **PLANE): {"threshold": [0.0]},
        given(best_first, **PLANE): {"memory": [0]},
        given(monte_carlo, **PLANE, n=10, seed=0): {"n": [0], "inputs": [standard(3)]},
    }
)


def test_one_draw_serves_all_means():
    net, means = random_network([6, 8, 5, 3], 1), np.random.default_rng(2).standard_normal((2, 6))
    noise = Gaussian(np.zeros(6), np.diag([0.01, 0.02, 0.03, 0.01, 0.02, 0.03]))
    for mean, parts in zip(means, draw_around(net, noise, means, (1.0, 3.0), 20_000, seed=4)):
        for scale, packed in zip((1.0, 3.0), parts):
            alone = draw_packed(net, Gaussian(mean, scale**2 * noise.cov), 20_000, seed=4)
            assert (packed != alone).any(axis=1).mean() < 1e-3  # units within rounding of their threshold
        np.testing.assert_array_equal(draw_scaled(net, Gaussian(mean, noise.cov), (1.0, 3.0), 20_000, seed=4), parts)
    with pytest.raises(ValueError, match="means: expected shape"):
        draw_around(net, noise, means[0], (1.0,), 10, seed=0)
