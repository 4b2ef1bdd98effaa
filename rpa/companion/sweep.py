"""Notebooks with other parameters: one run (`make run`) or a grid of them (`make sweep`), into build/runs.

A run's executed notebook, figures, records and parameters.yaml go to build/runs/<stem>-<hash>/; its records are never
verdicts. The hash is that of the request, so the same request again costs nothing. Names, defaults and meaning of the
parameters are those of the notebook's first code cell, one commented line each.

A grid is a YAML file, a list or a range for each parameter; every combination is a run:

    noise_levels: [[0.1], [0.2], [0.4]]
    seed: {from: 0, to: 4, count: 5}          # evenly spaced; "log: true" for equal ratios

A sweep that was stopped goes on where it was, and two sweeps share what they have in common. It ends in
build/runs/<stem>-sweep-<hash>/: grid.yaml and sweep.csv, which `draw` shows. A row is a number of a record of a run;
its `entry` is the place in a list or dict. A dask cluster whose workers see the same folder can share the runs; no
number depends on it.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import stdev
from typing import Any

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from rpa import _files
from rpa.companion import provenance
from rpa.companion.report import load_records, numbers
from rpa.companion.run import is_current, run
from rpa.companion.verdicts import judge, load_claims, worst
from rpa.parallel import pmap


def parse(text: str) -> dict[str, Any]:
    """{name: value} of "sigma=0.1 hidden=[8, 8] network=moons": Python values or words, which may hold spaces.

    Raises ValueError for a part without name or '=', or a name given twice.
    """
    values: dict[str, Any] = {}
    for part in re.split(r"\s+(?=[A-Za-z_]\w*=)", text.strip()) if text.strip() else []:
        name, equals, value = part.partition("=")
        if not (equals and name.isidentifier() and value) or name in values:
            raise ValueError(f"P: expected name=value name=value ..., each name once, got {part!r}")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    return values


def checked(stem: str, values: dict[str, Any], profile: str = "full") -> dict[str, Any]:
    """`values` in the types of the notebook's defaults (1e5 becomes an integer where the default is one).

    Raises ValueError that lists the valid parameters, their defaults and what they mean, for an unknown name, a value
    of another type, and a parameter that the profile replaces.
    """
    path = provenance.notebooks()[stem]
    replaced, known = _replaced_by_profile(path), provenance.parameters(path)
    lines = [f"  {name} = {default!r}  # {comment}" for name, (default, comment) in known.items()]
    result = {}
    for name, value in values.items():
        try:
            if name not in known:
                raise TypeError(f"{stem} has no parameter {name!r}")
            if profile == "quick" and name in replaced:
                raise TypeError(f"{name}: the quick profile of {stem} replaces it; use PROFILE=full")
            result[name] = _as_default(name, value, known[name][0])
        except TypeError as error:
            raise ValueError("\n".join([f"{error}; {stem} has", *lines])) from None
    return result


def _replaced_by_profile(path):
    """The names in the argument `full` of each call `report.shrink(profile, full, quick)` of a notebook."""
    nodes = [node for cell in provenance.code_cells(path) for node in ast.walk(provenance.parsed(cell))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "report.shrink"]
    full = [part for call in calls for part in (*call.args[1:2], *(k.value for k in call.keywords if k.arg == "full"))]
    return {node.id for part in full for node in ast.walk(part) if isinstance(node, ast.Name)}


def _as_default(name, value, default):
    """The value in the type of `default`; TypeError with what was expected."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, float) and number and abs(value) < np.inf:
        return value
    if type(default) is int and number and (isinstance(value, int) or value.is_integer()):
        return int(value)
    if isinstance(default, list) and isinstance(value, (list, tuple)) and value:
        pattern = next((item for item in default if isinstance(item, float)), default[0] if default else value[0])
        return [_as_default(name, item, pattern) for item in value]
    if type(value) is type(default) and not isinstance(default, (list, float)):
        return value
    expected = {float: "a finite number", int: "an integer"}.get(type(default), f"a {type(default).__name__}")
    raise TypeError(f"{name}: expected {expected}, like {default!r}, got {value!r}")


def run_variant(stem: str, profile: str, values: dict, runs: Path | None = None, workers: int | None = None) -> Path:
    """Run a notebook with these parameters, unless the present code has done so; the folder of its results.

    runs: a folder (default: build/runs). Raises what `checked` and `rpa.companion.run.run` raise.
    """
    values = dict(sorted(checked(stem, values, profile).items()))
    request = {"notebook": stem, "profile": profile, "parameters": values}
    folder = _folder(runs, stem, "parameters.yaml", request)
    run(stem, profile, folder, values, workers)
    return folder


def _folder(runs, name, file, request):
    """The folder of a request, named by its hash, with the request in `file`."""
    folder = (runs or _files.build("runs")) / f"{name}-{sha256(json.dumps(request).encode()).hexdigest()[:8]}"
    text = yaml.safe_dump(request, sort_keys=False)
    _files.replace(folder / file, lambda temporary: temporary.write_text(text))
    return folder


def listed(runs: Path | None = None) -> list[str]:
    """A line for each run in build/runs: folder, profile, state (done, failed, unfinished, older code), parameters."""
    lines = []
    for path in sorted((runs or _files.build("runs")).glob("*/parameters.yaml")):
        request = yaml.safe_load(path.read_text())
        stem, profile, values = request["notebook"], request["profile"], request["parameters"]
        state = "failed" if (path.parent / "failed").exists() else "unfinished"
        if (path.parent / f"{stem}.ipynb").exists():
            state = "done" if is_current(stem, profile, path.parent, values) else "older code"
        shown = " ".join(f"{name}={value!r}" for name, value in values.items())
        lines.append(f"{path.parent.name:36s} {profile:6s} {state:10s} {shown}".rstrip())
    return lines


