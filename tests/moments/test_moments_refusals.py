"""Bad calls of this room: each is a ValueError that names the argument, what was expected and what was given."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rpa import Gaussian, affine_relu_affine, layerwise, noise_map, two_stage
from rpa.moments import pooling, relu, sensitivity
from rpa.moments.prepared import noise
from rpa.moments.two_stage import centres, monte_carlo, splits, two_stage_mean

NAN, F64 = math.nan, torch.float64
NET = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).double().requires_grad_(False)
STAGES = NET[:1], NET[2:]
X, IMAGES = torch.zeros(2, 2, dtype=F64), torch.rand(2, 1, 6, 6, dtype=F64)
TANH = nn.Sequential(nn.Tanh()).double()
CONV = [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)]
DROPPING = nn.Sequential(*CONV[:3], nn.Dropout(0.5), CONV[3]).double().requires_grad_(False)
CONV = nn.Sequential(*CONV)
A, C1, B, C2 = (torch.ones(shape, dtype=F64) for shape in ((2, 2), (2,), (1, 2), (1,)))
LAW = Gaussian([0.0, 0.0], 1.0)
SKEWED, TOO_LARGE = [[1.0, 0.5], [0.2, 1.0]], [[1.0, 2.0], [2.0, 1.0]]

CALLS = [
    (lambda: affine_relu_affine(A, C1, B, C2, X[0], 1.0), r"mean: expected a batch .* got shape \(2,\)"),
    (lambda: affine_relu_affine(A, C1, B, C2, X[:0], 1.0), "mean: expected at least one input"),
    (lambda: affine_relu_affine(A, C1, B, C2, IMAGES, 1.0), r"mean: expected shape \(b, d\)"),
    (lambda: affine_relu_affine(A, C1[:, None], B, C2, X, 1.0), r"c1: expected .* shape \(2,\), got .* \(2, 1\)"),
    (lambda: affine_relu_affine(A, 0.0, B, C2, X, 1.0), r"A: expected .* shape \(1, 2\)"),
    (lambda: affine_relu_affine(A, C1, B, C2 * NAN, X, 1.0), "c2: expected finite numbers, got 1"),
    (lambda: affine_relu_affine(A.float(), C1, B, C2, X, 1.0), "A: expected torch.float64 as in mean"),
    (lambda: affine_relu_affine(A, C1, B, C2, X, "big"), "cov: expected a tensor, or numbers.* got 'big'"),
    (lambda: affine_relu_affine(A, C1, B, C2, X, None), "cov: expected finite"),
    (lambda: affine_relu_affine(A, C1, B, C2, X, TOO_LARGE), r"cov: expected \|cov12\| <= sqrt"),
    (lambda: affine_relu_affine(A, C1, B, C2, X, SKEWED), "cov: expected a symmetric matrix"),
    (lambda: relu.mean("a", 1.0), "mu: expected a tensor, or numbers to make one of, got 'a'"),
    (lambda: relu.mean([[1.0, 2.0], [3.0]], 1.0), "mu: expected a tensor, or numbers"),
    (lambda: relu.mean(torch.tensor([1]), torch.tensor([1])), "mu: expected a floating-point tensor, got torch.int64"),
    (lambda: relu.gain([0.0, 1.0], [1.0]), r"mu: expected shape \(1,\), got \(2,\)"),
    (lambda: relu.squared_pdf([1.0, 2.0, 3.0], [1.0, 2.0], [1.0]), "y, mu, var: expected shapes that broadcast"),
    (lambda: relu.squared_pdf(1.0, NAN, 1.0), "mu: expected finite"),
    (lambda: relu.covariance([], np.zeros((0, 0))), "cov: expected at least one variable"),
    (lambda: relu.covariance_zero_mean(TOO_LARGE), r"cov: expected \|cov12\|"),
    (lambda: relu.covariance_zero_mean([[-1.0]]), "cov: variances must not be negative"),
    (lambda: relu.covariance_series([0.0, 0.0], TOO_LARGE), r"cov: expected \|cov12\|"),
    (lambda: relu.covariance_series([0.0], [[1.0]], True), "terms: expected an integer >= 1, got True"),
    (lambda: pooling.maximum(torch.zeros(2), torch.eye(3)), "mean, cov: expected shapes"),
    (lambda: pooling.maximum(torch.full((2,), NAN), torch.eye(2)), "mean: expected finite"),
    (lambda: noise(0.1, X[0]), "inputs: expected a batch"),
    (lambda: noise([[0.0]], X), "cov: expected shape"),
    (lambda: layerwise(NET, X, torch.tensor(SKEWED)), "cov: expected a symmetric matrix"),
    (lambda: layerwise(NET, X[0], 0.1), r"inputs: expected a batch .* got shape \(2,\)"),
    (lambda: layerwise(NET, X), "cov: expected the noise's variance"),
    (lambda: layerwise(NET, LAW, 0.1), "cov: expected None beside a Gaussian"),
    (lambda: layerwise(CONV, Gaussian(np.zeros(36), 1.0), input_shape=(1, 5, 5)), "input_shape: expected 36 entries"),
    (lambda: layerwise(CONV, Gaussian(np.zeros(36), 1.0)), r"inputs: .* shape \(36,\).* input_shape=\(1, 28, 28\)"),
    (lambda: layerwise(NET, X, 0.1, max_dense=-1), "max_dense: expected an integer >= 0, got -1"),
    (lambda: splits(len), "net: expected a torch module, got builtin"),
    (lambda: splits(DROPPING), "net: Dropout is in training mode; call net.eval"),
    (lambda: centres([[0.0, 0.0]], 1, 0), "x: expected a floating-point tensor .* got list"),
    (lambda: centres(X * NAN, 1, 0), "x: expected finite numbers, got 4"),
    (lambda: centres(X, 1, -1), "seed: expected an integer >= 0, got -1"),
    (lambda: two_stage_mean(*STAGES, torch.zeros(2, 5, dtype=F64), 0.1), "inputs: the network does not take inputs"),
    (lambda: two_stage_mean(NET[:1], NET[:1], X, 0.1), "first: its output: the network does not take"),
    (lambda: two_stage_mean(NET[:1], len, X, 0.1), "net: expected a torch module, got builtin"),
    (lambda: two_stage_mean(DROPPING[:1], DROPPING[2:], IMAGES, 0.1), "net: Dropout is in training mode"),
    (lambda: two_stage_mean(TANH, NET[2:], torch.zeros(2, 4, dtype=F64), 0.1), r"net: layer 0 \(Tanh\) is not affine"),
    (lambda: two_stage(TANH, NET[2:], torch.zeros(2, 4, dtype=F64), 0.1), r"net: layer 0 \(Tanh\) is not affine"),
    (lambda: two_stage(*STAGES, X, torch.tensor(SKEWED)), "cov: expected a symmetric matrix"),
    (lambda: two_stage(NET, X, 0.1, None), "net, inputs, cov: expected no more without a name, got 1"),
    (lambda: two_stage(NET, X, 0.1, relu=1), "relu: expected the number of one of 1 ReLUs, from 0, got 1"),
    (lambda: two_stage(*STAGES, X, 0.1, outputs=3), "outputs: expected indices from 0 to 2, got 3"),
    (lambda: two_stage(*STAGES, X, 0.1, outputs=[None]), "outputs: expected indices from 0 to 2"),
    (lambda: two_stage(*STAGES, X, 0.1, outputs=[NAN]), "outputs: expected indices from 0 to 2"),
    (lambda: two_stage(*STAGES, X, 0.1, X[:0]), "points: expected at least one input"),
    (lambda: two_stage(*STAGES, X, 0.1, [[0.0, 0.0]]), "points: expected a floating-point tensor"),
    (lambda: monte_carlo(NET, Gaussian([1.0], 1.0), 10, 0), r"inputs: the network does not take .* shape \(1,\)"),
    (lambda: monte_carlo(NET, X, 10, 0), "inputs: expected Gaussian or GaussianMixture, got Tensor"),
    (lambda: monte_carlo("f", LAW, 10, 0), "f: expected a function or a torch module, got str"),
    (lambda: monte_carlo(lambda x: x[:3], LAW, 10, 0), r"f: expected one row per input, .* got shape \(3, 2\)"),
    (lambda: monte_carlo(lambda x: None, LAW, 10, 0), "f: expected one row per input"),
    (lambda: monte_carlo(NET, LAW, 10, -1), "seed: expected integers >= 0, got -1"),
    (lambda: monte_carlo(DROPPING, LAW, 10, 0), "net: Dropout is in training mode"),
    (lambda: noise_map(nn.Sequential(nn.Flatten()), IMAGES[0], 0.1), "net: two stages need a ReLU"),
    (lambda: noise_map(CONV, IMAGES[0], 0.1, method="lines", seed=-1), "seed: expected an integer >= 0"),
    (lambda: sensitivity.output_jacobian(CONV, IMAGES[0].numpy()), "x: expected a tensor, got ndarray"),
    (lambda: sensitivity.output_jacobian(CONV, IMAGES), "x: the network does not take inputs"),
    (lambda: sensitivity.output_jacobian(DROPPING, IMAGES[0]), "net: Dropout is in training mode"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_refused(number):
    call, message = CALLS[number]
    with pytest.raises(ValueError, match=message):
        call()


def test_lists_and_arrays_are_as_good_as_tensors():
    tensors = affine_relu_affine(A, C1, B, C2, X, torch.tensor([0.5, 2.0], dtype=F64))
    lists = affine_relu_affine(A.tolist(), C1.numpy(), B.tolist(), C2.numpy(), X.numpy(), [0.5, 2.0])
    assert torch.equal(tensors.mean, lists.mean) and torch.equal(tensors.cov, lists.cov)


def test_points_of_another_precision_are_taken():
    one, other = (two_stage(*STAGES, X, 0.1, X[:1].to(dtype)) for dtype in (F64, torch.float32))
    assert torch.equal(one.cov, other.cov)
