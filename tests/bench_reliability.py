"""Failure probabilities against splitting and plain sampling: evaluations at equal error, and seconds."""

import numpy as np
from bench import seconds, table

from rpa.inputs import Gaussian
from rpa.reliability.failure import failure_probability
from rpa.reliability.splitting import splitting
from rpa.subjects import datasets, train

RTOL = 0.05


def row(layers, image, sigma):
    net = train.load_network(f"mnist_{layers}")
    inputs = Gaussian(np.float64(datasets.mnist("test").rows[image]), sigma**2)
    ours, rival = failure_probability(net, inputs, rtol=RTOL), splitting(net, inputs)
    evaluations = [found.n * (found.rel_error / RTOL) ** 2 for found in (ours, rival)]
    plain = -np.expm1(ours.log_p) * np.exp(-ours.log_p) / RTOL**2
    gap = abs(np.expm1(rival.log_p - ours.log_p)) / np.hypot(ours.rel_error, rival.rel_error)
    mine = seconds(lambda: failure_probability(net, inputs, rtol=RTOL), 2)
    return [layers, sigma, ours.log_p / np.log(10), ours.rel_error, gap, *evaluations, plain, mine]


def main():
    columns = ["network", "sigma", "log10 p", "error", "gap to splitting", "evaluations", "splitting's", "sampling's",
               "seconds"]  # fmt: skip
    cases = [(layers, sigma) for layers in ("784-32-32-10", "784-128-64-10") for sigma in (0.06, 0.1, 0.2)]
    rows = [row(layers, 0, sigma) for layers, sigma in cases]
    table(f"P(noise changes the class), evaluations for a relative error of {RTOL} (want ours least)", columns, rows)


if __name__ == "__main__":
    main()
