from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from helpers import coordinate, problem, random_gaussian, random_mixture, random_network, refusals, standard, units
from scipy import stats

from rpa.inputs import Gaussian, GaussianMixture
from rpa.network import ReLUNetwork
from rpa.patterns import pieces
from rpa.patterns.pmf import pattern_pmf

CASES = {
    "plane": ((2, 16, 16, 1), 7, random_gaussian(2, 0), {}),
    "plane, mixture": ((2, 12, 8, 3), 7, random_mixture(2, 1), {}),
    "rank one": ((3, 8, 8, 1), 7, Gaussian([0.1, 0.2, 0.3], np.ones((3, 3))), {}),
    "most is found": ((5, 8, 8, 3), 23, random_gaussian(5, 2, scale=0.5), {}),
    "little is found": ((6, 10, 8, 3), 23, random_gaussian(6, 3, scale=3.0), {"max_patterns": 15}),
    "all regions": ((3, 6, 4, 3), 23, random_mixture(3, 1), {}),
    "mixture": ((4, 8, 6, 3), 23, random_mixture(4, 2), {"max_patterns": 60}),
    "more units than inputs see": ((6, 2, 9, 3), 23, random_gaussian(6, 5), {"search": "best_first"}),
    "free directions": ((7, 5, 5, 3), 23, random_gaussian(7, 6, 40.0, 0.1), {"search": "best_first"}),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    sizes, seed, inputs, options = CASES[request.param]
    net = random_network(sizes, seed)
    law = pattern_pmf(net, inputs, **options).output()
    return law, net(inputs.sample(1_000_000 if law.exact else 500_000, 9))


def assert_within(estimate, truth, noise):
    """All within five standard errors of both, and no error below zero."""
    assert (estimate.error >= 0).all()
    assert (np.abs(estimate - truth) <= 5 * np.hypot(estimate.error, noise) + 1e-9 * np.abs(truth)).all()


def test_every_functional_against_samples(case):
    law, f = case
    assert np.isfinite(law.pmf.rel_error).all()  # also where one component hardly ever shows a pattern
    n = len(f)
    assert_within(law.mean, f.mean(0), f.std(0) / np.sqrt(n))
    products = (f - f.mean(0))[:, :, None] * (f - f.mean(0))[:, None]
    assert_within(law.cov, products.mean(0), products.std(0) / np.sqrt(n))
    for output in range(f.shape[1]):
        y = np.quantile(f[:, output], np.linspace(0.001, 0.999, 200))
        below = np.searchsorted(np.sort(f[:, output]), y, side="right") / n
        cdf = law.cdf(y, output)
        assert_within(cdf, below, np.sqrt((below * (1 - below) + 1 / n) / n))
        assert (cdf.lower <= cdf).all() and (cdf <= cdf.upper).all()
        assert (cdf.upper - cdf.lower >= np.minimum(law.uncovered, 1 - cdf.lower)).all()
    classes = law.class_probabilities()
    won = np.bincount(f.argmax(1) if f.shape[1] > 1 else (f[:, 0] > 0).astype(int), minlength=len(classes)) / n
    assert_within(classes, won, np.sqrt((won + 1 / n) / n))
    assert not law.exact or abs(np.sum(classes) - 1) < 1e-12
    assert (classes.lower <= won + 1e-3).all() and (won - 1e-3 <= classes.upper).all()


def test_density_against_samples_or_the_exact_distribution_function(case):
    """In the plane a central difference away from kinks. Else cells between quantiles, unless an atom lies in them:
    their mass by Simpson's rule.
    """
    law, f = case
    if law.exact:
        y, step = np.quantile(f[:, 0], np.linspace(0.01, 0.99, 200)), 1e-5
        slope, density = (law.cdf(y + step) - law.cdf(y - step)) / (2 * step), law.pdf(y)
        assert np.quantile(np.abs(slope - density) / density.max(), 0.97) < 1e-6
        assert (density.error <= 1e-9 * density.max()).all()
        return
    edges = np.unique(np.quantile(f[:, 2], np.linspace(0.02, 0.98, 41)))
    mass = np.histogram(f[:, 2], edges)[0] / len(f)
    width, middle = np.diff(edges), (edges[1:] + edges[:-1]) / 2
    nodes = [law.pdf(at, 2) for at in (edges[:-1], middle, edges[1:])]
    simpson = width * (nodes[0] + 4 * nodes[1] + nodes[2]) / 6
    kinks = width * np.abs(nodes[0] - 2 * nodes[1] + nodes[2])  # a jump inside a cell shows in the second difference
    atoms, _ = law.atoms(2)
    free = ~((atoms[:, None] >= edges[:-1]) & (atoms[:, None] <= edges[1:])).any(axis=0)
    slack = 5 * np.hypot(width * nodes[1].error, np.sqrt(mass / len(f))) + kinks
    assert (np.abs(simpson - mass) < slack)[free].all() and (simpson[free].sum() > 0.9 * mass[free].sum())


def test_quantiles_and_atoms_in_closed_form():
    """2 + relu(x) + relu(y): mass 1/4 at 2; 1 + relu(x): mass 1/2 at 1, Phi above."""
    law = pattern_pmf(units(np.eye(2), last=[[1, 1], [1, 0]], offset=[2.0, 1.0]), standard(2)).output()
    found = law.quantile([1e-15, 0.25, 0.5, 1 - 1e-9], 1)
    np.testing.assert_allclose(found, 1 + np.array([0, 0, 0, stats.norm.ppf(1 - 1e-9)]), atol=1e-6)
    assert found.error[0] == 0 and 1e-9 < found.error[3] < 1e-4
    one = law.quantile(0.9, 1)
    assert one.error == pytest.approx(law.cdf(one, 1).error * np.sqrt(2 * np.pi) * np.exp((one.p - 1) ** 2 / 2), 0.1)
    for output, value, mass in ((0, 2.0, 0.25), (1, 1.0, 0.5)):
        values, p = law.atoms(output)
        np.testing.assert_allclose([values, p, p.lower, p.upper], [[value], [mass], [0.0], [1.0]], rtol=1e-14)
        assert 0 < p.error[0] < 1e-12
    np.testing.assert_allclose(law.cdf([np.nextafter(2.0, 0), 2.0]), [0.0, 0.25], atol=1e-14)
    # For y > 0 of the sum: 2 * phi(y)/2 from one active unit, and phi_2 over the triangle from two.
    y, norm = np.array([0.3, 1.0, 2.5]), stats.norm
    expected = norm.pdf(y) + np.sqrt(2) * norm.pdf(y / np.sqrt(2)) * (norm.cdf(y / np.sqrt(2)) - 0.5)
    np.testing.assert_allclose(law.pdf(y + 2.0), expected, rtol=1e-13)


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e10])
def test_exact_covariance_of_outputs_far_from_zero(offset):
    """Var |x| = 1 - 2 / pi, wherever the last bias puts it: no difference of two second moments."""
    law = pattern_pmf(units([[1], [-1]], offset=offset), standard(1)).output()
    cov = law.cov[0, 0]
    assert abs(cov - (1 - 2 / np.pi)) < 3 * cov.error < 1e-13 * (2 + 0.1 * offset)
    assert repr(law).endswith("± 0.6028; 2 patterns, exact")


