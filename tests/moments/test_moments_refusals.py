"""Bad calls of this room: each is a ValueError that begins with the argument's name."""

import math

import numpy as np
import torch
from helpers import given, refusals, standard
from torch import nn

from rpa import Gaussian, affine_relu_affine, layerwise, noise_attack, noise_map, two_stage
from rpa.moments import relu, sensitivity
from rpa.moments.attacks import Noise, expected_output, margin
from rpa.moments.two_stage import monte_carlo, splits, two_stage_mean

NAN, F64 = math.nan, torch.float64
NET = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).double().requires_grad_(False)
X, IMAGES, LABEL = torch.zeros(2, 2, dtype=F64), torch.rand(2, 1, 6, 6, dtype=F64), torch.tensor([0, 1])
WIDE, IMAGE = torch.zeros(2, 4, dtype=F64), IMAGES[0]
TANH = nn.Sequential(nn.Tanh()).double()
LAYERS = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
CONV = nn.Sequential(*LAYERS).double()
DROPPING = nn.Sequential(*LAYERS[:3], nn.Dropout(0.5), LAYERS[3]).double()
NORMED = nn.Sequential(LAYERS[0], nn.BatchNorm2d(2), *LAYERS[1:]).double()
NOISY = nn.Sequential(NET[0], nn.Dropout(0.5)).double()
ONE = nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.ReLU()).double()
POOLED = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)).double()
EMPTY = nn.Sequential(nn.MaxPool2d(2, padding=1, dilation=7), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).double()
SMOOTH = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()).double()
LAW, FLAT = Gaussian([0.0, 0.0], 1.0), standard(36)
SKEWED, TOO_LARGE = [[1.0, 0.5], [0.2, 1.0]], [[1.0, 2.0], [2.0, 1.0]]
NOISE = Noise(torch.zeros_like(IMAGES), torch.ones_like(IMAGES))
NEGATIVE, INFINITE = Noise(NOISE.shift, -NOISE.variance), Noise(NOISE.shift * NAN, NOISE.variance)
SCORES, FIRST, FEW = torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.zeros(3, dtype=torch.int64)


def staged(function):
    """`function` of the stages of NET."""
    return lambda first=NET[:1], second=NET[2:], inputs=X, cov=0.1, points=(), **more: function(
        first, second, inputs, cov, *points, **more
    )


INTEGERS = torch.tensor([1])

