"""One notebook with other parameters: `python -m rpa.companion.variant 01_moons_noise "noise_levels=[0.1,0.3] seed=1"`.

`make run NB=... P="..."` puts the executed notebook, its figures and records, and parameters.yaml into
build/runs/<stem>-<hash>/, never over the papers' results, and its records are never verdicts. The hash is that of the
request, so the same request again finds what is there. Names, defaults and meaning of the parameters are those of the
notebook's first code cell, one commented line each.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import shlex
import sys
import tokenize
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from rpa import _files
from rpa._files import ROOT
from rpa.companion.run import is_current, run

__all__ = ["Parameter", "checked", "folder_of", "main", "parameters_of", "parse", "run_variant", "stem_of"]

RUNS = ROOT / "build" / "runs"


@dataclass(frozen=True)
class Parameter:
    """A line of a notebook's parameter cell: its name, default and comment."""

    name: str
    default: Any
    comment: str

    def __str__(self) -> str:
        return f"{self.name} = {self.default!r}  # {self.comment}"


def stem_of(name: str) -> str:
    """The notebook meant by its stem, number or file name; ValueError listing all for another name."""
    stems = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
    wanted = Path(name).name.removesuffix(".ipynb")
    found = [stem for stem in stems if stem == wanted or stem.partition("_")[0] == wanted]
    if len(found) != 1:
        raise ValueError(f"NB: expected one of {', '.join(stems)}, got {name!r}")
    return found[0]


def parameters_of(stem: str) -> dict[str, Parameter]:
    """{name: Parameter} of a notebook, but for its profile, in the order of its first code cell."""
    cells = json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text())["cells"]
    source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ()))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    found: dict[str, Parameter] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            comment = comments.get(node.end_lineno or node.lineno, "")
            found |= {name: Parameter(name, default, comment) for name, default in _assigned(node) if name != "profile"}
    return found


def _assigned(node):
    """(name, value) of each name that an assignment of plain values, `a, b = 1, 2**10` among them, sets."""
    value = eval(compile(ast.Expression(node.value), "<parameters>", "eval"), {"__builtins__": {}})
    target = node.targets[0]
    several = isinstance(target, ast.Tuple)
    return [(name.id, each) for name, each in zip(target.elts if several else [target], value if several else [value])]


def parse(text: str) -> dict[str, Any]:
    """{name: value} of "sigma=0.1 hidden=[8,8] network='a'"; a word that is no Python value is taken as text.

    Values hold no spaces, unless the whole name=value is quoted. Raises ValueError for a part without name or '='.
    """
    values = {}
    for part in shlex.split(text, posix=False):
        part = part[1:-1] if part[:1] == part[-1:] and part[:1] in "\"'" and len(part) > 1 else part
        name, equals, value = part.partition("=")
        if not (equals and name.isidentifier() and value):
            raise ValueError(f"P: expected name=value name=value ..., got {part!r}")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    return values


def checked(stem: str, values: dict[str, Any]) -> dict[str, Any]:
    """`values` if the notebook has such parameters, of the type of their defaults (a number for a number, and so on).

    Raises ValueError that lists the valid parameters, their defaults and what they mean.
    """
    known = parameters_of(stem)
    listed = "\n".join(f"  {parameter}" for parameter in known.values())
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{stem} has no parameter {name!r}; it has\n{listed}")
        reason = _unlike(value, known[name].default)
        if reason:
            raise ValueError(
                f"{name}: expected {reason}, like {known[name].default!r}, got {value!r}; {stem} has\n{listed}"
            )
    return values


def _unlike(value, default):
    """What `value` should be, to be of the kind of `default`; "" when it is."""
    if isinstance(default, bool) or isinstance(value, bool):
        return "" if isinstance(default, bool) and isinstance(value, bool) else f"a {type(default).__name__}"
    if isinstance(default, float):
        return "" if isinstance(value, (int, float)) else "a number"
    if isinstance(default, int):
        return "" if isinstance(value, int) else "an integer"
    if isinstance(default, (list, tuple)):
        if not isinstance(value, (list, tuple)) or not value:
            return "a list"
        inner = [_unlike(item, _widest(default)) for item in value] if default else []
        return next((f"a list, each entry {reason}" for reason in inner if reason), "")
    return "" if isinstance(value, type(default)) else f"a {type(default).__name__}"


def _widest(default):
    return next((item for item in default if isinstance(item, float)), default[0])


def folder_of(stem: str, profile: str, values: dict[str, Any], runs: Path = RUNS) -> Path:
    """build/runs/<stem>-<hash of the request>."""
    request = json.dumps([stem, profile, values], sort_keys=True)
    return runs / f"{stem}-{sha256(request.encode()).hexdigest()[:8]}"


def run_variant(stem: str, profile: str, values: dict[str, Any], runs: Path = RUNS) -> Path:
    """Run a notebook with these parameters, unless that has been done by the present code; the folder of its results.

    Raises what `checked` and `rpa.companion.run.run` raise.
    """
    values, folder = checked(stem, values), folder_of(stem, profile, values, runs)
    if not is_current(stem, profile, folder, values):
        run(ROOT / "notebooks" / f"{stem}.ipynb", profile, folder, values)
    if not (folder / "parameters.yaml").exists():
        asked = yaml.safe_dump({"notebook": stem, "profile": profile, "parameters": values}, sort_keys=True)
        _files.replace(folder / "parameters.yaml", lambda temporary: temporary.write_text(asked))
    return folder


def _list(runs):
    for path in sorted(runs.glob("*/parameters.yaml")):
        asked = yaml.safe_load(path.read_text())
        values = " ".join(f"{name}={value!r}" for name, value in asked["parameters"].items())
        print(f"{path.parent.name:36s} {asked['profile']:6s} {values or '(as they are)'}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; without a notebook, the list of what has been run. 2 for a request that is refused."""
    parser = argparse.ArgumentParser(prog="python -m rpa.companion.variant", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="?")
    parser.add_argument("parameters", nargs="?", default="")
    parser.add_argument("--profile", choices=("full", "quick"), default="full")
    parser.add_argument("--runs", type=Path, default=RUNS)
    chosen = parser.parse_args(arguments)
    if not chosen.notebook:
        _list(chosen.runs)
        return 0
    try:
        stem = stem_of(chosen.notebook)
        values = checked(stem, parse(chosen.parameters))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{stem} ({chosen.profile}) with {values or 'its own parameters'}", flush=True)
    try:
        folder = run_variant(stem, chosen.profile, values, chosen.runs)
    except (RuntimeError, ValueError) as error:
        print(f"FAILED {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
