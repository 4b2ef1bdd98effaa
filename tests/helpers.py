"""What several test files share: random networks and inputs, agreement by exact binomial tails, runs, a browser."""

import os
import shutil
import time
from contextlib import contextmanager
from itertools import pairwise, product
from unittest.mock import patch

import nbformat
import numpy as np
import pytest
import torch

from rpa.companion.run import run
from rpa.experiments.montecarlo import binomial_sigmas
from rpa.inputs import Gaussian, GaussianMixture
from rpa.network import ReLUNetwork
from rpa.reliability.event import Criterion, Event

PATIENCE = 300_000  # milliseconds for a page to do something; a busy machine needs them


class Net(torch.nn.Module):
    """A forward pass given as a function of (x, *layers)."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, torch.nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def random_network(sizes, seed, slope=0.0):
    rng = np.random.default_rng(seed)
    pairs = list(pairwise(sizes))
    weights = [rng.standard_normal((m, n)) * np.sqrt(2 / n) for n, m in pairs]
    return ReLUNetwork(weights, [0.5 * rng.standard_normal(m) for _, m in pairs], slope)


def small_network(case):
    """(network, input): 2 to 8 inputs, two layers of 4 to 16 units, without biases for even cases, noise 0.05 to 1."""
    rng = np.random.default_rng(case)
    net = random_network((int(rng.integers(2, 9)), *map(int, rng.integers(4, 17, 2)), 2), case)
    net = net if case % 2 else ReLUNetwork(net.weights, [0 * bias for bias in net.biases])
    return net, Gaussian(0.7 * rng.standard_normal(net.input_dim), float(rng.choice([0.05, 0.3, 1.0])) ** 2)


def units(rows, biases=0.0, last=1.0, offset=0.0):
    """The network last @ relu(rows x + biases) + offset; by default the sum of its units."""
    rows = np.asarray(rows, dtype=float)
    last = np.full((1, len(rows)), last) if np.ndim(last) == 0 else np.asarray(last, dtype=float)
    return ReLUNetwork([rows, last], [np.broadcast_to(biases, len(rows)), np.broadcast_to(offset, len(last))])


def coordinate(dim, bias=0.0):
    """The network f(x) = x_1 + bias on 2 dim hidden units."""
    last = np.eye(1, 2 * dim) - np.eye(1, 2 * dim, dim)
    return units(np.vstack([np.eye(dim), -np.eye(dim)]), last=last, offset=bias)


def standard(dim):
    return Gaussian(np.zeros(dim), 1.0)


def random_gaussian(dim, seed, spread=1.0, scale=1.0):
    """Full covariance, with deviations of about `scale`; mean `spread` from the origin."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((dim, dim))
    mean = rng.standard_normal(dim)
    return Gaussian(spread * mean / np.linalg.norm(mean), scale**2 * factor @ factor.T / dim)


def random_mixture(dim, seed, n_components=3, spread=1.0):
    parts = [random_gaussian(dim, 100 * seed + c, spread) for c in range(n_components)]
    weights = np.random.default_rng(seed).uniform(0.2, 1, n_components)
    return GaussianMixture(weights / weights.sum(), parts)


def problem(sizes, seed, slope=0.0, spread=1.0, mixture=False):
    """A random network and a random law of its inputs."""
    law = random_mixture if mixture else random_gaussian
    return random_network(sizes, seed, slope), law(sizes[0], seed, spread=spread)


def make_event(f, dim, rivals=1, **options):
    """The `Event` that one of the `rivals` columns of f(z) is not negative; options: rtol, budget, rng."""
    criterion = Criterion(np.eye(rivals), np.zeros(rivals), np.zeros(rivals, dtype=bool), np.arange(rivals))
    return Event(f, criterion, dim, lambda z: z, torch.zeros(0, dtype=torch.float64), **options)


def assert_binomial(counts, n, p, error=0.0):
    """Every count is within six standard errors of n p, by the exact tail; p may be off by three times its error."""
    nearest = np.clip(np.divide(counts, n), p - 3 * np.asarray(error), p + 3 * np.asarray(error))
    sigmas = np.atleast_1d(binomial_sigmas(counts, n, np.clip(nearest, 0, 1)))
    worst = int(np.argmax(sigmas))
    assert sigmas[worst] < 6, f"item {worst}: {np.atleast_1d(counts)[worst]} of {n}, p = {np.atleast_1d(p)[worst]:.6g}"


def all_patterns(n):
    """Every pattern (2^n, n) of n units, in the order of its label."""
    return np.array(list(product([False, True], repeat=n)))


def spy(monkeypatch, module, name, size=lambda *given: 1):
    """What the calls of module.name cost, to be filled while they are made."""
    costs, real = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given, **more: costs.append(size(*given)) or real(*given, **more))
    return costs


def given(function, **good):
    """`function` with these arguments, of which a call may change some."""
    return lambda **bad: function(**good | bad)


def refusals(table):
    """A test for {call: {argument: values}}: call(argument=value) is a ValueError that begins with the argument's name.

    A value that is a dict holds all arguments of the call. Numbers and texts are named too.
    """

    @pytest.mark.parametrize(
        "call, name, value", [(c, n, v) for c, bad in table.items() for n, values in bad.items() for v in values]
    )
    def test(call, name, value):
        with pytest.raises(ValueError, match=rf"^{name}(?!\w)") as caught:
            call(**(value if isinstance(value, dict) else {name: value}))
        shown = str(value), type(value).__name__
        assert type(value) not in (int, str) or any(text in str(caught.value) for text in shown)

    return test


def run_quick(stem, out):
    """Run a notebook's quick profile; downloads are off, so what is not there is replaced by its stand-in."""
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "RPA_OFFLINE": "1"}):
        run(stem, "quick", out)


def write_notebook(path, *cells, prose="words"):
    """A notebook of prose, its parameters and code cells, as those of the project are; returns its path."""
    parameters = nbformat.v4.new_code_cell('profile = "full"', metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell(prose), parameters, *map(nbformat.v4.new_code_cell, cells)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def wait_for(condition, seconds=300):
    """Return when condition() is true; it has to become so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def browser():
    """A page of headless Chromium; the test is skipped, with a word, where there is none."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=quiet)
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE)
        yield page
        chromium.close()
