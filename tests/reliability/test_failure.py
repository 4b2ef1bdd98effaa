"""Failure probabilities against exact laws, and the cases that have no failure, only failures, or no noise."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from helpers import Net, coordinate, given, random_gaussian, random_network, refusals, standard, units
from scipy import stats
from scipy.special import log_ndtr, ndtr
from torch import nn

from rpa.inputs import Gaussian, GaussianMixture
from rpa.network import ReLUNetwork
from rpa.reliability import failure
from rpa.reliability.certified import failing_patterns
from rpa.reliability.event import events
from rpa.reliability.failure import failure_probability
from rpa.reliability.splitting import splitting

PLAIN = Gaussian(np.zeros(4), 1.0)


def _fail(net, inputs=PLAIN, threshold=2.0, **options):
    return failure_probability(net, inputs, direction=[1.0], threshold=threshold, **options)


FOLD = ReLUNetwork([np.vstack([np.eye(4), -np.eye(4)]), np.eye(1, 8) + np.eye(1, 8, 4)], [np.zeros(8), [0.0]])
LINE = np.outer([1, 1, 0, 0], [1, 1, 0, 0]) + np.diag([0.0, 0.0, 1.0, 1.0])
MIXED = GaussianMixture([0.3, 0.7], [PLAIN, Gaussian(np.eye(4)[0], 1.0)])


@pytest.mark.parametrize(
    "net, inputs, threshold, p, distance",
    [
        *((coordinate(4), PLAIN, distance, ndtr(-distance), distance) for distance in (0.3, 0.5, 3.0, 9.0, 30.0)),
        (FOLD, PLAIN, 8.0, 2 * ndtr(-8.0), 8.0),  # |x_1| >= 8: two half-spaces far apart
        (coordinate(4), Gaussian(np.zeros(4), LINE), 6.0, ndtr(-6.0), 6.0),
        (coordinate(4), MIXED, 7.0, 0.3 * ndtr(-7.0) + 0.7 * ndtr(-6.0), 6.0),
    ],
)
def test_half_spaces(net, inputs, threshold, p, distance):
    found = _fail(net, inputs, threshold)
    assert found.converged and found.rel_error <= 0.05 and (found.method == "sampling") == (threshold < 1)
    assert abs(found.log_p - np.log(p)) < 3 * found.rel_error and found.lower <= np.log(p) <= found.upper
    np.testing.assert_allclose(found.design_points[0].distance, distance, rtol=0.01)
    np.testing.assert_allclose(np.abs(found.design_points[0].x[0]), threshold, rtol=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_sampling_agrees_with_the_exact_answer_in_the_plane(seed, monkeypatch):
    net, inputs = random_network([2, 12, 12, 1], seed), Gaussian(np.zeros(2), 1.0)
    circle = 4.5 * np.array([[np.cos(t), np.sin(t)] for t in np.linspace(0, 2 * np.pi, 100)])
    event = {"direction": [1.0], "threshold": net(circle).max()}
    exact = failure_probability(net, inputs, **event)
    assert exact.method == "exact" and exact.log_p == failing_patterns(net, inputs, **event).log_total
    monkeypatch.setattr(failure, "PLANAR_RANK", 0)
    found = failure_probability(net, inputs, **event, rtol=0.1, seed=seed)
    assert found.method != "exact" and abs(found.log_p - exact.log_p) < 3 * np.log1p(found.rel_error)


def test_many_failures_of_one_distance_are_all_found_or_missed_aloud():
    """39 rivals at 10 / sqrt(2); |x|_1 >= 16 in five dimensions has 32 nearest points, each rarer than the 12th."""
    from scipy.integrate import quad
    from scipy.stats import norm

    eye = np.eye(40)
    net = ReLUNetwork([np.r_[eye, -eye], np.c_[eye, -eye]], [np.zeros(80), np.zeros(40)])
    missed = quad(lambda x: norm.pdf(x - 10) * -np.expm1(39 * log_ndtr(x)), -2, 14, points=[4, 5, 6], epsabs=0)[0]
    found = failure_probability(net, Gaussian(10 * eye[0], 1.0))
    assert found.converged and abs(found.p / missed - 1) < 3 * found.rel_error and len(found.design_points) == 39
    few = failure_probability(net, Gaussian(10 * eye[0], 1.0), budget=100_000)
    assert few.n < 120_000 and abs(few.p / missed - 1) < 3 * few.rel_error

    eye = np.eye(5)
    net = ReLUNetwork([np.r_[eye, -eye], np.ones((1, 10))], [np.zeros(10), [0.0]])
    # By symmetry 32 P(x > 0, sum x >= 16), on a grid of the sum's density under the law tilted by exp(3.2 x).
    step = 0.01
    x = np.arange(0, 30, step)
    tilted = norm.pdf(x - 3.2) * np.where(x == 0, 0.5, 1.0)
    density = tilted
    for _ in range(4):
        density = np.convolve(density, tilted)[: len(x)] * step
    tail = np.where(x > 16 - step / 2, density * np.exp(-3.2 * x + 5 * 3.2**2 / 2), 0.0)
    tail[np.argmax(tail > 0)] /= 2
    found = _fail(net, Gaussian(np.zeros(5), 1.0), 16.0)
    assert abs(found.p / (32 * tail.sum() * step) - 1) < 3 * found.rel_error < 0.3


def test_equal_failures_of_which_each_search_covers_some():
    """P(max |x_i| >= 6) in five dimensions: ten failures, of which four searches of seed 20 met eight."""
    eye = np.eye(5)
    net = ReLUNetwork([np.r_[eye, -eye], np.ones((1, 10))], [np.full(10, -6.0), [0.0]])
    for seed in (19, 20, 21):
        found = _fail(net, Gaussian(np.zeros(5), 1.0), 1e-9, seed=seed)
        exact = np.log(-np.expm1(5 * np.log1p(-2 * np.exp(log_ndtr(-6.0)))))
        assert found.converged and abs(found.log_p - exact) < 3 * np.log1p(found.rel_error)


def test_bounds_hold_where_no_digit_is_known():
    """P(all x_i <= 0), where the margin of every other input is below 0 and its slope points past the failures."""
    net = ReLUNetwork([np.eye(4), np.ones((1, 4))], [np.zeros(4), [0.0]])
    found = failure_probability(net, Gaussian(np.full(4, 6.0), 1.0), direction=[-1.0], threshold=0.0)
    assert not found.converged and found.lower <= 4 * log_ndtr(-6.0) <= found.upper < np.log(0.005)


@pytest.mark.parametrize("estimate, distance", [(failure_probability, 9.0), (splitting, 4.86)])
def test_a_nearly_certain_failure_has_the_error_of_its_complement(estimate, distance):
    found = estimate(coordinate(4, distance), PLAIN, label=0)  # fails where x_1 > -distance
    exact, survival = log_ndtr(distance), ndtr(-distance)
    assert found.converged and found.method.startswith("complement of ") and 0 < found.rel_error < survival / 2
    assert abs(found.log_p - exact) < 3 * found.rel_error and found.lower <= exact <= found.upper


@pytest.mark.parametrize("cov", [0.0, np.zeros(4)])
def test_a_module_whose_input_does_not_vary_is_exact(cov):
    module = nn.Sequential(nn.Linear(4, 1), nn.Tanh()).double().eval()
    value = module(torch.ones(1, 4, dtype=torch.float64)).item()
    for threshold, log_p in ((value - 0.01, 0.0), (value + 0.01, -np.inf)):
        found = _fail(module, Gaussian(np.ones(4), cov), threshold)
        assert (found.log_p, found.rel_error, found.method, found.n) == (log_p, 0.0, "exact", 1)


def test_a_failure_that_is_never_met_leaves_a_bound_and_says_so():
    module = nn.Sequential(nn.Linear(4, 1), nn.Tanh())  # never reaches 2, which no bound here proves
    found = _fail(module.eval(), budget=20_000)
    assert not found.converged and found.rel_error == np.inf and found.lower == -np.inf
    assert -np.inf <= found.log_p <= found.upper < 0 and found.design_points == ()


def test_a_module_and_its_network_agree_and_arguments_stay():
    net, inputs = random_network([6, 8, 8, 3], 6), random_gaussian(6, 6)
    module = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(), net.to_torch()).eval()
    before = [p.clone() for p in module.parameters()]
    results = [failure_probability(f, inputs, rtol=0.1, seed=1) for f in (net, module)]
    assert all(result.converged for result in results)
    assert abs(results[0].log_p - results[1].log_p) < 3 * np.hypot(*(r.rel_error for r in results))
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters()))


def test_margins_and_gradients_do_not_depend_on_the_number_of_threads(monkeypatch):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)).eval()
    (event,) = events(module, Gaussian(np.zeros(64), 1.0), input_shape=(1, 8, 8))
    z, which = np.random.default_rng(0).standard_normal((1000, 64)), np.arange(1000) % 2
    results = []
    for workers in ("1", "2"):
        monkeypatch.setenv("RPA_WORKERS", workers)
        results.append((event(z), *event.gradient(z, which)))
    assert all(np.array_equal(a, b) for a, b in zip(*results))
    assert event.evaluations == 8000
    pieces = [event.gradient(z[i : i + 1], which[i : i + 1]) for i in range(0, 1000, 97)]
    np.testing.assert_allclose(results[0][2][::97], np.concatenate([slope for _, slope in pieces]), atol=1e-5)


def test_an_accelerator_gets_large_batches_in_full_float32(monkeypatch):
    """What is asked of it, seen from inside the network; numbers are compared in tests/bench_device.py."""
    seen, flags = [], torch.backends.cudnn

    class Watched(nn.Module):
        def forward(self, x):
            seen.append((len(x), flags.allow_tf32, flags.deterministic))
            return x.flatten(1)

    module = nn.Sequential(nn.Conv2d(1, 1, 3), Watched()).eval()
    (event,) = events(module, Gaussian(np.zeros(16), 1.0), input_shape=(1, 4, 4))
    z, which = np.random.default_rng(0).standard_normal((300, 16)), np.arange(300) % 3
    monkeypatch.setattr(flags, "allow_tf32", True)
    seen.clear()
    expected = event(z), *event.gradient(z, which)
    assert max(n for n, *_ in seen) == 64
    monkeypatch.setattr(type(event), "_on_cpu", False)
    seen.clear()
    found = event(z), *event.gradient(z, which)
    assert seen == [(300, False, True)] * 2 and flags.allow_tf32
    for a, b in zip(expected, found):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_answer_depends_on_the_seed_alone_and_is_plain_values():
    net, inputs = random_network([6, 8, 8, 3], 6), random_gaussian(6, 6)
    a, b, c = (failure_probability(net, inputs, seed=seed) for seed in (1, 1, 2))
    assert a == b != c and a.log_p != c.log_p
    values = json.loads(json.dumps(asdict(a)))
    assert values["log_p"] == a.log_p and values["design_points"][0]["x"] == list(a.design_points[0].x)


def test_a_module_is_called_as_it_is_and_its_pieces_need_its_input_shape():
    """A convolution whose output is flattened by `view`, which does not take channels last."""
    same = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double().eval()
    module = Net(lambda x, first, last: last(torch.relu(first(x)).view(len(x), -1)), same[0], same[3]).eval()
    inputs, shape = Gaussian(np.ones(16), 1.0), {"input_shape": (1, 4, 4)}
    found, expected = (failure_probability(net, inputs, rtol=0.1, **shape) for net in (module, same))
    assert found.converged and abs(found.log_p - expected.log_p) < 1e-9
    pieces = failing_patterns(same, inputs, max_patterns=3, **shape)
    assert len(pieces) == 3 and pieces.log_total < found.log_p + 3 * found.rel_error


NET, CNN = random_network([4, 5, 3], 0), nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval()


BATCH_NORM = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.BatchNorm1d(1, track_running_stats=False), nn.Flatten())
ALONE = "expected outputs that depend on the input alone, got two evaluations"


@pytest.mark.parametrize(
    "layer, reason",
    [
        (Net(lambda x: x - x.mean(0)), ALONE),
        (Net(lambda x: x + 1e-3 * torch.randn_like(x)), ALONE),
        (Net(lambda x: nn.functional.dropout(x, 0.1)), ALONE),
        (BATCH_NORM, "BatchNorm1d without running statistics"),
    ],
    ids=["mixes its batch", "draws", "drops out", "batch statistics"],
)
def test_outputs_that_do_not_depend_on_the_input_alone_are_refused(layer, reason):
    with pytest.raises(ValueError, match=f"^net: {reason}"):
        failure_probability(nn.Sequential(nn.Tanh(), layer).eval(), PLAIN, label=0)


def test_outputs_that_are_images_are_read_as_rows():
    net, pixel = nn.Conv2d(1, 1, 3, padding=1).eval(), np.eye(16)[5]
    weight = net.weight.detach().numpy()
    law = Gaussian(np.zeros(16), 1.0)
    found = failure_probability(net, law, direction=pixel, threshold=2.0, input_shape=(1, 4, 4))
    log_p = log_ndtr((net.bias.item() - 2.0) / np.linalg.norm(weight))
    assert found.converged and abs(found.log_p - log_p) < 3 * found.rel_error
    with pytest.raises(ValueError, match=r"direction: expected shape \(16,\), got \(1,\)"):
        failure_probability(net, law, direction=[1.0], threshold=2.0, input_shape=(1, 4, 4))


FIRST, TRAINING = {"direction": [1, 0, 0]}, nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
test_bad_values_are_refused_by_name = refusals({
    given(failure_probability, net=NET, inputs=PLAIN): {
        "label": [3, 0.5, *map(torch.tensor, ([1], 1.0, True)), FIRST | {"label": 0, "threshold": 1.0}],
        "direction, threshold": [FIRST],
        "direction": [{"direction": [1, 0], "threshold": 1.0}, {"direction": [0, 0, 0], "threshold": 1.0}],
        "threshold": [FIRST | {"threshold": np.nan}],
        "rtol": [0.0],
        "budget": [10],
        "seed": [-1],
        "device": ["nowhere"],
        "inputs": [Gaussian(np.zeros(5), 1.0), {"net": nn.Sequential(nn.Linear(5, 3), nn.Tanh()).eval()}],
        "inputs: .*; for many inputs see rpa.parallel.pmap": [{"inputs": [PLAIN, PLAIN]}],
        "net": ["net", TRAINING],
        "input_shape": [{"net": CNN, "input_shape": (2, 3)}],
    },
    given(splitting, net=NET, inputs=PLAIN): {"budget": [1999]},
    given(failing_patterns, net=NET, inputs=PLAIN, label=0): {"max_patterns": [0], "rtol": [2.0]},
})  # fmt: skip


def test_plain_sampling_is_the_last_resort_within_the_budget():
    """max |x_i| in 20 dimensions has 40 modes; its tail mixtures end above rtol with most of the budget left."""
    p, rows = 1.66e-3, np.vstack([np.eye(20), -np.eye(20)])
    net = units(rows, stats.norm.ppf(-np.expm1(np.log1p(-p) / 20) / 2))
    found = failure_probability(net, standard(20), direction=[1.0], threshold=1e-12, seed=2)
    assert found.converged and abs(found.p / p - 1) < 4 * found.rel_error
