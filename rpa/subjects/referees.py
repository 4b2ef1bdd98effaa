"""The Monte Carlo referees of the notebooks: which networks, noise levels and sample sizes; and their sampling.

Two referees of the same size and different seeds show how stable the order of the leading classes is. `python -m
rpa.subjects.referees` (`make references`) samples those that data/references lacks, on all cores; when stopped, it goes
on with the first reference that is not complete.
"""

from __future__ import annotations

import numpy as np
import torch

from rpa.parallel import pmap
from rpa.subjects import datasets, imagenet, references, train
from rpa.subjects.imagenet import Subject

# Network -> noise level -> samples of each of two referees (one for digits).
SAMPLES = {
    "lenet_mnist": {0.02: 16384, 0.05: 16384, 0.1: 16384},
    "lenet_relu_mnist": {0.02: 16384, 0.05: 16384, 0.1: 16384},
    "lenet_p2": {0.02: 10_000, 0.05: 10_000, 0.1: 10_000},
    "mnist_784-128-64-10": {0.05: 16384},
    "squeezenet1_0": {0.02: 512, 0.01: 512, 0.0025: 256, 0.005: 256, 0.001: 256},
    "alexnet": {0.001: 256, 0.0025: 256, 0.005: 256, 0.01: 512, 0.02: 512, 0.04: 256},
    "alexnet_fashion": {0.001: 256, 0.01: 512, 0.02: 512, 0.05: 256, 0.1: 256, 0.2: 256, 0.4: 256},
}
# Where two such referees disagree on the order of too many images: samples where one leaves it open.
MOST_SAMPLES = {("squeezenet1_0", 0.02): 4096}
FEW_SAMPLES = (2, 8, 32)  # samples of the estimates that an analysis is compared with
SEEDS = {"first": 1, "second": 2, "few": 3}
LARGE = {"squeezenet1_0": imagenet.squeezenet, "alexnet": imagenet.alexnet, "alexnet_fashion": imagenet.fashion_alexnet}
PER_CLASS = {"lenet_p2": 2}  # images of each class; ten for the other digits


def digits(name: str) -> Subject:
    """A network of `rpa.subjects.train` on the first test digits of each class, class by class.

    "lenet_p2" has the noise of P2's released code: for each image a random covariance A A^T of trace 784 sigma^2, the
    entries of A standard normal before they are scaled.
    """
    data, made = datasets.mnist("test"), train.load_metadata(name)
    which = [int(i) for c in range(10) for i in np.flatnonzero(data.y == c)[: PER_CLASS.get(name, 10)]]
    module = train.load_module(name)
    net = module if name.startswith("lenet") else torch.nn.Sequential(torch.nn.Flatten(), *module)
    mean, std = made.get("mean", 0.0), made.get("std", 1.0)
    x, title = (torch.from_numpy(data.x[which]) - mean) / std, f"{name}, {len(which)} test digits"
    key = {"network": name, "weights": references.fingerprint(net), "images": data.sha256, "which": which}
    if name != "lenet_p2":
        return Subject(name, title, net, x, (std,), key, data.provenance)

    def random_root(i):
        root = torch.randn(784, 784, generator=torch.Generator().manual_seed(int(i)))
        return root * 28 / root.norm()

    key |= {"noise": "A A^T of trace 784 sigma^2"}
    return Subject(name, title, net, x, (std,), key, data.provenance, random_root)


def digit_moments(subject: Subject, sigma: float, n: int) -> list[np.ndarray]:
    """[means, variances] (images, 10) of all scores of a network of `digits`, in the order of the classes."""
    found = subject.reference(sigma, n, SEEDS["first"])
    order = np.argsort(found.top, axis=1)
    return [np.take_along_axis(part, order, 1).astype(float) for part in (found.mean, found.var)]


def jobs() -> list[tuple[str, float, int, int, int | None]]:
    """(network, sigma, samples, seed, most samples) of every reference that is wanted."""
    found: list[tuple[str, float, int, int, int | None]] = []
    for network, levels in SAMPLES.items():
        seeds = (SEEDS["first"], SEEDS["second"]) if network in LARGE else (SEEDS["first"],)
        few = FEW_SAMPLES if network in LARGE else ()
        found += [(network, s, n, seed, MOST_SAMPLES.get((network, s))) for s, n in levels.items() for seed in seeds]
        found += [(network, sigma, n, SEEDS["few"], None) for sigma in levels for n in few]
    return found


def sample_missing() -> list[dict]:
    """Sample the references that data/references lacks, one process per core, and add them to it; their keys."""

    def sample(job):
        network, *sizes = job
        torch.set_num_threads(1)
        subject = LARGE[network]() if network in LARGE else digits(network)
        if subject is None or subject.has_reference(*sizes):
            return None
        return subject.key_of(*sizes), subject.reference(*sizes)

    made = [each for each in pmap(sample, jobs(), progress="references") if each is not None]
    for network in {key["network"] for key, _ in made}:
        of_network = [(key, found) for key, found in made if key["network"] == network]
        references.save(of_network, references.FOLDER / f"{network}.npz")
    return [key for key, _ in made]


if __name__ == "__main__":
    sample_missing()
