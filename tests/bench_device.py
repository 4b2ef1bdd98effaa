"""The same answers on an accelerator and on the processor beside it: seconds, and how far apart the two are."""

import os
import time
from functools import partial

import numpy as np
import torch
from bench import beside, interleaved, regions

from rpa.inputs import Gaussian
from rpa.polytopes.polytope import probabilities
from rpa.reliability.failure import failure_probability
from rpa.reliability.splitting import splitting
from rpa.subjects import datasets, train


def logs_and_errors(answer):
    return answer if isinstance(answer, tuple) else (answer.log_p, answer.rel_error)


def device():
    if not torch.cuda.is_available():
        return
    image, (H, h) = np.float64(datasets.mnist("test").rows[0]), regions("784-32-32-10", 300)
    connected, noise = train.load_network("mnist_784-128-64-10"), Gaussian(image, 0.1**2)
    lenet, few = train.load_module("lenet_relu_mnist"), dict(rtol=0.15, budget=600_000, input_shape=(1, 28, 28))
    cases = {
        "300 regions, 784-32-32-10, rtol 0.01": partial(probabilities, H, h, rtol=1e-2),
        "300 regions, 784-32-32-10, rtol 0.001": partial(probabilities, H, h, rtol=1e-3),
        "failure, 784-128-64-10, sigma 0.1": partial(failure_probability, connected, noise),
        "failure, LeNet with ReLUs, sigma 0.3": partial(failure_probability, lenet, Gaussian(image, 0.3**2), **few),
        "splitting, 784-128-64-10, sigma 0.1": partial(splitting, connected, noise),
    }
    torch.set_num_threads(os.cpu_count())
    probabilities(np.eye(2)[None], np.zeros((1, 2)), device="cuda")  # the first call starts the accelerator
    for title, answer in cases.items():
        both = [partial(answer, device=each) for each in ("cpu", "cuda")]
        (ours, found), (theirs, other) = interleaved(*both, repeat=3, clock=time.perf_counter)
        (log_p, error), (other_log_p, other_error) = map(logs_and_errors, (found, other))
        gap = np.max(abs(np.expm1(other_log_p - log_p)) / np.hypot(error, other_error))
        size = f"{os.cpu_count()} cores, gap {gap:.1g} errors"
        accelerator = f"rpa on {torch.cuda.get_device_name()}"
        yield beside(title, size, (ours, None), accelerator, (theirs, None), unit="wall seconds")
    torch.set_num_threads(1)