def test_density_of_an_output_far_from_zero_counts_rounding():
    """f = 3.3 (x / 3) + 0.1, x ~ N(1000, 0.001^2), at exact multiples of its deviation."""
    rows, shift, mean = 1 / 3, 0.1, 1e3
    law = pattern_pmf(units([[rows], [-rows]], last=[[3.3, -3.3]], offset=shift), Gaussian([mean], 1e-6)).output()
    exact, scale = Fraction(3.3) * Fraction(rows) * Fraction(mean) + Fraction(shift), 3.3 * rows * 1e-3
    y = float(exact) + scale * np.array([-3.0, -1.0, 0.5, 2.0])
    level = np.array([float(Fraction(at) - exact) for at in y]) / scale
    found, truth = law.pdf(y), stats.norm.pdf(level) / scale
    assert (np.abs(found - truth) <= 3 * found.error).all() and (found.error < 1e-8 * truth).all()


@pytest.mark.parametrize("bias", [0.0, 1e-7, 0.1, 1 / 3])
def test_density_where_it_jumps_is_finite(bias):
    """f - bias is a sum of ReLUs, with a density above 0 and none below."""
    net = units([[1.0, 0.3], [0.0, 1.0], [0.0, 0.7]], offset=bias)
    found = pattern_pmf(net, Gaussian([-1.0, -1.0], 1.0)).output().pdf([bias, bias + 1e-9])
    assert (found[0], found[0].error) == (0, 0)
    assert found[1] == pytest.approx(0.25153, abs=1e-4) and found[1].error < 1e-6


