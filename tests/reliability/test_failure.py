"""Failure probabilities against exact laws, and the cases that have no failure, only failures, or no noise."""

import numpy as np
import pytest
from scipy.special import log_ndtr

from rpa.inputs import Gaussian
from rpa.network import ReLUNetwork
from rpa.reliability.failure import failure_probability


def _half_space(dim, bias=0.0):
    """f(x) = (x_1 + bias, 0), as a network with one hidden pair."""
    first = np.zeros((2, dim))
    first[:, 0] = 1.0, -1.0
    return ReLUNetwork([first, np.array([[1.0, -1.0], [0.0, 0.0]])], [np.zeros(2), np.array([bias, 0.0])])


@pytest.mark.parametrize("distance", [0.5, 3.0, 9.0, 20.0])
def test_a_half_space(distance):
    found = failure_probability(_half_space(5, distance), Gaussian(np.zeros(5), 1.0), label=0)
    assert found.converged and found.rel_error <= 0.05
    assert abs(found.log_p - log_ndtr(-distance)) < 3 * found.rel_error
