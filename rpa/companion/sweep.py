"""A grid of runs of one notebook: `make sweep NB=01_moons_noise GRID=grid.yaml`.

The grid is a YAML file, a list or a range for each parameter; every combination is run as `make run` runs it:

    noise_levels: [[0.1], [0.2], [0.4]]
    seed: {from: 0, to: 4, count: 5}          # evenly spaced; "log: true" for equal ratios

The cells are ordinary runs in build/runs, so a sweep that was stopped goes on where it was, and two sweeps share what
they have in common. The result is build/runs/<stem>-sweep-<hash>/: the grid, sweep.csv with a row for each number of
each record of each cell, which `draw` shows. With SCHEDULER the cells run on the workers of a dask.distributed cluster,
which see the same folder. No number depends on how many there are.
"""

from __future__ import annotations

import itertools
import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from rpa import _files
from rpa.companion.report import flatten, load_records
from rpa.companion.variants import checked, digest, run_variant
from rpa.parallel import pmap

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["cells_of", "draw", "sweep"]


def cells_of(stem: str, grid: dict[str, Any], profile: str = "full") -> list[dict[str, Any]]:
    """Every combination of the grid's values, [{parameter: value}], the last parameter running fastest.

    Raises ValueError for an empty grid, an entry that is neither list nor range, and what `variants.checked` refuses.
    """
    if not isinstance(grid, dict) or not grid:
        raise ValueError(f"grid: expected a list or a range for at least one parameter, got {grid!r}")
    values = {name: _values(name, given) for name, given in grid.items()}
    combinations = itertools.product(*values.values())
    return [checked(stem, dict(zip(values, combination)), profile) for combination in combinations]


def _values(name, given):
    if isinstance(given, list) and given:
        return given
    if not isinstance(given, dict) or set(given) - {"log"} != {"from", "to", "count"}:
        raise ValueError(f"grid, {name}: expected a list or {{from: a, to: b, count: n}}, got {given!r}")
    spaced = np.geomspace if given.get("log") else np.linspace
    # `checked` makes them integers where the default is one.
    return spaced(given["from"], given["to"], given["count"]).tolist()


def sweep(
    stem: str, grid: dict[str, Any], profile: str = "full", runs: Path | None = None, scheduler: str | None = None
) -> Path:
    """Run every cell that has not been run, write grid.yaml and sweep.csv; the folder that holds them.

    scheduler: address of a dask.distributed cluster, whose workers share this folder; None: processes of this machine.
    Raises RuntimeError naming a cell that failed; the finished ones are kept.
    """
    import pandas as pd

    cells, runs = cells_of(stem, grid, profile), runs or _files.build("runs")
    with ExitStack() as stack:
        if scheduler:
            import joblib
            from dask.distributed import Client

            stack.enter_context(Client(scheduler))
            stack.enter_context(joblib.parallel_config(backend="dask"))
        names = pmap(partial(_cell, stem, profile, runs), cells, progress=f"{stem}, cells")
    frame = pd.DataFrame([row for values, name in zip(cells, names) for row in _rows(values, runs / name)])
    request = {"notebook": stem, "profile": profile, "grid": grid}
    folder = runs / f"{stem}-sweep-{digest(request)}"
    text = yaml.safe_dump(request, sort_keys=False)
    _files.replace(folder / "grid.yaml", lambda temporary: temporary.write_text(text))
    _files.replace(folder / "sweep.csv", lambda temporary: frame.to_csv(temporary, index=False))
    return folder


def _cell(stem, profile, runs, values):
    return run_variant(stem, profile, values, runs).name


def _rows(values, folder):
    """A row for each number of a cell: its parameters, record, entry (place in a list or dict), value, error."""
    own = {name: value if np.isscalar(value) else json.dumps(value) for name, value in values.items()}
    for (_, record), entry in load_records(folder / "data" / "results").items():
        errors = dict(flatten(entry.get("error", {})))
        for place, number in flatten(entry["value"]):
            yield {**own, "record": record, "entry": place, "value": number, "error": errors.get(place)}


def draw(frame: pd.DataFrame, record: str | None, parameter: str) -> Figure:
    """The numbers of a record against a parameter, one line for each entry and choice of the other parameters.

    frame: sweep.csv; record: None for the first. Raises ValueError for a record or parameter that it does not have.
    """
    import matplotlib.pyplot as plt

    names = list(frame.columns[: list(frame.columns).index("record")])
    rows = frame[frame.record == (record or frame.record.iloc[0])]
    if parameter not in names or rows.empty:
        options = f"a record of {', '.join(sorted(frame.record.unique()))} and a parameter of {', '.join(names)}"
        raise ValueError(f"record, parameter: expected {options}, got {record!r}, {parameter!r}")
    fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    others = [name for name in (*names, "entry") if name != parameter and rows[name].nunique() > 1]
    for key, line in rows.groupby(others) if others else [((), rows)]:
        at = line[parameter].astype(str) if line[parameter].dtype == object else line[parameter]
        label = ", ".join(f"{name} {value}" for name, value in zip(others, key))
        ax.errorbar(at, line.value, line.error.fillna(0), fmt="o-", markersize=3, linewidth=1, label=label)
    ax.set(xlabel=parameter, ylabel=rows.record.iloc[0])
    if 1 < len(ax.containers) <= 12:
        ax.legend(fontsize=6, frameon=False)
    return fig
