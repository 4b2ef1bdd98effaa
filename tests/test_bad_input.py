"""What cannot be computed is refused with a ValueError that names the argument, its value and what was expected."""

import numpy as np
import pytest
import torch
from torch import nn

import rpa
from rpa.moments import relu
from rpa.reliability.certified import failing_patterns

PLANE = rpa.Gaussian([0.5, 0.0], 0.1)
NET = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).double().eval()
NOISY = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 3)).double()
EYE = np.eye(2)

CALLS = {
    "pmf of a list": (lambda: rpa.pattern_pmf([1, 2], PLANE), "net: expected a ReLUNetwork or .*, got list"),
    "pmf of Tanh": (lambda: rpa.pattern_pmf(nn.Sequential(NET[0], nn.Tanh()), PLANE), "1 .Tanh. is not affine"),
    "pmf in training": (lambda: rpa.pattern_pmf(NOISY, PLANE), r"Dropout is in training mode.*eval\(\)"),
    "region 99": (lambda: rpa.pattern_pmf(NET, PLANE).region(99), "i: expected an index below"),
    "vertices 99": (lambda: rpa.planar_regions(NET, PLANE).vertices(99), "i: expected an index below"),
    "search of a string": (lambda: rpa.best_first("net", PLANE), "net: expected a ReLUNetwork or .*, got str"),
    "pmf, seed None": (lambda: rpa.pattern_pmf(NET, PLANE, seed=None), "seed: expected an integer >= 0 .*, got None"),
    "law, n a list": (lambda: rpa.pattern_pmf(NET, PLANE).output(n=[5]), "n: expected an integer >= 1"),
    "a text": (lambda: rpa.best_first(NET, PLANE, mass="1"), "mass: expected real numbers of shape .*, got str"),
    "2^70 patterns": (lambda: rpa.pattern_pmf(NET, PLANE, max_patterns=2**70), "max_patterns: expected .* below 2"),
    "seed 2^64": (lambda: rpa.pattern_pmf(NET, PLANE, seed=2**64), "seed: expected an integer .* below 2.63"),
    "budget -3": (lambda: failing_patterns(NET, PLANE, budget=-3), "budget: expected an integer >= 1 .*, got -3"),
    "orthant of a wrong cov": (lambda: rpa.orthant([0.0, 0.0], np.eye(3)), "cov: expected shape"),
    "an unknown method": (lambda: rpa.probability(EYE, [0.0, 0.0], PLANE, method="magic"), "method: expected one of"),
    "an unknown device": (lambda: rpa.probabilities(EYE[None], [[0, 0]], device="x"), "device: expected one of cpu"),
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
