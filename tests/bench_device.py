"""The same answers on an accelerator and on the processor beside it: seconds, and how far apart the two are."""

import os

import numpy as np
import torch
from bench import seconds, table

from rpa.inputs import Gaussian
from rpa.patterns.regions import affine_pieces, halfspaces
from rpa.polytopes.polytope import probabilities
from rpa.reliability.failure import failure_probability
from rpa.reliability.splitting import splitting
from rpa.subjects import datasets, train

IMAGE = (1, 28, 28)


def polytopes(layers, count, rtol):
    """The commonest regions of an MNIST network around a test image: device -> (log p, relative errors)."""
    image = Gaussian(datasets.mnist("test").rows[0], 0.2**2)
    net = train.load_network(f"mnist_{layers}").whitened(image)
    drawn = net.patterns(np.random.default_rng(0).standard_normal((100_000, net.input_dim)))
    patterns, counts = np.unique(drawn, axis=0, return_counts=True)
    patterns = patterns[np.argsort(-counts)[:count]]
    G, g, _, _ = affine_pieces(net, patterns)
    H, h = halfspaces(patterns, G, g)
    return lambda device: probabilities(H, h, rtol=rtol, device=device)


def failures(method, name, sigma, **options):
    """The noise on a test image that changes the class: device -> (log p, relative error)."""
    data = datasets.fashion_mnist("test") if "fashion" in name else datasets.mnist("test")
    inputs = Gaussian(np.float64(data.rows[0]), sigma**2)
    net = train.load_network(name) if name[-1].isdigit() else train.load_module(name)

    def answer(device):
        found = method(net, inputs, device=device, **options)
        return np.array([found.log_p]), np.array([found.rel_error])

    return answer


def main():
    if not torch.cuda.is_available():
        return print("\nNo accelerator here: torch.cuda.is_available() is False")
    cases = {
        "300 regions, 784-32-32-10, rtol 0.01": polytopes("784-32-32-10", 300, 1e-2),
        "300 regions, 784-32-32-10, rtol 0.001": polytopes("784-32-32-10", 300, 1e-3),
        "failure, 784-128-64-10, sigma 0.1": failures(failure_probability, "mnist_784-128-64-10", 0.1),
        "failure, LeNet with ReLUs, sigma 0.3": failures(
            failure_probability, "lenet_relu_mnist", 0.3, rtol=0.15, budget=600_000, input_shape=IMAGE
        ),
        "splitting, 784-128-64-10, sigma 0.1": failures(splitting, "mnist_784-128-64-10", 0.1),
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


if __name__ == "__main__":
    main()
