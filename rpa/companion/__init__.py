"""What makes the package a companion to two papers: notebooks run, numbers recorded, claims judged, figures drawn.

Start at `report`, which every notebook calls to leave its numbers, figures and tables, and `verdicts`, which holds them
against `data/targets.toml`. `run` executes one notebook, all or nothing; `kernels` spares it the start of Python and
its packages; `provenance` says which code it reaches. For whoever checks: `comparison` judges a rerun, `claim` shows
one claim's evidence, `robustness` asks what hangs on a seed, `site` and `bundle` publish. For whoever changes
something: `variant` runs a notebook with other parameters, `sweep` a grid of them, `explorer` is notebook 99, drawn on
a `stage`. The rest is what several notebooks share: `plots` and `coverage_plots`, the experiments `coverage` (P1's
support tables, judged by `fresh` samples), `support_checks` (P1's algorithms one by one), `topk` (P2's table),
`failures` (with `failure_plots`), `montecarlo` (sampling as the referee) and `known` (polytopes whose probability is
known by another route).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "bundle",
        "claim",
        "comparison",
        "coverage",
        "coverage_plots",
        "explorer",
        "failure_plots",
        "failures",
        "fresh",
        "kernels",
        "known",
        "montecarlo",
        "plots",
        "provenance",
        "report",
        "robustness",
        "run",
        "site",
        "stage",
        "support_checks",
        "sweep",
        "topk",
        "variant",
        "verdicts",
    ],
)
