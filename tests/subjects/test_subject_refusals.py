"""Bad calls of this room: each is a ValueError that names the argument, what was expected and what was given."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rpa.subjects import datasets, imagenet, references, train

NET, X = nn.Linear(5, 3).requires_grad_(False), torch.ones(2, 5)
PHOTOGRAPHS = datasets.ImageNetSample((Path("a.jpg"),), np.zeros(1, int), ("a",), "")


def estimate(net=NET, x=X, scale=0.1, n=4, seed=0, **options):
    return references.estimate(net, x, scale, n, seed, **options)


CALLS = [
    (lambda: datasets.moons(10, seed="a"), "seed: expected an integer >= 0, got 'a'"),
    (lambda: datasets.moons(1), "n: expected an integer >= 2, got 1"),
    (lambda: datasets.moons(2.5), "n: expected an integer >= 2, got 2.5"),
    (lambda: datasets.moons(10, noise=math.nan), "noise: expected finite numbers"),
    (lambda: datasets.moons(10, noise=-0.1), "noise: expected a number >= 0"),
    (lambda: datasets.mnist("validation"), "split: expected 'train' or 'test', got 'validation'"),
    (lambda: datasets.mnist(["train"]), r"split: expected 'train' or 'test', got \['train'\]"),
    (lambda: PHOTOGRAPHS.batch([1]), "which: expected an index below 1, got 1"),
    (lambda: train.load_module(["lenet_mnist"]), r"name: expected one of .* got \['lenet_mnist'\]"),
    (lambda: train.load_network("lenet_mnist"), "name: expected a network of Linear layers only, got 'lenet_mnist'"),
    (lambda: train.train("resnet"), "name: expected one of .* got 'resnet'"),
    (lambda: estimate(scale=-0.1), "scale: expected finite numbers >= 0, got -0.1"),
    (lambda: estimate(scale=math.nan), "scale: expected finite"),
    (lambda: estimate(scale="a"), "scale: expected numbers"),
    (lambda: estimate(scale=torch.ones(7)), r"scale: expected a number .* \(5,\), got shape \(7,\)"),
    (lambda: estimate(x=X[:0]), r"x: expected a floating-point tensor .* got torch.float32 \(0, 5\)"),
    (lambda: estimate(x=X.numpy()), "x: expected a floating-point tensor .* got ndarray"),
    (lambda: estimate(x=X[:, :4]), r"x: the network does not take inputs torch.float32 of shape \(4,\)"),
    (lambda: estimate(seed=-1), "seed: expected an integer >= 0, got -1"),
    (lambda: estimate(keep=0), "keep: expected an integer >= 1, got 0"),
    (lambda: imagenet.squeezenet(0), "n: expected an integer >= 1, got 0"),
    (lambda: imagenet.alexnet(-1), "n: expected an integer >= 1, got -1"),
    (lambda: imagenet.fashion_alexnet(0), "n: expected an integer >= 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_refused(number):
    call, message = CALLS[number]
    with pytest.raises(ValueError, match=message):
        call()