def cells_of(stem: str, grid: dict[str, Any], profile: str = "full") -> list[dict[str, Any]]:
    """Every combination of the grid's values, [{parameter: value}], the last parameter running fastest.

    Raises ValueError for an empty grid, an entry that is neither list nor range, and what `checked` refuses.
    """
    if not isinstance(grid, dict) or not grid:
        raise ValueError(f"grid: expected a list or a range for at least one parameter, got {grid!r}")
    values = dict(grid)
    for name, given in grid.items():
        try:
            if isinstance(given, dict) and set(given) | {"log"} == {"from", "to", "count", "log"}:
                spaced = np.geomspace if given.get("log") else np.linspace
                values[name] = spaced(given["from"], given["to"], given["count"]).tolist()
            if not (isinstance(values[name], list) and values[name]):
                raise ValueError
        except (TypeError, ValueError) as error:
            raise ValueError(f"grid, {name}: expected a list or {{from: a, to: b, count: n}}, got {given!r}") from error
    combinations = itertools.product(*values.values())
    return [checked(stem, dict(zip(values, combination)), profile) for combination in combinations]


def sweep(stem: str, grid: dict, profile: str = "full", runs: Path | None = None, scheduler: str | None = None) -> Path:
    """Run every cell that has not been run, write grid.yaml and sweep.csv; the folder that holds them.

    scheduler: address of a dask.distributed cluster, whose workers share this folder; None: processes of this machine.
    Raises RuntimeError naming a cell that failed; the finished ones are kept.
    """
    cells = cells_of(stem, grid, profile)
    with joblib.parallel_config("dask", scheduler_host=scheduler) if scheduler else nullcontext():
        folders = pmap(partial(run_variant, stem, profile, runs=runs), cells, progress=f"{stem}, cells")
    rows = []
    for values, folder in zip(cells, folders):
        chosen = {name: value if np.isscalar(value) else json.dumps(value) for name, value in values.items()}
        for (_, record), entry in load_records(folder / "data" / "results").items():
            rows += [[*chosen.values(), record, *number] for number in numbers(entry)]
    frame = pd.DataFrame(rows, columns=[*grid, "record", "entry", "value", "error"])
    folder = _folder(runs, f"{stem}-sweep", "grid.yaml", {"notebook": stem, "profile": profile, "grid": grid})
    _files.replace(folder / "sweep.csv", lambda temporary: frame.to_csv(temporary, index=False))
    return folder


def draw(frame: pd.DataFrame, record: str, parameter: str) -> Figure:
    """The numbers of a record against a parameter, one line for each entry and choice of the other parameters.

    frame: sweep.csv. Raises ValueError for a record or parameter that it does not have.
    """
    names, rows = list(frame.columns[: frame.columns.get_loc("record")]), frame[frame.record == record]
    if parameter not in names or rows.empty:
        options = f"a record of {', '.join(sorted(frame.record.unique()))} and a parameter of {', '.join(names)}"
        raise ValueError(f"record, parameter: expected {options}, got {record!r}, {parameter!r}")
    fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    others = [name for name in (*names, "entry") if name != parameter and rows[name].nunique() > 1]
    for key, line in rows.groupby(others) if others else [((), rows)]:
        at = line[parameter].astype(str) if line[parameter].dtype == object else line[parameter]
        label = ", ".join(f"{name} {value}" for name, value in zip(others, key))
        ax.errorbar(at, line.value, line.error.fillna(0), fmt="o-", markersize=3, label=label)
    ax.set(xlabel=parameter, ylabel=record)
    if others:
        ax.legend(fontsize=6)
    return fig


def seeds(folder: Path) -> pd.DataFrame:
    """Whether a verdict depends on the seed: the quick profile of every notebook with a claim, with five seeds each.

    One row a claim. lowest, highest: over the seeds, of the number that is farthest from the target; spread: its
    standard deviation; met: runs that meet the claim by twice its error. A claim that some runs meet and others fail
    *flips*; a run that leaves it undecided is neither. Runs what `folder` lacks; it can be stopped and goes on.
    """
    claims = load_claims()
    stems = sorted({claim["stem"] for claim in claims} & set(provenance.notebooks()))
    jobs = list(itertools.product(stems, range(5)))
    run_job = lambda job: run_variant(job[0], "quick", {"seed": job[1]}, folder)
    folders = dict(zip(jobs, pmap(run_job, jobs, progress="quick runs")))
    rows = []
    for claim in claims:
        records = [load_records(folders[job] / "data" / "results") for job in jobs if job[0] == claim["stem"]]
        rated = [worst(claim, r[key]["value"]) for r in records if (key := (claim["stem"], claim["id"])) in r]
        if rated:
            verdicts = [judge(claim, r)["verdict"].partition(" (")[0] for r in records]
            met, flips = verdicts.count("holds"), {"holds", "fails"} <= set(verdicts)
            spread = [min(rated), max(rated), stdev(rated)]
            rows.append([claim["id"], judge(claim, {})["target"], *spread, len(rated), met, flips])
    return pd.DataFrame(rows, columns=["claim", "target", "lowest", "highest", "spread", "runs", "met", "flips"])
