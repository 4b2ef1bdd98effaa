"""Failure probabilities against splitting and plain sampling: evaluations at equal error, and seconds."""

import numpy as np
import pandas as pd
from bench import seconds, table

from rpa.experiments import failures
from rpa.inputs import Gaussian
from rpa.reliability.failure import failure_probability
from rpa.reliability.splitting import splitting
from rpa.subjects import datasets, train

RTOL = 0.05


def answers(layers, image, sigma):
    """(ours, splitting's, seconds of ours) of one case; the first two as rows that `failures.costs` takes."""
    net = train.load_network(f"mnist_{layers}")
    inputs = Gaussian(np.float64(datasets.mnist("test").rows[image]), sigma**2)
    both = failure_probability(net, inputs, rtol=RTOL), splitting(net, inputs)
    rows = [failures.row(found, network=layers, image=image, sigma=sigma) for found in both]
    return *rows, seconds(lambda: failure_probability(net, inputs, rtol=RTOL), 2)


def main():
    cases = [(layers, 0, sigma) for layers in ("784-32-32-10", "784-128-64-10") for sigma in (0.06, 0.1, 0.2)]
    ours, rivals, spent = zip(*(answers(*case) for case in cases))
    costs = failures.costs(pd.DataFrame(ours), pd.DataFrame(rivals), RTOL)
    keys = "log10_p", "rel_error"
    log_p, error = (np.array([[row[key] for row in rows] for rows in (ours, rivals)]) for key in keys)
    gap = abs(10 ** (log_p[1] - log_p[0]) - 1) / np.hypot(*error)
    costs = costs.drop(columns="image").assign(error=error[0], gap=gap, seconds=spent)
    title = f"P(noise changes the class), evaluations for a relative error of {RTOL} (want ours least)"
    table(title, [*costs.columns], costs.to_numpy().tolist())
