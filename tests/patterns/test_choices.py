"""What the PMF and the search decide by themselves, and what the figures show."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import all_patterns, coordinate, problem, random_network, spy, standard, units
from scipy.special import log_ndtr, ndtr
from scipy.stats import truncnorm

from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.patterns import pieces, pruning, search, support
from rpa.patterns.estimate import Estimate
from rpa.patterns.output_law import _winner
from rpa.patterns.packing import shifts
from rpa.patterns.pieces import _slices, region_probabilities
from rpa.patterns.planar_law import wins
from rpa.patterns.pmf import PatternPMF, pattern_pmf
from rpa.patterns.regions import affine_pieces, enumerate_regions, planar_regions

SEARCHES = {"best_first": "ranked", "entropy": "entropy_pruned", "monte_carlo": "monte_carlo"}


@pytest.mark.parametrize("name, method", SEARCHES.items())
def test_each_search_is_the_one_named(monkeypatch, name, method):
    used = {each: spy(monkeypatch, support, each) for each in SEARCHES.values()}
    pattern_pmf(*problem((4, 6, 5, 2), 0), search=name, max_patterns=20)
    assert [each for each in used if used[each]] == [method]


def test_limits_of_enumeration():
    """In the plane to 40 standard deviations, up to rank five to 8.5; the regions of all components together count."""
    assert [len(planar_regions(units([[1.0]], -limit), standard(1)).patterns) for limit in (39.9, 40.1)] == [2, 1]
    assert [len(enumerate_regions(units(np.eye(3)[:1], limit), 9)) for limit in (8.49, 8.51)] == [2, 1]
    assert pattern_pmf(*problem((3, 4, 1), 0)).covered_error == 3 * 4e-17
    assert pattern_pmf(*problem((5, 5, 1), 0), search="exhaustive").complete
    net, mixture = problem((3, 5, 4, 1), 1, mixture=True)
    every = len(pattern_pmf(net, mixture, search="exhaustive"))
    with pytest.raises(ValueError, match="max_patterns: expected at least the number of regions"):
        pattern_pmf(net, mixture, search="exhaustive", max_patterns=every - 1)


def test_a_threshold_at_the_largest_output_counts_each_region_once():
    law = pattern_pmf(units([[1], [-1]], last=-1.0), standard(1)).output()  # f(x) = -|x|
    np.testing.assert_allclose(law.cdf([0.0, 1.0]), 1.0, atol=1e-14)


def test_ranking_by_masses_and_counts():
    """Candidates with the right masses keep them up to the noise of few inputs; the others come from the inputs."""
    net = random_network((3, 7, 6, 1), 1)
    exact = pattern_pmf(net, standard(3))
    kept = np.arange(0, len(exact), 2)
    patterns, log_q = support._ranked(net, exact.patterns[kept], exact.log_p[kept], 2**14, len(exact), 0)
    truth = {row.tobytes(): p for row, p in zip(exact.patterns, exact.p)}
    p, q = np.array([truth[row.tobytes()] for row in patterns]), np.exp(log_q)
    assert (np.abs(q - p) < 6 * np.sqrt(p / 2**14) + 1e-4)[p > 1e-3].all()
    assert {row.tobytes() for row in exact.patterns[exact.p > 2e-3]} <= {row.tobytes() for row in patterns}
    assert (np.diff(log_q) <= 0).all() and len(np.unique(patterns, axis=0)) == len(patterns)
    one = support._ranked(net, exact.patterns[:1], exact.log_p[:1], 2, 1, 0)[1]
    assert abs(np.exp(one[0]) - (0.5 + round(2 * np.exp(one[0]))) / (2 + 0.5 / exact.p[0])) < 0.5


def test_shapes_and_counts_of_what_is_seen():
    """Gamma masses of shape 4 are recognised; Good and Turing's counts where a hundred patterns show them."""
    rng = np.random.default_rng(0)
    expected = rng.uniform(20, 60, 20_000)
    counts = rng.poisson(expected * rng.gamma(4.0, 0.25, 20_000))
    assert support._gamma_shape(counts, expected) == pytest.approx(4.0, rel=0.05)
    assert support._gamma_shape(expected, expected) == 100 and support._gamma_shape(100 * expected, expected) == 0.01
    counts = np.repeat([1, 2, 3, 7], [1000, 300, 100, 99])
    found = dict(zip(counts, support._good_turing(counts)))
    assert found == pytest.approx({1: 2 * 300 / 1000, 2: 3 * 100 / 300, 3: 0.0, 7: 7})


