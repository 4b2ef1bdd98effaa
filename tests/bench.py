"""`make bench`: our speed and accuracy beside a peer's, both measured in the same run on the same problem.

Each topic is a module tests/bench_<topic>.py with a `main()` that prints `table`s; this script runs them all, or those
named on the command line. Absolute seconds belong to the machine; the ratios are what a table is for.
"""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
PATH = f"{HERE}{os.pathsep}{HERE.parent}"
TABLES = HERE.parent / "data" / "results" / "bench"


def seconds(f, repeat=3):
    """The shortest of `repeat` wall-clock times of f(), in seconds: what the work costs when nothing disturbs it."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def processor(f):
    """Processor seconds of f(), which neighbours on the machine disturb less, and its result."""
    start = time.process_time()
    result = f()
    return time.process_time() - start, result


def table(title, columns, rows, keep=None):
    """Print rows (lists of text and numbers) under their columns; `keep`: also write data/results/bench/<keep>.csv."""
    cells = [[cell if isinstance(cell, str) else f"{cell:.3g}" for cell in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    if keep:
        (TABLES / f"{keep}.csv").parent.mkdir(parents=True, exist_ok=True)
        with (TABLES / f"{keep}.csv").open("w") as file:
            csv.writer(file, lineterminator="\n").writerows(cells)
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip(), flush=True)


def regions(layers, count):
    """(H, h) of the commonest regions of an MNIST network around a test image, noise 0.2, in whitened coordinates."""
    from rpa.inputs import Gaussian
    from rpa.patterns.regions import affine_pieces, halfspaces
    from rpa.subjects import datasets, train

    image = Gaussian(datasets.mnist("test").rows[0], 0.2**2)
    net = train.load_network(f"mnist_{layers}").whitened(image)
    drawn = net.patterns(np.random.default_rng(0).standard_normal((100_000, net.input_dim)))
    patterns, counts = np.unique(drawn, axis=0, return_counts=True)
    patterns = patterns[np.argsort(-counts)[:count]]
    G, g, _, _ = affine_pieces(net, patterns)
    return halfspaces(patterns, G, g)


def main(topics):
    """Run each topic in a process of its own; 1 if one of them fails or does not exist."""
    names = [f"bench_{topic}" for topic in topics] or sorted(path.stem for path in HERE.glob("bench_*.py"))
    commands = [[sys.executable, "-c", f"import {name}; {name}.main()"] for name in names]
    return max(subprocess.run(command, env=os.environ | {"PYTHONPATH": PATH}).returncode for command in commands)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
