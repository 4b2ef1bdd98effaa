"""The same answers on an accelerator and on the processor beside it: seconds, and how far apart the two are."""

import os
import time

import numpy as np
import torch
from bench import beside, regions

from rpa.inputs import Gaussian
from rpa.polytopes.polytope import probabilities
from rpa.reliability.failure import failure_probability
from rpa.reliability.splitting import splitting
from rpa.subjects import datasets, train


def polytopes(layers, rtol):
    """The 300 commonest regions of an MNIST network around a test image: device -> (log p, relative errors)."""
    H, h = regions(layers, 300)
    return lambda device: probabilities(H, h, rtol=rtol, device=device)


def failures(method, net, sigma, **options):
    """The noise on a test image that changes the class: device -> (log p, relative error)."""
    inputs = Gaussian(np.float64(datasets.mnist("test").rows[0]), sigma**2)

    def answer(device):
        found = method(net, inputs, device=device, **options)
        return np.array([found.log_p]), np.array([found.rel_error])

    return answer


def main():
    if not torch.cuda.is_available():
        return
    connected, lenet = train.load_network("mnist_784-128-64-10"), train.load_module("lenet_relu_mnist")
    few = dict(rtol=0.15, budget=600_000, input_shape=(1, 28, 28))
    cases = {
        "300 regions, 784-32-32-10, rtol 0.01": polytopes("784-32-32-10", 1e-2),
        "300 regions, 784-32-32-10, rtol 0.001": polytopes("784-32-32-10", 1e-3),
        "failure, 784-128-64-10, sigma 0.1": failures(failure_probability, connected, 0.1),
        "failure, LeNet with ReLUs, sigma 0.3": failures(failure_probability, lenet, 0.3, **few),
        "splitting, 784-128-64-10, sigma 0.1": failures(splitting, connected, 0.1),
    }
    torch.set_num_threads(os.cpu_count())
    probabilities(np.eye(2)[None], np.zeros((1, 2)), device="cuda")  # the first call starts the accelerator
    for title, answer in cases.items():
        seconds, answers = zip(*(clock(lambda device=device: answer(device)) for device in ("cpu", "cuda")))
        (ours, error), (theirs, other) = answers
        gap = float(np.max(abs(np.expm1(theirs - ours)) / np.hypot(error, other)))
        size = f"{os.cpu_count()} cores, gap {gap:.1g} errors"
        pair = (seconds[0], None), (seconds[1], None)
        yield beside(title, size, "wall seconds", pair[0], f"rpa on {torch.cuda.get_device_name()}", pair[1])
    torch.set_num_threads(1)


def clock(f):
    """(shortest of three wall times in seconds, result): an accelerator's work is no processor's."""
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        result = f()
        spent.append(time.perf_counter() - start)
    return min(spent), result