REACHED = {  # nodes; sum of masses; rms error of log q, without and with refinement; nodes and mass within 5 nats
    (2, 10, 8, 1): (2017, 0.958557, 0.76522, 0.46597, 25, 0.966976),
    (2, 6, 5, 4, 1): (592, 0.9762, 1.03871, 0.97965, 20, 0.997908),
    (2, 12, 6, 3): (492, 1.058621, 0.2734, 0.04254, 5, 0.99566),
}


@pytest.mark.parametrize("sizes", REACHED)
def test_how_close_the_search_comes(sizes):
    """Beside the exact regions of the plane. A change that comes closer may replace these numbers."""
    net, inputs = problem(sizes, 1, 0.1 if len(sizes) == 5 else 0.0, 4.0 if sizes[1] == 12 else 1.0)
    pmf, small = pattern_pmf(net, inputs), net.whitened(inputs)
    truth = dict(zip(map(bytes, pmf.patterns), pmf.log_p))
    numbers = []
    for refine in (False, True):
        patterns, log_q = search.beam(small, 10**4, refine=refine)
        exact = np.array([truth.get(bytes(row), -np.inf) for row in patterns])
        gap = (log_q - exact)[exact > np.log(1e-3)]
        numbers += [len(patterns), np.exp(log_q).sum(), np.sqrt(np.mean(gap**2))]
    near = search.beam(small, 100, 5.0)[0]
    numbers += [len(near), sum(np.exp(truth.get(bytes(row), -np.inf)) for row in near)]
    assert numbers[1] == pytest.approx(1, abs=1e-5)  # each decision shares out the mass of its node
    nodes, *others = (numbers[i] for i in (3, 4, 2, 5, 6, 7))
    assert nodes == pytest.approx(REACHED[sizes][0], rel=5e-3)  # single precision: one in 500 depends on the processor
    assert others == pytest.approx(REACHED[sizes][1:], rel=5e-4)
    assert len(search.beam(small, 20)[0]) == 20


def test_shifts_are_uniform_and_belong_to_pattern_and_seed():
    patterns = all_patterns(12)
    first, second = (shifts(patterns, 3, seed) for seed in (0, 1))
    np.testing.assert_array_equal(first[::-1], shifts(patterns[::-1], 3, 0))
    both = np.hstack([first, second])
    assert ((both >= 0) & (both < 1)).all() and len(np.unique(first)) == first.size
    assert np.abs(both.mean(axis=0) - 0.5).max() < 6 / np.sqrt(12 * 4096)
    assert np.abs(np.corrcoef(both.T) - np.eye(6)).max() < 6 / 64
    assert np.abs(np.cov(both.T).diagonal() * 12 - 1).max() < 0.1


def test_what_the_figures_show():
    net, inputs = problem((3, 5, 4, 2), 0)
    pmf = pattern_pmf(net, inputs)
    law, (left, right) = pmf.output(), plt.subplots(1, 2)[1]
    assert pmf.plot(left) is left and law.plot(right) is right
    stems = np.array([stem[1] for stem in left.collections[0].get_segments()])
    np.testing.assert_array_equal(stems, np.column_stack([pmf.labels, pmf.p])[pmf.p >= 1e-3])
    y, band = right.lines[0].get_xdata(), right.collections[0].get_paths()[0].vertices[:, 1]
    cdf, middle, deviation = law.cdf(y), law.mean[0], np.sqrt(law.cov[0, 0])
    np.testing.assert_allclose(y[[0, -1]], [middle - 4 * deviation, middle + 4 * deviation])
    np.testing.assert_allclose(right.lines[0].get_ydata(), cdf)
    np.testing.assert_allclose([band.max(), band.min()], [(cdf + 3 * cdf.error).max(), (cdf - 3 * cdf.error).min()])
    wide = pattern_pmf(*problem((2, 24, 1), 0))
    (line,), shown = wide.plot(frequencies=wide.p / 2, floor=0.02).lines, wide.p >= 0.02
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([1 + np.flatnonzero(shown), wide.p[shown] / 2]))
    samples = net(inputs.sample(1000, 0))
    for values, output in ((samples, 1), (samples[:, 0], 0)):
        circles = law.plot(output=output, samples=values).lines[1]
        np.testing.assert_allclose(circles.get_ydata(), (np.arange(25) + 0.5) / 25)
        np.testing.assert_allclose(circles.get_xdata(), np.quantile(samples[:, output], circles.get_ydata()))
    plt.close("all")


