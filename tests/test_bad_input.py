"""What cannot be computed is refused with a ValueError that names the argument, its value and what was expected."""

import numpy as np
import pytest
import torch
from torch import nn

import rpa
from rpa.moments import meanfield, relu
from rpa.moments.attacks import expected_output
from rpa.moments.two_stage import monte_carlo, two_stage_mean

torch.manual_seed(0)
PLANE = rpa.Gaussian([0.5, 0.0], 0.1)
NET = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).double().eval()
IMAGES = torch.rand(2, 1, 6, 6, dtype=torch.float64)
CONV = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).double().eval()
NOISY = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 3)).double()
NORMED = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).double()
ROWS = torch.zeros(2, 2, dtype=torch.float64)
LABEL = torch.tensor([0, 1])
STAGES = NET[:1], NET[2:]
EYE = np.eye(2)
attacked = lambda: rpa.noise_attack(CONV, IMAGES, LABEL, budget=1.0, steps=1)

CALLS = {
    "pmf of a list": (lambda: rpa.pattern_pmf([1, 2], PLANE), "net: expected a ReLUNetwork or .*, got list"),
    "pmf of Tanh": (lambda: rpa.pattern_pmf(nn.Sequential(NET[0], nn.Tanh()), PLANE), "1 .Tanh. is not affine"),
    "pmf in training": (lambda: rpa.pattern_pmf(NOISY, PLANE), r"Dropout is in training mode.*eval\(\)"),
    "region 99": (lambda: rpa.pattern_pmf(NET, PLANE).region(99), "i: expected an index below"),
    "vertices 99": (lambda: rpa.planar_regions(NET, PLANE).vertices(99), "i: expected an index below"),
    "search of a string": (lambda: rpa.best_first("net", PLANE), "net: expected a ReLUNetwork or .*, got str"),
    "pmf, seed None": (lambda: rpa.pattern_pmf(NET, PLANE, seed=None), "seed: expected an integer >= 0, got None"),
    "law, n a list": (lambda: rpa.pattern_pmf(NET, PLANE).output(n=[5]), "n: expected an integer >= 1"),
    "complex cov": (lambda: rpa.Gaussian([0, 0], [[1, 1j], [-1j, 1]]), "cov: expected real numbers, got complex128"),
    "a date": (lambda: rpa.Gaussian(np.array(["2020-01-01"], "M8[D]"), 1.0), "mean: expected real numbers"),
    "a mask": (lambda: rpa.Gaussian(np.ma.array([1.0, 2.0], mask=[0, 1]), 1.0), "mean: .* without a mask"),
    "10^400": (lambda: rpa.Gaussian([10**400], 1.0), "mean: expected numbers of shape"),
    "a ragged cov": (lambda: rpa.Gaussian([0, 1], [[1, 2], [3]]), "cov: expected a scalar"),
    "mixture of one row": (lambda: rpa.fit_mixture([[1.0, 2.0]], 1, 0), "x: expected at least n_components"),
    "mixture of no column": (lambda: rpa.fit_mixture(np.zeros((5, 0)), 1, 0), "x: expected at least n_components"),
    "empty mean": (lambda: rpa.Gaussian([], 1.0), "mean: expected at least one coordinate"),
    "weights of sum 2": (lambda: rpa.GaussianMixture([1.0, 1.0], [PLANE, PLANE]), "weights: expected a sum of 1"),
    "orthant of a wrong cov": (lambda: rpa.orthant([0.0, 0.0], np.eye(3)), "cov: expected shape"),
    "an unknown method": (lambda: rpa.probability(EYE, [0.0, 0.0], PLANE, method="magic"), "method: expected one of"),
    "an unknown device": (
        lambda: rpa.probabilities(EYE[None], [[0, 0]], device="abacus"),
        "device: expected one of cpu",
    ),
    "layerwise of one image": (lambda: rpa.layerwise(CONV, IMAGES[0, 0], 0.1), "inputs: the network does not take"),
    "layerwise of no image": (lambda: rpa.layerwise(CONV, IMAGES[:0], 0.1), "inputs: expected at least one input"),
    "layerwise of NaN": (lambda: rpa.layerwise(CONV, IMAGES * torch.nan, 0.1), "inputs: expected .*finite"),
    "layerwise of a list": (lambda: rpa.layerwise(CONV, [[0.0]], 0.1), "inputs: expected a batch|inputs: the network"),
    "layerwise of a function": (lambda: rpa.layerwise(len, IMAGES, 0.1), "net: expected a torch module"),
    "layerwise in training": (lambda: rpa.layerwise(NORMED, IMAGES, 0.1), "BatchNorm2d is in training"),
    "layerwise of a wrong cov": (lambda: rpa.layerwise(CONV, IMAGES, torch.ones(3)), "cov: expected shape"),
    "two-stage, output 7": (lambda: rpa.two_stage(*STAGES, ROWS, 0.1, outputs=[7]), "outputs: expected indices"),
    "two-stage, no output": (lambda: rpa.two_stage(*STAGES, ROWS, 0.1, outputs=[]), "outputs: expected indices"),
    "two-stage in training": (lambda: rpa.two_stage(NOISY[:2], NOISY[3:], ROWS, 0.1), "net: Dropout is in training"),
    "two-stage of other stages": (lambda: rpa.two_stage(NET[:1], NET[:1], ROWS, 0.1), "first: its output: the network"),
    "two-stage of wide rows": (lambda: rpa.two_stage(*STAGES, torch.zeros(2, 5), 0.1), "inputs: the network does"),
    "two-stage mean, at": (lambda: two_stage_mean(*STAGES, ROWS, 0.1, at="edge"), "at: expected"),
    "map of a row": (lambda: rpa.noise_map(CONV, np.zeros(36), 0.1), "x: expected shape"),
    "map of a small image": (lambda: rpa.noise_map(CONV, np.zeros((5, 5)), 0.1), "x: the network does not take"),
    "map of a wide window": (lambda: rpa.noise_map(CONV, np.zeros((6, 6)), 0.1, window=7), "window: expected at most"),
    "map in training": (lambda: rpa.noise_map(NORMED, np.zeros((6, 6)), 0.1), "BatchNorm2d is in training"),
    "attack of a function": (lambda: rpa.noise_attack(len, IMAGES, LABEL, budget=1.0), "net: expected a torch module"),
    "attack on class 9": (lambda: rpa.noise_attack(CONV, IMAGES, LABEL + 9, budget=1.0), "label"),
    "attack on rows": (lambda: rpa.noise_attack(CONV, ROWS, LABEL, budget=1.0), "x: "),
    "attack in training": (lambda: rpa.noise_attack(NORMED, IMAGES, LABEL, budget=1.0), "in training mode"),
    "one draw": (lambda: expected_output(CONV, IMAGES, attacked(), 1, 0), "n: "),
    "a negative variance": (lambda: relu.mean([0.0], [-1.0]), "var: expected numbers >= 0"),
    "no matrix": (lambda: relu.covariance([0.0, 1.0], [1.0, 1.0]), "cov: expected shape"),
    "no sample": (lambda: monte_carlo(NET, PLANE, 1, 0), "n: expected an integer >= 2"),
    "a negative scale": (lambda: meanfield.moments(meanfield.prepare(CONV), IMAGES, -1.0), "scale: "),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_input_is_named(name):
    call, message = CALLS[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_torch_module_is_as_good_as_a_network():
    net = rpa.ReLUNetwork.from_torch(NET)
    np.testing.assert_array_equal(rpa.pattern_pmf(NET, PLANE).p, rpa.pattern_pmf(net, PLANE).p)
    assert rpa.region_at(NET, [0.1, 0.2]).label == rpa.region_at(net, [0.1, 0.2]).label
    assert len(rpa.best_first(NET, PLANE, max_patterns=3)) == len(rpa.best_first(net, PLANE, max_patterns=3))
    assert len(rpa.planar_regions(NET, PLANE).log_p) == len(rpa.planar_regions(net, PLANE).log_p)


def test_lists_are_as_good_as_tensors():
    mean, variance = [0.3, -1.0], [1.0, 0.0]
    expected = relu.mean(torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64))
    assert torch.equal(relu.mean(mean, np.array(variance)), expected)
    cov = [[1.0, 0.5], [0.5, 2.0]]
    tensors = [torch.tensor(v, dtype=torch.float64) for v in (mean, cov)]
    assert torch.equal(relu.covariance(mean, cov), relu.covariance(*tensors))
