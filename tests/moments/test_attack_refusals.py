"""Bad calls of the attacks and of the moments at ImageNet scale: ValueErrors that name the argument."""

import math

import pytest
import torch
from torch import nn

from rpa import noise_attack
from rpa.moments import meanfield
from rpa.moments.attacks import Noise, expected_output, margin

NAN, F64 = math.nan, torch.float64
IMAGES, LABEL = torch.rand(2, 1, 6, 6, dtype=F64), torch.tensor([0, 1])
LAYERS = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
NET = nn.Sequential(*LAYERS).double()
DROPPING = nn.Sequential(*LAYERS[:3], nn.Dropout(0.5), LAYERS[3]).double()
NORMED = nn.Sequential(LAYERS[0], nn.BatchNorm2d(2), *LAYERS[1:]).double()
ONE = nn.Sequential(nn.Flatten(), nn.Linear(36, 1), nn.ReLU()).double()
NOISE = Noise(torch.zeros_like(IMAGES), torch.ones_like(IMAGES))
PREPARED = meanfield.prepare(NET)
SCORES = torch.tensor([[1.0, 2.0]])


def attack(x=IMAGES, label=LABEL, net=NET, **options):
    return noise_attack(net, x, label, **({"budget": 1.0, "steps": 1} | options))


CALLS = [
    (lambda: attack(smooth=1e9), "smooth: expected at most the 6 pixels of a side, got 1000000000"),
    (lambda: attack(IMAGES.numpy()), "x: expected a tensor of images .* got ndarray"),
    (lambda: attack(IMAGES[0]), r"x: expected a tensor of images .* got \(1, 6, 6\)"),
    (lambda: attack(IMAGES[:0], LABEL[:0]), "x: expected at least one input"),
    (lambda: attack(IMAGES.float()), "x: the network does not take inputs torch.float32"),
    (lambda: attack(label=[0, 1]), r"label: expected an int64 tensor of shape \(2,\)"),
    (lambda: attack(target=2), "target: expected an int64 tensor"),
    (lambda: attack(gradient="sampled", seed="a"), "seed: expected an integer >= 0, got 'a'"),
    (lambda: attack(net=ONE, label=LABEL * 0), r"net: expected outputs \(b, k\) for k >= 2 classes, got \('b', 1\)"),
    (lambda: attack(net=DROPPING), "net: Dropout is in training mode"),
    (lambda: attack(budget=None), "budget: expected"),
    (lambda: margin(SCORES, torch.tensor([5])), r"label: expected classes in \[0, 2\), got 5 to 5"),
    (lambda: margin(SCORES, torch.tensor([0]), torch.tensor([-1])), r"target: expected classes in \[0, 2\)"),
    (lambda: margin(SCORES[0], torch.tensor([0])), "output: expected a batch"),
    (lambda: margin(SCORES[:, :1], torch.tensor([0])), "output: expected shape .* k >= 2"),
    (lambda: margin(SCORES, torch.tensor([0, 1])), r"label: expected an int64 tensor of shape \(1,\)"),
    (lambda: margin(SCORES, 0), "label: expected an int64 tensor"),
    (lambda: margin([[1.0, 2.0]], [0]), "output: expected a floating-point tensor .* got list"),
    (lambda: expected_output(NET, IMAGES, NOISE, 4, -1), "seed: expected an integer >= 0"),
    (lambda: expected_output(NET, IMAGES, NOISE, 4, 0, chunk=0), "chunk: expected an integer >= 1"),
    (lambda: expected_output(NET, IMAGES[:1], NOISE, 4, 0), r"noise.shift: expected shape \(1, 1, 6, 6\) as x"),
    (lambda: expected_output(NET, IMAGES, (0.0, 1.0), 4, 0), "noise: expected a Noise"),
    (lambda: expected_output(NET, IMAGES, Noise(NOISE.shift, -NOISE.variance), 4, 0), "noise.variance: .* got -1"),
    (lambda: expected_output(NET, IMAGES, Noise(NOISE.shift * NAN, NOISE.variance), 4, 0), "noise.shift: .*finite"),
    (lambda: expected_output(NET, IMAGES * NAN, NOISE, 4, 0), "x: expected finite"),
    (lambda: expected_output(DROPPING, IMAGES, NOISE, 4, 0), "net: Dropout is in training mode"),
    (lambda: meanfield.prepare(len), "net: expected a torch module, got builtin"),
    (lambda: meanfield.prepare(DROPPING), "net: Dropout is in training mode"),
    (lambda: meanfield.prepare(NORMED), "net: BatchNorm2d is in training mode"),
    (lambda: meanfield.moments(NET, IMAGES, 0.1), "layers: expected the layers that `prepare` returns, got Sequential"),
    (lambda: meanfield.moments([], IMAGES, 0.1), "layers: expected the layers"),
    (lambda: meanfield.moments(PREPARED, IMAGES, "a"), "scale: expected a tensor, or numbers .* got 'a'"),
    (lambda: meanfield.moments(PREPARED, IMAGES, torch.ones(7)), r"scale: .* \(2, 1, 6, 6\), got shape \(7,\)"),
    (lambda: meanfield.moments(PREPARED, IMAGES[:0], 0.1), "x: expected at least one input"),
    (lambda: meanfield.moments(PREPARED, IMAGES * NAN, 0.1), "x: expected finite numbers, got 72"),
    (lambda: meanfield.moments(PREPARED, IMAGES.numpy(), 0.1), "x: expected a floating-point tensor"),
    (lambda: meanfield.moments(PREPARED, IMAGES[..., :5], 0.1), r"x: the network does not take .* \(1, 6, 5\)"),
    (lambda: meanfield.moments(PREPARED, IMAGES.float(), 0.1), "x: the network does not take inputs torch.float32"),
    (lambda: meanfield.relu_moments(torch.zeros(1), -torch.ones(1)), "var: expected numbers >= 0, got -1"),
    (lambda: meanfield.relu_moments(torch.zeros(2), torch.ones(3)), r"mean, var: expected one shape, got \(2,\)"),
    (lambda: meanfield.two_stage_mean(PREPARED, IMAGES, [0.1], cut=0.5), "cut: expected the number of one of 1 ReLUs"),
    (lambda: meanfield.two_stage_mean(PREPARED, IMAGES, 0.1), "scales: expected a list of at least one"),
    (lambda: meanfield.two_stage_mean(PREPARED, IMAGES * NAN, [0.1]), "x: expected finite"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_refused(number):
    call, message = CALLS[number]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_plain_rule_carries_the_gradients_of_the_weights():
    assert meanfield.moments(PREPARED, IMAGES, 0.1)[0].requires_grad