PASSES = {  # rows that can be found, of them regions with p = 0.01, scatter, mass: (width, mass) of each pass, verdict
    "few regions": (1000, 97, 0.0, 1.0, [(100, 1.0), (200, 1.0), (400, 1.0)], "exhausted"),
    "enough regions": (1000, 98, 0.0, 1.0, [(100, 1.0)], "max_patterns"),
    "no more rows": (150, 80, 0.0, 0.9, [(100, 0.9), (200, 1.0)], "exhausted"),
    "fewer rows": (99, 80, 0.0, 0.9, [(100, 0.9), (100, 1.0)], "exhausted"),
    "the mass": (1000, 90, 0.0, 0.9, [(100, 0.9)], "mass"),
    "the mass within the error": (1000, 89, 0.036, 0.9, [(100, 0.9)], "mass"),
}


@pytest.mark.parametrize("rows, real, scatter, mass, passes, verdict", PASSES.values(), ids=PASSES)
def test_passes_of_the_search(monkeypatch, rows, real, scatter, mass, passes, verdict):
    """The error of a sum p of replicates p (1 ± s) is 1.3 p s sqrt(16 / 15) / 4; the floor is the average mass."""
    every, used, floors = all_patterns(10)[:rows], [], []
    bits = 2 ** np.arange(10)[::-1]

    def found(net, inputs, max_patterns, mass, progress, seed):
        used.append((max_patterns, mass))
        return support.Support(every[:max_patterns], np.full(min(max_patterns, rows), -np.log(500)))

    def probabilities(net, patterns, rtol, seed, log_range, tick):
        floors.append(log_range[0])
        log_p, pm = np.where(patterns @ bits < real, np.log(0.01), -np.inf), np.tile([-1.0, 1.0], 8)
        return log_p, np.zeros(len(patterns)), scatter * np.ones((len(patterns), 1)) * pm

    monkeypatch.setattr(support, "ranked", found)
    monkeypatch.setattr("rpa.patterns.pmf.region_probabilities", probabilities)
    net = random_network((6, 10, 1), 0)
    pmf = pattern_pmf(net, standard(6), search="best_first", mass=mass, max_patterns=100)
    assert used == passes and pmf.stopped == verdict and len(pmf) == real and floors[0] == pytest.approx(-np.log(500))
    assert pmf.covered_error == pytest.approx(1.3 * 0.01 * real * scatter * np.sqrt(16 / 15) / 4, abs=1e-13)


def test_candidates_beyond_the_mass_cost_no_second_search(monkeypatch):
    """Two of four patterns promise the mass and fall short of it; the other two come from the same search."""
    found = support.Support(all_patterns(2), np.log([0.6, 0.4, 0.1, 0.1]))
    monkeypatch.setattr(support, "ranked", lambda *args: found)
    searches = spy(monkeypatch, support, "ranked")
    pmf = pattern_pmf(units(np.eye(6)[:2]), standard(6), search="best_first", mass=0.99, max_patterns=100)
    assert len(searches) == 1 and pmf.stopped == "mass" and pmf.covered == pytest.approx(1.0)
    assert len(found.cut(0.99)) == 2 and len(found.cut(0.6)) == 1 and found.cut(1.0) is found


def _of_one_point(law):
    """The probability of one point of a law: its error where all of them say the same."""
    weights = law._regions[1]
    return weights.max() / len(weights)


ONE_PATTERN = {"search": "best_first", "max_patterns": 1, "mass": 1.0}


