"""The machinery that runs notebooks, records their numbers and judges the papers' claims; it cannot change a number.

Start at `report`, which every notebook calls to leave its numbers, figures and tables, and `verdicts`, which judges the
claims of `data/targets.toml` by them. `run` executes notebooks, each all or nothing, where `provenance` says that their
code, data or parameters have changed; `results` replaces the committed ones and writes RESULTS.md. For a reviewer:
`comparison` judges new numbers by the committed ones. For whoever changes something: `sweep` runs a notebook with other
parameters, a grid of them, or all with other seeds. `python -m rpa.companion` is what `make` calls.
"""

import lazy_loader

MODULES = "comparison provenance report results run sweep verdicts"
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=MODULES.split())
