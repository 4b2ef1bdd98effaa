"""`make bench`: ours beside other packages, on the same problem in the same process. One table: data/results/bench.csv.

Each topic is a module tests/bench_<topic>.py whose `main()` yields rows made by `beside`. TOPIC=name runs that one and
replaces its rows. Seconds are processor seconds on one thread, medians of interleaved runs; they belong to the machine,
the ratios are what the table is for.
"""

import csv
import importlib
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from rpa.companion.report import processor

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "data" / "results" / "bench.csv"
COLUMNS = "topic,task,size,unit,ours,our error,peer,theirs,their error,ratio,of,machine".split(",")


def interleaved(*methods, repeat=5):
    """(median processor seconds, last result) of each method, run in turns so that a slow minute meets all of them."""
    spent, results = np.zeros((repeat, len(methods))), [None] * len(methods)
    for turn in spent:
        for k, method in enumerate(methods):
            start = time.process_time()
            results[k] = method()
            turn[k] = time.process_time() - start
    return list(zip(np.median(spent, axis=0), results))


def beside(task, size, unit, ours, peer, theirs, scales=True):
    """A row of the table. ours, theirs: (cost in `unit`, error), None for an error that has no meaning.

    ratio: the peer's cost over ours, of costs at "equal error" where the peer's error falls with the square root of its
    cost (`scales`), else of the "costs" as they are.
    """
    ratio, equal = theirs[0] / ours[0], scales and None not in (ours[1], theirs[1])
    if equal:
        ratio *= (theirs[1] / ours[1]) ** 2
    return dict(
        zip(COLUMNS[1:-1], [task, size, unit, *ours, peer, *theirs, ratio, "equal error" if equal else "costs"])
    )


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


def _text(cell):
    return "" if cell is None else cell if isinstance(cell, str) else f"{cell:.3g}"


def main(topics):
    """Run the topics; rows of other topics stay in the table as they are."""
    torch.set_num_threads(1)
    every = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    names = topics or [name for name in every if name != "tuning"]  # no peers there, and it prints its own table
    kept = list(csv.DictReader(TABLE.read_text().splitlines())) if TABLE.exists() else []
    machine = f"{processor()}, {platform.system()}"
    for name in (bar := tqdm(names)):
        bar.set_description(name)
        rows = [{"topic": name, **row, "machine": machine} for row in importlib.import_module(f"bench_{name}").main()]
        if not rows:
            continue
        kept = sorted([row for row in kept if row["topic"] != name] + rows, key=lambda row: row["topic"])
        with TABLE.open("w") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: _text(cell) for key, cell in row.items()} for row in kept)
        for row in rows:
            shown = (f"{key} {_text(row[key])}" for key in COLUMNS[4:-1] if row[key] is not None)
            bar.write(f"{row['task']}, {row['size']} ({row['unit']}): {', '.join(shown)}")


if __name__ == "__main__":
    main(sys.argv[1:])