def test_the_rest_by_hand():
    """f(x) = (x, -1/2, relu(x) - 1) by relu(x) and relu(-x), x ~ N(1, 1), of which the region x > 0 alone is known."""
    net = units([[1], [-1]], last=[[1, -1], [0, 0], [1, 0]], offset=[0.0, -0.5, -1.0])
    pmf, p = pattern_pmf(net, Gaussian([1.0], 1.0), **ONE_PATTERN), ndtr(1.0)
    law = pmf.output(n=200)
    rest, won = law._rest[0], law.class_probabilities()
    m, share = len(rest), np.array([(rest[:, 0] >= -0.5).mean(), (rest[:, 0] < -0.5).mean(), 0.0])
    assert pmf.covered == pytest.approx(p) and abs(m - 200 * (1 - p)) < 30 and (rest[:, 0] <= 0).all()
    np.testing.assert_allclose(won, [p + (1 - p) * share[0], (1 - p) * share[1], 0.0])
    from_rest = (1 - p) * np.sqrt((share * (1 - share) + 1 / (m + 1)) / m)
    one = _of_one_point(law)
    np.testing.assert_allclose(won.error, np.hypot(from_rest, one))
    bounds = [[p - 3 * one, 0.0, 0.0], [1.0, 1 - p + 3 * one, 1 - p + 3 * one]]
    np.testing.assert_allclose([won.lower, won.upper], bounds, atol=1e-12)
    far, inside = np.abs(rest - rest.mean(axis=0)).max(axis=0)[0], np.exp(-0.5) / np.sqrt(2 * np.pi)  # phi(1)
    assert law.mean[0] == pytest.approx(p + inside + (1 - p) * rest[:, 0].mean(), rel=1e-3)
    known = 2 * p + inside - 2 * law.mean[0] * (p + inside) + law.mean[0] ** 2 * p  # E[(x - mean)^2; x > 0]
    assert law.cov[0, 0] == pytest.approx(known + (1 - p) * ((rest[:, 0] - law.mean[0]) ** 2).mean(), rel=1e-3)
    deviation = np.sqrt(2 * p + inside - (p + inside) ** 2 / p)  # of x > 0
    spread = (1 - p) * np.sqrt((rest[:, 0].var() + max(far, 3 * deviation) ** 2 / (m + 1)) / m)
    assert law.mean.error[0] == pytest.approx(spread, rel=0.02) and law.mean.lower[0] == -np.inf
    for output, value, mass in ((1, -0.5, 1.0), (2, -1.0, 1 - p)):  # the latter in the rest alone
        values, atoms = law.atoms(output)
        np.testing.assert_allclose([values, atoms, atoms.error], [[value], [mass], [(1 - p) / np.sqrt(m)]], rtol=1e-6)


def test_a_rest_that_no_input_shows():
    """Ten typical deviations away may be what none of the inputs shows; a probability may be all of the rest."""
    far = pattern_pmf(coordinate(1), Gaussian([9.0], 1.0), search="best_first", mass=1.0).output()
    assert far.pdf(-0.5) == pytest.approx(np.exp(-(9.5**2) / 2) / np.sqrt(2 * np.pi))
    pmf, p = pattern_pmf(coordinate(1), Gaussian([3.0], 1.0), **ONE_PATTERN), ndtr(3.0)
    law, phi = pmf.output(n=1), np.exp(-4.5) / np.sqrt(2 * np.pi)
    assert len(law._rest[0]) == 0 and law.mean[0] == pytest.approx(3 + phi / p, rel=1e-4)
    assert law.mean.error[0] == pytest.approx((1 - p) * 10 * np.sqrt(10 * p + 3 * phi), rel=1e-2)
    variance, density = 10 * p + 3 * phi - law.mean[0] ** 2 * p, law.pdf(3.0)
    assert law.cov.error[0, 0] == pytest.approx((1 - p) * 10 * variance, rel=1e-2)
    bell = 1 / np.sqrt(2 * np.pi)  # every point's line is the whole region
    assert density == pytest.approx(bell / p) and density.error == pytest.approx((1 - p) * 10 * bell, rel=1e-6)
    won = law.class_probabilities()
    one = _of_one_point(law)
    np.testing.assert_allclose([won, won.error], [[0, 1], [np.hypot(1 - p, one)] * 2])
    np.testing.assert_allclose([won.lower, won.upper], [[0, p - 3 * one], [1 - p + 3 * one, 1]])


def test_points_of_each_region():
    """8 to 4,096 points per replicate, and an eighth from a second proposal; free directions are standard normal."""
    net = units(np.eye(3), [0.0, 40.0, -4.0])
    pmf = pattern_pmf(net, standard(3), search="best_first", max_patterns=4, mass=1.0)
    (part,), sizes = pmf.pieces, []
    for draws in pieces.draw(part, 0):
        sizes += [draws.z.shape[3]] * len(draws.z)
        assert (np.einsum("knd,kdrm->knrm", draws.H, draws.z) <= draws.h[:, :, None, None]).all()
        assert np.abs((draws.z[:, 1] ** 2).mean(axis=(1, 2)) - 1).max() < 9 / np.sqrt(draws.z[0, 1].size)
    assert sorted(sizes) == [9, 9, 4608, 4608]