def test_a_rare_component_far_away_is_not_overlooked():
    """Its share of the mean is far above the deviation of the other; the search finds none of its patterns."""
    net = random_network((8, 10, 8, 2), 1)
    near, far = standard(8), Gaussian(1e6 * np.random.default_rng(1).standard_normal(8), 1.0)
    law = pattern_pmf(net, GaussianMixture([1 - 1e-7, 1e-7], [near, far]), max_patterns=100).output(n=100_000)
    assert np.isneginf(law.pmf.pieces[1].log_p).all()
    mean = (1 - 1e-7) * net(near.sample(1_000_000, 0)).mean(axis=0) + 1e-7 * net(far.sample(1000, 0)).mean(axis=0)
    assert_within(law.mean, mean, 0.01)


def test_components_of_about_as_many_inputs_as_the_least_number_keep_their_weights():
    """Of 1600 random inputs half are of one component, f = x_1 about 0, and a sixteenth of each of eight, about 9."""
    parts = [standard(3), *[Gaussian([9.0, 0, 0], 1.0)] * 8]
    pmf = pattern_pmf(coordinate(3), GaussianMixture([0.5, *[1 / 16] * 8], parts), max_patterns=8, search="best_first")
    pmf = replace(pmf, patterns=pmf.patterns[:0])  # all random inputs are of the rest
    rest = (pmf.output(n=1600, seed=seed)._rest for seed in range(100))
    means = [np.average(f[:, 0], weights=weights) for f, _, weights, _ in rest]
    assert abs(np.mean(means) - 4.5) < 4 * np.std(means) / np.sqrt(len(means)) < 0.06


def test_beyond_all_points_nothing_is_certain():
    """f = sum x ~ N(0, 4) in four dimensions, at thresholds and levels that no point reaches."""
    law = pattern_pmf(units(np.vstack([np.eye(4), -np.eye(4)]), last=[[1] * 4 + [-1] * 4]), standard(4)).output()
    y = np.array([-14.0, -11.0, 11.0, 14.0])
    assert_within(law.cdf(y), stats.norm.cdf(y / 2), 0.0)
    assert (law.cdf(y).lower <= stats.norm.cdf(y / 2)).all() and (stats.norm.cdf(y / 2) <= law.cdf(y).upper).all()
    assert (law.cdf(y).error < 1e-5).all()
    q = np.array([1e-12, 1e-8, 1e-3, 1 - 1e-3, 1 - 1e-9])
    assert_within(law.quantile(q), 2 * stats.norm.ppf(q), 0.0)
    np.testing.assert_array_equal(np.isfinite(law.quantile(q).error), [False, False, True, True, False])
    atom = pattern_pmf(units(np.eye(4)), standard(4)).output()  # of 1/16 at the least value
    assert repr(atom.quantile(1e-12)) == "0 ± 0"


def test_atoms_without_a_pattern_and_of_a_pattern_too_rare_for_doubles():
    net = units(np.eye(3), biases=[-40.0, 0.0, 0.0])
    pmf = pattern_pmf(net, standard(3), search="best_first")
    piece = replace(pmf.pieces[0], log_p=np.full(len(pmf), -800.0), rel_error=np.full(len(pmf), np.inf))
    for part in (piece, replace(piece, patterns=piece.patterns[:0], log_p=np.zeros(0), rel_error=np.zeros(0))):
        values, p = replace(pmf, pieces=(part,), _laws={}).output(n=10).atoms()
        assert np.isfinite(p.error).all()


