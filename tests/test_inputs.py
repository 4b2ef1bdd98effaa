import numpy as np
import pytest
from helpers import random_gaussian, random_mixture

from rpa.inputs import Gaussian, GaussianMixture, components_of, fit_mixture


@pytest.mark.parametrize("cov", [0.5, [0.5, 0.2, 0.0], np.diag([0.5, 0.2, 0.1]), np.ones((3, 3)), np.zeros((3, 3))])
def test_covariance_forms_agree(cov):
    g = Gaussian([1.0, 2.0, 3.0], cov)
    expected = cov * np.eye(3) if np.ndim(cov) == 0 else np.diag(cov) if np.ndim(cov) == 1 else cov
    factor = g.times_factor(np.eye(3))
    np.testing.assert_array_equal(g.cov, expected)
    np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-15)
    np.testing.assert_array_equal(g.variances, np.diag(expected))


def test_tensors_of_bfloat16_are_numbers():
    import torch

    values = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    np.testing.assert_array_equal(Gaussian(values, values).mean, [1.0, 2.0])


def test_singular_covariance_keeps_its_rank():
    assert Gaussian(np.zeros(3), np.ones((3, 3))).times_factor(np.eye(3)).shape == (3, 1)


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


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Gaussian([[1.0]], 1.0), r"mean: expected shape \(any,\), got \(1, 1\)"),
        (lambda: Gaussian([np.nan], 1.0), "mean: expected finite"),
        (lambda: Gaussian([0.0], -1.0), "cov: variances must not be negative"),
        (lambda: Gaussian([0.0, 0.0], [1.0]), "cov: expected shape"),
        (lambda: Gaussian([0.0, 0.0], np.zeros((2, 2, 2))), "cov: expected a scalar"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 0.5], [0.4, 1.0]]), "cov: expected a symmetric"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "cov: expected a positive semidefinite"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, np.inf], [np.inf, 1.0]]), "cov: expected finite"),
        (lambda: GaussianMixture([], []), "components: expected at least one"),
        (lambda: GaussianMixture([1.0, 0.0], [Gaussian([0.0], 1.0)] * 2), "weights: expected positive"),
        (lambda: GaussianMixture([1.0], [Gaussian([0.0], 1.0)] * 2), "weights: expected shape"),
        (
            lambda: GaussianMixture([0.5, 0.5], [Gaussian([0.0], 1.0), Gaussian([0.0, 0.0], 1.0)]),
            "components: expected one dim",
        ),
        (lambda: GaussianMixture([1], ["x"]), "components: expected Gaussian, got str"),
        (lambda: components_of(3), "inputs: expected Gaussian or GaussianMixture, got int"),
        (lambda: components_of([Gaussian([0.0], 1.0)]), "got list; for many inputs see rpa.parallel.pmap"),
        (lambda: fit_mixture(np.zeros((1, 2)), 2, 0), "x: expected at least n_components"),
        (lambda: fit_mixture(np.zeros((9, 2)), 0, 0), "n_components: expected an integer >= 1"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