def test_amounts_of_work():
    """2e8 bytes for the half-spaces of at most 512 regions; a node's covariances and 16 numbers for each unit; units to
    decide; the precision; the defaults.
    """
    steps = [[s.stop - s.start for s in _slices(random_network((d, n, 1), 0), 600)] for d, n in ((3, 4), (160, 260))]
    assert steps == [[512, 88], [200, 200, 200]]
    assert search.node_bytes(random_network((5, 10, 4, 1), 0)) == 4 * (2 * 10**2 + 16 * 14)
    assert search.node_bytes(random_network((5, 4, 10, 1), 0)) == 4 * (4 * 10**2 + 16 * 14)
    ticks, net = [], units([[1e-4], [1e-4]], [2.9e-4, 3.1e-4])
    log_q = search.beam(net, 9, 5.0, lambda: ticks.append(1))[1]  # both are too certain to be sites, one is decided
    assert len(ticks) == 1 and log_q == pytest.approx([log_ndtr([2.9, 3.1]).sum()], rel=1e-3)
    both = [units([[1.0]], offset) for offset in (1e4, 1.1e4)]
    assert [str(search.hidden_layers(net)[0][1].dtype) for net in both] == ["torch.float32", "torch.float64"]
    region_probabilities(both[0], np.ones((600, 1), dtype=bool), 0.1, 0, (-5.0, 0.0), ticks.append)
    assert ticks == [1, 512, 88]
    expected = {"max_patterns": 2000, "mass": 0.999, "rtol": 0.03, "threshold": 0.05, "memory": 2**31, "n": 400_000}
    sampled = PatternPMF.output, PatternPMF.class_probabilities
    for call in (inspect.unwrap(pattern_pmf), support.best_first, support.entropy_pruned, *sampled):
        assert {name: expected.get(name, value) for name, value in call.__kwdefaults__.items()} == call.__kwdefaults__


def test_texts():
    pmf = pattern_pmf(*problem((2, 3, 5), 0, mixture=True))
    assert repr(pmf).startswith(f"PatternPMF: {len(pmf)} patterns of 3 units, covered 1 ± ")
    assert repr(pmf).endswith(", stopped: complete") and pmf._repr_html_().count("<tr") == 1 + min(len(pmf), 10)
    law = pmf.output()
    each = ", ".join(f"{m:.4g} ± {s:.4g}" for m, s in zip(law.mean.p[:4], np.sqrt(np.diag(law.cov))))
    assert repr(law).endswith(f" deviation {each}, ... (5 outputs); {len(pmf)} patterns, exact")
    few = pattern_pmf(*problem((4, 6, 1), 0), search="best_first", max_patterns=5)
    assert repr(few.output()).endswith(f"; 5 patterns, uncovered {few.uncovered:.2g}, sampled with 400,000 inputs")
    many = Estimate(np.zeros(17), np.arange(17) / 8)
    assert repr(many) == "Estimate of shape (17,), errors up to 2" and f"{many[1]:.1f} {many[1]}" == "0.0 0 ± 0.12"
    np.testing.assert_array_equal(many.copy().error, many.error)


def test_pruning_keeps_the_most_probable():
    """Products of P(unit), also where few units of the first layer flip; at every limit the largest."""
    for first, slope, threshold in (([0.3, -0.2, 0.1, 0.5, -1.0], 0.1, 1e-300), ([9, -9, 9, 0.1, -9], 0.0, 0.05)):
        rng = np.random.default_rng(0)
        weights = [rng.standard_normal(shape) for shape in ((5, 5), (3, 5), (2, 3), (1, 2))]
        net = ReLUNetwork(weights, [first, [0.1, 0.2, 0.3], [0.2, -0.1], [0.0]], slope)
        patterns, log_q = pruning.enumerate_layers(net, threshold, 2000)
        G, g, _, _ = affine_pieces(net, patterns)
        with np.errstate(divide="ignore"):  # with all of a layer off, the next is constant
            t = np.where(patterns, g, -g) / np.linalg.norm(G, axis=2)
        np.testing.assert_allclose(log_q, log_ndtr(t).sum(axis=1), atol=1e-9)
        assert len(patterns) == 2**10 or not slope
    net = units(np.eye(3), [0.3, -0.5, 0.9])
    every, truth = pruning.enumerate_layers(net, 1e-9, 9)
    assert len(every) == 8 and truth[0] == pytest.approx(log_ndtr([0.3, 0.5, 0.9]).sum())
    for limit in range(1, 9):
        patterns, log_q = pruning.enumerate_layers(net, 1e-9, limit)
        np.testing.assert_array_equal(np.column_stack([patterns, log_q]), np.column_stack([every, truth])[:limit])