def test_constant_input_gives_one_atom():
    net = random_network((2, 4, 1), 0)
    law = pattern_pmf(net, Gaussian([0.1, 0.2], 0.0)).output()
    values, p = law.atoms()
    np.testing.assert_allclose(values, net([[0.1, 0.2]])[0], rtol=1e-14)
    np.testing.assert_allclose([p[0], law.mean[0], law.cov[0, 0]], [1.0, values[0], 0.0], atol=1e-13)
    assert law.cdf(values[0] - 1e-9) == 0 and law.pdf(values[0]) == 0 and law.quantile(0.3) == values[0]


def test_equal_outputs_go_to_the_first_class():
    pmf = pattern_pmf(units(np.eye(2), last=np.ones((2, 2))), standard(2))
    np.testing.assert_allclose(pmf.class_probabilities(), [1, 0], atol=1e-14)


def test_density_where_components_miss_different_shares():
    """f = x_1 in eight octants, of which the narrow component shows one and the wide one all."""
    inputs = GaussianMixture([0.5, 0.5], [Gaussian([1.0, 1.0, 1.0], 0.16), standard(3)])
    law = pattern_pmf(coordinate(3), inputs, max_patterns=1, search="best_first").output()
    y = np.array([-1.5, -0.5, 0.5, 1.0, 2.0])
    density = law.pdf(y)
    truth = 0.5 * stats.norm.pdf(y, 1.0, 0.4) + 0.5 * stats.norm.pdf(y)
    assert law.uncovered > 0.1 and (np.abs(density.p - truth) < 4 * density.error).all()


def test_points_and_inputs_of_the_rest_agree_with_the_exact_law_of_the_plane(monkeypatch):
    """Polygons beside points of all patterns, where a line a hundredth too short would show in the density; then beside
    few points and inputs of the missing 15 %: errors and bounds, six seeds together.
    """
    net, inputs = problem((2, 5, 4, 2), 9)
    exact = pattern_pmf(net, inputs).output()
    y = exact.quantile(np.linspace(0.02, 0.98, 40))
    truth, found = exact.pdf(y).p, pattern_pmf(net, inputs, search="monte_carlo", mass=1.0).output(n=2000).pdf(y)
    assert (np.abs(found.p - truth) < 3 * found.error).all() and (found.error < 2e-3 * truth).all()
    monkeypatch.setattr(pieces, "TOTAL", 2**12)
    pmf = pattern_pmf(net, inputs, search="monte_carlo", max_patterns=2, mass=1.0)
    levels = [0.1, 0.5, 0.9]
    calls = {"mean": (), "cov": (), "quantile": (levels,), "class_probabilities": ()}
    calls |= dict.fromkeys(["cdf", "pdf"], (exact.quantile(levels),))
    gaps = {name: [] for name in calls}
    for seed in range(6):
        law = pmf.output(n=2000, seed=seed)
        for name, arguments in calls.items():
            truth, found = (getattr(each, name) for each in (exact, law))
            truth, found = (each(*arguments) if callable(each) else each for each in (truth, found))
            gaps[name].append((found.p - truth.p) / found.error)
            if np.isfinite(found.lower).all():
                assert (found.lower <= truth + 1e-12).all() and (truth <= found.upper + 1e-12).all()
                assert (found.upper - found.lower <= pmf.uncovered + 0.05).all()
    for name, each in gaps.items():
        assert 0.25 < np.mean(np.square(each)) < 1.2, name
    again = pmf.output(n=2000, seed=5)
    np.testing.assert_array_equal(again.class_probabilities().p, law.class_probabilities().p)


def test_errors_of_the_exact_law_add_up():
    net, inputs = problem((2, 5, 4, 2), 9)
    pmf = pattern_pmf(net, inputs)
    law, error = pmf.output(), pmf.p @ pmf.rel_error
    assert law.cdf(1e9).error == pytest.approx(error) == pmf.covered_error
    np.testing.assert_allclose(law.mean.error, error * np.sqrt(np.diag(law.cov) + law.mean**2), rtol=1e-9)
    deviation = np.sqrt(np.diag(law.cov))
    expected = 3 * error * np.outer(deviation, deviation)
    assert (law.cov.error >= expected).all() and (law.cov.error < 1.5 * expected).all()
    classes = law.class_probabilities()
    assert (0.1 * error * classes < classes.error).all() and (classes.error < 10 * error).all()
    np.testing.assert_allclose(classes.upper - classes.lower, 6 * classes.error, rtol=1e-2)


