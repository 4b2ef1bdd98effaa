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
    (lambda: datasets.moons(2.5), "'n_samples' parameter of make_moons must be an int"),
    (lambda: datasets.moons(10, noise=-0.1), "'noise' parameter of make_moons must be a float in the range"),
    (lambda: datasets.mnist("validation"), "split: expected 'train' or 'test', got 'validation'"),
    (lambda: datasets.mnist(["train"]), r"split: expected 'train' or 'test', got \['train'\]"),
    (lambda: PHOTOGRAPHS.batch([1]), "which: expected an index below 1, got 1"),
    (lambda: train.load_module(["lenet_mnist"]), r"name: expected one of .* got \['lenet_mnist'\]"),
    (lambda: train.load_network("lenet_mnist"), "name: expected a network of Linear layers only, got 'lenet_mnist'"),
    (lambda: train.train("resnet"), "name: expected one of .* got 'resnet'"),
    (lambda: estimate(seed=-1), "seed: expected an integer >= 0, got -1"),
    (lambda: estimate(scale=math.nan), "net: returned NaN"),
    (lambda: estimate(n=7), "n: expected an even number"),
    (lambda: estimate(n=0), "n: expected an integer >= 2, got 0"),
    (lambda: estimate(n=8, most=6), "most: expected an integer >= 8, got 6"),
    (lambda: estimate(n=8, most=9), "most: expected an even number"),
    (lambda: imagenet.squeezenet(0), "n: expected an integer >= 1, got 0"),
    (lambda: imagenet.alexnet(-1), "n: expected an integer >= 1, got -1"),
    (lambda: imagenet.fashion_alexnet(0), "n: expected an integer >= 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_refused(number):
    call, message = CALLS[number]
    with pytest.raises(ValueError, match=message):
        call()
