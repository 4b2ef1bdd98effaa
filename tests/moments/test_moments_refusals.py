"""Bad calls of this room: each is a ValueError that names the argument, what was expected and what was given.

The front door's most common ones are in tests/test_bad_input.py.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rpa import Gaussian, affine_relu_affine, layerwise, noise_attack, noise_map, two_stage
from rpa.moments import relu, sensitivity
from rpa.moments.attacks import Noise, expected_output, margin
from rpa.moments.two_stage import monte_carlo, two_stage_mean

NAN, F64 = math.nan, torch.float64
NET = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).double().requires_grad_(False)
X, IMAGES, LABEL = torch.zeros(2, 2, dtype=F64), torch.rand(2, 1, 6, 6, dtype=F64), torch.tensor([0, 1])
WIDE, IMAGE = torch.zeros(2, 4, dtype=F64), IMAGES[0]
TANH = nn.Sequential(nn.Tanh()).double()
LAYERS = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
CONV = nn.Sequential(*LAYERS).double()
DROPPING = nn.Sequential(*LAYERS[:3], nn.Dropout(0.5), LAYERS[3]).double()
NORMED = nn.Sequential(LAYERS[0], nn.BatchNorm2d(2), *LAYERS[1:]).double()
ONE = nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.ReLU()).double()
POOLED = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)).double()
SMOOTH = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()).double()
A, C1, B, C2 = (torch.ones(shape, dtype=F64) for shape in ((2, 2), (2,), (1, 2), (1,)))
LAW, FLAT = Gaussian([0.0, 0.0], 1.0), Gaussian(np.zeros(36), 1.0)
SKEWED, TOO_LARGE = [[1.0, 0.5], [0.2, 1.0]], [[1.0, 2.0], [2.0, 1.0]]
NOISE = Noise(torch.zeros_like(IMAGES), torch.ones_like(IMAGES))
NEGATIVE, INFINITE = Noise(NOISE.shift, -NOISE.variance), Noise(NOISE.shift * NAN, NOISE.variance)
SCORES, FIRST = torch.tensor([[1.0, 2.0]]), torch.tensor([0])


def exact(*changed, mean=X, cov=1.0):
    """`affine_relu_affine` with the first arguments changed."""
    return affine_relu_affine(*changed, *(A, C1, B, C2)[len(changed) :], mean, cov)


def attack(x=IMAGES, label=LABEL, net=CONV, **options):
    return noise_attack(net, x, label, **({"budget": 1.0, "steps": 1} | options))


def judge(x=IMAGES, noise=NOISE, net=CONV, **options):
    return expected_output(net, x, noise, 4, **({"seed": 0} | options))


def mapped(net=CONV, sigma=0.1, method="lines", **options):
    return noise_map(net, IMAGE, sigma, method=method, **options)


CALLS = [
    (lambda: exact(mean=X[0]), r"mean: expected a batch .* got shape \(2,\)"),
    (lambda: exact(mean=IMAGES), r"mean: expected shape \(b, d\)"),
    (lambda: exact(A, C1[:, None]), r"c1: expected .* shape \(2,\), got .* \(2, 1\)"),
    (lambda: exact(A, C1, B, C2 * NAN), "c2: expected finite numbers, got 1"),
    (lambda: exact(A.float()), "A: expected torch.float64 as in mean"),
    (lambda: exact(cov="big"), "cov: expected a tensor, or numbers.* got 'big'"),
    (lambda: exact(cov=None), "cov: expected finite"),
    (lambda: exact(cov=TOO_LARGE), r"cov: expected \|cov12\| <= sqrt"),
    (lambda: exact(cov=SKEWED), "cov: expected a symmetric matrix"),
    (lambda: relu.mean("a", 1.0), "mu: expected a tensor, or numbers to make one of, got 'a'"),
    (lambda: relu.mean(torch.tensor([1]), torch.tensor([1])), "mu: expected a floating-point tensor, got torch.int64"),
    (lambda: relu.mean([NAN], [1.0]), "mu: expected finite"),
    (lambda: relu.squared_pdf([1.0, 2.0, 3.0], [1.0, 2.0], [1.0]), "y, mu, var: expected shapes that broadcast"),
    (lambda: relu.squared_pdf(1.0, NAN, 1.0), "mu: expected finite"),
    (lambda: relu.squared_pdf(1.0, 1.0, 0.0), "var: expected positive"),
    (lambda: relu.covariance([], np.zeros((0, 0))), "cov: expected at least one variable"),
    (lambda: relu.covariance([0.0, 0.0], SKEWED), "cov: expected a symmetric matrix"),
    (lambda: relu.covariance_zero_mean([[-1.0]]), "cov: variances must not be negative"),
    (lambda: relu.covariance_series([0.0], [[1.0]], True), "terms: expected an integer >= 1, got True"),
    (lambda: layerwise(NET, X, torch.tensor(SKEWED)), "cov: expected a symmetric matrix"),
    (lambda: layerwise(NET, X, 0.1 + 0.5 * torch.eye(2), "diagonal"), "cov: the diagonal rule takes"),
    (lambda: layerwise(NET, X, -1.0), "cov: variances must not be negative, got -1"),
    (lambda: layerwise(NET, X, 0.1, "magic"), "rule: expected one of exact, .* got 'magic'"),
    (lambda: layerwise(SMOOTH, X, 0.1), "net: ends in sigmoid, which is smooth; expected"),
    (lambda: layerwise(POOLED, IMAGES, torch.tensor(0.1, requires_grad=True)), "net: max pooling has gradients with"),
    (lambda: layerwise(NET, X), "cov: expected the noise's variance"),
    (lambda: layerwise(NET, LAW, 0.1), "cov: expected None beside a Gaussian"),
    (lambda: layerwise(CONV, FLAT, input_shape=(1, 5, 5)), "input_shape: expected 36 entries"),
    (lambda: layerwise(CONV, FLAT), r"inputs: .* shape \(36,\).* input_shape=\(1, 28, 28\)"),
    (lambda: two_stage_mean(TANH, WIDE, 0.1), r"net: layer 0 \(Tanh\) is not affine"),
    (lambda: two_stage(NET, X, 0.1, relu=1), "relu: expected the number of one of 1 ReLUs, from 0, got 1"),
    (lambda: two_stage(NET, X, 0.1, relu=0.5), "relu: expected the number of one of 1 ReLUs"),
    (lambda: two_stage(NET, X, 0.1, rule="magic"), "rule: expected one of"),
    (lambda: two_stage(NET, X, 0.1, outputs=3), "outputs: expected indices from 0 to 2, got 3"),
    (lambda: two_stage(NET, X, 0.1, outputs=[None]), "outputs: expected indices from 0 to 2"),
    (lambda: two_stage(NET, X, 0.1, points=torch.ones(2, 3)), r"points: expected shape \(any, 2\), got \(2, 3\)"),
    (lambda: two_stage(NET, X, 0.1, points=[[0.0, 0.0]]), "points: expected a floating-point tensor"),
    (lambda: monte_carlo(NET, Gaussian([1.0], 1.0), 10, 0), r"inputs: the network does not take .* shape \(1,\)"),
    (lambda: monte_carlo(NET, X, 10, 0), "inputs: expected Gaussian or GaussianMixture, got Tensor"),
    (lambda: monte_carlo("f", LAW, 10, 0), "f: expected a function or a torch module, got str"),
    (lambda: monte_carlo(lambda x: x[:3], LAW, 10, 0), r"f: expected one row per input, .* got shape \(3, 2\)"),
    (lambda: monte_carlo(lambda x: x * NAN, LAW, 10, 0), "f: returned NaN"),
    (lambda: monte_carlo(NET, LAW, 10, -1), "seed: expected integers >= 0, got -1"),
    (lambda: monte_carlo(DROPPING, LAW, 10, 0), "net: Dropout is in training mode"),
    (lambda: mapped(nn.Sequential(nn.Flatten()), method="two-stage"), "net: two stages need a ReLU"),
    (lambda: mapped(method="magic"), "method: expected one of"),
    (lambda: mapped(sigma=NAN), "sigma: expected"),
    (lambda: mapped(window=0), "window: expected an integer >= 1"),
    (lambda: mapped(order=0), "order: expected an integer >= 1"),
    (lambda: mapped(nodes=4), "nodes: expected an odd number"),
    (lambda: mapped(seed=-1), "seed: expected an integer >= 0"),
    (lambda: mapped(at=[[6, 0]]), "at: expected first pixels"),
    (lambda: mapped(at=[[0.5, 0]]), "at: expected first pixels"),
    (lambda: mapped(at=[0, 1]), "at: expected"),
    (lambda: noise_map(CONV, IMAGE * NAN, 0.1), "x: expected finite"),
    (lambda: sensitivity.output_jacobian(CONV, IMAGE.numpy()), "x: expected a tensor, got ndarray"),
    (lambda: sensitivity.output_jacobian(CONV, IMAGES), "x: the network does not take inputs"),
    (lambda: sensitivity.output_jacobian(DROPPING, IMAGE), "net: Dropout is in training mode"),
    (lambda: attack(smooth=1e9), "smooth: expected at most the 6 pixels of a side, got 1000000000"),
    (lambda: attack(smooth=-1.0), "smooth: expected a positive number"),
    (lambda: attack(sparse=0), "sparse: expected an integer >= 1"),
    (lambda: attack(sparse=37), "sparse: expected at most 36 pixels"),
    (lambda: attack(share=1.5), r"share: expected a number in \[0, 1\]"),
    (lambda: attack(gradient="magic"), "gradient: expected one of"),
    (lambda: attack(steps=0), "steps: expected an integer >= 1"),
    (lambda: attack(IMAGES.numpy()), "x: expected a tensor of images .* got ndarray"),
    (lambda: attack(IMAGE), r"x: expected a tensor of images .* got \(1, 6, 6\)"),
    (lambda: attack(IMAGES[..., :5]), r"x: the network does not take inputs torch.float64 of shape \(1, 6, 5\)"),
    (lambda: attack(IMAGES * NAN), "x: expected finite"),
    (lambda: attack(label=[0, 1]), r"label: expected an int64 tensor of shape \(2,\)"),
    (lambda: attack(label=torch.zeros(3, dtype=torch.int64)), r"label: expected an int64 tensor of shape \(2,\)"),
    (lambda: attack(label=torch.zeros(2)), "label: expected an int64 tensor"),
    (lambda: attack(target=2), "target: expected an int64 tensor"),
    (lambda: attack(target=LABEL), "target: expected a class other than the label, not so for 2"),
    (lambda: attack(gradient="sampled", seed="a"), "seed: expected an integer >= 0, got 'a'"),
    (lambda: attack(net=ONE, label=LABEL * 0), r"net: expected outputs \(b, k\) for k >= 2 classes, got \('b', 1\)"),
    (lambda: margin(SCORES, torch.tensor([5])), r"label: expected classes in \[0, 2\), got 5 to 5"),
    (lambda: margin(SCORES, FIRST, torch.tensor([-1])), r"target: expected classes in \[0, 2\)"),
    (lambda: margin(SCORES[:, :1], FIRST), "output: expected shape .* k >= 2"),
    (lambda: margin([[1.0, 2.0]], [0]), "output: expected a floating-point tensor .* got list"),
    (lambda: judge(seed=-1), "seed: expected an integer >= 0"),
    (lambda: judge(chunk=0), "chunk: expected an integer >= 1"),
    (lambda: judge(IMAGES[:1]), r"noise.shift: expected shape \(1, 1, 6, 6\) as x"),
    (lambda: judge(noise=(0.0, 1.0)), "noise: expected a Noise"),
    (lambda: judge(noise=NEGATIVE), "noise.variance: .* got -1"),
    (lambda: judge(noise=INFINITE), "noise.shift: .*finite"),
    (lambda: judge(net=DROPPING), "net: Dropout is in training mode"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_refused(number):
    call, message = CALLS[number]
    with pytest.raises(ValueError, match=message):
        call()
