"""Whether a verdict depends on the seed: `make robustness`.

The quick profile of every notebook with a claim is run with five seeds, into build/robustness. The committed table is
data/results/robustness.csv. A claim that some runs meet and others fail *flips*; RESULTS.md marks it. A run that leaves
it undecided, as few comparisons do, is neither.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import stdev

import pandas as pd

from rpa.companion import provenance
from rpa.companion.report import load_records
from rpa.companion.sweep import run_variant
from rpa.companion.verdicts import judge, load_claims, worst
from rpa.parallel import pmap

SEEDS = range(5)


def table(folder: Path) -> pd.DataFrame:
    """One row a claim: claim, target, lowest, highest, spread, runs, met, flips.

    lowest, highest: over the seeds, of the number that is farthest from the target; spread: its standard deviation;
    met: runs that meet the claim by twice its error. Runs what `folder` lacks; it can be stopped and goes on.
    """
    claims = load_claims()
    stems = sorted({claim["stem"] for claim in claims} & set(provenance.notebooks()))
    jobs = list(product(stems, SEEDS))
    run = lambda job: run_variant(job[0], "quick", {"seed": job[1]}, folder)
    folders = dict(zip(jobs, pmap(run, jobs, progress="quick runs")))
    rows = []
    for claim in claims:
        records = [load_records(folders[job] / "data" / "results") for job in jobs if job[0] == claim["stem"]]
        rated = [worst(claim, r[key]["value"]) for r in records if (key := (claim["stem"], claim["id"])) in r]
        if rated:
            verdicts = [judge(claim, r)["verdict"].partition(" (")[0] for r in records]
            met, flips = verdicts.count("holds"), {"holds", "fails"} <= set(verdicts)
            numbers = [min(rated), max(rated), stdev(rated)]
            rows.append([claim["id"], judge(claim, {})["target"], *numbers, len(rated), met, flips])
    return pd.DataFrame(rows, columns=["claim", "target", "lowest", "highest", "spread", "runs", "met", "flips"])