LAW = pattern_pmf(*problem((2, 3, 1), 0)).output()
test_bad_values_are_refused_by_name = refusals(
    {
        LAW.cdf: {"output": [{"y": [0.0], "output": 3}], "y": [[[0.0]]]},
        LAW.pdf: {"y": [np.nan]},
        LAW.quantile: {"q": [[0.5, 1.0]]},
        LAW.pmf.class_probabilities: {"n": [0], "seed": [-1]},
    }
)


@pytest.mark.parametrize("inputs", [2, 4])
def test_an_output_may_have_any_unit(inputs):
    """One output of two is 1e-13, 1e-40 or 1e-120 times as large as the same output of another network."""
    net, law = random_network((inputs, 6, 2), 0), standard(inputs)
    y = np.array([-1.0, 0.0, 1.0])
    expected = pattern_pmf(net, law).output()
    for unit in (1e-13, 1e-40, 1e-120):
        scale = np.array([unit, 1.0])
        scaled = ReLUNetwork([net.weights[0], net.weights[1] * scale[:, None]], [net.biases[0], net.biases[1] * scale])
        found = pattern_pmf(scaled, law).output()
        np.testing.assert_allclose(found.cdf(y * unit), expected.cdf(y), rtol=1e-9)
        np.testing.assert_allclose(found.pdf(y * unit) * unit, expected.pdf(y), rtol=1e-9)
        np.testing.assert_allclose(found.atoms()[1].sum(), expected.atoms()[1].sum(), rtol=1e-9, atol=1e-15)


def test_what_rounding_leaves_of_a_slope_is_an_atom():
    """0.1 + 0.2 - 0.3 is 6e-17: the output is constant but for rounding."""
    for inputs in (2, 4):
        net = units(np.tile(np.eye(1, inputs), (3, 1)), 9.0, [[0.1, 0.2, -0.3]], 0.5)
        values, p = pattern_pmf(net, standard(inputs)).output().atoms()
        np.testing.assert_allclose(values, 0.5, rtol=1e-15)
        assert p.sum() == pytest.approx(1.0, rel=1e-12)


def test_missing_patterns_are_in_the_error_of_a_density_that_no_input_shows():
    """f = x_1, cut at six places; twenty inputs show the values of few of the other patterns."""
    places = [-2, -1.5, -1, 1, 1.5, 2]
    rows = np.vstack([np.eye(3), -np.eye(3), [[1.0, 0, 0]] * 6])
    net = units(rows, np.append(np.zeros(6), places), [[1, 0, 0, -1, 0, 0, *[0] * 6]])
    pmf = pattern_pmf(net, standard(3), search="best_first", max_patterns=8, mass=1.0)
    y = np.linspace(-3.5, 3.5, 30)
    for seed in range(10):
        density = pmf.output(n=20, seed=seed).pdf(y)
        assert (np.abs(density.p - stats.norm.pdf(y)) <= 3 * density.error).all()


def test_one_or_two_inputs_of_the_rest_are_no_certainty(monkeypatch):
    """f = x_1 in eight octants, of which the PMF has three or four: their values alone show no scatter."""
    monkeypatch.setattr(pieces, "TOTAL", 2**12)
    pmf = pattern_pmf(coordinate(3), Gaussian([0.5, 0.5, 0.5], 1.0), max_patterns=4, search="best_first")
    for law in (pmf.output(n=3, seed=seed) for seed in range(20)):
        assert abs(law.mean[0] - 0.5) < 4 * law.mean.error[0] < 20
        assert abs(law.cov[0, 0] - 1.0) < 4 * law.cov.error[0, 0] < 80


def test_the_rounding_of_a_constant_output_is_in_the_error_of_its_variance():
    cov = pattern_pmf(units(np.eye(3), last=[[1e-20, 0, 0]], offset=5.0), standard(3)).output().cov[0, 0]
    assert float(cov) < 3 * cov.error < 1e-20
