"""Whether a verdict depends on the seed or on the number of threads: `make robustness`.

The quick profile of every notebook with a claim is run with five seeds, with one thread and with two, into
build/robustness. The result is committed: data/results/robustness.csv, a row for each claim, with the spread of its
number over the seeds and how many of the runs met the criterion. A claim that some runs meet and others miss *flips*;
README marks it.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rpa.companion import provenance
from rpa.companion.report import load_records
from rpa.companion.run import is_current, run
from rpa.companion.verdicts import judge, load_claims, worst
from rpa.parallel import pmap

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["run_all", "table"]

SEEDS, THREADS = range(5), (1, 2)


def run_all(folder: Path) -> None:
    """Run what is missing, as many notebooks at a time as there are cores; it can be stopped and goes on."""
    stems = sorted({claim["stem"] for claim in load_claims()})
    jobs = [(stem, seed, threads, folder) for seed, threads, stem in product(SEEDS, THREADS, stems)]
    pmap(_run, jobs, progress="quick runs")


def _run(job):
    stem, seed, threads, folder = job
    out, parameters = folder / f"seed{seed}-threads{threads}", {"seed": seed}
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if not is_current(stem, "quick", out, parameters):
        run(provenance.notebooks()[stem], "quick", out, parameters, quiet=True)


def table(folder: Path, claims: list[dict] | None = None) -> pd.DataFrame:
    """One row a claim: claim, target, lowest, highest, spread, threads, runs, met, flips.

    lowest, highest: over all runs, of the number that is farthest from the target; spread: its standard deviation over
    the seeds, one thread; threads: its largest difference between one thread and two; met: runs that meet the claim.
    """
    import pandas as pd

    records = {
        (s, t): load_records(folder / f"seed{s}-threads{t}" / "data" / "results") for s, t in product(SEEDS, THREADS)
    }
    rows = []
    for claim in load_claims() if claims is None else claims:
        entries = {key: found.get((claim["stem"], claim["id"])) for key, found in records.items()}
        rated = {key: worst(claim, entry["value"]) for key, entry in entries.items() if entry}
        if not rated:
            continue
        met = sum(judge(claim, records[key])["verdict"].startswith("holds") for key in rated)
        alone = [rated[s, 1] for s in SEEDS if (s, 1) in rated]
        apart = [abs(rated[s, 1] - rated[s, 2]) for s in SEEDS if (s, 1) in rated and (s, 2) in rated]
        numbers = [min(rated.values()), max(rated.values()), float(np.std(alone, ddof=1)), max(apart)]
        rows.append([claim["id"], judge(claim, {})["target"], *numbers, len(rated), met, 0 < met < len(rated)])
    columns = ["claim", "target", "lowest", "highest", "spread", "threads", "runs", "met", "flips"]
    return pd.DataFrame(rows, columns=columns)