def test_winners():
    """Half-spaces A z + b of three outputs, of which the second two are equal; points of equal outputs."""
    A, b = np.array([[[1.0], [2.0], [2.0]]]), np.array([[0.5, 1.0, 1.0]])
    rows, limits = zip(*(wins(A, b, c) for c in range(3)))
    np.testing.assert_array_equal(np.array(rows)[:, 0, :, 0], [[1, 1], [-1, 0], [-1, 0]])
    np.testing.assert_array_equal(np.array(limits)[:, 0], [[-0.5, -0.5], [0.5, 0.0], [0.5, -1.0]])
    np.testing.assert_array_equal(_winner(np.array([[1.0, 2.0, 2.0], [3.0, 0.0, 3.0]])), [1, 0])


def test_decisions_match_the_moments_of_truncated_normals():
    """Two correlated units, of which each child's sites give back mean and variance given the signs so far."""
    mean, cov = np.array([0.3, -0.5]), np.array([[2.0, 0.8], [0.8, 1.0]])
    node = (torch.tensor(part[None]) for part in (mean, cov, np.float64(-0.1)))
    parent, log_q, found = search._decide(*node, 9, 80.0, lambda: None)
    assert parent.tolist() == [0] * 4 and found[2].tolist() == [[1, 1], [-1, 1], [1, -1], [-1, -1]]
    for child, (tau, nu, sign, log_p) in enumerate(found.numpy().transpose(1, 0, 2)):
        m, v, total = mean, cov, -0.1
        for unit in range(2):
            part, deviation = v[unit, unit], np.sqrt(v[unit, unit])
            ends = sorted([-m[unit] / deviation, sign[unit] * np.inf])
            law, precision = truncnorm(*ends, m[unit], deviation), 1 / part + tau[unit]
            assert log_p[unit] == pytest.approx(log_ndtr(sign[unit] * m[unit] / deviation))
            assert [1 / precision, m[unit] / part + nu[unit]] == pytest.approx([law.var(), law.mean() * precision])
            gain, total = v[:, unit] / part, total + log_p[unit]
            m, v = m + gain * (law.mean() - m[unit]), v - np.outer(gain, gain) * (part - law.var())
        assert log_q[child] == pytest.approx(total)
    assert search._survivors(torch.tensor([-0.9, -2.3, -1.6, -1.2]), 3, 1.0)[0].tolist() == [0, 0, 1]


BEAMS = [  # inputs, rows that can be found, their log q, mass; (width, gap, refined) of each pass
    (6, 10**4, (-20.0, -20.0), 1.0, [(1, 80, True), (19, 2, True), (312, 2, True), (5001, 2, True)]),
    (18, 10**4, (-20.0, -20.0), 1.0, [(9, 80, True), (156, 2, False), (2000, 2, False)]),
    (6, 5, (-2.0, -6.0), 1.0, [(1, 80, True), *((19, gap, True) for gap in (2, 6, 18, 54, 80))]),
    (6, 30, (-2.0, -6.0), 1.0, [(1, 80, True), (19, 2, True), *((312, gap, True) for gap in (12, 36, 80))]),
    (6, 30, (-2.0, -6.0), 0.5, [(1, 80, True), (19, 2, True)]),
]


@pytest.mark.parametrize("dim, rows, ends, mass, passes", BEAMS)
def test_beams_of_the_passes(monkeypatch, dim, rows, ends, mass, passes):
    """Each pass is 16 times as wide as the last, but at most `max_patterns` and unrefined where little mass is found.

    It drops nodes 2 + 2.5 times as far below the best as the last one found, and less and less if few remain.
    """
    used, every = [], np.random.default_rng(0).random((10**4, 40)) < 0.5

    def beam(net, width, gap, tick, refine):
        used.append((width, pytest.approx(gap), refine))
        n = min(rows, width)
        return every[:n], np.linspace(*ends, n)

    monkeypatch.setattr(search, "beam", beam)
    monkeypatch.setattr(support, "RANKING", (2**10, 2**14))
    found = support.best_first(random_network((dim, 40, 1), 0), standard(dim), mass=mass)
    enough = 1 + np.searchsorted(np.exp(np.linspace(*ends, 19)).cumsum(), mass) if mass < 1 else min(rows, 2000)
    assert used == passes and len(found) == enough
    assert found.exhausted == (mass == 1 and rows < 2000)
    assert found.samples == (2**14 if dim == 6 and rows > 2000 else 0)
