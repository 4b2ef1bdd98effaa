"""The same answers on an accelerator and on the processor beside it: seconds, and how far apart the two are."""

import os

import numpy as np
import torch
from bench import regions, seconds, table

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
        return print("\nNo accelerator here: torch.cuda.is_available() is False")
    connected, lenet = train.load_network("mnist_784-128-64-10"), train.load_module("lenet_relu_mnist")
    few = dict(rtol=0.15, budget=600_000, input_shape=(1, 28, 28))
    cases = {
        "300 regions, 784-32-32-10, rtol 0.01": polytopes("784-32-32-10", 1e-2),
        "300 regions, 784-32-32-10, rtol 0.001": polytopes("784-32-32-10", 1e-3),
        "failure, 784-128-64-10, sigma 0.1": failures(failure_probability, connected, 0.1),
        "failure, LeNet with ReLUs, sigma 0.3": failures(failure_probability, lenet, 0.3, **few),
        "splitting, 784-128-64-10, sigma 0.1": failures(splitting, connected, 0.1),
    }
    rows = []
    probabilities(np.eye(2)[None], np.zeros((1, 2)), device="cuda")  # the first call starts the accelerator
    for title, answer in cases.items():
        found, spent = {}, {}
        for device in ("cpu", "cuda"):
            spent[device] = seconds(lambda device=device: found.update({device: answer(device)}), 2)
        (ours, error), (theirs, other) = found["cpu"], found["cuda"]
        gap = np.max(abs(np.expm1(theirs - ours)) / np.hypot(error, other))
        here = [torch.cuda.get_device_name(), os.cpu_count()]
        rows.append([title, *here, *spent.values(), spent["cpu"] / spent["cuda"], float(gap)])
    columns = ["problem", "accelerator", "processors", "processor s", "accelerator s", "ratio", "gap in errors"]
    table("The same answers on an accelerator and on the processors beside it", columns, rows, keep="device")
