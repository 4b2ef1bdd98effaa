"""Notebooks with other parameters: one run (`make run`) or a grid of them (`make sweep`), into build/runs.

A run's executed notebook, figures, records and parameters.yaml go to build/runs/<stem>-<hash>/; its records are never
verdicts. The hash is that of the request, so the same request again costs nothing. Names, defaults and meaning of the
parameters are those of the notebook's first code cell, one commented line each.
"""

from __future__ import annotations

import ast
import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from rpa import _files
from rpa.companion import provenance
from rpa.companion.run import is_current, run

__all__ = ["checked", "listed", "parse", "run_variant"]


def parse(text: str) -> dict[str, Any]:
    """{name: value} of "sigma=0.1 hidden=[8, 8] network=moons": Python values or words, which may hold spaces.

    Raises ValueError for a part without name or '='.

    >>> parse("hidden=[8, 8] n=1e5 name=a b")
    {'hidden': [8, 8], 'n': 100000.0, 'name': 'a b'}
    """
    values: dict[str, Any] = {}
    for part in re.split(r"\s+(?=[\"']?[A-Za-z_]\w*=)", text.strip()) if text.strip() else []:
        whole = part[1:-1] if part[0] in "\"'" and part[0] == part[-1] else part
        name, equals, value = whole.partition("=")
        if not (equals and name.isidentifier() and value):
            raise ValueError(f"P: expected name=value name=value ..., got {part!r}")
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
    known, replaced = provenance.parameters(path), _replaced_by_profile(path)
    listed = "\n".join(
        f"  {name} = {default!r}  # {comment}{' (set by PROFILE=quick)' if name in replaced else ''}"
        for name, (default, comment) in known.items()
    )
    result = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{stem} has no parameter {name!r}; it has\n{listed}")
        if profile == "quick" and name in replaced:
            raise ValueError(f"{name}: the quick profile of {stem} replaces it; use PROFILE=full\n{listed}")
        default = known[name][0]
        try:
            result[name] = _as_default(value, default)
        except TypeError as error:
            reason = f"{name}: expected {error}, like {default!r}, got {value!r}"
            raise ValueError(f"{reason}; {stem} has\n{listed}") from None
    return result


def _replaced_by_profile(path):
    """The names in the second argument of each call `report.shrink(profile, full, quick)` of a notebook."""
    nodes = [node for cell in provenance.code_cells(path) for node in ast.walk(ast.parse(cell))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "report.shrink"]
    return {node.id for call in calls for node in ast.walk(call.args[1]) if isinstance(node, ast.Name)}


def _as_default(value, default):
    """The value in the type of `default`; TypeError with what was expected."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, float) and number:
        return value
    if type(default) is int and number and float(value).is_integer():
        return int(value)
    if isinstance(default, list) and isinstance(value, (list, tuple)) and value:
        pattern = next((item for item in default if isinstance(item, float)), default[0] if default else value[0])
        return [_as_default(item, pattern) for item in value]
    if type(value) is type(default) and not isinstance(default, list):
        return value
    names = {float: "a number", int: "an integer"}
    raise TypeError(names.get(type(default), f"a {type(default).__name__}"))


def run_variant(
    stem: str, profile: str, values: dict[str, Any], runs: Path | None = None, workers: int | None = None
) -> Path:
    """Run a notebook with these parameters, unless the present code has done so; the folder of its results.

    runs: a folder (default: build/runs). Raises what `checked` and `rpa.companion.run.run` raise.
    """
    values = checked(stem, values, profile)
    request = {"notebook": stem, "profile": profile, "parameters": values}
    folder = (runs or _files.build("runs")) / f"{stem}-{digest(request)}"
    if not is_current(stem, profile, folder, values):
        _files.replace(folder / "parameters.yaml", lambda temporary: temporary.write_text(yaml.safe_dump(request)))
        run(provenance.notebooks()[stem], profile, folder, values, workers)
    return folder


def digest(request: dict) -> str:
    """Eight hex digits that stand for a request."""
    return sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]


def listed(runs: Path | None = None) -> list[str]:
    """A line for each run in build/runs: folder, profile, state (done, failed, unfinished, older code), parameters."""
    lines = []
    for path in sorted((runs or _files.build("runs")).glob("*/parameters.yaml")):
        request = yaml.safe_load(path.read_text())
        values = " ".join(f"{name}={value!r}" for name, value in request["parameters"].items())
        state = _state(path.parent, request)
        lines.append(f"{path.parent.name:36s} {request['profile']:6s} {state:10s} {values}".rstrip())
    return lines


def _state(folder, request):
    stem = request["notebook"]
    if not (folder / f"{stem}.ipynb").exists():
        return "failed" if (folder / "failed").exists() else "unfinished"
    known = stem in provenance.notebooks()
    return "done" if known and is_current(stem, request["profile"], folder, request["parameters"]) else "older code"
