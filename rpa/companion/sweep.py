"""A grid of runs of one notebook: `python -m rpa.companion.sweep 01_moons_noise grid.yaml`, or `make sweep`.

The grid is a YAML file, a list or a range for each parameter; every combination is run as `make run` runs it:

    noise_levels: [[0.1], [0.2], [0.4]]
    seed: {from: 0, to: 4, count: 5}          # evenly spaced; "log: true" for equal ratios

The cells are ordinary runs in build/runs, so a sweep that was stopped goes on where it was, and two sweeps share what
they have in common. What comes out is build/runs/<stem>-sweep-<hash>/: the grid, sweep.csv with a row for each number
of each record of each cell, and sweep.png (`make sweep PLOT="record against parameter"`). With SCHEDULER the cells run
on the workers of a dask.distributed cluster, which see the same folder. No number depends on how many there are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from rpa import _files
from rpa.companion.comparison import flatten
from rpa.companion.report import load_records
from rpa.companion.variant import RUNS, checked, parameters_of, run_variant, stem_of
from rpa.parallel import pmap

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["cells_of", "draw", "main", "sweep"]


def cells_of(stem: str, grid: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the grid's values, [{parameter: value}], the last parameter running fastest.

    Raises ValueError for an empty grid, an entry that is neither list nor range, and what `variant.checked` refuses.
    """
    if not isinstance(grid, dict) or not grid:
        raise ValueError(f"grid: expected a list or a range for at least one parameter, got {grid!r}")
    values = {name: _values(name, given, stem) for name, given in grid.items()}
    return [checked(stem, dict(zip(values, combination))) for combination in itertools.product(*values.values())]


def _values(name, given, stem):
    if isinstance(given, list) and given:
        return given
    if not isinstance(given, dict) or set(given) - {"log"} != {"from", "to", "count"}:
        raise ValueError(f"grid, {name}: expected a list or {{from: a, to: b, count: n}}, got {given!r}")
    spaced = np.geomspace if given.get("log") else np.linspace
    numbers = spaced(given["from"], given["to"], given["count"])
    known = parameters_of(stem).get(name)
    whole = known is not None and isinstance(known.default, int) and np.array_equal(numbers, np.round(numbers))
    return [int(n) if whole else float(n) for n in numbers]


def sweep(
    stem: str, grid: dict[str, Any], profile: str = "full", runs: Path = RUNS, scheduler: str | None = None
) -> Path:
    """Run every cell that has not been run, write grid.yaml and sweep.csv; the folder that holds them.

    scheduler: address of a dask.distributed cluster, whose workers share this folder; None: processes of this machine.
    Raises RuntimeError naming a cell that failed; the finished ones are kept.
    """
    cells = cells_of(stem, grid)
    work = partial(_cell, stem, profile, runs)
    with ExitStack() as stack:
        if scheduler:
            import joblib
            from dask.distributed import Client

            stack.enter_context(Client(scheduler))
            stack.enter_context(joblib.parallel_config(backend="dask"))
        folders = pmap(work, cells, progress=f"{stem}, cells")
    frame = _tidy(cells, [runs / name for name in folders])
    asked = {"notebook": stem, "profile": profile, "grid": grid}
    digest = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    folder = runs / f"{stem}-sweep-{digest}"
    text = yaml.safe_dump(asked, sort_keys=False)
    _files.replace(folder / "grid.yaml", lambda temporary: temporary.write_text(text))
    _files.replace(folder / "sweep.csv", lambda temporary: frame.to_csv(temporary, index=False))
    return folder


def _cell(stem, profile, runs, values):
    return run_variant(stem, profile, values, runs).name


def _tidy(cells, folders):
    """A row for each number: the cell's parameters, record, entry (its place in a list or dict), value, error."""
    import pandas as pd

    rows = []
    for values, folder in zip(cells, folders):
        own = {name: value if np.isscalar(value) else json.dumps(value) for name, value in values.items()}
        for (_, record), entry in load_records(folder / "data" / "results").items():
            errors = dict(flatten(entry.get("error", {})))
            for place, number in flatten(entry["value"]):
                rows.append({**own, "record": record, "entry": place, "value": number, "error": errors.get(place)})
    return pd.DataFrame(rows)


def draw(frame: pd.DataFrame, record: str, parameter: str) -> Figure:
    """The numbers of a record against a parameter, one line for each entry and choice of the other parameters.

    frame: sweep.csv. Raises ValueError for a record or parameter that it does not have.
    """
    import matplotlib.pyplot as plt

    names = list(frame.columns[: list(frame.columns).index("record")])
    if parameter not in names:
        raise ValueError(f"parameter: expected one of {', '.join(names)}, got {parameter!r}")
    found = frame[frame.record == record]
    if found.empty:
        raise ValueError(f"record: expected one of {', '.join(sorted(frame.record.unique()))}, got {record!r}")
    fig, ax = plt.subplots(figsize=(5, 3.2))
    others = [name for name in names if name != parameter and found[name].nunique() > 1]
    for key, part in found.fillna({"entry": ""}).groupby([*others, "entry"]):
        told = [f"{name} {value}".removeprefix("entry ") for name, value in zip([*others, "entry"], key) if value != ""]
        at = part[parameter].astype(str) if part[parameter].dtype == object else part[parameter]
        ax.errorbar(at, part.value, part.error.fillna(0), fmt="o-", markersize=3, linewidth=1, label=", ".join(told))
    ax.set(xlabel=parameter, ylabel=record)
    if 1 < len(ax.containers) <= 12:
        ax.legend(fontsize=6, frameon=False)
    return fig


def main(arguments: list[str] | None = None) -> int:
    """The command line: 2 for a request that is refused, 1 for a cell that failed."""
    parser = argparse.ArgumentParser(prog="python -m rpa.companion.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("notebook")
    parser.add_argument("grid", type=Path)
    parser.add_argument("--profile", choices=("full", "quick"), default="full")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--scheduler", help="tcp://... of a dask cluster")
    parser.add_argument("--plot", help="'record against parameter'; default: the first record and the first parameter")
    chosen = parser.parse_args(arguments)
    try:
        stem = stem_of(chosen.notebook)
        if not chosen.grid.is_file():
            raise ValueError(f"GRID: expected a YAML file, {chosen.grid} is none")
        grid = yaml.safe_load(chosen.grid.read_text())
        print(f"{stem} ({chosen.profile}): {len(cells_of(stem, grid))} cells", flush=True)
    except (ValueError, yaml.YAMLError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        folder = sweep(stem, grid, chosen.profile, chosen.runs, chosen.scheduler)
        _draw_into(folder, chosen.plot, next(iter(grid)))
    except (RuntimeError, ValueError) as error:
        print(f"FAILED {error}", file=sys.stderr)
        return 1
    print(folder / "sweep.csv")
    return 0


def _draw_into(folder, asked, first):
    import pandas as pd

    frame = pd.read_csv(folder / "sweep.csv", dtype={"entry": str})
    record, _, parameter = (asked or f"{frame.record.iloc[0]} against {first}").partition(" against ")
    figure = draw(frame, record.strip(), parameter.strip())
    _files.replace(folder / "sweep.png", lambda temporary: figure.savefig(temporary, format="png", dpi=200))


if __name__ == "__main__":
    sys.exit(main())
