"""One notebook with other parameters, in a folder of its own: `make run NB=01_moons_noise P="noise_levels=[0.1, 0.3]"`.

A run's executed notebook, figures, records and parameters.yaml go to build/runs/<stem>-<hash>/; its records are never
verdicts. The hash is that of the request, so the same request again finds what is there. Names, defaults and meaning of
the parameters are those of the notebook's first code cell, one commented line each.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from rpa import _files
from rpa.companion import provenance
from rpa.companion.run import is_current, run

__all__ = ["checked", "folder_of", "listed", "parse", "remove", "run_variant"]


def parse(text: str) -> dict[str, Any]:
    """{name: value} of "sigma=0.1 hidden=[8, 8] network=moons": Python or YAML values, which may hold spaces.

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
        values[name] = _value(value)
    return values


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


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
        result[name], expected = _as_default(value, default)
        if expected:
            raise ValueError(f"{name}: expected {expected}, like {default!r}, got {value!r}; {stem} has\n{listed}")
    return result


def _replaced_by_profile(path):
    """The names in the second argument of each call `report.shrink(profile, full, quick)` of a notebook."""
    calls = [
        node for cell in provenance.code_cells(path) for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call)
    ]
    shrunk = [call.args[1] for call in calls if ast.unparse(call.func) == "report.shrink"]
    return {node.id for argument in shrunk for node in ast.walk(argument) if isinstance(node, ast.Name)}


def _as_default(value, default):
    """(the value in the type of `default`, ""), or (the value, what was expected)."""
    if isinstance(default, bool) or isinstance(value, bool):
        return value, "" if type(value) is type(default) else f"a {type(default).__name__}"
    if isinstance(default, float):
        return value, "" if isinstance(value, (int, float)) else "a number"
    if isinstance(default, int):
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return (int(value), "") if whole else (value, "an integer")
    if isinstance(default, list):
        if not isinstance(value, (list, tuple)) or not value:
            return value, "a list"
        pattern = next((item for item in default if isinstance(item, float)), default[0] if default else value[0])
        entries = [_as_default(item, pattern) for item in value]
        expected = next((f"a list, each entry {reason}" for _, reason in entries if reason), "")
        return [entry for entry, _ in entries], expected
    return value, "" if isinstance(value, type(default)) else f"a {type(default).__name__}"


def folder_of(stem: str, profile: str, values: dict[str, Any], runs: Path | None = None) -> Path:
    """build/runs/<stem>-<hash of the request>."""
    request = json.dumps([stem, profile, values], sort_keys=True)
    return (runs or _files.build("runs")) / f"{stem}-{sha256(request.encode()).hexdigest()[:8]}"


def run_variant(
    stem: str, profile: str, values: dict[str, Any], runs: Path | None = None, workers: int | None = None
) -> Path:
    """Run a notebook with these parameters, unless that has been done by the present code; the folder of its results.

    Raises what `checked` and `rpa.companion.run.run` raise.
    """
    values = checked(stem, values, profile)
    folder = folder_of(stem, profile, values, runs)
    if not is_current(stem, profile, folder, values):
        request = yaml.safe_dump({"notebook": stem, "profile": profile, "parameters": values}, sort_keys=True)
        try:
            _files.replace(folder / "parameters.yaml", lambda temporary: temporary.write_text(request))
        except OSError as error:
            raise OSError(
                f"{folder}: cannot be written ({error.strerror}); set RPA_BUILD to a folder that can"
            ) from error
        run(provenance.notebooks()[stem], profile, folder, values, workers)
    return folder


def listed(runs: Path | None = None) -> list[str]:
    """A line for each run in build/runs: folder, profile, state (done, failed, or done by older code), parameters."""
    lines = []
    for path in sorted((runs or _files.build("runs")).glob("*/parameters.yaml")):
        request = yaml.safe_load(path.read_text())
        values = " ".join(f"{name}={value!r}" for name, value in request["parameters"].items())
        lines.append(
            f"{path.parent.name:36s} {request['profile']:6s} {_state(path.parent, request):10s} {values}".rstrip()
        )
    return lines


def _state(folder, request):
    stem = request["notebook"]
    if not (folder / f"{stem}.ipynb").exists():
        return "failed" if (folder / "failed").exists() else "unfinished"
    known = stem in provenance.notebooks()
    return "done" if known and is_current(stem, request["profile"], folder, request["parameters"]) else "older code"


def remove(which: str, runs: Path | None = None) -> list[str]:
    """Delete runs: "all", "failed" (and unfinished) or the name of a folder in build/runs; the names of those deleted.

    Raises ValueError for another name.
    """
    runs = runs or _files.build("runs")
    folders = [path for path in sorted(runs.glob("*")) if path.is_dir()]
    if which == "failed":
        requests = {path: path / "parameters.yaml" for path in folders if (path / "parameters.yaml").exists()}
        states = {path: _state(path, yaml.safe_load(file.read_text())) for path, file in requests.items()}
        folders = [path for path, state in states.items() if state in ("failed", "unfinished")]
    elif which != "all":
        folders = [path for path in folders if path.name == which]
        if not folders:
            raise ValueError(f"CLEAN: expected all, failed, or a run that `make runs` lists, got {which!r}")
    for path in folders:
        shutil.rmtree(path)
    return [path.name for path in folders]
