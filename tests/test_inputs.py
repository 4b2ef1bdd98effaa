import numpy as np
import pytest
import torch
from helpers import given, random_gaussian, random_mixture, refusals

from rpa.inputs import Gaussian, GaussianMixture, components_of, fit_mixture

FORMS = [(0.5, 3), ([0.5, 0.2, 0.0], 3), (np.diag([0.5, 0.2, 0.1]), 3), (np.ones((3, 3)), 1), (np.zeros((3, 3)), 3)]


@pytest.mark.parametrize("cov, rank", FORMS)
def test_covariance_forms_agree(cov, rank):
    g = Gaussian([1.0, 2.0, 3.0], cov)
    expected = cov * np.eye(3) if np.ndim(cov) == 0 else np.diag(cov) if np.ndim(cov) == 1 else cov
    factor = g.times_factor(np.eye(3))
    assert factor.shape[1] == rank
    np.testing.assert_array_equal(g.cov, expected)
    np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-15)
    np.testing.assert_array_equal(g.variances, np.diag(expected))


def test_tensors_of_bfloat16_are_numbers():
    values = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    np.testing.assert_array_equal(Gaussian(values, values).mean, [1.0, 2.0])


@pytest.mark.parametrize("inputs", [random_gaussian(3, 1), random_mixture(3, 2)])
def test_samples_have_the_stated_moments(inputs):
    n = 200_000
    x = inputs.sample(n, seed=0)
    scale = np.sqrt(np.diag(inputs.cov))
    assert (np.abs(x.mean(0) - inputs.mean) < 6 * scale / np.sqrt(n)).all()
    spread = (x - inputs.mean)[:, :, None] * (x - inputs.mean)[:, None, :]
    assert (np.abs(spread.mean(0) - inputs.cov) < 6 * spread.std(0) / np.sqrt(n)).all()
    np.testing.assert_array_equal(x, inputs.sample(n, seed=0))


def test_arguments_are_copied():
    mean, cov = np.zeros(2), np.eye(2)
    g = Gaussian(mean, cov)
    mean[0], cov[0, 0] = 5.0, 5.0
    assert g.mean[0] == 0 and g.cov[0, 0] == 1


def test_fit_recovers_separated_components():
    truth = GaussianMixture([0.3, 0.7], [Gaussian([-4.0, 0.0], 0.5), Gaussian([4.0, 1.0], [[1.0, 0.6], [0.6, 1.0]])])
    n = 20_000
    fit = fit_mixture(truth.sample(n, 0), 2, seed=0)
    order = np.argsort([c.mean[0] for c in fit.components])
    np.testing.assert_allclose(fit.weights[order], truth.weights, atol=6 * 0.5 / np.sqrt(n))
    for found, true in zip((fit.components[i] for i in order), truth.components):
        np.testing.assert_allclose(found.mean, true.mean, atol=6 / np.sqrt(0.3 * n))
        np.testing.assert_allclose(found.cov, true.cov, atol=6 * np.sqrt(2) / np.sqrt(0.3 * n))


@pytest.mark.parametrize("value", [1e-6, 0.1, 1e300 / 3])
def test_fit_keeps_a_constant_column(value):
    x = np.column_stack([random_gaussian(1, 0).sample(200, 0), np.full(200, value)])
    for component in fit_mixture(x, 2, 0).components:
        assert component.mean[1] == value and not component.cov[1].any()


ONE, TWO = Gaussian([0.0], 1.0), Gaussian([0.0, 0.0], 1.0)
INDEFINITE, INFINITE = [[1.0, 2.0], [2.0, 1.0]], [[1.0, np.inf], [np.inf, 1.0]]
MASKED, DATE = np.ma.array([1.0, 2.0], mask=[0, 1]), np.array(["2020"], "M8[D]")
UNEVEN, COMPLEX = [[1, 2], [3]], [[1, 1j], [-1j, 1]]
test_bad_values_are_refused_by_name = refusals(
    {
        given(Gaussian, cov=1.0): {"mean": [[[1.0]], [np.nan], [], [10**400], MASKED, DATE]},
        given(Gaussian, mean=[0.0, 0.0]): {
            "cov": [-1.0, [1.0], np.zeros((2, 2, 2)), [[1.0, 0.5], [0.4, 1.0]], INDEFINITE, INFINITE, UNEVEN, COMPLEX]
        },
        given(GaussianMixture, weights=[0.5, 0.5], components=[ONE, ONE]): {
            "components": [{"weights": [], "components": []}, [ONE, TWO], ["x", ONE], ONE],
            "weights": [[1.0, 0.0], [1.0], [1.0, 1.0]],
        },
        components_of: {"inputs": [3, [ONE]]},
        given(fit_mixture, x=np.eye(2), n_components=2, seed=0): {
            "x": [np.zeros((1, 2)), np.zeros((5, 0))],
            "n_components": [0],
            "seed": [2**32],
        },
    }
)
