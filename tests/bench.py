"""`make bench`: ours beside other packages, on the same problem in the same process. One table: data/results/bench.csv.

Each topic is a function that yields rows made by `beside`; TOPIC=name runs that one and replaces its rows. Seconds are
processor seconds on one thread, medians of interleaved runs; they belong to the machine, the ratios are what the table
is for.
"""

import importlib
import platform
import sys
import time

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from rpa.companion.report import processor
from rpa.companion.results import BENCH
from rpa.inputs import Gaussian
from rpa.patterns.regions import affine_pieces, halfspaces
from rpa.subjects import datasets, train

COLUMNS = "topic,task,size,unit,ours,our error,peer,theirs,their error,ratio,of,machine".split(",")
# Topics that share a module tests/bench_*.py; the others have one of their name.
MODULES = {"law": "patterns", "planar": "patterns", "support": "patterns", "sensitivity": "moments"}
TOPICS = sorted([*MODULES, "device", "moments", "polytope", "reliability"])  # tuning has no peers


def interleaved(*methods, repeat=5, clock=time.process_time):
    """(median seconds, last result) of each method, run in turns so that a slow minute meets all of them."""
    spent, results = np.zeros((repeat, len(methods))), {}
    for turn, k in np.ndindex(spent.shape):
        start = clock()
        results[k] = methods[k]()
        spent[turn, k] = clock() - start
    return list(zip(np.median(spent, axis=0), results.values()))


def beside(task, size, ours, peer, theirs, unit="seconds", scales=True):
    """A row of the table. ours, theirs: (cost in `unit`, error), None for an error that has no meaning.

    ratio: the peer's cost over ours, of costs at "equal error" where the peer's error falls with the square root of its
    cost (`scales`), else of the "costs" as they are.
    """
    ratio, equal = theirs[0] / ours[0], scales and None not in (ours[1], theirs[1])
    if equal:
        ratio *= (theirs[1] / ours[1]) ** 2
    return dict(zip(COLUMNS[1:], [task, size, unit, *ours, peer, *theirs, ratio, "equal error" if equal else "costs"]))


def regions(layers, count):
    """(H, h) of the commonest regions of an MNIST network around a test image, noise 0.2, in whitened coordinates."""
    image = Gaussian(datasets.mnist("test").rows[0], 0.2**2)
    net = train.load_network(f"mnist_{layers}").whitened(image)
    drawn = net.patterns(np.random.default_rng(0).standard_normal((100_000, net.input_dim)))
    patterns, counts = np.unique(drawn, axis=0, return_counts=True)
    patterns = patterns[np.argsort(-counts)[:count]]
    G, g, _, _ = affine_pieces(net, patterns)
    return halfspaces(patterns, G, g)


def main(topics):
    """Run the topics; rows of other topics stay in the table as they are."""
    torch.set_num_threads(1)
    table = pd.read_csv(BENCH, dtype=str, keep_default_na=False) if BENCH.exists() else pd.DataFrame(columns=COLUMNS)
    for topic in (bar := tqdm(topics or TOPICS)):
        bar.set_description(topic)
        module = importlib.import_module(f"bench_{MODULES.get(topic, topic)}")
        rows = pd.DataFrame(list(getattr(module, topic)()), columns=COLUMNS, dtype=object)
        if rows.empty:
            continue
        rows = rows.assign(topic=topic, machine=f"{processor()}, {platform.system()}")
        rows = rows.map(lambda cell: "" if cell is None else cell if isinstance(cell, str) else f"{cell:.3g}")
        table = pd.concat([table[table.topic != topic], rows]).sort_values("topic", kind="stable")
        table.to_csv(BENCH, index=False)
        bar.write(rows.drop(columns=["topic", "machine"]).to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1:])
