import json
import pathlib

import numpy as np
import pytest
from helpers import (
    assert_binomial,
    given,
    problem,
    random_mixture,
    random_network,
    refusals,
    small_network,
    standard,
    units,
)
from torch import nn

from rpa.experiments.montecarlo import pattern_counts
from rpa.inputs import Gaussian, GaussianMixture
from rpa.network import ReLUNetwork
from rpa.patterns.pieces import region_probabilities
from rpa.patterns.pmf import pattern_pmf
from rpa.patterns.regions import label, planar_regions, region_at
from rpa.patterns.support import best_first
from rpa.reliability.certified import failing_patterns

REFERENCE = json.loads((pathlib.Path(__file__).parents[1] / "reference" / "planar.json").read_text())


@pytest.mark.parametrize("record", REFERENCE, ids=lambda r: f"{r['sizes']}-{float(r['log_p']):.0f}")
def test_tail_probabilities_against_mpmath(record):
    """Down to p = 1e-20: 1e-10 relative, and within three reported errors."""
    pmf = pattern_pmf(*problem(record["sizes"], record["seed"], spread=2.0))
    i = pmf.labels.index(int(record["label"]))
    error = abs(pmf.log_p[i] - float(record["log_p"]))
    assert error < 1e-10 and error < 3 * pmf.rel_error[i] + 1e-15 * abs(pmf.log_p[i])


def planar_case(seed):
    """Full covariances, means up to 6 standard deviations off."""
    sizes = [(2, 5, 1), (2, 16, 1), (2, 8, 8, 1), (2, 16, 16, 1), (2, 32, 32, 1)][seed % 5]
    return problem(sizes, seed, spread=6.0 * (seed % 4) / 3, mixture=seed % 2)


LOW_RANK = {
    "d=1": ((1, 6, 4, 1), Gaussian([0.3], 2.0)),
    "rank 1": ((2, 6, 4, 1), Gaussian([0.3, 0.1], [[1.0, 1.0], [1.0, 1.0]])),
    "one constant input": ((2, 6, 4, 1), Gaussian([0.3, 0.1], [0.0, 1.0])),
    "two units first": ((5, 2, 6, 1), Gaussian(np.zeros(5), 0.5 * np.eye(5) + 0.5)),
    "rank 2 of 6": ((6, 7, 4, 2), Gaussian(np.zeros(6), np.outer(np.arange(6), np.arange(6)) + np.ones((6, 6)))),
}
EXACT = [(*planar_case(seed), 200_000, seed) for seed in range(6)]
EXACT += [pytest.param(*planar_case(seed), 10_000_000, seed, marks=pytest.mark.slow) for seed in range(20)]
EXACT += [pytest.param(random_network(each, 1), law, 100_000, 0, id=name) for name, (each, law) in LOW_RANK.items()]
EXACT += [pytest.param(*problem((2, 6, 5, 1), 3, slope=0.2), 100_000, 0, id="leaky")]


# Without biases, cones that meet in the apex.
CONES = ReLUNetwork(random_network((3, 5, 4, 2), 4).weights, [np.zeros(5), np.zeros(4), np.zeros(2)])
EXACT += [(CONES, inputs, 400_000, 1) for inputs in (Gaussian([0.3, -0.2, 0.5], 0.5), random_mixture(3, 2))]


@pytest.mark.parametrize("net, inputs, n, seed", EXACT)
def test_exact_pmf_against_samples(net, inputs, n, seed):
    pmf = pattern_pmf(net, inputs)
    counts, other = pattern_counts(net, inputs, pmf.patterns, n, seed)
    tiny, error = (1e-14, pmf.p * pmf.rel_error) if net is CONES else (1e-12, 0.0)
    assert other == 0 and abs(pmf.p.sum() - 1) < 1e-12 and (np.diff(pmf.log_p) <= 0).all()
    assert pmf.stopped == "complete" and abs(pmf.covered - 1) < tiny and pmf.uncovered < tiny
    assert_binomial(counts, n, pmf.p, error)


def test_a_torch_module_is_as_good_as_a_network():
    net, law = problem((2, 4, 3), 0)
    module = net.to_torch()
    np.testing.assert_array_equal(pattern_pmf(module, law).p, pattern_pmf(net, law).p)
    assert region_at(module, [0.1, 0.2]).label == region_at(net, [0.1, 0.2]).label
    assert len(best_first(module, law, max_patterns=3)) == len(best_first(net, law, max_patterns=3))
    assert len(planar_regions(module, law).log_p) == len(planar_regions(net, law).log_p)