test_bad_values_are_refused_by_name = refusals({
    given(affine_relu_affine, A=torch.ones(2, 2, dtype=F64), c1=WIDE[0, :2], B=X[:1], c2=X[0, :1], mean=X, cov=1.0): {
        "mean": [X[0], IMAGES],
        "c1": [X[:, :1]],
        "c2": [X[0, :1] * NAN],
        "A": [torch.ones(2, 2)],
        "cov": ["big", None, TOO_LARGE, SKEWED],
    },
    given(relu.mean, mu=[1.0], var=[1.0]): {"mu": ["a", {"mu": INTEGERS, "var": INTEGERS}, [NAN]], "var": [[-1.0]]},
    given(relu.squared_pdf, y=1.0, mu=1.0, var=1.0): {"y, mu, var": [{"y": [1.0] * 3, "mu": [1.0] * 2}], "mu": [NAN],
                                                      "var": [0.0]},
    given(relu.covariance, mu=[0.0, 0.0]): {"cov": [SKEWED, [1.0, 1.0], {"mu": [], "cov": np.zeros((0, 0))}]},
    relu.covariance_zero_mean: {"cov": [[[-1.0]]]},
    given(relu.covariance_series, mu=[0.0], cov=[[1.0]]): {"terms": [True]},
    given(layerwise, net=NET, inputs=X, cov=0.1): {
        "cov": [torch.tensor(SKEWED), torch.ones(3), -1.0, None, {"cov": 0.1 + 0.5 * torch.eye(2), "rule": "diagonal"},
                {"inputs": LAW}],
        "rule": ["magic"],
        "input_shape": [{"net": CONV, "inputs": FLAT, "cov": None, "input_shape": s} for s in ((1, 5, 5), "a", 3.6)],
        "inputs": [X * 1j, {"net": CONV, "inputs": FLAT, "cov": None}, X[0, 0], X[:0], X * NAN, [[0.0]]],
        "net": [len, {"net": NORMED, "inputs": IMAGES}, {"net": SMOOTH}, {"net": EMPTY, "inputs": IMAGES},
                {"net": POOLED, "inputs": IMAGES, "cov": torch.tensor(0.1, requires_grad=True)}],
    },
    splits: {"net": [len]},
    staged(two_stage_mean): {"net": [{"second": len}, {"first": TANH, "inputs": WIDE}], "at": ["edge"]},
    given(two_stage, net=NET, inputs=X, cov=0.1): {"relu": [1], "rule": ["magic"]},
    lambda extra: two_stage(NET, X, 0.1, extra): {"net, inputs, cov": [{"extra": None}]},
    staged(two_stage): {
        "outputs": [3, [7], [], [None], [1, [2]], torch.ones(2, dtype=torch.bfloat16)],
        "net": [{"first": NOISY}],
        "first": [{"second": NET[:1]}],
        "inputs": [torch.zeros(2, 5)],
        "points": [{"points": [torch.ones(2, 3)]}, {"points": [[[0.0, 0.0]]]}],
    },
    given(monte_carlo, f=NET, inputs=LAW, n=10, seed=0): {
        "inputs": [Gaussian([1.0], 1.0), X],
        "f": ["f", lambda x: x[:3], lambda x: x * NAN, lambda x: x + 1j, lambda x: X * 1j, lambda x: {"y": x}],
        "n": [1],
        "seed": [-1],
        "net": [{"f": DROPPING}],
    },
    given(noise_map, net=CONV, x=IMAGE, sigma=0.1, method="lines"): {
        "net": [{"net": nn.Sequential(nn.Flatten()), "method": "two-stage"}, NORMED],
        "method": ["magic"],
        "sigma": [NAN, [], 1e-15],
        "window": [0, 7],
        "order": [0],
        "nodes": [4],
        "seed": [-1],
        "at": [[[6, 0]], [[0.5, 0]], [0, 1]],
        "x": [IMAGE * NAN, np.zeros(36), np.zeros((5, 5))],
    },
    given(sensitivity.output_jacobian, module=CONV): {"x": [IMAGE.numpy(), IMAGES],
                                                      "net": [{"module": DROPPING, "x": IMAGE}]},
    given(noise_attack, net=CONV, x=IMAGES, label=LABEL, budget=1.0, steps=1): {
        "smooth": [10**9, -1.0],
        "sparse": [0, 37],
        "share": [1.5],
        "gradient": ["magic"],
        "steps": [0],
        "x": [IMAGES.numpy(), IMAGE, IMAGES[..., :5], IMAGES * NAN, X],
        "label": [[0, 1], FEW, torch.zeros(2), LABEL + 9],
        "target": [2, LABEL],
        "seed": [{"gradient": "sampled", "seed": "a"}],
        "net": [{"net": ONE, "label": LABEL * 0}, len, NORMED],
    },
    given(margin, output=SCORES, label=FIRST): {
        "label": [torch.tensor([5])],
        "target": [torch.tensor([-1])],
        "output": [SCORES[:, :1], [[1.0, 2.0]]],
    },
    given(expected_output, net=CONV, x=IMAGES, noise=NOISE, n=4, seed=0): {
        "n": [1],
        "seed": [-1],
        "chunk": [0],
        "noise.shift": [{"x": IMAGES[:1]}, {"noise": INFINITE}],
        "noise.variance": [{"noise": NEGATIVE}],
        "noise": [(0.0, 1.0)],
        "net": [DROPPING],
    },
})  # fmt: skip