def test_constant_input_and_linear_network():
    spatial = pattern_pmf(random_network((3, 2), 0), standard(3))
    assert spatial.p == pytest.approx([1.0]) and spatial.complete
    with np.errstate(invalid="raise"):  # lines without an end
        assert spatial.output().pdf(spatial.net.biases[0][0]).p > 0
    constant = pattern_pmf(random_network((2, 4, 1), 0), Gaussian([0.3, -0.2], 0.0))
    np.testing.assert_array_equal(constant.patterns, constant.net.patterns([[0.3, -0.2]]))
    np.testing.assert_allclose(constant.p, 1.0, atol=1e-15)
    linear = pattern_pmf(*problem((2, 3), 0))
    assert linear.patterns.shape == (1, 0) and linear.labels == [0]


def test_slivers_between_repeated_units_leave_the_error_of_the_mass_finite():
    """Rounding leaves 1e-17 between multiples of a unit; of such a pattern no digit is known, but it has no mass."""
    net, scale = random_network((4, 3, 2), 2), np.array([1.0, 3.0, 7.0])
    rows, biases = (np.concatenate([part[0] * s for s in scale]) for part in (net.weights, net.biases))
    copies = ReLUNetwork([rows, np.ones((1, 9))], [biases, [0.0]])
    pmf = pattern_pmf(copies, standard(4), search="best_first")
    assert pmf.stopped == "mass" and pmf.covered_error < 0.01 and abs(pmf.covered - 1) < 3 * pmf.covered_error
    assert (pmf.rel_error[pmf.p < 1e-15] == np.inf).all() and (pmf.p < 1e-15).any()


def test_a_pattern_of_which_no_digit_is_known_may_be_wrong_by_all_its_mass(monkeypatch):
    def without_digits(*arguments):
        log_p, rel_error, deviation = region_probabilities(*arguments)
        rel_error[log_p.argmax()] = np.inf
        return log_p, rel_error, deviation

    monkeypatch.setattr("rpa.patterns.pmf.region_probabilities", without_digits)
    pmf = pattern_pmf(*problem((7, 4, 2), 0), search="best_first")
    assert pmf.rel_error[0] == np.inf and pmf.covered_error > 0.99 * pmf.p[0]


def test_an_exact_component_stays_exact_beside_a_sampled_one():
    """Half the mass at one point, half in rank three: each component's regions add up to one by themselves."""
    net = random_network((3, 5, 1), 0)
    pmf = pattern_pmf(net, GaussianMixture([0.5, 0.5], [Gaussian(np.ones(3), 0.0), standard(3)]))
    assert pmf.complete and len(pmf) > 9
    np.testing.assert_allclose([np.exp(part.log_p).sum() for part in pmf.pieces], 1.0, rtol=1e-14)


def test_a_unit_that_one_component_leaves_at_zero_is_off_there():
    """x_3 = 0 in one component: the patterns with unit 3 on, which the other shows, have no mass in it."""
    flat = Gaussian(np.zeros(4), [1.0, 1.0, 0.0, 1.0])
    net, inputs = units(np.eye(4)), GaussianMixture([0.5, 0.5], [flat, standard(4)])
    for search in ("exhaustive", "best_first"):
        pmf = pattern_pmf(net, inputs, search=search)
        on = pmf.patterns[:, 2]
        np.testing.assert_allclose(pmf.p, np.where(on, 1, 3) / 32, rtol=1e-12)
        assert len(pmf) == 16


def test_searched_pmf_agrees_with_the_exact_one():
    """The general route (search, then polytope probabilities) on the same plane, pattern by pattern."""
    net, inputs = problem((2, 8, 6, 1), 2, mixture=True)
    exact = pattern_pmf(net, inputs)
    searched = pattern_pmf(net, inputs, search="best_first", max_patterns=10_000, mass=1.0)
    truth = dict(zip(exact.labels, exact.log_p))
    heavy = searched.log_p > np.log(1e-12)
    assert heavy.sum() >= 0.9 * (exact.log_p > np.log(1e-12)).sum()
    expected = np.array([truth[name] for name in np.array(searched.labels)[heavy]])
    np.testing.assert_allclose(searched.log_p[heavy], expected, atol=1e-8)


@pytest.mark.parametrize("search", ["best_first", "entropy", "monte_carlo"])
def test_general_pmf_against_samples(search):
    """Rank 6 with 16 units: every probability within its reported error and six sigma of samples."""
    net, inputs = problem((6, 8, 8, 3), 4)
    pmf = pattern_pmf(net, inputs, max_patterns=150, search=search, rtol=1e-2)
    n = 400_000
    counts, other = pattern_counts(net, inputs, pmf.patterns, n, 1)
    assert_binomial(counts, n, pmf.p, pmf.rel_error * pmf.p)
    assert_binomial(n - other, n, pmf.covered, pmf.covered_error)
    assert len(pmf) <= 150 and abs(pmf.uncovered + pmf.covered - 1) < 1e-12


def test_no_error_exceeds_the_mass_that_may_be_missing():
    """Few patterns carry this law: to rtol alone the covered mass would be known to 1 %."""
    net, inputs = random_network((6, 8, 8, 3), 4), Gaussian(np.full(6, 0.5), 0.03)
    loose, close = (pattern_pmf(net, inputs, mass=mass) for mass in (0.98, 0.998))
    assert 0.002 < (loose.p * loose.rel_error).max() <= 0.02 and (close.p * close.rel_error).max() <= 0.002
    assert close.covered_error < 0.003 < 0.005 < loose.covered_error and close.covered >= 0.998 - close.covered_error
    n = 1_000_000
    counts, _ = pattern_counts(net, inputs, close.patterns[:5], n, 1)
    assert_binomial(counts, n, close.p[:5], (close.p * close.rel_error)[:5])


def test_a_mass_of_few_points_knows_what_they_miss():
    """Nine regions hold nearly all; their points scatter less than they miss, and covered was 6 stated errors off."""
    (net, inputs), n = small_network(22), 1_000_000
    for mass in (0.999, 1.0):
        pmf = pattern_pmf(net, inputs, mass=mass, max_patterns=9)
        other = pattern_counts(net, inputs, pmf.patterns, n, 1)[1]
        assert_binomial(n - other, n, pmf.covered, pmf.covered_error)
        assert (pmf.p * pmf.rel_error).max() < 0.001 or mass == 1


def test_views_of_the_result():
    net, inputs = problem((2, 5, 4, 3), 0)
    pmf = pattern_pmf(net, inputs)
    frame = pmf.to_frame()
    assert list(frame.columns) == ["label", "p", "log_p", "rel_error", "active"]
    assert 0 < pmf.covered_error < 1e-11
    np.testing.assert_array_equal(frame.active, pmf.patterns.sum(axis=1))
    assert [int(name) for name in frame.label] == pmf.labels == [label(pattern) for pattern in pmf.patterns]
    values, p = pmf.singular_values()
    for i in range(0, len(pmf), 7):
        np.testing.assert_allclose(values[i], np.linalg.svd(pmf.region(i).A, compute_uv=False), atol=1e-13)
    np.testing.assert_array_equal(p, pmf.p)


LINEAR, LINE = nn.Linear(6, 2), pattern_pmf(*problem((1, 3, 1), 0))
SIX = dict(zip(("net", "inputs"), problem((6, 8, 1), 0)))
test_bad_values_are_refused_by_name = refusals(
    {
        given(pattern_pmf, net=random_network((3, 4, 1), 0), inputs=standard(3)): {
            "net": [[1, 2]],
            "module": [SIX | {"net": nn.Sequential(LINEAR, layer)} for layer in (nn.Tanh(), nn.Dropout())],
            "max_patterns": [0, 2**70, {"search": "exhaustive", "max_patterns": 3}],
            "mass": [1.5, "1"],
            "seed": [None, 2**64],
            "rtol": [-1],
            "search": ["magic", SIX | {"search": "exhaustive"}],
            "inputs": [3, standard(4)],
        },
        given(best_first, net="net", inputs=standard(2)): {"net": ["net"]},
        LINE.region: {"i": [99]},
        given(failing_patterns, **SIX): {"budget": [-3]},
        LINE.output: {"n": [[5]]},
    }
)
